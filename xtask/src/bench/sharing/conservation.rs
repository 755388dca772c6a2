//! Does a vGPU that does nothing cost the others anything?

use super::figure::Figure;
use super::load::{Load, Loads, Report, Spec};
use super::{Run, tell};
use crate::bench::daemon::{Daemon, vgpus};
use crate::bench::goal::Goal;
use crate::bench::numbers::{median, spread};
use anyhow::Result;

const ROUNDS: usize = 5;
const SECONDS: f64 = 5.0;
const KERNEL_MS: f64 = 5.0;
/// Of one vGPU alone, in per cent.
const LEAST: f64 = 97.0;

/// One vGPU alone, and two beside an idle one, in turns.
pub(super) fn measure(run: &Run<'_>) -> Result<Vec<Figure>> {
    let seconds = run.seconds.unwrap_or(SECONDS);
    let daemon = Daemon::start(run.place, &vgpus(["", "", ""]))?;
    let spec = |name: &str| Spec::endless(name, run.place.iterations(KERNEL_MS), seconds);
    let throughput = |specs: &[Spec]| -> Result<f64> {
        let reports = Loads::start(run.place, &daemon, specs)?.run(|| Ok(()))?;
        Ok(reports.iter().map(|Report { iterations, .. }| iterations).sum::<f64>() / seconds / 1e6)
    };
    let (mut alone, mut shared) = (Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        alone.push(throughput(&[spec("v0")])?);
        daemon.await_quiet()?;
        let mut idle = Load::start(run.place, &daemon, &Spec::idle("v2"))?;
        idle.await_ready()?;
        shared.push(throughput(&[spec("v0"), spec("v1")])?);
        idle.release()?;
        daemon.await_quiet()?;
        let (alone, shared) = (alone[round - 1], shared[round - 1]);
        tell(format!(
            "round {round} of {ROUNDS}: alone {alone:.1}, two and an idle one {shared:.1} million iterations/s"
        ));
    }
    let name = |what: &str| format!("work conservation, two vGPUs beside an idle one: {what}");
    Ok(vec![
        Figure::new(
            name("of one alone"),
            median(&shared) / median(&alone) * 100.0,
            "%",
            Goal::AtLeast(LEAST),
        ),
        Figure::new(name("spread of those"), spread(&shared), "%", Goal::None),
        Figure::new(name("spread of one alone"), spread(&alone), "%", Goal::None),
    ])
}
