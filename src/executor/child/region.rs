//! The shared regions of a context, and the guest memory that they are made of.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use paragpu_protocol::fault::Fault;
use paragpu_protocol::limits::{MAX_MAPPINGS, MAX_REGION_BYTES};
use paragpu_protocol::slot::SLOT_BYTES;
use paragpu_protocol::types::{SlotRef, Span};

use crate::executor::message::{Extent, MemoryRegion};
use crate::sys::map::{FilePart, Mapping, PAGE_BYTES, Window};

/// Why a region cannot be mapped.
#[derive(Debug, thiserror::Error)]
pub enum RegionError {
    /// A region without pages.
    #[error("a region without pages")]
    Empty,
    /// An extent that is not whole pages.
    #[error("extent {0:?} is not page-aligned")]
    Unaligned(Extent),
    /// An extent that leaves guest memory.
    #[error("extent {0:?} is outside of guest memory")]
    OutsideMemory(Extent),
    /// Longer than the protocol allows.
    #[error("a region of {0} bytes is longer than allowed")]
    TooLong(u64),
    /// More mappings than one vGPU may have.
    #[error("more than {MAX_MAPPINGS} mappings; let the guest use fewer or less scattered regions")]
    TooManyMappings,
    /// The operating system refused.
    #[error("mmap: {0}")]
    Map(#[from] io::Error),
}

/// The guest's memory, as the broker described it.
#[derive(Debug, Default)]
pub(crate) struct GuestMemory {
    regions: Vec<(MemoryRegion, OwnedFd)>,
}

impl GuestMemory {
    pub(crate) fn new(regions: Vec<MemoryRegion>, files: Vec<OwnedFd>) -> GuestMemory {
        GuestMemory { regions: regions.into_iter().zip(files).collect() }
    }

    /// Maps extents in one piece, and takes its mappings out of the budget until it is unmapped.
    pub(crate) fn map(&self, extents: &[Extent], budget: &Budget) -> Result<Mapping, RegionError> {
        let mut parts: Vec<FilePart<'_>> = Vec::new();
        let mut total = 0_u64;
        let mut next_addr = None;
        for extent in extents {
            let page = PAGE_BYTES as u64;
            if extent.len == 0 || !extent.len.is_multiple_of(page) || !extent.guest_addr.is_multiple_of(page)
            {
                return Err(RegionError::Unaligned(*extent));
            }
            total = total.saturating_add(extent.len);
            if total > MAX_REGION_BYTES {
                return Err(RegionError::TooLong(total));
            }
            let part = self.locate(extent).ok_or(RegionError::OutsideMemory(*extent))?;
            match parts.last_mut() {
                // The next page of the guest's, and of the same file.
                Some(last)
                    if next_addr == Some(extent.guest_addr)
                        && same_file(last, &part)
                        && last.offset + last.len as u64 == part.offset =>
                {
                    last.len += part.len;
                }
                _ => parts.push(part),
            }
            next_addr = extent.guest_addr.checked_add(extent.len);
        }
        if parts.is_empty() {
            return Err(RegionError::Empty);
        }
        let taken = budget.take(parts.len()).ok_or(RegionError::TooManyMappings)?;
        let mapping = Mapping::of_files(&parts)?;
        mapping.after_unmap(move || drop(taken));
        Ok(mapping)
    }

    fn locate(&self, extent: &Extent) -> Option<FilePart<'_>> {
        let end = extent.guest_addr.checked_add(extent.len)?;
        self.regions.iter().find_map(|(region, file)| {
            let inside = extent.guest_addr.checked_sub(region.guest_addr)?;
            let region_end = region.guest_addr.checked_add(region.len)?;
            if end > region_end {
                return None;
            }
            let offset = region.file_offset.checked_add(inside)?;
            Some(FilePart { file: file.as_fd(), offset, len: usize::try_from(extent.len).ok()? })
        })
    }
}

fn same_file(a: &FilePart<'_>, b: &FilePart<'_>) -> bool {
    use std::os::fd::AsRawFd;
    a.file.as_raw_fd() == b.file.as_raw_fd()
}

/// What a guest may take of something, such as the mappings that one vGPU may have.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    used: Arc<AtomicUsize>,
    limit: usize,
}

/// Some of them, given back when dropped.
#[derive(Debug)]
pub(crate) struct Taken {
    used: Arc<AtomicUsize>,
    count: usize,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Budget {
        Budget { used: Arc::default(), limit }
    }

    pub(crate) fn take(&self, count: usize) -> Option<Taken> {
        let taken = Taken { used: Arc::clone(&self.used), count };
        // If that was too many, dropping `taken` gives them back.
        let before = self.used.fetch_add(count, Ordering::Relaxed);
        (before.saturating_add(count) <= self.limit).then_some(taken)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.used.fetch_sub(self.count, Ordering::Relaxed);
    }
}

/// The regions of a context. The control side adds and removes them while the ring's thread uses them.
#[derive(Debug, Default)]
pub struct Regions {
    by_id: Mutex<HashMap<u32, Arc<Mapping>>>,
    added: Condvar,
    patience: Duration,
}

