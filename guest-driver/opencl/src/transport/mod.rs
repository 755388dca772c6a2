//! How the driver reaches the device. Three doors, one protocol:
//!
//! - `module`: in a VM, through paragpu's own kernel module;
//! - `drm`: in a VM, through the mainline virtio-gpu driver's render node;
//! - `direct`: on the host or in a container, as a vhost-user front end of `paragpud` with a memfd as guest
//!   memory.
//!
//! A transport offers three things: shared regions, control submissions, and sleeping until the host did
//! something. All else goes through the ring in shared memory and is the same behind every door.

#[cfg(test)]
mod device_tests;
pub mod direct;
mod drm;
mod module;
mod waits;

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use paragpu_protocol::capset::Capset;

pub use crate::sys::region::{Memory, Region, RegionOwner, View};
pub use crate::sys::shared::Shared;

use crate::sys::process::Opener;

/// A door to the device. One connection is one virtio-gpu context; it ends when this is dropped, which frees
/// everything in it on the host.
pub trait Transport: Send + Sync + fmt::Debug {
    /// What the device says of itself (already checked with [`Capset::read`]).
    fn capset(&self) -> &Capset;

    /// Makes a shared region of at least `bytes` bytes, zeroed, mapped here and attached to the context.
    fn create_region(&self, bytes: u64) -> Result<Region, TransportError>;

    /// Makes a region of memory that this process has already: the host reaches its pages in place. Only the module can.
    fn pin(&self, memory: Memory) -> Result<Region, TransportError> {
        let _ = memory;
        Err(TransportError::Unusable("only paragpu's kernel module can pin memory".into()))
    }

    /// True if the host is under the same kernel as this process: it can wake threads that sleep on shared memory.
    fn is_local(&self) -> bool {
        false
    }

    /// Bytes that buffers may lie in, of those that the host can reach: the rest is for transfers.
    fn buffer_room(&self) -> usize;

    /// Submits one control command (see `paragpu_protocol::control`) without waiting for anything.
    fn submit(&self, command: &[u8]) -> Result<(), TransportError>;

    /// Sleeps until the host answers `control::Wait { seen }`: something happened since `wake_seq` was `seen`,
    /// or anything else; at most about `timeout`. Coming back early is allowed. Callable from many threads.
    fn wait(&self, seen: u32, timeout: Duration) -> Result<(), TransportError>;
}

/// Why a transport failed.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// No door to a device was found; the texts say which were tried and why each is shut.
    #[error("no paragpu device: {0}")]
    NoDevice(String),
    /// The device is there but cannot be used.
    #[error("{0}")]
    Unusable(String),
    /// An operating system call failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
}

/// Opens the device: `PARAGPU_TRANSPORT` (`module`, `drm` or `direct`) decides; without it, `direct` if
/// `PARAGPU_SOCKET` names a socket, else `module` if there is one, else `drm`.
///
/// Other variables: `PARAGPU_DISABLE` (set to anything but nothing or `0`) shuts all doors; `PARAGPU_MODULE_NODE` and
/// `PARAGPU_RENDER_NODE` name the one node to use; `PARAGPU_MEMORY_MIB` sets how much memory a direct connection can
/// share with the host.
pub fn open() -> Result<Arc<dyn Transport>, TransportError> {
    match choose(|name| std::env::var_os(name).filter(|value| !value.is_empty()))? {
        Door::Kernel => open_any_node(),
        Door::Module { node } => Ok(Arc::new(module::Module::open(node.as_deref())?)),
        Door::Drm { node } => Ok(Arc::new(drm::Drm::open(node.as_deref())?)),
        Door::Direct { socket, options } => Ok(Arc::new(direct::Direct::open(&socket, &options)?)),
    }
}

/// The module's node comes first: whatever has one is a paragpu, and a render node may be any GPU's.
fn open_any_node() -> Result<Arc<dyn Transport>, TransportError> {
    let no_module = match module::Module::open(None) {
        Ok(module) => return Ok(Arc::new(module)),
        Err(TransportError::NoDevice(why)) => why,
        Err(error) => return Err(error),
    };
    match drm::Drm::open(None) {
        Ok(drm) => Ok(Arc::new(drm)),
        Err(TransportError::NoDevice(why)) => Err(TransportError::NoDevice(format!("{no_module}; {why}"))),
        Err(error) => Err(error),
    }
}

/// A part of this system's memory that buffers may take without others missing it.
fn part_of_system_memory() -> usize {
    let system = rustix::system::sysinfo();
    let bytes = (system.totalram as u64).saturating_mul(system.mem_unit.into());
    usize::try_from(bytes / 4).unwrap_or(usize::MAX)
}

/// Which door, and its settings.
#[derive(Debug)]
enum Door {
    /// Whichever of the next two is there.
    Kernel,
    Module {
        node: Option<PathBuf>,
    },
    Drm {
        node: Option<PathBuf>,
    },
    Direct {
        socket: PathBuf,
        options: direct::Options,
    },
}

/// Refuses a child of the process that opened a connection.
fn check(opener: &Opener) -> Result<(), TransportError> {
    if opener.is_this_process() {
        return Ok(());
    }
    Err(TransportError::Unusable(
        "this connection belongs to the parent process; after a fork, the child must open its own".into(),
    ))
}

/// The file of a kernel driver's node, which is the context.
#[derive(Debug)]
struct Node {
    file: std::fs::File,
    opener: Opener,
}

impl Node {
    fn new(file: std::fs::File) -> Node {
        Node { file, opener: Opener::this_process() }
    }

    /// The file, for its opener.
    fn file(&self) -> Result<&std::fs::File, TransportError> {
        check(&self.opener)?;
        Ok(&self.file)
    }
}

