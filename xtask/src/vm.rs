//! `cargo xtask vm`: what a VM is made of, and the command line that asks for one.

use crate::broker::Broker;
use crate::guest_driver::GuestDriver;
use crate::guest_job::Job;
use crate::kernel::Kernel;
use crate::packages::Purpose;
use crate::qemu::Frontend;
use crate::vm_run::{Outcome, Output, Setup};
use crate::workspace::Profile;
use crate::{kernel, packages, qemu, say, vm_run, workspace};
use anyhow::{Context, Result, bail};
use clap::Args;
use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Run a command in a VM with a vGPU.
///
/// Boots a stock Debian kernel in QEMU, with the host's files as the guest's (what the guest writes is forgotten), a
/// vGPU by paragpud and paragpu's OpenCL driver as the only one. The command runs as root in the same folder as here;
/// its stdout and stderr are this command's, and so is its exit status (128 and the signal's number if a signal ended
/// it). 125 means that the VM itself failed.
#[derive(Args)]
pub(crate) struct Vm {
    #[command(flatten)]
    options: VmOptions,
    /// A host folder that the command can write to, at the same path (repeatable).
    #[arg(long, value_name = "DIR")]
    share: Vec<PathBuf>,
    /// The command and its arguments.
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// Options of everything that boots a VM.
#[derive(Args, Clone)]
pub(crate) struct VmOptions {
    /// The QEMU to use instead of the installed one.
    #[arg(long, value_name = "PATH")]
    qemu: Option<PathBuf>,
    /// The guest's memory.
    #[arg(long, value_name = "MIB", default_value_t = 2048)]
    memory: u32,
    /// The guest's processors.
    #[arg(long, value_name = "NUMBER", default_value_t = 2)]
    cpus: u32,
    /// The QEMU device that connects the guest to paragpud.
    #[arg(long, value_enum, default_value_t = Frontend::Gpu)]
    frontend: Frontend,
    /// Connect to a vhost-user socket that somebody else serves, instead of starting paragpud.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// How paragpud and the guest's programs are built.
    #[arg(long, value_enum, default_value_t = Profile::Release)]
    profile: Profile,
    /// The guest's kernel: `debian`, `debian-cloud` (which has no DRM), another Debian package `linux-image-…`, or a
    /// folder with boot/vmlinuz-* and lib/modules/*.
    #[arg(long, value_name = "KERNEL", default_value = "debian")]
    kernel: Kernel,
    /// The guest's driver of the vGPU.
    #[arg(long, value_enum, default_value_t = GuestDriver::Mainline)]
    guest: GuestDriver,
    /// Give up and end the VM after this time.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    timeout: u64,
    /// Show the guest's kernel log on stderr.
    #[arg(long)]
    kernel_log: bool,
    /// Show paragpud's log on stderr.
    #[arg(long)]
    device_log: bool,
    /// Do not tell on stderr what is being done.
    #[arg(long, short)]
    quiet: bool,
}

impl Vm {
    /// Runs the command; its exit status becomes this process's.
    pub(crate) fn run(self) -> Result<ExitCode> {
        let job = Job::new(self.command, &self.share)?;
        self.options.install_packages(&[Purpose::Vm])?;
        let outcome = self.options.boot(&job, Output::passed_through())?;
        if let Some(summary) = outcome.summary {
            self.options.say(&summary);
        }
        Ok(ExitCode::from(outcome.status))
    }
}

impl VmOptions {
    /// How the guest's programs are to be built.
    pub(crate) fn profile(&self) -> Profile {
        self.profile
    }

    /// The same, but with this driver and, if given, kernel in the guest.
    pub(crate) fn with_guest(&self, guest: GuestDriver, kernel: Option<Kernel>) -> VmOptions {
        VmOptions { guest, kernel: kernel.unwrap_or(self.kernel.clone()), ..self.clone() }
    }

    /// The virtio id of the guest's vGPU; 0 without one.
    pub(crate) fn virtio_id(&self) -> u16 {
        self.frontend.virtio_id().unwrap_or_default()
    }

    /// Installs the Debian packages that a VM needs, and those for other purposes.
    pub(crate) fn install_packages(&self, purposes: &[Purpose]) -> Result<()> {
        let module: &[_] = if self.guest == GuestDriver::Module { &[Purpose::Module] } else { &[] };
        packages::ensure(&[purposes, module].concat(), self.qemu.is_some())
    }

    /// Builds what the VM needs and runs `job` in it.
    pub(crate) fn boot(&self, job: &Job, output: Output) -> Result<Outcome> {
        if cfg!(not(target_arch = "x86_64")) {
            bail!("VMs are only made on x86_64 so far");
        }
        let target = workspace::target_directory()?;
        let built = self.build(&target)?;
        let cache = target.join("vm-cache");
        vm_run::run(
            &Setup {
                qemu: self.qemu.as_deref().unwrap_or(Path::new(qemu::PROGRAM)),
                memory_mib: self.memory,
                cpus: self.cpus,
                software: &kernel::software(&self.kernel, &cache)?,
                frontend: self.frontend,
                broker: built.broker.as_deref(),
                socket: self.socket.as_deref(),
                guest: self.guest,
                cache: &cache,
                icd: built.icd.as_deref(),
                logs: &target.join("vm"),
                time_limit: Duration::from_secs(self.timeout),
                show_kernel_log: self.kernel_log,
                show_device_log: self.device_log,
                quiet: self.quiet,
            },
            job,
            output,
        )
    }

    /// Builds paragpud and starts it by itself, for [VMs on its socket](VmOptions::on_socket).
    pub(crate) fn start_broker(&self, socket: &Path, log: File) -> Result<Broker> {
        if self.socket.is_some() || self.frontend == Frontend::None {
            bail!("this needs a paragpud of its own: neither --socket nor --frontend none is possible");
        }
        let built = self.build(&workspace::target_directory()?)?;
        let program = built.broker.context("no paragpud was built")?;
        Broker::start(&program, socket, log, self.device_log)
    }

    /// The same, but connected to the paragpud that serves `socket`.
    pub(crate) fn on_socket(&self, socket: &Path) -> VmOptions {
        VmOptions { socket: Some(socket.to_owned()), ..self.clone() }
    }

    fn build(&self, target: &Path) -> Result<Built> {
        if self.frontend == Frontend::None {
            return Ok(Built { broker: None, icd: None });
        }
        self.say("building paragpud and the guest's OpenCL driver");
        let quiet: &[_] = if self.quiet { &["--quiet"] } else { &[] };
        workspace::build(self.profile, &[&["-p", "paragpu", "-p", "paragpu-opencl"], quiet].concat())?;
        let folder = target.join(self.profile.folder());
        let icd = existing(folder.join("libparagpu_opencl.so"))?;
        let broker = match self.socket {
            Some(_) => None,
            None => Some(existing(folder.join("paragpud"))?),
        };
        Ok(Built { broker, icd: Some(icd) })
    }

    fn say(&self, text: &str) {
        if !self.quiet {
            say::step("vm", text);
        }
    }
}

/// The programs of a VM; those that it does not need are not there.
struct Built {
    broker: Option<PathBuf>,
    icd: Option<PathBuf>,
}

fn existing(file: PathBuf) -> Result<PathBuf> {
    file.is_file().then_some(()).with_context(|| format!("the build did not make {}", file.display()))?;
    Ok(file)
}
