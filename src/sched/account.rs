//! What a vGPU may take of a device, and what it has taken.

use std::time::Duration;

use super::policy::{BEST_EFFORT_WEIGHT, DEFAULT_WEIGHT, Policy, Terms};

/// A point in time, in nanoseconds since some start.
pub(super) type Nanos = u64;

/// Time over which a part of the device is granted: a vGPU that may have a quarter gets a quarter of this at once, at most.
const PERIOD: Nanos = 100_000_000;

/// Time after which one eviction is forgotten.
const FORGIVE: Nanos = 60_000_000_000;

/// Device time at a rate: a part of each second, some of it saved up. Whoever took more than there was owes it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowance {
    rate: f64,
    left: f64,
    at: Nanos,
    /// Used up, and not yet worth a start again.
    exhausted: bool,
}

impl Allowance {
    pub(super) fn new(rate: f64, now: Nanos) -> Allowance {
        let mut new = Allowance { rate, left: 0.0, at: now, exhausted: false };
        new.left = new.most();
        new
    }

    fn most(&self) -> f64 {
        self.rate * PERIOD as f64
    }

    /// What is worth a start: half of what can be saved up.
    fn enough(&self) -> f64 {
        self.most() / 2.0
    }

    pub(super) fn set_rate(&mut self, rate: f64, now: Nanos) {
        self.refill(now);
        self.rate = rate;
        self.left = self.left.min(self.most());
    }

    pub(super) fn refill(&mut self, now: Nanos) {
        let gained = now.saturating_sub(self.at) as f64 * self.rate;
        self.at = self.at.max(now);
        self.left = (self.left + gained).min(self.most());
        if self.left >= self.enough() {
            self.exhausted = false;
        }
    }

    pub(super) fn take(&mut self, used: Nanos) {
        self.left -= used as f64;
        if self.left <= 0.0 {
            self.exhausted = true;
        }
    }

    /// Nanoseconds of device time that are left, beside `used` of what is running.
    pub(super) fn left_beside(&self, used: Nanos) -> Nanos {
        (self.left - used as f64).max(0.0) as Nanos
    }

    pub(super) fn is_exhausted(&self) -> bool {
        self.exhausted
    }

    /// When there will be enough again.
    pub(super) fn enough_at(&self) -> Nanos {
        let missing = (self.enough() - self.left).max(0.0) / self.rate.max(1e-6);
        // A little later, so that rounding does not make it a little too early.
        self.at.saturating_add(missing as Nanos).saturating_add(1_000)
    }
}

/// Who goes first: the least. Comparable with any other account's of the same device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    /// Before a deadline, which is at this time.
    Deadline(Nanos),
    /// Within a part of the device that was promised; waiting since then.
    Promised(Nanos),
    /// By what it has had for its weight.
    Fair(u128),
}

/// A vGPU on one device.
#[derive(Clone, Debug)]
pub(super) struct Account {
    pub(super) terms: Terms,
    pub(super) paused: bool,
    /// Connections of the vGPU.
    pub(super) connections: usize,
    /// Device time in nanoseconds, each counted as [`DEFAULT_WEIGHT`] divided by the weight.
    pub(super) virtual_time: u128,
    /// Most that it may have, if there is such a limit.
    pub(super) limit: Option<Allowance>,
    /// What it may have before others, for its deadlines.
    pub(super) ahead: Option<Allowance>,
    pub(super) back_off_until: Nanos,
    strikes: u32,
    struck_at: Nanos,
}

fn nanos(duration: Duration) -> Nanos {
    duration.as_nanos().try_into().unwrap_or(Nanos::MAX)
}

impl Account {
    pub(super) fn new(terms: Terms, now: Nanos) -> Account {
        let mut account = Account {
            terms,
            paused: false,
            connections: 0,
            virtual_time: 0,
            limit: None,
            ahead: None,
            back_off_until: 0,
            strikes: 0,
            struck_at: 0,
        };
        account.set_terms(terms, 0, now);
        account
    }

    /// Changes the terms. What was used under the old ones stays used: what it is ahead of `floor`, the least virtual time
    /// of those who are active, is as much device time as before, and weighed anew.
    pub(super) fn set_terms(&mut self, terms: Terms, floor: u128, now: Nanos) {
        let before = u128::from(self.weight());
        self.terms = terms;
        let ahead = self.virtual_time.saturating_sub(floor);
        self.virtual_time = self.virtual_time - ahead + ahead * before / u128::from(self.weight());
        self.ahead = match terms.policy {
            Policy::Deadline { share, .. } => Some(match self.ahead {
                Some(mut ahead) => {
                    ahead.set_rate(share / 100.0, now);
                    ahead
                }
                None => Allowance::new(share / 100.0, now),
            }),
            _ => None,
        };
    }

    /// Sets how much of the device, as a part of 1, it may have at most; `equal` is what an equal share is now.
    pub(super) fn set_limit(&mut self, equal: f64, now: Nanos) {
        let of_policy = match self.terms.policy {
            Policy::FixedShare { share } => Some(share / 100.0),
            Policy::EqualShare => Some(equal),
            Policy::BestEffort | Policy::Weighted { .. } | Policy::Deadline { .. } => None,
        };
        let of_cap = self.terms.cap.map(|cap| cap / 100.0);
        let rate = match (of_policy, of_cap) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        // The whole device is no limit.
        let rate = rate.filter(|rate| *rate < 0.999_999);
        self.limit = match (rate, self.limit) {
            (None, _) => None,
            (Some(rate), None) => Some(Allowance::new(rate, now)),
            (Some(rate), Some(mut limit)) => {
                limit.set_rate(rate, now);
                Some(limit)
            }
        };
    }

