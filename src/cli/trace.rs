//! `paragpu trace`.

use std::fs::Permissions;
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::ValueHint;
use serde::Deserialize;
use tempfile::NamedTempFile;

use super::client::{Client, Target};
use crate::admin::api::TRACE_SECONDS;

/// How often it says how far it is.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);

/// Record a timeline of who has the device when, with every kernel.
///
/// The file is for https://ui.perfetto.dev, which opens it in a browser without sending it anywhere, or for chrome://tracing.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// For how long, from 0.1 to 60 seconds.
    #[arg(long, value_name = "N", default_value_t = 5.0, value_parser = seconds)]
    seconds: f64,
    /// Write it to this file, in place of what is there; "-" for standard output.
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    output: PathBuf,
    #[command(flatten)]
    target: Target,
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| TRACE_SECONDS.contains(seconds));
    seconds.ok_or_else(|| format!("allowed are {} to {} seconds", TRACE_SECONDS.start(), TRACE_SECONDS.end()))
}

/// What is to be known of a timeline.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Trace<'a> {
    #[serde(borrow)]
    trace_events: Vec<Event<'a>>,
    lost_events: u64,
}

#[derive(Deserialize)]
struct Event<'a> {
    ph: &'a str,
}

pub(super) fn main(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let client = Client::new(&arguments.target)?;
    let output = Output::to(&arguments.output)?;
    let seconds = arguments.seconds;
    let takes = Duration::try_from_secs_f64(seconds).context("--seconds")?;
    let path = format!("/v1/trace?seconds={seconds}");
    let json = with_progress(seconds, || client.get_slowly(&path, takes))?;
    let trace: Trace<'_> = serde_json::from_slice(&json).with_context(|| client.other_version())?;
    output.write(&json)?;
    let events = trace.trace_events.iter().filter(|event| event.ph == "X").count();
    let lost = match trace.lost_events {
        0 => String::new(),
        lost => format!(" ({lost} more were too many to be kept)"),
    };
    eprintln!("{events} events in {seconds} s{lost}; open the file at https://ui.perfetto.dev");
    Ok(ExitCode::SUCCESS)
}

/// Where a timeline goes.
enum Output {
    Standard,
    /// A file, which appears when it is whole.
    File(PathBuf),
    /// A device, a pipe, or whatever else must not be replaced.
    Other(PathBuf),
}

impl Output {
    /// Says now if nothing can be written there, not when the time is over.
    fn to(path: &Path) -> anyhow::Result<Output> {
        if path == Path::new("-") {
            return Ok(Output::Standard);
        }
        let Ok(found) = path.metadata() else {
            new_beside(path)?;
            return Ok(Output::File(path.to_owned()));
        };
        if !found.is_file() {
            anyhow::ensure!(!found.is_dir(), "{} is a directory", path.display());
            return Ok(Output::Other(path.to_owned()));
        }
        // What a link leads to is replaced, not the link.
        let path = path.canonicalize()?;
        new_beside(&path)?;
        Ok(Output::File(path))
    }

    fn write(&self, json: &[u8]) -> anyhow::Result<()> {
        match self {
            Output::Standard => super::print(json),
            Output::Other(path) => {
                std::fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))
            }
            Output::File(path) => {
                let mut file = new_beside(path)?;
                let written = file.write_all(json).and_then(|()| Ok(file.persist(path).map(drop)?));
                written.with_context(|| format!("cannot write {}", path.display()))
            }
        }
    }
}

/// A file in the same directory, for whoever the user's mask lets read it; removed unless it gets a name.
fn new_beside(path: &Path) -> anyhow::Result<NamedTempFile> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    tempfile::Builder::new()
        .prefix(".paragpu-trace-")
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(directory)
        .with_context(|| format!("cannot write to {}", directory.display()))
}

/// Does something that takes so long, and tells a user who watches how far it is.
fn with_progress<T>(seconds: f64, what: impl FnOnce() -> T) -> T {
    let mut terminal = io::stderr();
    if !terminal.is_terminal() {
        return what();
    }
    let (over, is_over) = channel::<()>();
    let begin = Instant::now();
    let shows = thread::spawn(move || {
        while is_over.recv_timeout(PROGRESS_INTERVAL) == Err(RecvTimeoutError::Timeout) {
            let so_far = begin.elapsed().as_secs_f64().min(seconds);
            let _ignored = write!(terminal, "\rrecording: {so_far:.0} of {seconds} s\x1b[K");
        }
        let _ignored = write!(terminal, "\r\x1b[K");
    });
    let result = what();
    drop(over);
    let _shown = shows.join();
    result
}
