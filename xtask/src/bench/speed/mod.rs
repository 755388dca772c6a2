//! `cargo xtask bench`: what a vGPU costs, compared with the host's own OpenCL in the same run.

mod bounds;
mod callgrind;
mod counts;
mod guest;
mod idle;
mod instructions;
mod programs;
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
use crate::vm::VmOptions;
use crate::workspace::{self, Profile};
use anyhow::{Context, Result};
use bounds::Bounds;
use clap::Args;
use row::{Round, Row};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use worker::Worker;
use workload::{Workload, is_chosen};

/// Rounds of each workload, unless told otherwise.
const ROUNDS: usize = 15;
/// The same of whole programs.
const PROGRAM_ROUNDS: usize = 3;
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
/// A program that was built by another process of the same vGPU, and natively by another one with the same cache.
const AGAIN: &str = "build/again-process";

/// What belongs to the applications' mean, in milliseconds.
const LONG_MS: f64 = 10.0;

/// Measure workloads natively and through a vGPU, in turns. docs/performance.md has the figures.
///
/// Two workers measure the same on the host's OpenCL and on a vGPU, one after the other, round by round; the ratio is that of
/// neighbouring turns. The exit status is 1 only if a result was wrong, a workload failed or a count is worse than its bound; a
/// goal that is missed is told.
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
    /// Measure only counts that have a bound, and fail if one is worse: those of a file, or else those that are checked in.
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, conflicts_with = "names")]
    bounds: Option<Option<PathBuf>>,
    /// Another OpenCL that takes part in turn, by the folder of its vendor files.
    #[arg(long, value_name = "NAME=FOLDER")]
    peer: Option<String>,
    /// The OpenCL platform of the device, by its whole name.
    #[arg(long, value_name = "NAME", default_value = "Portable Computing Language")]
    platform: String,
    /// The folder of paragpu, paragpud, libparagpu_opencl.so and examples/, instead of building them (not in the VM).
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    #[command(flatten)]
    vm: VmOptions,
}

/// The sides that take turns.
struct Sides {
    native: Worker,
    vgpu: Worker,
    peer: Option<Worker>,
}

