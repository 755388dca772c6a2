//! Responses that are not out yet, and in which order they may go.
//!
//! Unfenced responses go as soon as they are ready. Fenced ones go in the order of submission: without
//! context-init all processes of a guest share one timeline, on which signalling a fence signals all before it.
//! A held wait never stands in the way: a later fenced response takes it along, since a guest looks again
//! whenever it wakes.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use paragpu_protocol::limits::MAX_HELD_WAITS;

/// Time after which an executor is killed that does not end a context: a kernel that never ends has no other
/// cure.
pub const CONFIRM_TIMEOUT: Duration = Duration::from_secs(30);

/// Responses that may wait for the executor without limit of time. A mainline driver's control queue has 256
/// descriptors.
const MAX_PATIENT_RELEASES: usize = 64;

/// Names a request between arrival and response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// What a response waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing.
    Ready,
    /// A guest thread sleeps on it, at most until then.
    Wait {
        /// Its context.
        context: u32,
        /// When it is answered in any case.
        until: Instant,
    },
    /// The executor must confirm something first.
    Executor(Condition),
}

/// What the executor must confirm before a response may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Nothing touches the resource's pages; then it ends.
    Unref {
        /// The resource.
        resource: u32,
    },
    /// Nothing touches the resource's pages; then it has none.
    DetachBacking {
        /// The resource.
        resource: u32,
    },
    /// The context lets go of the resource.
    CtxDetach {
        /// The context.
        context: u32,
        /// The resource.
        resource: u32,
    },
    /// The context is gone.
    CtxDestroy {
        /// The context.
        context: u32,
    },
}

/// A response that is not out yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its request.
    pub token: Token,
    /// It carries a fence.
    pub fenced: bool,
    /// What it waits for.
    pub state: State,
    /// When its request came.
    pub arrived: Instant,
    /// Its bytes.
    pub response: Vec<u8>,
}

/// All of a vGPU's responses that are not out yet, in the order of their requests. Bounded by the queues'
/// sizes: each holds a descriptor chain, and a session stops a queue that pretends otherwise.
#[derive(Clone, Debug, Default)]
pub struct Pending {
    entries: VecDeque<Entry>,
}

impl Pending {
    /// Adds a response. The oldest held wait is due when there are too many.
    pub fn push(&mut self, entry: Entry) {
        self.entries.push_back(entry);
        let is_wait = |entry: &&mut Entry| matches!(entry.state, State::Wait { .. });
        if self.entries.iter_mut().filter(is_wait).count() > MAX_HELD_WAITS
            && let Some(oldest) = self.entries.iter_mut().find(is_wait)
        {
            oldest.state = State::Ready;
        }
    }

    /// Makes those held waits due that `due` picks by context and deadline.
    pub fn end_waits(&mut self, mut due: impl FnMut(u32, Instant) -> bool) {
        for entry in &mut self.entries {
            if let State::Wait { context, until } = entry.state
                && due(context, until)
            {
                entry.state = State::Ready;
            }
        }
    }

    /// Makes those ready whose condition the executor has met, as `met` says.
    pub fn meet(&mut self, mut met: impl FnMut(Condition) -> bool) {
        for entry in &mut self.entries {
            if let State::Executor(condition) = entry.state
                && met(condition)
            {
                entry.state = State::Ready;
            }
        }
    }

    /// Takes out what may go now, in order.
    pub fn take_due(&mut self) -> Vec<Entry> {
        let fenced = |entry: &&Entry| entry.fenced;
        // The last fenced response that is ready with no fenced one before it that the executor holds up.
        let through = self
            .entries
            .iter()
            .filter(fenced)
            .take_while(|entry| !matches!(entry.state, State::Executor(_)))
            .filter(|entry| entry.state == State::Ready)
            .map(|entry| entry.token)
            .last();
        let (due, kept) = self.entries.drain(..).partition(|entry| {
            if entry.fenced { Some(entry.token) <= through } else { entry.state == State::Ready }
        });
        self.entries = kept;
        let due: VecDeque<Entry> = due;
        due.into()
    }

    /// When to look again though nothing happened.
    pub fn next_deadline(&self) -> Option<Instant> {
        let waits = self.entries.iter().filter_map(|entry| match entry.state {
            State::Wait { until, .. } => Some(until),
            _ => None,
        });
        waits.chain(self.executor_deadline()).min()
    }

