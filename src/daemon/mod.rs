//! paragpud: listens, and serves every connection on a thread of its own.

mod connections;
mod doors;
mod hand_over;
mod options;
mod server;
mod setup;
mod signals;
pub mod socket;
mod system_log;
mod view;

use std::io::{self, IsTerminal, Write};
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::{CommandFactory, Parser};
use log::{LevelFilter, error};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, set_parent_process_death_signal, setrlimit};

use crate::admin;
use crate::config::Socket;
use crate::executor::child;
use crate::executor::supervisor::{COMPILER_ARGUMENT, EXECUTOR_ARGUMENT, LOG_VARIABLE};
use crate::registry::mailbox::{self, Mailbox};
use crate::sys;
use doors::Own;
use hand_over::launcher::{self, Outcome};
use server::Server;
use setup::{Setup, SideSocket};
use socket::OwnedListener;

pub use options::Options;

/// `--print-capabilities`, as vhost-user's conventions for back end programs want it. libvirt passes the render node that it
/// finds to whoever takes one, and starts no VM if it finds none: so on a host without, none is taken.
fn capabilities() -> &'static str {
    let mut nodes = std::fs::read_dir("/dev/dri").into_iter().flatten().flatten();
    if nodes.any(|node| node.file_name().as_encoded_bytes().starts_with(b"renderD")) {
        r#"{"type":"gpu","features":["render-node","virgl"]}"#
    } else {
        r#"{"type":"gpu","features":["virgl"]}"#
    }
}

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
        return match writeln!(io::stdout(), "{}", capabilities()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("paragpud: standard output: {error}");
                ExitCode::FAILURE
            }
        };
    }
    if let Some(file) = &options.check_config {
        return check_config(file);
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

/// `--check-config`.
fn check_config(file: &Path) -> ExitCode {
    match setup::read(file) {
        // Where nobody reads it, the status says it.
        Ok(_) => match writeln!(io::stdout(), "{}: ok", file.display()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Err(mistakes) => {
            eprintln!("{mistakes:#}");
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
    // Before anything else is opened.
    let mut inherited = options.fd.map(take_inherited).transpose()?;
    if let Some(Inherited::Connection(stream)) = inherited {
        match launcher::hand_over(options, stream)? {
            Outcome::Ended => return Ok(()),
            Outcome::Alone(stream) => inherited = Some(Inherited::Connection(stream)),
        }
    }
    let setup = Setup::new(options)?;
    let exit = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
    let (mailbox, inbox) = mailbox::new()?;
    // First, because it makes the directory: others may pass through that if they may hand over.
    let hand_over = setup.hand_over.as_ref().map(|wanted| bind_beside(wanted, "hand-over socket"));
    let hand_over = hand_over.transpose()?.flatten();
    let own = match &setup.socket {
        Some(path) => {
            let bound = OwnedListener::bind(&Socket::private(path.clone()));
            Some(Own::Bound(bound.with_context(|| format!("cannot listen on {}", path.display()))?))
        }
        None => None,
    };
    let server = Server::new(options, &setup, inbox, exit.clone())?;
    let _admin = serve_admin(&setup, &mailbox, &server, &exit)?;
    if let Some(path) = &setup.socket {
        log::info!("listening on {}", path.display());
    }
    match inherited {
        Some(Inherited::Connection(stream)) => server.serve_one(stream),
        Some(Inherited::Listener(listener)) => server.run(Some(Own::Inherited(listener)), hand_over),
        None => server.run(own, hand_over),
    }
}

/// Starts to serve the admin socket, if there is to be one; removed when what this returns is dropped.
fn serve_admin(
    setup: &Setup,
    mailbox: &Mailbox,
    server: &Server,
    exit: &Arc<OwnedFd>,
) -> anyhow::Result<Option<OwnedListener>> {
    let mut listeners = admin::Listeners::default();
    let mut owned = None;
    if let Some(wanted) = &setup.admin
        && let Some(bound) = bind_beside(wanted, "admin socket")?
    {
        listeners.admin = Some(bound.listener().try_clone()?);
        owned = Some(bound);
    }
    if let Some(address) = setup.config.metrics {
        let bound =
            TcpListener::bind(address).with_context(|| format!("cannot serve metrics at {address}"))?;
        log::info!("metrics at http://{}/metrics", bound.local_addr()?);
        listeners.metrics = Some(bound);
    }
    admin::start(listeners, mailbox.clone(), server.scheduler(), exit.clone())
        .context("cannot serve the admin socket")?;
    Ok(owned)
}

/// Listens at a socket beside those of guests. One that nobody named may fail.
fn bind_beside(wanted: &SideSocket, what: &str) -> anyhow::Result<Option<OwnedListener>> {
    let path = wanted.socket.path.display();
    match OwnedListener::bind(&wanted.socket) {
        Ok(bound) => {
            log::info!("{what} at {path}");
            Ok(Some(bound))
        }
        Err(error) if wanted.wanted => Err(error).with_context(|| format!("no {what} at {path}")),
        Err(error) => {
            log::warn!("no {what} at {path}: {error}");
            Ok(None)
        }
    }
}

/// A socket that the parent opened.
enum Inherited {
    Listener(UnixListener),
    Connection(UnixStream),
}

fn take_inherited(number: i32) -> anyhow::Result<Inherited> {
    anyhow::ensure!(number > 2, "--fd {number}: the standard descriptors are taken");
    // SAFETY: the parent opened it for us and says so; nothing in this process has opened a descriptor for
    // keeps yet, so none of ours has the number.
    let fd = unsafe { sys::inherited::take(number) }.with_context(|| format!("--fd {number}"))?;
    fcntl_setfd(&fd, FdFlags::CLOEXEC)?;
    let listening = rustix::net::sockopt::socket_acceptconn(&fd)
        .with_context(|| format!("--fd {number} is not a socket"))?;
    Ok(if listening { Inherited::Listener(fd.into()) } else { Inherited::Connection(fd.into()) })
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

/// Log lines go to standard error, or if that is /dev/null to the system's log. [`LOG_VARIABLE`] is understood like `RUST_LOG`.
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
    system_log::use_if_stderr_is_lost(&mut builder);
    // A second call (tests) keeps the first logger.
    let _ = builder.try_init();
}
