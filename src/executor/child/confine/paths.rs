//! Landlock: which files and devices an executor may open, no TCP, and signals and abstract sockets to nobody outside.
//!
//! System libraries and drivers, the devices that compute, and one directory of its own. Other vGPUs' files, processes and
//! compiler caches, and the host's secrets, are out of reach.

use std::path::PathBuf;

use landlock::{
    ABI, Access, AccessFs, AccessNet, Compatible, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError,
    RulesetStatus, Scope, path_beneath_rules,
};

use crate::executor::confinement::{Confinement, Sandbox};
use crate::recorder::RECORD_VARIABLE;

/// Read and executed: libraries, compilers, and what says where they are. The paths under /run and /nix are NixOS's.
const LIBRARIES: [&str; 21] = [
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
];

/// What drivers read of the hardware and of themselves. Not all of /sys: below it lie control groups and debuggers' files.
const HARDWARE: [&str; 6] =
    ["/sys/bus", "/sys/class", "/sys/dev", "/sys/devices", "/sys/kernel/mm", "/sys/module"];

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

/// False if this kernel has no Landlock.
pub(super) fn confine(confinement: &Confinement) -> Result<bool, RulesetError> {
    if confinement.sandbox == Sandbox::None {
        return Ok(true);
    }
    // Older kernels enforce what they know of it.
    let abi = ABI::V6;
    let (read, all) = (AccessFs::from_read(abi), AccessFs::from_all(abi));
    // Programs in a guest's files are not run, and no device nodes made. What is in memory only (memfd), Landlock does not hold:
    // where a driver may start programs, a guest can start that, confined as the executor is.
    let scratch = all & !(AccessFs::Execute | AccessFs::MakeChar | AccessFs::MakeBlock);
    // The driver's own program too, for its symbols in backtraces.
    let libraries = LIBRARIES.iter().map(PathBuf::from).chain(std::env::current_exe());
    let named = DRIVER_VARIABLES.iter().filter_map(std::env::var_os).flat_map(|value| {
        std::env::split_paths(&value).filter(|path| path.is_absolute()).collect::<Vec<_>>()
    });
    let numbered = std::fs::read_dir("/dev").into_iter().flatten().filter_map(|entry| {
        let entry = entry.ok()?;
        entry.file_name().to_str()?.starts_with("nvidia").then(|| entry.path())
    });
    let devices = DEVICES.iter().map(PathBuf::from);
    let device = AccessFs::ReadFile | AccessFs::ReadDir | AccessFs::WriteFile | AccessFs::IoctlDev;
    // The launcher gives each executor a directory of its own for temporary files.
    let own = [Some(std::env::temp_dir()), std::env::var_os(RECORD_VARIABLE).map(PathBuf::from)];
    let ruleset = Ruleset::default()
        .set_compatibility(landlock::CompatLevel::BestEffort)
        .handle_access(all)?
        // Without a rule that allows any.
        .handle_access(AccessNet::from_all(abi))?
        .scope(Scope::from_all(abi))?
        .create()?
        .add_rules(path_beneath_rules(libraries.chain(named).chain(confinement.read.iter().cloned()), read))?
        .add_rules(path_beneath_rules(HARDWARE, read))?
        .add_rules(path_beneath_rules(PROCESS, read))?
        .add_rules(path_beneath_rules(
            devices.chain(numbered).chain(confinement.devices.iter().cloned()),
            device,
        ))?
        .add_rules(path_beneath_rules(own.into_iter().flatten(), scratch))?;
    Ok(ruleset.restrict_self()?.ruleset != RulesetStatus::NotEnforced)
}
