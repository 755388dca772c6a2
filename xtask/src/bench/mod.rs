//! `cargo xtask bench`: figures that the project promises, measured.

mod sharing;

use anyhow::Result;
use clap::{Args, Subcommand};
use std::process::ExitCode;

/// Measure what the project promises.
#[derive(Args)]
pub(crate) struct Bench {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    Sharing(sharing::Sharing),
}

impl Bench {
    /// Measures; the exit status says whether all results were right.
    pub(crate) fn run(self) -> Result<ExitCode> {
        match self.what {
            What::Sharing(sharing) => sharing.run(),
        }
    }
}
