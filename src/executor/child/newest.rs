//! The newest command of a queue, and who waits for it.
//!
//! Waiting for all commands of an in-order queue is waiting for the newest. A marker behind it would say the same, but is a
//! command itself: the driver wakes a thread for it, after the one before is over.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::backend::{ClError, Outcome};
use super::completion::Completion;

/// A command whose end the driver tells.
#[derive(Default)]
pub(crate) struct Newest {
    state: Mutex<State>,
}

enum State {
    /// It is on its way, and these wait for it, each with an error that it is to be told instead of the outcome.
    Out(Vec<(Completion, Option<ClError>)>),
    /// It is over, with this status.
    Over(i32),
}

impl Default for State {
    fn default() -> State {
        State::Out(Vec::new())
    }
}

impl Newest {
    pub(crate) fn new() -> Arc<Newest> {
        Arc::default()
    }

    /// Completes `waiting` when the command is over, perhaps at once: with `error` if there is one, otherwise as the command
    /// ended. Those who wait count as commands in flight, which bounds them.
    pub(crate) fn join(&self, waiting: Completion, error: Option<ClError>) {
        let status = match &mut *self.lock() {
            State::Out(all) => {
                all.push((waiting, error));
                return;
            }
            State::Over(status) => *status,
        };
        waiting.complete(outcome(status, error));
    }

    /// The command is over.
    pub(crate) fn over(&self, status: i32) {
        let before = std::mem::replace(&mut *self.lock(), State::Over(status));
        if let State::Out(all) = before {
            for (waiting, error) in all {
                waiting.complete(outcome(status, error));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn outcome(status: i32, error: Option<ClError>) -> Outcome {
    error.map_or(Outcome { status, profile: None }, Outcome::failed)
}

impl fmt::Debug for Newest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.lock() {
            State::Out(all) => write!(f, "on its way, {} wait", all.len()),
            State::Over(status) => write!(f, "over: {status}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::child::completion::{Notifier, Reply};
    use crate::sys::map::{Mapping, Window};
    use paragpu_protocol::slot::{DONE, SLOT_BYTES, Slot};
    use zerocopy::FromBytes;

    /// Somebody who waits, and where they look.
    fn waiting() -> (Completion, impl Fn() -> Option<i32>) {
        let memory = Arc::new(Mapping::anonymous(4096).unwrap());
        let slot = Window::new(Arc::clone(&memory), 0, SLOT_BYTES.into());
        let completion = Reply::new(slot, &Arc::new(Notifier::default())).later(None, Default::default(), 0);
        let status = move || {
            let mut bytes = [0; SLOT_BYTES as usize];
            assert!(memory.read(0, &mut bytes));
            let slot = Slot::read_from_bytes(&bytes).unwrap();
            (slot.state.get() == DONE).then_some(slot.status.get())
        };
        (completion, status)
    }

    #[test]
    fn who_waits_is_told_when_the_command_is_over_and_who_comes_later_at_once() {
        let newest = Newest::new();
        let ((first, first_status), (other, other_status), (late, late_status)) =
            (waiting(), waiting(), waiting());
        newest.join(first, None);
        newest.join(other, Some(ClError::OUT_OF_RESOURCES));
        assert_eq!((first_status(), other_status()), (None, None));
        newest.over(-59);
        assert_eq!((first_status(), other_status()), (Some(-59), Some(ClError::OUT_OF_RESOURCES.code())));
        newest.join(late, None);
        assert_eq!(late_status(), Some(-59));
    }
}
