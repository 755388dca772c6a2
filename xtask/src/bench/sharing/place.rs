//! Where a bench runs: its programs, its files, and how fast the device is.

use super::load::{Load, Spec};
use crate::process::bound_command;
use crate::say;
use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// Where it runs.
pub(super) struct Place {
    /// The folder of paragpu, paragpud, the driver and the examples.
    programs: PathBuf,
    /// The name of the OpenCL platform.
    pub(super) platform: String,
    files: TempDir,
    /// Iterations of the load's kernel that take a millisecond.
    per_ms: f64,
}

impl Place {
    /// One whose programs are in this folder.
    pub(super) fn new(programs: PathBuf, platform: String) -> Result<Place> {
        let files = tempfile::Builder::new().prefix("paragpu-bench-").tempdir()?;
        Ok(Place { programs, platform, files, per_ms: 0.0 })
    }

    /// Measures how fast the device is, without a vGPU. What is slower than the fastest kernel was disturbed.
    pub(super) fn calibrate(&mut self) -> Result<()> {
        let mut iterations = 10_000_u32;
        loop {
            let fastest = self.fastest(iterations, 0.5)?;
            // Long enough that a launch does not count.
            if fastest >= 10.0 {
                self.per_ms = f64::from(iterations) / self.fastest(iterations, 3.0)?.min(fastest);
                break;
            }
            let wanted = f64::from(iterations) / fastest * 15.0;
            iterations = wanted.clamp(f64::from(iterations) * 2.0, 4e9) as u32;
        }
        say::step("bench", format!("a millisecond is {:.0} iterations on {}", self.per_ms, self.platform));
        Ok(())
    }

    /// The fastest kernel of so many iterations, in milliseconds.
    fn fastest(&self, iterations: u32, seconds: f64) -> Result<f64> {
        let load = Load::start_native(self, &Spec::latency("native", iterations, seconds, 1.0))?;
        let fastest = load.alone()?.latencies.into_iter().fold(f64::INFINITY, f64::min);
        if !fastest.is_finite() || fastest <= 0.0 {
            bail!("no kernel ended in {seconds} s");
        }
        Ok(fastest)
    }

    /// Iterations of a kernel of this length.
    pub(super) fn iterations(&self, milliseconds: f64) -> u32 {
        (self.per_ms * milliseconds).round().max(1.0) as u32
    }

    /// The folder for its files, which goes with it.
    pub(super) fn files(&self) -> &Path {
        self.files.path()
    }

    /// One of our programs.
    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// An example.
    pub(super) fn example(&self, name: &str) -> PathBuf {
        self.programs.join("examples").join(name)
    }

    /// A command that ends with this process, whose files are here.
    pub(super) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = bound_command(program);
        command.env("TMPDIR", self.files()).env("PARAGPU_ICD", self.program("libparagpu_opencl.so"));
        command.env("POCL_CACHE_DIR", self.files().join("pocl"));
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    /// Checks that all programs are there.
    pub(super) fn check(&self) -> Result<()> {
        let programs = ["paragpu", "paragpud", "libparagpu_opencl.so"].map(|name| self.program(name));
        let examples = ["device_load", "hostile_load"].map(|name| self.example(name));
        for program in programs.into_iter().chain(examples) {
            program.metadata().with_context(|| format!("{} is missing", program.display()))?;
        }
        Ok(())
    }
}