impl Regions {
    /// No regions. `patience` is how long a command waits for a region that is not there: a command overtakes
    /// the message that adds its region if the guest is quick, because the one goes through shared memory and
    /// the other through the broker.
    pub fn new(patience: Duration) -> Regions {
        Regions { patience, ..Regions::default() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Arc<Mapping>>> {
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a region; the one that had this id before, if any, is no longer found.
    pub fn add(&self, id: u32, mapping: Arc<Mapping>) {
        self.lock().insert(id, mapping);
        self.added.notify_all();
    }

    /// Forgets a region. Commands in flight may still use it.
    pub fn remove(&self, id: u32) -> Option<Arc<Mapping>> {
        self.lock().remove(&id)
    }

    /// Forgets all regions.
    pub fn clear(&self) {
        let all = std::mem::take(&mut *self.lock());
        // Outside of the lock: unmapping may send messages.
        drop(all);
    }

    /// A region by its id.
    pub fn get(&self, id: u32) -> Result<Arc<Mapping>, Fault> {
        let mut by_id = self.lock();
        let mut until = None;
        loop {
            if let Some(mapping) = by_id.get(&id) {
                return Ok(Arc::clone(mapping));
            }
            let now = Instant::now();
            let left = until.get_or_insert(now + self.patience).saturating_duration_since(now);
            if left.is_zero() {
                return Err(Fault::UnknownRegion);
            }
            by_id = self.added.wait_timeout(by_id, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The bytes that a span names.
    pub fn window(&self, span: &Span) -> Result<Window, Fault> {
        if span.reserved.get() != 0 {
            return Err(Fault::Reserved);
        }
        let mapping = self.get(span.region.get())?;
        Window::new(mapping, span.offset.get(), span.len.get()).ok_or(Fault::OutOfRegion)
    }

    /// The slot that is named, if any.
    pub fn slot(&self, slot: &SlotRef) -> Result<Option<Window>, Fault> {
        if slot.is_none() {
            return Ok(None);
        }
        let offset = slot.offset.get();
        if !offset.is_multiple_of(SLOT_BYTES) {
            return Err(Fault::OutOfRegion);
        }
        let mapping = self.get(slot.region.get())?;
        Window::new(mapping, offset.into(), SLOT_BYTES.into()).map(Some).ok_or(Fault::OutOfRegion)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    fn memory(pages: u64) -> GuestMemory {
        let file = memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, pages * 4096).unwrap();
        let region = MemoryRegion { guest_addr: 0x10000, len: pages * 4096, file_offset: 0 };
        GuestMemory::new(vec![region], vec![file])
    }

    fn extent(page: u64, pages: u64) -> Extent {
        Extent { guest_addr: 0x10000 + page * 4096, len: pages * 4096 }
    }

    #[test]
    fn neighbouring_extents_take_one_mapping() {
        let budget = Budget::new(2);
        let mapping = memory(8).map(&[extent(0, 1), extent(1, 2), extent(6, 1)], &budget).unwrap();
        assert_eq!(mapping.len(), 4 * 4096);
        assert!(budget.take(1).is_none());
        drop(mapping);
        assert!(budget.take(2).is_some());
    }

    #[test]
    fn extents_outside_of_guest_memory_are_refused() {
        let budget = Budget::new(10);
        for bad in [
            extent(8, 1),
            extent(7, 2),
            Extent { guest_addr: 0, len: 4096 },
            Extent { guest_addr: u64::MAX - 4095, len: 4096 },
            Extent { guest_addr: 0x10000, len: 100 },
            Extent { guest_addr: 0x10001, len: 4096 },
            Extent { guest_addr: 0x10000, len: 0 },
            Extent { guest_addr: 0x10000, len: !4095 },
        ] {
            assert!(memory(8).map(&[bad], &budget).is_err(), "{bad:?}");
        }
        assert!(memory(8).map(&[], &budget).is_err());
        assert!(budget.take(10).is_some(), "failures take nothing");
    }

    #[test]
    fn slots_and_spans_stay_in_their_region() {
        let regions = Regions::default();
        regions.add(7, Arc::new(Mapping::anonymous(4096).unwrap()));
        assert!(regions.slot(&SlotRef::NONE).unwrap().is_none());
        assert!(regions.slot(&SlotRef::new(7, 4096 - 64)).unwrap().is_some());
        assert_eq!(regions.slot(&SlotRef::new(7, 4096)).unwrap_err(), Fault::OutOfRegion);
        assert_eq!(regions.slot(&SlotRef::new(7, 32)).unwrap_err(), Fault::OutOfRegion);
        assert_eq!(regions.slot(&SlotRef::new(8, 0)).unwrap_err(), Fault::UnknownRegion);
        assert_eq!(regions.window(&Span::new(7, 4000, 97)).unwrap_err(), Fault::OutOfRegion);
        assert_eq!(regions.window(&Span::new(7, u64::MAX, 2)).unwrap_err(), Fault::OutOfRegion);
        let bad = Span { reserved: 1.into(), ..Span::new(7, 0, 1) };
        assert_eq!(regions.window(&bad).unwrap_err(), Fault::Reserved);
    }

    #[test]
    fn a_command_that_overtakes_its_region_waits_for_it() {
        let regions = Arc::new(Regions::new(Duration::from_secs(10)));
        let late = regions.clone();
        let adder = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            late.add(3, Arc::new(Mapping::anonymous(4096).unwrap()));
        });
        assert!(regions.get(3).is_ok());
        adder.join().unwrap();
    }
}
