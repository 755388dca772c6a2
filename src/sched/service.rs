//! What the broker's own work for a vGPU may cost while others compute.
//!
//! Requests cost little each, but a guest can ring as fast as its processors let it, and is not charged for that: it uses no
//! device. Where the device is this host's processors, and where they feed it, that slows the others all the same.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use crate::limits::{Bucket, Rate};

/// Microseconds of one processor, of each second, for all connections of a vGPU while another one has the device. A guest
/// whose kernels take a millisecond needs a third of it.
const SHARE: Rate = Rate { per_second: 100_000, burst: 50_000 };

/// How long nobody is kept waiting without another look at whether it still must.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// What was spent on one vGPU.
#[derive(Debug)]
pub(super) struct Service(Mutex<Bucket>);

impl Service {
    pub(super) fn new() -> Service {
        Service(Mutex::new(Bucket::new(SHARE, Instant::now())))
    }

    /// So much processor time was spent.
    pub(super) fn spend(&self, used: Duration, now: Instant) {
        let micros = used.as_micros().try_into().unwrap_or(u32::MAX);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take(micros, now);
    }

    /// How long to let it wait, if others have the device.
    pub(super) fn owed(&self, now: Instant) -> Option<Duration> {
        let owed = self.0.lock().unwrap_or_else(PoisonError::into_inner).wait(now)?;
        Some(owed.min(LOOK_AGAIN))
    }
}

/// The processor time of a thread, piece by piece.
#[derive(Debug, Default)]
pub struct Meter(Option<Duration>);

impl Meter {
    /// What the caller's thread has used since the last call, which was the same thread's; nothing at the first.
    pub fn read(&mut self) -> Duration {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        let now = Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0));
        now.saturating_sub(self.0.replace(now).unwrap_or(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_spent_beyond_the_share_is_waited_for_and_looked_at_again_soon() {
        let (service, start) = (Service::new(), Instant::now());
        service.spend(Duration::from_millis(40), start);
        assert_eq!(service.owed(start), None);
        service.spend(Duration::from_millis(11), start);
        assert_eq!(service.owed(start), Some(LOOK_AGAIN));
        assert_eq!(service.owed(start + Duration::from_millis(9)), Some(Duration::from_millis(1)));
        assert_eq!(service.owed(start + Duration::from_millis(11)), None);
    }

    #[test]
    fn a_meter_counts_work_and_not_sleep() {
        let mut meter = Meter::default();
        assert_eq!(meter.read(), Duration::ZERO);
        let start = Instant::now();
        std::thread::sleep(Duration::from_millis(30));
        let slept = meter.read();
        assert!(slept < start.elapsed() / 2, "{slept:?}");
        let mut worked = Duration::ZERO;
        while worked < Duration::from_millis(3) {
            worked += meter.read();
        }
        assert!(worked <= start.elapsed());
    }
}
