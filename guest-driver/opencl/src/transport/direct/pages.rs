//! Which pages of the shared memory are in use. Numbers only: nothing here touches memory.

use std::collections::BTreeMap;
use std::ops::Range;

/// Unit of allocation. The host maps regions, so they start and end on its pages.
pub(super) const PAGE: u64 = 4096;

/// The free ranges of a span of bytes, handed out first fit. Neighbours are always merged, so freeing everything
/// gives back the whole span in one piece.
#[derive(Debug)]
pub(super) struct Pages {
    span: Range<u64>,
    /// Start to end of every free range; no two of them touch.
    free: BTreeMap<u64, u64>,
}

impl Pages {
    /// All of `span`, which must start and end on a page, free.
    pub(super) fn new(span: Range<u64>) -> Pages {
        debug_assert!(span.start.is_multiple_of(PAGE) && span.end.is_multiple_of(PAGE));
        let mut free = BTreeMap::new();
        if !span.is_empty() {
            free.insert(span.start, span.end);
        }
        Pages { span, free }
    }

    /// Takes a range of at least `bytes` bytes, rounded up to whole pages; `None` if there is none.
    pub(super) fn allocate(&mut self, bytes: u64) -> Option<Range<u64>> {
        let bytes = bytes.max(1).checked_next_multiple_of(PAGE)?;
        let (&start, &end) = self.free.iter().find(|&(start, end)| end - start >= bytes)?;
        self.free.remove(&start);
        let taken = start..start + bytes;
        if taken.end < end {
            self.free.insert(taken.end, end);
        }
        Some(taken)
    }

    /// Gives a range back. False, and nothing changes, if it is not a range that was handed out (some of it is
    /// free, or outside the span).
    pub(super) fn free(&mut self, range: Range<u64>) -> bool {
        if range.is_empty() || range.start < self.span.start || range.end > self.span.end {
            return false;
        }
        let before = self.free.range(..=range.start).next_back().map(|(&start, &end)| start..end);
        let after = self.free.range(range.start..).next().map(|(&start, &end)| start..end);
        if before.as_ref().is_some_and(|before| before.end > range.start)
            || after.as_ref().is_some_and(|after| after.start < range.end)
        {
            return false;
        }
        let mut merged = range;
        if let Some(before) = before.filter(|before| before.end == merged.start) {
            self.free.remove(&before.start);
            merged.start = before.start;
        }
        if let Some(after) = after.filter(|after| after.start == merged.end) {
            self.free.remove(&after.start);
            merged.end = after.end;
        }
        self.free.insert(merged.start, merged.end);
        true
    }

    /// Bytes that are free.
    pub(super) fn available(&self) -> u64 {
        self.free.iter().map(|(start, end)| end - start).sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Allocate(u64),
        Free(prop::sample::Index),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0..20 * PAGE).prop_map(Step::Allocate),
            any::<prop::sample::Index>().prop_map(Step::Free),
        ];
        prop::collection::vec(step, 0..200)
    }

    proptest! {
        #[test]
        fn live_ranges_never_overlap_and_all_comes_back(steps in steps()) {
            let span = 16 * PAGE..144 * PAGE;
            let mut pages = Pages::new(span.clone());
            let mut live: Vec<Range<u64>> = Vec::new();
            for step in steps {
                match step {
                    Step::Allocate(bytes) => {
                        let Some(range) = pages.allocate(bytes) else { continue };
                        prop_assert!(range.start >= span.start && range.end <= span.end);
                        prop_assert!(range.end - range.start >= bytes && range.start.is_multiple_of(PAGE));
                        for other in &live {
                            prop_assert!(range.end <= other.start || other.end <= range.start);
                        }
                        live.push(range);
                    }
                    Step::Free(index) => {
                        if live.is_empty() { continue }
                        let range = live.swap_remove(index.index(live.len()));
                        prop_assert!(pages.free(range.clone()));
                        prop_assert!(!pages.free(range), "a range can be freed once");
                    }
                }
                let used: u64 = live.iter().map(|range| range.end - range.start).sum();
                prop_assert_eq!(used + pages.available(), span.end - span.start);
            }
            for range in live {
                prop_assert!(pages.free(range));
            }
            prop_assert_eq!(pages.allocate(span.end - span.start), Some(span));
        }
    }

    #[test]
    fn what_was_not_handed_out_is_not_taken_back() {
        let mut pages = Pages::new(0..8 * PAGE);
        let taken = pages.allocate(4 * PAGE).unwrap();
        assert!(!pages.free(taken.start..taken.end + PAGE));
        assert!(!pages.free(6 * PAGE..7 * PAGE));
        assert!(!pages.free(0..0));
        assert!(!pages.free(0..u64::MAX));
        assert!(pages.free(taken));
    }

    #[test]
    fn a_request_that_does_not_fit_changes_nothing() {
        let mut pages = Pages::new(0..8 * PAGE);
        assert_eq!(pages.allocate(9 * PAGE), None);
        assert_eq!(pages.allocate(u64::MAX), None);
        assert_eq!(pages.available(), 8 * PAGE);
        assert_eq!(Pages::new(PAGE..PAGE).allocate(1), None);
    }
}
