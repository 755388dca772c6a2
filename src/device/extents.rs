//! From the extents that a guest claims to extents that are checked against its memory.

use paragpu_protocol::limits::MAX_MAPPINGS;

use crate::executor::message::Extent;

/// Pages are what regions are made of.
pub const PAGE_BYTES: u64 = 4096;

/// What the device needs to know of guest memory.
pub trait GuestView {
    /// End (exclusive) of the memory region that has the address `addr`, or `None` if none has.
    fn region_end(&self, addr: u64) -> Option<u64>;
    /// Loads an aligned word of guest memory.
    fn load(&self, addr: u64) -> Option<u32>;
    /// Stores an aligned word of guest memory. False if there is none.
    fn store(&self, addr: u64, value: u32) -> bool;
}

/// Why a resource's backing was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExtentError {
    /// Address or length is not a multiple of a page, or a memory region is not.
    #[error("backing is not page-aligned")]
    Misaligned,
    /// An extent of length zero.
    #[error("empty backing extent")]
    Empty,
    /// An extent that wraps around, or is not guest memory.
    #[error("backing outside of guest memory")]
    Outside,
    /// The extents together are smaller than the resource.
    #[error("backing is smaller than its resource")]
    TooShort,
    /// More extents than one vGPU may have.
    #[error("backing has too many extents")]
    TooMany,
}

