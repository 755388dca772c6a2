//! Loads: `device_load` on vGPUs, beginning at a common time.

use crate::bench::daemon::Daemon;
use crate::bench::memory;
use crate::bench::place::Place;
use crate::sides::Group;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::fmt::Display;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long a load may take to build its program, and to end when its time is over. Generous: nothing depends on it but what
/// hangs.
const PATIENCE: Duration = Duration::from_secs(300);
/// Loads that start at once: each builds its program, and a build that waits for many others may run out of time.
const STARTING: usize = 4;

/// What a load is to do.
#[derive(Clone, Debug)]
pub(super) struct Spec {
    /// The vGPU that it runs on.
    pub(super) vgpu: String,
    arguments: Vec<String>,
    seconds: f64,
}

impl Spec {
    /// Work without end.
    pub(super) fn endless(vgpu: &str, iterations: u32, seconds: f64) -> Spec {
        let options: [(&str, &dyn Display); 3] =
            [("--iterations", &iterations), ("--seconds", &seconds), ("--start-ms", &"-")];
        Spec { seconds, ..Spec::new(vgpu, &options) }
    }

    /// One kernel every so many milliseconds, and how long each took.
    pub(super) fn latency(vgpu: &str, iterations: u32, seconds: f64, every_ms: f64) -> Spec {
        let mut spec = Spec::endless(vgpu, iterations, seconds);
        spec.arguments.extend(["--every-ms".to_owned(), every_ms.to_string()]);
        spec
    }

    /// A context, and nothing more.
    pub(super) fn idle(vgpu: &str) -> Spec {
        Spec::new(vgpu, &[("--hold", &1e6)])
    }

    fn new(vgpu: &str, options: &[(&str, &dyn Display)]) -> Spec {
        let arguments = options.iter().flat_map(|(name, value)| [(*name).to_owned(), value.to_string()]);
        Spec { vgpu: vgpu.to_owned(), arguments: arguments.collect(), seconds: 0.0 }
    }
}

/// What a load has done. All of its results were right, or it would be an error.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Report {
    /// Iterations of kernels that ended in its time.
    pub(super) iterations: f64,
    /// Milliseconds that each kernel took, if it was to tell.
    pub(super) latencies: Vec<f64>,
}

/// A running load; it ends with this.
pub(super) struct Load {
    vgpu: String,
    /// How long it computes.
    seconds: f64,
    group: Option<Group>,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    errors: PathBuf,
    /// Milliseconds from its first OpenCL call to the answer to its first command.
    pub(super) opened_ms: f64,
}

impl Load {
    /// Starts it on its vGPU.
    pub(super) fn start(place: &Place, daemon: &Daemon, spec: &Spec) -> Result<Load> {
        let mut command = place.command(place.program("paragpu"));
        command.args(["run", "--socket"]).arg(daemon.socket(&spec.vgpu)).arg("--");
        command.arg(place.example("device_load")).args(&spec.arguments);
        Load::spawn(place, spec, &mut command)
    }

    /// Starts it on the host's own OpenCL.
    pub(super) fn start_native(place: &Place, spec: &Spec) -> Result<Load> {
        let mut command = place.command(place.example("device_load"));
        command.args(["--platform", &place.platform]).args(&spec.arguments);
        // Where our own driver is installed, it must not be taken for the host's.
        command.env("PARAGPU_DISABLE", "1");
        Load::spawn(place, spec, &mut command)
    }

    fn spawn(place: &Place, spec: &Spec, command: &mut Command) -> Result<Load> {
        let (file, errors) = tempfile::NamedTempFile::new_in(place.files())?.keep()?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(file);
        let mut group = Group::spawn(command)?;
        let stdin = group.leader().stdin.take();
        let stdout = group.leader().stdout.take().context("no stdout")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _nobody_cares = sender.send(line);
            }
        });
        let (vgpu, seconds) = (spec.vgpu.clone(), spec.seconds);
        Ok(Load { vgpu, seconds, group: Some(group), stdin, lines, errors, opened_ms: 0.0 })
    }

    /// Its process.
    pub(super) fn id(&mut self) -> Option<u32> {
        self.group.as_mut().map(|group| group.leader().id())
    }

    /// Waits until it is ready.
    pub(super) fn await_ready(&mut self) -> Result<()> {
        let line = self.line("is not ready")?;
        self.opened_ms = line["opened_ms"].as_f64().context("a load does not tell how it started")?;
        Ok(())
    }

    /// Tells it when to begin, in milliseconds since 1970.
    pub(super) fn begin(&mut self, at: u128) -> Result<()> {
        let stdin = self.stdin.as_mut().context("it has begun")?;
        writeln!(stdin, "{at}").with_context(|| self.trouble("ended before it began"))
    }

    /// Waits for what it has done.
    pub(super) fn report(&mut self) -> Result<Report> {
        let line = self.line("does not end")?;
        let number =
            |key: &str| line[key].as_f64().with_context(|| format!("{}: {line} lacks {key}", self.vgpu));
        if number("wrong")? != 0.0 {
            bail!("{}: {} results are wrong", self.vgpu, number("wrong")?);
        }
        let latencies = line["latencies_ms"].as_array().map(Vec::as_slice).unwrap_or_default();
        let report = Report {
            iterations: number("kernels")? * number("iterations")?,
            latencies: latencies.iter().filter_map(Value::as_f64).collect(),
        };
        let group = self.group.take().context("it has ended")?;
        match group.wait(PATIENCE)? {
            Some(status) if status.success() => Ok(report),
            Some(status) => bail!("{}", self.trouble(&format!("ends with {status}"))),
            None => bail!("{}", self.trouble("does not end")),
        }
    }

    /// Runs it at once, and by itself.
    pub(super) fn alone(mut self) -> Result<Report> {
        self.await_ready()?;
        self.begin(now_ms() + 100)?;
        self.report()
    }

    /// Ends one that holds its context.
    pub(super) fn release(mut self) -> Result<()> {
        drop(self.stdin.take());
        if let Some(group) = self.group.take() {
            group.wait(PATIENCE)?;
        }
        Ok(())
    }

    fn line(&self, otherwise: &str) -> Result<Value> {
        match self.lines.recv_timeout(PATIENCE + Duration::from_secs_f64(self.seconds)) {
            Ok(line) => serde_json::from_str(&line).with_context(|| format!("{} says {line:?}", self.vgpu)),
            Err(RecvTimeoutError::Timeout) => bail!("{}", self.trouble(otherwise)),
            Err(RecvTimeoutError::Disconnected) => bail!("{}", self.trouble("fails")),
        }
    }

    fn trouble(&self, what: &str) -> String {
        let errors = fs::read_to_string(&self.errors).unwrap_or_default();
        format!("the load of {} {what}: {}", self.vgpu, errors.trim())
    }
}

