//! One run of a VM: starting its processes, following it to its end, and taking everything down again.

use crate::broker::Broker;
use crate::host_files::HostFiles;
use crate::logs::{self, Logs};
use crate::ports::{self, Awaited, Port, for_each_line, forward, record_console};
use crate::process::Bound;
use crate::qemu::{self, Ports};
use crate::vmm::{self, Vmm};
use crate::{interrupt, returned, say};
use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long the guest may take to power off after its job.
const POWER_OFF_LIMIT: Duration = Duration::from_secs(10);
/// How often the processes are looked at while nothing happens.
const TICK: Duration = Duration::from_millis(200);
/// An emulated guest gains from each check that its kernel leaves out, and it has nothing to protect.
const KERNEL_ARGUMENTS: &str = "console=ttyS0 panic=-1 mitigations=off random.trust_cpu=on";
/// Where the VM is nested too, each letter on the console takes a millisecond.
const FEW_MESSAGES: &str = " quiet";

/// Everything that a VM is made of.
#[derive(Serialize, Deserialize)]
pub(crate) struct Setup {
    pub(crate) vmm: Vmm,
    /// The VMM's program.
    pub(crate) program: PathBuf,
    pub(crate) memory_mib: u32,
    pub(crate) cpus: u32,
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: PathBuf,
    /// Whether there is a vGPU.
    pub(crate) gpu: bool,
    /// Its virtio id.
    pub(crate) device_id: u16,
    /// The paragpud to start, if any.
    pub(crate) broker: Option<PathBuf>,
    /// The socket to use if no paragpud is started.
    pub(crate) socket: Option<PathBuf>,
    /// How the guest sees folders of the host, if it does.
    pub(crate) host_files: Option<HostFiles>,
    /// Host folders that the guest can write to.
    pub(crate) shares: Vec<PathBuf>,
    /// Whether a reboot of the guest is one, and not the end of the VM.
    pub(crate) may_reboot: bool,
    /// Whether the guest runs VMs of its own.
    pub(crate) nesting: bool,
    /// The folder for the logs of the latest VM.
    pub(crate) logs: PathBuf,
    pub(crate) time_limit: Duration,
    pub(crate) show_kernel_log: bool,
    pub(crate) show_device_log: bool,
    pub(crate) quiet: bool,
}

/// Where the job's output goes.
pub(crate) struct Output {
    pub(crate) stdout: Box<dyn Write + Send>,
    pub(crate) stderr: Box<dyn Write + Send>,
}

impl Output {
    /// To this process's own stdout and stderr.
    pub(crate) fn passed_through() -> Output {
        Output { stdout: Box::new(std::io::stdout()), stderr: Box::new(std::io::stderr()) }
    }
}

/// How a job went.
pub(crate) struct Outcome {
    /// The job's exit status, or 128 and the number of the signal that ended it.
    pub(crate) status: u8,
    /// paragpud's account of how many commands it got.
    pub(crate) summary: Option<String>,
}

/// What happens while a VM runs.
enum Event {
    /// A line from the guest's init script, or `None` when the VMM is gone.
    Control(Option<String>),
    /// stdout or stderr takes no more.
    OutputLost,
    /// This process got a signal.
    Signal(i32),
}

/// Boots a VM, waits for the end of its job and gives what the guest said of it.
pub(crate) fn run(setup: &Setup, output: Output) -> Result<Outcome> {
    let scratch = scratch_folder()?;
    let socket = setup.socket.clone().unwrap_or_else(|| scratch.path().join("vgpu.sock"));
    let logs = Logs::create(&setup.logs)?;
    let (events, happenings) = channel();
    let _listening = interrupt::listen(sender(&events, Event::Signal))?;

    let broker = match &setup.broker {
        Some(program) => Some(
            Broker::start(program, &socket, logs.broker, "info", setup.show_device_log)
                .map_err(|error| anyhow!("{error:#}{}", evidence(setup)))?,
        ),
        None => None,
    };
    let socket = Some(&*socket).filter(|_| setup.gpu);
    let start = if setup.vmm.is_qemu() { start_qemu } else { start_other };
    let (processes, streams) = start(setup, socket, scratch.path(), logs.vmm)?;
    let awaited = streams.awaited;
    let readers = read(streams.sources, logs.kernel, setup.show_kernel_log, output, &events);
    let run = Run { setup, processes, broker, awaited, started: Instant::now(), job_runs: false };
    let outcome = run.follow(&happenings)?;
    for reader in readers {
        reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    }
    Ok(outcome)
}

/// A folder for the files of one VM.
pub(crate) fn scratch_folder() -> Result<TempDir> {
    tempfile::Builder::new().prefix("paragpu-vm-").tempdir().context("cannot make a temporary folder")
}

