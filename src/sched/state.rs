//! What the scheduler keeps of vGPUs, their executors and devices, and how it carries out what arbiters decide.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use log::Level;
use rustix::event::epoll::{self, EventData, EventFlags};

use super::account::Nanos;
use super::arbiter::{Arbiter, Order};
use super::policy::Terms;
use super::scheduler::Evicted;
use super::service::Service;
use super::trace::{Span, Timeline, Track};
use super::usage::{Delays, ProcessUsage, Usage};
use crate::guest_log::GuestLog;
use crate::lease::word::{self, Look, Taken};
use crate::lease::{Count, LeasePage};

#[derive(Default)]
pub(super) struct State {
    pub(super) devices: Vec<Device>,
    pub(super) vgpus: BTreeMap<u64, Vgpu>,
    pub(super) clients: BTreeMap<u64, Client>,
    pub(super) next_vgpu: u64,
    pub(super) next_client: u64,
    pub(super) ended: bool,
    pub(super) tracing: Option<Tracing>,
}

/// A timeline that is being made.
pub(super) struct Tracing {
    pub(super) timeline: Timeline,
    /// As the scheduler's.
    pub(super) started: u64,
    /// Records seen of each client.
    pub(super) seen: BTreeMap<u64, u64>,
}

impl Tracing {
    pub(super) fn span(&mut self, vgpu: &Vgpu, track: Track, name: &str, (begin, end): (Nanos, Nanos)) {
        let (begin, end) = (self.started.saturating_add(begin), self.started.saturating_add(end));
        self.timeline.add(Span { vgpu: vgpu.name.clone(), track, name: name.to_owned(), begin, end });
    }
}

pub(super) struct Device {
    pub(super) name: String,
    pub(super) arbiter: Arbiter,
    pub(super) busy_ns: u64,
    /// Somebody has wanted it: until then, nothing can have happened.
    pub(super) used: bool,
}

pub(super) struct Vgpu {
    pub(super) name: String,
    pub(super) terms: Terms,
    /// What its executors call devices 0, 1, …
    pub(super) devices: Vec<usize>,
    /// Where its executors count their memory together, and its file.
    pub(super) memory: Arc<(LeasePage, OwnedFd)>,
    pub(super) device_ns: u64,
    /// Of executors that have ended.
    pub(super) ended: Usage,
    pub(super) ended_cpu_ns: u64,
    pub(super) queueing: Delays,
    pub(super) evictions: u64,
    pub(super) log: GuestLog,
    /// What the broker does for it.
    pub(super) service: Arc<Service>,
}

/// An executor.
pub(super) struct Client {
    pub(super) vgpu: u64,
    pub(super) page: LeasePage,
    pub(super) poll: Arc<OwnedFd>,
    /// Written to by the executor.
    pub(super) ring: OwnedFd,
    /// Written to when the executor is to look at its leases.
    pub(super) grant: OwnedFd,
    pub(super) evict: Box<dyn Fn(Evicted) + Send>,
    pub(super) process: Option<u32>,
    /// Its processor time, if it has ended.
    pub(super) cpu_ns: u64,
    pub(super) rings: Rings,
    /// Its contexts by place in the page.
    pub(super) contexts: BTreeMap<usize, (u32, String)>,
}

