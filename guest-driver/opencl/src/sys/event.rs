//! A bridge between `vhost`'s event file descriptors and polling.

use std::os::fd::{AsRawFd, BorrowedFd};

use vmm_sys_util::eventfd::EventFd;

/// The eventfd as something to poll.
pub(crate) fn borrow(event: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: an `EventFd` owns its descriptor and keeps it open until it is dropped, which the borrow in the
    // result forbids.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}
