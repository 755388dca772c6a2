//! Where a bench runs: its programs, its files, and how fast the device is.

use crate::process::bound_command;
use anyhow::{Context, Result};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// Where it runs.
pub(crate) struct Place {
    /// The folder of paragpu, paragpud, the driver and the examples.
    programs: PathBuf,
    /// The name of the OpenCL platform.
    pub(crate) platform: String,
    files: TempDir,
    /// Iterations of the load's kernel that take a millisecond.
    per_ms: f64,
}

impl Place {
    /// One whose programs are in this folder.
    pub(crate) fn new(programs: PathBuf, platform: String) -> Result<Place> {
        let files = tempfile::Builder::new().prefix("paragpu-bench-").tempdir()?;
        Ok(Place { programs, platform, files, per_ms: 0.0 })
    }

    /// Tells it how fast the device is, in iterations of the load's kernel that take a millisecond.
    pub(crate) fn set_speed(&mut self, per_ms: f64) {
        self.per_ms = per_ms;
    }

    /// Iterations of a kernel of this length.
    pub(crate) fn iterations(&self, milliseconds: f64) -> u32 {
        (self.per_ms * milliseconds).round().max(1.0) as u32
    }

    /// The folder for its files, which goes with it.
    pub(crate) fn files(&self) -> &Path {
        self.files.path()
    }

    /// The folder of our programs.
    pub(crate) fn programs(&self) -> &Path {
        &self.programs
    }

    /// One of our programs.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// An example.
    pub(crate) fn example(&self, name: &str) -> PathBuf {
        self.programs.join("examples").join(name)
    }

    /// A command that ends with this process, whose files are here.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = bound_command(program);
        command.env("TMPDIR", self.files()).env("PARAGPU_ICD", self.program("libparagpu_opencl.so"));
        command.env("POCL_CACHE_DIR", self.files().join("pocl"));
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    /// Checks that our programs and these examples are there.
    pub(crate) fn check(&self, examples: &[&str]) -> Result<()> {
        let programs = ["paragpu", "paragpud", "libparagpu_opencl.so"].map(|name| self.program(name));
        for program in programs.into_iter().chain(examples.iter().map(|name| self.example(name))) {
            program.metadata().with_context(|| format!("{} is missing", program.display()))?;
        }
        Ok(())
    }
}
