//! Rectangles of buffers and of the application's memory (the specification, section 5.2.2).

use zerocopy::little_endian::U64;

use crate::core::error::{ClError, ClResult};

/// A rectangle: where it starts, its size, and how far its rows and slices are apart, all in bytes in the first
/// dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rect {
    pub(crate) origin: [usize; 3],
    pub(crate) region: [usize; 3],
    pub(crate) row_pitch: usize,
    pub(crate) slice_pitch: usize,
}

impl Rect {
    /// A rectangle with the pitches that the application gave; 0 for none between rows or slices.
    pub(crate) fn new(
        origin: [usize; 3],
        region: [usize; 3],
        row_pitch: usize,
        slice_pitch: usize,
    ) -> ClResult<Rect> {
        // CL_INVALID_VALUE if any region array element is 0.
        if region.contains(&0) {
            return Err(ClError::INVALID_VALUE);
        }
        // If row_pitch is 0, row_pitch is computed as region[0].
        let row_pitch = if row_pitch == 0 { region[0] } else { row_pitch };
        // CL_INVALID_VALUE if row_pitch is not 0 and is less than region[0].
        if row_pitch < region[0] {
            return Err(ClError::INVALID_VALUE);
        }
        // If slice_pitch is 0, slice_pitch is computed as region[1] x row_pitch.
        let least = region[1].checked_mul(row_pitch).ok_or(ClError::INVALID_VALUE)?;
        let slice_pitch = if slice_pitch == 0 { least } else { slice_pitch };
        // CL_INVALID_VALUE if slice_pitch is not 0 and is less than region[1] x row_pitch and not a multiple of
        // row_pitch.
        if slice_pitch < least || !slice_pitch.is_multiple_of(row_pitch) {
            return Err(ClError::INVALID_VALUE);
        }
        // What does not fit an address is outside of any memory.
        Rect { origin, region, row_pitch, slice_pitch }.checked().ok_or(ClError::INVALID_VALUE)
    }

    /// The rectangle, if it fits an address. Its rows must not overlap.
    pub(crate) fn checked(self) -> Option<Rect> {
        self.checked_end().map(|_| self)
    }

    fn checked_end(&self) -> Option<usize> {
        let last = |dim: usize| self.origin[dim].checked_add(self.region[dim])?.checked_sub(1);
        let slices = last(2)?.checked_mul(self.slice_pitch)?;
        let rows = last(1)?.checked_mul(self.row_pitch)?;
        slices.checked_add(rows)?.checked_add(last(0)?)?.checked_add(1)
    }

    /// One past the last byte.
    pub(crate) fn end(&self) -> usize {
        self.checked_end().expect("checked when it was made")
    }

    /// The first byte.
    pub(crate) fn start(&self) -> usize {
        self.origin[2] * self.slice_pitch + self.origin[1] * self.row_pitch + self.origin[0]
    }

    /// Bytes in a row.
    pub(crate) fn row_len(&self) -> usize {
        self.region[0]
    }

    /// Bytes in all rows; fits because rows do not overlap and `end` fits.
    pub(crate) fn len(&self) -> usize {
        self.region[0] * self.region[1] * self.region[2]
    }

    /// The first byte of each row, in the order in which a rectangle without gaps has them.
    pub(crate) fn rows(self) -> impl Iterator<Item = usize> {
        let start = self.start();
        (0..self.region[2]).flat_map(move |slice| {
            (0..self.region[1]).map(move |row| start + slice * self.slice_pitch + row * self.row_pitch)
        })
    }

