//! Memory that a guest writes to while the host uses it.
//!
//! A [`Mapping`] is never seen as a slice: bytes are copied in and out through raw pointers, words go through
//! atomics. A torn copy is possible and harmless, because only the copy is looked at afterwards.

use std::ffi::c_void;
use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

/// Page size that extents must be multiples of. Larger host pages fail in `mmap`, with a clear error.
pub const PAGE_BYTES: usize = 4096;

/// A piece of a file, to be mapped.
#[derive(Clone, Copy, Debug)]
pub struct FilePart<'a> {
    /// The file.
    pub file: BorrowedFd<'a>,
    /// First byte in the file; a multiple of the page size.
    pub offset: u64,
    /// Length in bytes; a multiple of the page size.
    pub len: usize,
}

/// Shared memory, contiguous in this process. Unmapped when dropped.
pub struct Mapping {
    base: NonNull<u8>,
    len: usize,
    after: Mutex<Vec<AfterUnmap>>,
}

type AfterUnmap = Box<dyn FnOnce() + Send>;

// SAFETY: the mapping belongs to nobody but this value, is unmapped only when it is dropped, and every access
// to its bytes is a raw copy or an atomic, so that other threads (and the guest) may use it at the same time.
unsafe impl Send for Mapping {}
// SAFETY: as for `Send`; `&Mapping` gives no `&[u8]` out.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Fresh zeroed memory of this process; what tests and fuzzers use for a guest's.
    pub fn anonymous(len: usize) -> io::Result<Mapping> {
        Ok(Mapping::own(reserve(len, ProtFlags::READ | ProtFlags::WRITE)?, len))
    }

    /// Maps parts of files one behind the other, shared and writable.
    pub fn of_files(parts: &[FilePart<'_>]) -> io::Result<Mapping> {
        let mut len = 0_usize;
        for part in parts {
            let aligned =
                part.len.is_multiple_of(PAGE_BYTES) && part.offset.is_multiple_of(PAGE_BYTES as u64);
            if !aligned || part.len == 0 {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            len = len.checked_add(part.len).ok_or(io::ErrorKind::InvalidInput)?;
        }
        let mapping = Mapping::own(reserve_apart(len)?, len);
        let mut at = 0;
        for part in parts {
            // SAFETY: the range lies in the address space that `reserve` gave to this value alone (the sum of
            // the lengths was reserved), so that nothing else is replaced.
            unsafe {
                mmap(
                    mapping.base.as_ptr().add(at).cast(),
                    part.len,
                    ProtFlags::READ | ProtFlags::WRITE,
                    MapFlags::SHARED | MapFlags::FIXED,
                    part.file,
                    part.offset,
                )?;
            }
            at += part.len;
        }
        Ok(mapping)
    }

    fn own(base: NonNull<u8>, len: usize) -> Mapping {
        Mapping { base, len, after: Mutex::new(Vec::new()) }
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True for no bytes at all; there is no such mapping.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Calls `then` after the pages are unmapped.
    pub fn after_unmap(&self, then: impl FnOnce() + Send + 'static) {
        self.after.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(then));
    }

    /// The address of `len` bytes from `offset`, if the mapping has them.
    fn at(&self, offset: usize, len: usize) -> Option<NonNull<u8>> {
        let end = offset.checked_add(len)?;
        // SAFETY: `offset` is at most `end`, which is at most the length of the mapping.
        (end <= self.len).then(|| unsafe { self.base.add(offset) })
    }

    /// Copies bytes out. False, and nothing happens, if they are not all there.
    #[must_use]
    pub fn read(&self, offset: usize, to: &mut [u8]) -> bool {
        let Some(from) = self.at(offset, to.len()) else { return false };
        // SAFETY: `from` has that many mapped bytes; a private buffer cannot overlap a mapping that this module
        // never lends out. The guest may write meanwhile: the copy is then torn, which callers expect.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), to.as_mut_ptr(), to.len()) };
        true
    }

    /// Copies bytes in. False, and nothing happens, if there is no room for all of them.
    #[must_use]
    pub fn write(&self, offset: usize, from: &[u8]) -> bool {
        let Some(to) = self.at(offset, from.len()) else { return false };
        // SAFETY: as in `read`, in the other direction.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), to.as_ptr(), from.len()) };
        true
    }

    /// A word, if it is there and aligned.
    pub fn word(&self, offset: usize) -> Option<&AtomicU32> {
        if !offset.is_multiple_of(align_of::<AtomicU32>()) {
            return None;
        }
        let at = self.at(offset, size_of::<AtomicU32>())?;
        // SAFETY: mapped for as long as `self` lives, aligned (the base is a page), and used only atomically
        // or by raw copies.
        Some(unsafe { AtomicU32::from_ptr(at.as_ptr().cast()) })
    }

    /// A word of 64 bits, if it is there and aligned.
    pub fn long(&self, offset: usize) -> Option<&AtomicU64> {
        if !offset.is_multiple_of(align_of::<AtomicU64>()) {
            return None;
        }
        let at = self.at(offset, size_of::<AtomicU64>())?;
        // SAFETY: as in `word`.
        Some(unsafe { AtomicU64::from_ptr(at.as_ptr().cast()) })
    }
}

/// Where [`reserve_apart`] puts mappings: 32 TiB that programs, libraries, heaps, stacks and the kernel's own choices for
/// `mmap` stay away from on 64-bit Linux, as do the shadows of sanitizers.
const APART: std::ops::Range<usize> = 0x2000_0000_0000..0x4000_0000_0000;

/// Next place to try. Ever higher, so that places are rarely tried that somebody has; the kernel knows which are free.
static NEXT_APART: AtomicUsize = AtomicUsize::new(APART.start);

/// Address space at a place that is likely free in other processes too: whoever shares the memory may map it at the same
/// address, so that pointers mean the same on both sides. Anywhere else if there is no such place.
fn reserve_apart(len: usize) -> io::Result<NonNull<u8>> {
    const TRIES: usize = 64;
    let pages = len.checked_next_multiple_of(PAGE_BYTES).ok_or(io::ErrorKind::InvalidInput)?;
    for _ in 0..TRIES {
        // A page stays free behind each, so that running over the end of one does not reach the next.
        let step = |at: usize| {
            let at = if at + pages + PAGE_BYTES > APART.end { APART.start } else { at };
            (pages < APART.end - APART.start).then_some(at + pages + PAGE_BYTES)
        };
        let Ok(before) = NEXT_APART.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step) else { break };
        let at = if before + pages + PAGE_BYTES > APART.end { APART.start } else { before };
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED_NOREPLACE;
        // SAFETY: with MAP_FIXED_NOREPLACE a new private mapping touches no memory that is in use; kernels that do not
        // know the flag choose a place of their own.
        let base = unsafe { mmap_anonymous(ptr::without_provenance_mut(at), len, ProtFlags::empty(), flags) };
        if let Ok(base) = base {
            return NonNull::new(base.cast()).ok_or_else(|| io::ErrorKind::OutOfMemory.into());
        }
    }
    reserve(len, ProtFlags::empty())
}

