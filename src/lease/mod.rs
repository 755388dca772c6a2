//! The page that an executor shares with the scheduler: leases on devices, and what is used of them.
//!
//! The executor may write anything here. The scheduler takes the [words](word) as requests and the numbers as claims: it
//! knows by itself to whom it has lent what, and for how long.

pub mod trace;
pub mod word;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use paragpu_protocol::limits::{MAX_CONTEXTS, MAX_DEVICES};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fstat, ftruncate, memfd_create};

use crate::sys::map::{FilePart, Mapping, PAGE_BYTES};

/// Bytes of each entry: a cache line, so that writers do not disturb each other.
const ENTRY_BYTES: usize = 64;

/// The entry for the whole executor comes first, then one for each device, then one for each context.
const DEVICES_AT: usize = ENTRY_BYTES;
const CONTEXTS_AT: usize = DEVICES_AT + MAX_DEVICES * ENTRY_BYTES;
const RECORDS_AT: usize = (CONTEXTS_AT + MAX_CONTEXTS * ENTRY_BYTES).next_multiple_of(PAGE_BYTES);
/// Pages that nobody touches cost nothing: the records, as long as nobody wants them.
const BYTES: usize = (RECORDS_AT + trace::RECORDS * trace::RECORD_BYTES).next_multiple_of(PAGE_BYTES);

/// Where in the first entry it says that records are wanted, and how many there are.
const TRACING_AT: usize = 0;
const RECORD_COUNT_AT: usize = 56;

/// What an entry counts, in the order of its words. All only grow, but for the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// Nanoseconds of device time. Of devices and contexts.
    DeviceNanos = 1,
    /// Kernels launched. Of contexts and in total.
    Launches = 2,
    /// Bytes to the device. Of contexts and in total.
    BytesTo = 3,
    /// Bytes from the device. Of contexts and in total.
    BytesFrom = 4,
    /// Device memory in use, in bytes. Of contexts and in total.
    Memory = 5,
    /// Commands that have landed. Of devices.
    Landed = 6,
}

/// The page.
#[derive(Clone, Debug)]
pub struct LeasePage {
    mapping: Arc<Mapping>,
}

impl LeasePage {
    /// A new page, and the descriptor to give to an executor. Nobody can shorten the file, so that neither side can make
    /// the other's access fail.
    pub fn create() -> io::Result<(LeasePage, OwnedFd)> {
        let file = memfd_create("paragpu-lease", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&file, BYTES as u64)?;
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok((LeasePage::map(&file)?, file))
    }

    /// The executor's view of it.
    pub fn open(file: &OwnedFd) -> io::Result<LeasePage> {
        if fstat(file)?.st_size < BYTES as i64 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a lease page that is too short"));
        }
        LeasePage::map(file)
    }

    fn map(file: &OwnedFd) -> io::Result<LeasePage> {
        let part = FilePart { file: file.as_fd(), offset: 0, len: BYTES };
        Ok(LeasePage { mapping: Arc::new(Mapping::of_files(&[part])?) })
    }

    /// The lease on a device.
    pub fn lease(&self, device: usize) -> &AtomicU32 {
        // Of a device beyond the last there is no lease that anybody looks at.
        static NOWHERE: AtomicU32 = AtomicU32::new(0);
        let at = DEVICES_AT + device * ENTRY_BYTES;
        (device < MAX_DEVICES).then(|| self.mapping.word(at)).flatten().unwrap_or(&NOWHERE)
    }

    /// A count of a device.
    pub fn device(&self, device: usize, count: Count) -> &AtomicU64 {
        self.long(DEVICES_AT, device, MAX_DEVICES, count)
    }

    /// A count of a context, by the place that the broker gave it.
    pub fn context(&self, place: usize, count: Count) -> &AtomicU64 {
        self.long(CONTEXTS_AT, place, MAX_CONTEXTS, count)
    }

    /// A count of the whole executor.
    pub fn total(&self, count: Count) -> &AtomicU64 {
        self.long(0, 0, 1, count)
    }

    /// Clears a context's entry, for the next one.
    pub fn clear_context(&self, place: usize) {
        use Count::{BytesFrom, BytesTo, DeviceNanos, Launches, Memory};
        for count in [DeviceNanos, Launches, BytesTo, BytesFrom, Memory] {
            self.context(place, count).store(0, Ordering::Relaxed);
        }
    }

    fn tracing_word(&self) -> &AtomicU32 {
        static NOWHERE: AtomicU32 = AtomicU32::new(0);
        self.mapping.word(TRACING_AT).unwrap_or(&NOWHERE)
    }

    fn record_count(&self) -> &AtomicU64 {
        static NOWHERE: AtomicU64 = AtomicU64::new(0);
        self.mapping.long(RECORD_COUNT_AT).unwrap_or(&NOWHERE)
    }

    fn write_record(&self, index: usize, bytes: &[u8]) {
        let whole = self.mapping.write(RECORDS_AT + index * trace::RECORD_BYTES, bytes);
        debug_assert!(whole, "the records are in the page");
    }

    fn read_record(&self, index: usize, bytes: &mut [u8]) -> bool {
        self.mapping.read(RECORDS_AT + index * trace::RECORD_BYTES, bytes)
    }

    fn long(&self, start: usize, index: usize, most: usize, count: Count) -> &AtomicU64 {
        static NOWHERE: AtomicU64 = AtomicU64::new(0);
        let at = start + index * ENTRY_BYTES + count as usize * size_of::<u64>();
        (index < most).then(|| self.mapping.long(at)).flatten().unwrap_or(&NOWHERE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_see_the_same_entries_and_none_overlap() {
        let (ours, file) = LeasePage::create().unwrap();
        let theirs = LeasePage::open(&file).unwrap();
        ours.lease(MAX_DEVICES - 1).store(3, Ordering::Relaxed);
        assert_eq!(theirs.lease(MAX_DEVICES - 1).load(Ordering::Relaxed), 3);
        let all = || {
            let counts =
                [Count::DeviceNanos, Count::Launches, Count::BytesTo, Count::BytesFrom, Count::Memory];
            let of_devices =
                (0..MAX_DEVICES).flat_map(move |device| counts.map(|count| (device, false, count)));
            of_devices
                .chain((0..MAX_CONTEXTS).flat_map(move |place| counts.map(|count| (place, true, count))))
        };
        let at = |page: &LeasePage, (index, of_context, count)| -> *const AtomicU64 {
            if of_context { page.context(index, count) } else { page.device(index, count) }
        };
        let mut places: Vec<_> = all().map(|entry| at(&ours, entry)).collect();
        let count = places.len();
        places.sort();
        places.dedup();
        assert_eq!(places.len(), count);
        ours.context(MAX_CONTEXTS - 1, Count::Memory).store(9, Ordering::Relaxed);
        assert_eq!(theirs.context(MAX_CONTEXTS - 1, Count::Memory).load(Ordering::Relaxed), 9);
        theirs.clear_context(MAX_CONTEXTS - 1);
        assert_eq!(ours.context(MAX_CONTEXTS - 1, Count::Memory).load(Ordering::Relaxed), 0);
    }

    #[test]
    fn neither_side_can_shorten_it_and_a_short_one_is_refused() {
        let (_, file) = LeasePage::create().unwrap();
        assert!(ftruncate(&file, 0).is_err());
        let short = memfd_create("short", MemfdFlags::CLOEXEC).unwrap();
        assert!(LeasePage::open(&short).is_err());
    }
}
