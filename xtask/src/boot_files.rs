//! The initramfs of a VM: busybox, the drivers, the init script and the job, and for guests that do not see the host's files
//! those that the job needs.

use crate::closure::Closure;
use crate::guest_driver::GuestDriver;
use crate::guest_job::Job;
use crate::host_files::HostFiles;
use crate::initramfs::Archive;
use crate::kernel::Software;
use crate::modules::{self, Module};
use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

const INIT: &str = include_str!("resources/init.sh");

/// The drivers of the ports, which come first so that all else can be told to the host. What drivers depend on is found
/// by itself.
const PORT_DRIVERS: &[&str] = &["virtio_pci", "virtio_console"];
/// The same for guests whose ports are vsock's.
const VSOCK_DRIVERS: &[&str] = &["virtio_pci", "vmw_vsock_virtio_transport"];
/// What makes the host's files a root file system.
const OVERLAY: &str = "overlay";
/// The drivers of a VM that runs VMs, on the processor that QEMU emulates.
const NESTING_DRIVERS: &[&str] = &["kvm_amd"];

/// Where a guest's files are from.
pub(crate) enum Root<'a> {
    /// It sees the host's.
    Host(&'a HostFiles),
    /// It gets copies of some, among them a program that connects to the host's vsock ports.
    Copies { files: &'a Closure, guest_port: &'a Path },
}

/// The vGPU of a VM.
pub(crate) struct Gpu {
    /// What drives it.
    pub(crate) driver: GuestDriver,
    /// The driver's module, if it is not the kernel's.
    pub(crate) module: Option<Module>,
}

/// What a VM is for.
pub(crate) struct Content<'a> {
    pub(crate) job: &'a Job,
    pub(crate) gpu: Option<Gpu>,
    /// The guest's OpenCL driver.
    pub(crate) icd: Option<&'a Path>,
    pub(crate) root: Root<'a>,
    /// Whether it runs VMs and computes with the host's OpenCL drivers.
    pub(crate) nesting: bool,
}

/// Makes the initramfs of a VM.
pub(crate) fn initramfs(software: &Software, content: &Content) -> Result<Vec<u8>> {
    let (port_drivers, file_drivers) = match content.root {
        Root::Host(files) => (PORT_DRIVERS, [&[OVERLAY], files.drivers()].concat()),
        Root::Copies { .. } => (VSOCK_DRIVERS, Vec::new()),
    };
    let mut drivers = [port_drivers, &file_drivers].concat();
    drivers.extend(content.gpu.iter().flat_map(|gpu| gpu.driver.kernel_modules()));
    if content.nesting {
        drivers.extend(NESTING_DRIVERS);
    }
    let ports = modules::in_loading_order(&software.modules, port_drivers)?;
    // The same start again, as the order is that of the names asked for.
    let all = modules::in_loading_order(&software.modules, &drivers)?;
    let own = content.gpu.as_ref().and_then(|gpu| gpu.module.as_ref());
    let others: Vec<_> = all.iter().skip(ports.len()).chain(own).collect();
    let busybox = std::fs::read(&software.busybox)
        .with_context(|| format!("cannot read {}", software.busybox.display()))?;
    let mut archive = Archive::default();
    for folder in ["bin", "dev", "modules", "modules/ports", "modules/others", "proc", "sys"] {
        archive.folder(folder);
    }
    // The first process has its stdio here.
    archive.device("dev/console", 5, 1);
    archive.program("bin/busybox", &busybox);
    archive.program("init", INIT.as_bytes());
    for (folder, modules) in [("ports", &ports.iter().collect::<Vec<_>>()), ("others", &others)] {
        for (number, module) in modules.iter().enumerate() {
            let name = format!("modules/{folder}/{number:03}-{}.ko", module.name);
            archive.file(&name, &module.bytes);
            archive.file(&format!("{name}.parameters"), module.parameters.as_bytes());
        }
    }
    if let Root::Copies { files, .. } = content.root {
        add_copies(&mut archive, files, &content.job.directory)?;
        archive.program("guest/bin/busybox", &busybox);
    }
    archive.file("settings", settings(content)?.as_bytes());
    archive.file("job.sh", &content.job.script());
    archive.file("shares", &content.job.share_list());
    Ok(archive.finish())
}

/// Puts files at the places below `guest` that they have on the host, and makes an empty folder to work in.
fn add_copies(archive: &mut Archive, files: &Closure, directory: &Path) -> Result<()> {
    let mut folders = BTreeSet::from([Path::new("/bin"), directory]);
    folders.extend(files.files().filter_map(Path::parent));
    let all: BTreeSet<_> = folders.iter().flat_map(|folder| folder.ancestors()).collect();
    for folder in all {
        archive.folder(&guest_path(folder)?);
    }
    for file in files.files() {
        let name = guest_path(file)?;
        let mode =
            std::fs::metadata(file).with_context(|| format!("cannot read {}", file.display()))?.permissions();
        let bytes = without_symbols(file)?;
        if mode.mode() & 0o100 == 0 { archive.file(&name, &bytes) } else { archive.program(&name, &bytes) }
    }
    Ok(())
}

fn guest_path(path: &Path) -> Result<String> {
    let path = path.to_str().with_context(|| format!("{} is not valid UTF-8", path.display()))?;
    Ok(format!("guest{path}").trim_end_matches('/').to_owned())
}

/// The bytes of a file, less what only debuggers want if that is much and a tool to remove it is there: the guest's memory
/// holds them all.
fn without_symbols(file: &Path) -> Result<Vec<u8>> {
    const MUCH: usize = 2 << 20;
    let bytes = read(file)?;
    if bytes.len() < MUCH || !bytes.starts_with(b"\x7fELF") {
        return Ok(bytes);
    }
    let stripped = tempfile::NamedTempFile::new().context("cannot make a temporary file")?;
    let done = Command::new("strip").arg("-o").arg(stripped.path()).arg(file).output();
    if done.is_ok_and(|output| output.status.success()) { read(stripped.path()) } else { Ok(bytes) }
}

fn read(file: &Path) -> Result<Vec<u8>> {
    std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}

fn settings(content: &Content) -> Result<String> {
    let (files, guest_port) = match content.root {
        Root::Host(files) => (files.name(), None),
        Root::Copies { guest_port, .. } => ("copies", Some(guest_port)),
    };
    let node = content.gpu.as_ref().map_or("", |gpu| gpu.driver.node());
    let nesting = if content.nesting { "yes" } else { "no" };
    let (icd, guest_port) = (quoted(content.icd)?, quoted(guest_port)?);
    Ok(format!("FILES={files}\nNODE={node}\nNESTING={nesting}\nICD={icd}\nGUEST_PORT={guest_port}\n"))
}

/// A path for the shell; nothing is an empty one.
fn quoted(path: Option<&Path>) -> Result<String> {
    let path = path.map_or(Some(""), Path::to_str).context("the target folder's path is not valid UTF-8")?;
    Ok(format!("'{}'", path.replace('\'', "'\\''")))
}
