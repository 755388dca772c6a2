//! Threads that send, a device that lands, and a scheduler, in any order: nobody sleeps for ever.

use std::os::fd::AsFd;

use proptest::prelude::{Just, Strategy, any, prop, prop_assert, prop_oneof, proptest};
use rustix::event::{EventfdFlags, eventfd};

use super::super::backend::Outcome;
use super::super::objects::EventState;
use super::*;

fn event() -> OwnedFd {
    eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).unwrap()
}

fn pace() -> Arc<Pace> {
    let (page, _file) = LeasePage::create().unwrap();
    Pace::new(page, event(), event(), 1)
}

fn of_nanos(nanos: u64) -> Estimate {
    Estimate { nanos, kernel: None, command: "" }
}

impl Pace {
    /// What the scheduler does.
    fn lend(&self, contended: bool) -> bool {
        let is_lent = word::lend(self.page.lease(0), contended);
        if is_lent {
            self.wake();
        }
        is_lent
    }
}

impl Pacer {
    /// True if it would not sleep. Takes what has woken it.
    fn is_woken(&self) -> bool {
        let mut events = [Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; 2];
        epoll::wait(&self.poll, &mut events[..], Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() > 0
    }

    fn fly(&self, nanos: u64) -> Flight {
        self.take_off(0, 0, of_nanos(nanos), &Gates::new()).unwrap()
    }
}

/// Two contexts that have the lease.
fn two(contended: bool) -> [Pacer; 2] {
    let pace = pace();
    let mut both = [event(), event()].map(|doorbell| pace.pacer(None, doorbell.as_fd()).unwrap());
    assert!(!both[0].admit(0));
    assert!(pace.lend(contended));
    assert!(both.iter_mut().all(|pacer| pacer.admit(0)));
    assert!(both.iter().all(Pacer::is_woken));
    both
}

fn falls_asleep(pacer: &mut Pacer) {
    assert!(!pacer.admit(0));
    // An active thread asks again once it rests, as something may have landed meanwhile.
    if !pacer.rest(Some(0)) {
        assert!(!pacer.admit(0) && pacer.rest(Some(0)));
    }
    assert!(!pacer.is_woken());
}

#[test]
fn who_waits_for_room_is_woken_when_half_has_landed() {
    for (contended, most) in [(true, AHEAD_CONTENDED), (false, AHEAD_ALONE)] {
        let [mut waits, other] = two(contended);
        let mut flights: Vec<Flight> = (0..32).map(|_| other.fly(most / 32)).collect();
        falls_asleep(&mut waits);
        for _ in 0..15 {
            flights.pop();
            assert!(!waits.is_woken());
        }
        flights.pop();
        assert!(waits.is_woken() && waits.admit(0), "contended: {contended}");
    }
}

#[test]
fn who_waits_behind_long_commands_is_woken_for_the_last_but_one_when_alone_and_else_for_the_last() {
    for contended in [false, true] {
        let [mut waits, other] = two(contended);
        let flights = [0; 2].map(|_| other.fly(10 * AHEAD_ALONE));
        falls_asleep(&mut waits);
        let [one, last] = flights;
        drop(one);
        assert_eq!(waits.is_woken(), !contended);
        assert_eq!(waits.admit(0), !contended);
        drop(last);
        assert_eq!(waits.is_woken(), contended, "the other one is awake");
        assert!(waits.admit(0));
    }
}

#[test]
fn who_waits_behind_short_commands_beside_long_ones_is_woken_when_the_short_ones_have_landed() {
    let [mut waits, other] = two(false);
    // Nobody knows when these land.
    let long = [0; 2].map(|_| other.fly(AHEAD_ALONE / 3));
    let mut short: Vec<Flight> = (0..30).map(|_| waits.fly(AHEAD_ALONE / 90)).collect();
    short.push(waits.fly(AHEAD_ALONE / 90));
    falls_asleep(&mut waits);
    while short.len() > 1 {
        short.pop();
        assert!(!waits.is_woken());
    }
    drop(short);
    assert!(waits.is_woken() && waits.admit(0));
    drop(long);
}

#[test]
fn what_a_user_event_holds_back_makes_room_at_once() {
    let [mut waits, other] = two(true);
    other.load(0, AHEAD_CONTENDED);
    falls_asleep(&mut waits);
    // Nothing is in flight that could land: what was not watched stands behind the event now.
    let gate = Arc::new(EventState::user());
    let flight = other.take_off(0, AHEAD_CONTENDED, of_nanos(0), &vec![gate.clone()]);
    assert!(waits.is_woken() && waits.admit(0));
    gate.complete(Outcome::SUCCESS);
    other.release_gated();
    falls_asleep(&mut waits);
    drop(flight);
    assert!(waits.is_woken() && waits.admit(0));
}

/// A command of a context.
#[derive(Clone, Copy, Debug)]
enum Frame {
    /// To a queue, taking so long by estimate. `watched` in any case.
    Run { queue: usize, nanos: u64, watched: bool, gated: bool },
    /// Ends the user event, if one is open.
    Open,
}

/// An in-order queue.
#[derive(Default)]
struct Queue {
    unwatched: u64,
    /// What is in flight, the oldest first, with what holds it back.
    flights: std::collections::VecDeque<(Flight, Gates)>,
    gates: Gates,
}

/// A context and its thread, as `ring.rs` and `dispatch/` have them.
struct Thread {
    pacer: Pacer,
    frames: std::collections::VecDeque<Frame>,
    asleep: bool,
    queues: [Queue; 3],
    gate: Option<Arc<EventState>>,
}

impl Thread {
    fn take_off(&mut self, queue: usize, estimate: Estimate) {
        let queue = &mut self.queues[queue];
        queue.gates.retain(|gate| gate.is_open());
        let flight = self.pacer.take_off(0, std::mem::take(&mut queue.unwatched), estimate, &queue.gates);
        queue.flights.extend(flight.map(|flight| (flight, queue.gates.clone())));
    }

