//! Staging: shared memory through which data goes to the host and comes back.
//!
//! Blocks come in sizes of a few steps per power of two, and freed ones are kept for the next transfer of about
//! that size: making a region costs the guest kernel a page allocation per 4 KiB, and the host a mapping per
//! extent. Small blocks share a region.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use paragpu_protocol::ring::Copied;
use paragpu_protocol::types::Span;

use crate::core::error::{ClError, ClResult};
use crate::core::lock;
use crate::sys::shared::Shared;
use crate::transport::Transport;

/// Smallest block in bytes.
const MIN_BLOCK: usize = 4 * 1024;
/// Blocks up to this many bytes are cut from a shared region of [`SLAB_BYTES`].
const MAX_SLAB_BLOCK: usize = 256 * 1024;
const SLAB_BYTES: usize = 2 * 1024 * 1024;
/// Free memory beyond this many bytes is given back to the system.
const MAX_CACHED_BYTES: usize = 512 * 1024 * 1024;

/// Shared memory of a transfer, given back to the pool when dropped. Must live until the transfer is complete:
/// see `Connection::retire`.
#[derive(Debug)]
pub(crate) struct Staging {
    // Taken only in `drop`.
    block: Option<Block>,
    len: usize,
    pool: Arc<StagingPool>,
}

#[derive(Debug)]
struct Block {
    shared: Arc<Shared>,
    offset: usize,
    size: usize,
}

impl Staging {
    fn block(&self) -> &Block {
        self.block.as_ref().expect("only drop takes the block")
    }

    /// How commands name the memory.
    pub(crate) fn span(&self) -> Span {
        Span::new(self.block().shared.id(), self.block().offset as u64, self.len as u64)
    }

    /// Length in bytes, as asked for.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Address of the first byte; all `len` bytes stay mapped while `self` lives.
    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.block().shared.address(self.block().offset, self.len)
    }

    /// Copies `from` to `offset`.
    pub(crate) fn write(&mut self, offset: usize, from: &[u8]) {
        assert!(offset + from.len() <= self.len);
        self.block().shared.write(self.block().offset + offset, from);
        Copied::add(&*self.pool.ring, 1, from.len());
    }

    /// Copies the bytes at `offset` to `to`.
    pub(crate) fn read(&self, offset: usize, to: &mut [u8]) {
        assert!(offset + to.len() <= self.len);
        self.block().shared.read(self.block().offset + offset, to);
        Copied::add(&*self.pool.ring, 1, to.len());
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Some(block) = self.block.take() {
            self.pool.give_back(block);
        }
    }
}

/// All staging memory of a connection.
#[derive(Debug)]
pub(crate) struct StagingPool {
    state: Mutex<State>,
    transport: Arc<dyn Transport>,
    /// Where copies are counted.
    ring: Arc<Shared>,
}

#[derive(Debug, Default)]
struct State {
    free: BTreeMap<usize, Vec<Block>>,
    /// Bytes in `free` that are regions of their own.
    cached: usize,
}

/// The block size for `len` bytes: a multiple of an eighth of the power of two below, so that at most an eighth
/// is wasted; a power of two for what shares a region.
fn block_size(len: usize) -> Option<usize> {
    let len = len.max(MIN_BLOCK);
    if len <= MAX_SLAB_BLOCK {
        return Some(len.next_power_of_two());
    }
    let step = (len.checked_next_power_of_two()? / 16).max(MIN_BLOCK);
    len.checked_next_multiple_of(step)
}

impl StagingPool {
    pub(crate) fn new(transport: Arc<dyn Transport>, ring: Arc<Shared>) -> StagingPool {
        StagingPool { state: Mutex::default(), transport, ring }
    }

    /// Memory of `len` bytes, with old contents.
    pub(crate) fn take(self: &Arc<Self>, len: usize) -> ClResult<Staging> {
        let size = block_size(len).ok_or(ClError::OUT_OF_RESOURCES)?;
        let block = match self.take_free(size) {
            Some(block) => block,
            None => self.make(size)?,
        };
        Ok(Staging { block: Some(block), len, pool: self.clone() })
    }

    /// Memory of `len` bytes that is there already.
    pub(crate) fn take_spare(self: &Arc<Self>, len: usize) -> Option<Staging> {
        let block = self.take_free(block_size(len)?)?;
        Some(Staging { block: Some(block), len, pool: self.clone() })
    }

    fn take_free(&self, size: usize) -> Option<Block> {
        let mut state = lock(&self.state);
        let block = state.free.get_mut(&size)?.pop()?;
        if size > MAX_SLAB_BLOCK {
            state.cached -= size;
        }
        Some(block)
    }

    fn make(&self, size: usize) -> ClResult<Block> {
        let is_slab = size <= MAX_SLAB_BLOCK;
        let bytes = if is_slab { SLAB_BYTES } else { size };
        let region = self
            .transport
            .create_region(bytes as u64)
            .or_else(|error| {
                // Free memory of other sizes may be what is missing.
                let spare = lock(&self.state).forget_regions();
                if spare.is_empty() {
                    return Err(error);
                }
                drop(spare);
                self.transport.create_region(bytes as u64)
            })
            .map_err(|error| {
                crate::debug::debug!("no staging memory of {bytes} bytes: {error}");
                ClError::OUT_OF_RESOURCES
            })?;
        let shared = Arc::new(Shared::new(region));
        if is_slab {
            let rest = (size..bytes).step_by(size);
            let rest = rest.map(|offset| Block { shared: shared.clone(), offset, size });
            lock(&self.state).free.entry(size).or_default().extend(rest);
        }
        Ok(Block { shared, offset: 0, size })
    }

    fn give_back(&self, block: Block) {
        let mut state = lock(&self.state);
        if block.size > MAX_SLAB_BLOCK {
            if block.size > MAX_CACHED_BYTES {
                return;
            }
            state.make_room(MAX_CACHED_BYTES - block.size);
            state.cached += block.size;
        }
        state.free.entry(block.size).or_default().push(block);
    }
}

impl State {
    /// Takes out all free blocks that are regions of their own.
    fn forget_regions(&mut self) -> Vec<Block> {
        self.cached = 0;
        self.free.split_off(&(MAX_SLAB_BLOCK + 1)).into_values().flatten().collect()
    }

    /// Forgets free blocks that are regions of their own until no more than `most` bytes of them are left. The
    /// block that comes is of the size that is in use, so the others go.
    fn make_room(&mut self, most: usize) {
        while self.cached > most {
            let sizes = self.free.range(MAX_SLAB_BLOCK + 1..);
            let Some(size) =
                sizes.filter(|(_, blocks)| !blocks.is_empty()).map(|(size, _)| *size).next_back()
            else {
                return;
            };
            if let Some(blocks) = self.free.get_mut(&size) {
                blocks.pop();
                self.cached -= size;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{MAX_SLAB_BLOCK, block_size};

    #[test]
    fn blocks_are_large_enough_and_waste_at_most_an_eighth() {
        for len in [0, 1, 4096, 4097, 200_000, 300_000, 1 << 20, (1 << 20) + 1, 128 << 20, 200_000_001] {
            let size = block_size(len).unwrap();
            assert!(size >= len && size.is_multiple_of(4096), "{len} -> {size}");
            if len > MAX_SLAB_BLOCK {
                assert!(size - len <= len / 8 + 4096, "{len} -> {size}");
            }
        }
        assert_eq!(block_size(usize::MAX), None);
    }
}
