//! `cargo xtask bench`: what a vGPU costs, compared with the host's own OpenCL in the same run.

mod row;
mod worker;
mod workload;

use super::daemon::{Daemon, vgpus};
use super::goal::Goal;
use super::machine;
use super::place::Place;
use crate::interrupt;
use crate::say;
use crate::sides::kill_all;
use crate::workspace::{self, Profile};
use anyhow::{Context, Result};
use clap::Args;
use row::{Round, Row};
use std::path::PathBuf;
use std::process::ExitCode;
use worker::Worker;
use workload::Workload;

/// Rounds of each workload, unless told otherwise.
const ROUNDS: usize = 15;
/// The same for a short run.
const FEW: usize = 3;
/// How long one side of a round is to take: long enough for some samples, short enough that both see the same machine.
const TURN_NS: f64 = 20e6;
/// The same in all rounds, for what takes long.
const LONG_NS: f64 = 3e9;
/// Samples of a round at most.
const MOST: usize = 100;
/// Samples that are not told, at the begin and after each turn of the other side: caches and threads have gone cold.
const WARMUP: usize = 10;
/// What belongs to the applications' mean, in milliseconds.
const LONG_MS: f64 = 10.0;

/// Measure workloads natively and through a vGPU, in turns. docs/performance.md has the figures.
///
/// Two workers measure the same on the host's OpenCL and on a vGPU, one after the other, round by round; the ratio is that of
/// neighbouring turns. The exit status is 1 only if a result was wrong or a workload failed; a goal that is missed is told.
#[derive(Args)]
pub(crate) struct Speed {
    /// Workloads, or what their names begin with: latency, throughput, data, data/read, …
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Tell which workloads there are, and end.
    #[arg(long)]
    list: bool,
    /// Write the results as JSON, anew after each workload.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Put the table of results into this document, instead of the one that is there.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// How many rounds each workload has.
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// Few rounds and samples: results are checked, and times mean little.
    #[arg(long)]
    short: bool,
    /// Another OpenCL that takes part in turn, by the folder of its vendor files.
    #[arg(long, value_name = "NAME=FOLDER")]
    peer: Option<String>,
    /// The OpenCL platform of the device, by its whole name.
    #[arg(long, value_name = "NAME", default_value = "Portable Computing Language")]
    platform: String,
    /// The folder of paragpu, paragpud, libparagpu_opencl.so and examples/, instead of building them.
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
}

/// The sides that take turns.
struct Sides {
    native: Worker,
    vgpu: Worker,
    peer: Option<Worker>,
}

