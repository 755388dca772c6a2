//! `cargo xtask test`: all checks of the project, from formatting to programs in a VM.

use crate::guest_driver::GuestDriver;
use crate::kernel::Kernel;
use crate::module_check::ModuleCheck;
use crate::packages::{self, Purpose};
use crate::vm::VmOptions;
use crate::vmm_check::COMBINATIONS;
use crate::{bench, lifecycle, programs, say, workspace};
use anyhow::{Context, Result, bail};
use clap::Args;
use std::process::ExitCode;
use std::time::Instant;

/// Run all checks: format, clippy, cargo test, OpenCL programs natively and on a vGPU, counts of what commands cost, through the
/// life of VMs, and in VMs of other VMMs than QEMU.
///
/// Missing Debian packages are installed first. The first failing step ends it; the last line counts the steps.
#[derive(Args)]
pub(crate) struct Test {
    /// Leave out the steps that boot VMs.
    #[arg(long)]
    no_vm: bool,
    #[command(flatten)]
    vm: VmOptions,
}

/// A step that does its work or says why it failed.
type Work<'a> = Box<dyn FnOnce() -> Result<()> + 'a>;

impl Test {
    /// Runs the steps; the exit status says whether all of them passed.
    pub(crate) fn run(self) -> Result<ExitCode> {
        let mut steps = Steps::default();
        steps.run("Debian packages", Box::new(|| self.install_packages()));
        steps.run("formatting", Box::new(check_formatting));
        steps.run(
            "clippy",
            Box::new(|| cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])),
        );
        steps.run("cargo test", Box::new(|| cargo(&["test", "--workspace", "--no-fail-fast"])));
        steps.run("programs", Box::new(programs::check));
        steps.run("counts within their bounds", Box::new(bench::check_counts));
        if self.no_vm {
            steps.skip("end to end in a VM", "--no-vm");
            steps.skip("the guest's kernel module in a VM", "--no-vm");
        } else {
            steps.run("end to end in a VM", Box::new(|| lifecycle::check(&self.vm)));
            // On the kernel for which there is no other driver.
            let cloud = Kernel::debian_cloud();
            let module = ModuleCheck::brief(self.vm.with_guest(GuestDriver::Module, Some(cloud)));
            steps.run("the guest's kernel module in a VM", Box::new(move || module.check()));
        }
        for combination in &COMBINATIONS {
            if self.no_vm {
                steps.skip(combination.name, "--no-vm");
            } else if let Some(obstacle) = combination.obstacle(&self.vm) {
                steps.skip(combination.name, &obstacle);
            } else {
                steps.run(combination.name, Box::new(|| combination.check(&self.vm)));
            }
        }
        Ok(steps.summarise())
    }

    fn install_packages(&self) -> Result<()> {
        if self.no_vm {
            packages::ensure(&[Purpose::Test, Purpose::Programs], true)
        } else {
            self.vm.install_packages(&[Purpose::Test, Purpose::Programs, Purpose::Vm, Purpose::Module])
        }
    }
}

/// The fuzz targets are a workspace of their own.
fn check_formatting() -> Result<()> {
    cargo(&["fmt", "--all", "--check"])?;
    cargo(&["fmt", "--manifest-path", "fuzz/Cargo.toml", "--check"])
}

fn cargo(arguments: &[&str]) -> Result<()> {
    let status = workspace::cargo().args(arguments).status().context("cannot start cargo")?;
    if !status.success() {
        let line = arguments.join(" ");
        bail!("`cargo {line}` failed (if a component is missing: `rustup component add rustfmt clippy`)");
    }
    Ok(())
}

/// The steps so far.
#[derive(Default)]
struct Steps {
    passed: usize,
    failed: Option<&'static str>,
    skipped: Vec<(&'static str, String)>,
}

impl Steps {
    fn run(&mut self, name: &'static str, work: Work) {
        if let Some(failed) = self.failed {
            return self.skip(name, &format!("{failed} failed"));
        }
        say::step("test", format!("{name} …"));
        let start = Instant::now();
        let result = work();
        let seconds = start.elapsed().as_secs_f32();
        match result {
            Ok(()) => {
                say::step("test", format!("{name}: passed in {seconds:.1} s"));
                self.passed += 1;
            }
            Err(error) => {
                say::error(&error);
                say::step("test", format!("{name}: FAILED after {seconds:.1} s"));
                self.failed = Some(name);
            }
        }
    }

    fn skip(&mut self, name: &'static str, reason: &str) {
        self.skipped.push((name, reason.to_owned()));
    }

    /// Prints the outcome of all steps; the last line counts them.
    fn summarise(self) -> ExitCode {
        println!();
        for (name, reason) in &self.skipped {
            println!("skipped: {name} ({reason})");
        }
        if let Some(name) = self.failed {
            println!("failed: {name}");
        }
        let failed = usize::from(self.failed.is_some());
        println!("{} passed, {failed} failed, {} skipped", self.passed, self.skipped.len());
        if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
