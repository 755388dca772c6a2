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

use anyhow::Result;
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

impl Bench {
    /// Measures; the exit status says whether all results were right.
    pub(crate) fn run(self) -> Result<ExitCode> {
        match self.what {
            Some(What::Sharing(sharing)) => sharing.run(),
            None => self.speed.run(),
        }
    }
}