impl Speed {
    /// Measures; the exit status says whether all results were right.
    pub(crate) fn run(self) -> Result<ExitCode> {
        let workloads = Workload::chosen(&self.names, &[])?;
        if self.list {
            workloads.iter().for_each(|workload| println!("{}", workload.name));
            return Ok(ExitCode::SUCCESS);
        }
        let programs = match &self.programs {
            Some(folder) => folder.clone(),
            None => build()?,
        };
        let place = Place::new(programs, self.platform.clone())?;
        place.check(&[worker::PROGRAM])?;
        let files = place.files().to_owned();
        let _listening = interrupt::listen(move |signal| {
            kill_all();
            let _best_effort = std::fs::remove_dir_all(&files);
            std::process::exit(128 + signal);
        })?;
        let busy = machine::busy()?;
        if busy > machine::QUIET {
            say::step("bench", format!("the machine is busy with something else ({busy:.0} %)"));
        }
        let (rows, failed) = self.measure(&place, &workloads)?;
        print!("{}", row::table(&rows, self.peer_name()));
        if let Some(file) = &self.markdown {
            row::write_markdown(file, &rows, self.peer_name())?;
        }
        let missed = rows.iter().filter(|row| row.met() == Some(false)).count();
        println!();
        match (failed.is_empty(), missed) {
            (true, 0) => println!("all results are right, and all goals are met"),
            (true, missed) => println!("all results are right; {missed} goals are MISSED"),
            (false, _) => println!("FAILED: {}", failed.join(", ")),
        }
        Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// The rows, and the names of what failed.
    fn measure(&self, place: &Place, workloads: &[Workload]) -> Result<(Vec<Row>, Vec<String>)> {
        let daemon = Daemon::start(place, &vgpus([""]))?;
        let (mut rows, mut failed) = (Vec::new(), Vec::new());
        let mut sides = None;
        for workload in workloads {
            let mut all = match sides.take() {
                Some(all) => all,
                None => self.start(place, &daemon)?,
            };
            match self.rounds_of(workload, &mut all) {
                Ok(rounds) => {
                    let row = Row::of_medians(&workload.name, &rounds, workload.goal);
                    tell(&row);
                    rows.push(row);
                    if let Some(goal) = workload.tail {
                        let row = Row::of_tails(&workload.name, &rounds, goal);
                        tell(&row);
                        rows.push(row);
                    }
                    sides = Some(all);
                }
                // The others go on with other workers.
                Err(error) => {
                    say::error(&error.context(workload.name.clone()));
                    failed.push(workload.name.clone());
                }
            }
            if let Some(file) = &self.json {
                row::write_json(file, &rows)?;
            }
        }
        let long = |row: &&Row| {
            let milliseconds = match row.unit {
                "s" => f64::INFINITY,
                "ms" => row.native.unwrap_or(0.0),
                _ => 0.0,
            };
            row.name.starts_with("applications/") && milliseconds >= LONG_MS
        };
        let applications: Vec<&Row> = rows.iter().filter(long).collect();
        let name = format!("applications of {LONG_MS} ms and more, geometric mean");
        rows.extend(row::geometric_mean(&name, &applications, Goal::AtMost(1.012)));
        if let Some(file) = &self.json {
            row::write_json(file, &rows)?;
        }
        Ok((rows, failed))
    }

    fn start(&self, place: &Place, daemon: &Daemon) -> Result<Sides> {
        let peer = match &self.peer {
            None => None,
            Some(peer) => {
                let (name, folder) = peer.split_once('=').context("--peer NAME=FOLDER")?;
                Some(Worker::peer(place, name, folder.as_ref())?)
            }
        };
        Ok(Sides { native: Worker::native(place)?, vgpu: Worker::vgpu(place, daemon, "v0")?, peer })
    }

    fn peer_name(&self) -> Option<&str> {
        self.peer.as_ref()?.split('=').next()
    }

    /// Has the sides take turns, and their results checked.
    fn rounds_of(&self, workload: &Workload, sides: &mut Sides) -> Result<Vec<Round>> {
        let name = &workload.name;
        let warmup = if workload.is_costly { 1 } else { WARMUP };
        // A turn of each that does not count tells how long one sample takes.
        let mut longest = 0.0_f64;
        for worker in sides.all() {
            worker.run(name, 1, 0)?;
            let samples = worker.run(name, 1, if workload.is_costly { 0 } else { 1 })?;
            worker.check()?;
            longest = samples.into_iter().fold(longest, f64::max);
        }
        let least = if self.short { FEW } else { ROUNDS };
        let mut rounds = self.rounds.unwrap_or(if self.short { FEW } else { ROUNDS });
        let mut samples = ((TURN_NS / longest) as usize).clamp(1, MOST);
        if self.short {
            samples = samples.min(5);
        } else if self.rounds.is_none() {
            rounds = rounds.max(workload.samples.div_ceil(samples));
            rounds = rounds.min(((LONG_NS / longest) as usize).max(least));
        }
        // What is quick is cold again after the others' turns.
        let warmup = ((TURN_NS / 4.0 / longest) as usize).clamp(usize::from(!workload.is_costly), warmup);
        let mut all = Vec::new();
        for _ in 0..rounds {
            all.push(Round {
                native: sides.native.run(name, samples, warmup)?,
                vgpu: sides.vgpu.run(name, samples, warmup)?,
                peer: sides.peer.as_mut().map_or(Ok(Vec::new()), |peer| peer.run(name, samples, warmup))?,
            });
        }
        sides.all().into_iter().try_for_each(Worker::check)?;
        Ok(all)
    }
}

impl Sides {
    fn all(&mut self) -> Vec<&mut Worker> {
        [&mut self.native, &mut self.vgpu].into_iter().chain(&mut self.peer).collect()
    }
}

/// Builds what is measured, and gives its folder.
fn build() -> Result<PathBuf> {
    workspace::build(Profile::Release, &["-p", "paragpu", "-p", "paragpu-opencl"])?;
    workspace::build_example(Profile::Release, worker::PROGRAM)?;
    Ok(workspace::target_directory()?.join(Profile::Release.folder()))
}

/// Tells a result as it comes.
fn tell(row: &Row) {
    say::step("bench", row.line());
}
