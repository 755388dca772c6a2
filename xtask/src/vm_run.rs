//! One run of a VM: starting its processes, following it to its end, and taking everything down again.

use crate::boot_files::{self, Gpu};
use crate::broker::Broker;
use crate::guest_driver::GuestDriver;
use crate::guest_job::Job;
use crate::host_files::HostFiles;
use crate::kernel::Software;
use crate::logs::{self, Logs};
use crate::ports::{Port, for_each_line, forward, record_console};
use crate::process::Bound;
use crate::qemu::{self, Frontend, Machine, Ports};
use crate::{interrupt, say};
use anyhow::{Context, Result, anyhow, bail};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// How long the guest may take to power off after its job.
const POWER_OFF_LIMIT: Duration = Duration::from_secs(10);
/// How often the processes are looked at while nothing happens.
const TICK: Duration = Duration::from_millis(200);
/// An emulated guest gains from each check that its kernel leaves out, and it has nothing to protect.
const KERNEL_ARGUMENTS: &str = "console=ttyS0 panic=-1 mitigations=off random.trust_cpu=on";

/// Everything that a VM is made of.
pub(crate) struct Setup<'a> {
    pub(crate) qemu: &'a Path,
    pub(crate) memory_mib: u32,
    pub(crate) cpus: u32,
    /// The guest's kernel and busybox.
    pub(crate) software: &'a Software,
    pub(crate) frontend: Frontend,
    /// The paragpud to start, if any.
    pub(crate) broker: Option<&'a Path>,
    /// The socket to use if no paragpud is started.
    pub(crate) socket: Option<&'a Path>,
    /// The guest's kernel driver.
    pub(crate) guest: GuestDriver,
    /// Where the guest's software is kept.
    pub(crate) cache: &'a Path,
    /// The guest's OpenCL driver.
    pub(crate) icd: Option<&'a Path>,
    /// The folder for the logs of the latest VM.
    pub(crate) logs: &'a Path,
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
    /// A line from the guest's init script, or `None` when QEMU is gone.
    Control(Option<String>),
    /// stdout or stderr takes no more.
    OutputLost,
    /// This process got a signal.
    Signal(i32),
}

/// Boots a VM, runs `job` in it and waits for its end.
pub(crate) fn run(setup: &Setup, job: &Job, output: Output) -> Result<Outcome> {
    let scratch =
        tempfile::Builder::new().prefix("paragpu-vm-").tempdir().context("cannot make a temporary folder")?;
    let socket = setup.socket.map_or_else(|| scratch.path().join("vgpu.sock"), Path::to_owned);
    let logs = Logs::create(setup.logs)?;
    let (events, happenings) = channel();
    let _listening = interrupt::listen(sender(&events, Event::Signal))?;

    let broker = match setup.broker {
        Some(program) => Some(
            Broker::start(program, &socket, logs.broker, setup.show_device_log)
                .map_err(|error| anyhow!("{error:#}{}", evidence(setup)))?,
        ),
        None => None,
    };
    let initramfs = scratch.path().join("initramfs");
    let gpu = match setup.frontend.virtio_id() {
        None => None,
        Some(id) => Some(Gpu {
            driver: setup.guest,
            module: setup.guest.own_module(id, setup.software, setup.cache, setup.quiet)?,
        }),
    };
    let files = HostFiles::known_to(&setup.software.modules, setup.cache)?;
    let content = boot_files::initramfs(setup.software, job, &files, gpu, setup.icd)?;
    std::fs::write(&initramfs, content).context("cannot write the initramfs")?;

    let (folders, _servers) = files.serve(&job.shares, scratch.path(), &logs.qemu)?;
    let streams = Streams::new()?;
    let machine = Machine {
        qemu: setup.qemu,
        memory_mib: setup.memory_mib,
        cpus: setup.cpus,
        kernel: &setup.software.image,
        initramfs: &initramfs,
        kernel_arguments: KERNEL_ARGUMENTS,
        frontend: setup.frontend,
        socket: &socket,
        folders: &folders,
        may_reboot: job.may_reboot,
        ports: streams.descriptors(),
    };
    let process = start_qemu(&machine, logs.qemu)?;
    let readers = streams.read(logs.kernel, setup.show_kernel_log, output, &events);
    let run = Run { setup, process, broker, started: Instant::now(), job_runs: false };
    let outcome = run.follow(&happenings)?;
    readers.into_iter().for_each(|reader| drop(reader.join()));
    Ok(outcome)
}

fn start_qemu(machine: &Machine, log: File) -> Result<Bound> {
    let copy = log.try_clone().context("cannot share a log file")?;
    let mut command = qemu::command(machine);
    command.stdin(Stdio::null()).stdout(copy).stderr(log);
    Bound::spawn(&mut command, "QEMU")
}

/// The streams out of the guest.
struct Streams {
    console: Port,
    control: Port,
    stdout: Port,
    stderr: Port,
}

impl Streams {
    fn new() -> Result<Streams> {
        Ok(Streams {
            console: Port::new()?,
            control: Port::new()?,
            stdout: Port::new()?,
            stderr: Port::new()?,
        })
    }

    fn descriptors(&self) -> Ports {
        Ports {
            console: self.console.descriptor(),
            control: self.control.descriptor(),
            stdout: self.stdout.descriptor(),
            stderr: self.stderr.descriptor(),
        }
    }

    /// Starts reading, and closes QEMU's ends in this process. Gives the threads of the job's output, which end after
    /// its last byte.
    fn read(
        self,
        log: File,
        show: bool,
        output: Output,
        events: &Sender<Event>,
    ) -> [std::thread::JoinHandle<()>; 3] {
        let lost = || {
            let lost = sender(events, |()| Event::OutputLost);
            move || lost(())
        };
        for_each_line(self.control.ours, sender(events, Event::Control));
        [
            record_console(self.console.ours, log, show),
            forward(self.stdout.ours, output.stdout, lost()),
            forward(self.stderr.ours, output.stderr, lost()),
        ]
    }
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
    setup: &'a Setup<'a>,
    process: Bound,
    broker: Option<Broker>,
    started: Instant,
    job_runs: bool,
}

impl Run<'_> {
    fn follow(mut self, happenings: &Receiver<Event>) -> Result<Outcome> {
        let status = self.await_status(happenings)?;
        if self.process.wait(POWER_OFF_LIMIT).is_none() {
            say::step("vm", "the guest does not power off; ending it");
        }
        drop(self.process);
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
                    self.process.terminate(TICK);
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
        if Instant::now() >= deadline {
            let limit = self.setup.time_limit.as_secs();
            if self.job_runs {
                bail!("the command did not end within {limit} s (--timeout)");
            }
            bail!("the guest did not boot within {limit} s (--timeout){}", evidence(self.setup));
        }
        Ok(())
    }

    /// What to say when QEMU is gone without an exit status of the job.
    fn ended_early(&mut self) -> anyhow::Error {
        // It closes its streams a little before it ends.
        let status = self.process.wait(Duration::from_secs(2));
        let status = status.map_or("it still runs".to_owned(), |status| status.to_string());
        let when = if self.job_runs { "while the command ran" } else { "before it had booted" };
        anyhow!("QEMU ended {when} ({status}){}", evidence(self.setup))
    }

    fn say(&self, text: &str) {
        if !self.setup.quiet {
            say::step("vm", text);
        }
    }
}

/// The ends of all logs, to be put after an error.
fn evidence(setup: &Setup) -> String {
    // What processes wrote last may still be on its way through the reading threads.
    std::thread::sleep(TICK);
    logs::ends(setup.logs)
}
