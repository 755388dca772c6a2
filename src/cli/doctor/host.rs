//! What a host needs: an OpenCL device to share, memory that can be shared, and, for VMs, a hypervisor.

use std::fs;
use std::process::Command;

use kvm_ioctls::Kvm;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

use super::Finding;
use crate::cli::client;
use crate::cli::run::running_daemon;
use crate::sys::compute_probe;

pub(super) fn findings() -> Vec<Finding> {
    let mut findings = vec![opencl(), shared_memory(), kvm(), qemu(), daemon()];
    let usable = findings[0].state == super::State::Ok;
    findings.push(if usable {
        test_computation()
    } else {
        Finding::missing("test computation", "not tried", "first see to the OpenCL devices above")
    });
    findings
}

const INSTALL_OPENCL: &str = "install the GPU vendor's OpenCL driver, or for the CPU: apt-get install pocl-opencl-icd ocl-icd-libopencl1";

fn opencl() -> Finding {
    const WHAT: &str = "OpenCL devices";
    match compute_probe::platforms() {
        Err(error) => Finding::missing(WHAT, error.to_string(), INSTALL_OPENCL),
        Ok(platforms) => {
            let devices: Vec<String> = platforms
                .into_iter()
                .filter(|(platform, _)| platform != "paragpu")
                .flat_map(|(platform, devices)| {
                    devices.into_iter().map(move |device| format!("{device} ({platform})"))
                })
                .collect();
            if devices.is_empty() {
                // PoCL, for one, has none where it cannot write its cache. Executors get a directory for that.
                let home = "or, if one is installed, it may want a home that this user can write to: \
                            HOME=$(mktemp -d) paragpu doctor";
                Finding::missing(WHAT, "no platform has a device", format!("{INSTALL_OPENCL}; {home}"))
            } else {
                Finding::ok(WHAT, devices.join(", "))
            }
        }
    }
}

fn shared_memory() -> Finding {
    const WHAT: &str = "shared memory";
    // As a VMM does for a guest: a file without a name, as long as the guest's memory.
    let made = memfd_create("paragpu-doctor", MemfdFlags::CLOEXEC).and_then(|file| ftruncate(file, 1 << 30));
    match made {
        Ok(()) => Finding::ok(
            WHAT,
            "memfd works; start VMs with shared memory (QEMU: memory-backend-memfd,share=on)",
        ),
        Err(error) => Finding::missing(
            WHAT,
            format!("memfd_create: {error}"),
            "allow memfd_create (kernel 3.17 and later; container runtimes may forbid it)",
        ),
    }
}

/// KVM is there to be used only if its device opens and the CPU can run guests: a nested host may offer
/// /dev/kvm, and even a VM and a VCPU, on which no guest kernel ever boots.
fn kvm() -> Finding {
    const WHAT: &str = "KVM";
    const SLOW: &str = "VMs run under QEMU's emulation (TCG, QEMU 10.0 or later), slow but right";
    let kvm = match Kvm::new() {
        Ok(kvm) => kvm,
        Err(error) => {
            let error = std::io::Error::from_raw_os_error(error.errno());
            let advice = match error.kind() {
                std::io::ErrorKind::PermissionDenied => "add yourself to the group kvm".to_owned(),
                std::io::ErrorKind::NotFound => format!("load kvm_intel or kvm_amd; without it {SLOW}"),
                _ => SLOW.to_owned(),
            };
            return Finding::note(WHAT, format!("/dev/kvm: {error}"), advice);
        }
    };
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let virtualizes = cpu
        .lines()
        .filter(|line| line.starts_with("flags"))
        .any(|line| line.split_whitespace().any(|flag| flag == "vmx" || flag == "svm"));
    if virtualizes {
        Finding::ok(WHAT, format!("usable (API version {})", kvm.get_api_version()))
    } else {
        Finding::note(WHAT, "/dev/kvm opens, but the CPU shows neither vmx nor svm: guests would hang", SLOW)
    }
}

fn qemu() -> Finding {
    const WHAT: &str = "QEMU";
    let program = "qemu-system-x86_64";
    match Command::new(program).arg("--version").output() {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let version = text.lines().next().unwrap_or("unknown version").to_owned();
            let major = version
                .split_whitespace()
                .find_map(|word| word.split_once('.')?.0.parse::<u32>().ok())
                .unwrap_or(0);
            if major < 10 {
                Finding::note(
                    WHAT,
                    version,
                    "fine with KVM; without KVM QEMU 10.0 or later is needed (Debian 12: bookworm-backports)",
                )
            } else {
                Finding::ok(WHAT, version)
            }
        }
        Err(error) => Finding::note(
            WHAT,
            format!("{program}: {error}"),
            "needed for VMs only: apt-get install qemu-system-x86 (Debian 12: -t bookworm-backports)",
        ),
    }
}

fn daemon() -> Finding {
    const WHAT: &str = "paragpud";
    match (running_daemon(), client::running_daemon()) {
        (Some(socket), _) => Finding::ok(WHAT, format!("listens on {}", socket.display())),
        // One whose configuration has sockets for vGPUs alone.
        (None, Some(admin)) => Finding::ok(
            WHAT,
            format!(
                "runs, with a socket for each vGPU (`paragpu ps` and `show` tell which); admin socket {}",
                admin.display()
            ),
        ),
        (None, None) => Finding::note(
            WHAT,
            "none listens on the default sockets",
            "nothing to do for `paragpu run`, which starts a private one; for VMs: paragpud --socket-path PATH",
        ),
    }
}

/// Runs this program's own probe through `paragpu run`: the whole way, with a private daemon if need be.
fn test_computation() -> Finding {
    const WHAT: &str = "test computation";
    let output = std::env::current_exe().and_then(|exe| {
        Command::new(&exe).args(["run", "--"]).arg(&exe).args(["doctor", "--compute-only"]).output()
    });
    match output {
        Ok(output) if output.status.success() => {
            Finding::ok(WHAT, format!("right, on {}", String::from_utf8_lossy(&output.stdout).trim()))
        }
        Ok(output) => Finding::missing(
            WHAT,
            format!("failed: {}", String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ")),
            "run `PARAGPU_DEBUG=1 paragpu run -- clinfo` and see docs/troubleshooting.md",
        ),
        Err(error) => Finding::missing(WHAT, error.to_string(), "is `paragpu` installed as a whole?"),
    }
}
