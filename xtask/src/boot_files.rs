//! The initramfs of a VM: busybox, the drivers, the init script and the job.

use crate::guest_driver::GuestDriver;
use crate::guest_job::Job;
use crate::host_files::HostFiles;
use crate::initramfs::Archive;
use crate::kernel::Software;
use crate::modules::{self, Module};
use anyhow::{Context, Result};
use std::path::Path;

const INIT: &str = include_str!("resources/init.sh");

/// The drivers of the ports, which come first so that all else can be told to the host. What drivers depend on is found
/// by itself.
const PORT_DRIVERS: &[&str] = &["virtio_pci", "virtio_console"];
/// The other drivers of every VM.
const OTHER_DRIVERS: &[&str] = &["overlay"];

/// The vGPU of a VM.
pub(crate) struct Gpu {
    /// What drives it.
    pub(crate) driver: GuestDriver,
    /// The driver's module, if it is not the kernel's.
    pub(crate) module: Option<Module>,
}

/// Makes the initramfs that runs `job`.
pub(crate) fn initramfs(
    software: &Software,
    job: &Job,
    files: &HostFiles,
    gpu: Option<Gpu>,
    icd: Option<&Path>,
) -> Result<Vec<u8>> {
    let mut drivers = [PORT_DRIVERS, OTHER_DRIVERS, files.drivers()].concat();
    let node = gpu.as_ref().map_or("", |gpu| gpu.driver.node());
    drivers.extend(gpu.iter().flat_map(|gpu| gpu.driver.kernel_modules()));
    let ports = modules::in_loading_order(&software.modules, PORT_DRIVERS)?;
    // The same start again, as the order is that of the names asked for.
    let all = modules::in_loading_order(&software.modules, &drivers)?;
    let mut others: Vec<_> = all.into_iter().skip(ports.len()).collect();
    others.extend(gpu.and_then(|gpu| gpu.module));
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
    for (folder, modules) in [("ports", &ports), ("others", &others)] {
        for (number, module) in modules.iter().enumerate() {
            let name = format!("modules/{folder}/{number:03}-{}.ko", module.name);
            archive.file(&name, &module.bytes);
            archive.file(&format!("{name}.parameters"), module.parameters.as_bytes());
        }
    }
    archive.file("settings", settings(files, node, icd)?.as_bytes());
    archive.file("job.sh", &job.script());
    archive.file("shares", &job.share_list());
    Ok(archive.finish())
}

fn settings(files: &HostFiles, node: &str, icd: Option<&Path>) -> Result<String> {
    let icd = icd.map_or(Some(""), Path::to_str).context("the target folder's path is not valid UTF-8")?;
    Ok(format!("FILES={}\nNODE={node}\nICD='{}'\n", files.name(), icd.replace('\'', "'\\''")))
}
