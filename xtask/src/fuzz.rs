//! `cargo xtask fuzz`: every fuzz target for a while.

use crate::packages::{self, Purpose};
use crate::process::{Bound, bound_command};
use crate::{say, workspace};
use anyhow::{Context, Result, bail};
use clap::Args;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

/// Run the fuzz targets, each for a given time.
///
/// Uses cargo-fuzz, and installs it from crates.io if it is missing. With a nightly compiler the targets run under the
/// address sanitizer; with a stable one, which lacks it, without.
#[derive(Args)]
pub(crate) struct Fuzz {
    /// How long each target runs.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    seconds: u64,
    /// Only this target.
    target: Option<String>,
}

/// How one target's run ended.
struct Run {
    target: String,
    /// How often the target ran, if libFuzzer came to tell.
    executions: Option<u64>,
    passed: bool,
}

impl Fuzz {
    /// Runs the targets; the exit status says whether all of them ran without a crash.
    pub(crate) fn run(self) -> Result<ExitCode> {
        if !workspace::root().join("fuzz/Cargo.toml").is_file() {
            bail!("there are no fuzz targets: fuzz/Cargo.toml does not exist");
        }
        packages::ensure(&[Purpose::Fuzz], true)?;
        install_cargo_fuzz()?;
        let known = targets()?;
        let chosen = match self.target {
            None => known,
            Some(target) if known.contains(&target) => vec![target],
            Some(target) => bail!("there is no fuzz target {target}; there are: {}", known.join(", ")),
        };
        let sanitizer = sanitizer()?;
        say::step("fuzz", format!("sanitizer: {sanitizer}"));
        say::step("fuzz", "building the targets (some minutes the first time)");
        build(sanitizer)?;
        let corpora = workspace::target_directory()?.join("fuzz-corpus");
        let runs = chosen.into_iter().map(|target| run_target(target, self.seconds, sanitizer, &corpora));
        let runs = runs.collect::<Result<Vec<_>>>()?;
        println!();
        for run in &runs {
            println!("{}", describe(run));
        }
        Ok(if runs.iter().all(|run| run.passed) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn describe(run: &Run) -> String {
    let Run { target, executions, passed } = run;
    match (executions, passed) {
        (Some(count), true) => format!("{target}: {count} executions, no crash"),
        (Some(count), false) => format!(
            "{target}: CRASHED after {count} executions; see above, the input is in fuzz/artifacts/{target}"
        ),
        (None, _) => format!("{target}: DID NOT RUN TO ITS END; see above"),
    }
}

fn install_cargo_fuzz() -> Result<()> {
    let present =
        workspace::cargo().args(["fuzz", "--version"]).stderr(Stdio::null()).stdout(Stdio::null()).status();
    if present.context("cannot start cargo")?.success() {
        return Ok(());
    }
    say::step("fuzz", "cargo install cargo-fuzz --locked");
    let installed = workspace::cargo().args(["install", "cargo-fuzz", "--locked"]).status()?;
    if !installed.success() {
        bail!("cargo-fuzz is missing and cannot be installed; cargo's messages above say why");
    }
    Ok(())
}

fn targets() -> Result<Vec<String>> {
    let output = workspace::cargo().args(["fuzz", "list"]).output().context("cannot start cargo")?;
    if !output.status.success() {
        bail!("cargo fuzz list failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
}

/// The sanitizer that the compiler in use can build with; the address sanitizer needs an unstable option.
fn sanitizer() -> Result<&'static str> {
    let output = Command::new("rustc").arg("--version").current_dir(workspace::root()).output();
    let version = output.context("cannot start rustc")?.stdout;
    let nightly = String::from_utf8_lossy(&version).contains("nightly");
    Ok(if nightly { "address" } else { "none" })
}

fn build(sanitizer: &str) -> Result<()> {
    let status = workspace::cargo().args(["fuzz", "build", "--sanitizer", sanitizer]).status();
    if !status.context("cannot start cargo")?.success() {
        bail!("the fuzz targets cannot be built; cargo's messages above say why");
    }
    Ok(())
}

/// Whether a line of libFuzzer's is for people who run a target for a while: not each input that it keeps (its pulse
/// tells how far it is), and not that functions of the sanitizer are missing without one.
fn is_telling(line: &str) -> bool {
    let kept =
        line.starts_with('#') && ["\tNEW ", "\tREDUCE ", "\tRELOAD "].iter().any(|word| line.contains(word));
    let dictionary = line.contains("# Uses: ") || line.contains("ecommended dictionary. ######");
    !kept && !dictionary && !line.starts_with("WARNING: Failed to find function \"__sanitizer_")
}

/// Runs one target. What libFuzzer finds interesting is kept below the target directory; what the repository holds in
/// `fuzz/corpus` is read as well.
fn run_target(target: String, seconds: u64, sanitizer: &str, corpora: &Path) -> Result<Run> {
    say::step("fuzz", format!("{target} for {seconds} s"));
    let corpus = corpora.join(&target);
    std::fs::create_dir_all(&corpus).with_context(|| format!("cannot create {}", corpus.display()))?;
    let seeds = workspace::root().join("fuzz/corpus").join(&target);
    let folders: Vec<PathBuf> = [corpus, seeds].into_iter().filter(|folder| folder.is_dir()).collect();

    let mut command = bound_command(workspace::cargo().get_program());
    command.current_dir(workspace::root()).stdin(Stdio::null()).stderr(Stdio::piped());
    command.args(["fuzz", "run", "--sanitizer", sanitizer, &target]).args(folders);
    command.args(["--", &format!("-max_total_time={seconds}"), "-print_final_stats=1"]);
    let mut process = Bound::spawn(&mut command, "cargo fuzz")?;
    let stderr = process.child().stderr.take().context("cargo fuzz has no stderr")?;
    let mut executions = None;
    for line in BufReader::new(stderr).split(b'\n') {
        let line = line.context("cannot read cargo fuzz's messages")?;
        let line = String::from_utf8_lossy(&line);
        if is_telling(&line) {
            eprintln!("{line}");
        }
        if let Some(count) = line.strip_prefix("stat::number_of_executed_units:") {
            executions = count.trim().parse().ok();
        }
    }
    let status = process.child().wait().context("cannot wait for cargo fuzz")?;
    let passed = status.success() && executions.is_some();
    Ok(Run { target, executions, passed })
}

#[cfg(test)]
mod tests {
    use super::is_telling;

    #[test]
    fn progress_and_crashes_are_shown_and_not_every_input() {
        for line in [
            "#8192\tpulse  cov: 1440 ft: 5109 corp: 388/2862Kb lim: 16374 exec/s: 4096 rss: 49Mb",
            "#8\tINITED cov: 1020 ft: 2266 corp: 7/55Kb exec/s: 0 rss: 49Mb",
            "thread '<unnamed>' panicked at src/device/fuzz.rs:1:1:",
            "==1== ERROR: libFuzzer: deadly signal",
            "WARNING: AddressSanitizer failed to allocate 0x7 bytes",
            "stat::number_of_executed_units: 115439",
        ] {
            assert!(is_telling(line), "{line}");
        }
        for line in [
            "#27001\tREDUCE cov: 1709 ft: 5204 corp: 437/8174Kb lim: 61440 exec/s: 2700 rss: 48Mb L: 3208/61440",
            "#2701\tNEW    cov: 1709 ft: 5204 corp: 437/8174Kb lim: 61440 exec/s: 2700 rss: 48Mb L: 3208/61440",
            "\"\\377\\377\" # Uses: 123",
            "###### Recommended dictionary. ######",
            "###### End of recommended dictionary. ######",
            "WARNING: Failed to find function \"__sanitizer_set_death_callback\".",
        ] {
            assert!(!is_telling(line), "{line}");
        }
    }
}
