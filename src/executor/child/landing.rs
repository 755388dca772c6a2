//! In which order a queue's commands are complete for the guest.
//!
//! A driver first knows that a command is complete, and then calls back. What follows the command may begin between the two,
//! and a marker may even be over: its callback can come first. But who sees that a queue has finished may look at the events
//! of all that was in it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

type Deliver = Box<dyn FnOnce() + Send>;

/// The commands of one queue that the guest does not know to be complete.
#[derive(Default)]
pub(crate) struct Landing {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next: u64,
    out: BTreeMap<u64, Command>,
}

struct Command {
    /// It is told after all before it.
    follows: bool,
    stage: Stage,
}

enum Stage {
    /// It runs.
    Out,
    /// It is complete.
    Back(Deliver),
    /// Somebody is telling.
    Told,
}

impl Landing {
    /// A command's place, behind those that have one. One that `follows` is told after all before it.
    pub(crate) fn join(self: &Arc<Self>, follows: bool) -> Turn {
        let mut state = self.lock();
        let number = state.next;
        state.next += 1;
        state.out.insert(number, Command { follows, stage: Stage::Out });
        Turn { landing: Arc::clone(self), number }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells what can be told. Whoever is first at a command tells it, and then what waited for that.
    fn tell(&self) {
        let mut state = self.lock();
        while let Some((number, deliver)) = state.take_next() {
            drop(state);
            deliver();
            state = self.lock();
            state.out.remove(&number);
        }
    }
}

impl State {
    fn take_next(&mut self) -> Option<(u64, Deliver)> {
        let first = *self.out.first_key_value()?.0;
        let can = |number: u64, command: &Command| {
            matches!(command.stage, Stage::Back(_)) && (!command.follows || number == first)
        };
        let (number, command) = self.out.iter_mut().find(|(number, command)| can(**number, command))?;
        match std::mem::replace(&mut command.stage, Stage::Told) {
            Stage::Back(deliver) => Some((*number, deliver)),
            Stage::Out | Stage::Told => None,
        }
    }
}

/// A command's place. Dropped, there is nothing to tell.
#[derive(Debug)]
pub(crate) struct Turn {
    landing: Arc<Landing>,
    number: u64,
}

impl Turn {
    /// The command is complete: `deliver` tells the guest, now or when those before it are complete.
    pub(crate) fn deliver(self, deliver: impl FnOnce() + Send + 'static) {
        if let Some(command) = self.landing.lock().out.get_mut(&self.number) {
            command.stage = Stage::Back(Box::new(deliver));
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.landing.lock();
        if state.out.get(&self.number).is_some_and(|command| matches!(command.stage, Stage::Out)) {
            state.out.remove(&self.number);
        }
        drop(state);
        self.landing.tell();
    }
}

impl fmt::Debug for Landing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Landing").field("out", &self.lock().out.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(log: &Arc<Mutex<Vec<u32>>>, number: u32) -> impl FnOnce() + Send + 'static {
        let log = log.clone();
        move || log.lock().unwrap().push(number)
    }

    #[test]
    fn what_follows_is_told_after_all_before_it_and_the_rest_at_once() {
        let (landing, log) = (Arc::new(Landing::default()), Arc::new(Mutex::new(Vec::new())));
        let [first, other, gone, last] = [true, false, true, true].map(|follows| landing.join(follows));
        last.deliver(told(&log, 3));
        other.deliver(told(&log, 1));
        assert_eq!(*log.lock().unwrap(), [1]);
        drop(gone);
        first.deliver(told(&log, 0));
        assert_eq!(*log.lock().unwrap(), [1, 0, 3]);
        assert!(landing.lock().out.is_empty());
    }

    #[test]
    fn threads_that_call_back_in_any_order_tell_in_the_queues_order() {
        const COMMANDS: u32 = 2_000;
        let (landing, log) = (Arc::new(Landing::default()), Arc::new(Mutex::new(Vec::new())));
        let turns: Vec<(u32, Turn)> = (0..COMMANDS).map(|number| (number, landing.join(true))).collect();
        let (even, odd): (Vec<_>, Vec<_>) = turns.into_iter().partition(|(number, _)| number % 2 == 0);
        std::thread::scope(|scope| {
            for turns in [even, odd] {
                let log = &log;
                scope.spawn(move || turns.into_iter().for_each(|(n, turn)| turn.deliver(told(log, n))));
            }
        });
        assert!(log.lock().unwrap().iter().copied().eq(0..COMMANDS));
    }

    #[test]
    fn telling_may_complete_another_command_of_the_queue() {
        let (landing, log) = (Arc::new(Landing::default()), Arc::new(Mutex::new(Vec::new())));
        let (first, second) = (landing.join(true), landing.join(true));
        let (own, after) = (told(&log, 0), told(&log, 1));
        first.deliver(move || {
            second.deliver(after);
            own();
        });
        assert_eq!(*log.lock().unwrap(), [0, 1]);
    }
}
