//! A virtual machine monitor whose guests share a GPU: all that a VMM written in Rust has to do, on one page.
//!
//! The VMM itself is the `alioth` crate, as a library. The GPU is one more virtio device of the VM, and what it does is
//! paragpud's business, on the other end of a socket. See docs/vmm-rust.md.
//!
//!     alioth_vmm --kernel vmlinuz --initramfs initrd.img --cmdline console=ttyS0 --socket /tmp/paragpud.sock

use std::ffi::CString;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use alioth::board::{BoardConfig, CpuConfig};
use alioth::hv::{Kvm, KvmConfig};
use alioth::loader::{Executable, Payload};
use alioth::mem::{MemBackend, MemConfig};
use alioth::virtio::DeviceId;
use alioth::virtio::dev::blk::BlkFileParam;
use alioth::virtio::dev::vsock::UdsVsockParam;
use alioth::virtio::vu::frontend::VuFrontendParam;
use alioth::virtio::worker::WorkerApi;
use alioth::vm::Machine;
use anyhow::{Context, Result};
use clap::Parser;

/// Boots a VM on KVM with a GPU by paragpud. Its serial console is this terminal.
#[derive(Parser)]
struct Arguments {
    /// The guest's kernel: a bzImage, or the ELF file that is in there.
    #[arg(long)]
    kernel: PathBuf,
    #[arg(long)]
    initramfs: Option<PathBuf>,
    /// The kernel's command line.
    #[arg(long, default_value = "console=ttyS0")]
    cmdline: String,
    /// The guest's disk, a raw image.
    #[arg(long)]
    disk: Option<PathBuf>,
    /// The guest's memory in MiB.
    #[arg(long, default_value_t = 2048)]
    memory: u64,
    /// The guest's processors.
    #[arg(long, default_value_t = 2)]
    cpus: u16,
    /// paragpud's socket.
    #[arg(long)]
    socket: PathBuf,
    /// The virtio id of the GPU: 16 for Linux's own virtio-gpu driver, 62 for paragpu's module.
    #[arg(long, default_value_t = 16)]
    device_id: u16,
    /// Connects the guest's vsock port N to the Unix socket PATH_N.
    #[arg(long)]
    vsock: Option<PathBuf>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let kvm = Kvm::new(KvmConfig::default()).context("KVM cannot be used")?;
    let vm = Machine::new(
        &kvm,
        BoardConfig {
            // 1. The guest's memory is a memfd that is mapped shared, so that paragpud can map it too.
            mem: MemConfig {
                size: arguments.memory << 20,
                backend: MemBackend::Memfd,
                ..MemConfig::default()
            },
            cpu: CpuConfig { count: arguments.cpus, ..CpuConfig::default() },
            ..BoardConfig::default()
        },
    )?;
    vm.add_com1().context("the console needs a terminal as standard input")?;
    vm.add_cmos()?;

    // 2. The GPU is a vhost-user device like any other: a socket, and the virtio id that its driver looks for. The front end
    // passes all feature bits and the configuration space through.
    let gpu = VuFrontendParam { socket: arguments.socket.into(), id: DeviceId::from(arguments.device_id) };
    vm.add_virtio_dev("gpu", gpu).context("the GPU cannot be attached")?;

    if let Some(path) = arguments.disk {
        let disk = BlkFileParam { path: path.into(), readonly: false, api: WorkerApi::Mio };
        vm.add_virtio_dev("disk", disk)?;
    }
    if let Some(path) = arguments.vsock {
        vm.add_virtio_dev("vsock", UdsVsockParam { cid: 3, path: path.into() })?;
    }
    vm.add_payload(Payload {
        executable: Some(executable(&arguments.kernel)?),
        initramfs: arguments.initramfs.map(Into::into),
        cmdline: Some(CString::new(arguments.cmdline)?),
        firmware: None,
    });
    vm.boot()?;
    // 3. Nothing else: when this process ends, paragpud sees the connection end and gives everything back.
    Ok(vm.wait()?)
}

fn executable(kernel: &Path) -> Result<Executable> {
    let mut magic = [0; 4];
    File::open(kernel)
        .and_then(|mut file| file.read_exact(&mut magic))
        .with_context(|| format!("cannot read {}", kernel.display()))?;
    Ok(if magic == *b"\x7fELF" { Executable::Pvh(kernel.into()) } else { Executable::Linux(kernel.into()) })
}
