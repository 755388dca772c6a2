//! `cargo xtask module`: the guest's kernel module through all that can happen to it, on a kernel without DRM.

use crate::guest_driver::GuestDriver;
use crate::guest_job::Job;
use crate::packages::Purpose;
use crate::process::{Bound, bound_command};
use crate::vm::VmOptions;
use crate::vm_run::Output;
use crate::{say, workspace};
use anyhow::{Context, Result, ensure};
use clap::Args;
use std::ffi::OsString;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

const SCRIPT: &str = include_str!("resources/module.sh");
const LIES_SCRIPT: &str = include_str!("resources/lies.sh");

/// The lies of guest-driver/liar, the first for the driver that the guest boots with.
const LIES: &[&str] = &[
    "none",
    "short-info",
    "other-capset",
    "short-capset",
    "no-capset",
    "silent-info",
    "short-context",
    "long-resource",
    "no-resource",
    "silent-resource",
    "no-unref",
    "silent-unref",
    "silent-submit",
    "unknown-answer",
    "double-answer",
    "none",
];

/// Check the guest's kernel module in a VM.
///
/// Programs run on it; processes come and go by the thousand, are killed, make random calls; the device goes while files
/// are open; the guest is suspended; the module is unloaded. Nothing may stay behind, and the kernel may not complain.
#[derive(Args)]
pub(crate) struct ModuleCheck {
    /// How often each of eight processes opens, allocates, submits and closes.
    #[arg(long, value_name = "NUMBER", default_value_t = 1000)]
    cycles: u32,
    /// How often processes are killed.
    #[arg(long, value_name = "NUMBER", default_value_t = 20)]
    kills: u32,
    /// How long random calls are made.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    hostile: u32,
    /// Which random calls.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u32,
    #[command(flatten)]
    vm: VmOptions,
}

impl ModuleCheck {
    /// The part of it that every run of the checks does, in a VM with these options.
    pub(crate) fn brief(vm: VmOptions) -> ModuleCheck {
        ModuleCheck { cycles: 25, kills: 3, hostile: 5, seed: 1, vm }
    }

    /// Runs it.
    pub(crate) fn run(mut self) -> Result<ExitCode> {
        self.vm = self.vm.with_guest(GuestDriver::Module, None);
        self.vm.install_packages(&[Purpose::Vm, Purpose::Programs])?;
        self.check()?;
        say::step("module", "ok");
        Ok(ExitCode::SUCCESS)
    }

    /// The same without installing anything.
    pub(crate) fn check(&self) -> Result<()> {
        let program = |name| workspace::build_example(self.vm.profile(), name).map(OsString::from);
        let mut command = ["sh", "-c", SCRIPT, "module"].map(OsString::from).to_vec();
        command.push(program("module_check")?);
        command.push(program("vgpu_check")?);
        command.extend(
            [self.cycles, self.kills, self.hostile, self.seed].map(|number| number.to_string().into()),
        );
        command.push(GuestDriver::Module.parameters(self.vm.virtio_id()).into());
        expect_success(self.vm.boot(&Job::new(command, &[])?, Output::passed_through())?.status)?;
        self.check_lies()
    }

    /// With a device that lies.
    fn check_lies(&self) -> Result<()> {
        let program = |name| workspace::build_example(self.vm.profile(), name);
        let scratch = tempfile::Builder::new().prefix("paragpu-liar-").tempdir();
        let scratch = scratch.context("cannot make a temporary folder")?;
        let socket = scratch.path().join("liar.sock");
        let mut liar = bound_command(workspace::build_program(self.vm.profile(), "paragpu-liar")?);
        liar.arg(&socket).args(LIES).stdin(Stdio::null()).stdout(Stdio::null());
        let mut liar = Bound::spawn(&mut liar, "the lying device")?;
        while !socket.exists() {
            ensure!(liar.ended().is_none(), "the lying device ended at once");
            std::thread::sleep(Duration::from_millis(10));
        }
        let mut command = ["sh", "-c", LIES_SCRIPT, "lies"].map(OsString::from).to_vec();
        command.push(program("module_check")?.into());
        command.extend(LIES.iter().skip(1).map(OsString::from));
        let vm = self.vm.on_socket(&socket);
        expect_success(vm.boot(&Job::new(command, &[])?, Output::passed_through())?.status)
    }
}

fn expect_success(status: u8) -> Result<()> {
    ensure!(status == 0, "the check in the VM ended with exit status {status}");
    Ok(())
}
