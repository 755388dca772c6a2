//! Descriptors that were inherited, which Rust's ownership rules cannot know of.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Closes every descriptor but the standard three. Received descriptors are not close-on-exec until the broker
/// has had a chance to mark them, and an executor must not hold another VM's memory.
///
/// # Safety
///
/// Nothing in this process may own a descriptor above 2: call it first of all.
pub unsafe fn close() -> io::Result<()> {
    // SAFETY: by this function's contract nobody owns what is closed here.
    let result = unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Takes over a descriptor that the parent process left open for us.
///
/// # Safety
///
/// Nothing else in this process may own the descriptor.
pub unsafe fn take(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD reads a flag, and fails on a number that is no open descriptor.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and by this function's contract ours alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
