//! Do hundreds of vGPUs work, and what do they cost?

use super::figure::Figure;
use super::load::{Loads, Report, Spec, sleep_for};
use super::{Run, tell};
use crate::bench::daemon::{Daemon, vgpus};
use crate::bench::goal::Goal;
use crate::bench::memory::{self, mib};
use crate::bench::numbers::{median, percentile};
use anyhow::{Result, bail};
use std::time::Instant;

const SECONDS: f64 = 30.0;
const KERNEL_MS: f64 = 5.0;
/// MiB of an active executor, beyond what the driver takes.
const MOST_EXECUTOR_MIB: f64 = 48.0;
/// MiB of the broker for an idle vGPU.
const MOST_IDLE_MIB: f64 = 1.0;
/// Throughput of all together, in per cent of one alone.
const LEAST: f64 = 90.0;
/// Executors whose memory is read while they compute: reading takes time of theirs.
const SAMPLE: usize = 32;
/// Processes that tell how much memory each of many will take.
const SOME: usize = 8;
/// Part of the memory that is there which may be used.
const USABLE: f64 = 0.8;

/// For each number of vGPUs.
pub(super) fn measure(run: &Run<'_>) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for count in run.scale {
        figures.extend(measure_one(run, *count)?);
    }
    Ok(figures)
}

fn measure_one(run: &Run<'_>, wanted: usize) -> Result<Vec<Figure>> {
    let seconds = run.seconds.unwrap_or(SECONDS);
    let count = fitting(run, wanted)?;
    if count < wanted {
        tell(format!("REDUCED to {count} vGPUs, as more do not fit the memory that is free"));
    }
    let active = count / 2;
    let driver = driver_memory(run, active)?;
    tell(format!("the OpenCL driver alone takes {driver:.1} MiB in each of {active} processes"));

    let daemon = Daemon::start(run.place, &vgpus(vec![""; count]))?;
    let spec = |n: usize| Spec::endless(&format!("v{n}"), run.place.iterations(KERNEL_MS), seconds);
    let alone = || -> Result<f64> {
        let reports = Loads::start(run.place, &daemon, &[spec(0)])?.run(|| Ok(()))?;
        daemon.await_quiet()?;
        Ok(reports[0].iterations / seconds / 1e6)
    };
    let before = alone()?;

    let resident = memory::resident(daemon.id())? as f64;
    let idle: Vec<Spec> = (active..count).map(|n| Spec::idle(&format!("v{n}"))).collect();
    let idle = Loads::start(run.place, &daemon, &idle)?;
    let broker = mib(memory::resident(daemon.id())? as f64 - resident) / (count - active) as f64;
    let resting = daemon.executors();
    tell(format!("{} vGPUs are connected and idle", count - active));

    let specs: Vec<Spec> = (0..active).map(spec).collect();
    let loads = Loads::start(run.place, &daemon, &specs)?;
    let mut computing = daemon.executors();
    computing.retain(|id| !resting.contains(id));
    if computing.len() != active {
        bail!("{} executors for {active} loads:\n{}", computing.len(), daemon.log());
    }
    tell(format!("{active} others compute for {seconds} s"));
    let mut sizes = Vec::new();
    let reports = loads.run(|| {
        sleep_for(seconds / 2.0, Instant::now());
        for id in computing.iter().step_by(computing.len().div_ceil(SAMPLE)) {
            sizes.push(mib(memory::proportional(*id)? as f64));
        }
        Ok(())
    })?;
    let total = reports.iter().map(|Report { iterations, .. }| iterations).sum::<f64>() / seconds / 1e6;
    let work: Vec<f64> = reports.iter().map(|report| report.iterations).collect();
    idle.release()?;
    daemon.await_quiet()?;
    let after = alone()?;
    let least = percentile(&work, 0.0) / median(&work) * 100.0;
    tell(format!(
        "alone {before:.1} and {after:.1}, {active} together {total:.1} million iterations/s; executors of {:.1} MiB",
        median(&sizes)
    ));

    let name = |what: &str| format!("scale, {count} vGPUs, {active} compute: {what}");
    let of_alone = total / median(&[before, after]) * 100.0;
    let beyond = median(&sizes) - driver;
    Ok(vec![
        Figure::new(name("throughput of one alone"), of_alone, "%", Goal::AtLeast(LEAST)),
        Figure::new(name("least work of one, of the median"), least, "%", Goal::None),
        Figure::new(name("executor beyond the driver"), beyond, "MiB", Goal::AtMost(MOST_EXECUTOR_MIB)),
        Figure::new(name("executor in all"), median(&sizes), "MiB", Goal::None),
        Figure::new(name("OpenCL driver alone"), driver, "MiB", Goal::None),
        Figure::new(name("broker for each idle one"), broker, "MiB", Goal::AtMost(MOST_IDLE_MIB)),
    ])
}

/// As many as fit the memory that is free.
fn fitting(run: &Run<'_>, wanted: usize) -> Result<usize> {
    let spec = Spec::endless("native", run.place.iterations(KERNEL_MS), 1.0);
    let mut some = Loads::start_native(run.place, &vec![spec; SOME])?;
    // As much again for what the guest and the executor take beside the driver.
    let each = median(&some.proportional_memory()?) * 2.0;
    some.run(|| Ok(()))?;
    let available = memory::available()? as f64;
    let fit = (available * USABLE / each) as usize / 2 * 2;
    tell(format!("{:.0} MiB are free, and up to {:.0} MiB needed for each vGPU", mib(available), mib(each)));
    if fit < 4 {
        bail!("there is not enough memory for 4 vGPUs");
    }
    Ok(wanted.clamp(4, fit))
}

/// Proportional memory of a process that has the host's OpenCL do the same, in MiB: the median of as many processes at once.
/// The program has been compiled before (see [`fitting`]), as it has been for an executor.
fn driver_memory(run: &Run<'_>, count: usize) -> Result<f64> {
    let spec = Spec::endless("native", run.place.iterations(KERNEL_MS), 1.0);
    let mut loads = Loads::start_native(run.place, &vec![spec; count])?;
    let sizes = loads.proportional_memory()?;
    loads.run(|| Ok(()))?;
    Ok(mib(median(&sizes)))
}
