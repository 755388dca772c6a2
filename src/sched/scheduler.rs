//! The thread that lends the devices, and what it keeps of vGPUs and their executors.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io::Errno;

use super::account::Nanos;
use super::arbiter::Arbiter;
use super::participation::Participation;
use super::policy::{Sharing, Terms};
use super::service::Service;
use super::state::{Client, Device, Rings, State, Tracing, Vgpu, add};
use super::trace::{Timeline, Trace, Track};
use super::usage::{Delays, DeviceUsage, Standing, Usage, VgpuUsage};
use crate::guest_log::GuestLog;
use crate::lease::LeasePage;
use crate::lease::trace;
use crate::lease::word::{self, Look};

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

pub(super) struct Shared {
    pub(super) state: Mutex<State>,
    pub(super) poll: Arc<OwnedFd>,
    /// Written to when the thread has to look at the time again.
    pub(super) nudge: OwnedFd,
    /// The monotonic clock, by which executors count too, when ours began.
    pub(super) started: u64,
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
                log: GuestLog::new(name),
                service: Arc::new(Service::new()),
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

    pub(super) fn service(&self, id: VgpuId) -> Option<Arc<Service>> {
        self.shared.lock().vgpus.get(&id.0).map(|vgpu| Arc::clone(&vgpu.service))
    }

    /// True if another vGPU has one of the devices.
    pub(super) fn others_hold(&self, id: VgpuId) -> bool {
        let state = self.shared.lock();
        state.devices.iter().any(|device| device.arbiter.users().0.iter().any(|holder| *holder != id.0))
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
            rings: Rings::default(),
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

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Nanos {
        trace::now().saturating_sub(self.started)
    }

    fn nudge(&self) {
        let _full = rustix::io::write(&self.nudge, &1_u64.to_ne_bytes());
    }

    /// Changes something, does what follows, and has the thread look at the time again.
    pub(super) fn change<T>(&self, what: impl FnOnce(&mut State, Nanos) -> T) -> T {
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
            let now = self.now();
            let listens_again = state.listen_again(now);
            let ticks = state.devices.iter().filter_map(|device| device.arbiter.next_tick());
            let next = ticks.chain(listens_again).min();
            if next.is_some_and(|next| next <= now) {
                state.update(now);
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

fn new_eventfd() -> io::Result<OwnedFd> {
    Ok(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shared")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use rustix::event::{PollFd, PollFlags, poll};

    use super::*;
    use crate::lease::word::Begin;

    fn ring(fd: impl std::os::fd::AsFd) {
        let _full = rustix::io::write(fd, &1_u64.to_ne_bytes());
    }

    /// Gets the device, as an executor does; false if it takes a second.
    fn get(it: &Participation) -> bool {
        loop {
            match word::begin(it.page().lease(0)) {
                Begin::Go { .. } => return true,
                Begin::Wait { ring: asks } => {
                    if asks {
                        ring(&it.ring);
                    }
                    let second = Timespec { tv_sec: 1, tv_nsec: 0 };
                    if poll(&mut [PollFd::new(&it.grant, PollFlags::IN)], Some(&second)) == Ok(0) {
                        return false;
                    }
                    let _counter = rustix::io::read(&it.grant, &mut [0_u8; 8]);
                }
                Begin::GiveBack => put(it),
            }
        }
    }

    fn put(it: &Participation) {
        if word::settle(it.page().lease(0), false) {
            ring(&it.ring);
        }
    }

    fn scheduler(vgpus: usize) -> (Scheduler, Vec<VgpuId>, Vec<Participation>) {
        let scheduler = Scheduler::start(vec![("cpu".to_owned(), Sharing::default())]).unwrap();
        let names = (0..vgpus).map(|number| format!("vgpu{number}"));
        let ids: Vec<VgpuId> =
            names.map(|name| scheduler.add(&name, Terms::default(), &[0]).unwrap()).collect();
        let all = ids.iter().map(|id| scheduler.join(*id, |_| {}).unwrap()).collect();
        (scheduler, ids, all)
    }

    #[test]
    fn the_device_goes_from_one_to_the_other_and_waits_are_counted() {
        let (scheduler, ids, all) = scheduler(2);
        for _ in 0..20 {
            for one in &all {
                assert!(get(one));
                put(one);
            }
        }
        for id in ids {
            let usage = scheduler.usage(id).unwrap();
            assert!(usage.queueing.count() >= 1, "{usage:?}");
            assert_ne!(usage.standing, Standing::Offline);
        }
        assert_eq!(scheduler.devices()[0].waiting, Vec::<String>::new());
    }

    #[test]
    fn somebody_who_rings_without_end_keeps_nobody_from_the_device() {
        let (_scheduler, _ids, all) = scheduler(3);
        let end = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !end.load(Ordering::Relaxed) {
                    ring(&all[0].ring);
                }
            });
            let served = (0..200).all(|turn| {
                let one = &all[1 + turn % 2];
                let got = get(one);
                put(one);
                got
            });
            end.store(true, Ordering::Relaxed);
            assert!(served);
        });
        // And it is listened to again.
        assert!(get(&all[0]));
    }

    #[test]
    fn whoever_leaves_leaves_nothing_behind() {
        let (scheduler, ids, mut all) = scheduler(2);
        assert!(get(&all[0]));
        all.remove(0);
        assert!(get(&all[0]), "the lease of one that is gone is nobody's");
        assert_eq!(scheduler.usage(ids[0]).unwrap().standing, Standing::Offline);
        scheduler.remove(ids[0]);
        assert!(scheduler.usage(ids[0]).is_none());
        put(&all[0]);
    }
}
