//! How fast an executor sends commands to its devices: only while it has a lease, and not far ahead of the device, so that
//! it can give the lease back soon.
//!
//! A [`Pace`] is the executor's; each context has a [`Pacer`]. A ring's thread asks to be [admitted](Pacer::admit) before a
//! command that occupies a device. Once it is, it counts as active on that device until it [rests](Pacer::rest). What is
//! in flight is counted too, by [`Flight`]s. When nobody is active and nothing is in flight, the lease is idle, or goes
//! back.
//!
//! Whether a command has landed costs a callback to know, which would dominate short kernels. So of short commands in an
//! in-order queue some are not watched, and their load is that of the next one that is. Before a thread rests, it has its
//! queues' [tails](super::context::Context::mark_tails) watched.
//!
//! The time between two landings is the device time of the second: what is in flight at once shares it.

use std::collections::HashMap;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;

use super::objects::Gates;
use crate::executor::message::ContextUsage;
use crate::lease::trace::{self, Record};
use crate::lease::word::{self, Begin};
use crate::lease::{Count, LeasePage};

/// Nanoseconds of work that may be in flight before more is sent, while others wait for the device. Two short kernels, so
/// that the device does not wait for us; of long ones only one.
const AHEAD_CONTENDED: u64 = 2_000_000;

/// The same while nobody else wants the device, or two commands, if they take longer.
const AHEAD_ALONE: u64 = 8_000_000;

/// What is assumed of a kernel that was never launched before.
const UNKNOWN_NANOS: u64 = 1_000_000;

/// Commands that take as long as this, together, are worth a callback.
pub(crate) const WORTH_WATCHING: u64 = 100_000;

/// Beside commands that take as long as this, by estimate, a wake-up costs little.
const LONG: u64 = 1_000_000;

/// How long a thread with nothing to do keeps the lease while others wait: a guest that has just been told that
/// something is complete often has more. Giving the lease away and getting it back takes longer.
pub(crate) const LINGER: Duration = Duration::from_micros(150);

/// The executor's share of its devices.
pub(crate) struct Pace {
    page: LeasePage,
    ring: OwnedFd,
    grant: OwnedFd,
    devices: Vec<Mutex<Device>>,
}

struct Device {
    /// Watched commands in flight that no user event holds back.
    up: usize,
    /// Those of them that are [long](LONG).
    long: usize,
    /// Threads that may be sending something.
    active: usize,
    /// Threads that wait for the lease, or for something to land.
    wants: usize,
    /// Nanoseconds that what is in flight will take, by estimate, watched or not.
    load: u64,
    /// Flights that user events hold back, and their load, which counts only when they are let go: otherwise what ends
    /// the user events might wait for them.
    gated: HashMap<u64, (Gates, u64)>,
    next: u64,
    /// When something last landed.
    mark: Instant,
}

/// What a kernel's launches take.
#[derive(Debug, Default)]
pub(crate) struct Cost {
    /// The kernel's name, for timelines.
    name: String,
    /// Nanoseconds of the last launches, smoothed; 0 if there was none.
    nanos: AtomicU64,
    /// Work-items of the last launch.
    items: AtomicU64,
}

impl Cost {
    /// Of a kernel of this name, which was never launched.
    pub(crate) fn of(name: &str) -> Arc<Cost> {
        Arc::new(Cost { name: name.to_owned(), ..Cost::default() })
    }

    /// What a launch of so many work-items will take, in nanoseconds.
    pub(crate) fn estimate(&self, items: u64) -> u64 {
        let (nanos, before) = (self.nanos.load(Ordering::Relaxed), self.items.load(Ordering::Relaxed));
        if nanos == 0 || before == 0 {
            return UNKNOWN_NANOS;
        }
        let scaled = u128::from(nanos) * u128::from(items) / u128::from(before);
        u64::try_from(scaled).unwrap_or(u64::MAX).clamp(500, 3_600_000_000_000)
    }

    /// A launch of so many work-items was estimated to take `estimate`, and took `factor` times that.
    fn learn(&self, items: u64, estimate: u64, factor: f64) {
        let measured = (estimate as f64 * factor).clamp(500.0, 3.6e12);
        // Slowly downwards, at once upwards: too much in flight is worse than too little.
        let nanos = if factor > 1.0 { measured } else { (measured + estimate as f64) / 2.0 };
        self.nanos.store(nanos as u64, Ordering::Relaxed);
        self.items.store(items.max(1), Ordering::Relaxed);
    }
}

