//! The virtual machine monitors that VMs run in, and the command lines of those that are not QEMU.

use crate::guest_driver::{GuestDriver, OWN_VIRTIO_ID};
use crate::process::bound_command;
use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The context id of guests on vsock.
const GUEST_CID: u32 = 3;

/// The virtio id that Linux's virtio-gpu driver looks for.
const VIRTIO_GPU: u16 = 16;

/// What runs the VM, and how it attaches the vGPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub(crate) enum Vmm {
    /// QEMU, vhost-user-gpu-pci: any version with KVM, without KVM QEMU 10 or later.
    Qemu,
    /// QEMU, vhost-user-test-device-pci: QEMU 11.1 or later, no display socket.
    QemuGeneric,
    /// examples/alioth: the `alioth` crate.
    Alioth,
    /// cloud-hypervisor, --generic-vhost-user: version 52 or later.
    CloudHypervisor,
}

impl Vmm {
    /// Whether it is QEMU, which shows its guests the host's files and also works without KVM.
    pub(crate) fn is_qemu(self) -> bool {
        matches!(self, Vmm::Qemu | Vmm::QemuGeneric)
    }

    /// The virtio id of a vGPU for this driver.
    pub(crate) fn virtio_id(self, driver: GuestDriver) -> u16 {
        match (self, driver) {
            // The device is a virtio-gpu whoever drives it; the generic one aborts QEMU when its id has no name there.
            (Vmm::Qemu | Vmm::QemuGeneric, _) | (_, GuestDriver::Mainline) => VIRTIO_GPU,
            (_, GuestDriver::Module) => OWN_VIRTIO_ID,
        }
    }
}

/// All that differs between VMs whose VMM is not QEMU.
pub(crate) struct Machine<'a> {
    pub(crate) program: &'a Path,
    pub(crate) memory_mib: u32,
    pub(crate) cpus: u32,
    pub(crate) kernel: &'a Path,
    pub(crate) initramfs: &'a Path,
    pub(crate) kernel_arguments: &'a str,
    /// paragpud's socket, if there is to be a vGPU.
    pub(crate) socket: Option<&'a Path>,
    /// The virtio id of the vGPU.
    pub(crate) device_id: u16,
    /// Port N of the guest's vsock is the Unix socket of this path with `_N` at its end.
    pub(crate) vsock: &'a Path,
}

/// The command that runs `machine`, bound to the life of this process. The serial console is its terminal.
pub(crate) fn command(vmm: Vmm, machine: &Machine) -> Command {
    let mut command = bound_command(machine.program);
    command.arg("--kernel").arg(machine.kernel).arg("--initramfs").arg(machine.initramfs);
    command.args(["--cmdline", machine.kernel_arguments]);
    match vmm {
        Vmm::CloudHypervisor => {
            command.args(["--cpus", &format!("boot={}", machine.cpus)]);
            // A vhost-user back end maps the guest's memory, so it must be shared.
            command.args(["--memory", &format!("size={}M,shared=on", machine.memory_mib)]);
            command.args(["--console", "off", "--serial", "tty"]);
            command.arg("--vsock").arg(with_path(&format!("cid={GUEST_CID},socket="), machine.vsock));
            if let Some(socket) = machine.socket {
                let mut option = with_path("socket=", socket);
                option.push(format!(",device_type={},queue_sizes=[256,16]", machine.device_id));
                command.arg("--generic-vhost-user").arg(option);
            }
        }
        _ => {
            command.args(["--cpus", &machine.cpus.to_string(), "--memory", &machine.memory_mib.to_string()]);
            command.arg("--vsock").arg(machine.vsock);
            if let Some(socket) = machine.socket {
                command.args(["--device-id", &machine.device_id.to_string(), "--socket"]).arg(socket);
            }
        }
    }
    command
}

fn with_path(option: &str, path: &Path) -> OsString {
    let mut option = OsString::from(option);
    option.push(path);
    option
}

/// The program `name`, which is a path or is looked for in PATH.
pub(crate) fn find_program(name: &OsStr) -> Result<PathBuf> {
    let path = Path::new(name);
    if path.components().count() > 1 {
        return path.canonicalize().with_context(|| format!("there is no {}", path.display()));
    }
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&folders).map(|folder| folder.join(name)).find(|path| path.is_file());
    match found {
        Some(path) => Ok(path),
        None => bail!("there is no program {} in PATH", path.display()),
    }
}