    /// When the executor must be killed if it has not confirmed something by then.
    ///
    /// A context must end in time. Pages that are only taken back may stay in use as long as a kernel runs, but
    /// each holds a descriptor of the control queue, and when these are out the whole guest stands still.
    pub fn executor_deadline(&self) -> Option<Instant> {
        let held = || self.entries.iter().filter(|entry| matches!(entry.state, State::Executor(_)));
        let crowded = held().count() >= MAX_PATIENT_RELEASES;
        let ending = |entry: &&Entry| matches!(entry.state, State::Executor(Condition::CtxDestroy { .. }));
        held().find(|entry| crowded || ending(entry)).map(|entry| entry.arrived + CONFIRM_TIMEOUT)
    }

    /// True if nothing is held back.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    fn entry(token: u64, fenced: bool, state: State) -> Entry {
        Entry { token: Token(token), fenced, state, arrived: Instant::now(), response: Vec::new() }
    }

    fn tokens(due: &[Entry]) -> Vec<u64> {
        due.iter().map(|entry| entry.token.0).collect()
    }

    const DETACH: State = State::Executor(Condition::DetachBacking { resource: 1 });

    fn wait() -> State {
        State::Wait { context: 1, until: Instant::now() + Duration::from_secs(1) }
    }

    #[test]
    fn an_unfenced_response_overtakes_and_a_fenced_one_does_not() {
        let mut pending = Pending::default();
        pending.push(entry(1, true, DETACH));
        pending.push(entry(2, true, State::Ready));
        pending.push(entry(3, false, State::Ready));
        assert_eq!(tokens(&pending.take_due()), [3]);
        pending.meet(|_| true);
        assert_eq!(tokens(&pending.take_due()), [1, 2]);
        assert!(pending.is_empty());
    }

    #[test]
    fn a_fenced_response_takes_earlier_waits_along_and_leaves_later_ones() {
        let mut pending = Pending::default();
        for (token, state) in [(1, wait()), (2, wait()), (3, State::Ready), (4, wait())] {
            pending.push(entry(token, true, state));
        }
        assert_eq!(tokens(&pending.take_due()), [1, 2, 3]);
        pending.end_waits(|_, _| true);
        assert_eq!(tokens(&pending.take_due()), [4]);
    }

    #[test]
    fn only_so_many_waits_are_held() {
        let mut pending = Pending::default();
        for token in 0..MAX_HELD_WAITS as u64 + 1 {
            pending.push(entry(token, true, wait()));
        }
        assert_eq!(tokens(&pending.take_due()), [0]);
    }

    #[test]
    fn pages_may_be_in_use_for_long_but_not_so_many_that_the_guest_stands_still() {
        let mut pending = Pending::default();
        for token in 0..MAX_PATIENT_RELEASES as u64 {
            assert_eq!(pending.executor_deadline(), None);
            pending.push(entry(token, false, DETACH));
        }
        assert!(pending.executor_deadline().is_some());
        let mut pending = Pending::default();
        pending.push(entry(0, false, State::Executor(Condition::CtxDestroy { context: 1 })));
        assert_eq!(pending.next_deadline(), pending.executor_deadline());
    }

    proptest! {
        #[test]
        fn fenced_responses_keep_their_order_and_all_come_out(
            steps in proptest::collection::vec((any::<bool>(), 0_u8..3, any::<bool>()), 1..60),
        ) {
            let mut pending = Pending::default();
            let mut out = Vec::new();
            for (token, (fenced, kind, settle)) in steps.iter().enumerate() {
                let state = match kind { 0 => State::Ready, 1 => wait(), _ => DETACH };
                pending.push(entry(token as u64, *fenced, state));
                if *settle {
                    out.extend(pending.take_due());
                }
            }
            pending.meet(|_| true);
            pending.end_waits(|_, _| true);
            out.extend(pending.take_due());
            prop_assert_eq!(out.len(), steps.len());
            let order: Vec<u64> = out.iter().filter(|e| e.fenced).map(|e| e.token.0).collect();
            prop_assert!(order.is_sorted());
        }
    }
}
