//! `paragpu run`: a program of this host on a vGPU, without a VM.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::ValueHint;
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;
use tempfile::TempDir;

use crate::daemon::socket;

/// The exit status when not the program failed but its start, as with `env` and `timeout`.
pub(super) const FAILED: u8 = 125;

const DRIVER_FILE: &str = "libparagpu_opencl.so";
const DAEMON_FILE: &str = "paragpud";
/// Time that a private daemon has for listening.
const DAEMON_TIMEOUT: Duration = Duration::from_secs(10);

/// Run a program on a vGPU of its own, without a VM.
///
/// The program's OpenCL sees the paragpu platform alone. It talks to the daemon that runs on this host or, if
/// there is none, to one that is started for it and ends with it.
///
/// The exit status is the program's, or 128 and the number of the signal that ended it. 125 means that there is no
/// vGPU for it, 126 that the program cannot be run, and 127 that it does not exist.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The daemon's socket. Default: the daemon of this user, then the system's, then a private one.
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    socket: Option<PathBuf>,

    /// The program and its arguments.
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND",
        value_hint = ValueHint::CommandWithArguments
    )]
    command: Vec<OsString>,
}

pub(super) fn main(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let driver = find_driver()?;
    let directory = TempDir::with_prefix("paragpu-run-").context("cannot make a temporary directory")?;
    // Both loaders, ocl-icd and Khronos's, take a directory of vendor files here.
    let vendors = directory.path().join("vendors");
    std::fs::create_dir(&vendors)?;
    std::fs::write(vendors.join("paragpu.icd"), format!("{}\n", driver.display()))?;

    // Before anything is started, so that no signal is missed.
    let mut signals = Signals::new([SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2])
        .context("signal handlers")?;
    let mut private = None;
    let socket = match &arguments.socket {
        Some(path) => {
            UnixStream::connect(path).with_context(|| no_daemon(path))?;
            path.clone()
        }
        None => match running_daemon() {
            Some(path) => path,
            None => private.insert(PrivateDaemon::start(directory.path())?).socket.clone(),
        },
    };
    let (program, rest) = arguments.command.split_first().context("no command")?;
    let mut command = Command::new(program);
    command
        .args(rest)
        .env("PARAGPU_TRANSPORT", "direct")
        .env("PARAGPU_SOCKET", &socket)
        .env("OCL_ICD_VENDORS", &vendors)
        // Each would bring other platforms in.
        .env_remove("OCL_ICD_FILENAMES")
        .env_remove("OPENCL_VENDOR_PATH")
        .env_remove("PARAGPU_DISABLE");
    let child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            eprintln!("paragpu: cannot run {}: {error}", program.display());
            let found = error.kind() != io::ErrorKind::NotFound;
            return Ok(ExitCode::from(if found { 126 } else { 127 }));
        }
    };
    let status = wait(child, &mut signals)?;
    drop(private);
    Ok(exit_code(status))
}

fn no_daemon(path: &Path) -> String {
    let path = path.display();
    format!(
        "no daemon answers at {path} (`paragpud --socket-path {path}` starts one; without --socket, \
         `paragpu run` finds or starts one itself)"
    )
}

/// Passes signals on until the program ends.
fn wait(mut child: Child, signals: &mut Signals) -> anyhow::Result<ExitStatus> {
    let pid = Pid::from_child(&child);
    // A terminal sends these to the program itself, too.
    let from_terminal = std::io::stdin().is_terminal();
    loop {
        if let Some(status) = child.try_wait().context("cannot wait for the program")? {
            return Ok(status);
        }
        for signal in signals.wait() {
            if signal == SIGCHLD || from_terminal && [SIGINT, SIGQUIT].contains(&signal) {
                continue;
            }
            if let Some(signal) = Signal::from_named_raw(signal) {
                // It may have ended meanwhile, but has not been waited for: the id is still its own.
                let _ended = kill_process(pid, signal);
            }
        }
    }
}

/// As shells do it for a program that a signal ended.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    ExitCode::from(code as u8)
}

/// The socket of a daemon that answers: this user's, or else the system's.
pub(super) fn running_daemon() -> Option<PathBuf> {
    let candidates = [socket::default_path().ok(), Some(socket::system_path())];
    candidates.into_iter().flatten().find(|path| UnixStream::connect(path).is_ok())
}

/// A daemon for one program. It ends when its standard input does, so at the latest with this process.
struct PrivateDaemon {
    child: Child,
    socket: PathBuf,
}

impl PrivateDaemon {
    fn start(directory: &Path) -> anyhow::Result<PrivateDaemon> {
        let program = find_daemon();
        let socket = directory.join("paragpud.sock");
        let child = Command::new(&program)
            .arg("--socket-path")
            .arg(&socket)
            .args(["--admin-socket", "none", "--until-stdin-ends", "--log-level", "warn"])
            .stdin(Stdio::piped())
            // Ctrl-C in a terminal is for the program, which may want to go on.
            .process_group(0)
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| {
                format!(
                    "no daemon runs, and none can be started: {} (it is looked for beside paragpu, and in PATH)",
                    program.display()
                )
            })?;
        let mut daemon = PrivateDaemon { child, socket };
        let until = Instant::now() + DAEMON_TIMEOUT;
        while UnixStream::connect(&daemon.socket).is_err() {
            if let Some(status) = daemon.child.try_wait()? {
                bail!("{} ended at once: {status}", program.display());
            }
            if Instant::now() > until {
                bail!("{} does not listen", program.display());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(daemon)
    }
}

impl Drop for PrivateDaemon {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ended = self.child.wait();
    }
}

/// Directory of this executable.
fn beside() -> Option<PathBuf> {
    Some(std::env::current_exe().ok()?.parent()?.to_owned())
}

fn find_daemon() -> PathBuf {
    let beside = beside().map(|directory| directory.join(DAEMON_FILE));
    // Without a slash it is looked up in PATH.
    beside.filter(|path| path.is_file()).unwrap_or_else(|| DAEMON_FILE.into())
}

fn find_driver() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("PARAGPU_ICD") {
        return std::path::absolute(&path)
            .ok()
            .filter(|path| path.is_file())
            .with_context(|| format!("PARAGPU_ICD names {}, which is no file", path.display()));
    }
    let multiarch = format!("lib/{}-linux-gnu", std::env::consts::ARCH);
    let beside = beside();
    let prefix = beside.as_ref().and_then(|directory| Some(directory.parent()?.to_owned()));
    let directories = [
        beside,
        // Below /usr, /usr/local or any other prefix.
        prefix.as_ref().map(|prefix| prefix.join(&multiarch)),
        prefix.map(|prefix| prefix.join("lib")),
        Some(Path::new("/usr").join(&multiarch)),
        Some("/usr/lib".into()),
    ];
    let candidates: Vec<PathBuf> =
        directories.into_iter().flatten().map(|directory: PathBuf| directory.join(DRIVER_FILE)).collect();
    match candidates.iter().find_map(|path| path.is_file().then(|| path.canonicalize().ok()).flatten()) {
        Some(path) => Ok(path),
        None => {
            let tried: Vec<String> = candidates.iter().map(|path| path.display().to_string()).collect();
            bail!(
                "{DRIVER_FILE} is missing; install it as one of {}, or name it in PARAGPU_ICD",
                tried.join(", ")
            )
        }
    }
}
