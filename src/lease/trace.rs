//! What an executor tells of each command while somebody wants a timeline: the last few thousand that have landed.

use std::sync::atomic::Ordering;

use super::LeasePage;

/// Records that are kept; whoever reads too late misses the oldest.
pub(super) const RECORDS: usize = 4096;
/// Bytes of a record.
pub(super) const RECORD_BYTES: usize = 64;
/// Bytes of a name; longer ones are cut.
const NAME_BYTES: usize = 40;

/// A command that has landed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// When the device began with it, in nanoseconds of the monotonic clock, as well as the executor knows.
    pub begin: u64,
    /// When it landed.
    pub end: u64,
    /// Place of its context in the page; `None` if it has none.
    pub place: Option<u16>,
    /// The executor's number of the device.
    pub device: u16,
    /// The kernel's name, or the command's.
    pub name: String,
}

/// Nanoseconds of the monotonic clock.
pub fn now() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    (now.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec as u64)
}

impl LeasePage {
    /// Turns recording on or off.
    pub fn set_tracing(&self, on: bool) {
        self.tracing_word().store(u32::from(on), Ordering::Relaxed);
    }

    /// True while somebody wants records.
    pub fn is_tracing(&self) -> bool {
        self.tracing_word().load(Ordering::Relaxed) != 0
    }

    /// Adds a record.
    pub fn record(&self, record: &Record) {
        let mut bytes = [0; RECORD_BYTES];
        bytes[..8].copy_from_slice(&record.begin.to_le_bytes());
        bytes[8..16].copy_from_slice(&record.end.to_le_bytes());
        bytes[16..18].copy_from_slice(&record.place.map_or(0, |place| place + 1).to_le_bytes());
        bytes[18..20].copy_from_slice(&record.device.to_le_bytes());
        let name = &record.name.as_bytes()[..record.name.len().min(NAME_BYTES)];
        bytes[20] = name.len() as u8;
        bytes[24..24 + name.len()].copy_from_slice(name);
        let number = self.record_count().fetch_add(1, Ordering::AcqRel);
        self.write_record(number as usize % RECORDS, &bytes);
    }

    /// The records since `seen` were counted, and how many there are now. Whoever writes them may write anything: what is
    /// read is plain numbers and text.
    pub fn records_since(&self, seen: u64) -> (Vec<Record>, u64) {
        let count = self.record_count().load(Ordering::Acquire);
        let new = count.saturating_sub(seen).min(RECORDS as u64);
        let records = (count - new..count).filter_map(|number| {
            let mut bytes = [0; RECORD_BYTES];
            self.read_record(number as usize % RECORDS, &mut bytes).then(|| parse(&bytes))
        });
        (records.collect(), count)
    }
}

fn parse(bytes: &[u8; RECORD_BYTES]) -> Record {
    let long = |at: usize| u64::from_le_bytes(std::array::from_fn(|index| bytes[at + index]));
    let short = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    let name = &bytes[24..24 + usize::from(bytes[20]).min(NAME_BYTES)];
    Record {
        begin: long(0),
        end: long(8),
        place: short(16).checked_sub(1),
        device: short(18),
        name: crate::guest_log::printable(&String::from_utf8_lossy(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_once_and_the_oldest_are_lost_first() {
        let (ours, file) = LeasePage::create().unwrap();
        let theirs = LeasePage::open(&file).unwrap();
        assert!(!theirs.is_tracing());
        ours.set_tracing(true);
        assert!(theirs.is_tracing());
        let record = |number: u64| Record {
            begin: number,
            end: number + 1,
            place: (number % 2 == 1).then_some(number as u16),
            device: 3,
            name: format!("kernel {number}"),
        };
        for number in 0..3 {
            theirs.record(&record(number));
        }
        let (records, seen) = ours.records_since(0);
        assert_eq!((records, seen), ((0..3).map(record).collect::<Vec<_>>(), 3));
        let many = RECORDS as u64 + 10;
        for number in 3..3 + many {
            theirs.record(&record(number));
        }
        let (records, now) = ours.records_since(seen);
        assert_eq!((records.len(), now), (RECORDS, 3 + many));
        assert_eq!(records.last(), Some(&record(2 + many)));
        assert_eq!(ours.records_since(now).0, []);
    }

    #[test]
    fn nonsense_is_read_as_text_and_numbers() {
        let (page, _file) = LeasePage::create().unwrap();
        page.write_record(0, &[0xff; RECORD_BYTES]);
        page.record_count().store(u64::MAX, Ordering::Relaxed);
        let (records, seen) = page.records_since(u64::MAX - 1);
        assert_eq!((records.len(), seen), (1, u64::MAX));
        assert!(page.records_since(0).0.iter().all(|record| record.name.chars().count() <= NAME_BYTES));
        let long = Record { name: "é".repeat(100), ..Record::default() };
        page.record(&long);
    }
}
