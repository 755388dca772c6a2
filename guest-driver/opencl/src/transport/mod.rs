//! How the driver reaches the device. Two doors, one protocol:
//!
//! - `drm`: in a VM, through the mainline virtio-gpu driver's render node;
//! - `direct`: on the host or in a container, as a vhost-user front end of `paragpud` with a memfd as guest
//!   memory.
//!
//! A transport offers three things: shared regions, control submissions, and sleeping until the host did
//! something. All else goes through the ring in shared memory and is the same behind every door.

use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use paragpu_protocol::capset::Capset;

/// A door to the device. One connection is one virtio-gpu context; it ends when this is dropped, which frees
/// everything in it on the host.
pub trait Transport: Send + Sync + fmt::Debug {
    /// What the device says of itself (already checked with [`Capset::read`]).
    fn capset(&self) -> &Capset;

    /// Makes a shared region of at least `bytes` bytes, zeroed, mapped here and attached to the context.
    fn create_region(&self, bytes: u64) -> Result<Region, TransportError>;

    /// Submits one control command (see `paragpu_protocol::control`) without waiting for anything.
    fn submit(&self, command: &[u8]) -> Result<(), TransportError>;

    /// Sleeps until the host answers `control::Wait { seen }`: something happened since `wake_seq` was `seen`,
    /// or anything else; at most about `timeout`. Coming back early is allowed. Callable from many threads.
    fn wait(&self, seen: u32, timeout: Duration) -> Result<(), TransportError>;
}

/// A shared region, mapped in this process until dropped.
#[derive(Debug)]
pub struct Region {
    /// virtio-gpu resource id: what the host calls it.
    pub id: u32,
    /// First byte.
    pub ptr: NonNull<u8>,
    /// Length in bytes.
    pub len: usize,
    /// Unmaps and releases the region when dropped.
    pub owner: Box<dyn RegionOwner>,
}

/// What keeps a [`Region`] mapped.
pub trait RegionOwner: Send + Sync + fmt::Debug {}

// SAFETY: a region is plain shared memory that stays mapped while `owner` lives; how its bytes may be accessed
// from several threads is decided by those who read and write through `ptr`.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

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

/// Opens the device: `PARAGPU_TRANSPORT` (`drm` or `direct`) decides; without it, `direct` if
/// `PARAGPU_SOCKET` names a socket, else `drm`.
pub fn open() -> Result<Arc<dyn Transport>, TransportError> {
    Err(TransportError::NoDevice("not built yet".into()))
}