/// The streams out of a guest.
struct Streams {
    sources: Sources,
    /// Where those that may never come are awaited.
    awaited: Vec<PathBuf>,
}

/// The processes of a VM; the VMM is ended first.
struct Processes {
    vmm: Bound,
    /// What serves the host's files.
    _servers: Vec<Bound>,
}

struct Sources {
    console: Box<dyn Read + Send>,
    control: Box<dyn Read + Send>,
    stdout: Box<dyn Read + Send>,
    stderr: Box<dyn Read + Send>,
    /// What comes of shared folders that the guest does not see.
    folders: Vec<(Awaited, PathBuf)>,
}

fn start_qemu(
    setup: &Setup,
    socket: Option<&Path>,
    scratch: &Path,
    log: File,
) -> Result<(Processes, Streams)> {
    let (console, control, stdout, stderr) = (Port::new()?, Port::new()?, Port::new()?, Port::new()?);
    let (folders, servers) = match &setup.host_files {
        Some(files) => files.serve(&setup.shares, scratch, &log)?,
        None => (Vec::new(), Vec::new()),
    };
    let mut command = qemu::command(&qemu::Machine {
        qemu: &setup.program,
        memory_mib: setup.memory_mib,
        cpus: setup.cpus,
        kernel: &setup.kernel,
        initramfs: &setup.initramfs,
        kernel_arguments: KERNEL_ARGUMENTS,
        vmm: setup.vmm,
        device_id: setup.device_id,
        socket,
        nesting: setup.nesting,
        folders: &folders,
        may_reboot: setup.may_reboot,
        ports: Ports {
            console: console.descriptor(),
            control: control.descriptor(),
            stdout: stdout.descriptor(),
            stderr: stderr.descriptor(),
        },
    });
    command.stdin(Stdio::null()).stdout(copy(&log)?).stderr(log);
    let vmm = Bound::spawn(&mut command, "QEMU")?;
    // This closes QEMU's ends in this process.
    let sources = Sources {
        console: Box::new(console.ours),
        control: Box::new(control.ours),
        stdout: Box::new(stdout.ours),
        stderr: Box::new(stderr.ours),
        folders: Vec::new(),
    };
    Ok((Processes { vmm, _servers: servers }, Streams { sources, awaited: Vec::new() }))
}

fn start_other(
    setup: &Setup,
    socket: Option<&Path>,
    scratch: &Path,
    log: File,
) -> Result<(Processes, Streams)> {
    let vsock = scratch.join("vsock");
    let port = |number| Awaited::new(&vsock, number);
    let (control, stdout, stderr) = (port(1)?, port(2)?, port(3)?);
    let shares = setup.shares.iter().enumerate();
    let folders = shares.map(|(index, share)| Ok((port(returned::port(index))?, share.clone())));
    let folders = folders.collect::<Result<Vec<_>>>()?;
    let (console, terminal) = ports::terminal()?;
    let few = if setup.show_kernel_log { "" } else { FEW_MESSAGES };
    let machine = vmm::Machine {
        program: &setup.program,
        memory_mib: setup.memory_mib,
        cpus: setup.cpus,
        kernel: &setup.kernel,
        initramfs: &setup.initramfs,
        kernel_arguments: &format!("{KERNEL_ARGUMENTS}{few}"),
        socket,
        device_id: setup.device_id,
        vsock: &vsock,
    };
    let mut command = vmm::command(setup.vmm, &machine);
    command.stdin(copy(&terminal)?).stdout(terminal).stderr(log);
    let vmm = Bound::spawn(&mut command, "the VMM")?;
    let awaited = [&control, &stdout, &stderr].into_iter().chain(folders.iter().map(|(port, _)| port));
    let awaited = awaited.map(|port| port.path().to_owned()).collect();
    let sources = Sources {
        console: Box::new(console),
        control: Box::new(control),
        stdout: Box::new(stdout),
        stderr: Box::new(stderr),
        folders,
    };
    Ok((Processes { vmm, _servers: Vec::new() }, Streams { sources, awaited }))
}

fn copy(file: &File) -> Result<File> {
    file.try_clone().context("cannot share a file")
}

/// Starts reading. Gives the threads of what the job makes, which end after its last byte.
fn read(
    sources: Sources,
    log: File,
    show: bool,
    output: Output,
    events: &Sender<Event>,
) -> Vec<JoinHandle<Result<()>>> {
    let lost = || {
        let lost = sender(events, |()| Event::OutputLost);
        move || lost(())
    };
    for_each_line(sources.control, sender(events, Event::Control));
    let mut readers = vec![
        record_console(sources.console, log, show),
        forward(sources.stdout, output.stdout, lost()),
        forward(sources.stderr, output.stderr, lost()),
    ];
    readers.extend(sources.folders.into_iter().map(|(port, folder)| returned::unpack(port, folder)));
    readers
}

