//! Requests in flight, written down where they outlive this process: vhost-user's "Inflight I/O tracking" for split
//! virtqueues.
//!
//! The front end keeps the memory and gives it to the next back end, which so learns what was taken from the queues and never
//! answered. What is in there is the front end's word, and maybe nonsense.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use paragpu_protocol::virtio_gpu::QUEUES;
use rustix::fs::{MemfdFlags, memfd_create};
use vm_memory::{AtomicAccess, Bytes, GuestAddress};

use super::memory::{GuestRam, MemoryError, RegionInfo};
use super::queue::MAX_QUEUE_SIZE;

/// Bytes before the entries of a queue: features (u64), version, number of entries, head of the last batch that was given
/// back, and the used index then (u16 each).
const HEADER_BYTES: u64 = 16;
const VERSION_AT: u64 = 8;
const ENTRIES_AT: u64 = 10;
const LAST_HEAD_AT: u64 = 12;
const USED_INDEX_AT: u64 = 14;

/// Bytes of an entry, of which there is one for each descriptor: in flight (u8), next of its batch (u16), counter (u64).
const ENTRY_BYTES: u64 = 16;
const NEXT_AT: u64 = 6;
const COUNTER_AT: u64 = 8;

/// Each queue's part starts at a multiple of this.
const ALIGNMENT: u64 = 64;
const VERSION: u16 = 1;

/// Why an area is refused.
#[derive(Debug, thiserror::Error)]
pub enum InflightError {
    /// More queues or entries than there can be, or none.
    #[error("in-flight tracking for {queues} queues of {queue_size} entries")]
    Shape {
        /// Number of queues.
        queues: u16,
        /// Entries of each.
        queue_size: u16,
    },
    /// Too small for its queues.
    #[error("the in-flight area has {have} bytes, of {needed}")]
    TooSmall {
        /// What it should have.
        needed: u64,
        /// What it has.
        have: u64,
    },
    /// Written by another version, or for other queues.
    #[error("the in-flight area is of version {version}, for queues of {entries} entries")]
    Foreign {
        /// Its version.
        version: u16,
        /// Entries of its queues.
        entries: u16,
    },
    /// It cannot be made or mapped.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

/// An area for all queues.
#[derive(Debug)]
pub struct Area {
    ram: Arc<GuestRam>,
    queues: u16,
    queue_size: u16,
}

impl Area {
    /// A new file for an area, and its length.
    pub fn create(queues: u16, queue_size: u16) -> Result<(File, u64), InflightError> {
        let len = len_of(queues, queue_size)?;
        let file = memfd_create("paragpu-in-flight", MemfdFlags::CLOEXEC).map_err(io::Error::from);
        let file = File::from(file.map_err(MemoryError::from)?);
        file.set_len(len).map_err(MemoryError::from)?;
        Ok((file, len))
    }

    /// Maps an area.
    pub fn map(
        queues: u16,
        queue_size: u16,
        file: File,
        offset: u64,
        have: u64,
    ) -> Result<Area, InflightError> {
        let needed = len_of(queues, queue_size)?;
        if have < needed {
            return Err(InflightError::TooSmall { needed, have });
        }
        // The same care as with guest memory: its file can be cut short at any time.
        let info = RegionInfo { guest_addr: 0, len: needed, user_addr: 0, file_offset: offset };
        let ram = Arc::new(GuestRam::from_table([(info, file)].into_iter())?);
        let area = Area { ram, queues, queue_size };
        (0..usize::from(queues))
            .filter_map(|index| area.queue(index))
            .try_for_each(|queue| queue.prepare())?;
        Ok(area)
    }

