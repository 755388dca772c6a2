//! A program on both sides that are compared: the host's own OpenCL, and a vGPU that computes on it.

mod group;
mod place;
mod platform;

pub(crate) use group::{Group, kill_all};
pub(crate) use place::{Place, Room};
pub(crate) use platform::Platform;

use crate::interrupt::{self, Listening};
use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long paragpud may take to end, with its executors.
const STOP_LIMIT: Duration = Duration::from_secs(5);
/// How much of a file is kept.
const KEPT: usize = 64 * 1024;

const DAEMON_LOG: &str = "paragpud.log";
const SOCKET: &str = "s";

/// The two things that are compared.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Side {
    /// The host's own OpenCL driver.
    Native,
    /// A vGPU that computes on it.
    Vgpu,
}

impl Side {
    /// What files of this side are called.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Side::Native => "native",
            Side::Vgpu => "vgpu",
        }
    }
}

/// What one program finds when it starts on one side: a folder for its files, and a daemon of its own on the vGPU's side.
///
/// What one program leaves behind or breaks is not another one's, and both sides start from nothing; the price is some
/// milliseconds.
pub(crate) struct Session<'a> {
    place: &'a Place,
    side: Side,
    /// The folder for its files.
    pub(crate) room: Room,
    daemon: Option<Group>,
}

/// How a program ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    /// None if it was killed, because its time was over.
    pub(crate) status: Option<ExitStatus>,
    pub(crate) time: Duration,
}

impl<'a> Session<'a> {
    /// Makes the folder, and starts the daemon.
    pub(crate) fn start(side: Side, place: &'a Place) -> Result<Session<'a>> {
        let room = place.room()?;
        let daemon = match side {
            Side::Native => None,
            Side::Vgpu => Some(start_daemon(place, &room)?),
        };
        Ok(Session { place, side, room, daemon })
    }

    /// A command whose program sees the OpenCL of this side alone. Its stdin is empty.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = match self.side {
            Side::Native => {
                let mut command = self.place.command(&self.room, program);
                // Where our own driver is installed, too, it must not be taken for the host's.
                command.env("PARAGPU_DISABLE", "1");
                command
            }
            Side::Vgpu => {
                let mut command = self.place.command(&self.room, self.place.programs.join("paragpu"));
                command.args(["run", "--socket"]).arg(self.room.inside.join(SOCKET)).arg("--").arg(program);
                command.env("PARAGPU_ICD", self.place.programs.join("libparagpu_opencl.so"));
                command
            }
        };
        command.stdin(Stdio::null());
        command
    }

    /// A new file in the room, to print to.
    pub(crate) fn file(&self, name: &str) -> Result<File> {
        create(&self.room.outside.join(name))
    }

    /// The end of a file in the room, or nothing.
    pub(crate) fn end_of(&self, name: &str) -> Vec<u8> {
        let mut content = fs::read(self.room.outside.join(name)).unwrap_or_default();
        content.drain(..content.len().saturating_sub(KEPT));
        content
    }

    /// Runs a command of this session to its end, or to that of its time; what it started is killed then.
    pub(crate) fn run(&self, command: &mut Command, limit: Duration) -> Result<Ended> {
        let start = Instant::now();
        let status = Group::spawn(command)?.wait(limit)?;
        Ok(Ended { status, time: start.elapsed() })
    }

    /// Ends the daemon, and returns what it logged.
    pub(crate) fn finish(mut self) -> Result<Vec<u8>> {
        if let Some(daemon) = self.daemon.take() {
            daemon.terminate(STOP_LIMIT)?;
        }
        Ok(self.end_of(DAEMON_LOG))
    }
}

impl Ended {
    /// Whether it ended by itself, and well.
    pub(crate) fn well(self) -> bool {
        self.status.is_some_and(|status| status.success())
    }

    /// In words.
    pub(crate) fn describe(self) -> String {
        let seconds = self.time.as_secs_f32();
        match self.status {
            None => format!("killed after {seconds:.1} s: its time was over"),
            Some(status) => match status.signal() {
                Some(signal) => format!("ended by signal {signal} after {seconds:.1} s"),
                None => format!("ended with {} after {seconds:.1} s", status.code().unwrap_or_default()),
            },
        }
    }
}

/// What a program prints on the host that ends well within a minute.
pub(crate) fn output_of(place: &Place, program: impl AsRef<OsStr>, arguments: &[&str]) -> Result<String> {
    let session = Session::start(Side::Native, place)?;
    let program = program.as_ref();
    let mut command = session.command(program);
    let file = session.file("output")?;
    command.args(arguments).stdout(file.try_clone()?).stderr(file);
    let ended = session.run(&mut command, Duration::from_secs(60))?;
    let output = fs::read(session.room.outside.join("output"))?;
    let output = String::from_utf8_lossy(&output).into_owned();
    if !ended.well() {
        bail!("{} {}: {}\n{output}", program.display(), arguments.join(" "), ended.describe());
    }
    Ok(output)
}

/// An interrupt ends all groups, removes the files in `place`, and ends this process.
pub(crate) fn clean_up_when_interrupted(place: &Place) -> Result<Listening> {
    let scratch = place.scratch().to_owned();
    interrupt::listen(move |signal| {
        kill_all();
        let _best_effort = fs::remove_dir_all(&scratch);
        std::process::exit(128 + signal);
    })
}

fn start_daemon(place: &Place, room: &Room) -> Result<Group> {
    let socket = room.outside.join(SOCKET);
    let listener = UnixListener::bind(&socket).with_context(|| format!("no socket {}", socket.display()))?;
    // It gets a socket that listens already, so nobody has to wait for it.
    let mut command = place.command(room, "sh");
    command.args(["-c", "exec \"$@\" 5<&0 </dev/null", "sh"]).stdin(OwnedFd::from(listener));
    command.arg(place.programs.join("paragpud")).args(["--fd", "5", "--log-level", "warn"]);
    command.stdout(Stdio::null()).stderr(create(&room.outside.join(DAEMON_LOG))?);
    Group::spawn(&mut command)
}

fn create(file: &Path) -> Result<File> {
    File::create(file).with_context(|| format!("cannot write {}", file.display()))
}
