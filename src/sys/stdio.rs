//! The C library's streams: drivers print through them.

use std::ptr;

/// Hands what is in the buffers of the C library's output streams to their descriptors. Waits while one of them is
/// being written to.
pub fn flush() {
    // SAFETY: fflush takes a null pointer for all output streams, and locks each.
    unsafe { libc::fflush(ptr::null_mut()) };
}
