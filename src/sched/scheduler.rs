//! The thread that lends the devices, and what it keeps of vGPUs and their executors.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io::Errno;

use super::account::Nanos;
use super::arbiter::{Arbiter, Order};
use super::policy::{Sharing, Terms};
use super::trace::{Span, Timeline, Trace, Track};
use super::usage::{Delays, DeviceUsage, ProcessUsage, Standing, Usage, VgpuUsage};
use crate::lease::trace;
use crate::lease::word::{self, Look, Taken};
use crate::lease::{Count, LeasePage};

/// What the scheduler calls a vGPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VgpuId(pub u64);

/// Why an executor is to be ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evicted {
    /// In words, for the log.
    pub reason: String,
}

/// Shares the devices between vGPUs.
#[derive(Debug)]
pub struct Scheduler {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    poll: Arc<OwnedFd>,
    /// Written to when the thread has to look at the time again.
    nudge: OwnedFd,
    /// The monotonic clock, by which executors count too, when ours began.
    started: u64,
}

#[derive(Default)]
struct State {
    devices: Vec<Device>,
    vgpus: BTreeMap<u64, Vgpu>,
    clients: BTreeMap<u64, Client>,
    next_vgpu: u64,
    next_client: u64,
    ended: bool,
    tracing: Option<Tracing>,
}

/// A timeline that is being made.
struct Tracing {
    timeline: Timeline,
    /// As the scheduler's.
    started: u64,
    /// Records seen of each client.
    seen: BTreeMap<u64, u64>,
}

impl Tracing {
    fn span(&mut self, vgpu: &Vgpu, track: Track, name: &str, (begin, end): (Nanos, Nanos)) {
        let (begin, end) = (self.started.saturating_add(begin), self.started.saturating_add(end));
        self.timeline.add(Span { vgpu: vgpu.name.clone(), track, name: name.to_owned(), begin, end });
    }
}

struct Device {
    name: String,
    arbiter: Arbiter,
    busy_ns: u64,
    /// Somebody has wanted it: until then, nothing can have happened.
    used: bool,
}

struct Vgpu {
    name: String,
    terms: Terms,
    /// What its executors call devices 0, 1, …
    devices: Vec<usize>,
    /// Where its executors count their memory together, and its file.
    memory: Arc<(LeasePage, OwnedFd)>,
    device_ns: u64,
    /// Of executors that have ended.
    ended: Usage,
    ended_cpu_ns: u64,
    queueing: Delays,
    evictions: u64,
}

/// An executor.
struct Client {
    vgpu: u64,
    page: LeasePage,
    poll: Arc<OwnedFd>,
    /// Written to by the executor.
    ring: OwnedFd,
    /// Written to when the executor is to look at its leases.
    grant: OwnedFd,
    evict: Box<dyn Fn(Evicted) + Send>,
    process: Option<u32>,
    /// Its processor time, if it has ended.
    cpu_ns: u64,
    /// Its contexts by place in the page.
    contexts: BTreeMap<usize, (u32, String)>,
}

/// What an executor is given to take part; it leaves when this is dropped.
#[derive(Debug)]
pub struct Participation {
    shared: Weak<Shared>,
    id: u64,
    page: LeasePage,
    file: OwnedFd,
    ring: OwnedFd,
    grant: OwnedFd,
    memory: Arc<(LeasePage, OwnedFd)>,
}

/// Somebody is making a timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a timeline is being recorded already; try again when that has ended")]
pub struct AlreadyTracing;

/// How often what executors record is read while somebody makes a timeline.
const COLLECT_INTERVAL: Duration = Duration::from_millis(20);

/// Nothing on the data path is in these numbers: the thread that wakes for them is the scheduler's.
const NUDGE: u64 = u64::MAX;

impl Scheduler {
    /// Starts the thread. `devices` are the names and the sharing of what there is; of a device with partitions, those.
    pub fn start(devices: Vec<(String, Sharing)>) -> io::Result<Scheduler> {
        let poll = epoll::create(CreateFlags::CLOEXEC)?;
        let nudge = new_eventfd()?;
        epoll::add(&poll, &nudge, EventData::new_u64(NUDGE), EventFlags::IN)?;
        let devices = devices
            .into_iter()
            .map(|(name, sharing)| Device { name, arbiter: Arbiter::new(sharing), busy_ns: 0, used: false })
            .collect();
        let state = Mutex::new(State { devices, ..State::default() });
        let shared = Arc::new(Shared { state, poll: Arc::new(poll), nudge, started: trace::now() });
        let thread = Arc::clone(&shared);
        thread::Builder::new().name("scheduler".to_owned()).spawn(move || thread.run())?;
        Ok(Scheduler { shared })
    }

