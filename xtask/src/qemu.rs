//! QEMU: which one there is, whether KVM works, and the command line of a VM.

use crate::host_files::Folder;
use crate::process::bound_command;
use crate::vmm::Vmm;
use std::ffi::{OsStr, OsString};
use std::fs::{File, read_to_string};
use std::os::fd::RawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::process::Command;

/// QEMU's name when none is chosen.
pub(crate) const PROGRAM: &str = "qemu-system-x86_64";

/// All that differs between the VMs.
pub(crate) struct Machine<'a> {
    pub(crate) qemu: &'a Path,
    pub(crate) memory_mib: u32,
    pub(crate) cpus: u32,
    pub(crate) kernel: &'a Path,
    pub(crate) initramfs: &'a Path,
    pub(crate) kernel_arguments: &'a str,
    pub(crate) vmm: Vmm,
    /// The virtio id of the vGPU, where that can be chosen.
    pub(crate) device_id: u16,
    /// paragpud's socket, if there is to be a vGPU.
    pub(crate) socket: Option<&'a Path>,
    /// Whether the guest runs VMs of its own.
    pub(crate) nesting: bool,
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
        // QEMU emulates AMD's extensions for virtual machines, not Intel's.
        let cpu = if machine.nesting { "max,+svm,+npt" } else { "max" };
        command.args(["-accel", "tcg,thread=multi", "-cpu", cpu]);
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
    if let Some(socket) = machine.socket {
        add_gpu(&mut command, machine.vmm, machine.device_id, socket);
    }
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

fn add_gpu(command: &mut Command, vmm: Vmm, device_id: u16, socket: &Path) {
    let device = match vmm {
        Vmm::QemuGeneric => {
            let generic = "vhost-user-test-device-pci,chardev=vgpu,num_vqs=2,vq_size=256,config_size=24";
            format!("{generic},virtio-id={device_id}")
        }
        _ => "vhost-user-gpu-pci,chardev=vgpu".to_owned(),
    };
    add_socket(command, "vgpu", socket);
    command.args(["-device", &device]);
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
