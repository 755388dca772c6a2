//! What a vGPU takes that nobody uses.

use super::row::Row;
use super::worker::Worker;
use crate::bench::daemon::Daemon;
use crate::bench::goal::Goal;
use crate::proc_count::children;
use anyhow::Result;
use rustix::param::clock_ticks_per_second;
use std::collections::HashMap;
use std::fs::{read_dir, read_to_string};
use std::hash::Hash;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(super) const NAME: &str = "idle";

/// How long it is looked at.
const LOOK: Duration = Duration::from_secs(5);
/// Before that, so that what a program did just now is over.
const SETTLE: Duration = Duration::from_secs(2);
const SETTLE_TURNS: usize = 10;

/// Processor time and how often a thread woke, of a native worker, and of one on a vGPU with the daemon and the executor. A
/// tick of the clock may be chance: the kernel's accounting is no finer.
pub(super) fn measure(native: &mut Worker, vgpu: &mut Worker, daemon: &Daemon) -> Result<Vec<Row>> {
    // Both have just used their device.
    for worker in [&mut *native, vgpu] {
        worker.run("throughput/one-queue", 1, 0)?;
    }
    let natives = || with_descendants(native.id());
    let vgpus = || [with_descendants(vgpu.id()), with_descendants(daemon.id())].concat();
    let (natives, vgpus) = (settled(natives), settled(vgpus));
    let before = (Effort::of(&natives), Effort::of(&vgpus));
    std::thread::sleep(LOOK);
    let natives = Effort::of(&natives).since(&before.0);
    let vgpus = Effort::of(&vgpus).since(&before.1);
    let row = |what: &str, unit, native, vgpu, goal| Row {
        name: format!("{NAME}: {what} in {} s, of guest, paragpud and executor", LOOK.as_secs()),
        unit,
        native: Some(native),
        vgpu,
        ratio: None,
        spread: None,
        goal,
        peer: None,
    };
    Ok(vec![
        row(
            "processor time",
            "ms",
            natives.0,
            vgpus.0,
            Goal::AtMost(1000.0 / clock_ticks_per_second() as f64),
        ),
        row("wake-ups", "", natives.1, vgpus.1, Goal::None),
    ])
}

/// What processes have done so far: milliseconds of processor time of each, and wake-ups of each thread.
#[derive(Default)]
struct Effort {
    times: HashMap<u32, f64>,
    wakes: HashMap<PathBuf, f64>,
}

impl Effort {
    fn of(processes: &[u32]) -> Effort {
        let mut effort = Effort::default();
        for id in processes {
            effort.times.extend(time(*id).map(|time| (*id, time)));
            for thread in read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten() {
                effort.wakes.extend(wakes(&thread.path()).map(|wakes| (thread.path(), wakes)));
            }
        }
        effort
    }

    /// Time and wake-ups since then. What has ended meanwhile, as a compiler that waited for more work does, does not count.
    fn since(&self, before: &Effort) -> (f64, f64) {
        (growth(&self.times, &before.times), growth(&self.wakes, &before.wakes))
    }
}

fn growth<K: Eq + Hash>(now: &HashMap<K, f64>, before: &HashMap<K, f64>) -> f64 {
    now.iter().filter_map(|(key, now)| Some(now - before.get(key)?)).sum()
}

fn time(id: u32) -> Option<f64> {
    let stat = read_to_string(format!("/proc/{id}/stat")).ok()?;
    // After the name, which may have anything in it.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    Some(ticks * 1000.0 / clock_ticks_per_second() as f64)
}

fn wakes(thread: &Path) -> Option<f64> {
    let status = read_to_string(thread.join("status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line?.trim().parse().ok()
}

/// The processes when none starts or ends any more, as compilers do that wait for more work.
fn settled(mut processes: impl FnMut() -> Vec<u32>) -> Vec<u32> {
    let mut now = processes();
    for _ in 0..SETTLE_TURNS {
        std::thread::sleep(SETTLE);
        let before = std::mem::replace(&mut now, processes());
        if now == before {
            break;
        }
    }
    now
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