    /// A vGPU that may use these devices (numbers of the list given to [`start`](Scheduler::start)).
    pub fn add(&self, name: &str, terms: Terms, devices: &[usize]) -> io::Result<VgpuId> {
        let memory = Arc::new(LeasePage::create()?);
        let id = self.shared.change(|state, now| {
            let id = state.next_vgpu;
            state.next_vgpu += 1;
            for index in devices {
                if let Some(device) = state.devices.get_mut(*index) {
                    device.arbiter.add_account(id, terms, now);
                }
            }
            let vgpu = Vgpu {
                name: name.to_owned(),
                terms,
                devices: devices.to_vec(),
                memory,
                device_ns: 0,
                ended: Usage::default(),
                ended_cpu_ns: 0,
                queueing: Delays::default(),
                evictions: 0,
            };
            state.vgpus.insert(id, vgpu);
            id
        });
        Ok(VgpuId(id))
    }

    /// Forgets a vGPU. Its connections have ended, or end now.
    pub fn remove(&self, id: VgpuId) {
        self.shared.change(|state, now| {
            state.devices.iter_mut().for_each(|device| device.arbiter.remove_account(id.0, now));
            state.vgpus.remove(&id.0);
            state.clients.retain(|_, client| client.vgpu != id.0);
        });
    }

    /// Changes its terms, from now on.
    pub fn set_terms(&self, id: VgpuId, terms: Terms) {
        self.shared.change(|state, now| {
            state.devices.iter_mut().for_each(|device| device.arbiter.set_terms(id.0, terms, now));
            if let Some(vgpu) = state.vgpus.get_mut(&id.0) {
                vgpu.terms = terms;
            }
        });
    }

    /// Keeps a vGPU from the device, or lets it have it again; what runs is waited for. Resuming forgets evictions.
    pub fn set_paused(&self, id: VgpuId, paused: bool) {
        self.shared.change(|state, now| {
            state.devices.iter_mut().for_each(|device| device.arbiter.set_paused(id.0, paused, now));
        });
    }

    /// What a vGPU has used.
    pub fn usage(&self, id: VgpuId) -> Option<VgpuUsage> {
        let now = self.shared.now();
        let state = self.shared.lock();
        let vgpu = state.vgpus.get(&id.0)?;
        let mut usage = Usage { device_ns: vgpu.device_ns, ..vgpu.ended };
        let (mut processes, mut cpu_ns, mut at_work) = (Vec::new(), vgpu.ended_cpu_ns, false);
        for client in state.clients.values().filter(|client| client.vgpu == id.0) {
            add(&mut usage, client.used());
            cpu_ns += client.cpu_time();
            at_work |=
                (0..vgpu.devices.len()).any(|device| word::look(client.page.lease(device)) == Look::Busy);
            processes.extend(client.processes());
        }
        let standings = vgpu.devices.iter().filter_map(|index| state.devices.get(*index));
        let standing = standings.map(|device| device.arbiter.standing(id.0, now)).fold(
            super::arbiter::Standing::default(),
            |all, one| super::arbiter::Standing {
                connections: all.connections.max(one.connections),
                waiting: all.waiting || one.waiting,
                holding: all.holding || one.holding,
                paused: all.paused || one.paused,
                backed_off: all.backed_off || one.backed_off,
            },
        );
        let standing = match standing {
            standing if standing.paused => Standing::Paused,
            standing if standing.connections == 0 => Standing::Offline,
            standing if standing.backed_off => Standing::BackedOff,
            standing if standing.holding && at_work => Standing::Running,
            standing if standing.waiting => Standing::Waiting,
            _ => Standing::Idle,
        };
        Some(VgpuUsage {
            standing,
            usage,
            queueing: vgpu.queueing,
            evictions: vgpu.evictions,
            cpu_ns,
            processes,
        })
    }

    /// What is known of each device.
    pub fn devices(&self) -> Vec<DeviceUsage> {
        let state = self.shared.lock();
        let names = |ids: Vec<u64>| {
            ids.iter().filter_map(|id| Some(state.vgpus.get(id)?.name.clone())).collect::<Vec<_>>()
        };
        let usage = |device: &Device| {
            let (holders, waiting) = device.arbiter.users();
            DeviceUsage {
                name: device.name.clone(),
                busy_ns: device.busy_ns,
                holders: names(holders),
                waiting: names(waiting),
            }
        };
        state.devices.iter().map(usage).collect()
    }

