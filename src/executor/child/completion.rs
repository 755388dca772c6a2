//! How the guest learns that something is complete: slots, and waking those who sleep.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use paragpu_protocol::fault::Fault;
use paragpu_protocol::limits::MAX_IN_FLIGHT;
use paragpu_protocol::ring::{self, Asleep, RingMemory, RingPages, Status, Word};
use paragpu_protocol::slot::{DONE, STATE, Slot};
use rustix::thread::futex;
use zerocopy::IntoBytes;

use super::backend::Outcome;
use super::landing::Turn;
use super::objects::{EventState, Gates};
use super::pace;
use super::print::Launch;
use crate::sys::map::{Mapping, Window};

/// As many as there are.
const ALL: u32 = i32::MAX as u32;

/// A ring in a region that was found to be long enough for it.
#[derive(Clone, Debug)]
pub(crate) struct RingView {
    mapping: Arc<Mapping>,
}

impl RingView {
    pub(crate) fn new(mapping: Arc<Mapping>, data_bytes: u32) -> Result<RingView, Fault> {
        let needed = ring::HEADER_BYTES as usize + data_bytes as usize;
        if mapping.len() < needed || !data_bytes.is_power_of_two() {
            return Err(Fault::BadRing);
        }
        Ok(RingView { mapping })
    }

    /// Wakes the threads that sleep on `wake_seq`.
    fn wake_sleepers(&self) {
        // Not a private one: who sleeps is another process.
        if let Err(error) = futex::wake(self.word(Word::WakeSeq), futex::Flags::empty(), ALL) {
            log::warn!("waking sleepers: {error}");
        }
    }
}

impl RingPages for RingView {
    fn word(&self, word: Word) -> &AtomicU32 {
        // The header is in the region, checked above; a word that could not be found is one of nobody's.
        static NOWHERE: AtomicU32 = AtomicU32::new(0);
        self.mapping.word(word.offset()).unwrap_or(&NOWHERE)
    }

    fn read(&self, offset: u32, to: &mut [u8]) {
        if !self.mapping.read(ring::HEADER_BYTES as usize + offset as usize, to) {
            to.fill(0);
        }
    }

    fn write(&self, offset: u32, from: &[u8]) {
        let whole = self.mapping.write(ring::HEADER_BYTES as usize + offset as usize, from);
        debug_assert!(whole, "the data area is in the region");
    }
}

/// What a context and its commands in flight share: whom to tell, and whether to tell at all.
#[derive(Debug, Default)]
pub(crate) struct Notifier {
    ring: OnceLock<RingView>,
    wake: Option<Arc<OwnedFd>>,
    /// True once the context has failed: nothing is completed any more.
    closed: AtomicBool,
    flights: Mutex<Flights>,
    landed: Condvar,
}

#[derive(Default)]
struct Flights {
    next: u64,
    up: HashMap<u64, Hold>,
    /// What is up weighs this much in all.
    load: usize,
    paused: bool,
    held: Vec<Box<dyn FnOnce() + Send>>,
}

/// What holds back something in flight.
enum Hold {
    /// User events, while any of them is open; otherwise it is on its way.
    Gates(Gates),
    /// It is a build, which takes its time and tells through [`Notifier::when_running`].
    Build,
}

impl Hold {
    fn holds(&self) -> bool {
        match self {
            Hold::Gates(gates) => gates.iter().any(|gate| gate.is_open()),
            Hold::Build => true,
        }
    }
}

impl std::fmt::Debug for Flights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Flights").field("up", &self.up.len()).field("paused", &self.paused).finish()
    }
}

impl Notifier {
    pub(crate) fn new(wake: Option<Arc<OwnedFd>>) -> Notifier {
        Notifier { wake, ..Notifier::default() }
    }