/// What a command is expected to take, and who learns from it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Estimate {
    pub(crate) nanos: u64,
    pub(crate) kernel: Option<(Arc<Cost>, u64)>,
    /// What it is if it is no kernel.
    pub(crate) command: &'static str,
}

impl Estimate {
    /// A launch of so many work-items.
    pub(crate) fn launch(cost: &Arc<Cost>, items: u64) -> Estimate {
        Estimate { nanos: cost.estimate(items), kernel: Some((Arc::clone(cost), items)), command: "" }
    }

    /// A transfer of so many bytes, at a rate that is low for any device's memory.
    pub(crate) fn bytes(command: &'static str, bytes: u64) -> Estimate {
        Estimate { nanos: 2_000 + bytes / 8, kernel: None, command }
    }
}

impl Pace {
    /// A pace by the leases in `page`. `ring` wakes the scheduler, `grant` is what it wakes us with.
    pub(crate) fn new(page: LeasePage, ring: OwnedFd, grant: OwnedFd, devices: usize) -> Arc<Pace> {
        let device = || {
            Mutex::new(Device {
                up: 0,
                long: 0,
                active: 0,
                wants: 0,
                load: 0,
                gated: HashMap::new(),
                next: 0,
                mark: Instant::now(),
            })
        };
        Arc::new(Pace { page, ring, grant, devices: (0..devices).map(|_| device()).collect() })
    }

    /// For a context, whose counts go to this place of the page, and whose thread is woken by the doorbell too.
    pub(crate) fn pacer(
        self: &Arc<Self>,
        place: Option<usize>,
        doorbell: BorrowedFd<'_>,
    ) -> io::Result<Pacer> {
        let poll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&poll, doorbell, EventData::new_u64(0), EventFlags::IN)?;
        // By edges, so that each thread sees every grant and nobody has to empty the eventfd.
        epoll::add(&poll, &self.grant, EventData::new_u64(1), EventFlags::IN | EventFlags::ET)?;
        let stands = vec![Stand::Resting; self.devices.len()];
        Ok(Pacer { pace: Arc::clone(self), place, poll, stands, published: ContextUsage::default() })
    }

    fn device(&self, index: usize) -> MutexGuard<'_, Device> {
        self.devices[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// If nothing is going on, the lease is idle, or goes back.
    fn settle(&self, index: usize, device: &Device) {
        if device.up == 0 && device.active == 0 && word::settle(self.page.lease(index), device.wants > 0) {
            self.ring();
        }
    }

    /// Wakes our own threads that wait for room, if there is enough.
    fn wake_waiting(&self, index: usize, device: &Device) {
        if device.wants > 0 && device.has_drained(word::is_contended(self.page.lease(index))) {
            self.wake();
        }
    }

    fn ring(&self) {
        let _full = rustix::io::write(&self.ring, &1_u64.to_ne_bytes());
    }

    /// Wakes our own threads that wait.
    fn wake(&self) {
        let _full = rustix::io::write(&self.grant, &1_u64.to_ne_bytes());
    }
}

/// How a thread stands with a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stand {
    Resting,
    Active,
    Waiting,
}

/// A context's part in it. Used by one thread.
pub(crate) struct Pacer {
    pace: Arc<Pace>,
    place: Option<usize>,
    poll: OwnedFd,
    stands: Vec<Stand>,
    published: ContextUsage,
}

impl Pacer {
    /// May a command go to the device? If not, the caller has its tails watched and [rests](Pacer::rest), and asks again
    /// when it is [woken](Pacer::sleep).
    pub(crate) fn admit(&mut self, index: usize) -> bool {
        if index >= self.stands.len() {
            return true;
        }
        let pace = Arc::clone(&self.pace);
        let mut device = pace.device(index);
        let room = match word::begin(pace.page.lease(index)) {
            Begin::Go { contended } => device.has_room(contended),
            Begin::Wait { ring } => {
                if ring {
                    pace.ring();
                }
                false
            }
            Begin::GiveBack => false,
        };
        // One that is active has sent what is not watched yet: that must be before it rests.
        if room || self.stands[index] != Stand::Active {
            device.change(&mut self.stands[index], if room { Stand::Active } else { Stand::Waiting });
        }
        room
    }

