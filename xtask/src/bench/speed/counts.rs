//! How often a guest and the broker wake each other, and how often bytes are copied, whatever the time: what one command more
//! costs.

use super::row::Row;
use super::worker::Worker;
use crate::bench::daemon::Daemon;
use crate::bench::goal::Goal;
use crate::bench::place::Place;
use anyhow::{Context, Result, ensure};
use std::time::{Duration, Instant};

/// The beginning of their names, with the direct transport.
pub(super) const NAME: &str = "counts";

/// The same, on a device that does not share memory with the host.
pub(super) const APART: &str = "apart";

/// With `no` in paragpud's environment, the host's processor is taken for such a device.
pub(super) const SHARE_VARIABLE: &str = "PARAGPU_SHARE_MEMORY";

/// Samples of two runs: what both have is not the commands'.
pub(super) const SAMPLES: [usize; 2] = [2, 12];

/// How long it may take until the log has what was counted. Generous: nothing depends on it but what hangs.
const TELL_LIMIT: Duration = Duration::from_secs(60);

/// Kicks and interrupts for a thousand streamed commands.
const MOST: f64 = 5.0;

/// A workload, the commands in one sample of it, whether they stream, and how many bytes the application moves in one sample.
pub(super) type Counted = (&'static str, f64, bool, f64);

const BYTES: f64 = 65_536.0;

/// What is counted.
pub(super) const WORKLOADS: [Counted; 10] = [
    ("throughput/one-queue", 10_000.0, true, 0.0),
    ("throughput/four-queues", 10_000.0, true, 0.0),
    ("throughput/arguments", 10_000.0, true, 0.0),
    ("throughput/buffers-in-turn", 20_000.0, true, 0.0),
    ("latency/empty-kernel", 1.0, false, 0.0),
    ("latency/two-queues", 2.0, false, 0.0),
    ("data/read/plain/64K", 1.0, false, BYTES),
    ("data/write/plain/64K", 1.0, false, BYTES),
    ("data/map/plain/64K", 2.0, false, BYTES),
    ("data/map/use-host/64K", 2.0, false, BYTES),
];

/// What is counted where memory is not shared. A write of 4 KiB travels in the ring.
pub(super) const WORKLOADS_APART: [Counted; 4] = [
    ("data/read/plain/64K", 1.0, false, BYTES),
    ("data/write/plain/64K", 1.0, false, BYTES),
    ("data/write/plain/4K", 1.0, false, 4096.0),
    ("data/map/plain/64K", 2.0, false, BYTES),
];

/// All of a set of workloads, by their names here.
pub(super) fn names(place: &str, workloads: &[Counted]) -> impl Iterator<Item = String> {
    workloads.iter().map(move |(name, ..)| format!("{place}/{name}"))
}

/// Samples of a workload that does little in each.
pub(super) fn samples(commands: f64) -> [usize; 2] {
    if commands < 100.0 { SAMPLES.map(|count| count * 100) } else { SAMPLES }
}

/// What a session's line in the log tells.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Counts {
    pub(super) kicks: f64,
    pub(super) interrupts: f64,
    /// Copies of bytes of transfers, by the guest's driver, and by the executor and the host's driver.
    pub(super) copies: f64,
    /// How many bytes these were.
    pub(super) copied: f64,
}

impl Counts {
    /// Those of a line of the log that has any.
    pub(super) fn of(line: &str) -> Option<Counts> {
        let before = |what: &str| {
            let words = line.split(what).next()?.split_whitespace();
            words.last()?.parse::<f64>().ok()
        };
        let is_told = line.contains("by virtqueue") && line.contains(" kicks");
        let both = |one: &str, other: &str| Some(before(one)? + before(other)?);
        is_told.then(|| {
            Some(Counts {
                kicks: before(" kicks")?,
                interrupts: before(" interrupts")?,
                copies: both(" guest copies", " host copies")?,
                copied: both(" bytes copied by the guest", " bytes copied by the host")?,
            })
        })?
    }

    pub(super) fn since(self, before: Counts) -> Counts {
        Counts {
            kicks: self.kicks - before.kicks,
            interrupts: self.interrupts - before.interrupts,
            copies: self.copies - before.copies,
            copied: self.copied - before.copied,
        }
    }
}

/// The rows of a workload, from what two runs with so many samples counted.
pub(super) fn rows(place: &str, workload: Counted, samples: [usize; 2], runs: [Counts; 2]) -> Vec<Row> {
    let (name, commands, streams, bytes) = workload;
    let more = (samples[1] - samples[0]) as f64;
    let difference = runs[1].since(runs[0]);
    let row = |what: &str, count: f64, goal: Goal| Row {
        name: format!("{place}/{name}: {what}"),
        unit: "",
        native: None,
        vgpu: count.max(0.0),
        ratio: None,
        spread: None,
        goal,
        peer: None,
    };
    let thousands = more * commands / 1000.0;
    let goal = if streams { Goal::AtMost(MOST) } else { Goal::None };
    let mut rows = vec![
        row("kicks for 1000 commands", difference.kicks / thousands, goal),
        row("interrupts for 1000 commands", difference.interrupts / thousands, goal),
        row("copies for 1000 commands", difference.copies / thousands, Goal::None),
    ];
    if bytes > 0.0 {
        rows.push(row("bytes copied for each byte", difference.copied / (more * bytes), Goal::None));
    }
    rows
}

/// With the direct transport, where each process has a session of its own.
pub(super) fn measure(group: &str, place: &Place, daemon: &Daemon, workload: Counted) -> Result<Vec<Row>> {
    let samples = samples(workload.1);
    let mut runs = [Counts::default(); 2];
    for (run, count) in runs.iter_mut().zip(samples) {
        let told = || daemon.log().lines().filter_map(Counts::of).count();
        let before = told();
        let mut worker = Worker::vgpu(place, daemon, "v0")?;
        worker.run(workload.0, count, 0)?;
        worker.end()?;
        daemon.await_quiet()?;
        let until = Instant::now() + TELL_LIMIT;
        while told() == before {
            ensure!(Instant::now() < until, "paragpud does not tell what it counted:\n{}", daemon.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        *run = daemon.log().lines().filter_map(Counts::of).next_back().context("nothing was counted")?;
    }
    Ok(rows(group, workload, samples, runs))
}

#[cfg(test)]
mod tests {
    use super::{Counts, rows};

    #[test]
    fn what_the_second_run_has_more_is_the_commands() {
        let line = |interrupts: u32, kicks: u32, copies: u32| {
            format!(
                "[INFO] v0/1: session ended; commands: 9 by ring, 8 by virtqueue, 7 doorbells, 6 waits, \
                 {interrupts} interrupts, {kicks} kicks, {copies} guest copies, {} bytes copied by the guest, \
                 {} host copies, {} bytes copied by the host",
                copies * 100,
                2 * copies,
                copies * 50,
            )
        };
        let runs = [line(100, 50, 1), line(300, 50, 11)].map(|line| Counts::of(&line).unwrap());
        let rows = rows("counts", ("x", 10_000.0, true, 75.0), [1, 11], runs);
        let told: Vec<_> = rows.iter().map(|row| (row.name.as_str(), row.vgpu, row.met())).collect();
        assert_eq!(
            told,
            [
                ("counts/x: kicks for 1000 commands", 0.0, Some(true)),
                ("counts/x: interrupts for 1000 commands", 2.0, Some(true)),
                ("counts/x: copies for 1000 commands", 0.3, None),
                ("counts/x: bytes copied for each byte", 2.0, None),
            ]
        );
        assert_eq!(Counts::of("[INFO] connected"), None);
    }
}
