//! What a guest needs: the device, its kernel driver, a render node, the vendor file.

use std::fs;
use std::path::{Path, PathBuf};

use paragpu_opencl::transport;

use super::Finding;
use crate::sys::compute_probe;

/// virtio device ids that a paragpu can have, as sysfs shows them: virtio-gpu's, and one of its own.
const VIRTIO_IDS: [&str; 2] = ["0x0010", OWN_ID];
const OWN_ID: &str = "0x003e";

/// True if the machine has a virtio GPU of any kind.
pub(super) fn has_virtio_gpu() -> bool {
    devices().next().is_some()
}

/// True if this is a VM in which paragpu's OpenCL driver is installed, as it is in guests and not on hosts.
pub(super) fn is_prepared() -> bool {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let is_vm = cpu.split_whitespace().any(|flag| flag == "hypervisor");
    is_vm && vendor_file().state == super::State::Ok
}

fn devices() -> impl Iterator<Item = PathBuf> {
    fs::read_dir("/sys/bus/virtio/devices")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| virtio_id(path).is_some_and(|id| VIRTIO_IDS.contains(&id.as_str())))
}

fn virtio_id(device: &Path) -> Option<String> {
    Some(fs::read_to_string(device.join("device")).ok()?.trim().to_owned())
}

pub(super) fn findings() -> Vec<Finding> {
    let mut findings = vec![device(), kernel_driver(), capset(), vendor_file()];
    findings.push(test_computation());
    findings
}

fn device() -> Finding {
    const WHAT: &str = "virtio device";
    match devices().next() {
        Some(path) => Finding::ok(WHAT, path.display().to_string()),
        None => Finding::missing(
            WHAT,
            "none in /sys/bus/virtio/devices",
            "start the VM with a vhost-user device connected to paragpud (docs/getting-started.md)",
        ),
    }
}

fn kernel_driver() -> Finding {
    const WHAT: &str = "kernel driver";
    let Some(device) = devices().next() else {
        return Finding::missing(WHAT, "no device to drive", "see above");
    };
    match fs::read_link(device.join("driver")) {
        Ok(driver) => {
            let name = driver.file_name().unwrap_or_default().to_string_lossy().into_owned();
            Finding::ok(WHAT, format!("{name}, Linux {}", kernel_release()))
        }
        Err(_no_driver) => Finding::missing(
            WHAT,
            format!("no driver has taken {}", device.display()),
            if virtio_id(&device).as_deref() == Some(OWN_ID) {
                "install paragpu's kernel module and load it: modprobe paragpu (docs/guest-module.md)"
            } else {
                "modprobe virtio-gpu; kernels without DRM (Debian's cloud kernel) have none: use linux-image-amd64, or \
                 paragpu's own module: modprobe paragpu claim_id=16 (docs/guest-module.md)"
            },
        ),
    }
}

fn kernel_release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

fn capset() -> Finding {
    const WHAT: &str = "capset";
    if devices().next().is_none() {
        return Finding::missing(WHAT, "no device to ask", "see above");
    }
    match transport::open() {
        Ok(transport) => {
            let capset = transport.capset();
            Finding::ok(
                WHAT,
                format!("paragpu protocol {}.{}", capset.version_major.get(), capset.version_minor.get()),
            )
        }
        Err(error) => Finding::missing(
            WHAT,
            error.to_string(),
            "check that the VM's GPU is connected to paragpud, and that you may open /dev/paragpu* or /dev/dri/renderD* (group render)",
        ),
    }
}

fn vendor_file() -> Finding {
    const WHAT: &str = "vendor file";
    const DIRECTORY: &str = "/etc/OpenCL/vendors";
    let directory =
        std::env::var_os("OCL_ICD_VENDORS").map_or_else(|| PathBuf::from(DIRECTORY), PathBuf::from);
    let files = fs::read_dir(&directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let ours = files
        .filter(|path| path.extension().is_some_and(|extension| extension == "icd"))
        .filter_map(|path| Some((fs::read_to_string(&path).ok()?, path)))
        .find(|(content, _)| content.contains("libparagpu_opencl.so"));
    match ours {
        None => Finding::missing(
            WHAT,
            format!("none in {} names libparagpu_opencl.so", directory.display()),
            "install paragpu.icd there (docs/getting-started.md, in the guest)",
        ),
        Some((content, path)) => {
            let library = Path::new(content.trim());
            if library.is_absolute() && !library.exists() {
                Finding::missing(
                    WHAT,
                    format!("{} names {}, which does not exist", path.display(), library.display()),
                    "install libparagpu_opencl.so there, or correct the vendor file",
                )
            } else {
                Finding::ok(WHAT, format!("{} -> {}", path.display(), library.display()))
            }
        }
    }
}

fn test_computation() -> Finding {
    const WHAT: &str = "test computation";
    if devices().next().is_none() {
        return Finding::missing(WHAT, "not tried", "see above");
    }
    match compute_probe::run("paragpu") {
        Ok(device) => Finding::ok(WHAT, format!("right, on {device}")),
        Err(error) => Finding::missing(
            WHAT,
            error.to_string(),
            "PARAGPU_DEBUG=1 paragpu doctor: the driver says why, and the host's paragpud log has the other side; if \
             the driver says nothing, the loader did not find it: name its full path in the vendor file",
        ),
    }
}
