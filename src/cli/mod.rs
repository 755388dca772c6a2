//! paragpu: the tool, one file per subcommand.

mod completions;
mod doctor;
mod run;

use std::process::ExitCode;

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
    let result = match Arguments::parse().command {
        Command::Run(arguments) => run::main(&arguments),
        Command::Doctor(arguments) => Ok(doctor::main(&arguments)),
        Command::Completions(arguments) => {
            completions::main(&arguments);
            Ok(ExitCode::SUCCESS)
        }
    };
    result.unwrap_or_else(|error| {
        eprintln!("paragpu: {error:#}");
        ExitCode::FAILURE
    })
}
