//! What can one guest do to the others?

use super::figure::Figure;
use super::load::{Attacker, Loads, Report, Spec};
use super::{Run, tell};
use crate::bench::daemon::{Daemon, Vgpu};
use crate::bench::goal::Goal;
use anyhow::Result;
use std::time::Duration;

const SECONDS: f64 = 30.0;
const KERNEL_MS: f64 = 5.0;
/// Of what honest vGPUs do beside an honest one, in per cent; the rest is noise.
const LEAST: f64 = 97.0;
const HONEST: [&str; 3] = ["honest0", "honest1", "honest2"];
const OTHER: &str = "other";
/// How long before the honest ones the attacker begins, in seconds.
const AHEAD: f64 = 2.0;
/// How long the attacker may take to end when its time is over.
const GRACE: Duration = Duration::from_secs(60);

/// What an operator sets for guests that are not trusted.
const SETTINGS: &str = "memory = \"512 MiB\"
[vgpu.limits]
staging = \"256 MiB\"
objects = 65536
builds = 2
build-seconds = 5
build-memory = \"512 MiB\"
[vgpu.eviction]
limit-s = 2
";

/// Floods of doorbells.
pub(super) fn doorbells(run: &Run<'_>) -> Result<Vec<Figure>> {
    measure(run, "doorbells")
}

/// Kernels that never end.
pub(super) fn endless(run: &Run<'_>) -> Result<Vec<Figure>> {
    measure(run, "endless")
}

/// Allocation bombs.
pub(super) fn allocations(run: &Run<'_>) -> Result<Vec<Figure>> {
    measure(run, "allocations")
}

/// Compile bombs.
pub(super) fn builds(run: &Run<'_>) -> Result<Vec<Figure>> {
    measure(run, "builds")
}

fn measure(run: &Run<'_>, mode: &str) -> Result<Vec<Figure>> {
    let seconds = run.seconds.unwrap_or(SECONDS);
    let vgpus: Vec<Vgpu> =
        HONEST.iter().chain([&OTHER]).map(|name| ((*name).to_owned(), SETTINGS.to_owned())).collect();
    let daemon = Daemon::start(run.place, &vgpus)?;
    let spec = |name: &str| Spec::endless(name, run.place.iterations(KERNEL_MS), seconds);
    let specs: Vec<Spec> = HONEST.iter().copied().map(spec).collect();
    let total = |reports: &[Report]| {
        reports[..HONEST.len()].iter().map(|report| report.iterations).sum::<f64>() / seconds / 1e6
    };

    // The honest ones beside an honest one, before and after, so that it shows if the machine changes.
    let fair = || -> Result<f64> {
        let all: Vec<Spec> = specs.iter().cloned().chain([spec(OTHER)]).collect();
        let reports = Loads::start(run.place, &daemon, &all)?.run(|| Ok(()))?;
        daemon.await_quiet()?;
        Ok(total(&reports))
    };
    let before = fair()?;
    let loads = Loads::start(run.place, &daemon, &specs)?;
    let attacker = Attacker::start(run.place, &daemon, OTHER, mode, seconds + AHEAD + 2.0)?;
    std::thread::sleep(Duration::from_secs_f64(AHEAD));
    let beside = total(&loads.run(|| Ok(()))?);
    let achieved = attacker.finish(GRACE);
    let show = daemon.show()?;
    let evictions = show[OTHER]["evictions"].as_u64().unwrap_or(0);
    daemon.await_quiet()?;
    let after = fair()?;
    tell(format!(
        "three honest ones: {before:.1} and {after:.1} beside an honest one, {beside:.1} beside the attacker (million \
         iterations/s)"
    ));
    tell(format!("the attacker: {achieved}; {evictions} evictions"));
    let name = format!("hostile guest, {mode}: honest ones, of beside an honest one");
    Ok(vec![Figure::new(name, beside / ((before + after) / 2.0) * 100.0, "%", Goal::AtLeast(LEAST))])
}
