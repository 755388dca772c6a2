//! How long does a short kernel take while others flood the device?

use super::figure::Figure;
use super::load::{Loads, Spec};
use super::{Run, tell};
use crate::bench::daemon::{Daemon, Vgpu};
use crate::bench::goal::Goal;
use crate::bench::numbers::{median, percentile};
use anyhow::Result;

/// Milliseconds of the kernels that flood the device.
const FLOOD: [f64; 7] = [1.0, 2.0, 5.0, 5.0, 10.0, 20.0, 20.0];
const SECONDS: f64 = 20.0;
const EVERY_MS: f64 = 50.0;
/// The longest kernel, which cannot be interrupted, and 5 ms.
const MOST: f64 = 25.0;

/// Under the deadline policy, and under the weighted one.
pub(super) fn measure(run: &Run<'_>) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (policy, settings, goal) in [
        ("deadline", "policy = \"deadline\"\ndeadline-ms = 5", Goal::AtMost(MOST)),
        ("weighted", "", Goal::None),
    ] {
        let latencies = latencies(run, settings)?;
        tell(format!(
            "{policy}: {} kernels, median {:.1} ms, 99 % within {:.1} ms, all within {:.1} ms",
            latencies.len(),
            median(&latencies),
            percentile(&latencies, 99.0),
            percentile(&latencies, 100.0)
        ));
        let name = |what: &str| format!("isolation, 1 ms kernel beside 7 floods, {policy} policy: {what}");
        figures.push(Figure::new(name("99th percentile"), percentile(&latencies, 99.0), "ms", goal));
        figures.push(Figure::new(name("median"), median(&latencies), "ms", Goal::None));
    }
    Ok(figures)
}

fn latencies(run: &Run<'_>, settings: &str) -> Result<Vec<f64>> {
    let seconds = run.seconds.unwrap_or(SECONDS);
    let flood = |n: usize| format!("flood{n}");
    let mut vgpus: Vec<Vgpu> = (0..FLOOD.len()).map(|n| (flood(n), String::new())).collect();
    vgpus.push(("short".to_owned(), settings.to_owned()));
    let daemon = Daemon::start(run.place, &vgpus)?;
    let mut specs: Vec<Spec> =
        (0..FLOOD.len()).map(|n| Spec::endless(&flood(n), run.place.iterations(FLOOD[n]), seconds)).collect();
    specs.push(Spec::latency("short", run.place.iterations(1.0), seconds, EVERY_MS));
    let mut reports = Loads::start(run.place, &daemon, &specs)?.run(|| Ok(()))?;
    Ok(reports.pop().map(|report| report.latencies).unwrap_or_default())
}
