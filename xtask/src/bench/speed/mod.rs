//! `cargo xtask bench`: what a vGPU costs, compared with the host's own OpenCL in the same run.

mod bounds;
mod callgrind;
mod counts;
mod guest;
mod idle;
mod instructions;
mod peer;
mod programs;
mod row;
mod worker;
mod workload;

use super::daemon::{Daemon, vgpus};
use super::goal::Goal;
use super::machine;
use super::place::Place;
use super::{check_writable, verdict};
use crate::interrupt;
use crate::say;
use crate::sides::kill_all;
use crate::vm::VmOptions;
use crate::workspace::{self, Profile};
use anyhow::Result;
use bounds::Bounds;
use clap::Args;
use clap::builder::RangedU64ValueParser;
use peer::Peer;
use row::{Round, Row, Table};
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

/// What is to be ahead of a peer, by however much.
const AHEAD: Goal = Goal::AtMost(1.0);

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
    /// Put the table of results into this document, instead of the one that is there; with a peer, the one beside that.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// How many rounds each workload has.
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    rounds: Option<usize>,
    /// Few rounds and samples: results are checked, and times mean little.
    #[arg(long)]
    short: bool,
    /// Measure only counts that have a bound, and fail if one is worse: those of a file, or else those that are checked in.
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, conflicts_with = "names")]
    bounds: Option<Option<PathBuf>>,
    #[command(flatten)]
    peer: peer::Options,
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
        let peer = self.peer.peer()?;
        check_writable(self.json.as_deref())?;
        if let Some(file) = &self.markdown {
            Table::check_markdown(file, peer.as_ref())?;
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
        let (rows, failed) = self.measure(&place, peer.as_ref(), &workloads)?;
        let mut table = Table::native(&rows);
        print!("{table}");
        if let Some(peer) = &peer {
            table = Table::against(&rows, peer);
            print!("\n{table}");
        }
        if let Some(file) = &self.markdown {
            table.write_markdown(file)?;
        }
        let complaints = bounds.as_ref().map(|bounds| bounds.complaints(&rows)).unwrap_or_default();
        let missed = rows.iter().filter(|row| row.met() == Some(false)).count();
        println!("\n{}", verdict(rows.len(), &failed, missed));
        if self.short && missed > 0 {
            println!("(of a short run, which says little about times)");
        }
        if bounds.is_some() && complaints.is_empty() {
            println!("no count is worse than its bound");
        }
        for complaint in &complaints {
            println!("WORSE: {complaint}");
        }
        let is_well = failed.is_empty() && complaints.is_empty();
        Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// The rows, and the names of what failed.
    fn measure(
        &self,
        place: &Place,
        peer: Option<&Peer>,
        workloads: &[Workload],
    ) -> Result<(Vec<Row>, Vec<String>)> {
        if let Some(peer) = peer {
            // One that cannot take part at all is told before anything is measured.
            peer.start(place)?.end()?;
        }
        // For build/again-process: processes of one vGPU that share what they build.
        let daemon = Daemon::start(place, &vgpus(["share-builds = true"]))?;
        let mut results = Results { json: self.json.as_deref(), rows: Vec::new(), failed: Vec::new() };
        let mut sides = None;
        for workload in workloads {
            let mut all = match sides.take() {
                Some(all) => all,
                None => Sides::start(place, &daemon, peer)?,
            };
            let rounds = self.rounds_of(workload, &mut all);
            // After an error the others go on with other workers.
            sides = (rounds.is_ok() && all.peer.is_some() == peer.is_some()).then_some(all);
            let rows = rounds.map(|rounds| rows_of(workload, &rounds, peer));
            results.add(&workload.name, rows)?;
        }
        if self.is_chosen("applications") {
            results.add_mean()?;
        }
        if self.is_chosen(idle::NAME) {
            let mut all = sides.take().map_or_else(|| Sides::start(place, &daemon, peer), Ok)?;
            results.add(idle::NAME, idle::measure(&mut all.native, &mut all.vgpu, &daemon))?;
        }
        drop(sides);
        if self.is_chosen(AGAIN) {
            results.add(AGAIN, self.again(place, &daemon, peer))?;
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
    fn again(&self, place: &Place, daemon: &Daemon, peer: Option<&Peer>) -> Result<Vec<Row>> {
        let name = format!("build/again:{}", std::process::id());
        let mut sides = Sides::start(place, daemon, peer)?;
        let round = sides.round(&name, 1, 0)?;
        sides.checked(vec![round])?;
        for worker in [sides.native, sides.vgpu].into_iter().chain(sides.peer) {
            worker.end()?;
        }
        let mut rounds = Vec::new();
        for _ in 0..self.rounds.unwrap_or(if self.short { FEW } else { ROUNDS }) {
            let mut sides = Sides::start(place, daemon, peer)?;
            let round = sides.round(&name, 1, 0)?;
            rounds.extend(sides.checked(vec![round])?);
            drop(sides);
            daemon.await_quiet()?;
            // An executor that starts soon after another one of its vGPU is made to wait.
            std::thread::sleep(Duration::from_millis(250));
        }
        let mut rows = vec![Row::of_medians(AGAIN, &rounds, Goal::AtMost(0.2))];
        rows.extend(peer.and_then(|peer| peer.row(AGAIN, &rounds, AHEAD)));
        Ok(rows)
    }

    /// Has the sides take turns, and their results checked.
    fn rounds_of(&self, workload: &Workload, sides: &mut Sides) -> Result<Vec<Round>> {
        let name = &workload.name;
        let warmup = if workload.is_costly { 1 } else { WARMUP };
        // A turn of each that does not count tells how long one sample takes.
        let mut longest = 0.0_f64;
        sides.each(|worker| {
            worker.run(name, 1, 0)?;
            let samples = worker.run(name, 1, if workload.is_costly { 0 } else { 1 })?;
            worker.check()?;
            longest = samples.into_iter().fold(longest, f64::max);
            Ok(())
        })?;
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
        sides.checked(all)
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

fn rows_of(workload: &Workload, rounds: &[Round], peer: Option<&Peer>) -> Vec<Row> {
    let mut rows = vec![Row::of_medians(&workload.name, rounds, workload.goal)];
    rows.extend(workload.tail.map(|goal| Row::of_tails(&workload.name, rounds, goal)));
    rows.extend(peer.and_then(|peer| peer.row(&workload.name, rounds, workload.against_peer())));
    rows
}

impl Sides {
    fn start(place: &Place, daemon: &Daemon, peer: Option<&Peer>) -> Result<Sides> {
        let (native, vgpu) = (Worker::native(place)?, Worker::vgpu(place, daemon, "v0")?);
        let peer = peer.and_then(|peer| present(peer.start(place)));
        Ok(Sides { native, vgpu, peer })
    }

    /// Has each do the same in turn. A peer that fails takes no part any more.
    fn each<T>(&mut self, mut what: impl FnMut(&mut Worker) -> Result<T>) -> Result<(T, T, Option<T>)> {
        let (native, vgpu) = (what(&mut self.native)?, what(&mut self.vgpu)?);
        let peer = self.peer.as_mut().and_then(|peer| present(what(peer)));
        if peer.is_none() {
            self.peer = None;
        }
        Ok((native, vgpu, peer))
    }

    /// One turn of each.
    fn round(&mut self, name: &str, samples: usize, warmup: usize) -> Result<Round> {
        let (native, vgpu, peer) = self.each(|worker| worker.run(name, samples, warmup))?;
        Ok(Round { native, vgpu, peer: peer.unwrap_or_default() })
    }

    /// The rounds, if what they left is right; without the peer's part if only that is not.
    fn checked(&mut self, mut rounds: Vec<Round>) -> Result<Vec<Round>> {
        self.each(Worker::check)?;
        if self.peer.is_none() {
            rounds.iter_mut().for_each(|round| round.peer.clear());
        }
        Ok(rounds)
    }
}

/// What a peer gave. Its failure is told and is not ours: the others' figures are worth having without it.
fn present<T>(given: Result<T>) -> Option<T> {
    given.inspect_err(|error| say::step("bench", format!("goes on without a peer: {error:#}"))).ok()
}

/// Builds what is measured, and gives its folder.
fn build() -> Result<PathBuf> {
    workspace::build(Profile::Release, &["-p", "paragpu", "-p", "paragpu-opencl"])?;
    for example in [worker::PROGRAM, instructions::PROGRAM] {
        workspace::build_example(Profile::Release, example)?;
    }
    Ok(workspace::target_directory()?.join(Profile::Release.folder()))
}
