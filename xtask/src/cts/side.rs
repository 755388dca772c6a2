//! One sub-test on one side: on the host's own OpenCL, or through a vGPU.

use super::group::Group;
use super::place::{Place, Room};
use super::verdict::{self, Verdict};
use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long paragpud may take to end, with its executors.
const STOP_LIMIT: Duration = Duration::from_secs(5);
/// How much of a process's output is kept.
const KEPT: usize = 64 * 1024;

const OUTPUT: &str = "output";
const RESULTS: &str = "results.json";
const DAEMON_LOG: &str = "paragpud.log";
const SOCKET: &str = "s";

/// The two things that are compared.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Side {
    /// The host's own OpenCL driver.
    Native,
    /// A vGPU that computes on it.
    Vgpu,
}

/// A sub-test that has ended.
pub(super) struct Ended {
    pub(super) verdict: Verdict,
    pub(super) time: Duration,
    /// The end of what it printed, of how it ended, and of paragpud's log.
    pub(super) log: Vec<u8>,
}

/// Runs `program` with `arguments` on one side, and tells what it says of `test`.
pub(super) fn run(
    side: Side,
    place: &Place,
    program: &Path,
    arguments: &[String],
    test: &str,
    limit: Duration,
) -> Result<Ended> {
    let room = place.room()?;
    let (mut command, daemon) = match side {
        Side::Native => {
            let mut command = place.command(&room, program);
            // Where our own driver is installed, too, the suite must not take it for the host's.
            command.env("PARAGPU_DISABLE", "1");
            (command, None)
        }
        Side::Vgpu => {
            let daemon = start_daemon(place, &room)?;
            let mut command = place.command(&room, place.programs.join("paragpu"));
            command.args(["run", "--socket"]).arg(room.inside.join(SOCKET)).arg("--").arg(program);
            command.env("PARAGPU_ICD", place.programs.join("libparagpu_opencl.so"));
            (command, Some(daemon))
        }
    };
    command.args(arguments).env("CL_CONFORMANCE_RESULTS_FILENAME", room.inside.join(RESULTS));
    print_to(&mut command, &room.outside.join(OUTPUT))?;

    let start = Instant::now();
    let status = Group::spawn(&mut command)?.wait(limit)?;
    let time = start.elapsed();
    if let Some(daemon) = daemon {
        daemon.terminate(STOP_LIMIT)?;
    }
    let results = fs::read_to_string(room.outside.join(RESULTS)).ok();
    let mut log = end_of(&room.outside.join(OUTPUT));
    log.extend(format!("\n== {} after {:.1} s\n", verdict::describe(status), time.as_secs_f32()).as_bytes());
    log.extend(end_of(&room.outside.join(DAEMON_LOG)));
    Ok(Ended { verdict: Verdict::of(status, results.as_deref(), test), time, log })
}

/// A daemon for one sub-test alone. What one leaves behind or breaks is not another one's, and each starts from where
/// the native side starts; the price is some milliseconds.
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

/// What a program prints that ends well within a minute.
pub(super) fn output_of(place: &Place, program: impl AsRef<Path>, arguments: &[&str]) -> Result<String> {
    let program = program.as_ref();
    let room = place.room()?;
    let mut command = place.command(&room, program);
    command.args(arguments).env("PARAGPU_DISABLE", "1");
    print_to(&mut command, &room.outside.join(OUTPUT))?;
    let status = Group::spawn(&mut command)?.wait(Duration::from_secs(60))?;
    let output = fs::read(room.outside.join(OUTPUT)).unwrap_or_default();
    let output = String::from_utf8_lossy(&output).into_owned();
    if !status.is_some_and(|status| status.success()) {
        let end = verdict::describe(status);
        bail!("{} {}: {end}\n{output}", program.display(), arguments.join(" "));
    }
    Ok(output)
}

fn print_to(command: &mut Command, file: &Path) -> Result<()> {
    let file = create(file)?;
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    Ok(())
}

fn create(file: &Path) -> Result<File> {
    File::create(file).with_context(|| format!("cannot write {}", file.display()))
}

fn end_of(file: &Path) -> Vec<u8> {
    let mut content = fs::read(file).unwrap_or_default();
    content.drain(..content.len().saturating_sub(KEPT));
    content
}