    /// True if both rectangles share a byte, each lying in a part of one buffer that starts at its own base.
    /// Rectangles with gaps interleave, so it is not enough that their extents overlap.
    pub(crate) fn overlaps(&self, base: usize, other: &Rect, other_base: usize) -> bool {
        let meet = |a: usize, a_end: usize, b: usize, b_end: usize| a < b_end && b < a_end;
        let (start, end) = (base + self.start(), base + self.end());
        if !meet(start, end, other_base + other.start(), other_base + other.end()) {
            return false;
        }
        // Rows come in ascending order and do not overlap their own kind, so the lower of two rows that do not meet
        // meets none that comes later.
        let (mut rows, mut others) = (self.rows(), other.rows());
        let mut next = (rows.next(), others.next());
        while let (Some(row), Some(other_row)) = next {
            let (a, b) = (base + row, other_base + other_row);
            if meet(a, a + self.row_len(), b, b + other.row_len()) {
                return true;
            }
            if a < b {
                next.0 = rows.next();
            } else {
                next.1 = others.next();
            }
        }
        false
    }
}

/// Three numbers as the protocol carries them.
pub(crate) fn dim3(values: [usize; 3]) -> [U64; 3] {
    values.map(|value| U64::new(value as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pitches_of_zero_mean_no_gaps() {
        let rect = Rect::new([0; 3], [4, 3, 2], 0, 0).unwrap();
        assert_eq!((rect.row_pitch, rect.slice_pitch), (4, 12));
        assert_eq!((rect.start(), rect.end(), rect.len()), (0, 24, 24));
        assert_eq!(rect.rows().collect::<Vec<_>>(), [0, 4, 8, 12, 16, 20]);
    }

    #[test]
    fn rows_follow_origin_and_pitches() {
        let rect = Rect::new([1, 2, 1], [2, 2, 1], 10, 50).unwrap();
        assert_eq!(rect.rows().collect::<Vec<_>>(), [71, 81]);
        assert_eq!((rect.start(), rect.end()), (71, 83));
    }

    #[test]
    fn bad_rectangles_are_refused() {
        for (origin, region, row, slice) in [
            ([0; 3], [0, 1, 1], 0, 0),
            ([0; 3], [4, 1, 1], 3, 0),
            ([0; 3], [4, 2, 1], 4, 4),
            ([0; 3], [4, 2, 1], 4, 9),
            ([0, 0, usize::MAX], [4, 2, 1], 4, 8),
            ([usize::MAX, 0, 0], [4, 2, 1], 4, 8),
        ] {
            assert_eq!(Rect::new(origin, region, row, slice), Err(ClError::INVALID_VALUE), "{origin:?}");
        }
    }

    #[test]
    fn overlap_is_by_bytes_not_by_extent() {
        let bytes = |rect: &Rect, base: usize| {
            let rows = rect.rows().map(move |row| base + row);
            rows.flat_map(|row| row..row + rect.row_len()).collect::<std::collections::BTreeSet<_>>()
        };
        let rects = [
            Rect::new([0, 0, 0], [4, 4, 1], 16, 256),
            Rect::new([4, 0, 0], [4, 4, 1], 16, 256),
            Rect::new([3, 3, 0], [4, 4, 1], 16, 256),
            Rect::new([0, 4, 0], [4, 4, 1], 16, 256),
            // Runs over the end of its rows, and over that of its slices.
            Rect::new([14, 2, 0], [4, 2, 2], 16, 64),
            Rect::new([0, 3, 0], [2, 2, 2], 16, 64),
            Rect::new([0, 0, 0], [5, 7, 3], 5, 35),
            Rect::new([1, 0, 1], [1, 9, 2], 3, 30),
        ]
        .map(Result::unwrap);
        let mut outcomes = [0; 2];
        for (a, b) in rects.iter().flat_map(|a| rects.iter().map(move |b| (a, b))) {
            for (base, other) in [(0, 0), (0, 8), (12, 0), (0, 64), (500, 0)] {
                let shared = !bytes(a, base).is_disjoint(&bytes(b, other));
                assert_eq!(a.overlaps(base, b, other), shared, "{a:?} at {base}, {b:?} at {other}");
                outcomes[usize::from(shared)] += 1;
            }
        }
        assert!(outcomes.iter().all(|count| *count > 20), "{outcomes:?}");
    }
}
