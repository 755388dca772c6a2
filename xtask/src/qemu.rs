//! QEMU: which one there is, whether KVM works, and the command line of a VM.

use crate::host_files::Folder;
use crate::process::bound_command;
use clap::ValueEnum;
use std::ffi::{OsStr, OsString};
use std::fs::{File, read_to_string};
use std::os::fd::RawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::process::Command;

/// QEMU's name when none is chosen.
pub(crate) const PROGRAM: &str = "qemu-system-x86_64";

/// The QEMU device that connects the guest to paragpud.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Frontend {
    /// vhost-user-gpu-pci: any QEMU with KVM, without KVM QEMU 10 or later.
    Gpu,
    /// vhost-user-test-device-pci with virtio-gpu's number: QEMU 11.1 or later, no display socket.
    Generic,
    /// No vGPU: to try the VM itself.
    None,
}

impl Frontend {
    /// The virtio id of the device that the guest sees, if there is one.
    pub(crate) fn virtio_id(self) -> Option<u16> {
        const VIRTIO_GPU: u16 = 16;
        match self {
            Frontend::Gpu | Frontend::Generic => Some(VIRTIO_GPU),
            Frontend::None => None,
        }
    }
}

/// All that differs between the VMs.
pub(crate) struct Machine<'a> {
    pub(crate) qemu: &'a Path,
    pub(crate) memory_mib: u32,
    pub(crate) cpus: u32,
    pub(crate) kernel: &'a Path,
    pub(crate) initramfs: &'a Path,
    pub(crate) kernel_arguments: &'a str,
    pub(crate) frontend: Frontend,
    /// paragpud's socket.
    pub(crate) socket: &'a Path,
    /// Host folders for the guest.
    pub(crate) folders: &'a [Folder],
    /// Whether a reboot of the guest is one, and not the end of QEMU.
    pub(crate) may_reboot: bool,
    /// QEMU's ends of the connected sockets for the serial console, control, stdout and stderr.
    pub(crate) ports: Ports,
}

/// One file descriptor per stream out of the guest.
pub(crate) struct Ports {
    pub(crate) console: RawFd,
    pub(crate) control: RawFd,
    pub(crate) stdout: RawFd,
    pub(crate) stderr: RawFd,
}

/// The major version of the installed QEMU.
pub(crate) fn installed_version() -> Option<u32> {
    let output = Command::new(PROGRAM).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_once("version ")?.1.split('.').next()?.parse().ok()
}

/// Whether guests can run on KVM: the device must open and the processor must have the extensions.
///
/// In some VMs /dev/kvm exists and even makes machines, but no ordinary kernel gets far in them; the processor flags
/// tell.
pub(crate) fn kvm_is_usable() -> bool {
    let opens = File::options().read(true).write(true).open("/dev/kvm").is_ok();
    let flags = read_to_string("/proc/cpuinfo").unwrap_or_default();
    opens && flags.split_ascii_whitespace().any(|flag| flag == "vmx" || flag == "svm")
}

/// The command that runs `machine`, bound to the life of this process.
pub(crate) fn command(machine: &Machine) -> Command {
    let mut command = bound_command(machine.qemu);
    command.args(["-nodefaults", "-no-user-config", "-display", "none"]);
    if !machine.may_reboot {
        command.arg("-no-reboot");
    }
    if kvm_is_usable() {
        command.args(["-accel", "kvm", "-cpu", "host"]);
    } else {
        command.args(["-accel", "tcg,thread=multi", "-cpu", "max"]);
    }
    command.args(["-machine", "q35,memory-backend=memory", "-smp", &machine.cpus.to_string()]);
    command.args(["-m", &format!("{}M", machine.memory_mib)]);
    // A vhost-user back end maps the guest's memory, so it must be shared.
    let memory = format!("memory-backend-memfd,id=memory,size={}M,share=on", machine.memory_mib);
    command.args(["-object", &memory]);
    command.arg("-kernel").arg(machine.kernel).arg("-initrd").arg(machine.initramfs);
    command.args(["-append", machine.kernel_arguments]);
    add_ports(&mut command, &machine.ports);
    machine.folders.iter().for_each(|folder| add_folder(&mut command, folder));
    add_gpu(&mut command, machine.frontend, machine.socket);
    command
}

fn add_ports(command: &mut Command, ports: &Ports) {
    command.args(["-chardev", &format!("socket,id=console,fd={}", ports.console)]);
    command.args(["-serial", "chardev:console", "-device", "virtio-serial-pci"]);
    let ports = [("control", ports.control), ("stdout", ports.stdout), ("stderr", ports.stderr)];
    for (index, (name, descriptor)) in ports.into_iter().enumerate() {
        let number = index + 1;
        command.args(["-chardev", &format!("socket,id={name},fd={descriptor}")]);
        command.args(["-device", &format!("virtserialport,nr={number},chardev={name},name={name}")]);
    }
}

fn add_folder(command: &mut Command, folder: &Folder) {
    let tag = &folder.tag;
    if let Some(socket) = &folder.socket {
        add_socket(command, tag, socket);
        command.args(["-device", &format!("vhost-user-fs-pci,chardev={tag},tag={tag}")]);
        return;
    }
    let mut option = OsString::from("local,path=");
    option.push(escape_commas(folder.path.as_os_str()));
    option.push(format!(",mount_tag={tag},security_model=none,multidevs=remap"));
    if folder.read_only {
        option.push(",readonly=on");
    }
    command.arg("-virtfs").arg(option);
}

fn add_socket(command: &mut Command, id: &str, socket: &Path) {
    let mut option = OsString::from(format!("socket,id={id},path="));
    option.push(escape_commas(socket.as_os_str()));
    command.arg("-chardev").arg(option);
}

fn add_gpu(command: &mut Command, frontend: Frontend, socket: &Path) {
    let device = match frontend {
        Frontend::Gpu => "vhost-user-gpu-pci,chardev=vgpu",
        Frontend::Generic => {
            "vhost-user-test-device-pci,chardev=vgpu,virtio-id=16,num_vqs=2,vq_size=256,config_size=24"
        }
        Frontend::None => return,
    };
    add_socket(command, "vgpu", socket);
    command.args(["-device", device]);
}

/// Doubles commas, which separate QEMU's options.
fn escape_commas(text: &OsStr) -> OsString {
    let mut escaped = Vec::new();
    for byte in text.as_bytes() {
        escaped.push(*byte);
        if *byte == b',' {
            escaped.push(b',');
        }
    }
    OsString::from_vec(escaped)
}

#[cfg(test)]
mod tests {
    use super::escape_commas;
    use std::ffi::OsStr;

    #[test]
    fn commas_in_paths_do_not_end_an_option() {
        assert_eq!(escape_commas(OsStr::new("/a,b")), "/a,,b");
    }
}