/// A function that sends what it gets as an event. Nobody listens any more once the run is over, which is no error.
fn sender<T>(
    events: &Sender<Event>,
    event: impl Fn(T) -> Event + Send + 'static,
) -> impl Fn(T) + Send + 'static {
    let events = events.clone();
    move |value| drop(events.send(event(value)))
}

/// A VM that runs.
struct Run<'a> {
    setup: &'a Setup,
    processes: Processes,
    broker: Option<Broker>,
    /// Sockets that the VMM may not have connected to yet.
    awaited: Vec<PathBuf>,
    started: Instant,
    job_runs: bool,
}

impl Run<'_> {
    fn follow(mut self, happenings: &Receiver<Event>) -> Result<Outcome> {
        let status = self.await_status(happenings)?;
        if self.processes.vmm.wait(POWER_OFF_LIMIT).is_none() {
            say::step("vm", "the guest does not power off; ending it");
        }
        drop(self.processes);
        hang_up(&self.awaited);
        Ok(Outcome { status, summary: self.broker.and_then(Broker::finish) })
    }

    fn await_status(&mut self, happenings: &Receiver<Event>) -> Result<u8> {
        let deadline = self.started + self.setup.time_limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match happenings.recv_timeout(left.min(TICK)) {
                Ok(Event::Control(Some(line))) => {
                    if let Some(status) = self.take_line(&line)? {
                        return Ok(status);
                    }
                }
                Ok(Event::Control(None)) => return Err(self.ended_early()),
                Ok(Event::OutputLost) => bail!("the output takes no more; the VM was ended"),
                Ok(Event::Signal(signal)) => {
                    say::step("vm", format!("ended by signal {signal}"));
                    self.processes.vmm.terminate(TICK);
                    return Ok(u8::try_from(128 + signal).unwrap_or(u8::MAX));
                }
                Err(RecvTimeoutError::Disconnected) => bail!("the VM's streams are gone"),
                Err(RecvTimeoutError::Timeout) => self.check(deadline)?,
            }
        }
    }

    /// Takes one line of the init script; gives the job's status if that was it.
    fn take_line(&mut self, line: &str) -> Result<Option<u8>> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "boot" => self.say(rest),
            "warn" => say::step("vm", format!("warning: {rest}")),
            "fail" => bail!("the guest's set-up failed: {rest}{}", evidence(self.setup)),
            "start" => {
                self.job_runs = true;
                self.say(&format!("booted after {:.1} s", self.started.elapsed().as_secs_f32()));
            }
            "exit" => {
                return rest.parse().map(Some).with_context(|| format!("strange exit status `{rest}`"));
            }
            _ => bail!("the guest's init script said `{line}`"),
        }
        Ok(None)
    }

    fn check(&mut self, deadline: Instant) -> Result<()> {
        if let Some(broker) = &mut self.broker
            && let Some(status) = broker.ended()
        {
            bail!("paragpud ended under the VM ({status}){}", evidence(self.setup));
        }
        if self.processes.vmm.ended().is_some() {
            hang_up(&std::mem::take(&mut self.awaited));
        }
        if Instant::now() >= deadline {
            let limit = self.setup.time_limit.as_secs();
            if self.job_runs {
                bail!("the command did not end within {limit} s (--timeout)");
            }
            bail!("the guest did not boot within {limit} s (--timeout){}", evidence(self.setup));
        }
        Ok(())
    }

    /// What to say when the VMM is gone without an exit status of the job.
    fn ended_early(&mut self) -> anyhow::Error {
        // It closes its streams a little before it ends.
        let status = self.processes.vmm.wait(Duration::from_secs(2));
        let status = status.map_or("it still runs".to_owned(), |status| status.to_string());
        let when = if self.job_runs { "while the command ran" } else { "before it had booted" };
        anyhow!("the VMM ended {when} ({status}){}", evidence(self.setup))
    }

    fn say(&self, text: &str) {
        if !self.setup.quiet {
            say::step("vm", text);
        }
    }
}

/// Ends the streams that nobody has connected yet.
fn hang_up(awaited: &[PathBuf]) {
    for path in awaited {
        // Nobody listens any more where the stream has been and is over.
        let _ = UnixStream::connect(path);
    }
}

/// The ends of all logs, to be put after an error.
fn evidence(setup: &Setup) -> String {
    // What processes wrote last may still be on its way through the reading threads.
    std::thread::sleep(TICK);
    logs::ends(&setup.logs)
}