fn reserve(len: usize, protection: ProtFlags) -> io::Result<NonNull<u8>> {
    // SAFETY: a new private mapping at an address of the kernel's choice touches no memory that is in use.
    let base =
        unsafe { mmap_anonymous(ptr::null_mut(), len, protection, MapFlags::PRIVATE | MapFlags::NORESERVE) }?;
    NonNull::new(base.cast()).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by this value alone, and nothing borrows from it any more.
        if let Err(error) = unsafe { munmap(self.base.as_ptr().cast(), self.len) } {
            // The guest is about to be told that nothing can touch its pages: let that be true.
            log::error!("munmap of a shared region: {error}");
            std::process::abort();
        }
        let after = std::mem::take(&mut *self.after.lock().unwrap_or_else(PoisonError::into_inner));
        for then in after {
            then();
        }
    }
}

impl fmt::Debug for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapping").field("len", &self.len).finish_non_exhaustive()
    }
}

/// Bytes of a mapping, checked to be there, and keeping it mapped.
#[derive(Clone, Debug)]
pub struct Window {
    mapping: Arc<Mapping>,
    offset: usize,
    len: usize,
}

impl Window {
    /// `len` bytes from `offset` of `mapping`, if it has them.
    pub fn new(mapping: Arc<Mapping>, offset: u64, len: u64) -> Option<Window> {
        let (offset, len) = (usize::try_from(offset).ok()?, usize::try_from(len).ok()?);
        mapping.at(offset, len)?;
        Some(Window { mapping, offset, len })
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True for no bytes at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Copies bytes out; `offset` counts from the start of the window. False if they are not all there.
    #[must_use]
    pub fn read(&self, offset: usize, to: &mut [u8]) -> bool {
        self.inside(offset, to.len()) && self.mapping.read(self.offset + offset, to)
    }

    /// Copies bytes in; `offset` counts from the start of the window. False if there is no room for them.
    #[must_use]
    pub fn write(&self, offset: usize, from: &[u8]) -> bool {
        self.inside(offset, from.len()) && self.mapping.write(self.offset + offset, from)
    }

    /// A word, if it is there and aligned; `offset` counts from the start of the window.
    pub fn word(&self, offset: usize) -> Option<&AtomicU32> {
        if !self.inside(offset, size_of::<AtomicU32>()) {
            return None;
        }
        self.mapping.word(self.offset + offset)
    }

    /// A private copy of all bytes.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut copy = vec![0; self.len];
        let whole = self.read(0, &mut copy);
        debug_assert!(whole, "checked when the window was made");
        copy
    }

