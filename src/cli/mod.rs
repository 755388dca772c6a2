//! paragpu: the tool, one file per subcommand.

mod add;
mod client;
mod completions;
mod deeds;
mod doctor;
mod format;
mod ps;
mod run;
mod set;
mod show;
mod top;
mod trace;

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};

use deeds::Deed;

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
    Ps(ps::Arguments),
    Top(top::Arguments),
    Show(show::Arguments),
    Set(set::Arguments),
    Add(add::Arguments),
    /// Remove vGPUs: their connections end, and their sockets go.
    Remove(deeds::Arguments),
    /// Keep vGPUs from the device until they are resumed. What runs there is waited for.
    Pause(deeds::Arguments),
    /// Let paused or backed-off vGPUs have the device again.
    Resume(deeds::Arguments),
    /// End the executors of vGPUs: their guests' contexts are lost, and new ones get new executors.
    Kill(deeds::Arguments),
    Trace(trace::Arguments),
    Doctor(doctor::Arguments),
    Completions(completions::Arguments),
}

/// The tool's `main`.
pub fn main() -> ExitCode {
    let mut failure = ExitCode::FAILURE;
    let result = match Arguments::parse().command {
        Command::Run(arguments) => {
            failure = ExitCode::from(run::FAILED);
            run::main(&arguments)
        }
        Command::Ps(arguments) => ps::main(&arguments),
        Command::Top(arguments) => top::main(&arguments),
        Command::Show(arguments) => show::main(&arguments),
        Command::Set(arguments) => set::main(&arguments),
        Command::Add(arguments) => add::main(&arguments),
        Command::Remove(arguments) => deeds::main(&arguments, Deed::Remove),
        Command::Pause(arguments) => deeds::main(&arguments, Deed::Pause),
        Command::Resume(arguments) => deeds::main(&arguments, Deed::Resume),
        Command::Kill(arguments) => deeds::main(&arguments, Deed::Kill),
        Command::Trace(arguments) => trace::main(&arguments),
        Command::Doctor(arguments) => doctor::main(&arguments),
        Command::Completions(arguments) => completions::main(&arguments),
    };
    result.unwrap_or_else(|error| {
        eprintln!("paragpu: {error:#}");
        failure
    })
}

/// Prints JSON for people and programs.
fn print_json(value: &serde_json::Value) -> anyhow::Result<ExitCode> {
    print(format!("{value:#}\n").as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// Prints `text`. That nobody reads it to its end (`paragpu … | head`) is no mistake.
fn print(text: &[u8]) -> anyhow::Result<()> {
    let mut stdout = io::stdout();
    match stdout.write_all(text).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("standard output"),
        _ => Ok(()),
    }
}
