//! The initramfs of a VM: busybox, the drivers, the init script and the job.

use crate::guest_job::Job;
use crate::initramfs::Archive;
use crate::kernel::Software;
use crate::modules;
use anyhow::{Context, Result};
use std::path::Path;

const INIT: &str = include_str!("resources/init.sh");

/// The drivers of every VM, in loading order; what they depend on is found by itself.
const DRIVERS: &[&str] = &[
    "virtio_pci",
    "virtio_console",
    "9pnet_virtio",
    "9p",
    "overlay",
];
/// The driver of a VM with a vGPU.
const GPU_DRIVER: &str = "virtio-gpu";

/// Makes the initramfs that runs `job`.
pub(crate) fn initramfs(
    software: &Software,
    job: &Job,
    gpu: bool,
    icd: Option<&Path>,
) -> Result<Vec<u8>> {
    let mut drivers = DRIVERS.to_vec();
    if gpu {
        drivers.push(GPU_DRIVER);
    }
    let busybox = std::fs::read(&software.busybox)
        .with_context(|| format!("cannot read {}", software.busybox.display()))?;
    let mut archive = Archive::default();
    for folder in ["bin", "dev", "modules", "proc", "sys"] {
        archive.folder(folder);
    }
    // The first process has its stdio here.
    archive.device("dev/console", 5, 1);
    archive.program("bin/busybox", &busybox);
    archive.program("init", INIT.as_bytes());
    for (number, module) in modules::in_loading_order(&software.modules, &drivers)?
        .iter()
        .enumerate()
    {
        archive.file(
            &format!("modules/{number:03}-{}.ko", module.name),
            &module.bytes,
        );
    }
    archive.file("settings", settings(gpu, icd)?.as_bytes());
    archive.file("job.sh", &job.script());
    archive.file("shares", &job.share_list());
    Ok(archive.finish())
}

fn settings(gpu: bool, icd: Option<&Path>) -> Result<String> {
    let gpu = if gpu { "yes" } else { "no" };
    let icd = icd
        .map_or(Some(""), Path::to_str)
        .context("the target folder's path is not valid UTF-8")?;
    Ok(format!("GPU={gpu}\nICD='{}'\n", icd.replace('\'', "'\\''")))
}