    fn rest(&mut self, waits_for: Option<usize>) -> bool {
        for queue in 0..self.queues.len() {
            if self.queues[queue].unwatched > 0 {
                self.take_off(queue, of_nanos(0));
            }
        }
        self.pacer.rest(waits_for)
    }

    /// One turn. False if there was nothing to do. The application ends its user event only when it may.
    fn turn(&mut self, may_open: bool) -> bool {
        if self.asleep {
            self.asleep = !self.pacer.is_woken();
            return !self.asleep;
        }
        let frame = self.frames.front().copied().filter(|frame| may_open || !matches!(frame, Frame::Open));
        let Some(frame) = frame else {
            self.rest(None);
            return false;
        };
        let may_go = match frame {
            Frame::Run { .. } => self.pacer.admit(0),
            Frame::Open => self.pacer.gated().into_iter().all(|device| self.pacer.admit(device)),
        };
        if !may_go {
            self.asleep = self.rest(Some(0));
            return true;
        }
        self.frames.pop_front();
        match frame {
            Frame::Open => {
                if let Some(gate) = self.gate.take() {
                    gate.complete(Outcome::SUCCESS);
                    self.pacer.release_gated();
                }
            }
            Frame::Run { queue, nanos, watched, gated } => {
                let of = &mut self.queues[queue];
                if gated {
                    of.gates.push(self.gate.get_or_insert_with(|| Arc::new(EventState::user())).clone());
                }
                let is_held = of.gates.iter().any(|gate| gate.is_open());
                if watched || is_held || of.unwatched + nanos >= WORTH_WATCHING {
                    self.take_off(queue, of_nanos(nanos));
                } else {
                    of.unwatched += nanos;
                    self.pacer.load(0, nanos);
                }
            }
        }
        true
    }

