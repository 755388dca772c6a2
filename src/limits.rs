//! What a vGPU may have: plain data, and the bucket that limits a rate.

use std::time::{Duration, Instant};

use paragpu_protocol::limits::{MAX_CONTEXTS, MAX_OBJECTS};
use serde::{Deserialize, Serialize};

/// What a vGPU may have. The broker and its executors each hold it to their part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Device memory in bytes, of all its connections. The guest is told that its devices have no more.
    pub memory_bytes: Option<u64>,
    /// Contexts (guest processes) of one connection.
    pub contexts: u32,
    /// Live objects of one context.
    pub objects: u64,
    /// Bytes of guest memory in shared regions, by which data and commands travel.
    pub staging_bytes: Option<u64>,
    /// Commands per second that an executor takes from its rings.
    pub commands: Option<Rate>,
    /// Requests per second on the virtqueues: doorbells, waits, new regions.
    pub requests: Option<Rate>,
    /// Seconds after which an executor ends that no guest process uses; none for never.
    pub executor_idle_seconds: Option<u32>,
    /// What building programs may take.
    pub builds: BuildLimits,
}

impl Limits {
    /// For an executor whose broker starts no compilers.
    pub fn untried() -> Limits {
        let builds = BuildLimits { trial: false, ..BuildLimits::default() };
        Limits { builds, ..Limits::default() }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            memory_bytes: None,
            contexts: MAX_CONTEXTS as u32,
            objects: MAX_OBJECTS as u64,
            staging_bytes: None,
            commands: None,
            requests: Some(Rate { per_second: 200_000, burst: 400_000 }),
            executor_idle_seconds: Some(30),
            builds: BuildLimits::default(),
        }
    }
}

/// What building programs may take. Compilers are not written for hostile input: a program of a hundred bytes can keep one
/// busy for ever, or eat all memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BuildLimits {
    /// Builds that run at once; more wait. Each has a compiler process of its own.
    pub concurrent: u32,
    /// Seconds that one build may take.
    pub seconds: u32,
    /// Bytes of memory that the compiler may take for one build, beyond what it has before it starts.
    pub memory_bytes: u64,
    /// Seconds for which a compiler without work is kept, with its memory: another would take as long to load its libraries as
    /// several builds take.
    pub idle_seconds: u32,
    /// Builds are tried in a process of their own first. Without, the executor compiles at once, and nothing of this but
    /// `concurrent` holds.
    pub trial: bool,
}

impl Default for BuildLimits {
    fn default() -> BuildLimits {
        BuildLimits { concurrent: 4, seconds: 60, memory_bytes: 2 << 30, idle_seconds: 5, trial: true }
    }
}

/// So many in a second, and so many at once after a while without.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// At least 1.
    pub per_second: u32,
    /// At least 1.
    pub burst: u32,
}

/// A token bucket.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    rate: Rate,
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    /// A full one.
    pub fn new(rate: Rate, now: Instant) -> Bucket {
        Bucket { rate, tokens: f64::from(rate.burst), filled: now }
    }

    /// Takes `count` tokens, of which some may be owed afterwards.
    pub fn take(&mut self, count: u32, now: Instant) {
        let gained =
            now.saturating_duration_since(self.filled).as_secs_f64() * f64::from(self.rate.per_second);
        self.tokens = (self.tokens + gained).min(f64::from(self.rate.burst)) - f64::from(count);
        self.filled = self.filled.max(now);
    }

    /// How long to wait until nothing is owed.
    pub fn wait(&self, now: Instant) -> Option<Duration> {
        if self.tokens >= 0.0 {
            return None;
        }
        let owed = Duration::from_secs_f64(-self.tokens / f64::from(self.rate.per_second.max(1)));
        let waited = now.saturating_duration_since(self.filled);
        (owed > waited).then(|| owed - waited)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_the_rate_holds() {
        let start = Instant::now();
        let mut bucket = Bucket::new(Rate { per_second: 1000, burst: 100 }, start);
        bucket.take(100, start);
        assert_eq!(bucket.wait(start), None);
        bucket.take(50, start);
        assert_eq!(bucket.wait(start), Some(Duration::from_millis(50)));
        assert_eq!(bucket.wait(start + Duration::from_millis(50)), None);
        // A second of taking as fast as it lets us.
        let (mut now, mut taken) = (start, 0);
        while now < start + Duration::from_secs(10) {
            bucket.take(64, now);
            taken += 64;
            now += bucket.wait(now).unwrap_or(Duration::from_micros(10));
        }
        assert!((9_900..10_300).contains(&taken), "{taken}");
    }

    #[test]
    fn silence_saves_up_a_burst_and_no_more() {
        let start = Instant::now();
        let mut bucket = Bucket::new(Rate { per_second: 10, burst: 5 }, start);
        let later = start + Duration::from_secs(3600);
        bucket.take(6, later);
        assert_eq!(bucket.wait(later), Some(Duration::from_millis(100)));
    }
}