    /// Records what happens for so long, and waits for that, or until nobody `wants` it any more. An error if somebody else
    /// is at it.
    pub fn trace(&self, duration: Duration, wants: impl Fn() -> bool) -> Result<Trace, AlreadyTracing> {
        let mut state = self.shared.lock();
        if state.tracing.is_some() {
            return Err(AlreadyTracing);
        }
        let (start, started) = (trace::now(), self.shared.started);
        state.tracing = Some(Tracing { timeline: Timeline::default(), started, seen: BTreeMap::new() });
        drop(state);
        let until = Instant::now() + duration;
        loop {
            let wanted = if wants() { until } else { Instant::now() };
            let left = wanted.saturating_duration_since(Instant::now());
            self.shared.lock().collect(!left.is_zero());
            if left.is_zero() {
                break;
            }
            thread::sleep(left.min(COLLECT_INTERVAL));
        }
        let mut state = self.shared.lock();
        let now = self.shared.now();
        let Some(mut tracing) = state.tracing.take() else { return Err(AlreadyTracing) };
        // What has not ended is part of it, too.
        for device in &state.devices {
            for held in device.arbiter.holding() {
                if let Some(vgpu) = state.vgpus.get(&held.account) {
                    tracing.span(vgpu, Track::Lease(device.name.clone()), "lease", (held.since, now));
                }
            }
        }
        drop(state);
        Ok(tracing.timeline.finish(start, started.saturating_add(now)))
    }

    /// A new executor of a vGPU. `evict` is called, on the scheduler's thread, when it is to be ended; it must not call the
    /// scheduler.
    pub fn join(&self, vgpu: VgpuId, evict: impl Fn(Evicted) + Send + 'static) -> io::Result<Participation> {
        let (page, file) = LeasePage::create()?;
        let (ring, grant) = (new_eventfd()?, new_eventfd()?);
        let client = Client {
            vgpu: vgpu.0,
            page: page.clone(),
            poll: Arc::clone(&self.shared.poll),
            ring: ring.try_clone()?,
            grant: grant.try_clone()?,
            evict: Box::new(evict),
            process: None,
            cpu_ns: 0,
            contexts: BTreeMap::new(),
        };
        let (id, memory) = self.shared.change(|state, now| {
            let id = state.next_client;
            state.next_client += 1;
            let memory = state.vgpus.get(&vgpu.0).map(|vgpu| Arc::clone(&vgpu.memory)).ok_or(Errno::NOENT)?;
            // Before it is known: nobody rings yet.
            epoll::add(&client.poll, &client.ring, EventData::new_u64(id), EventFlags::IN)?;
            for device in state.devices_of(vgpu.0) {
                state.devices[device].arbiter.add_client(id, vgpu.0, now);
            }
            state.clients.insert(id, client);
            Ok::<_, Errno>((id, memory))
        })?;
        Ok(Participation { shared: Arc::downgrade(&self.shared), id, page, file, ring, grant, memory })
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        self.shared.nudge();
    }
}

/// A vGPU's place with the scheduler, for whoever starts its executors.
#[derive(Clone, Debug)]
pub struct Seat {
    scheduler: Arc<Scheduler>,
    vgpu: VgpuId,
}

impl Seat {
    /// A vGPU's.
    pub fn new(scheduler: Arc<Scheduler>, vgpu: VgpuId) -> Seat {
        Seat { scheduler, vgpu }
    }

    /// As [`Scheduler::join`].
    pub fn join(&self, evict: impl Fn(Evicted) + Send + 'static) -> io::Result<Participation> {
        self.scheduler.join(self.vgpu, evict)
    }
}

impl Participation {
    /// What the executor is given: the page, the eventfd by which it rings, the one by which it is rung, and the page in
    /// which its vGPU's memory is counted.
    pub fn descriptors(&self) -> [BorrowedFd<'_>; 4] {
        [self.file.as_fd(), self.ring.as_fd(), self.grant.as_fd(), self.memory.1.as_fd()]
    }

    /// The executor's process, for its processor time.
    pub fn set_process(&self, process: Option<u32>) {
        self.with_client(|client| client.process = process);
    }

