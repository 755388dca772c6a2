//! Access to memory that this process shares with the host: the one place where raw shared bytes are touched.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use paragpu_protocol::ring::{HEADER_BYTES, RingPages, Word};
use paragpu_protocol::slot::{self, SLOT_BYTES, Slot};
use rustix::io::Errno;
use rustix::thread::futex::{self, Timespec};
use zerocopy::FromBytes;

use crate::sys::region::{Region, View};

/// A shared region, with checked accesses. An offset that is out of range is a bug of the caller's, and panics.
#[derive(Debug)]
pub struct Shared {
    region: Region,
}

impl Shared {
    /// Takes over a region.
    pub fn new(region: Region) -> Shared {
        Shared { region }
    }

    /// What the host calls the region.
    pub fn id(&self) -> u32 {
        self.region.id
    }

    /// Maps the region once more, at this address.
    pub fn map_at(&self, address: usize) -> std::io::Result<Box<dyn View>> {
        self.region.owner.map_at(address)
    }

    /// Length in bytes.
    #[allow(clippy::len_without_is_empty)] // No region is empty.
    pub fn len(&self) -> usize {
        self.region.len
    }

    /// Address of the byte at `offset`, of which `len` follow.
    pub fn address(&self, offset: usize, len: usize) -> *mut u8 {
        assert!(
            offset.checked_add(len).is_some_and(|end| end <= self.region.len),
            "shared access out of range"
        );
        // SAFETY: offset + len is within the mapping, checked above, and the mapping lives as long as `region`.
        unsafe { self.region.ptr.as_ptr().add(offset) }
    }

    /// Copies `from` to `offset`.
    pub fn write(&self, offset: usize, from: &[u8]) {
        let to = self.address(offset, from.len());
        // SAFETY: `to` has room for `from.len()` bytes (checked by `address`), and a shared mapping does not
        // overlap an ordinary slice. Other writers of these bytes are excluded by their allocation to the caller.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to, from.len()) }
    }

    /// Copies the bytes at `offset` to `to`.
    pub fn read(&self, offset: usize, to: &mut [u8]) {
        let from = self.address(offset, to.len());
        // SAFETY: as for `write`; what the host writes there was ordered before by the slot's acquire load.
        unsafe { std::ptr::copy_nonoverlapping(from, to.as_mut_ptr(), to.len()) }
    }

    fn word(&self, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(4));
        let address = self.address(offset, 4).cast::<u32>();
        // SAFETY: in range and aligned (regions start on a page), lives as long as `self`, and every access to
        // this word in this process is atomic.
        unsafe { AtomicU32::from_ptr(address) }
    }

    /// Sleeps until somebody wakes those who sleep on the word, or for `timeout`, unless it is something else than `seen`.
    /// False if the time was over.
    pub fn sleep_on(&self, word: Word, seen: u32, timeout: Duration) -> bool {
        let timeout = Timespec::try_from(timeout).ok();
        let slept =
            futex::wait(Shared::word(self, word.offset()), futex::Flags::empty(), seen, timeout.as_ref());
        slept != Err(Errno::TIMEDOUT)
    }

    /// Makes the slot at `offset` pending.
    pub fn clear_slot(&self, offset: usize) {
        self.write(offset, &[0; SLOT_BYTES as usize]);
        self.word(offset + slot::STATE).store(slot::PENDING, Ordering::Release);
    }

    /// The slot at `offset` if its command is complete.
    pub fn read_slot(&self, offset: usize) -> Option<Slot> {
        if self.word(offset + slot::STATE).load(Ordering::Acquire) != slot::DONE {
            return None;
        }
        let mut bytes = [0; SLOT_BYTES as usize];
        self.read(offset, &mut bytes);
        Slot::read_from_bytes(&bytes).ok()
    }
}

impl RingPages for Shared {
    fn word(&self, word: Word) -> &AtomicU32 {
        Shared::word(self, word.offset())
    }

    fn read(&self, offset: u32, to: &mut [u8]) {
        Shared::read(self, (HEADER_BYTES + offset) as usize, to);
    }

    fn write(&self, offset: u32, from: &[u8]) {
        Shared::write(self, (HEADER_BYTES + offset) as usize, from);
    }
}
