//! `cargo xtask bench`: figures that the project promises, measured.

mod daemon;
mod document;
mod goal;
mod machine;
mod memory;
mod numbers;
mod place;
mod sharing;
mod speed;

use crate::process::bound_command;
use crate::workspace;
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use std::fs::File;
use std::path::Path;
use std::process::ExitCode;

/// Measure what the project promises: speed, or with `sharing` how vGPUs share a device.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Bench {
    #[command(flatten)]
    speed: speed::Speed,
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Subcommand)]
enum What {
    Sharing(sharing::Sharing),
}

/// Checks that no count is worse than its bound: `cargo xtask bench --bounds`.
pub(crate) fn check_counts() -> Result<()> {
    let mut command = bound_command(workspace::this_program()?);
    let status = command.args(["bench", "--bounds"]).status().context("cannot start xtask")?;
    if !status.success() {
        bail!("a count is worse than its bound in xtask/src/bench/speed/bounds.json, as the lines above say");
    }
    Ok(())
}

impl Bench {
    /// Measures; the exit status says whether all results were right.
    pub(crate) fn run(self) -> Result<ExitCode> {
        match self.what {
            Some(What::Sharing(sharing)) => sharing.run(),
            None => self.speed.run(),
        }
    }
}

/// Says at once if results could not be written, and not when they have been measured.
fn check_writable(json: Option<&Path>) -> Result<()> {
    let Some(file) = json else { return Ok(()) };
    let opened = File::options().append(true).create(true).open(file);
    opened.map(drop).with_context(|| format!("cannot write {}", file.display()))
}

/// What came of it, in a sentence.
fn verdict(measured: usize, failed: &[impl AsRef<str>], missed: usize) -> String {
    let failed: Vec<&str> = failed.iter().map(AsRef::as_ref).collect();
    match (measured, &failed[..], missed) {
        (0, [], _) => "nothing was measured".to_owned(),
        (_, [], 0) => "all results are right, and all goals are met".to_owned(),
        (_, [], 1) => "all results are right; 1 goal is MISSED".to_owned(),
        (_, [], _) => format!("all results are right; {missed} goals are MISSED"),
        _ => format!("FAILED: {}", failed.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::{check_writable, verdict};

    #[test]
    fn a_verdict_says_what_failed_before_what_missed_its_goal() {
        let none: [&str; 0] = [];
        assert_eq!(verdict(0, &none, 0), "nothing was measured");
        assert_eq!(verdict(2, &none, 0), "all results are right, and all goals are met");
        assert_eq!(verdict(2, &none, 1), "all results are right; 1 goal is MISSED");
        assert_eq!(verdict(2, &none, 2), "all results are right; 2 goals are MISSED");
        assert_eq!(verdict(0, &["a", "b"], 1), "FAILED: a, b");
    }

    #[test]
    fn a_file_that_can_be_written_keeps_its_content_until_there_is_something_new() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("results.json");
        check_writable(Some(&file)).unwrap();
        std::fs::write(&file, "{}").unwrap();
        check_writable(Some(&file)).unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "{}");
        assert!(check_writable(Some(&directory.path().join("none/results.json"))).is_err());
    }
}