    /// Where the bytes are, for a driver that reads or writes them while this window is kept.
    pub fn as_ptr(&self) -> *mut c_void {
        // `new` has checked the range.
        self.mapping.at(self.offset, self.len).map_or(ptr::null_mut(), |at| at.as_ptr().cast())
    }

    fn inside(&self, offset: usize, len: usize) -> bool {
        offset.checked_add(len).is_some_and(|end| end <= self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
    use std::os::fd::AsFd;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn parts_of_a_file_appear_one_behind_the_other() {
        let file = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, 4 * 4096).unwrap();
        let part = |page: u64| FilePart { file: file.as_fd(), offset: page * 4096, len: 4096 };
        let scattered = Mapping::of_files(&[part(3), part(0)]).unwrap();
        let straight =
            Mapping::of_files(&[FilePart { file: file.as_fd(), offset: 0, len: 4 * 4096 }]).unwrap();
        assert!(scattered.write(4090, b"across pages"));
        let mut copy = [0; 6];
        assert!(straight.read(3 * 4096 + 4090, &mut copy));
        assert_eq!(&copy, b"across");
        assert!(straight.read(0, &mut copy));
        assert_eq!(&copy, b" pages");
    }

    #[test]
    fn nothing_outside_is_reached() {
        let mapping = Arc::new(Mapping::anonymous(4096).unwrap());
        assert!(!mapping.read(4090, &mut [0; 7]));
        assert!(!mapping.write(usize::MAX, &[0; 2]));
        assert!(mapping.word(4092).is_some());
        assert!(mapping.word(4093).is_none());
        assert!(mapping.word(4096).is_none());
        assert!(Window::new(mapping.clone(), 4096, 1).is_none());
        assert!(Window::new(mapping.clone(), u64::MAX, 2).is_none());
        let window = Window::new(mapping, 4000, 96).unwrap();
        assert!(!window.read(90, &mut [0; 7]));
        assert!(window.word(96).is_none());
    }

    #[test]
    fn unaligned_or_empty_parts_are_refused() {
        let file = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        for (offset, len) in [(1, 4096), (0, 100), (0, 0)] {
            assert!(Mapping::of_files(&[FilePart { file: file.as_fd(), offset, len }]).is_err());
        }
    }

    #[test]
    fn mappings_of_files_lie_apart_and_never_on_each_other() {
        let file = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, 4 * 4096).unwrap();
        let part = FilePart { file: file.as_fd(), offset: 0, len: 4 * 4096 };
        let mut all: Vec<usize> = Vec::new();
        let mappings: Vec<Mapping> = (0..50).map(|_| Mapping::of_files(&[part]).unwrap()).collect();
        for mapping in &mappings {
            let base = mapping.base.as_ptr().addr();
            assert!(APART.contains(&base), "{base:#x}");
            assert!(all.iter().all(|other| other.abs_diff(base) > 4 * 4096));
            all.push(base);
        }
    }

    #[test]
    fn the_pages_are_gone_when_the_last_user_is() {
        let gone = Arc::new(AtomicBool::new(false));
        let mapping = Arc::new(Mapping::anonymous(4096).unwrap());
        let flag = gone.clone();
        mapping.after_unmap(move || flag.store(true, Ordering::Relaxed));
        let window = Window::new(mapping.clone(), 0, 16).unwrap();
        drop(mapping);
        assert!(!gone.load(Ordering::Relaxed));
        drop(window);
        assert!(gone.load(Ordering::Relaxed));
    }
}