    /// A place in the page for a context, as long as there is one.
    pub fn add_context(&self, context: u32, name: &str) -> Option<usize> {
        let mut free = None;
        self.with_client(|client| {
            let most = paragpu_protocol::limits::MAX_CONTEXTS;
            free = (0..most).find(|place| !client.contexts.contains_key(place));
            if let Some(place) = free {
                client.page.clear_context(place);
                client.contexts.insert(place, (context, name.to_owned()));
            }
        });
        free
    }

    /// A context is gone.
    pub fn remove_context(&self, context: u32) {
        self.with_client(|client| client.contexts.retain(|_, (id, _)| *id != context));
    }

    /// The executor is about to be ended: its processor time is read while it can be.
    pub fn note_end(&self) {
        self.with_client(|client| client.cpu_ns = client.process.take().and_then(cpu_time).unwrap_or(0));
    }

    /// The page, as the executor sees it.
    pub fn page(&self) -> &LeasePage {
        &self.page
    }

    fn with_client(&self, what: impl FnOnce(&mut Client)) {
        if let Some(shared) = self.shared.upgrade()
            && let Some(client) = shared.lock().clients.get_mut(&self.id)
        {
            what(client);
        }
    }
}

impl Drop for Participation {
    fn drop(&mut self) {
        let Some(shared) = self.shared.upgrade() else { return };
        shared.change(|state, now| state.remove_client(self.id, now));
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Nanos {
        trace::now().saturating_sub(self.started)
    }

    fn nudge(&self) {
        let _full = rustix::io::write(&self.nudge, &1_u64.to_ne_bytes());
    }

    /// Changes something, does what follows, and has the thread look at the time again.
    fn change<T>(&self, what: impl FnOnce(&mut State, Nanos) -> T) -> T {
        let mut state = self.lock();
        state.update(self.now());
        let result = what(&mut state, self.now());
        state.carry_out(|| self.now());
        drop(state);
        self.nudge();
        result
    }

    fn run(&self) {
        let mut events: [Event; 64] = [Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; 64];
        loop {
            let mut state = self.lock();
            if state.ended {
                return;
            }
            let next = state.devices.iter().filter_map(|device| device.arbiter.next_tick()).min();
            let now = self.now();
            if next.is_some_and(|next| next <= now) {
                state.devices.iter_mut().for_each(|device| device.arbiter.tick(now));
                state.carry_out(|| self.now());
                continue;
            }
            drop(state);
            let timeout = next.map(|next| {
                let left = next.saturating_sub(now);
                Timespec { tv_sec: (left / 1_000_000_000) as i64, tv_nsec: (left % 1_000_000_000) as i64 }
            });
            let ready = match epoll::wait(&self.poll, &mut events[..], timeout.as_ref()) {
                Ok(ready) => ready,
                Err(Errno::INTR) => 0,
                Err(error) => {
                    log::error!("the scheduler ends: epoll_wait: {error}");
                    return;
                }
            };
            let mut state = self.lock();
            for event in &events[..ready] {
                match event.data.u64() {
                    NUDGE => {
                        let _empty = rustix::io::read(&self.nudge, &mut [0_u8; 8]);
                    }
                    id => state.rung(id, self.now()),
                }
            }
            state.carry_out(|| self.now());
        }
    }
}

impl State {
    /// Reads what executors have recorded since the last time. `more` if it is to go on.
    fn collect(&mut self, more: bool) {
        let State { clients, vgpus, tracing: Some(tracing), .. } = self else { return };
        for (id, client) in clients {
            let page = &client.page;
            // One that is new is only told now; what is older than that is nobody's business.
            let before = tracing.seen.get(id).copied().unwrap_or_else(|| page.records_since(u64::MAX).1);
            page.set_tracing(more);
            let (records, seen) = page.records_since(before);
            tracing.seen.insert(*id, seen);
            tracing.timeline.lose(seen.saturating_sub(before).saturating_sub(records.len() as u64));
            let Some(vgpu) = vgpus.get(&client.vgpu) else { continue };
            for record in records {
                let process = record.place.and_then(|place| client.contexts.get(&usize::from(place)));
                let (context, name) = process.cloned().unwrap_or((0, "ended".to_owned()));
                tracing.timeline.add(Span {
                    vgpu: vgpu.name.clone(),
                    track: Track::Process(context, name),
                    name: record.name,
                    begin: record.begin,
                    end: record.end,
                });
            }
        }
    }