    /// The part of one queue.
    pub fn queue(&self, index: usize) -> Option<Tracker> {
        let at = part_bytes(self.queue_size) * index as u64;
        let is_there = index < usize::from(self.queues);
        is_there.then(|| Tracker { ram: self.ram.clone(), at, entries: self.queue_size, counter: 0 })
    }
}

fn len_of(queues: u16, queue_size: u16) -> Result<u64, InflightError> {
    let usual = (1..=QUEUES).contains(&usize::from(queues)) && (1..=MAX_QUEUE_SIZE).contains(&queue_size);
    let len = part_bytes(queue_size) * u64::from(queues);
    if usual { Ok(len) } else { Err(InflightError::Shape { queues, queue_size }) }
}

fn part_bytes(queue_size: u16) -> u64 {
    (HEADER_BYTES + ENTRY_BYTES * u64::from(queue_size)).next_multiple_of(ALIGNMENT)
}

/// What is in flight of one queue.
#[derive(Debug)]
pub struct Tracker {
    ram: Arc<GuestRam>,
    at: u64,
    entries: u16,
    /// Numbers requests in the order in which they are taken.
    counter: u64,
}

impl Tracker {
    fn prepare(&self) -> Result<(), InflightError> {
        let (version, entries) = (self.get::<u16>(VERSION_AT), self.get::<u16>(ENTRIES_AT));
        if version == 0 {
            self.set(ENTRIES_AT, self.entries);
            self.set(VERSION_AT, VERSION);
        } else if (version, entries) != (VERSION, self.entries) {
            return Err(InflightError::Foreign { version, entries });
        }
        Ok(())
    }

    /// Whether it has an entry for each descriptor of a queue.
    pub(super) fn is_for(&self, queue_size: u16) -> bool {
        queue_size <= self.entries
    }

    /// The heads that were taken and never given back, in that order, for a queue that starts with these used and available
    /// indices. More than the driver has out cannot be: then the area is of other times, and forgotten.
    pub(super) fn left_over(&mut self, used: u16, available: u16) -> Vec<u16> {
        if self.get::<u16>(USED_INDEX_AT) != used {
            // The last one was given back, but there was no time to say so here.
            let head = self.get::<u16>(LAST_HEAD_AT);
            if head < self.entries {
                self.set(self.entry(head), 0_u8);
            }
            self.set(USED_INDEX_AT, used);
        }
        let is_out = |head: &u16| self.get::<u8>(self.entry(*head)) == 1;
        let counted = |head| (self.get::<u64>(self.entry(head) + COUNTER_AT), head);
        let mut left: Vec<_> = (0..self.entries).filter(is_out).map(counted).collect();
        if left.len() > usize::from(available.wrapping_sub(used)) {
            self.forget();
            return Vec::new();
        }
        left.sort_unstable();
        self.counter = left.last().map_or(0, |(counter, _)| counter.wrapping_add(1));
        left.into_iter().map(|(_, head)| head).collect()
    }

    /// A request was taken.
    pub(super) fn take(&mut self, head: u16) {
        if head < self.entries {
            self.set(self.entry(head) + COUNTER_AT, self.counter);
            self.counter = self.counter.wrapping_add(1);
            self.set(self.entry(head), 1_u8);
        }
    }

    /// A request is about to be given back.
    pub(super) fn giving_back(&mut self, head: u16) {
        if head < self.entries {
            self.set(self.entry(head) + NEXT_AT, self.get::<u16>(LAST_HEAD_AT));
            self.set(LAST_HEAD_AT, head);
        }
    }

    /// It is in the used ring, whose index is `used` now.
    pub(super) fn gave_back(&mut self, head: u16, used: u16) {
        if head < self.entries {
            self.set(self.entry(head), 0_u8);
            self.set(USED_INDEX_AT, used);
        }
    }

    /// Nothing is in flight any more.
    pub(super) fn forget(&mut self) {
        (0..self.entries).for_each(|head| self.set(self.entry(head), 0_u8));
    }

    fn entry(&self, head: u16) -> u64 {
        HEADER_BYTES + ENTRY_BYTES * u64::from(head)
    }

    fn get<T: AtomicAccess + Default>(&self, offset: u64) -> T {
        // All offsets are in the area, and aligned.
        self.ram.map().load(GuestAddress(self.at + offset), Ordering::Acquire).unwrap_or_default()
    }

