//! What an executor may open: a guest names files in its programs (`#include`), and on a CPU device a guest's kernel
//! is native code in this process.
//!
//! By Landlock, which needs no privileges: system libraries and drivers, the devices that compute, and one directory of
//! its own. Not a whole sandbox (system calls and the network are as free as before), but other vGPUs' files, processes
//! and compiler caches, and the host's secrets, are out of reach.

use std::path::PathBuf;

use landlock::{
    ABI, Access, AccessFs, Compatible, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus,
    Scope, path_beneath_rules,
};

use crate::recorder::RECORD_VARIABLE;

/// Read and executed: libraries, compilers, and what says where they are. The paths under /run and /nix are NixOS's.
const LIBRARIES: [&str; 22] = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/opt",
    "/nix/store",
    "/run/current-system",
    "/run/opengl-driver",
    "/etc/OpenCL",
    "/etc/alternatives",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/nvidia",
    "/etc/drirc",
    "/etc/intel-opencl",
    "/etc/vulkan",
    "/etc/pocl",
    "/sys",
];

/// What drivers read of the system and of their own process. Other processes have their directories in /proc too.
const PROCESS: [&str; 14] = [
    "/proc/self",
    "/proc/bus/pci",
    "/proc/cpuinfo",
    "/proc/devices",
    "/proc/driver",
    "/proc/filesystems",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/modules",
    "/proc/stat",
    "/proc/sys",
    "/proc/uptime",
    "/proc/version",
    "/proc/vmstat",
];

/// Read and written.
const DEVICES: [&str; 8] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/dri",
    "/dev/kfd",
    "/dev/nvidia-caps",
];

/// Environment variables with directories, separated by colons, in which drivers and libraries are looked for.
const DRIVER_VARIABLES: [&str; 3] = ["LD_LIBRARY_PATH", "OCL_ICD_VENDORS", "OPENCL_VENDOR_PATH"];

/// Confines this process, for good. Before it has a second thread: a thread is confined with the one that starts it.
pub(super) fn confine() {
    match try_confine() {
        Ok(RulesetStatus::NotEnforced) => {
            log::warn!("this kernel has no Landlock: guests' programs can include what paragpud can read");
        }
        Ok(status) => log::debug!("confined: {status:?}"),
        Err(error) => {
            log::warn!("not confined ({error}): guests' programs can include what paragpud can read")
        }
    }
}

fn try_confine() -> Result<RulesetStatus, RulesetError> {
    // Older kernels enforce what they know of it.
    let abi = ABI::V6;
    let (read, all) = (AccessFs::from_read(abi), AccessFs::from_all(abi));
    // The driver's own program too, for its symbols in backtraces.
    let libraries = LIBRARIES.iter().map(PathBuf::from).chain(std::env::current_exe());
    let named = DRIVER_VARIABLES.iter().filter_map(std::env::var_os).flat_map(|value| {
        std::env::split_paths(&value).filter(|path| path.is_absolute()).collect::<Vec<_>>()
    });
    let numbered = std::fs::read_dir("/dev").into_iter().flatten().filter_map(|entry| {
        let entry = entry.ok()?;
        entry.file_name().to_str()?.starts_with("nvidia").then(|| entry.path())
    });
    // The launcher gives each executor a directory of its own for temporary files.
    let own = [Some(std::env::temp_dir()), std::env::var_os(RECORD_VARIABLE).map(PathBuf::from)];
    let ruleset = Ruleset::default()
        .set_compatibility(landlock::CompatLevel::BestEffort)
        .handle_access(all)?
        .scope(Scope::from_all(abi))?
        .create()?
        .add_rules(path_beneath_rules(libraries.chain(named), read))?
        .add_rules(path_beneath_rules(PROCESS, read))?
        .add_rules(path_beneath_rules(DEVICES.iter().map(PathBuf::from).chain(numbered), all))?
        .add_rules(path_beneath_rules(own.into_iter().flatten(), all))?;
    Ok(ruleset.restrict_self()?.ruleset)
}