impl Speed {
    /// Measures; the exit status says whether all results were right.
    pub(crate) fn run(mut self) -> Result<ExitCode> {
        let bounds = match &self.bounds {
            Some(file) => {
                let bounds = Bounds::read(file.as_deref())?;
                self.names = bounds.workloads();
                Some(bounds)
            }
            None => None,
        };
        let mut others = vec![AGAIN.to_owned(), idle::NAME.to_owned()];
        for place in [counts::NAME, guest::NAME] {
            others.extend(counts::names(place, &counts::WORKLOADS));
        }
        others.extend(counts::names(counts::APART, &counts::WORKLOADS_APART));
        others.extend(instructions::names());
        others.extend(programs::PROGRAMS.map(|program| format!("{}/{}", programs::NAME, program.name)));
        let workloads = Workload::chosen(&self.names, &others)?;
        if self.list {
            let names = workloads.iter().map(|workload| &workload.name);
            let others = others.iter().filter(|name| is_chosen(&self.names, name));
            names.chain(others).for_each(|name| println!("{name}"));
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
        let complaints = bounds.map(|bounds| bounds.complaints(&rows)).unwrap_or_default();
        let missed = rows.iter().filter(|row| row.met() == Some(false)).count();
        println!();
        match (failed.is_empty(), missed) {
            (true, 0) => println!("all results are right, and all goals are met"),
            (true, missed) => println!("all results are right; {missed} goals are MISSED"),
            (false, _) => println!("FAILED: {}", failed.join(", ")),
        }
        for complaint in &complaints {
            println!("WORSE: {complaint}");
        }
        let is_well = failed.is_empty() && complaints.is_empty();
        Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// The rows, and the names of what failed.
    fn measure(&self, place: &Place, workloads: &[Workload]) -> Result<(Vec<Row>, Vec<String>)> {
        // For build/again-process: processes of one vGPU that share what they build.
        let daemon = Daemon::start(place, &vgpus(["share-builds = true"]))?;
        let mut results = Results { json: self.json.as_deref(), rows: Vec::new(), failed: Vec::new() };
        let mut sides = None;
        for workload in workloads {
            let mut all = match sides.take() {
                Some(all) => all,
                None => self.start(place, &daemon)?,
            };
            let rounds = self.rounds_of(workload, &mut all);
            // After an error the others go on with other workers.
            sides = rounds.is_ok().then_some(all);
            results.add(&workload.name, rounds.map(|rounds| rows_of(workload, &rounds, self.peer_name())))?;
        }
        if self.is_chosen("applications") {
            results.add_mean()?;
        }
        if self.is_chosen(idle::NAME) {
            let mut all = sides.take().map_or_else(|| self.start(place, &daemon), Ok)?;
            results.add(idle::NAME, idle::measure(&mut all.native, &mut all.vgpu, &daemon))?;
        }
        drop(sides);
        if self.is_chosen(AGAIN) {
            let row = self.again(place, &daemon);
            results.add(AGAIN, row.map(|row| vec![row]))?;
        }
        self.count(place, &daemon, (counts::NAME, &counts::WORKLOADS), &mut results)?;
        if counts::names(counts::APART, &counts::WORKLOADS_APART).any(|name| self.is_chosen(&name)) {
            let apart = Daemon::start_with(place, &vgpus([""]), &[(counts::SHARE_VARIABLE, "no")])?;
            self.count(place, &apart, (counts::APART, &counts::WORKLOADS_APART), &mut results)?;
        }
        if instructions::names().any(|name| self.is_chosen(&name)) {
            let rows = instructions::measure(place, &daemon, |name| self.is_chosen(name));
            results.add(instructions::NAME, rows)?;
        }
        // Whole programs and a VM take long: a short run has them only if asked.
        let takes_long = !self.short || !self.names.is_empty();
        for program in programs::PROGRAMS {
            let name = format!("{}/{}", programs::NAME, program.name);
            if takes_long && self.is_chosen(&name) {
                if let Some(reason) = program.missing()? {
                    say::step("bench", format!("{name}: skipped: {reason}"));
                    continue;
                }
                let rounds = self.rounds.unwrap_or(if self.short { 1 } else { PROGRAM_ROUNDS });
                results.add(&name, program.measure(place, rounds))?;
            }
        }
        if takes_long
            && counts::WORKLOADS.iter().any(|(name, ..)| self.is_chosen(&format!("{}/{name}", guest::NAME)))
        {
            say::step("bench", "booting a VM to count in");
            results.add(guest::NAME, guest::measure(&self.vm))?;
        }
        Ok((results.rows, results.failed))
    }

    /// Those of a set of workloads that are chosen.
    fn count(
        &self,
        place: &Place,
        daemon: &Daemon,
        (group, workloads): (&str, &[counts::Counted]),
        results: &mut Results<'_>,
    ) -> Result<()> {
        for workload in workloads {
            let name = format!("{group}/{}", workload.0);
            if self.is_chosen(&name) {
                results.add(&name, counts::measure(group, place, daemon, *workload))?;
            }
        }
        Ok(())
    }

    fn is_chosen(&self, name: &str) -> bool {
        is_chosen(&self.names, name)
    }

    /// Each round has new processes, which build what those of no round have built.
    fn again(&self, place: &Place, daemon: &Daemon) -> Result<Row> {
        let name = format!("build/again:{}", std::process::id());
        let sides = self.start(place, daemon)?;
        for mut worker in [sides.native, sides.vgpu].into_iter().chain(sides.peer) {
            worker.run(&name, 1, 0)?;
            worker.check()?;
            worker.end()?;
        }
        let mut rounds = Vec::new();
        for _ in 0..self.rounds.unwrap_or(if self.short { FEW } else { ROUNDS }) {
            let mut sides = self.start(place, daemon)?;
            rounds.push(sides.round(&name, 1, 0)?);
            sides.all().into_iter().try_for_each(Worker::check)?;
            drop(sides);
            daemon.await_quiet()?;
            // An executor that starts soon after another one of its vGPU is made to wait.
            std::thread::sleep(Duration::from_millis(250));
        }
        Ok(Row::of_medians(AGAIN, &rounds, Goal::AtMost(0.2)))
    }

    fn start(&self, place: &Place, daemon: &Daemon) -> Result<Sides> {
        let peer = match &self.peer {
            None => None,
            Some(peer) => {
                let (name, folder) = peer.split_once('=').context("--peer NAME=FOLDER")?;
                let worker = Worker::peer(place, name, folder.as_ref());
                worker.inspect_err(|error| say::step("bench", format!("{name}: skipped: {error:#}"))).ok()
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
            all.push(sides.round(name, samples, warmup)?);
        }
        sides.all().into_iter().try_for_each(Worker::check)?;
        Ok(all)
    }
}

/// What came of it so far.
struct Results<'a> {
    json: Option<&'a Path>,
    rows: Vec<Row>,
    failed: Vec<String>,
}

impl Results<'_> {
    fn add(&mut self, name: &str, rows: Result<Vec<Row>>) -> Result<()> {
        match rows {
            Ok(rows) => {
                rows.iter().for_each(|row| say::step("bench", row.line()));
                self.rows.extend(rows);
            }
            Err(error) => {
                say::error(&error.context(name.to_owned()));
                self.failed.push(name.to_owned());
            }
        }
        self.json.map_or(Ok(()), |file| row::write_json(file, &self.rows))
    }

    /// Adds the mean of the applications that are long enough.
    fn add_mean(&mut self) -> Result<()> {
        let is_long = |row: &&Row| {
            let native = row.native.unwrap_or(0.0);
            row.name.starts_with("applications/")
                && (row.unit == "s" || row.unit == "ms" && native >= LONG_MS)
        };
        let applications: Vec<&Row> = self.rows.iter().filter(is_long).collect();
        let name = format!("applications of {LONG_MS} ms and more, geometric mean");
        let mean = row::geometric_mean(&name, &applications, Goal::AtMost(1.012));
        self.add(&name, Ok(mean.into_iter().collect()))
    }
}

fn rows_of(workload: &Workload, rounds: &[Round], peer: Option<&str>) -> Vec<Row> {
    let mut rows = vec![Row::of_medians(&workload.name, rounds, workload.goal)];
    rows.extend(workload.tail.map(|goal| Row::of_tails(&workload.name, rounds, goal)));
    if let Some(peer) = peer.filter(|_| rounds.iter().all(|round| !round.peer.is_empty())) {
        let against =
            |round: &Round| Round { native: round.peer.clone(), vgpu: round.vgpu.clone(), peer: Vec::new() };
        let rounds: Vec<Round> = rounds.iter().map(against).collect();
        let name = format!("{}, against {peer} in place of native", workload.name);
        rows.push(Row::of_medians(&name, &rounds, workload.against_peer()));
    }
    rows
}

impl Sides {
    /// One turn of each.
    fn round(&mut self, name: &str, samples: usize, warmup: usize) -> Result<Round> {
        Ok(Round {
            native: self.native.run(name, samples, warmup)?,
            vgpu: self.vgpu.run(name, samples, warmup)?,
            peer: self.peer.as_mut().map_or(Ok(Vec::new()), |peer| peer.run(name, samples, warmup))?,
        })
    }

    fn all(&mut self) -> Vec<&mut Worker> {
        [&mut self.native, &mut self.vgpu].into_iter().chain(&mut self.peer).collect()
    }
}

/// Builds what is measured, and gives its folder.
fn build() -> Result<PathBuf> {
    workspace::build(Profile::Release, &["-p", "paragpu", "-p", "paragpu-opencl"])?;
    for example in [worker::PROGRAM, instructions::PROGRAM] {
        workspace::build_example(Profile::Release, example)?;
    }
    Ok(workspace::target_directory()?.join(Profile::Release.folder()))
}
