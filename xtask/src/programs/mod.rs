//! `cargo xtask programs`: unmodified OpenCL programs, on the host's own OpenCL and through a vGPU.

mod list;

use crate::say;
use crate::sides::{self, Ended, Place, Session, Side};
use crate::workspace::{self, Profile};
use anyhow::{Context, Result, bail};
use clap::Args;
use list::{Compare, Program};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

/// How long a program may take on one side: some compile for minutes on a slow machine.
const LIMIT: Duration = Duration::from_secs(600);

const STDOUT: &str = "stdout";
const STDERR: &str = "stderr";

/// Run unmodified OpenCL programs natively and through a vGPU, and compare.
///
/// Runs those of xtask/src/resources/programs.toml whose packages are installed, and tells what the others need.
#[derive(Args)]
pub(crate) struct Programs {
    /// Only these programs.
    name: Vec<String>,
    /// Only those that `cargo xtask test` runs.
    #[arg(long)]
    ci: bool,
    /// Tell which programs there are, and end.
    #[arg(long)]
    list: bool,
    /// Install Python packages of the programs that are to run, from PyPI into the target directory.
    #[arg(long)]
    install: bool,
    /// The cargo profile of paragpu.
    #[arg(long, value_enum, default_value = "debug")]
    profile: Profile,
}

/// What came of one program.
enum Outcome {
    Same,
    Skipped(String),
    Failed(String),
}

