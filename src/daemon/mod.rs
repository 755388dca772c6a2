//! paragpud: listens, and serves every connection on a thread of its own.

mod options;
mod server;
pub mod socket;

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, Parser};
use log::{LevelFilter, error};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, set_parent_process_death_signal, setrlimit};

use crate::executor::child;
use crate::executor::supervisor::{COMPILER_ARGUMENT, EXECUTOR_ARGUMENT, LOG_VARIABLE};
use crate::sys;

pub use options::Options;

/// `--print-capabilities`, as vhost-user's conventions for back end programs want it.
const CAPABILITIES: &str = r#"{"type":"gpu","features":["render-node","virgl"]}"#;

/// The daemon's `main`.
pub fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next() {
        Some(argument) if argument == EXECUTOR_ARGUMENT => return child_main(child::main),
        Some(argument) if argument == COMPILER_ARGUMENT => {
            return child_main(|socket| child::compiler::main(socket, arguments));
        }
        _ => {}
    }
    let options = Options::parse();
    if options.print_capabilities {
        return match writeln!(io::stdout(), "{CAPABILITIES}") {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("paragpud: standard output: {error}");
                ExitCode::FAILURE
            }
        };
    }
    start_logging(options.log_level);
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The command line, for completions and the manual.
pub fn command() -> clap::Command {
    Options::command()
}

fn run(options: &Options) -> anyhow::Result<()> {
    raise_descriptor_limit();
    if let Some(path) = &options.render_node {
        log::info!("--render-node {} is ignored: devices are chosen through OpenCL", path.display());
    }
    let Some(number) = options.fd else {
        let path = match &options.socket_path {
            Some(path) => path.clone(),
            None => socket::default_path().context("pass --socket-path")?,
        };
        let listener = socket::OwnedListener::bind(&path)
            .with_context(|| format!("cannot listen on {}", path.display()))?;
        log::info!("listening on {}", path.display());
        return server::listen(listener.listener(), options);
    };
    anyhow::ensure!(number > 2, "--fd {number}: the standard descriptors are taken");
    // SAFETY: the parent opened it for us and says so; nothing in this process has opened a descriptor for
    // keeps yet, so none of ours has the number.
    let fd = unsafe { sys::inherited::take(number) }.with_context(|| format!("--fd {number}"))?;
    fcntl_setfd(&fd, FdFlags::CLOEXEC)?;
    let listening = rustix::net::sockopt::socket_acceptconn(&fd)
        .with_context(|| format!("--fd {number} is not a socket"))?;
    if listening { server::listen(&fd.into(), options) } else { server::serve_one(fd.into(), options) }
}

/// Each session holds descriptors for its memory, queues and contexts; the usual limit of 1024 is for programs
/// that use select().
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        log::warn!("the limit of open files stays as it is: {error}");
    }
}

/// An executor or its compiler: the same program with its socket as standard input.
fn child_main(main: impl FnOnce(UnixStream) -> ExitCode) -> ExitCode {
    // SAFETY: this is the first thing that the process does; nothing owns a descriptor yet.
    if let Err(error) = unsafe { sys::inherited::close() } {
        eprintln!("paragpud executor: cannot close inherited descriptors: {error}");
        return ExitCode::FAILURE;
    }
    start_logging(None);
    // With the broker's session thread the executor's purpose ends. Its hang-up alone would not end one that
    // hangs in a driver.
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        error!("executor: cannot tie itself to the broker: {error}");
        return ExitCode::FAILURE;
    }
    let stdin = io::stdin();
    if rustix::net::sockopt::socket_type(stdin.as_fd()).is_err() {
        eprintln!("paragpud executor: for paragpud's own use only (standard input is not a socket)");
        return ExitCode::FAILURE;
    }
    match stdin.as_fd().try_clone_to_owned() {
        Ok(socket) => main(UnixStream::from(socket)),
        Err(error) => {
            error!("executor: cannot take over the socket: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Log lines go to standard error. [`LOG_VARIABLE`] is understood like `RUST_LOG`.
pub(crate) fn start_logging(level: Option<LevelFilter>) {
    let mut builder = env_logger::Builder::new();
    builder.filter_level(level.unwrap_or(LevelFilter::Info));
    // It logs what guests do wrong at whatever rate they please; our own lines say the same, limited.
    builder.filter_module("virtio_queue", LevelFilter::Off);
    builder.parse_env(LOG_VARIABLE);
    builder.format_target(false);
    if !io::stderr().is_terminal() {
        builder.format_timestamp_millis();
    }
    // A second call (tests) keeps the first logger.
    let _ = builder.try_init();
}
