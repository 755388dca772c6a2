//! How often a guest and the broker wake each other, whatever the time: what one command more costs.

use super::row::Row;
use super::worker::Worker;
use crate::bench::daemon::Daemon;
use crate::bench::goal::Goal;
use crate::bench::place::Place;
use anyhow::{Context, Result};

/// The beginning of their names, with the direct transport.
pub(super) const NAME: &str = "counts";

/// Samples of two runs: what both have is not the commands'.
pub(super) const SAMPLES: [usize; 2] = [2, 12];

/// Kicks and interrupts for a thousand streamed commands.
const MOST: f64 = 5.0;

/// Workloads, the commands in one sample of each, and whether they stream.
pub(super) const WORKLOADS: [(&str, f64, bool); 9] = [
    ("throughput/one-queue", 10_000.0, true),
    ("throughput/four-queues", 10_000.0, true),
    ("throughput/arguments", 10_000.0, true),
    ("throughput/buffers-in-turn", 20_000.0, true),
    ("latency/empty-kernel", 1.0, false),
    ("latency/two-queues", 2.0, false),
    ("data/read/plain/64K", 1.0, false),
    ("data/write/plain/64K", 1.0, false),
    ("data/map/plain/64K", 2.0, false),
];

/// Samples of a workload that does little in each.
pub(super) fn samples(commands: f64) -> [usize; 2] {
    if commands < 100.0 { SAMPLES.map(|count| count * 100) } else { SAMPLES }
}

/// What a session's line in the log tells.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Counts {
    pub(super) kicks: f64,
    pub(super) interrupts: f64,
}

impl Counts {
    /// Those of a line of the log that has any.
    pub(super) fn of(line: &str) -> Option<Counts> {
        let before = |what: &str| {
            let words = line.split(what).next()?.split_whitespace();
            words.last()?.parse::<f64>().ok()
        };
        let is_told = line.contains("by virtqueue") && line.contains(" kicks");
        is_told.then(|| Some(Counts { kicks: before(" kicks")?, interrupts: before(" interrupts")? }))?
    }

    pub(super) fn since(self, before: Counts) -> Counts {
        Counts { kicks: self.kicks - before.kicks, interrupts: self.interrupts - before.interrupts }
    }
}

/// The rows of a workload, from what two runs with so many samples counted.
pub(super) fn rows(
    place: &str,
    workload: (&str, f64, bool),
    samples: [usize; 2],
    runs: [Counts; 2],
) -> [Row; 2] {
    let (name, commands, streams) = workload;
    let more = (samples[1] - samples[0]) as f64 * commands / 1000.0;
    let difference = runs[1].since(runs[0]);
    let row = |what: &str, count: f64| Row {
        name: format!("{place}/{name}: {what} for 1000 commands"),
        unit: "",
        native: None,
        vgpu: (count / more).max(0.0),
        ratio: None,
        spread: None,
        goal: if streams { Goal::AtMost(MOST) } else { Goal::None },
        peer: None,
    };
    [row("kicks", difference.kicks), row("interrupts", difference.interrupts)]
}

/// With the direct transport, where each process has a session of its own.
pub(super) fn measure(place: &Place, daemon: &Daemon, workload: (&str, f64, bool)) -> Result<[Row; 2]> {
    let samples = samples(workload.1);
    let mut runs = [Counts::default(); 2];
    for (run, count) in runs.iter_mut().zip(samples) {
        let told = || daemon.log().lines().filter_map(Counts::of).count();
        let before = told();
        let mut worker = Worker::vgpu(place, daemon, "v0")?;
        worker.run(workload.0, count, 0)?;
        worker.end()?;
        daemon.await_quiet()?;
        while told() == before {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        *run = daemon.log().lines().filter_map(Counts::of).next_back().context("nothing was counted")?;
    }
    Ok(rows(NAME, workload, samples, runs))
}

#[cfg(test)]
mod tests {
    use super::{Counts, rows};

    #[test]
    fn what_the_second_run_has_more_is_the_commands() {
        let line = |interrupts: u32, kicks: u32| {
            format!(
                "[INFO] v0/1: session ended; commands: 9 by ring, 8 by virtqueue, 7 doorbells, 6 waits, \
                 {interrupts} interrupts, {kicks} kicks"
            )
        };
        let runs = [line(100, 50), line(300, 50)].map(|line| Counts::of(&line).unwrap());
        let [kicks, interrupts] = rows("counts", ("x", 10_000.0, true), [1, 11], runs);
        assert_eq!((kicks.vgpu, kicks.met()), (0.0, Some(true)));
        assert_eq!((interrupts.vgpu, interrupts.met()), (2.0, Some(true)));
        assert_eq!(Counts::of("[INFO] connected"), None);
    }
}