impl State {
    /// Reads what executors have recorded since the last time. `more` if it is to go on.
    pub(super) fn collect(&mut self, more: bool) {
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

    pub(super) fn devices_of(&self, vgpu: u64) -> Vec<usize> {
        let known = self.vgpus.get(&vgpu).map(|vgpu| vgpu.devices.clone()).unwrap_or_default();
        known.into_iter().filter(|index| *index < self.devices.len()).collect()
    }

    /// What the client calls a device of ours.
    pub(super) fn index_at(&self, client: u64, device: usize) -> Option<(&Client, usize)> {
        let client = self.clients.get(&client)?;
        let index = self.vgpus.get(&client.vgpu)?.devices.iter().position(|known| *known == device)?;
        Some((client, index))
    }

    /// Charges what holders have used.
    pub(super) fn update(&mut self, now: Nanos) {
        let (clients, vgpus) = (&self.clients, &self.vgpus);
        for (number, device) in self.devices.iter_mut().enumerate().filter(|(_, device)| device.used) {
            let claim = |id: u64| {
                let client = clients.get(&id)?;
                let index = vgpus.get(&client.vgpu)?.devices.iter().position(|known| *known == number)?;
                Some((client.claim(index), client.landed(index)))
            };
            device.arbiter.update(claim, now);
        }
    }

    pub(super) fn rung(&mut self, id: u64, now: Nanos) {
        self.update(now);
        let Some(client) = self.clients.get_mut(&id) else { return };
        // Emptied before the words are looked at: what is written after that rings again.
        let _empty = rustix::io::read(&client.ring, &mut [0_u8; 8]);
        if client.rings.count(now) {
            client.listen(id, false);
            if let Some(vgpu) = self.vgpus.get_mut(&client.vgpu) {
                let most = MAX_RINGS * 1_000_000_000 / RING_PERIOD;
                vgpu.log.line(
                    Level::Warn,
                    format_args!("its executor rings the scheduler more than {most} times a second"),
                );
            }
        }
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

    /// Listens again to those who rang too often, if it is time. Returns when it will be for others.
    pub(super) fn listen_again(&mut self, now: Nanos) -> Option<Nanos> {
        let mut next = None;
        for (id, client) in &mut self.clients {
            match client.rings.muted_until {
                Some(until) if until <= now => {
                    client.rings.muted_until = None;
                    client.listen(*id, true);
                }
                Some(until) => next = Some(next.map_or(until, |next: Nanos| next.min(until))),
                None => {}
            }
        }
        next
    }

    pub(super) fn remove_client(&mut self, id: u64, now: Nanos) {
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
    pub(super) fn carry_out(&mut self, now: impl Fn() -> Nanos) {
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

    pub(super) fn obey(&mut self, device: usize, order: Order, now: Nanos) {
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
                self.evict(id, vgpu, device, now);
                false
            }
        };
        if back {
            self.devices[device].arbiter.taken(id, claim, now);
        }
    }

    pub(super) fn evict(&mut self, id: u64, vgpu: u64, on: usize, now: Nanos) {
        for (index, device) in self.devices.iter_mut().enumerate() {
            // The one whose order this is has seen to itself.
            if index == on { device.arbiter.tick(now) } else { device.arbiter.strike(vgpu, now) }
        }
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

/// Rings of an executor in which it does nothing wrong: at each command, if others wait for the device all the time.
const MAX_RINGS: u64 = 500;
/// … in this time. Whoever rings more often is not listened to for as long: the scheduler is everybody's.
const RING_PERIOD: Nanos = 10_000_000;

/// How often an executor has rung.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rings {
    since: Nanos,
    count: u64,
    /// It is not listened to until then.
    muted_until: Option<Nanos>,
}

impl Rings {
    /// Counts one. True if it is not to be listened to now.
    fn count(&mut self, now: Nanos) -> bool {
        if now.saturating_sub(self.since) > RING_PERIOD {
            (self.since, self.count) = (now, 0);
        }
        self.count += 1;
        let too_often = self.count > MAX_RINGS && self.muted_until.is_none();
        if too_often {
            self.muted_until = Some(now + RING_PERIOD);
        }
        too_often
    }
}

impl Client {
    fn listen(&self, id: u64, listen: bool) {
        let flags = if listen { EventFlags::IN } else { EventFlags::empty() };
        if let Err(error) = epoll::modify(&self.poll, &self.ring, EventData::new_u64(id), flags) {
            log::warn!("the scheduler's epoll: {error}");
        }
    }

    fn landed(&self, index: usize) -> u64 {
        self.page.device(index, Count::Landed).load(Ordering::Relaxed)
    }

    pub(super) fn claim(&self, index: usize) -> u64 {
        self.page.device(index, Count::DeviceNanos).load(Ordering::Relaxed)
    }

    pub(super) fn cpu_time(&self) -> u64 {
        self.process.and_then(cpu_time).unwrap_or(0).max(self.cpu_ns)
    }

    pub(super) fn ring(&self) {
        let _full = rustix::io::write(&self.grant, &1_u64.to_ne_bytes());
    }

    /// What its executor says that it used; device time is the scheduler's to know.
    pub(super) fn used(&self) -> Usage {
        let total = |count: Count| self.page.total(count).load(Ordering::Relaxed);
        Usage {
            device_ns: 0,
            launches: total(Count::Launches),
            bytes_to_device: total(Count::BytesTo),
            bytes_from_device: total(Count::BytesFrom),
            memory_bytes: total(Count::Memory),
        }
    }

    pub(super) fn processes(&self) -> impl Iterator<Item = ProcessUsage> {
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

pub(super) fn add(total: &mut Usage, more: Usage) {
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
pub(super) fn cpu_time(process: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name, which may hold anything, ends with the last parenthesis.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(ticks * (1_000_000_000 / rustix::param::clock_ticks_per_second().max(1)))
}
