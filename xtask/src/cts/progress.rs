//! What a run tells on stderr while it lasts.

use super::summary::Compared;
use crate::say;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// How often the state is told where it cannot be told in place.
const PERIOD: Duration = Duration::from_secs(20);

/// How far a run is.
pub(super) struct Progress {
    start: Instant,
    told: Instant,
    total: usize,
    done: usize,
    different: usize,
    on_terminal: bool,
}

impl Progress {
    /// A run of `total` sub-tests begins.
    pub(super) fn start(total: usize) -> Progress {
        let on_terminal = std::io::stderr().is_terminal();
        Progress { start: Instant::now(), told: Instant::now(), total, done: 0, different: 0, on_terminal }
    }

    /// A sub-test has ended on both sides.
    pub(super) fn take(&mut self, binary: &str, compared: &Compared) {
        self.done += 1;
        if let Some(vgpu) = compared.vgpu.filter(|_| compared.differs()) {
            self.different += 1;
            self.clear();
            let Compared { test, native, .. } = compared;
            say::step("cts", format!("{binary} {test}: {native}, but {vgpu} through the vGPU"));
        }
        let state = describe(self.done, self.total, self.different, self.start.elapsed());
        if self.on_terminal {
            self.clear();
            eprint!("cts: {state}: {binary} {}", compared.test);
        } else if self.told.elapsed() >= PERIOD {
            self.told = Instant::now();
            say::step("cts", format!("{state}: {binary}"));
        }
    }

    /// The run is over.
    pub(super) fn finish(self) {
        self.clear();
    }

    /// Empties the line that tells the state in place.
    fn clear(&self) {
        if self.on_terminal {
            eprint!("\r\x1b[K");
        }
    }
}

fn describe(done: usize, total: usize, different: usize, elapsed: Duration) -> String {
    let left = elapsed.mul_f64((total - done) as f64 / done.max(1) as f64);
    let left = match left.as_secs() {
        seconds if seconds < 100 => format!("{seconds} s"),
        seconds => format!("{} min", seconds.div_ceil(60)),
    };
    format!("{done} of {total} sub-tests, {different} differ, about {left} left")
}

#[cfg(test)]
mod tests {
    use super::describe;
    use std::time::Duration;

    #[test]
    fn the_time_that_is_left_follows_from_the_time_so_far() {
        let of = |done, seconds| describe(done, 100, 2, Duration::from_secs(seconds));
        assert_eq!(of(50, 30), "50 of 100 sub-tests, 2 differ, about 30 s left");
        assert_eq!(of(10, 30), "10 of 100 sub-tests, 2 differ, about 5 min left");
        assert!(of(100, 30).ends_with("about 0 s left"));
    }
}
