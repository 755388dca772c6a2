//! Does each vGPU get the device time that it is to get?

use super::figure::Figure;
use super::load::{Loads, Report, Spec, sleep_for};
use super::{Run, tell};
use crate::bench::daemon::{Daemon, vgpus};
use crate::bench::goal::Goal;
use crate::bench::numbers::{largest_deviation, shares};
use anyhow::Result;
use std::time::Instant;

/// How far a share may be off, in points.
const DEVIATION: f64 = 2.0;
const SECONDS: f64 = 10.0;

/// Weights 1, 2 and 4.
pub(super) fn weights(run: &Run<'_>) -> Result<Vec<Figure>> {
    measure(
        run,
        "weights 1:2:4",
        &[("weight = 100", 2.0, 1.0), ("weight = 200", 2.0, 2.0), ("weight = 400", 2.0, 4.0)],
    )
}

/// Equal weights, kernels of different lengths.
pub(super) fn lengths(run: &Run<'_>) -> Result<Vec<Figure>> {
    measure(run, "kernels of 1, 5, 20 ms", &[("", 1.0, 1.0), ("", 5.0, 1.0), ("", 20.0, 1.0)])
}

/// vGPUs by their settings, the length of their kernels in milliseconds, and what they are to get.
fn measure(run: &Run<'_>, what: &str, mix: &[(&str, f64, f64)]) -> Result<Vec<Figure>> {
    let seconds = run.seconds.unwrap_or(SECONDS);
    let vgpus = vgpus(mix.iter().map(|(settings, ..)| *settings));
    let daemon = Daemon::start(run.place, &vgpus)?;
    let specs: Vec<Spec> = mix
        .iter()
        .zip(&vgpus)
        .map(|((_, length, _), (name, _))| Spec::endless(name, run.place.iterations(*length), seconds))
        .collect();
    let mut times = Vec::new();
    let reports = Loads::start(run.place, &daemon, &specs)?.run(|| {
        let begin = Instant::now();
        let before = daemon.device_times()?;
        sleep_for(seconds, begin);
        let after = daemon.device_times()?;
        times = vgpus.iter().map(|(name, _)| after[name] - before[name]).collect();
        Ok(())
    })?;
    let work: Vec<f64> = reports.iter().map(|Report { iterations, .. }| *iterations).collect();
    let wanted: Vec<f64> = mix.iter().map(|(.., part)| *part).collect();
    tell(format!("wanted {}, device time {}, work {}", list(&wanted), list(&times), list(&work)));
    let figure = |by: &str, amounts: &[f64], goal| {
        let deviation = largest_deviation(amounts, &wanted);
        Figure::new(format!("fairness, {what}: deviation by {by}"), deviation, "points", goal)
    };
    Ok(vec![figure("device time", &times, Goal::AtMost(DEVIATION)), figure("work done", &work, Goal::None)])
}

/// Shares in per cent.
fn list(amounts: &[f64]) -> String {
    let shares: Vec<String> = shares(amounts).iter().map(|share| format!("{share:.1}")).collect();
    shares.join(" / ") + " %"
}