    pub(crate) fn start(&self, ring: RingView) -> Result<&RingView, Fault> {
        self.ring.set(ring).map_err(|_second| Fault::BadRing)?;
        let ring = self.ring.get().ok_or(Fault::BadRing)?;
        ring.store(Word::Status, Status::Running as u32);
        self.publish();
        Ok(ring)
    }

    /// Wakes guest threads that sleep, if there are any. After whatever they may sleep for was written.
    pub(crate) fn publish(&self) {
        if let Some(ring) = self.ring.get() {
            self.wake(ring::published(ring));
        }
    }

    /// Wakes those who sleep.
    pub(crate) fn wake(&self, asleep: Asleep) {
        let Some(ring) = self.ring.get() else { return };
        if asleep.sleepers {
            ring.wake_sleepers();
        }
        if asleep.waiters
            && let Some(wake) = &self.wake
            // A full counter is a wake-up too.
            && let Err(error) = rustix::io::write(wake, &1_u64.to_ne_bytes())
            && error != rustix::io::Errno::AGAIN
        {
            log::warn!("wake eventfd: {error}");
        }
    }

    /// Fails the context where the guest can see it. Nothing is completed any more.
    pub(crate) fn fail(&self, fault: Fault) {
        self.closed.store(true, Ordering::Release);
        if let Some(ring) = self.ring.get() {
            ring.store(Word::Reason, fault.code());
            ring.store(Word::Status, Status::Failed as u32);
        }
        self.publish();
    }

    /// Completes nothing from now on, without a word.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// True if nothing is completed any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    fn lock(&self) -> MutexGuard<'_, Flights> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts something that will touch the guest's memory later, and what holds it back.
    fn take_off(self: &Arc<Self>, hold: Hold, weight: usize) -> Flight {
        let mut flights = self.lock();
        flights.next += 1;
        flights.load += weight;
        let number = flights.next;
        flights.up.insert(number, hold);
        Flight { notifier: Arc::clone(self), number, weight }
    }

    /// True if so much is in flight that nothing more may take off.
    pub(crate) fn is_crowded(&self) -> bool {
        self.lock().load >= MAX_IN_FLIGHT
    }

    /// Waits for at most `patience`. True if nothing is in flight.
    pub(crate) fn drained(&self, patience: Duration) -> bool {
        let flights = self.lock();
        if flights.up.is_empty() {
            return true;
        }
        let flights = self.landed.wait_timeout(flights, patience).unwrap_or_else(PoisonError::into_inner).0;
        flights.up.is_empty()
    }

    /// Holds back what [`when_running`](Notifier::when_running) gets, until it is undone.
    pub(crate) fn pause(&self, paused: bool) {
        let mut flights = self.lock();
        flights.paused = paused;
        let held = if paused { Vec::new() } else { std::mem::take(&mut flights.held) };
        drop(flights);
        for then in held {
            then();
        }
    }

    /// Waits for at most `patience` until nothing in flight can move: what is left waits for the guest, which
    /// is not listened to.
    pub(crate) fn settled(&self, patience: Duration) -> bool {
        let flights = self.lock();
        let settled = |flights: &Flights| flights.up.values().all(Hold::holds);
        if settled(&flights) {
            return true;
        }
        let flights = self.landed.wait_timeout(flights, patience).unwrap_or_else(PoisonError::into_inner).0;
        settled(&flights)
    }

    /// Calls `then`, at once or when the pause is over.
    pub(crate) fn when_running(&self, then: Box<dyn FnOnce() + Send>) {
        let mut flights = self.lock();
        if flights.paused {
            flights.held.push(then);
            return;
        }
        drop(flights);
        then();
    }
}

/// Something in flight; it has landed when this is dropped.
#[derive(Debug)]
struct Flight {
    notifier: Arc<Notifier>,
    number: u64,
    weight: usize,
}

impl Drop for Flight {
    fn drop(&mut self) {
        let mut flights = self.notifier.lock();
        flights.load -= self.weight;
        let hold = flights.up.remove(&self.number);
        drop(flights);
        self.notifier.landed.notify_all();
        drop(hold);
    }
}

