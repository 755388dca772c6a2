//! `paragpu doctor`: what is there, what is missing, and what to do about each, on a host or in a guest.

mod guest;
mod host;

use std::fmt;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::sys::compute_probe;

/// Say what is there and what is missing for OpenCL programs to compute, on a host or in a guest.
///
/// The exit status is 1 if computing would not work.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// Print the findings as JSON.
    #[arg(long)]
    json: bool,

    /// Look as from here; without it, a machine with a virtio GPU is taken for a guest, and so is a VM with
    /// paragpu's OpenCL driver installed.
    #[arg(long, value_enum)]
    place: Option<Place>,

    /// Only run the test computation on the platform "paragpu" and print the device's name.
    #[arg(long, hide = true)]
    compute_only: bool,
}

/// Where the doctor looks from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
enum Place {
    /// The machine that shares its devices.
    Host,
    /// A VM that uses one.
    Guest,
}

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// As it should be.
    Ok,
    /// Something is worse than it could be, but computing works.
    Note,
    /// Computing does not work.
    Missing,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
struct Finding {
    /// What was looked at.
    what: &'static str,
    state: State,
    /// What was found.
    found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

impl Finding {
    fn ok(what: &'static str, found: impl Into<String>) -> Finding {
        Finding { what, state: State::Ok, found: found.into(), advice: None }
    }

    fn note(what: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Finding {
        Finding { what, state: State::Note, found: found.into(), advice: Some(advice.into()) }
    }

    fn missing(what: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Finding {
        Finding { what, state: State::Missing, found: found.into(), advice: Some(advice.into()) }
    }
}

#[derive(Debug, Serialize)]
struct Report {
    place: Place,
    computes: bool,
    findings: Vec<Finding>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Finding { what, state, found, advice } in &self.findings {
            let mark = match state {
                State::Ok => "ok     ",
                State::Note => "note   ",
                State::Missing => "MISSING",
            };
            writeln!(f, "{mark}  {what:<17} {found}")?;
            if let Some(advice) = advice {
                writeln!(f, "{:27}-> {advice}", "")?;
            }
        }
        let place = match self.place {
            Place::Host => "on this host",
            Place::Guest => "in this guest",
        };
        if self.computes {
            write!(f, "\nOpenCL programs can compute {place}.")
        } else {
            let other = match self.place {
                Place::Host => "guest",
                Place::Guest => "host",
            };
            write!(
                f,
                "\nOpenCL programs cannot compute {place} until what is missing above is there.\n\
                 (If this is a {other}: paragpu doctor --place {other}.)"
            )
        }
    }
}

/// Runs the command; the exit status is 1 if computing would not work.
pub(super) fn main(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    if arguments.compute_only {
        return match compute_probe::run("paragpu") {
            Ok(device) => {
                super::print(format!("{device}\n").as_bytes())?;
                Ok(ExitCode::SUCCESS)
            }
            Err(error) => {
                eprintln!("{error}");
                Ok(ExitCode::FAILURE)
            }
        };
    }
    let place = arguments.place.unwrap_or_else(place_by_looks);
    let findings = match place {
        Place::Host => host::findings(),
        Place::Guest => guest::findings(),
    };
    let computes = findings.iter().all(|finding| finding.state != State::Missing);
    let report = Report { place, computes, findings };
    let text = if arguments.json { serde_json::to_string_pretty(&report)? } else { report.to_string() };
    super::print(format!("{text}\n").as_bytes())?;
    Ok(if computes { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn place_by_looks() -> Place {
    if guest::has_virtio_gpu() || guest::is_prepared() { Place::Guest } else { Place::Host }
}

#[cfg(test)]
mod tests {
    use super::{Finding, Place, Report};

    #[test]
    fn a_report_shows_each_finding_with_its_advice() {
        let report = Report {
            place: Place::Host,
            computes: false,
            findings: vec![
                Finding::ok("QEMU", "version 10"),
                Finding::missing("OpenCL devices", "none", "apt-get install pocl-opencl-icd"),
            ],
        };
        let text = report.to_string();
        assert!(text.contains("ok       QEMU              version 10\n"), "{text}");
        assert!(text.contains("-> apt-get install pocl-opencl-icd\n"), "{text}");
        assert!(text.contains("until what is missing above is there."), "{text}");
    }
}
