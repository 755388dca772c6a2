//! A process that measures, on one of the sides that are compared.

use crate::bench::daemon::Daemon;
use crate::bench::place::Place;
use crate::sides::Group;
use anyhow::{Context, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::Value;
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

/// The worker's program.
pub(super) const PROGRAM: &str = "speed";

/// How long it may take to answer. Generous: nothing depends on it but what hangs.
const ANSWER_LIMIT: Timespec = Timespec { tv_sec: 120, tv_nsec: 0 };

/// How long it may take to end.
const END_LIMIT: Duration = Duration::from_secs(60);

/// It ends with this, or with this process.
pub(super) struct Worker {
    what: String,
    group: Group,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    errors: PathBuf,
}

impl Worker {
    /// One on the host's own OpenCL.
    pub(super) fn native(place: &Place) -> Result<Worker> {
        Worker::counted_native(place, &[])
    }

    /// The same, with the words before it that have its instructions counted.
    pub(super) fn counted_native(place: &Place, counter: &[OsString]) -> Result<Worker> {
        let mut words = counter.iter().cloned().chain([place.example(PROGRAM).into()]);
        let mut command = place.command(words.next().context("no program")?);
        command.args(words).args(["--platform", &place.platform]);
        // Where our own driver is installed, it must not be taken for the host's.
        command.env("PARAGPU_DISABLE", "1");
        Worker::spawn("native", place, &mut command)
    }

    /// One on a vGPU.
    pub(super) fn vgpu(place: &Place, daemon: &Daemon, vgpu: &str) -> Result<Worker> {
        Worker::counted_vgpu(place, daemon, vgpu, &[])
    }

    /// The same, with the words before it that have its instructions counted.
    pub(super) fn counted_vgpu(
        place: &Place,
        daemon: &Daemon,
        vgpu: &str,
        counter: &[OsString],
    ) -> Result<Worker> {
        let mut command = place.command(place.program("paragpu"));
        command.args(["run", "--socket"]).arg(daemon.socket(vgpu)).arg("--");
        command.args(counter).arg(place.example(PROGRAM));
        Worker::spawn("vgpu", place, &mut command)
    }

    /// One on another OpenCL, which this folder's vendor files name, with an environment of its own.
    pub(super) fn peer(
        place: &Place,
        name: &str,
        vendors: &Path,
        environment: &[(String, String)],
    ) -> Result<Worker> {
        let mut command = place.command(place.example(PROGRAM));
        command.args(["--platform", ""]).env("OCL_ICD_VENDORS", vendors).env("PARAGPU_DISABLE", "1");
        command.envs(environment.iter().map(|(key, value)| (key, value)));
        Worker::spawn(name, place, &mut command)
    }

    fn spawn(what: &str, place: &Place, command: &mut Command) -> Result<Worker> {
        let (file, errors) = tempfile::NamedTempFile::new_in(place.files())?.keep()?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(file);
        let mut group = Group::spawn(command)?;
        let stdin = group.leader().stdin.take().context("no stdin")?;
        let stdout = BufReader::new(group.leader().stdout.take().context("no stdout")?);
        let mut worker = Worker { what: what.to_owned(), group, stdin, stdout, errors };
        worker.answer()?;
        Ok(worker)
    }

    /// Its process.
    pub(super) fn id(&mut self) -> u32 {
        self.group.leader().id()
    }

    /// Nanoseconds that each sample took, after some that are not told.
    pub(super) fn run(&mut self, workload: &str, samples: usize, warmup: usize) -> Result<Vec<f64>> {
        let answer = self.ask(&format!("run {workload} {samples} {warmup}"))?;
        let samples = answer["ns"].as_array().with_context(|| format!("{answer} has no samples"))?;
        Ok(samples.iter().filter_map(Value::as_f64).collect())
    }

    /// Has it compare what the workload left with what it must be.
    pub(super) fn check(&mut self) -> Result<()> {
        self.ask("check")?;
        Ok(())
    }

    /// Has it end by itself.
    pub(super) fn end(self) -> Result<()> {
        let Worker { what, group, stdin, .. } = self;
        drop(stdin);
        match group.wait(END_LIMIT)? {
            Some(status) if status.success() => Ok(()),
            _ => bail!("{what} does not end well"),
        }
    }

    fn ask(&mut self, request: &str) -> Result<Value> {
        let sent = writeln!(self.stdin, "{request}").and_then(|()| self.stdin.flush());
        sent.with_context(|| self.trouble())?;
        self.answer()
    }

    fn answer(&mut self) -> Result<Value> {
        let mut line = String::new();
        // Nothing is buffered: each request has one line for an answer, and that comes as a whole.
        let ready = poll(&mut [PollFd::new(self.stdout.get_ref(), PollFlags::IN)], Some(&ANSWER_LIMIT))?;
        ensure!(ready > 0, "{} does not answer", self.what);
        if self.stdout.read_line(&mut line)? == 0 {
            bail!("{}", self.trouble());
        }
        serde_json::from_str(&line).with_context(|| format!("{} says {line:?}", self.what))
    }

    fn trouble(&self) -> String {
        let errors = fs::read_to_string(&self.errors).unwrap_or_default();
        format!("{} fails: {}", self.what, errors.trim())
    }
}