/// Reads the environment.
fn choose(variable: impl Fn(&str) -> Option<OsString>) -> Result<Door, TransportError> {
    if variable("PARAGPU_DISABLE").is_some_and(|value| value != "0") {
        return Err(TransportError::NoDevice("PARAGPU_DISABLE is set".into()));
    }
    let path = |name| variable(name).map(PathBuf::from);
    let socket = path("PARAGPU_SOCKET");
    let (module_node, render_node) = (path("PARAGPU_MODULE_NODE"), path("PARAGPU_RENDER_NODE"));
    match variable("PARAGPU_TRANSPORT").as_ref().map(|wanted| wanted.to_str()) {
        Some(Some("direct")) => {}
        Some(Some("module")) => return Ok(Door::Module { node: module_node }),
        Some(Some("drm")) => return Ok(Door::Drm { node: render_node }),
        Some(_) => {
            let wanted = variable("PARAGPU_TRANSPORT").unwrap_or_default();
            return Err(TransportError::Unusable(format!(
                "PARAGPU_TRANSPORT is {}; it can be module, drm or direct",
                wanted.display()
            )));
        }
        None if socket.is_some() => {}
        None if module_node.is_some() => return Ok(Door::Module { node: module_node }),
        None if render_node.is_some() => return Ok(Door::Drm { node: render_node }),
        None => return Ok(Door::Kernel),
    }
    let socket = socket.ok_or_else(|| {
        TransportError::NoDevice(
            "PARAGPU_TRANSPORT is direct, but PARAGPU_SOCKET does not name paragpud's socket".into(),
        )
    })?;
    let mut options = direct::Options::default();
    if let Some(mib) = variable("PARAGPU_MEMORY_MIB") {
        let bytes =
            mib.to_str().and_then(|mib| mib.parse::<u64>().ok()).and_then(|mib| mib.checked_mul(1 << 20));
        options.memory_bytes = bytes.ok_or_else(|| {
            TransportError::Unusable(format!("PARAGPU_MEMORY_MIB is {}, not a number of MiB", mib.display()))
        })?;
    }
    Ok(Door::Direct { socket, options })
}

/// A region's size in whole pages, if the protocol has room for it.
fn region_bytes(bytes: u64, page: u64, most: u64) -> Result<u32, TransportError> {
    bytes
        .max(1)
        .checked_next_multiple_of(page)
        .filter(|&rounded| rounded <= most)
        .and_then(|rounded| u32::try_from(rounded).ok())
        .ok_or_else(|| {
            TransportError::Unusable(format!("a region of {bytes} bytes is too large; the most is {most}"))
        })
}

#[cfg(test)]
mod tests {
    use paragpu_protocol::limits::MAX_REGION_BYTES;

    use super::*;

    fn with(variables: &[(&str, &str)]) -> Result<Door, TransportError> {
        choose(|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into()))
    }

    #[test]
    fn the_environment_chooses_the_door() {
        assert!(matches!(with(&[]), Ok(Door::Kernel)));
        let door = with(&[("PARAGPU_SOCKET", "/s"), ("PARAGPU_MEMORY_MIB", "64")]).unwrap();
        let Door::Direct { socket, options } = door else { panic!("{door:?}") };
        assert_eq!((socket, options.memory_bytes), ("/s".into(), 64 << 20));
        let door = with(&[("PARAGPU_SOCKET", "/s"), ("PARAGPU_TRANSPORT", "drm")]);
        assert!(matches!(door, Ok(Door::Drm { .. })));
        let door = with(&[("PARAGPU_SOCKET", "/s"), ("PARAGPU_TRANSPORT", "module")]);
        assert!(matches!(door, Ok(Door::Module { node: None })));
        let door = with(&[("PARAGPU_RENDER_NODE", "/n")]);
        assert!(matches!(door, Ok(Door::Drm { node: Some(_) })));
        let door = with(&[("PARAGPU_MODULE_NODE", "/n")]);
        assert!(matches!(door, Ok(Door::Module { node: Some(_) })));
        assert!(matches!(with(&[("PARAGPU_DISABLE", "0")]), Ok(Door::Kernel)));
    }

    #[test]
    fn settings_that_cannot_be_are_named() {
        for (variables, part) in [
            (&[("PARAGPU_DISABLE", "1"), ("PARAGPU_SOCKET", "/s")][..], "PARAGPU_DISABLE is set"),
            (&[("PARAGPU_TRANSPORT", "tcp")], "module, drm or direct"),
            (&[("PARAGPU_TRANSPORT", "direct")], "PARAGPU_SOCKET"),
            (&[("PARAGPU_SOCKET", "/s"), ("PARAGPU_MEMORY_MIB", "much")], "not a number of MiB"),
        ] {
            let error = with(variables).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_connection_is_its_openers_alone() {
        assert!(check(&Opener::this_process()).is_ok());
        assert!(check(&Opener::of_parent()).is_err());
    }

    #[test]
    fn region_sizes_are_whole_pages_within_32_bits() {
        assert_eq!(region_bytes(0, 4096, MAX_REGION_BYTES).unwrap(), 4096);
        assert_eq!(region_bytes(4097, 4096, MAX_REGION_BYTES).unwrap(), 8192);
        assert_eq!(
            u64::from(region_bytes(MAX_REGION_BYTES, 4096, MAX_REGION_BYTES).unwrap()),
            MAX_REGION_BYTES
        );
        assert!(region_bytes(MAX_REGION_BYTES + 1, 4096, u64::MAX).is_err());
        assert!(region_bytes(u64::MAX, 4096, MAX_REGION_BYTES).is_err());
    }
}
