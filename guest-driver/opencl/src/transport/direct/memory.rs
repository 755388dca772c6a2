//! The process's "guest memory": one sparse memfd, shared with the daemon as a whole at guest address 0.
//!
//! Queues and request buffers lie at its start, regions behind them. Pages that nobody has touched take no
//! memory on either side; freed ones are punched out again.

use std::fs::File;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::{
    FallocateFlags, MemfdFlags, SealFlags, fallocate, fcntl_add_seals, ftruncate, memfd_create,
};

use super::pages::PAGE;
use super::virtqueue::Layout;
use crate::sys::mapping::Mapping;
use crate::transport::TransportError;

/// The control queue: 256 descriptors are 128 requests.
pub(super) const CONTROL: Layout = Layout { size: 256, descriptors: 0, available: 0x1000, used: 0x2000 };
/// The cursor queue. Never used, but virtio-gpu has one, and a device may wait for it to be set up.
pub(super) const CURSOR: Layout = Layout { size: 16, descriptors: 0x3000, available: 0x3200, used: 0x3400 };

/// Room for one request: the longest is a `SUBMIT_3D` of `limits::MAX_CONTROL_BYTES` behind 32 bytes.
pub(super) const REQUEST_BYTES: usize = 512;
/// Room for one response: the longest that we ask for is a capset.
pub(super) const RESPONSE_BYTES: usize = 512;
/// First of the request and response buffers, one pair per slot of the control queue.
pub(super) const BUFFERS: usize = 0x4000;
/// Bytes from one slot's buffers to the next one's.
pub(super) const BUFFER_STRIDE: usize = REQUEST_BYTES + RESPONSE_BYTES;
/// Requests that can be outstanding.
pub(super) const SLOTS: usize = CONTROL.size as usize / 2;

/// First byte of the first region.
const REGIONS: u64 = 0x4_0000;

const _: () = assert!(CONTROL.used + 6 + 8 * CONTROL.size as usize <= CURSOR.descriptors);
const _: () = assert!(CURSOR.used + 6 + 8 * CURSOR.size as usize <= BUFFERS);
const _: () = assert!(BUFFERS + SLOTS * BUFFER_STRIDE <= REGIONS as usize);

/// Smallest memory that makes sense: a ring, staging and a few buffers.
pub(super) const MIN_BYTES: u64 = 16 << 20;

/// Where it is mapped if it can be: away from where the kernel puts what programs map. A device with memory of its own
/// chooses addresses in its executor, which is a process like this one, and they must be free here; so much memory among
/// them would be in the way in one process of thirty.
const PLACE: usize = 0x1800_0000_0000;

/// A memfd and our mapping of it.
#[derive(Debug)]
pub(super) struct Memory {
    file: File,
    mapping: Arc<Mapping>,
}

impl Memory {
    /// Makes `bytes` (rounded up to whole pages) of sparse memory.
    pub(super) fn new(bytes: u64) -> Result<Memory, TransportError> {
        let io = |what| move |source: std::io::Error| TransportError::Io { what, source };
        let too_large = |_| {
            TransportError::Unusable(format!(
                "{bytes} bytes of memory are more than this process can address; set PARAGPU_MEMORY_MIB lower"
            ))
        };
        let bytes = bytes.max(MIN_BYTES).next_multiple_of(PAGE);
        let len = usize::try_from(bytes).map_err(too_large)?;
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = memfd_create("paragpu", flags)
            .map_err(std::io::Error::from)
            .map_err(io("making shared memory (memfd_create)"))?;
        ftruncate(&file, bytes)
            .map_err(std::io::Error::from)
            .map_err(io("sizing shared memory (ftruncate)"))?;
        // The daemon must be able to rely on the size: a shorter file would be a SIGBUS there.
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
            .map_err(std::io::Error::from)
            .map_err(io("sealing shared memory"))?;
        let mapping = Mapping::shared_near(&file, 0, len, PLACE).map_err(io(
            "mapping shared memory (with a limit on address space, set PARAGPU_MEMORY_MIB lower)",
        ))?;
        Ok(Memory { file: file.into(), mapping: Arc::new(mapping) })
    }

    /// The file, for the daemon.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Our mapping of the whole file.
    pub(super) fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    /// The part that regions are made of.
    pub(super) fn regions(&self) -> Range<u64> {
        REGIONS..self.mapping.len() as u64
    }

    /// Gives a range's pages back to the system. From then on it reads as zero.
    pub(super) fn punch_out(&self, range: &Range<u64>) -> std::io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(fallocate(self.file.as_fd(), flags, range.start, range.end - range.start)?)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;
    use crate::sys::mapping::Words;

    #[test]
    fn memory_is_sparse_zero_and_of_fixed_size() {
        let memory = Memory::new(16 << 30).unwrap();
        assert_eq!(memory.mapping().len(), 16 << 30);
        let last = Words::<AtomicU64>::new(memory.mapping(), (16 << 30) - 8, 1).unwrap();
        assert_eq!(last[0].load(Relaxed), 0);
        last[0].store(7, Relaxed);
        let end = memory.regions().end;
        memory.punch_out(&(end - PAGE..end)).unwrap();
        assert_eq!(last[0].load(Relaxed), 0);
        assert!(memory.file().set_len(4096).is_err());
        assert!(memory.file().set_len(32 << 30).is_err());
    }
}