    fn devices_of(&self, vgpu: u64) -> Vec<usize> {
        let known = self.vgpus.get(&vgpu).map(|vgpu| vgpu.devices.clone()).unwrap_or_default();
        known.into_iter().filter(|index| *index < self.devices.len()).collect()
    }

    /// What the client calls a device of ours.
    fn index_at(&self, client: u64, device: usize) -> Option<(&Client, usize)> {
        let client = self.clients.get(&client)?;
        let index = self.vgpus.get(&client.vgpu)?.devices.iter().position(|known| *known == device)?;
        Some((client, index))
    }

    /// Charges what holders have used.
    fn update(&mut self, now: Nanos) {
        let (clients, vgpus) = (&self.clients, &self.vgpus);
        for (number, device) in self.devices.iter_mut().enumerate().filter(|(_, device)| device.used) {
            let claim = |id: u64| {
                let client = clients.get(&id)?;
                let index = vgpus.get(&client.vgpu)?.devices.iter().position(|known| *known == number)?;
                Some(client.claim(index))
            };
            device.arbiter.update(claim, now);
        }
    }

    fn rung(&mut self, id: u64, now: Nanos) {
        self.update(now);
        let Some(client) = self.clients.get(&id) else { return };
        // Emptied before the words are looked at: what is written after that rings again.
        let _empty = rustix::io::read(&client.ring, &mut [0_u8; 8]);
        for device in self.devices_of(self.clients[&id].vgpu) {
            let Some((client, index)) = self.index_at(id, device) else { continue };
            let (look, claim) = (word::look(client.page.lease(index)), client.claim(index));
            if look == Look::None && !self.devices[device].used {
                continue;
            }
            self.devices[device].used = true;
            self.devices[device].arbiter.rung(id, look, claim, now);
        }
    }

    fn remove_client(&mut self, id: u64, now: Nanos) {
        let Some(client) = self.clients.get(&id) else { return };
        let vgpu = client.vgpu;
        for device in self.devices_of(vgpu) {
            let claim = self.index_at(id, device).map(|(client, index)| client.claim(index));
            self.devices[device].arbiter.remove_client(id, claim, now);
        }
        if let Some(client) = self.clients.remove(&id)
            && let Some(entry) = self.vgpus.get_mut(&vgpu)
        {
            let used = Usage { memory_bytes: 0, ..client.used() };
            // It gives nothing back by itself any more.
            let had = client.used().memory_bytes;
            let less = |used: u64| Some(used.saturating_sub(had));
            let all = entry.memory.0.total(Count::Memory);
            let _always = all.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
            add(&mut entry.ended, used);
            entry.ended_cpu_ns += client.cpu_time();
        }
    }

    /// Does what the arbiters decided, until nothing is left.
    fn carry_out(&mut self, now: impl Fn() -> Nanos) {
        for device in 0..self.devices.len() {
            loop {
                let orders = self.devices[device].arbiter.take_orders();
                if orders.is_empty() {
                    break;
                }
                for order in orders {
                    self.obey(device, order, now());
                }
            }
            let Device { name, arbiter, .. } = &mut self.devices[device];
            let (waits, holds, charges) =
                (arbiter.take_waits(), arbiter.take_holds(), arbiter.take_charges());
            for wait in waits {
                let Some(vgpu) = self.vgpus.get_mut(&wait.account) else { continue };
                vgpu.queueing.add(wait.until.saturating_sub(wait.since));
                if let Some(tracing) = &mut self.tracing {
                    tracing.span(vgpu, Track::Wait(name.clone()), "waits", (wait.since, wait.until));
                }
            }
            for held in holds {
                if let (Some(tracing), Some(vgpu)) = (&mut self.tracing, self.vgpus.get(&held.account)) {
                    let label = if held.recalled { "lease, recalled" } else { "lease" };
                    tracing.span(vgpu, Track::Lease(name.clone()), label, (held.since, held.until));
                }
            }
            for (account, nanos) in charges {
                self.devices[device].busy_ns += nanos;
                if let Some(vgpu) = self.vgpus.get_mut(&account) {
                    vgpu.device_ns += nanos;
                }
            }
        }
    }

