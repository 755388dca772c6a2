//! What a vGPU takes that nobody uses.

use super::row::Row;
use super::worker::Worker;
use crate::bench::daemon::Daemon;
use crate::bench::goal::Goal;
use crate::proc_count::children;
use anyhow::{Context, Result};
use std::fs::{read_dir, read_to_string};
use std::time::Duration;

pub(super) const NAME: &str = "idle";

/// How long it is looked at.
const LOOK: Duration = Duration::from_secs(5);
/// Before that, so that what a program did just now is over.
const SETTLE: Duration = Duration::from_secs(2);
/// Milliseconds of processor time in that; the kernel's own accounting is no finer.
const MOST_MS: f64 = 1.0;

/// Processor time and how often a thread woke, of a native worker, and of one on a vGPU with the daemon and the executor.
pub(super) fn measure(native: &mut Worker, vgpu: &mut Worker, daemon: &Daemon) -> Result<Vec<Row>> {
    // Both have just used their device.
    for worker in [&mut *native, vgpu] {
        worker.run("throughput/one-queue", 1, 0)?;
    }
    std::thread::sleep(SETTLE);
    let natives = with_descendants(native.id());
    let vgpus = [with_descendants(vgpu.id()), with_descendants(daemon.id())].concat();
    let before = (Effort::of(&natives)?, Effort::of(&vgpus)?);
    std::thread::sleep(LOOK);
    let after = (Effort::of(&natives)?, Effort::of(&vgpus)?);
    let row = |what: &str, unit, of: fn(&Effort) -> f64, goal| Row {
        name: format!("{NAME}: {what} in {} s, guest, paragpud and executor", LOOK.as_secs()),
        unit,
        native: Some(of(&after.0) - of(&before.0)),
        vgpu: of(&after.1) - of(&before.1),
        ratio: None,
        spread: None,
        goal,
        peer: None,
    };
    Ok(vec![
        row("processor time", "ms", |effort| effort.ns / 1e6, Goal::AtMost(MOST_MS)),
        row("wake-ups", "", |effort| effort.wakes, Goal::None),
    ])
}

/// What processes have done so far.
struct Effort {
    ns: f64,
    wakes: f64,
}

impl Effort {
    fn of(processes: &[u32]) -> Result<Effort> {
        let mut effort = Effort { ns: 0.0, wakes: 0.0 };
        for id in processes {
            for thread in read_dir(format!("/proc/{id}/task")).context("a process has ended")? {
                let thread = thread?.path();
                let schedule = read_to_string(thread.join("schedstat"))?;
                let status = read_to_string(thread.join("status"))?;
                let ns = schedule.split(' ').next().and_then(|ns| ns.parse::<f64>().ok());
                effort.ns += ns.context("the kernel does not tell processor times")?;
                let wakes = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
                effort.wakes += wakes.and_then(|wakes| wakes.trim().parse::<f64>().ok()).unwrap_or(0.0);
            }
        }
        Ok(effort)
    }
}

fn with_descendants(id: u32) -> Vec<u32> {
    let mut all = vec![id];
    let mut next = 0;
    while let Some(parent) = all.get(next).copied() {
        all.extend(children(parent));
        next += 1;
    }
    all
}
