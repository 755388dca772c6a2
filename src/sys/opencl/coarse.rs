//! Coarse-grain shared virtual memory: the driver's own allocations, for devices with memory of their own.

use std::ffi::c_void;
use std::fmt;
use std::ptr::{self, NonNull};
use std::sync::{Arc, Mutex, PoisonError};

use cl3::memory::CL_MEM_READ_WRITE;

use super::handle::{Context, Queue};
use super::{checked, cl};
use crate::sys::compute::ClError;
use crate::sys::map::PAGE_BYTES;

/// An allocation, and the context that it is of. Freed some time after the last reference to it is gone: see [`bury`].
#[derive(Clone)]
pub struct CoarseMemory(Arc<Allocation>);

struct Allocation {
    context: Context,
    /// What the driver has allocated.
    at: NonNull<c_void>,
    /// Bytes before the first page in it.
    skipped: usize,
    size: usize,
}

// SAFETY: an address that nobody follows here; freeing it is allowed on any thread.
unsafe impl Send for Allocation {}
// SAFETY: as for `Send`.
unsafe impl Sync for Allocation {}

/// Allocations that nothing uses any more. Whoever drops the last reference may be a callback of the driver's, which must
/// not call it.
static DEAD: Mutex<Vec<(Context, usize)>> = Mutex::new(Vec::new());

impl CoarseMemory {
    /// Allocates zeroed memory. The queue, which waits for that, must be of the context.
    pub fn new(context: &Context, queue: &Queue, size: usize) -> Result<CoarseMemory, ClError> {
        // Whole pages, so that whoever maps memory at its address meets no other allocation there.
        let pages = size.checked_next_multiple_of(PAGE_BYTES).ok_or(ClError::INVALID_BUFFER_SIZE)?;
        let room = pages.checked_add(PAGE_BYTES).ok_or(ClError::INVALID_BUFFER_SIZE)?;
        // SAFETY: a live context; the driver checks the size.
        let at = unsafe { cl!(clSVMAlloc(context.raw(), CL_MEM_READ_WRITE, room, 0)) }?;
        let at = NonNull::new(at).ok_or(ClError::ALLOCATION_FAILURE)?;
        let skipped = at.as_ptr().addr().wrapping_neg() % PAGE_BYTES;
        let memory = CoarseMemory(Arc::new(Allocation { context: context.clone(), at, skipped, size }));
        let start = memory.part(0, size).ok_or(ClError::INVALID_BUFFER_SIZE)?;
        let zero = 0_u8;
        let (raw, pattern) = (queue.raw(), ptr::from_ref(&zero).cast());
        // SAFETY: a live queue and `size` allocated bytes; the pattern is one byte, which is copied.
        checked(unsafe {
            cl!(clEnqueueSVMMemFill(raw, start, pattern, 1, size, 0, ptr::null(), ptr::null_mut()))
        })?;
        queue.finish()?;
        Ok(memory)
    }

    /// Address of the first byte, for kernels: that of a page.
    pub fn address(&self) -> usize {
        self.0.at.as_ptr().addr() + self.0.skipped
    }

    /// Where `len` bytes from `offset` are, if the allocation has them.
    pub(super) fn part(&self, offset: usize, len: usize) -> Option<*mut c_void> {
        let end = offset.checked_add(len)?;
        let start = self.0.at.as_ptr().cast::<u8>().wrapping_add(self.0.skipped);
        (end <= self.0.size).then(|| start.wrapping_add(offset).cast())
    }
}

impl fmt::Debug for CoarseMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CoarseMemory({} bytes)", self.0.size)
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        let mut dead = DEAD.lock().unwrap_or_else(PoisonError::into_inner);
        dead.push((self.context.clone(), self.at.as_ptr().expose_provenance()));
    }
}

/// Frees what nothing uses any more. Not for callbacks.
pub(super) fn bury() {
    let dead = std::mem::take(&mut *DEAD.lock().unwrap_or_else(PoisonError::into_inner));
    for (context, at) in dead {
        // SAFETY: an allocation of this live context; the last reference to it is gone, so it is freed once, and no command
        // or memory object that was given it is alive.
        if let Err(error) = unsafe { cl!(clSVMFree(context.raw(), ptr::with_exposed_provenance_mut(at))) } {
            log::warn!("freeing shared virtual memory: {error}");
        }
    }
}
