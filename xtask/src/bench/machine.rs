//! How busy the machine is with something else.

use anyhow::{Context, Result};
use std::time::Duration;

/// Per cent of the processors' time that something else may take before it is told.
pub(crate) const QUIET: f64 = 5.0;

/// How long it is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Part of the processors' time, in per cent, that somebody takes while this process waits.
pub(crate) fn busy() -> Result<f64> {
    let before = Times::now()?;
    std::thread::sleep(LOOK);
    Ok(Times::now()?.busy_since(&before))
}

/// Processor time since the start, in ticks.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Times {
    all: f64,
    idle: f64,
}

impl Times {
    fn now() -> Result<Times> {
        let content = std::fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
        Times::of(&content).context("/proc/stat has no line of all processors")
    }

    fn of(content: &str) -> Option<Times> {
        let line = content.lines().find_map(|line| line.strip_prefix("cpu "))?;
        // user, nice, system, idle, iowait, irq, softirq, steal; guests' time is in the first two.
        let ticks: Vec<f64> = line.split_whitespace().take(8).map_while(|tick| tick.parse().ok()).collect();
        Some(Times { all: ticks.iter().sum(), idle: ticks.get(3)? + ticks.get(4)? })
    }

    fn busy_since(&self, before: &Times) -> f64 {
        let (all, idle) = (self.all - before.all, self.idle - before.idle);
        if all > 0.0 { (1.0 - idle / all).clamp(0.0, 1.0) * 100.0 } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::Times;

    #[test]
    fn what_is_not_idle_is_busy() {
        let stat = |idle: u32| {
            let content = format!("cpu  10 20 30 {idle} 40 5 5 10 7 7\ncpu0 1 2 3 4 5 6 7 8 9 10\n");
            Times::of(&content).unwrap()
        };
        let before = stat(100);
        assert_eq!(before, Times { all: 220.0, idle: 140.0 });
        assert_eq!(stat(180).busy_since(&before), 0.0);
        let later = Times { all: before.all + 200.0, idle: before.idle + 150.0 };
        assert_eq!(later.busy_since(&before), 25.0);
        assert_eq!(before.busy_since(&before), 0.0);
        assert_eq!(Times::of("intr 1 2 3"), None);
    }
}
