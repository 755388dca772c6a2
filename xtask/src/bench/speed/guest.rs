//! The same counts in a VM: its times mean nothing where it is emulated, its kicks and interrupts do.

use super::counts::{Counts, SAMPLES, WORKLOADS, rows, samples};
use super::row::Row;
use super::worker::PROGRAM;
use crate::guest_job::Job;
use crate::vm::VmOptions;
use crate::vm_run::Output;
use crate::workspace;
use anyhow::{Context, Result, bail, ensure};
use std::fs::File;

pub(super) const NAME: &str = "vm";

const SCRIPT: &str = include_str!("../../resources/bench.sh");

/// Boots a VM whose guest runs each workload twice, each time in a process of its own.
pub(super) fn measure(options: &VmOptions) -> Result<Vec<Row>> {
    let program = workspace::build_example(options.profile(), PROGRAM)?;
    let scratch = tempfile::Builder::new().prefix("paragpu-bench-vm-").tempdir()?;
    let (socket, log) = (scratch.path().join("s"), scratch.path().join("log"));
    // Which tells of each context that ends.
    let mut broker = options.start_broker(&socket, File::create(&log)?, "debug")?;
    let mut words = vec!["sh".into(), "-c".into(), SCRIPT.into(), "bench".into(), program.into_os_string()];
    for (name, commands, ..) in WORKLOADS {
        for count in samples(commands) {
            words.extend([name.into(), count.to_string().into()]);
        }
    }
    let outcome = options.on_socket(&socket).boot(&Job::new(words, &[])?, Output::passed_through())?;
    ensure!(outcome.status == 0, "the workloads in the VM ended with exit status {}", outcome.status);
    if let Some(status) = broker.ended() {
        bail!("paragpud ended ({status})");
    }
    broker.finish();
    let log = std::fs::read_to_string(&log).context("no log")?;
    let ended = log.lines().filter(|line| line.contains(" ended; so far")).filter_map(Counts::of);
    let mut totals = vec![Counts::default()];
    totals.extend(ended);
    let runs: Vec<Counts> = totals.windows(2).map(|pair| pair[1].since(pair[0])).collect();
    let expected = WORKLOADS.len() * SAMPLES.len();
    ensure!(runs.len() == expected, "{} guest processes were counted, and {expected} ran", runs.len());
    let pairs = runs.as_chunks::<2>().0;
    let all = WORKLOADS.into_iter().zip(pairs);
    Ok(all.flat_map(|(workload, pair)| rows(NAME, workload, samples(workload.1), *pair)).collect())
}
