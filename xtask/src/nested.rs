//! VMs in a VM, for VMMs that need KVM where it is not usable: QEMU emulates a processor with AMD's virtualization, and the
//! outer VM runs the VMM, paragpud and the host's OpenCL driver.
//!
//! Everything is prepared outside, where it is quicker. This program itself runs once more in the outer VM, as
//! `cargo xtask vm-prepared`.

use crate::boot_files::{self, Content, Root};
use crate::guest_job::Job;
use crate::host_files::HostFiles;
use crate::kernel::Kernel;
use crate::vm_run::{self, Outcome, Output, Setup};
use crate::vmm::Vmm;
use crate::{kernel, say, workspace};
use anyhow::{Context, Result};
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;
use tempfile::TempDir;

/// The outer VM's kernel: one with KVM.
const KERNEL_PACKAGE: &str = "linux-image-amd64";
/// What the outer VM needs besides the inner one's memory, for paragpud, the host's OpenCL driver and what is written to files.
const OWN_MEMORY_MIB: u32 = 2048;

/// Run a VM that is described in a file (what `vm` does in its outer VM).
#[derive(Args)]
pub(crate) struct Prepared {
    setup: PathBuf,
}

impl Prepared {
    /// Runs the VM; its job's exit status becomes this process's.
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let text =
            std::fs::read(&self.setup).with_context(|| format!("cannot read {}", self.setup.display()))?;
        let setup: Setup = serde_json::from_slice(&text).context("cannot read the description of the VM")?;
        let outcome = vm_run::run(&setup, Output::passed_through())?;
        if let Some(summary) = outcome.summary.filter(|_| !setup.quiet) {
            say::step("vm", summary);
        }
        Ok(ExitCode::from(outcome.status))
    }
}

/// Runs a VM in an outer VM of `qemu`.
pub(crate) fn run(inner: Setup, qemu: PathBuf, scratch: &TempDir, output: Output) -> Result<Outcome> {
    if !inner.quiet {
        say::step("vm", "KVM is not usable here: booting an outer VM that emulates it");
    }
    let logs = inner.logs.clone();
    let inner = Setup { logs: logs.join("inner"), ..inner };
    std::fs::create_dir_all(&inner.logs)
        .with_context(|| format!("cannot create {}", inner.logs.display()))?;
    let description = scratch.path().join("inner.json");
    std::fs::write(&description, serde_json::to_vec(&inner)?).context("cannot write a temporary file")?;

    let program = workspace::this_program()?;
    let command = vec![program.into_os_string(), "vm-prepared".into(), description.into_os_string()];
    let shares = [std::slice::from_ref(&inner.logs), &inner.shares].concat();
    let job = Job::new(command, &shares)?;
    let cache = workspace::target_directory()?.join("vm-cache");
    let software = kernel::software(&Kernel::Package(KERNEL_PACKAGE.to_owned()), &cache)?;
    let files = HostFiles::known_to(&software.modules, &cache)?;
    let content = Content { job: &job, gpu: None, icd: None, root: Root::Host(&files), nesting: true };
    let initramfs = scratch.path().join("outer-initramfs");
    std::fs::write(&initramfs, boot_files::initramfs(&software, &content)?)
        .context("cannot write the initramfs")?;
    let outer = Setup {
        vmm: Vmm::Qemu,
        program: qemu,
        memory_mib: inner.memory_mib + OWN_MEMORY_MIB,
        cpus: inner.cpus,
        kernel: software.image,
        initramfs,
        gpu: false,
        device_id: 0,
        broker: None,
        socket: None,
        host_files: Some(files),
        shares: job.shares,
        may_reboot: false,
        nesting: true,
        logs,
        time_limit: inner.time_limit,
        show_kernel_log: false,
        show_device_log: false,
        quiet: inner.quiet,
    };
    vm_run::run(&outer, output)
}