/// Where the outcome of a command goes. Completed at most once.
#[derive(Debug)]
pub(crate) struct Reply {
    slot: Option<Window>,
    notifier: Arc<Notifier>,
}

impl Reply {
    pub(crate) fn new(slot: Option<Window>, notifier: &Arc<Notifier>) -> Reply {
        Reply { slot, notifier: Arc::clone(notifier) }
    }

    pub(crate) fn is_wanted(&self) -> bool {
        self.slot.is_some()
    }

    /// Writes the slot, if there is one, and wakes who waits for it.
    pub(crate) fn complete(self, outcome: Outcome, len: u32) {
        let Some(slot) = &self.slot else { return };
        if self.notifier.closed.load(Ordering::Acquire) {
            return;
        }
        let contents = Slot {
            status: outcome.status.into(),
            len: len.into(),
            profile: outcome.profile.unwrap_or_default().map(Into::into),
            ..Slot::default()
        };
        const REST: usize = STATE + size_of::<u32>();
        let whole = slot.write(REST, &contents.as_bytes()[REST..]);
        debug_assert!(whole, "a slot is as long as a slot");
        if let Some(state) = slot.word(STATE) {
            state.store(DONE.to_le(), Ordering::Release);
        }
        self.notifier.publish();
    }

    /// Completes with success or an error, and no answer.
    pub(crate) fn status(self, result: Result<(), super::backend::ClError>) {
        self.complete(result.map_or_else(Outcome::failed, |()| Outcome::SUCCESS), 0);
    }

    /// For a command that completes later, and until then keeps `inline` bytes of the ring's.
    pub(crate) fn later(self, event: Option<Arc<EventState>>, gates: Gates, inline: usize) -> Completion {
        let flight = self.notifier.take_off(Hold::Gates(gates), 1 + inline / 1024);
        Completion { reply: self, event, launch: None, pace: None, turn: None, _flight: flight }
    }

    /// For a build.
    pub(crate) fn after_build(self) -> Completion {
        // Bounded by the programs, one build each.
        let flight = self.notifier.take_off(Hold::Build, 0);
        Completion { reply: self, event: None, launch: None, pace: None, turn: None, _flight: flight }
    }
}

/// What happens when a command is complete. Holds the slot's region; a completion that is dropped unused tells
/// nobody.
#[derive(Debug)]
pub(crate) struct Completion {
    reply: Reply,
    event: Option<Arc<EventState>>,
    /// Of a kernel that may print.
    launch: Option<Launch>,
    /// Of what occupies a device.
    pace: Option<pace::Flight>,
    /// When the guest may know, beside the queue's other commands.
    turn: Option<Turn>,
    // Last, so that the region is given up before the flight has landed.
    _flight: Flight,
}

impl Completion {
    pub(crate) fn has_slot(&self) -> bool {
        self.reply.is_wanted()
    }

    /// For a launch that may print.
    pub(crate) fn printing(self, launch: Option<Launch>) -> Completion {
        Completion { launch, ..self }
    }

    /// For what a device works on.
    pub(crate) fn paced(self, pace: Option<pace::Flight>) -> Completion {
        Completion { pace, ..self }
    }

    /// For a command of a queue.
    pub(crate) fn in_turn(self, turn: Option<Turn>) -> Completion {
        Completion { turn, ..self }
    }

    pub(crate) fn complete(self, outcome: Outcome) {
        let Completion { reply, event, launch, pace, turn, _flight } = self;
        // First, so that what is counted is there when the guest looks.
        drop(pace);
        drop(launch);
        let tell = move || {
            // The event before the slot: who sees the slot may look at the event.
            if let Some(event) = event {
                event.complete(outcome);
            }
            reply.complete(outcome, 0);
            drop(_flight);
        };
        match turn {
            Some(turn) => turn.deliver(tell),
            None => tell(),
        }
    }
}
