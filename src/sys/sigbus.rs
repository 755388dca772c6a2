//! Guest memory whose file is cut short while it is mapped.
//!
//! A front end can truncate the file behind its guest's memory at any time; touching the lost pages raises
//! SIGBUS, which would end the daemon and with it every other vGPU. Files that cannot shrink (sealed ones) may
//! not be demanded: hugetlbfs and tmpfs files have no seals. So while memory is [guarded](Guard), a lost page is
//! replaced with a private one of zeroes, which harms nobody but the vGPU whose memory it was.

use std::io;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Most ranges at once: the sessions of a daemon times the memory regions of each.
const MAX_RANGES: usize = 64 * 64;

/// Start, end and page size of a range; an end of zero is a free entry. Written in an order that lets the handler,
/// which may run at any moment on any thread, see a range whole or not at all.
type Range = (AtomicUsize, AtomicUsize, AtomicUsize);

static RANGES: [Range; MAX_RANGES] =
    [const { (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0)) }; MAX_RANGES];

/// Guards a range of shared memory until dropped.
#[derive(Debug)]
pub struct Guard {
    entry: usize,
}

impl Guard {
    /// Guards `len` bytes from `start`, whose file has pages of `page` bytes: of a huge page no part can be replaced.
    ///
    /// # Safety
    ///
    /// The range is a shared file mapping to which Rust holds no references (it is only accessed through raw
    /// pointers, as guest memory is), and stays mapped until the guard is dropped: a lost page in it is mapped
    /// anew by force.
    pub unsafe fn new(start: *const u8, len: usize, page: usize) -> io::Result<Guard> {
        static INSTALLED: Once = Once::new();
        INSTALLED.call_once(install);
        let start = start as usize;
        if !page.is_power_of_two() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let taken = |(_, (_, end, _)): &(usize, &Range)| {
            // A mark that no address is below keeps others off the entry while its start is written.
            end.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        let (entry, range) = RANGES
            .iter()
            .enumerate()
            .find(taken)
            .ok_or_else(|| io::Error::other("too many memory regions in all"))?;
        range.0.store(start, Ordering::Release);
        range.2.store(page, Ordering::Release);
        range.1.store(start + len, Ordering::Release);
        Ok(Guard { entry })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        RANGES[self.entry].1.store(0, Ordering::Release);
    }
}

fn install() {
    // SAFETY: the structure is plain data for which zeroes are valid, and is filled in below; `handler` is
    // async-signal-safe: it reads atomics and makes system calls.
    let result = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
        libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut())
    };
    if result != 0 {
        log::warn!("no SIGBUS handler: {}", io::Error::last_os_error());
    }
}

extern "C" fn handler(signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid `siginfo_t`, and SIGBUS carries an address.
    let address = unsafe { (*info).si_addr() } as usize;
    let guarded = RANGES.iter().find(|(start, end, _)| {
        let end = end.load(Ordering::Acquire);
        address < end && address >= start.load(Ordering::Acquire)
    });
    if guarded.is_some_and(|(_, _, page)| replace_page(address, page.load(Ordering::Acquire))) {
        return;
    }
    // Not ours: the access is repeated when this returns, and ends the process as if we had not been here.
    // SAFETY: `signal` may be set to its default.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

fn replace_page(address: usize, page: usize) -> bool {
    let start = (address & !(page - 1)) as *mut libc::c_void;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
    // SAFETY: the page is in a guarded range, which is mapped and of which Rust holds no references.
    let mapped = unsafe { libc::mmap(start, page, protection, flags, -1, 0) };
    mapped != libc::MAP_FAILED
}
