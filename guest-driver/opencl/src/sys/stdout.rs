//! The process's standard output, as a descriptor: what kernels print does not go through the C library.

use std::ffi::c_int;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::stdio::stdout;

use crate::debug::debug;

/// False if the process was started without a standard output, or has closed it.
pub(crate) fn is_open() -> bool {
    rustix::io::fcntl_getfd(stdout()).is_ok()
}

/// Writes everything, or as much as there is somebody for.
pub(crate) fn write(mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match rustix::io::write(stdout(), bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                // An error here is one there too.
                let _ready = poll(&mut [PollFd::from_borrowed_fd(stdout(), PollFlags::OUT)], None);
            }
            Err(error) => return debug!("standard output: {error}"),
        }
    }
}

unsafe extern "C" {
    fn atexit(function: extern "C" fn()) -> c_int;
}

/// Calls a function when the process ends by `exit`, or when this library is unloaded.
pub(crate) fn at_exit(function: extern "C" fn()) {
    // SAFETY: a function that may be called at any time, by any thread.
    if unsafe { atexit(function) } != 0 {
        debug!("no room for a function at exit");
    }
}
