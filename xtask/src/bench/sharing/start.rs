//! How long does a guest's program wait for its executor?

use super::Run;
use super::figure::Figure;
use super::load::{Load, Spec};
use crate::bench::daemon::{Daemon, vgpus};
use crate::bench::goal::Goal;
use crate::bench::numbers::{median, percentile};
use anyhow::Result;

const STARTS: usize = 25;
const MOST_MS: f64 = 50.0;

/// Each start is of a fresh guest process and a fresh executor: the time from the guest's first OpenCL call until its first
/// command was answered. It holds the loading of the guest's driver and the connection too, so the executor's part is less.
pub(super) fn measure(run: &Run<'_>) -> Result<Vec<Figure>> {
    let daemon = Daemon::start(run.place, &vgpus([""]))?;
    let (mut times, mut native) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        let spec = Spec::idle("v0");
        let load = Load::start_native(run.place, &spec)?;
        native.push(opened(load)?);
        let load = Load::start(run.place, &daemon, &spec)?;
        times.push(opened(load)?);
        daemon.await_quiet()?;
        // An executor that starts soon after another one of its vGPU is made to wait.
        std::thread::sleep(std::time::Duration::from_millis(250));
    }
    let name = |what: &str| format!("executor start, guest's first call to first answer: {what}");
    Ok(vec![
        Figure::new(name("median"), median(&times), "ms", Goal::AtMost(MOST_MS)),
        Figure::new(name("90th percentile"), percentile(&times, 90.0), "ms", Goal::None),
        Figure::new(name("median of the OpenCL driver alone"), median(&native), "ms", Goal::None),
    ])
}

fn opened(mut load: Load) -> Result<f64> {
    load.await_ready()?;
    let opened = load.opened_ms;
    load.release()?;
    Ok(opened)
}