    pub(super) fn weight(&self) -> u32 {
        match self.terms.policy {
            Policy::BestEffort => BEST_EFFORT_WEIGHT,
            Policy::Weighted { weight } => weight.max(1),
            Policy::EqualShare | Policy::FixedShare { .. } | Policy::Deadline { .. } => DEFAULT_WEIGHT,
        }
    }

    fn weighed(&self, used: Nanos) -> u128 {
        u128::from(used) * u128::from(DEFAULT_WEIGHT) / u128::from(self.weight())
    }

    /// Virtual time with what is running and not charged yet.
    pub(super) fn virtual_time_with(&self, running: Nanos) -> u128 {
        self.virtual_time + self.weighed(running)
    }

    pub(super) fn charge(&mut self, used: Nanos) {
        self.virtual_time += self.weighed(used);
        for allowance in [&mut self.limit, &mut self.ahead].into_iter().flatten() {
            allowance.take(used);
        }
    }

    pub(super) fn refill(&mut self, now: Nanos) {
        for allowance in [&mut self.limit, &mut self.ahead].into_iter().flatten() {
            allowance.refill(now);
        }
    }

    /// Its rank while it waits since `since`, or runs and has used `running` that is not charged.
    pub(super) fn rank(&self, since: Nanos, running: Nanos) -> Rank {
        match (self.terms.policy, &self.ahead) {
            (Policy::Deadline { target_ms, .. }, Some(ahead))
                if !ahead.is_exhausted() && ahead.left_beside(running) > 0 =>
            {
                Rank::Deadline(since.saturating_add(u64::from(target_ms) * 1_000_000))
            }
            (Policy::FixedShare { .. } | Policy::EqualShare, _) => Rank::Promised(since),
            _ => Rank::Fair(self.virtual_time_with(running)),
        }
    }

    /// True while it is paused or backed off.
    pub(super) fn is_kept_out(&self, now: Nanos) -> bool {
        self.paused || self.back_off_until > now
    }

    /// When it may have the device, if not at once; `None` for when somebody says so.
    pub(super) fn eligible_at(&self, now: Nanos) -> Option<Nanos> {
        if self.paused {
            return None;
        }
        let limited = self.limit.as_ref().filter(|limit| limit.is_exhausted()).map(Allowance::enough_at);
        Some(limited.unwrap_or(0).max(self.back_off_until).max(now))
    }

    /// A submission of it had to be ended.
    pub(super) fn strike(&mut self, now: Nanos) {
        let forgiven = now.saturating_sub(self.struck_at) / FORGIVE;
        self.strikes = self.strikes.saturating_sub(forgiven.try_into().unwrap_or(u32::MAX)).saturating_add(1);
        self.struck_at = now;
        let eviction = self.terms.eviction;
        let doubled = nanos(eviction.back_off).saturating_mul(1 << (self.strikes - 1).min(30));
        self.back_off_until = now.saturating_add(doubled.min(nanos(eviction.max_back_off)));
        if eviction.pause_after != 0 && self.strikes >= eviction.pause_after {
            self.paused = true;
        }
    }

    pub(super) fn forgive(&mut self) {
        (self.strikes, self.back_off_until) = (0, 0);
    }

    /// How long a submission may run.
    pub(super) fn submission_limit(&self) -> Nanos {
        nanos(self.terms.eviction.limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Nanos = 1_000_000;

    #[test]
    fn an_allowance_is_saved_up_to_its_period_and_overdrafts_are_paid_back() {
        let mut quarter = Allowance::new(0.25, 0);
        assert_eq!(quarter.left_beside(0), 25 * MS);
        quarter.take(45 * MS);
        assert!(quarter.is_exhausted());
        // 20 ms are owed, and 12.5 are enough to start again.
        assert_eq!(quarter.enough_at() / MS, 130);
        quarter.refill(129 * MS);
        assert!(quarter.is_exhausted());
        quarter.refill(131 * MS);
        assert!(!quarter.is_exhausted());
        quarter.refill(10_000 * MS);
        assert_eq!(quarter.left_beside(0), 25 * MS);
    }

    #[test]
    fn evictions_double_the_back_off_and_then_pause_and_are_forgiven_in_time() {
        let mut account = Account::new(Terms::default(), 0);
        let second = 1000 * MS;
        let mut now = 0;
        for expected in [10, 20, 40, 80, 160, 320, 600] {
            account.strike(now);
            assert_eq!(account.back_off_until - now, expected * second);
            assert!(!account.paused);
            now += second;
        }
        account.strike(now);
        assert!(account.paused);
        account.forgive();
        account.paused = false;
        account.strike(now);
        account.strike(now + 61 * second);
        assert_eq!(account.back_off_until - (now + 61 * second), 10 * second, "the first is forgotten");
    }

    #[test]
    fn the_smaller_of_share_and_cap_limits_and_all_of_the_device_is_no_limit() {
        let mut account = Account::new(
            Terms { policy: Policy::FixedShare { share: 40.0 }, cap: Some(30.0), ..Terms::default() },
            0,
        );
        account.set_limit(0.1, 0);
        assert_eq!(account.limit.unwrap().left_beside(0), 30 * MS);
        account.set_terms(Terms { policy: Policy::EqualShare, ..Terms::default() }, 0, 0);
        account.set_limit(1.0, 0);
        assert!(account.limit.is_none());
    }
}
