//! Which process this is, without asking the kernel each time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::mapping::{Mapping, Words};

/// What stands in the page.
const OPEN: u32 = 1;

/// The process that opened a connection. A child made by `fork` inherits the mapping, the descriptors and every
/// lock as it was at that moment; whatever it did with them it would do to its parent.
#[derive(Debug)]
pub(crate) struct Opener {
    id: u32,
    /// A page that a child finds empty, since commands ask this and a system call costs as much as the rest of a command.
    /// `None` where the kernel cannot do that.
    page: Option<Words<AtomicU32>>,
}

impl Opener {
    pub(crate) fn this_process() -> Opener {
        let page = Mapping::private(size_of::<AtomicU32>()).ok().and_then(|mapping| {
            mapping.wipe_on_fork().ok()?;
            let page: Words<AtomicU32> = Words::new(&Arc::new(mapping), 0, 1)?;
            page[0].store(OPEN, Ordering::Relaxed);
            Some(page)
        });
        Opener { id: std::process::id(), page }
    }

    /// False in a child of the process that opened this.
    pub(crate) fn is_this_process(&self) -> bool {
        match &self.page {
            // A child's memory is its own, so no order with anything else is needed.
            Some(page) => page[0].load(Ordering::Relaxed) == OPEN,
            None => self.id == std::process::id(),
        }
    }

    /// What a child of `opener` would have of it.
    #[cfg(test)]
    pub(crate) fn of_parent() -> Opener {
        let opener = Opener::this_process();
        if let Some(page) = &opener.page {
            page[0].store(0, Ordering::Relaxed);
        }
        Opener { id: 0, ..opener }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_another_process() {
        let opener = Opener::this_process();
        assert!(opener.is_this_process());
        assert!(opener.page.is_some(), "kernels since 4.14 can wipe a page");
        // SAFETY: the child only reads a page and ends.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let code = i32::from(opener.is_this_process());
            // SAFETY: ends the child, without what runs at an exit.
            unsafe { libc::_exit(code) };
        }
        let mut status = -1;
        // SAFETY: waits for the child; `status` is writable.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!(status, 0, "the child takes itself for its parent");
        assert!(opener.is_this_process(), "the parent lost its page");
    }

    #[test]
    fn without_such_a_page_the_kernel_is_asked() {
        assert!(Opener { id: std::process::id(), page: None }.is_this_process());
        assert!(!Opener { id: 0, page: None }.is_this_process());
    }
}
