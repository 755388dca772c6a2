//! Boxes of images, in elements (the specification, section 5.3.3), and how they lie in memory.

use paragpu_protocol::image::{ImageType, is_inside};

use crate::core::rect::Rect;

/// A box of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Area {
    pub(crate) origin: [usize; 3],
    pub(crate) region: [usize; 3],
}

/// How an image's elements are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Texels {
    pub(crate) kind: ImageType,
    /// Size in elements, in the dimensions that boxes count in.
    pub(crate) extent: [usize; 3],
    /// Bytes of an element.
    pub(crate) size: usize,
}

/// How far the rows and the slices of an image are apart in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pitches {
    pub(crate) row: usize,
    pub(crate) slice: usize,
}

impl Area {
    /// All of an image.
    pub(crate) fn whole(texels: &Texels) -> Area {
        Area { origin: [0; 3], region: texels.extent }
    }

    /// The box, if it is not empty and lies in an image.
    pub(crate) fn inside(self, texels: &Texels) -> Option<Area> {
        let wide = |sizes: [usize; 3]| sizes.map(|size| size as u64);
        is_inside(wide(self.origin), wide(self.region), wide(texels.extent)).then_some(self)
    }

    /// True if two boxes of one region share elements.
    pub(crate) fn overlaps(&self, other: &Area) -> bool {
        (0..3).all(|dim| self.origin[dim].abs_diff(other.origin[dim]) < self.region[dim])
    }

    /// Bytes in a row.
    pub(crate) fn row_len(&self, texels: &Texels) -> usize {
        self.region[0] * texels.size
    }

    /// Bytes in all of the box; fits because the box lies in an image.
    pub(crate) fn len(&self, texels: &Texels) -> usize {
        self.row_len(texels) * self.region[1] * self.region[2]
    }

    /// The box in parts of at most `most` bytes or of one element, each with the distance of its first byte from that
    /// of the box, where both lie without gaps.
    pub(crate) fn parts(self, texels: &Texels, most: usize) -> Vec<(usize, Area)> {
        let row = self.row_len(texels);
        let steps = [texels.size, row, row * self.region[1]];
        // The dimension that is cut: as a whole those below it, one by one those above.
        let cut = (1..3).rev().find(|dim| steps[*dim] <= most).unwrap_or(0);
        let count = (most / steps[cut]).max(1);
        let above = |dim: usize| if dim > cut { self.region[dim] } else { 1 };
        let mut parts = Vec::new();
        for (z, y) in (0..above(2)).flat_map(|z| (0..above(1)).map(move |y| (z, y))) {
            for first in (0..self.region[cut]).step_by(count) {
                let mut part = self;
                for (dim, index) in [(2, z), (1, y)] {
                    if dim > cut {
                        (part.origin[dim], part.region[dim]) = (self.origin[dim] + index, 1);
                    }
                }
                part.origin[cut] += first;
                part.region[cut] = count.min(self.region[cut] - first);
                parts.push((z * steps[2] + y * steps[1] + first * steps[cut], part));
            }
        }
        parts
    }
}

impl Texels {
    /// Pitches of the application's, 0 where they follow from the image: `None` if they are too small for a box, or no
    /// memory can be that large.
    pub(crate) fn pitches(
        &self,
        region: [usize; 3],
        row_pitch: usize,
        slice_pitch: usize,
    ) -> Option<Pitches> {
        let row = match row_pitch {
            0 => region[0] * self.size,
            pitch => (pitch >= region[0] * self.size).then_some(pitch)?,
        };
        let rows = if self.kind == ImageType::Image1dArray { 1 } else { region[1] };
        let least = row.checked_mul(rows)?;
        let slice = match slice_pitch {
            pitch if pitch == 0 || !self.has_slices() => least,
            pitch => (pitch >= least).then_some(pitch)?,
        };
        Some(Pitches { row, slice })
    }

    /// True if the application says how far slices, or the images of an array, are apart.
    pub(crate) fn has_slices(&self) -> bool {
        matches!(self.kind, ImageType::Image1dArray | ImageType::Image2dArray | ImageType::Image3d)
    }

    /// A box as a rectangle of memory with these pitches, `origin` being where it starts there. The images of a 1D
    /// array are its rows.
    pub(crate) fn rect(&self, origin: [usize; 3], region: [usize; 3], pitches: Pitches) -> Option<Rect> {
        let row_pitch = if self.kind == ImageType::Image1dArray { pitches.slice } else { pitches.row };
        Rect {
            origin: [origin[0] * self.size, origin[1], origin[2]],
            region: [region[0] * self.size, region[1], region[2]],
            row_pitch,
            slice_pitch: pitches.slice,
        }
        .checked()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texels(kind: ImageType, extent: [usize; 3]) -> Texels {
        Texels { kind, extent, size: 4 }
    }

    #[test]
    fn parts_cover_a_box_without_gaps() {
        let image = texels(ImageType::Image3d, [10, 7, 5]);
        let area = Area { origin: [1, 2, 0], region: [8, 5, 5] };
        for most in [1, 4, 13, 32, 33, 100, 160, 161, 330, 10_000] {
            let parts = area.parts(&image, most);
            let mut at = 0;
            for (distance, part) in &parts {
                assert_eq!(*distance, at, "{most}");
                assert_eq!(part.inside(&image), Some(*part));
                assert!(part.len(&image) <= most.max(4), "{part:?} of at most {most}");
                at += part.len(&image);
            }
            assert_eq!(at, area.len(&image));
            assert_eq!((parts[0].1.origin, parts.len() == 1), (area.origin, most >= 800), "{most}");
        }
    }

    #[test]
    fn the_images_of_a_1d_array_are_a_slice_pitch_apart() {
        let array = texels(ImageType::Image1dArray, [4, 3, 1]);
        let pitches = array.pitches(array.extent, 20, 40).unwrap();
        let rect = array.rect([1, 1, 0], [2, 2, 1], pitches).unwrap();
        assert_eq!(rect.rows().collect::<Vec<_>>(), [44, 84]);
        assert_eq!(array.pitches(array.extent, 20, 0), Some(Pitches { row: 20, slice: 20 }));
        assert_eq!(array.pitches(array.extent, 20, 16), None);
        assert_eq!(array.pitches(array.extent, 15, 0), None);
    }

    #[test]
    fn a_slice_pitch_where_there_are_no_slices_is_ignored() {
        let image = texels(ImageType::Image2d, [4, 3, 1]);
        assert_eq!(image.pitches(image.extent, 0, 1), Some(Pitches { row: 16, slice: 48 }));
        let image = texels(ImageType::Image3d, [4, 3, 2]);
        assert_eq!(image.pitches(image.extent, 0, 50), Some(Pitches { row: 16, slice: 50 }));
        assert_eq!(image.pitches(image.extent, 20, 50), None);
    }

    #[test]
    fn boxes_of_one_size_overlap_if_they_are_near_in_every_dimension() {
        let at = |origin| Area { origin, region: [2, 2, 1] };
        assert!(at([0, 0, 0]).overlaps(&at([1, 1, 0])));
        assert!(!at([0, 0, 0]).overlaps(&at([2, 1, 0])));
        assert!(!at([0, 0, 0]).overlaps(&at([0, 0, 1])));
    }
}
