//! How many instructions a command takes: in the application's process, natively and on a vGPU, and in the executor.

use super::callgrind::{self, Called, Callgrind};
use super::row::Row;
use super::worker::Worker;
use crate::bench::daemon::Daemon;
use crate::bench::goal::Goal;
use crate::bench::place::Place;
use crate::packages::{self, Purpose};
use crate::say;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::io::Write;
use std::process::Stdio;

/// The beginning of their names.
pub(super) const NAME: &str = "instructions";

/// The executor's, after that.
pub(super) const EXECUTOR: &str = "executor";

/// The program that has the executor's code take commands.
pub(super) const PROGRAM: &str = "executor_commands";

/// Whose functions applications call; behind them is the driver.
const LOADER: &str = "libOpenCL.so";

/// What the executor does for frames in its ring: in `measure.rs` beside the ring.
const TAKE: &str = "paragpu::executor::child::ring::measure::take";

/// How often the vGPU's side runs; of these the least counts. Waking the host takes instructions, and how often that is
/// necessary, the machine decides; what is counted as kicks.
const RUNS: usize = 3;

/// A workload, its samples, and the functions that are its commands. Not `clFinish`, which polls while it waits.
pub(super) const WORKLOADS: [(&str, usize, &[&str]); 7] = [
    ("throughput/one-queue", 1, &["clEnqueueNDRangeKernel"]),
    ("throughput/arguments", 1, &["clSetKernelArg"]),
    ("throughput/buffers-in-turn", 1, &["clCreateBuffer", "clReleaseMemObject"]),
    ("throughput/buffers-at-once", 1, &["clCreateBuffer", "clReleaseMemObject"]),
    ("latency/read-4-bytes", 500, &["clEnqueueReadBuffer"]),
    ("data/write/plain/4K", 500, &["clEnqueueWriteBuffer"]),
    ("data/map/plain/64K", 500, &["clEnqueueMapBuffer", "clEnqueueUnmapMemObject"]),
];

/// What the executor takes, and how often.
pub(super) const STREAMS: [(&str, usize); 3] =
    [("launches", 10_000), ("arguments", 10_000), ("buffers", 10_000)];

/// The names of all of them.
pub(super) fn names() -> impl Iterator<Item = String> {
    let of_guests = WORKLOADS.iter().map(|(name, ..)| format!("{NAME}/{name}"));
    of_guests.chain(STREAMS.iter().map(|(name, _)| format!("{NAME}/{EXECUTOR}/{name}")))
}

/// Those that are chosen, all in one process on each side.
pub(super) fn measure(place: &Place, daemon: &Daemon, is_chosen: impl Fn(&str) -> bool) -> Result<Vec<Row>> {
    packages::ensure(&[Purpose::Instructions], true)?;
    let chosen: Vec<_> =
        WORKLOADS.into_iter().filter(|(name, ..)| is_chosen(&format!("{NAME}/{name}"))).collect();
    let mut rows = Vec::new();
    if !chosen.is_empty() {
        let native = native(place, &chosen);
        let native =
            native.inspect_err(|error| say::step("bench", format!("{NAME}: not natively: {error:#}"))).ok();
        let mut vgpu: Vec<f64> = vec![f64::INFINITY; chosen.len()];
        for run in 0..RUNS {
            let callgrind = Callgrind::new(place, &format!("vgpu-{run}"));
            let worker = Worker::counted_vgpu(place, daemon, "v0", &callgrind.words())?;
            let found = commands(worker, &callgrind, &chosen)?;
            vgpu = vgpu.into_iter().zip(found).map(|(least, found)| least.min(found)).collect();
            daemon.await_quiet()?;
        }
        for (index, (name, ..)) in chosen.iter().enumerate() {
            rows.push(row(name, native.as_ref().map(|native| native[index]), vgpu[index]));
        }
    }
    let streams: Vec<_> =
        STREAMS.into_iter().filter(|(name, _)| is_chosen(&format!("{NAME}/{EXECUTOR}/{name}"))).collect();
    if !streams.is_empty() {
        rows.extend(executor(place, &streams)?);
    }
    Ok(rows)
}

fn row(name: &str, native: Option<f64>, vgpu: f64) -> Row {
    Row {
        name: format!("{NAME}/{name}"),
        unit: "for a command",
        native,
        vgpu,
        ratio: native.map(|native| vgpu / native),
        spread: None,
        goal: Goal::None,
        peer: None,
    }
}

fn native(place: &Place, chosen: &[(&str, usize, &[&str])]) -> Result<Vec<f64>> {
    // The driver compiles for the processor that valgrind shows it.
    Worker::counted_native(place, &callgrind::dry_run())?.end()?;
    let callgrind = Callgrind::new(place, "native");
    commands(Worker::counted_native(place, &callgrind.words())?, &callgrind, chosen)
}

/// Instructions for each command of each workload.
fn commands(
    mut worker: Worker,
    callgrind: &Callgrind,
    chosen: &[(&str, usize, &[&str])],
) -> Result<Vec<f64>> {
    for (name, samples, _) in chosen {
        // What is done once has been done.
        worker.run(name, *samples, 1)?;
        worker.check()?;
    }
    worker.end()?;
    let each = |(run, (name, _, functions)): (usize, &(&str, usize, &[&str]))| {
        let Called { calls, instructions } = callgrind::sum(&callgrind.profile(run)?, LOADER, functions);
        ensure!(calls > 0.0, "callgrind has seen no call of {} in {name}", functions.join(" or "));
        Ok(instructions / calls)
    };
    chosen.iter().enumerate().map(each).collect()
}

/// The executor's, where there is neither a guest nor a device.
fn executor(place: &Place, streams: &[(&str, usize)]) -> Result<Vec<Row>> {
    let callgrind = Callgrind::new(place, "executor");
    let words = callgrind.words();
    let mut command = place.command(&words[0]);
    command.args(&words[1..]).arg(place.example(PROGRAM)).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::inherit()).spawn().context("cannot start valgrind")?;
    let requests: String = streams.iter().map(|(name, count)| format!("run {name} {count}\n")).collect();
    child.stdin.take().context("no stdin")?.write_all(requests.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "{PROGRAM} ends with {}", output.status);
    let answers = String::from_utf8(output.stdout)?;
    ensure!(answers.lines().count() == streams.len(), "{PROGRAM} says {answers:?}");
    let each = |(run, (line, (name, _))): (usize, (&str, &(&str, usize)))| {
        let answer: Value = serde_json::from_str(line)?;
        let commands = answer["commands"].as_f64().filter(|commands| *commands > 0.0);
        let commands = commands.with_context(|| format!("{PROGRAM} says {line:?}"))?;
        let taken = callgrind::sum(&callgrind.profile(run)?, PROGRAM, &[TAKE]);
        ensure!(taken.calls > 0.0, "callgrind has seen no call of {TAKE}");
        Ok(row(&format!("{EXECUTOR}/{name}"), None, taken.instructions / commands))
    };
    answers.lines().zip(streams).enumerate().map(each).collect()
}
