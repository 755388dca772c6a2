//! The initramfs of a VM: busybox, the drivers, the init script and the job.

use crate::guest_job::Job;
use crate::initramfs::Archive;
use crate::kernel::Software;
use crate::modules;
use anyhow::{Context, Result};
use std::path::Path;

const INIT: &str = include_str!("resources/init.sh");

/// The drivers of the ports, which come first so that all else can be told to the host. What drivers depend on is found
/// by itself.
const PORT_DRIVERS: &[&str] = &["virtio_pci", "virtio_console"];
/// The other drivers of every VM.
const OTHER_DRIVERS: &[&str] = &["9pnet_virtio", "9p", "overlay"];
/// The driver of a VM with a vGPU.
const GPU_DRIVER: &str = "virtio-gpu";

/// Makes the initramfs that runs `job`.
pub(crate) fn initramfs(software: &Software, job: &Job, gpu: bool, icd: Option<&Path>) -> Result<Vec<u8>> {
    let mut drivers = [PORT_DRIVERS, OTHER_DRIVERS].concat();
    if gpu {
        drivers.push(GPU_DRIVER);
    }
    let ports = modules::in_loading_order(&software.modules, PORT_DRIVERS)?;
    // The same start again, as the order is that of the names asked for.
    let all = modules::in_loading_order(&software.modules, &drivers)?;
    let others = &all[ports.len()..];
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
    for (folder, modules) in [("ports", &ports[..]), ("others", others)] {
        for (number, module) in modules.iter().enumerate() {
            archive.file(&format!("modules/{folder}/{number:03}-{}.ko", module.name), &module.bytes);
        }
    }
    archive.file("settings", settings(gpu, icd)?.as_bytes());
    archive.file("job.sh", &job.script());
    archive.file("shares", &job.share_list());
    Ok(archive.finish())
}

fn settings(gpu: bool, icd: Option<&Path>) -> Result<String> {
    let gpu = if gpu { "yes" } else { "no" };
    let icd = icd.map_or(Some(""), Path::to_str).context("the target folder's path is not valid UTF-8")?;
    Ok(format!("GPU={gpu}\nICD='{}'\n", icd.replace('\'', "'\\''")))
}
