//! Whose kernels may print: one context's at a time, because drivers do not say which kernel a line is of.
//!
//! Decisions only; the descriptor, the clock and the waiting are outside.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::super::objects::Gates;

/// What the printer calls a context.
pub(super) type Client = u64;

/// A context whose turn does not come in this time takes it: the others' kernels may be without end, or wait for it.
/// Lines of both may be mixed then.
const PATIENCE: Duration = Duration::from_secs(10);

/// May a context launch a kernel that prints?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Yes.
    Now,
    /// Yes, when what was printed so far has been read: that is another context's. Then [`Turns::begin`].
    AfterReading,
    /// Not yet.
    Later,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Turns {
    owner: Option<Client>,
    /// Printing kernels in flight, and the user events that hold each back.
    launches: HashMap<u64, (Client, Gates)>,
    launched: u64,
    /// Who waits, in order, and since when.
    waiting: VecDeque<(Client, Instant)>,
}

impl Turns {
    /// Whose what is printed now is.
    pub(super) fn owner(&self) -> Option<Client> {
        self.owner
    }

    /// True if somebody waits for a turn.
    pub(super) fn is_awaited(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Asks for a turn. One who is told to wait asks again, until the turn comes or the context ends.
    pub(super) fn ask(&mut self, who: Client, now: Instant) -> Turn {
        let first = self.waiting.front().is_none_or(|(first, _)| *first == who);
        if first && self.owner == Some(who) {
            self.waiting.pop_front();
            return Turn::Now;
        }
        let since = match self.waiting.iter().find(|(waiting, _)| *waiting == who) {
            Some((_, since)) => *since,
            None => {
                self.waiting.push_back((who, now));
                now
            }
        };
        let overdue = now.saturating_duration_since(since) >= PATIENCE;
        if first && (overdue || !self.others_move(who)) { Turn::AfterReading } else { Turn::Later }
    }

    /// True if a printing kernel of another context is in flight that does not wait for a user event. One that does may
    /// wait for ever, or for what the one who asks does next.
    fn others_move(&self, who: Client) -> bool {
        let moves = |gates: &Gates| !gates.iter().any(|gate| gate.is_open());
        self.launches.values().any(|(client, gates)| *client != who && moves(gates))
    }

    /// What is printed from now on is this context's.
    pub(super) fn begin(&mut self, who: Client) {
        self.owner = Some(who);
        self.waiting.retain(|(client, _)| *client != who);
    }

    /// A printing kernel takes off. Returns its number.
    pub(super) fn launch(&mut self, who: Client) -> u64 {
        self.launched += 1;
        self.launches.insert(self.launched, (who, Gates::new()));
        self.launched
    }

    /// These user events hold a launch back.
    pub(super) fn hold(&mut self, launch: u64, gates: Gates) {
        if let Some((_, held)) = self.launches.get_mut(&launch) {
            *held = gates;
        }
    }

    /// A printing kernel has ended. Returns what held it back, to be dropped where no lock is held.
    pub(super) fn land(&mut self, launch: u64) -> Gates {
        self.launches.remove(&launch).map(|(_, gates)| gates).unwrap_or_default()
    }

    /// A context has ended, and all its kernels.
    pub(super) fn leave(&mut self, who: Client) {
        self.waiting.retain(|(client, _)| *client != who);
        if self.owner == Some(who) {
            self.owner = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::super::backend::Outcome;
    use super::super::super::objects::EventState;
    use super::*;

    const A: Client = 1;
    const B: Client = 2;
    const C: Client = 3;

    #[test]
    fn one_context_alone_never_waits() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        assert_eq!(turns.ask(A, now), Turn::AfterReading);
        turns.begin(A);
        for _ in 0..3 {
            turns.launch(A);
            assert_eq!(turns.ask(A, now), Turn::Now);
        }
        assert!(!turns.is_awaited());
    }

    #[test]
    fn another_context_waits_until_all_launches_have_landed() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        turns.begin(A);
        let launches = [turns.launch(A), turns.launch(A)];
        assert_eq!(turns.ask(B, now), Turn::Later);
        turns.land(launches[0]);
        assert_eq!(turns.ask(B, now), Turn::Later);
        turns.land(launches[1]);
        assert_eq!(turns.ask(B, now), Turn::AfterReading);
        assert_eq!(turns.owner(), Some(A), "until it is read");
        turns.begin(B);
        assert_eq!(turns.owner(), Some(B));
        assert!(!turns.is_awaited());
    }

    #[test]
    fn whoever_has_the_turn_goes_behind_those_who_wait() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        turns.begin(A);
        let launch = turns.launch(A);
        assert_eq!(turns.ask(B, now), Turn::Later);
        assert_eq!(turns.ask(C, now), Turn::Later);
        assert_eq!(turns.ask(A, now), Turn::Later, "or the others would never come");
        turns.land(launch);
        assert_eq!(turns.ask(C, now), Turn::Later, "B was first");
        assert_eq!(turns.ask(A, now), Turn::Later);
        assert_eq!(turns.ask(B, now), Turn::AfterReading);
        turns.begin(B);
        assert_eq!(turns.ask(B, now), Turn::Later, "C and A wait");
        assert_eq!(turns.ask(C, now), Turn::AfterReading);
        turns.begin(C);
        assert_eq!(turns.ask(A, now), Turn::AfterReading);
    }

    #[test]
    fn a_launch_behind_an_open_user_event_keeps_nobody_waiting() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        turns.begin(A);
        let launch = turns.launch(A);
        assert_eq!(turns.ask(B, now), Turn::Later);
        let gate = Arc::new(EventState::user());
        turns.hold(launch, vec![gate.clone()]);
        assert_eq!(turns.ask(B, now), Turn::AfterReading);
        gate.complete(Outcome::SUCCESS);
        assert_eq!(turns.ask(B, now), Turn::Later, "it is on its way");
    }

    #[test]
    fn patience_has_an_end() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        turns.begin(A);
        turns.launch(A);
        assert_eq!(turns.ask(B, now), Turn::Later);
        assert_eq!(turns.ask(B, now + PATIENCE - Duration::from_millis(1)), Turn::Later);
        assert_eq!(turns.ask(B, now + PATIENCE), Turn::AfterReading);
    }

    #[test]
    fn who_leaves_holds_up_nobody() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        turns.begin(A);
        let launch = turns.launch(A);
        assert_eq!(turns.ask(B, now), Turn::Later);
        assert_eq!(turns.ask(C, now), Turn::Later);
        turns.leave(B);
        turns.land(launch);
        turns.leave(A);
        assert_eq!(turns.owner(), None);
        assert_eq!(turns.ask(C, now), Turn::AfterReading);
    }
}
