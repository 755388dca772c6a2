//! Shared mappings: memory that the host reads and writes while we do.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, Range};
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};

/// A file's pages, mapped readable and writable and shared with whoever else maps them, until dropped.
pub(crate) struct Mapping {
    ptr: NonNull<u8>,
    len: usize,
}

// SAFETY: a mapping is an address range of the process, not of a thread. Nothing in this type reads or writes
// through `ptr` except the atomics that `Words` hands out.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes from `offset` of `file`. Address space is not charged before pages are touched, so
    /// that a large sparse file costs nothing.
    pub(crate) fn shared(file: impl AsFd, offset: u64, len: usize) -> std::io::Result<Mapping> {
        Mapping::shared_near(file, offset, len, 0)
    }

    /// The same, at this address or, if there is something already, elsewhere; 0 for anywhere.
    pub(crate) fn shared_near(
        file: impl AsFd,
        offset: u64,
        len: usize,
        address: usize,
    ) -> std::io::Result<Mapping> {
        let flags = MapFlags::SHARED | MapFlags::NORESERVE;
        let hint = std::ptr::without_provenance_mut(address);
        // SAFETY: without MAP_FIXED the kernel chooses a range that nothing else of this process uses, so no existing
        // reference can point into the new mapping.
        let ptr = unsafe { mmap(hint, len, ProtFlags::READ | ProtFlags::WRITE, flags, file, offset)? };
        // mmap never succeeds with address 0 here: the kernel keeps the first pages unmapped.
        let ptr = NonNull::new(ptr.cast()).ok_or(std::io::ErrorKind::OutOfMemory)?;
        Ok(Mapping { ptr, len })
    }

    /// The same, at this address; `AlreadyExists` if something is mapped there.
    pub(crate) fn shared_at(
        file: impl AsFd,
        offset: u64,
        len: usize,
        address: usize,
    ) -> std::io::Result<Mapping> {
        let flags = MapFlags::SHARED | MapFlags::NORESERVE | MapFlags::FIXED_NOREPLACE;
        let wanted = std::ptr::without_provenance_mut(address);
        // SAFETY: with MAP_FIXED_NOREPLACE nothing that is mapped is replaced, so no existing reference can point into the
        // new mapping; a kernel that does not know the flag (before 4.17) chooses a free range.
        let ptr = unsafe { mmap(wanted, len, ProtFlags::READ | ProtFlags::WRITE, flags, file, offset)? };
        Mapping::placed(ptr.cast(), len, address)
    }

    /// Zeroed memory of this process alone.
    pub(crate) fn private(len: usize) -> std::io::Result<Mapping> {
        // SAFETY: as in `shared_near`.
        let ptr = unsafe {
            mmap_anonymous(std::ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)?
        };
        Ok(Mapping { ptr: NonNull::new(ptr.cast()).ok_or(std::io::ErrorKind::OutOfMemory)?, len })
    }

    /// Zeroed memory of this process alone, at this address; `AlreadyExists` if something is mapped there.
    pub(crate) fn private_at(len: usize, address: usize) -> std::io::Result<Mapping> {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED_NOREPLACE;
        let wanted = std::ptr::without_provenance_mut(address);
        // SAFETY: as in `shared_at`.
        let ptr = unsafe { mmap_anonymous(wanted, len, ProtFlags::READ | ProtFlags::WRITE, flags)? };
        Mapping::placed(ptr.cast(), len, address)
    }

    /// A fresh mapping, if it lies where it was wanted.
    fn placed(ptr: *mut u8, len: usize, address: usize) -> std::io::Result<Mapping> {
        let ptr = NonNull::new(ptr).ok_or(std::io::ErrorKind::OutOfMemory)?;
        let mapping = Mapping { ptr, len };
        if mapping.ptr.as_ptr().addr() == address {
            Ok(mapping)
        } else {
            Err(std::io::ErrorKind::AlreadyExists.into())
        }
    }

    /// Has a child of this process find zeroes here. Of private memory; by kernels since 4.14.
    pub(crate) fn wipe_on_fork(&self) -> std::io::Result<()> {
        // SAFETY: the range is the mapping's. In this process nothing changes; a child gets zeroes, which may be read as
        // any `Shareable`, and other references into a mapping nobody makes.
        unsafe { madvise(self.ptr.as_ptr().cast(), self.len, Advice::LinuxWipeOnFork)? };
        Ok(())
    }

    /// First byte.
    pub(crate) fn ptr(&self) -> NonNull<u8> {
        self.ptr
    }

    /// Length in bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Where `range` lies in this process; `None` if it is not inside the mapping.
    pub(crate) fn ptr_at(&self, range: Range<usize>) -> Option<NonNull<u8>> {
        if range.start > range.end || range.end > self.len {
            return None;
        }
        // SAFETY: `start <= len`, so the result is inside the mapping or one past its end, and a mapping is
        // never longer than isize::MAX.
        Some(unsafe { self.ptr.add(range.start) })
    }
}

impl crate::sys::region::View for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is the one that mmap returned. It is unmapped once, here, and `Words` keeps the
        // mapping alive, so no reference into it is left. Raw pointers from `ptr` and `ptr_at` are their
        // users' promise: a `Region` says that its memory is valid only while its owner lives.
        let unmapped = unsafe { munmap(self.ptr.as_ptr().cast(), self.len) };
        debug_assert!(unmapped.is_ok(), "unmapping a whole mapping cannot fail: {unmapped:?}");
    }
}

impl fmt::Debug for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mapping({:p}, {} bytes)", self.ptr, self.len)
    }
}