/// Loads that are ready, each on its vGPU.
pub(super) struct Loads(Vec<Load>);

impl Loads {
    /// Starts them, and waits until all are ready.
    pub(super) fn start(place: &Place, daemon: &Daemon, specs: &[Spec]) -> Result<Loads> {
        Loads::start_with(specs, |spec| Load::start(place, daemon, spec))
    }

    /// The same with the host's own OpenCL.
    pub(super) fn start_native(place: &Place, specs: &[Spec]) -> Result<Loads> {
        Loads::start_with(specs, |spec| Load::start_native(place, spec))
    }

    fn start_with(specs: &[Spec], start: impl Fn(&Spec) -> Result<Load>) -> Result<Loads> {
        let mut loads = Vec::new();
        for some in specs.chunks(STARTING) {
            let first = loads.len();
            for spec in some {
                loads.push(start(spec)?);
            }
            loads[first..].iter_mut().try_for_each(Load::await_ready)?;
        }
        Ok(Loads(loads))
    }

    /// Has them run, and gives what they did. `during` is called when they begin.
    pub(super) fn run(mut self, during: impl FnOnce() -> Result<()>) -> Result<Vec<Report>> {
        // Time for each to hear of it.
        let at = now_ms() + 300 + 5 * self.0.len() as u128;
        for load in &mut self.0 {
            load.begin(at)?;
        }
        sleep_until(at);
        during()?;
        self.0.iter_mut().map(Load::report).collect()
    }

    /// Ends those that hold their contexts.
    pub(super) fn release(self) -> Result<()> {
        self.0.into_iter().try_for_each(Load::release)
    }

    /// Proportional memory of their processes, which are no vGPU's, in bytes.
    pub(super) fn proportional_memory(&mut self) -> Result<Vec<f64>> {
        let ids: Vec<u32> = self.0.iter_mut().filter_map(Load::id).collect();
        ids.into_iter().map(|id| Ok(memory::proportional(id)? as f64)).collect()
    }
}

/// An attacker on a vGPU, of which nothing is expected; it ends with this.
pub(super) struct Attacker(Load);

impl Attacker {
    /// Starts it. Its own processes come after all others: what they take of the host's processors is not taken through the
    /// vGPU, and a VM's could be limited.
    pub(super) fn start(
        place: &Place,
        daemon: &Daemon,
        vgpu: &str,
        mode: &str,
        seconds: f64,
    ) -> Result<Attacker> {
        let mut command = place.command("nice");
        command.args(["-n", "19"]).arg(place.program("paragpu"));
        command.args(["run", "--socket"]).arg(daemon.socket(vgpu)).arg("--");
        command.arg(place.example("hostile_load")).args([mode, &seconds.to_string()]);
        Ok(Attacker(Load::spawn(place, &Spec::new(vgpu, &[]), &mut command)?))
    }

    /// Waits for its end, at most for `limit`, and says what it achieved.
    pub(super) fn finish(self, limit: Duration) -> String {
        match self.0.lines.recv_timeout(limit) {
            Ok(line) => line.trim_matches(['{', '}']).replace('"', "").replace(',', ", ").replace(':', " "),
            Err(_) => self.0.trouble("said nothing"),
        }
    }
}

/// Waits for a point in time, and measures from then on for so long.
pub(super) fn sleep_for(seconds: f64, since: Instant) {
    std::thread::sleep((since + Duration::from_secs_f64(seconds)).saturating_duration_since(Instant::now()));
}

fn now_ms() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()
}

fn sleep_until(at: u128) {
    std::thread::sleep(Duration::from_millis(at.saturating_sub(now_ms()) as u64));
}
