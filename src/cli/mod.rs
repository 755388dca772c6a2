//! paragpu: the tool, one file per subcommand.

mod completions;
mod doctor;
mod run;

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};

/// Tools for paragpu, which shares this host's OpenCL devices with virtual machines and containers.
#[derive(Debug, Parser)]
#[command(name = "paragpu", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Arguments),
    Doctor(doctor::Arguments),
    Completions(completions::Arguments),
}

/// The tool's `main`.
pub fn main() -> ExitCode {
    let (result, failure) = match Arguments::parse().command {
        Command::Run(arguments) => (run::main(&arguments), ExitCode::from(run::FAILED)),
        Command::Doctor(arguments) => (doctor::main(&arguments), ExitCode::FAILURE),
        Command::Completions(arguments) => (completions::main(&arguments), ExitCode::FAILURE),
    };
    result.unwrap_or_else(|error| {
        eprintln!("paragpu: {error:#}");
        failure
    })
}

/// Prints `text`. That nobody reads it to its end (`paragpu … | head`) is no mistake.
fn print(text: &[u8]) -> anyhow::Result<()> {
    let mut stdout = io::stdout();
    match stdout.write_all(text).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("standard output"),
        _ => Ok(()),
    }
}
