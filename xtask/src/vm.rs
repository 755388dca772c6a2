//! `cargo xtask vm`: what a VM is made of, and the command line that asks for one.

use crate::boot_files::{self, Content, Gpu, Root};
use crate::broker::Broker;
use crate::closure::Closure;
use crate::guest_driver::GuestDriver;
use crate::guest_job::Job;
use crate::host_files::HostFiles;
use crate::kernel::{Kernel, Software};
use crate::packages::Purpose;
use crate::vm_run::{Outcome, Output, Setup};
use crate::vmm::{Vmm, find_program};
use crate::workspace::Profile;
use crate::{kernel, nested, packages, qemu, say, vm_run, workspace};
use anyhow::{Context, Result, bail};
use clap::Args;
use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// The package and program of examples/alioth.
const ALIOTH_VMM: &str = "alioth_vmm";
/// cloud-hypervisor's program when none is chosen.
const CLOUD_HYPERVISOR: &str = "cloud-hypervisor";

/// Run a command in a VM with a vGPU.
///
/// Boots a stock Debian kernel, with the host's files as the guest's (what the guest writes is forgotten), a vGPU by
/// paragpud and paragpu's OpenCL driver as the only one. The command runs as root in the same folder as here; its stdout
/// and stderr are this command's, and so is its exit status (128 and the signal's number if a signal ended it). 125 means
/// that the VM itself failed.
///
/// Only QEMU shows its guests the host's files. Those of other VMMs have copies of what the command names and of what
/// `--with` names, with all libraries, and busybox. These VMMs need KVM; where it is not usable, the VMM, paragpud and the
/// host's OpenCL driver run in an outer VM of QEMU that emulates it.
#[derive(Args)]
pub(crate) struct Vm {
    #[command(flatten)]
    options: VmOptions,
    /// A host folder that the command can write to, at the same path (repeatable). Guests that do not see the host's files
    /// get a copy, and send it back when the command has ended.
    #[arg(long, value_name = "DIR")]
    share: Vec<PathBuf>,
    /// The command and its arguments.
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// Options of everything that boots a VM.
#[derive(Args, Clone)]
pub(crate) struct VmOptions {
    /// What runs the VM.
    #[arg(long, value_enum, default_value_t = Vmm::Qemu)]
    vmm: Vmm,
    /// The QEMU to use instead of the installed one.
    #[arg(long, value_name = "PATH")]
    qemu: Option<PathBuf>,
    /// cloud-hypervisor's program, if not the one in PATH.
    #[arg(long, value_name = "PATH")]
    vmm_binary: Option<PathBuf>,
    /// A program, file or folder that the command uses, for guests that do not see the host's files (repeatable).
    #[arg(long, value_name = "NAME")]
    with: Vec<PathBuf>,
    /// The guest's memory.
    #[arg(long, value_name = "MIB", default_value_t = 2048)]
    memory: u32,
    /// The guest's processors.
    #[arg(long, value_name = "NUMBER", default_value_t = 2)]
    cpus: u32,
    /// No vGPU: to try the VM itself.
    #[arg(long, conflicts_with = "socket")]
    no_gpu: bool,
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

    /// The virtio id of the guest's vGPU.
    pub(crate) fn virtio_id(&self) -> u16 {
        self.vmm.virtio_id(self.guest)
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
        let software = kernel::software(&self.kernel, &cache)?;
        let host_files =
            self.vmm.is_qemu().then(|| HostFiles::known_to(&software.modules, &cache)).transpose()?;
        let scratch = vm_run::scratch_folder()?;
        let initramfs = scratch.path().join("initramfs");
        let gpu = self.gpu(&software, &cache)?;
        let content = match &host_files {
            Some(files) => self.initramfs(&software, job, &built, gpu, Root::Host(files)),
            None => self.initramfs_with_copies(&software, job, &built, gpu),
        }?;
        std::fs::write(&initramfs, content).context("cannot write the initramfs")?;
        let setup = Setup {
            vmm: self.vmm,
            program: built.vmm,
            memory_mib: self.memory,
            cpus: self.cpus,
            kernel: software.image.clone(),
            initramfs,
            gpu: !self.no_gpu,
            device_id: self.virtio_id(),
            broker: built.broker,
            socket: self.socket.clone(),
            host_files,
            shares: job.shares.clone(),
            may_reboot: job.may_reboot,
            nesting: false,
            logs: target.join("vm"),
            time_limit: Duration::from_secs(self.timeout),
            show_kernel_log: self.kernel_log,
            show_device_log: self.device_log,
            quiet: self.quiet,
        };
        if self.is_nested() {
            nested::run(setup, self.qemu(), &scratch, output)
        } else {
            vm_run::run(&setup, output)
        }
    }