    fn obey(&mut self, device: usize, order: Order, now: Nanos) {
        let (Order::Lend(id, _)
        | Order::Contend(id, _)
        | Order::Take(id)
        | Order::Observe(id)
        | Order::Evict(id)) = order;
        let Some((client, index)) = self.index_at(id, device) else { return };
        let lease = client.page.lease(index);
        let (claim, landed) =
            (client.claim(index), client.page.device(index, Count::Landed).load(Ordering::Relaxed));
        let back = match order {
            Order::Lend(_, contended) => {
                let lent = word::lend(lease, contended);
                if lent {
                    client.ring();
                }
                let arbiter = &mut self.devices[device].arbiter;
                return if lent { arbiter.lent(id, claim, landed) } else { arbiter.not_lent(id, now) };
            }
            Order::Contend(_, contended) => word::contend(lease, contended) == Taken::Back,
            Order::Take(_) => {
                let back = word::take(lease) == Taken::Back;
                if !back {
                    // Whoever holds it perhaps sleeps.
                    client.ring();
                }
                back
            }
            Order::Observe(_) => {
                let idle =
                    word::look(lease) == Look::Idle && self.devices[device].arbiter.has_seen(id, landed);
                if !(idle && word::take(lease) == Taken::Back) {
                    return self.devices[device].arbiter.observe(id, claim, landed, now);
                }
                true
            }
            Order::Evict(_) => {
                let vgpu = client.vgpu;
                self.evict(id, vgpu, now);
                false
            }
        };
        if back {
            self.devices[device].arbiter.taken(id, claim, now);
        }
    }

    fn evict(&mut self, id: u64, vgpu: u64, now: Nanos) {
        self.devices.iter_mut().for_each(|device| device.arbiter.strike(vgpu, now));
        let Some(entry) = self.vgpus.get_mut(&vgpu) else { return };
        entry.evictions += 1;
        let seconds = entry.terms.eviction.limit.as_secs_f64();
        let paused = self.devices.iter().any(|device| device.arbiter.standing(vgpu, now).paused);
        let then = if paused { "; the vGPU is paused, `paragpu resume` lets it go on" } else { "" };
        let reason =
            format!("a submission ran longer than {seconds} s, this vGPU's limit (eviction.limit){then}");
        if let Some(client) = self.clients.get(&id) {
            (client.evict)(Evicted { reason });
        }
    }
}

impl Client {
    fn claim(&self, index: usize) -> u64 {
        self.page.device(index, Count::DeviceNanos).load(Ordering::Relaxed)
    }

    fn cpu_time(&self) -> u64 {
        self.process.and_then(cpu_time).unwrap_or(0).max(self.cpu_ns)
    }

    fn ring(&self) {
        let _full = rustix::io::write(&self.grant, &1_u64.to_ne_bytes());
    }

    /// What its executor says that it used; device time is the scheduler's to know.
    fn used(&self) -> Usage {
        let total = |count: Count| self.page.total(count).load(Ordering::Relaxed);
        Usage {
            device_ns: 0,
            launches: total(Count::Launches),
            bytes_to_device: total(Count::BytesTo),
            bytes_from_device: total(Count::BytesFrom),
            memory_bytes: total(Count::Memory),
        }
    }

    fn processes(&self) -> impl Iterator<Item = ProcessUsage> {
        self.contexts.iter().map(|(place, (context, name))| {
            let count = |count: Count| self.page.context(*place, count).load(Ordering::Relaxed);
            ProcessUsage {
                context: *context,
                name: name.clone(),
                usage: Usage {
                    device_ns: count(Count::DeviceNanos),
                    launches: count(Count::Launches),
                    bytes_to_device: count(Count::BytesTo),
                    bytes_from_device: count(Count::BytesFrom),
                    memory_bytes: count(Count::Memory),
                },
            }
        })
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // The executor has the same eventfd: closing ours does not end its membership.
        let _not_added = epoll::delete(&self.poll, &self.ring);
    }
}

fn add(total: &mut Usage, more: Usage) {
    let pairs = [
        (&mut total.device_ns, more.device_ns),
        (&mut total.launches, more.launches),
        (&mut total.bytes_to_device, more.bytes_to_device),
        (&mut total.bytes_from_device, more.bytes_from_device),
        (&mut total.memory_bytes, more.memory_bytes),
    ];
    for (total, more) in pairs {
        *total = total.saturating_add(more);
    }
}

/// Processor time of a process, all its threads', in nanoseconds.
fn cpu_time(process: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name, which may hold anything, ends with the last parenthesis.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(ticks * (1_000_000_000 / rustix::param::clock_ticks_per_second().max(1)))
}

fn new_eventfd() -> io::Result<OwnedFd> {
    Ok(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shared")
    }
}
