//! Somebody having a device: what it pays for that, and when it must give it up.

use super::account::{Account, Nanos, Rank};

/// Least time for which somebody has the device before others of the same standing get it: a change costs some 0.1 ms.
pub(super) const MIN_RUN: Nanos = 2_000_000;

/// Of those who wait for an equal part, so many do not make it longer; it is as much longer as there are more. Whoever waits
/// for a hundred others waits long, whatever each of them gets at once, and the changes are everybody's loss.
const FEW: usize = 16;

/// … up to this.
const LONGEST_MIN_RUN: Nanos = 20_000_000;

/// Least time for which somebody has the device while so many others wait.
pub(super) fn min_run(waiting: usize) -> Nanos {
    let many = waiting.div_ceil(FEW).max(1) as Nanos;
    many.saturating_mul(MIN_RUN).min(LONGEST_MIN_RUN)
}

/// Somebody whom others are ahead of by less than this goes on.
const GRANULARITY: u128 = 1_000_000;

/// How often a holder is looked at whom nobody asks to give the device back.
const OBSERVE: Nanos = 1_000_000_000;

/// A lease that is had.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hold {
    pub(super) since: Nanos,
    /// Time in which others waited, since the last charge; added up until `counted`, and going on if `contended`.
    pub(super) contended_for: Nanos,
    pub(super) counted: Nanos,
    pub(super) contended: bool,
    pub(super) recalled: Option<Nanos>,
    /// The client's claim at the last charge.
    pub(super) claim: u64,
    /// Charged of this hold so far.
    pub(super) charged: Nanos,
    /// Landed commands when they were last seen to change, and when that was.
    pub(super) landed: (u64, Nanos),
    pub(super) observed: Nanos,
}

impl Hold {
    pub(super) fn new(now: Nanos, contended: bool, claim: u64, landed: u64) -> Hold {
        Hold {
            since: now,
            counted: now,
            contended_for: 0,
            contended,
            recalled: None,
            claim,
            charged: 0,
            landed: (landed, now),
            observed: now,
        }
    }

    pub(super) fn count(&mut self, now: Nanos) {
        if self.contended || self.recalled.is_some() {
            self.contended_for += now.saturating_sub(self.counted);
        }
        self.counted = self.counted.max(now);
    }

    /// So many of its commands have landed.
    pub(super) fn see(&mut self, landed: u64, now: Nanos) {
        if self.landed.0 != landed {
            self.landed = (landed, now);
        }
    }

    /// When it has not given the device back in time: what is in flight has taken longer than `limit`, be it that somebody
    /// asked for the device meanwhile; or whatever it says of that, since it was asked.
    pub(super) fn overdue_at(&self, limit: Nanos) -> Nanos {
        let asked = self.recalled.unwrap_or(self.counted);
        self.landed.1.min(asked).saturating_add(limit)
    }

    pub(super) fn ran(&self, now: Nanos) -> Nanos {
        now.saturating_sub(self.since)
    }

    /// What has been used at least, and is not charged. While others wait, all of the time counts, used or not.
    pub(super) fn uncharged(&self, now: Nanos) -> Nanos {
        let mut counted = *self;
        counted.count(now);
        counted.contended_for
    }

    /// What is to be charged, given the client's own claim: believed where it is possible and nobody is harmed.
    pub(super) fn due(&mut self, claim: u64, now: Nanos) -> Nanos {
        self.count(now);
        // A command that was in flight at the last charge is claimed now for all of its time.
        let claimed = claim.saturating_sub(self.claim).min(self.ran(now).saturating_sub(self.charged));
        let due = claimed.max(std::mem::take(&mut self.contended_for));
        self.claim = self.claim.max(claim);
        self.charged += due;
        due
    }
}

/// When a holder is to be looked at that nobody asks to give the device back: what it uses then only it says.
pub(super) fn look_again(account: &Account, hold: &Hold, now: Nanos) -> Nanos {
    let left =
        account.limit.as_ref().map_or(OBSERVE, |limit| limit.left_beside(hold.uncharged(now)).max(MIN_RUN));
    hold.observed.saturating_add(left.min(OBSERVE))
}

/// Must a holder of this rank, that ran for `ran`, make way for one that waits?
pub(super) fn makes_way(holder: Rank, ran: Nanos, waiting: Rank, slice: Nanos, min_run: Nanos) -> bool {
    match (holder, waiting) {
        (Rank::Deadline(holder), Rank::Deadline(waiting)) => waiting < holder && ran >= MIN_RUN,
        (_, Rank::Deadline(_)) => true,
        (Rank::Deadline(_), _) => false,
        (Rank::Promised(_), Rank::Promised(_)) => ran >= slice,
        (Rank::Fair(_), Rank::Promised(_)) => ran >= MIN_RUN,
        (Rank::Promised(_), Rank::Fair(_)) => false,
        (Rank::Fair(holder), Rank::Fair(waiting)) => {
            let behind = waiting.saturating_add(GRANULARITY) < holder;
            ran >= min_run && (behind || ran >= slice && waiting < holder)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Nanos = 1_000_000;

    #[test]
    fn the_more_wait_the_longer_each_has_it() {
        let runs = [0, 1, 16, 17, 127, 10_000].map(min_run);
        assert_eq!(runs.map(|run| run / MS), [2, 2, 2, 4, 16, 20]);
    }

    #[test]
    fn whoever_has_had_more_makes_way_when_that_time_is_over() {
        let (holder, waiting) = (Rank::Fair(u128::from(10 * MS)), Rank::Fair(0));
        assert!(!makes_way(holder, 15 * MS, waiting, 8 * MS, 16 * MS));
        assert!(makes_way(holder, 16 * MS, waiting, 8 * MS, 16 * MS));
        assert!(!makes_way(waiting, 16 * MS, holder, 8 * MS, 16 * MS));
        // A deadline does not wait for that.
        assert!(makes_way(holder, 0, Rank::Deadline(0), 8 * MS, 16 * MS));
    }
}
