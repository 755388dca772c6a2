//! Shared regions, however they came to be mapped.

use std::fmt;
use std::io;
use std::ptr::NonNull;

use crate::sys::mapping::Mapping;

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

/// Memory of this process's own, mapped until dropped.
#[derive(Debug)]
pub struct Memory(Mapping);

impl Memory {
    /// At least `bytes` zeroed bytes that nobody else has.
    pub fn zeroed(bytes: usize) -> io::Result<Memory> {
        let bytes = bytes.max(1).checked_next_multiple_of(rustix::param::page_size());
        Ok(Memory(Mapping::private(bytes.ok_or(io::ErrorKind::OutOfMemory)?)?))
    }

    pub(crate) fn into_mapping(self) -> Mapping {
        self.0
    }
}

/// What keeps a [`Region`] mapped.
pub trait RegionOwner: Send + Sync + fmt::Debug {
    /// Maps the region once more, at this address, until the answer is dropped. `AlreadyExists` if something else of this
    /// process is there.
    fn map_at(&self, address: usize) -> io::Result<Box<dyn View>> {
        let _ = address;
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Another mapping of a region.
pub trait View: Send + Sync + fmt::Debug {}

// SAFETY: a region is plain shared memory that stays mapped while `owner` lives; how its bytes may be accessed
// from several threads is decided by those who read and write through `ptr`.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}