    fn set<T: AtomicAccess>(&self, offset: u64, value: T) {
        let _ = self.ram.map().store(value, GuestAddress(self.at + offset), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SIZE: u16 = 8;

    fn area() -> (File, Area) {
        let (file, len) = Area::create(2, SIZE).unwrap();
        let area = Area::map(2, SIZE, file.try_clone().unwrap(), 0, len).unwrap();
        (file, area)
    }

    #[test]
    fn what_was_not_given_back_is_left_over_in_the_order_it_was_taken() {
        let (_file, area) = area();
        let mut tracker = area.queue(1).unwrap();
        [5, 2, 7].into_iter().for_each(|head| tracker.take(head));
        tracker.giving_back(2);
        tracker.gave_back(2, 1);
        assert_eq!(area.queue(1).unwrap().left_over(1, 3), [5, 7]);
        assert_eq!(area.queue(0).unwrap().left_over(0, 0), [0_u16; 0]);
    }

    #[test]
    fn what_was_given_back_just_before_the_end_is_not_left_over() {
        let (_file, area) = area();
        let mut tracker = area.queue(0).unwrap();
        [5, 2].into_iter().for_each(|head| tracker.take(head));
        tracker.giving_back(5);
        // It is in the used ring: the index there is 1.
        assert_eq!(area.queue(0).unwrap().left_over(1, 2), [2]);
        let mut next = area.queue(0).unwrap();
        assert_eq!(next.left_over(1, 2), [2], "and again");
        next.take(6);
        assert_eq!(area.queue(0).unwrap().left_over(1, 3), [2, 6], "later ones come after it");
    }

    #[test]
    fn an_area_of_other_times_is_forgotten() {
        let (_file, area) = area();
        let mut tracker = area.queue(0).unwrap();
        [1, 2, 3].into_iter().for_each(|head| tracker.take(head));
        assert_eq!(area.queue(0).unwrap().left_over(0, 2), [0_u16; 0], "the driver has two out");
        assert_eq!(area.queue(0).unwrap().left_over(0, 3), [0_u16; 0]);
    }

    #[test]
    fn areas_of_strange_shapes_are_refused() {
        for (queues, size) in [(0, 8), (3, 8), (2, 0), (2, MAX_QUEUE_SIZE + 1), (u16::MAX, u16::MAX)] {
            assert!(matches!(Area::create(queues, size), Err(InflightError::Shape { .. })));
        }
        let (file, len) = Area::create(2, SIZE).unwrap();
        let map = |size, offset, have| Area::map(2, size, file.try_clone().unwrap(), offset, have);
        assert!(matches!(map(SIZE, 0, len - 1), Err(InflightError::TooSmall { .. })));
        assert!(map(SIZE, u64::MAX - 4095, len).is_err());
        assert!(map(SIZE, 0, len).is_ok());
        assert!(matches!(map(SIZE - 1, 0, len), Err(InflightError::Foreign { .. })));
    }

    #[test]
    fn an_area_that_is_cut_short_is_empty() {
        let (file, area) = area();
        let mut tracker = area.queue(0).unwrap();
        tracker.take(1);
        file.set_len(0).unwrap();
        assert_eq!(area.queue(0).unwrap().left_over(0, 1), [0_u16; 0]);
    }

    proptest! {
        #[test]
        fn any_bytes_give_heads_of_the_queue_each_once(
            bytes in prop::collection::vec(any::<u8>(), part_bytes(SIZE) as usize),
            used: u16,
            out in 0..=SIZE,
        ) {
            let (_file, area) = area();
            area.ram.map().write_slice(&bytes, GuestAddress(0)).unwrap();
            let left = area.queue(0).unwrap().left_over(used, used.wrapping_add(out));
            prop_assert!(left.len() <= usize::from(out));
            let mut sorted = left.clone();
            sorted.sort_unstable();
            sorted.dedup();
            prop_assert!(sorted.len() == left.len() && left.iter().all(|head| *head < SIZE));
        }
    }
}