    /// The thread does nothing more for now; `waits_for` is the device that it waits for, if it does. Its queues' tails are
    /// watched. True if it has been waiting for that since it was last refused: only then does whatever happens wake it.
    pub(crate) fn rest(&mut self, waits_for: Option<usize>) -> bool {
        let pace = Arc::clone(&self.pace);
        let waiting = waits_for.and_then(|index| self.stands.get(index)) == Some(&Stand::Waiting);
        for (index, stand) in self.stands.iter_mut().enumerate() {
            let to = if waits_for == Some(index) { Stand::Waiting } else { Stand::Resting };
            if *stand != to || to == Stand::Waiting {
                let mut device = pace.device(index);
                device.change(stand, to);
                pace.settle(index, &device);
            }
        }
        waiting
    }

    /// True if the thread keeps somebody from the device.
    pub(crate) fn is_in_the_way(&self) -> bool {
        let mut active = self.stands.iter().enumerate().filter(|(_, stand)| **stand == Stand::Active);
        active.any(|(index, _)| word::is_contended(self.pace.page.lease(index)))
    }

    /// Sleeps until the doorbell or a grant, or for so long. True if it was the doorbell.
    pub(crate) fn sleep(&self, timeout: Option<Duration>) -> bool {
        let mut events = [Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; 2];
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        match epoll::wait(&self.poll, &mut events[..], timeout.as_ref()) {
            Ok(count) => events[..count].iter().any(|event| event.data.u64() == 0),
            Err(Errno::INTR) => false,
            Err(error) => {
                log::warn!("epoll_wait: {error}");
                false
            }
        }
    }

    /// Tells of what the context did.
    pub(crate) fn publish(&mut self, usage: &ContextUsage) {
        if *usage == self.published {
            return;
        }
        let before = std::mem::replace(&mut self.published, *usage);
        let page = &self.pace.page;
        for (count, now, then) in [
            (Count::Launches, usage.kernels, before.kernels),
            (Count::BytesTo, usage.bytes_written, before.bytes_written),
            (Count::BytesFrom, usage.bytes_read, before.bytes_read),
        ] {
            let more = now.saturating_sub(then);
            page.total(count).fetch_add(more, Ordering::Relaxed);
            if let Some(place) = self.place {
                page.context(place, count).fetch_add(more, Ordering::Relaxed);
            }
        }
    }

    /// Counts load that is not watched yet.
    pub(crate) fn load(&self, index: usize, nanos: u64) {
        if index < self.stands.len() {
            self.pace.device(index).load += nanos;
        }
    }

    /// Counts a watched command, which stands for `load` of what came before it too.
    pub(crate) fn take_off(
        &self,
        index: usize,
        load: u64,
        estimate: Estimate,
        gates: &Gates,
    ) -> Option<Flight> {
        if index >= self.stands.len() {
            return None;
        }
        let mut device = self.pace.device(index);
        device.next += 1;
        let number = device.next;
        let (before, load) = (load, load + estimate.nanos);
        if gates.is_empty() {
            device.rise(load);
            device.load += estimate.nanos;
        } else {
            device.load = device.load.saturating_sub(before);
            device.gated.insert(number, (gates.clone(), load));
            // Perhaps nothing is in flight any more that could land.
            self.pace.wake_waiting(index, &device);
        }
        let pace = Arc::clone(&self.pace);
        Some(Flight { pace, place: self.place, index, number, load, estimate, since: Instant::now() })
    }

    /// The first device on which something waits for user events.
    pub(crate) fn gated(&self) -> Vec<usize> {
        (0..self.stands.len()).filter(|index| !self.pace.device(*index).gated.is_empty()).collect()
    }