/// Checks every extent, joins neighbours and splits at the ends of memory regions, so that each result is one
/// mapping of one file. Pages beyond the resource's size are checked and dropped.
pub fn check(
    entries: impl Iterator<Item = (u64, u32)>,
    bytes: u64,
    memory: &impl GuestView,
) -> Result<Vec<Extent>, ExtentError> {
    let mut wanted = bytes.next_multiple_of(PAGE_BYTES);
    let mut extents: Vec<Extent> = Vec::new();
    for (mut addr, len) in entries {
        let mut len = u64::from(len);
        if len == 0 {
            return Err(ExtentError::Empty);
        }
        if !addr.is_multiple_of(PAGE_BYTES) || !len.is_multiple_of(PAGE_BYTES) {
            return Err(ExtentError::Misaligned);
        }
        addr.checked_add(len).ok_or(ExtentError::Outside)?;
        while len > 0 {
            let end = memory.region_end(addr).ok_or(ExtentError::Outside)?;
            let piece = len.min(end.checked_sub(addr).ok_or(ExtentError::Outside)?);
            if piece == 0 || !piece.is_multiple_of(PAGE_BYTES) {
                return Err(ExtentError::Misaligned);
            }
            let used = piece.min(wanted);
            let full = extents.len() == MAX_MAPPINGS;
            match extents.last_mut() {
                _ if used == 0 => {}
                // A neighbour at or beyond `end` lies in another region, thus in another file.
                Some(last)
                    if last.guest_addr + last.len == addr
                        && memory.region_end(last.guest_addr) == Some(end) =>
                {
                    last.len += used;
                }
                _ if full => return Err(ExtentError::TooMany),
                _ => extents.push(Extent { guest_addr: addr, len: used }),
            }
            wanted -= used;
            addr += piece;
            len -= piece;
        }
    }
    if wanted > 0 { Err(ExtentError::TooShort) } else { Ok(extents) }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, proptest};
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    /// Guest memory without a guest: regions as (start, end), and words.
    #[derive(Debug, Default)]
    pub(crate) struct FakeMemory {
        pub(crate) regions: Vec<(u64, u64)>,
        pub(crate) words: RefCell<BTreeMap<u64, u32>>,
    }

    impl FakeMemory {
        /// A hole between the first two regions; the second and third touch.
        pub(crate) fn new() -> FakeMemory {
            let regions = vec![(0, 0xa_0000), (0x10_0000, 0x20_0000), (0x20_0000, 0x40_0000)];
            FakeMemory { regions, words: RefCell::default() }
        }
    }

    impl GuestView for FakeMemory {
        fn region_end(&self, addr: u64) -> Option<u64> {
            self.regions.iter().find(|(start, end)| (*start..*end).contains(&addr)).map(|(_, end)| *end)
        }
        fn load(&self, addr: u64) -> Option<u32> {
            self.region_end(addr)?;
            Some(self.words.borrow().get(&addr).copied().unwrap_or(0))
        }
        fn store(&self, addr: u64, value: u32) -> bool {
            self.words.borrow_mut().insert(addr, value);
            self.region_end(addr).is_some()
        }
    }

    fn checked(entries: &[(u64, u32)], bytes: u64) -> Result<Vec<(u64, u64)>, ExtentError> {
        check(entries.iter().copied(), bytes, &FakeMemory::new())
            .map(|extents| extents.iter().map(|extent| (extent.guest_addr, extent.len)).collect())
    }

    #[test]
    fn neighbours_are_joined_and_surplus_is_dropped() {
        let entries = [(0x1000, 0x1000), (0x2000, 0x2000), (0x8000, 0x4000)];
        assert_eq!(checked(&entries, 0x4001), Ok(vec![(0x1000, 0x3000), (0x8000, 0x2000)]));
    }

    #[test]
    fn an_extent_across_two_regions_is_split_where_the_file_ends() {
        let whole = Ok(vec![(0x1f_f000, 0x1000), (0x20_0000, 0x1000)]);
        assert_eq!(checked(&[(0x1f_f000, 0x2000)], 0x2000), whole);
        assert_eq!(checked(&[(0x1f_f000, 0x1000), (0x20_0000, 0x1000)], 0x2000), whole);
    }

    #[test]
    fn each_mistake_has_its_error() {
        assert_eq!(checked(&[(0x1000, 0)], 1), Err(ExtentError::Empty));
        assert_eq!(checked(&[(0x1001, 0x1000)], 1), Err(ExtentError::Misaligned));
        assert_eq!(checked(&[(0x1000, 0x800)], 1), Err(ExtentError::Misaligned));
        assert_eq!(checked(&[(0x9_f000, 0x2000)], 1), Err(ExtentError::Outside));
        assert_eq!(checked(&[(0xa_0000, 0x1000)], 1), Err(ExtentError::Outside));
        assert_eq!(checked(&[(!0xfff, 0x1000)], 1), Err(ExtentError::Outside));
        assert_eq!(checked(&[(!0xfff, 0x2000)], 1), Err(ExtentError::Outside));
        assert_eq!(checked(&[(0x1000, 0x1000)], 0x1001), Err(ExtentError::TooShort));
        assert_eq!(checked(&[], 1), Err(ExtentError::TooShort));
        let scattered: Vec<_> = (0..=MAX_MAPPINGS as u64).map(|i| (0x1000 * (i % 2 * 2), 0x1000)).collect();
        assert_eq!(checked(&scattered, u64::from(u32::MAX)), Err(ExtentError::TooMany));
    }

    proptest! {
        #[test]
        fn whatever_passes_is_inside_of_one_region_and_adds_up(
            entries in proptest::collection::vec(
                (
                    (0_u64..0x420).prop_map(|page| page << 12),
                    proptest::prop_oneof![(0_u32..40).prop_map(|pages| pages << 12), any::<u32>()],
                ),
                0..20,
            ),
            bytes in 1_u64..0x40_0000,
        ) {
            let memory = FakeMemory::new();
            if let Ok(extents) = check(entries.into_iter(), bytes, &memory) {
                for extent in &extents {
                    let end = extent.guest_addr + extent.len;
                    prop_assert!(extent.len > 0);
                    prop_assert!(memory.region_end(extent.guest_addr).is_some_and(|limit| end <= limit));
                    prop_assert!(extent.guest_addr.is_multiple_of(4096) && extent.len.is_multiple_of(4096));
                }
                let total: u64 = extents.iter().map(|extent| extent.len).sum();
                prop_assert_eq!(total, bytes.next_multiple_of(4096));
            }
        }
    }
}