    /// The same, but with this VMM and driver in the guest.
    pub(crate) fn on_vmm(&self, vmm: Vmm, guest: GuestDriver) -> VmOptions {
        VmOptions { vmm, guest, ..self.clone() }
    }

    /// The same, with programs that the command uses.
    pub(crate) fn with_programs(&self, names: &[&str]) -> VmOptions {
        let mut options = self.clone();
        options.with.extend(names.iter().map(PathBuf::from));
        options
    }

    /// Whether the guest's processor and, in an outer VM, the host's OpenCL driver's are emulated.
    pub(crate) fn is_nested(&self) -> bool {
        !self.vmm.is_qemu() && !qemu::kvm_is_usable()
    }

    /// What is to be said of a VMM that nobody builds here and that is not there.
    pub(crate) fn missing_program(&self) -> Option<String> {
        let is_missing = self.vmm == Vmm::CloudHypervisor && self.cloud_hypervisor().is_err();
        is_missing.then(|| format!("no {CLOUD_HYPERVISOR} in PATH, and no --vmm-binary"))
    }

    fn cloud_hypervisor(&self) -> Result<PathBuf> {
        find_program(self.vmm_binary.as_deref().unwrap_or(Path::new(CLOUD_HYPERVISOR)).as_os_str())
    }

    fn gpu(&self, software: &Software, cache: &Path) -> Result<Option<Gpu>> {
        if self.no_gpu {
            return Ok(None);
        }
        let module = self.guest.own_module(self.virtio_id(), software, cache, self.quiet)?;
        Ok(Some(Gpu { driver: self.guest, module }))
    }

    fn initramfs_with_copies(
        &self,
        software: &Software,
        job: &Job,
        built: &Built,
        gpu: Option<Gpu>,
    ) -> Result<Vec<u8>> {
        if job.may_reboot {
            bail!("only QEMU's guests can reboot");
        }
        let guest_port = workspace::this_program()?;
        let mut files = Closure::new()?;
        files.add(&guest_port)?;
        files.add_command(&job.command)?;
        for share in &job.shares {
            files.add(share)?;
        }
        for name in &self.with {
            files.add(&find_program(name.as_os_str())?)?;
        }
        if let Some(icd) = &built.icd {
            files.add(icd)?;
        }
        self.initramfs(software, job, built, gpu, Root::Copies { files: &files, guest_port: &guest_port })
    }

    fn initramfs(
        &self,
        software: &Software,
        job: &Job,
        built: &Built,
        gpu: Option<Gpu>,
        root: Root,
    ) -> Result<Vec<u8>> {
        let content = Content { job, gpu, icd: built.icd.as_deref(), root, nesting: false };
        boot_files::initramfs(software, &content)
    }

    fn qemu(&self) -> PathBuf {
        self.qemu.clone().unwrap_or_else(|| qemu::PROGRAM.into())
    }

    /// Builds paragpud and starts it by itself, for [VMs on its socket](VmOptions::on_socket).
    pub(crate) fn start_broker(&self, socket: &Path, log: File, level: &str) -> Result<Broker> {
        if self.socket.is_some() || self.no_gpu || !self.vmm.is_qemu() {
            bail!("this needs QEMU and a paragpud of its own: neither --socket nor --no-gpu is possible");
        }
        let built = self.build(&workspace::target_directory()?)?;
        let program = built.broker.context("no paragpud was built")?;
        Broker::start(&program, socket, log, level, self.device_log)
    }

    /// The same, but connected to the paragpud that serves `socket`.
    pub(crate) fn on_socket(&self, socket: &Path) -> VmOptions {
        VmOptions { socket: Some(socket.to_owned()), ..self.clone() }
    }

    fn build(&self, target: &Path) -> Result<Built> {
        let vmm = match self.vmm {
            Vmm::Qemu | Vmm::QemuGeneric => self.qemu(),
            Vmm::Alioth => {
                self.say("building examples/alioth");
                workspace::build(self.profile, &["-p", ALIOTH_VMM])?;
                existing(target.join(self.profile.folder()).join(ALIOTH_VMM))?
            }
            Vmm::CloudHypervisor => self.cloud_hypervisor()?,
        };
        if self.no_gpu {
            return Ok(Built { vmm, broker: None, icd: None });
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
        Ok(Built { vmm, broker, icd: Some(icd) })
    }

    fn say(&self, text: &str) {
        if !self.quiet {
            say::step("vm", text);
        }
    }
}

/// The programs of a VM; those that it does not need are not there.
struct Built {
    vmm: PathBuf,
    broker: Option<PathBuf>,
    icd: Option<PathBuf>,
}

fn existing(file: PathBuf) -> Result<PathBuf> {
    file.is_file().then_some(()).with_context(|| format!("the build did not make {}", file.display()))?;
    Ok(file)
}