    /// The oldest command of a queue lands, if there is one that may.
    fn land(&mut self, queue: usize) -> bool {
        let flights = &mut self.queues[queue].flights;
        let is_held = |(_, gates): &(Flight, Gates)| gates.iter().any(|gate| gate.is_open());
        let landed = if flights.front().is_some_and(is_held) { None } else { flights.pop_front() };
        landed.is_some()
    }
}

/// What happens next.
#[derive(Clone, Copy, Debug)]
enum Step {
    Turn(usize),
    Land(usize, usize),
    Lend(bool),
    Contend(bool),
    Recall,
}

const THREADS: usize = 3;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0..THREADS).prop_map(Step::Turn),
        4 => (0..THREADS, 0..3_usize).prop_map(|(thread, queue)| Step::Land(thread, queue)),
        3 => any::<bool>().prop_map(Step::Lend),
        2 => any::<bool>().prop_map(Step::Contend),
        1 => Just(Step::Recall),
    ];
    prop::collection::vec(step, 0..200)
}

fn frames() -> impl Strategy<Value = Vec<Frame>> {
    let nanos = prop_oneof![500..WORTH_WATCHING, 100_000..3_000_000_u64, 3_000_000..30_000_000_u64];
    let run = (0..3_usize, nanos, prop::bool::weighted(0.2), prop::bool::weighted(0.1))
        .prop_map(|(queue, nanos, watched, gated)| Frame::Run { queue, nanos, watched, gated });
    prop::collection::vec(prop_oneof![12 => run, 1 => Just(Frame::Open)], 0..60)
}

/// Threads, a device and a scheduler.
struct World {
    pace: Arc<Pace>,
    threads: Vec<Thread>,
}

impl World {
    fn new(frames: Vec<Vec<Frame>>) -> World {
        let pace = pace();
        let thread = |frames: Vec<Frame>| Thread {
            pacer: pace.pacer(None, event().as_fd()).unwrap(),
            // Whatever is held back is let go in the end.
            frames: frames.into_iter().chain([Frame::Open]).collect(),
            asleep: false,
            queues: Default::default(),
            gate: None,
        };
        let threads = frames.into_iter().map(thread).collect();
        World { pace, threads }
    }

    /// An application ends its user event when the processes before it are done: it may wait for what they compute.
    fn turn(&mut self, thread: usize) -> bool {
        let may_open = self.threads[..thread].iter().all(|before| before.frames.is_empty());
        self.threads[thread].turn(may_open)
    }

    fn step(&mut self, step: Step) {
        let lease = self.pace.page.lease(0);
        match step {
            Step::Turn(thread) => {
                self.turn(thread);
            }
            Step::Land(thread, queue) => {
                self.threads[thread].land(queue);
            }
            Step::Lend(contended) => {
                self.pace.lend(contended);
            }
            Step::Contend(contended) => {
                word::contend(lease, contended);
            }
            Step::Recall => {
                word::take(lease);
            }
        }
    }

    /// Nobody else wants anything, and everybody does what they can. False if somebody sleeps for ever.
    fn ends(&mut self) -> bool {
        loop {
            let mut goes_on = self.pace.lend(false);
            for thread in 0..self.threads.len() {
                goes_on |= self.turn(thread);
                for queue in 0..3 {
                    goes_on |= self.threads[thread].land(queue);
                }
            }
            if !goes_on {
                return self.threads.iter().all(|thread| thread.frames.is_empty());
            }
        }
    }
}

proptest! {
    #[test]
    fn nobody_sleeps_for_ever(
        frames in prop::collection::vec(frames(), THREADS),
        steps in steps(),
    ) {
        let mut world = World::new(frames);
        for step in steps {
            world.step(step);
        }
        prop_assert!(world.ends());
        let device = world.pace.device(0);
        prop_assert!((device.up, device.long, device.active, device.wants, device.load) == (0, 0, 0, 0, 0));
        prop_assert!(word::look(world.pace.page.lease(0)) != word::Look::Busy, "it keeps the lease");
    }
}