/// Types that may lie in memory that another process writes at any time.
///
/// # Safety
///
/// Every bit pattern must be a valid value, and every byte must be inside an atomic, so that a shared reference
/// allows changes from outside.
pub(crate) unsafe trait Shareable {}

// SAFETY: atomics of plain integers.
unsafe impl Shareable for AtomicU8 {}
// SAFETY: as above.
unsafe impl Shareable for AtomicU16 {}
// SAFETY: as above.
unsafe impl Shareable for AtomicU32 {}
// SAFETY: as above.
unsafe impl Shareable for AtomicU64 {}

/// A slice of atomics inside a mapping, which it keeps alive.
pub(crate) struct Words<A> {
    mapping: Arc<Mapping>,
    offset: usize,
    count: usize,
    of: PhantomData<A>,
}

impl<A: Shareable> Words<A> {
    /// `count` words from byte `offset`; `None` if they are not inside the mapping or not aligned.
    pub(crate) fn new(mapping: &Arc<Mapping>, offset: usize, count: usize) -> Option<Words<A>> {
        let end = count.checked_mul(size_of::<A>())?.checked_add(offset)?;
        let first = mapping.ptr_at(offset..end)?;
        if !first.cast::<A>().is_aligned() {
            return None;
        }
        Some(Words { mapping: Arc::clone(mapping), offset, count, of: PhantomData })
    }
}

impl<A: Shareable> Deref for Words<A> {
    type Target = [A];

    fn deref(&self) -> &[A] {
        // SAFETY: `new` checked that `count` aligned words from `offset` are inside the mapping, which `mapping`
        // keeps mapped at least as long as the borrow. The memory is initialised (file pages), any bytes are
        // valid for `A` and it may change under a shared reference: both are what `Shareable` promises. No
        // `&mut` to these bytes exists, as nothing here makes one.
        unsafe { std::slice::from_raw_parts(self.mapping.ptr.add(self.offset).cast().as_ptr(), self.count) }
    }
}

impl<A> fmt::Debug for Words<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Words({} at {})", self.count, self.offset)
    }
}

/// A region's bytes.
#[cfg(test)]
pub(crate) fn bytes_of(region: &crate::transport::Region) -> &[AtomicU8] {
    // SAFETY: a region's `len` bytes from `ptr` are mapped while its owner lives, which the borrow ensures, and
    // tests reach them only through this function.
    unsafe { std::slice::from_raw_parts(region.ptr.cast().as_ptr(), region.len) }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    use super::*;

    fn two_pages() -> Arc<Mapping> {
        let file = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, 8192).unwrap();
        Arc::new(Mapping::shared(&file, 0, 8192).unwrap())
    }

    #[test]
    fn words_outlive_the_handle_they_were_made_from() {
        let mapping = two_pages();
        let words = Words::<AtomicU32>::new(&mapping, 4096, 1024).unwrap();
        drop(mapping);
        words[1023].store(7, Relaxed);
        assert_eq!(words.iter().map(|word| word.load(Relaxed)).sum::<u32>(), 7);
    }

    #[test]
    fn a_mapping_lies_where_it_is_wanted_unless_something_does_already() {
        // No other test maps anything there.
        const WANTED: usize = 0x1700_0000_0000;
        let file = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, 8192).unwrap();
        let near = || Arc::new(Mapping::shared_near(&file, 0, 8192, WANTED).unwrap());
        let (first, second) = (near(), near());
        assert_eq!(first.ptr().as_ptr().addr(), WANTED);
        assert_ne!(second.ptr().as_ptr().addr(), WANTED);
        Words::<AtomicU32>::new(&first, 0, 1).unwrap()[0].store(7, Relaxed);
        assert_eq!(Words::<AtomicU32>::new(&second, 0, 1).unwrap()[0].load(Relaxed), 7);
    }

    #[test]
    fn a_second_mapping_shows_the_same_bytes_and_never_replaces_another() {
        let file = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, 8192).unwrap();
        let first = Arc::new(Mapping::shared(&file, 0, 8192).unwrap());
        let free = Mapping::shared(&file, 0, 8192).unwrap();
        let address = free.ptr().as_ptr().addr();
        let taken = Mapping::shared_at(&file, 0, 8192, address).unwrap_err();
        assert_eq!(taken.kind(), std::io::ErrorKind::AlreadyExists);
        drop(free);
        let second = Arc::new(Mapping::shared_at(&file, 0, 8192, address).unwrap());
        assert_eq!(second.ptr().as_ptr().addr(), address);
        Words::<AtomicU32>::new(&first, 4096, 1).unwrap()[0].store(7, Relaxed);
        assert_eq!(Words::<AtomicU32>::new(&second, 4096, 1).unwrap()[0].load(Relaxed), 7);
    }

    #[test]
    fn nothing_outside_the_mapping_or_unaligned_is_handed_out() {
        let mapping = two_pages();
        assert!(Words::<AtomicU32>::new(&mapping, 4096, 1025).is_none());
        assert!(Words::<AtomicU64>::new(&mapping, 4, 1).is_none());
        assert!(Words::<AtomicU64>::new(&mapping, 8, usize::MAX).is_none());
        assert!(Words::<AtomicU8>::new(&mapping, usize::MAX, 1).is_none());
        assert!(mapping.ptr_at(8192..8193).is_none());
        assert_eq!(mapping.ptr_at(0..8192), Some(mapping.ptr()));
        assert_eq!(mapping.len(), 8192);
    }
}
