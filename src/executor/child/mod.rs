//! The executor: owns one vGPU's OpenCL objects and runs its commands.
//!
//! [`main`] is the process. Inside, an [`Executor`] does what the broker says; each context has a thread that
//! takes frames from its ring and gives them to a [`Context`], which checks them, keeps the objects' records and
//! gives the work to a [`Backend`](backend::Backend). All of these can be used in any process: tests and fuzzers
//! do.

pub mod backend;
pub mod builds;
pub mod compiler;
mod completion;
mod confine;
mod context;
#[cfg(test)]
mod device_side_tests;
#[cfg(test)]
mod device_tests;
mod dispatch;
mod executor;
pub mod fuzz;
#[cfg(test)]
mod image_tests;
mod kept;
mod landing;
mod newest;
mod objects;
mod pace;
pub mod print;
mod programs;
mod quota;
pub mod record;
pub mod region;
#[cfg(test)]
mod rig;
mod ring;
mod spirv;
#[cfg(test)]
mod tests;

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, set_parent_process_death_signal};

use self::backend::Backend;
use self::backend::null::Null;
use self::backend::opencl::OpenCl;
use self::confine::Confined;
use self::print::Printer;
use super::channel::Channel;
use super::devices::{DeviceChoice, HostDeviceInfo};
use super::message::{ToBroker, ToExecutor};

pub use confine::{ConfineError, check as check_confinement};
pub use context::Context;
pub use executor::{EventSink, Executor, ExecutorError};
pub use ring::measure;

/// Environment variable: `null` for a backend without a device, for tests of everything else; `traps` for the same whose
/// builds do not end well if the program says so.
pub const BACKEND_VARIABLE: &str = "PARAGPU_BACKEND";

struct ChannelSink(Arc<Channel>);

impl EventSink for ChannelSink {
    fn send(&self, message: ToBroker) {
        if let Err(error) = self.0.send(&message, &[]) {
            // The broker is gone; the reading side finds out and ends the process.
            log::debug!("to the broker: {error}");
        }
    }
}

/// An executor's process, from the first message to the hang-up.
pub fn main(socket: UnixStream) -> ExitCode {
    let Some(confined) = confine_process(&socket) else { return ExitCode::FAILURE };
    // Before anything loads a driver.
    let printer = Printer::of_stdout().unwrap_or_else(|error| {
        log::warn!("what kernels print is lost: {error}");
        Printer::default()
    });
    run_with(socket, printer, Some(confined))
}

/// Ties this process to the broker, which holds the socket's other end, and confines it. Before anything loads a driver.
/// None if it must not go on.
fn confine_process(socket: &UnixStream) -> Option<Confined> {
    // The broker may be killed without a word; its executors must not outlive it.
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        log::warn!("PR_SET_PDEATHSIG: {error}");
    }
    // One that went before this was said would not be noticed; but then nothing holds the other end any more.
    if is_hung_up(socket) {
        return None;
    }
    // What a guest makes its executor take of the host's memory, it is to lose first. Raising this is always allowed.
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", "1000") {
        log::warn!("/proc/self/oom_score_adj: {error}");
    }
    match confine::confine() {
        Ok(confined) => Some(confined),
        Err(error) => {
            log::error!("not confined, and so not started: {error}");
            None
        }
    }
}

