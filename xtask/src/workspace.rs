//! The cargo workspace that these commands belong to: where it is, where it builds, and how to build parts of it.

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Which cargo profile our programs are built with.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Profile {
    /// Optimised: for what is measured, and for guests that are emulated.
    Release,
    /// Quicker to build, with debug assertions.
    Debug,
}

impl Profile {
    /// The folder below the target directory that this profile builds into.
    pub(crate) fn folder(self) -> &'static str {
        match self {
            Profile::Release => "release",
            Profile::Debug => "debug",
        }
    }
}

/// The folder of the workspace's root `Cargo.toml`.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a folder of the workspace")
}

/// A `cargo` command that runs in the workspace's root, with the same cargo that runs this program.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// The folder that cargo builds into, wherever configuration or environment put it.
pub(crate) fn target_directory() -> Result<PathBuf> {
    let output = cargo()
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .output()
        .context("cannot start cargo; is the Rust toolchain in PATH?")?;
    if !output.status.success() {
        bail!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).context("cannot read cargo's metadata")?;
    let directory =
        metadata["target_directory"].as_str().context("cargo's metadata names no target directory")?;
    Ok(directory.into())
}

/// Runs `cargo build` with the given selection of packages or examples; cargo shows its progress on stderr.
pub(crate) fn build(profile: Profile, selection: &[&str]) -> Result<()> {
    let mut command = cargo();
    command.arg("build").args(selection);
    if let Profile::Release = profile {
        command.arg("--release");
    }
    let status = command.status().context("cannot start cargo")?;
    if !status.success() {
        bail!("cargo build {} failed: the compiler's messages above say why", selection.join(" "));
    }
    Ok(())
}

/// Builds the program of a package, both of this name, and gives it.
pub(crate) fn build_program(profile: Profile, name: &str) -> Result<PathBuf> {
    build(profile, &["-p", name])?;
    Ok(target_directory()?.join(profile.folder()).join(name))
}

/// Builds an example of the root package and gives its program.
pub(crate) fn build_example(profile: Profile, name: &str) -> Result<PathBuf> {
    build(profile, &["-p", "paragpu", "--example", name])?;
    Ok(target_directory()?.join(profile.folder()).join("examples").join(name))
}

/// This program's file. While it runs, a build may have put another in its place, which does as well.
pub(crate) fn this_program() -> Result<PathBuf> {
    let path = std::env::current_exe().context("cannot find this program")?;
    let replaced = path.to_str().and_then(|path| path.strip_suffix(" (deleted)")).map(PathBuf::from);
    Ok(replaced.unwrap_or(path))
}