    /// User events have ended: what they held back is on its way.
    pub(crate) fn release_gated(&self) {
        for index in 0..self.stands.len() {
            let mut device = self.pace.device(index);
            let mut let_go = Vec::new();
            device.gated.retain(|_, (gates, load)| {
                let held = gates.iter().any(|gate| gate.is_open());
                if !held {
                    let_go.push(*load);
                }
                held
            });
            for load in let_go {
                device.rise(load);
                device.load += load;
            }
        }
    }
}

/// How much may be in flight, in nanoseconds.
fn ahead(contended: bool) -> u64 {
    if contended { AHEAD_CONTENDED } else { AHEAD_ALONE }
}

impl Drop for Pacer {
    fn drop(&mut self) {
        self.rest(None);
    }
}

impl Device {
    /// May one more command be in flight?
    fn has_room(&self, contended: bool) -> bool {
        self.load < ahead(contended) || (!contended && self.up == 1)
    }

    /// Is it worth waking a thread that waits for room? It sleeps until half of what may be in flight has landed: to be woken
    /// for each landing, with its queues' tails watched before each sleep, costs more than short commands take. When only long
    /// ones are left, nobody knows for how long.
    fn has_drained(&self, contended: bool) -> bool {
        let is_next_late = self.up <= 1 || self.up == self.long;
        self.load <= ahead(contended) / 2 || (is_next_late && self.has_room(contended))
    }

    /// One more watched command is in flight, which stands for so many nanoseconds.
    fn rise(&mut self, load: u64) {
        self.up += 1;
        self.long += usize::from(load >= LONG);
    }

    fn change(&mut self, stand: &mut Stand, to: Stand) {
        match *stand {
            Stand::Resting => {}
            Stand::Active => self.active -= 1,
            Stand::Waiting => self.wants -= 1,
        }
        match to {
            Stand::Resting => {}
            Stand::Active => self.active += 1,
            Stand::Waiting => self.wants += 1,
        }
        *stand = to;
    }
}

/// A watched command in flight; it has landed when this is dropped.
pub(crate) struct Flight {
    pace: Arc<Pace>,
    place: Option<usize>,
    index: usize,
    number: u64,
    load: u64,
    estimate: Estimate,
    since: Instant,
}

impl Flight {
    /// Tells of it, for a timeline.
    fn record(&self, now: Instant) {
        let begin = self.pace.device(self.index).mark.max(self.since);
        let end = trace::now();
        let took = now.saturating_duration_since(begin).as_nanos() as u64;
        let name = match &self.estimate {
            Estimate { kernel: Some((cost, _)), .. } => cost.name.as_str(),
            Estimate { command, .. } if !command.is_empty() => command,
            _ => "earlier commands",
        };
        let place = self.place.and_then(|place| u16::try_from(place).ok());
        let record = Record {
            begin: end.saturating_sub(took),
            end,
            place,
            device: self.index as u16,
            name: name.to_owned(),
        };
        self.pace.page.record(&record);
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let pace = &self.pace;
        let now = Instant::now();
        if pace.page.is_tracing() {
            self.record(now);
        }
        let mut device = pace.device(self.index);
        let gated = device.gated.remove(&self.number);
        if gated.is_none() {
            device.up = device.up.saturating_sub(1);
            device.long = device.long.saturating_sub(usize::from(self.load >= LONG));
            device.load = device.load.saturating_sub(self.load);
        }
        let took = now.saturating_duration_since(device.mark.max(self.since)).as_nanos() as u64;
        device.mark = now;
        let page = &pace.page;
        page.device(self.index, Count::DeviceNanos).fetch_add(took, Ordering::Relaxed);
        page.device(self.index, Count::Landed).fetch_add(1, Ordering::Relaxed);
        if let Some(place) = self.place {
            page.context(place, Count::DeviceNanos).fetch_add(took, Ordering::Relaxed);
        }
        if let Some((cost, items)) = &self.estimate.kernel
            && gated.is_none()
        {
            cost.learn(*items, self.estimate.nanos, took as f64 / self.load.max(1) as f64);
        }
        pace.settle(self.index, &device);
        pace.wake_waiting(self.index, &device);
        drop(device);
        // User events may be the last to hold theirs: not under the lock.
        drop(gated);
    }
}

impl std::fmt::Debug for Pace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pace").field("devices", &self.devices.len()).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Flight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Flight")
            .field("device", &self.index)
            .field("load", &self.load)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