fn is_hung_up(socket: &UnixStream) -> bool {
    let mut polled = [PollFd::new(socket, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut polled, Some(&now)).is_ok_and(|_| polled[0].revents().contains(PollFlags::HUP))
}

/// [`main`], in a thread of any process: tests run it so. Kernels print to wherever that process does.
pub fn run(socket: UnixStream) -> ExitCode {
    run_with(socket, Printer::default(), None)
}

fn run_with(socket: UnixStream, printer: Printer, confined: Option<Confined>) -> ExitCode {
    let channel = Arc::new(Channel::new(socket));
    let sink = Arc::new(ChannelSink(channel.clone()));
    let hello = match channel.recv::<ToExecutor>() {
        Ok(Some(first)) => first,
        Ok(None) => return ExitCode::SUCCESS,
        Err(error) => {
            log::error!("from the broker: {error}");
            return ExitCode::FAILURE;
        }
    };
    let choices = match &hello.0 {
        ToExecutor::Probe => {
            sink.send(found());
            return ExitCode::SUCCESS;
        }
        ToExecutor::Hello { devices, .. } => devices.clone(),
        _ => Vec::new(),
    };
    with_backend(&choices, confined, Serve { printer, channel, sink, hello })
}

/// What the host has.
fn found() -> ToBroker {
    match std::env::var_os(BACKEND_VARIABLE) {
        Some(name) if name == "null" || name == "traps" => ToBroker::Found { devices: vec![null_device()] },
        _ => match OpenCl::probe() {
            Ok(devices) => ToBroker::Found { devices },
            Err(error) => ToBroker::NoDevice { reason: error.to_string() },
        },
    }
}

/// What a process does on the devices of the host.
trait WithBackend {
    /// What comes of it.
    type Answer;

    /// Does it.
    fn run<B: Backend>(self, backend: B) -> Self::Answer;

    /// There is no device, for this reason.
    fn none(self, reason: String) -> Self::Answer;
}

/// Does it on these devices, or those of the default platform; confined as tightly as their driver allows.
fn with_backend<W: WithBackend>(choices: &[DeviceChoice], confined: Option<Confined>, what: W) -> W::Answer {
    match std::env::var_os(BACKEND_VARIABLE) {
        Some(name) if name == "null" || name == "traps" => {
            let backend = if name == "traps" { Null::with_traps(1) } else { Null::new(1) };
            return match driver_loaded(confined, "null") {
                Ok(()) => what.run(backend),
                Err(error) => what.none(error),
            };
        }
        _ => {}
    }
    match OpenCl::open(choices) {
        Ok(backend) => match driver_loaded(confined, &backend.platform_name()) {
            Ok(()) => what.run(backend),
            Err(error) => what.none(error),
        },
        Err(error) => what.none(error.to_string()),
    }
}

struct Serve {
    printer: Printer,
    channel: Arc<Channel>,
    sink: Arc<ChannelSink>,
    hello: (ToExecutor, Vec<OwnedFd>),
}

impl WithBackend for Serve {
    type Answer = ExitCode;

    fn run<B: Backend>(self, backend: B) -> ExitCode {
        let Serve { printer, channel, sink, hello } = self;
        serve(backend, printer, &channel, sink, hello)
    }

    fn none(self, reason: String) -> ExitCode {
        // The broker logs it.
        log::debug!("{reason}");
        self.sink.send(ToBroker::NoDevice { reason });
        ExitCode::FAILURE
    }
}

/// What the null backend is to those who look for devices.
fn null_device() -> HostDeviceInfo {
    HostDeviceInfo {
        platform: "null".to_owned(),
        index: 0,
        name: "null".to_owned(),
        memory_bytes: 1 << 30,
        compute_units: 1,
        is_default: true,
    }
}

/// What comes before anything of a guest's: confines the process as tightly as its driver allows.
fn driver_loaded(confined: Option<Confined>, platform: &str) -> Result<(), String> {
    let Some(confined) = confined else { return Ok(()) };
    confined.driver_loaded(platform).map_err(|error| format!("not confined, and so not started: {error}"))
}

fn serve<B: Backend>(
    backend: B,
    printer: Printer,
    channel: &Channel,
    sink: Arc<ChannelSink>,
    hello: (ToExecutor, Vec<OwnedFd>),
) -> ExitCode {
    let devices = backend.devices().iter().map(|device| device.limits.name.clone()).collect();
    sink.send(ToBroker::Ready { devices });
    let mut executor = Executor::with_printer(Arc::new(backend), sink, printer);
    let mut next = Ok(Some(hello));
    loop {
        match next {
            Ok(Some((message, fds))) => {
                if let Err(error) = executor.handle(message, fds) {
                    log::error!("from the broker: {error}");
                    return ExitCode::FAILURE;
                }
            }
            Ok(None) => return ExitCode::SUCCESS,
            Err(error) => {
                log::error!("from the broker: {error}");
                return ExitCode::FAILURE;
            }
        }
        next = channel.recv();
    }
}