impl Programs {
    /// Runs the programs; the exit status says whether all that ran were the same.
    pub(crate) fn run(self) -> Result<ExitCode> {
        let mut programs = Program::all()?;
        for name in &self.name {
            if !programs.iter().any(|program| program.name == *name) {
                bail!("there is no program {name}; --list tells which there are");
            }
        }
        programs.retain(|program| self.name.is_empty() || self.name.contains(&program.name));
        programs.retain(|program| program.ci || !self.ci);
        if self.list {
            for program in &programs {
                println!("{}: {}", program.name, program.packages());
            }
            return Ok(ExitCode::SUCCESS);
        }
        if self.install {
            install_from_pypi(&programs)?;
        }
        let all_same = run(&programs, self.profile)?;
        Ok(if all_same { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Runs the programs that are for every run of the checks; each of them must be there.
pub(crate) fn check() -> Result<()> {
    let programs: Vec<_> = Program::all()?.into_iter().filter(|program| program.ci).collect();
    for program in &programs {
        if let Err(reason) = program.find(&venv()?) {
            bail!("{}: {reason}", program.name);
        }
    }
    if !run(&programs, Profile::Debug)? {
        bail!("a program does not do the same through the vGPU");
    }
    Ok(())
}

/// Runs the programs, prints what came of each, and returns whether none failed.
fn run(programs: &[Program], profile: Profile) -> Result<bool> {
    workspace::build(profile, &["-p", "paragpu", "-p", "paragpu-opencl"])?;
    let ours = workspace::target_directory()?.join(profile.folder());
    let place = Place::here(&workspace::root().join("tests/programs"), &ours)?;
    let _listening = sides::clean_up_when_interrupted(&place)?;
    let mut counts = [0; 3];
    for program in programs {
        say::step("programs", &program.name);
        let outcome = try_program(program, &place)?;
        let (index, text) = match outcome {
            Outcome::Same => (0, "same".to_owned()),
            Outcome::Failed(reason) => (1, format!("FAILED: {reason}")),
            Outcome::Skipped(reason) => (2, format!("skipped: {reason}")),
        };
        counts[index] += 1;
        println!("{}: {text}", program.name);
    }
    let [same, failed, skipped] = counts;
    println!("{same} the same natively and through the vGPU, {failed} failed, {skipped} skipped");
    Ok(failed == 0)
}

fn try_program(program: &Program, place: &Place) -> Result<Outcome> {
    let python = match program.find(&venv()?) {
        Ok(python) => python,
        Err(reason) => return Ok(Outcome::Skipped(reason)),
    };
    let folder = tempfile::tempdir().context("no temporary folder")?;
    let fill = |words: &[String]| program.fill(words, &place.folder, &python, &folder.path().join("program"));
    if let Some((compiler, arguments)) = fill(&program.build).split_first() {
        match Command::new(compiler).args(arguments).stdin(Stdio::null()).output() {
            Ok(built) if built.status.success() => {}
            Ok(built) => {
                let messages = String::from_utf8_lossy(&built.stderr).into_owned();
                return Ok(Outcome::Failed(format!("it cannot be built:\n{messages}")));
            }
            Err(error) => return Ok(Outcome::Skipped(format!("{compiler}: {error}"))),
        }
    }
    let command = fill(&program.command);
    let (native, native_stdout, native_text) = run_side(Side::Native, place, &command)?;
    if !native.well() && program.expected.is_none() {
        let reason = format!("it does not run natively: {}\n{native_text}", native.describe());
        return Ok(Outcome::Skipped(reason));
    }
    let (vgpu, stdout, text) = run_side(Side::Vgpu, place, &command)?;
    if !vgpu.well() {
        return Ok(Outcome::Failed(format!("{}\n{text}", vgpu.describe())));
    }
    if let Some(words) = program.expect.as_ref().filter(|words| !stdout.contains(words.as_str())) {
        return Ok(Outcome::Failed(format!("there is no \"{words}\" in its output\n{text}")));
    }
    let expected = match (&program.expected, program.compare) {
        (Some(file), _) => std::fs::read_to_string(place.folder.join(file))
            .with_context(|| format!("no file {file} beside the scripts"))?,
        (None, Compare::Output) => native_stdout,
        (None, Compare::Status) => return Ok(Outcome::Same),
    };
    Ok(match program.first_difference(&expected, &stdout) {
        None => Outcome::Same,
        Some((there, here)) => Outcome::Failed(format!("instead of `{there}` it prints `{here}`")),
    })
}

/// How a command ended, what it printed on stdout, and the end of all that it and paragpud printed.
fn run_side(side: Side, place: &Place, command: &[String]) -> Result<(Ended, String, String)> {
    let session = Session::start(side, place)?;
    let (program, arguments) = command.split_first().context("a program without a command")?;
    let mut command = session.command(program);
    command.args(arguments).env("HOME", &session.room.inside);
    command.stdout(session.file(STDOUT)?).stderr(session.file(STDERR)?);
    let ended = session.run(&mut command, LIMIT)?;
    let stdout = std::fs::read(session.room.outside.join(STDOUT))?;
    let mut text = [session.end_of(STDOUT), session.end_of(STDERR)].concat();
    text.extend(session.finish()?);
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    let end = lines[lines.len().saturating_sub(20)..].join("\n    ");
    Ok((ended, String::from_utf8_lossy(&stdout).into_owned(), format!("    {end}")))
}

/// Where `--install` puts Python packages.
fn venv() -> Result<PathBuf> {
    Ok(workspace::target_directory()?.join("programs-venv"))
}

fn install_from_pypi(programs: &[Program]) -> Result<()> {
    let folder = venv()?;
    let python = folder.join("bin/python");
    if !python.exists() {
        succeed(Command::new("python3").args(["-m", "venv"]).arg(&folder), "python3 -m venv")?;
    }
    let packages: Vec<_> = programs.iter().flat_map(|program| &program.pypi).collect();
    if !packages.is_empty() {
        say::step("programs", format!("installing from PyPI into {}", folder.display()));
        succeed(
            Command::new(python).args(["-m", "pip", "install", "--quiet"]).args(packages),
            "pip install",
        )?;
    }
    Ok(())
}

fn succeed(command: &mut Command, what: &str) -> Result<()> {
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("cannot start {what}"))?;
    if !status.success() {
        bail!("{what} failed");
    }
    Ok(())
}

/// Whether a file or a program in PATH is there.
fn is_there(file: &str) -> bool {
    if file.contains('/') {
        return Path::new(file).exists();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(file).is_file())
}
