//! Privileges and limits.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities, set_no_new_privs};

use super::ConfineError;
use crate::executor::confinement::Confinement;

/// Longest file that an executor may write: drivers' caches have small ones, and its directory may lie in memory.
const MAX_FILE_BYTES: u64 = 1 << 30;

/// Most descriptors: some for each context and region, and drivers' own. The kernel's memory for each is nobody's share.
const MAX_DESCRIPTORS: u64 = 16384;

/// For root's executors, and those that are root in a user namespace of their own. No program that is run later gives
/// any back.
pub(super) fn give_up_privileges() -> Result<(), ConfineError> {
    set_no_new_privs(true).map_err(|error| ConfineError::Resources("no_new_privs", error))?;
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
        .map_err(|error| ConfineError::Resources("capabilities", error))
}

/// Not the number of processes: that limit is a user's, and shared with everything else that they run. Not locked memory:
/// drivers of GPUs lock what they transfer. And the process stays dumpable: /proc/self would be root's, where drivers look.
pub(super) fn limit(confinement: &Confinement) -> Result<(), ConfineError> {
    // A core file would hold the guest's memory. The limit is for files alone, and not for programs that take cores
    // (core_pattern), which would get one without memory.
    lower(Resource::Core, 0)?;
    if let Err(error) = std::fs::write("/proc/self/coredump_filter", "0") {
        log::debug!("/proc/self/coredump_filter: {error}");
    }
    lower(Resource::Fsize, MAX_FILE_BYTES)?;
    lower(Resource::Nofile, MAX_DESCRIPTORS)?;
    if let Some(bytes) = confinement.address_space {
        lower(Resource::As, bytes)?;
    }
    Ok(())
}

/// No further than to what it is already.
fn lower(resource: Resource, most: u64) -> Result<(), ConfineError> {
    let limit = Some(getrlimit(resource).maximum.map_or(most, |already| already.min(most)));
    setrlimit(resource, Rlimit { current: limit, maximum: limit })
        .map_err(|error| ConfineError::Resources("limits", error))
}
