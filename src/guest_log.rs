//! The one way to a log line that a guest or an executor can cause: it names the vGPU, and is limited in rate,
//! so that nobody can fill the host's disk or bury other vGPUs' lines.

use std::fmt;
use std::time::{Duration, Instant};

/// Lines that may come at once.
const BURST: u32 = 20;
/// Time in which one more line becomes available.
const REFILL: Duration = Duration::from_millis(500);

/// Longest text of a guest or an executor that goes into a log line.
const MAX_TEXT_CHARS: usize = 300;

/// What others say goes into logs as a part of one line: no escapes, not endless.
pub(crate) fn printable(text: &str) -> String {
    text.chars().take(MAX_TEXT_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A token bucket that counts what it refused.
#[derive(Clone, Debug)]
struct RateLimit {
    tokens: u32,
    refilled: Instant,
    suppressed: u64,
}

impl RateLimit {
    /// A full bucket.
    fn new(now: Instant) -> RateLimit {
        RateLimit { tokens: BURST, refilled: now, suppressed: 0 }
    }

    /// Takes one line. `Some` if it may go, with the number of lines refused since the last that went.
    fn allow(&mut self, now: Instant) -> Option<u64> {
        let elapsed = now.saturating_duration_since(self.refilled);
        let refills = elapsed.as_millis() / REFILL.as_millis();
        if refills > 0 {
            self.tokens = BURST.min(self.tokens.saturating_add(u32::try_from(refills).unwrap_or(BURST)));
            // The rest of a period counts for the next line.
            self.refilled = now - Duration::from_millis((elapsed.as_millis() % REFILL.as_millis()) as u64);
        }
        if self.tokens == 0 {
            self.suppressed += 1;
            return None;
        }
        self.tokens -= 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

/// The log of one vGPU.
#[derive(Clone, Debug)]
pub struct GuestLog {
    name: String,
    limit: RateLimit,
}

impl GuestLog {
    /// A log whose lines start with `name`.
    pub fn new(name: &str) -> GuestLog {
        GuestLog { name: name.to_owned(), limit: RateLimit::new(Instant::now()) }
    }

    /// Logs a line for who asked for details; not limited.
    pub(crate) fn detail(&self, level: log::Level, line: fmt::Arguments<'_>) {
        log::log!(level, "{}: {line}", self.name);
    }

    /// Logs a line that a guest or an executor caused.
    pub fn line(&mut self, level: log::Level, reason: fmt::Arguments<'_>) {
        match self.limit.allow(Instant::now()) {
            None => {}
            Some(0) => log::log!(level, "{}: {reason}", self.name),
            Some(more) => log::log!(level, "{}: {reason} ({more} lines suppressed before)", self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_a_flood_does_not_and_is_counted() {
        let start = Instant::now();
        let mut limit = RateLimit::new(start);
        assert!((0..BURST).all(|_| limit.allow(start) == Some(0)));
        assert!((0..1000).all(|_| limit.allow(start + REFILL / 2).is_none()));
        assert_eq!(limit.allow(start + REFILL), Some(1000));
        assert_eq!(limit.allow(start + REFILL), None);
        assert_eq!(limit.allow(start + REFILL * 2), Some(1));
    }

    #[test]
    fn a_long_silence_refills_no_more_than_a_burst() {
        let start = Instant::now();
        let mut limit = RateLimit::new(start);
        let later = start + Duration::from_secs(1_000_000);
        let passed = (0..100).filter(|_| limit.allow(later).is_some()).count();
        assert_eq!(passed, BURST as usize);
    }
}
