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
