//! Images and samplers as plain values: what [`compute`](super::compute) is for everything else.

use paragpu_protocol::image::{ImageFormat, ImageShape, ImageType, is_inside, packed_bytes};

use super::compute::HostBytes;
use super::map::Window;

/// What an image is made to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageSpec {
    /// `cl_mem_flags` for access by kernels and by the host.
    pub flags: u64,
    /// Format of an element.
    pub format: ImageFormat,
    /// Its type.
    pub kind: ImageType,
    /// Its size in elements.
    pub shape: ImageShape,
    /// Bytes from row to row, for a 2D image that lies in a buffer; otherwise 0.
    pub row_pitch: usize,
}

impl ImageSpec {
    /// Bytes of an element, and size in the dimensions that boxes count in; `None` if there is no such image.
    pub fn layout(&self) -> Option<ImageLayout> {
        let extent = self.shape.extent(self.kind)?;
        let element = self.format.element_size()?;
        packed_bytes(extent, element).and_then(|bytes| usize::try_from(bytes).ok())?;
        let [width, height, depth] = extent;
        // No larger than the bytes.
        Some(ImageLayout {
            element: element as usize,
            extent: [width as usize, height as usize, depth as usize],
        })
    }
}

/// How an image's elements are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageLayout {
    /// Bytes of an element.
    pub element: usize,
    /// Size in elements.
    pub extent: [usize; 3],
}

impl ImageLayout {
    /// Bytes of the whole image without gaps.
    pub fn bytes(&self) -> usize {
        let [width, height, depth] = self.extent;
        width * height * depth * self.element
    }

    /// Bytes of a box without gaps, if it is not empty and lies in the image.
    pub fn bytes_of(&self, area: &Area) -> Option<usize> {
        let wide = |sizes: [usize; 3]| sizes.map(|size| size as u64);
        let [width, height, depth] = area.extent;
        is_inside(wide(area.origin), wide(area.extent), wide(self.extent))
            .then(|| width * height * depth * self.element)
    }

    /// Bytes from row to row in a buffer, for an image of which `row_pitch` was asked for: at least a row.
    pub fn row_pitch(&self, row_pitch: usize) -> Option<usize> {
        let row = self.extent[0] * self.element;
        match row_pitch {
            0 => Some(row),
            pitch => (pitch >= row).then_some(pitch),
        }
    }
}

/// A box of elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    /// First column, row, slice.
    pub origin: [usize; 3],
    /// Size.
    pub extent: [usize; 3],
}

/// Where an image's elements are, over a backend's handles for buffers and images.
#[derive(Debug)]
pub enum ImageBase<'a, B, I> {
    /// In memory of its own: zeroes, or these bytes, which are as long as the image is without gaps.
    Own(Option<&'a Window>),
    /// In a buffer that is long enough.
    Buffer(&'a B),
    /// In an image of the same size.
    Image(&'a I),
}

/// What a sampler is made to be, in OpenCL's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SamplerSpec {
    /// True for coordinates from 0 to 1.
    pub normalized: bool,
    /// `cl_addressing_mode`.
    pub addressing: u32,
    /// `cl_filter_mode`.
    pub filter: u32,
}

/// A command on images, over a backend's handles for buffers and images. Boxes lie in their images.
#[derive(Debug)]
pub enum ImageWork<'a, B, I> {
    /// Reads a box into memory without gaps.
    Read {
        /// The image.
        image: &'a I,
        /// The box.
        area: Area,
        /// Where to.
        to: Window,
    },
    /// Writes a box from memory without gaps.
    Write {
        /// The image.
        image: &'a I,
        /// The box.
        area: Area,
        /// Where from.
        from: HostBytes,
    },
    /// Copies a box between images.
    Copy {
        /// The source.
        from: &'a I,
        /// The destination.
        to: &'a I,
        /// First element in each.
        origins: ([usize; 3], [usize; 3]),
        /// Size.
        extent: [usize; 3],
    },
    /// Fills a box with a colour.
    Fill {
        /// The image.
        image: &'a I,
        /// The box.
        area: Area,
        /// Four floats or 32-bit integers.
        color: [u8; 16],
    },
    /// Copies a box into a buffer.
    ToBuffer {
        /// The source.
        image: &'a I,
        /// The box.
        area: Area,
        /// The destination.
        buffer: &'a B,
        /// First byte there.
        offset: usize,
    },
    /// Copies from a buffer into a box.
    FromBuffer {
        /// The destination.
        image: &'a I,
        /// The box.
        area: Area,
        /// The source.
        buffer: &'a B,
        /// First byte there.
        offset: usize,
    },
}

/// How large a device's images may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageLimits {
    /// `CL_DEVICE_IMAGE2D_MAX_WIDTH`, `HEIGHT`
    pub max_2d: [u64; 2],
    /// `CL_DEVICE_IMAGE3D_MAX_WIDTH`, `HEIGHT`, `DEPTH`
    pub max_3d: [u64; 3],
    /// `CL_DEVICE_IMAGE_MAX_ARRAY_SIZE`
    pub max_array: u64,
    /// `CL_DEVICE_IMAGE_MAX_BUFFER_SIZE`
    pub max_buffer: u64,
}

impl ImageLimits {
    /// True if the device takes images of this type and size.
    pub fn allow(&self, kind: ImageType, shape: &ImageShape) -> bool {
        let sizes = [shape.width, shape.height, shape.depth, shape.array_size].map(|size| size.get());
        let [wide, high] = self.max_2d;
        let most = match kind {
            ImageType::Image1dBuffer => [self.max_buffer, 0, 0, 0],
            ImageType::Image1d | ImageType::Image1dArray => [wide, 0, 0, self.max_array],
            ImageType::Image2d | ImageType::Image2dArray => [wide, high, 0, self.max_array],
            ImageType::Image3d => [self.max_3d[0], self.max_3d[1], self.max_3d[2], 0],
        };
        sizes.iter().zip(most).all(|(size, most)| *size <= most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(kind: ImageType, width: u64, height: u64, array_size: u64) -> ImageSpec {
        let shape = ImageShape {
            width: width.into(),
            height: height.into(),
            depth: 0.into(),
            array_size: array_size.into(),
        };
        // RGBA, FLOAT.
        ImageSpec { flags: 0, format: ImageFormat::new(0x10b5, 0x10de), kind, shape, row_pitch: 0 }
    }

    #[test]
    fn boxes_are_reckoned_in_bytes_only_inside_of_their_image() {
        let layout = spec(ImageType::Image2dArray, 4, 3, 2).layout().unwrap();
        assert_eq!((layout.extent, layout.bytes()), ([4, 3, 2], 4 * 3 * 2 * 16));
        let area = |origin, extent| layout.bytes_of(&Area { origin, extent });
        assert_eq!(area([1, 1, 1], [3, 2, 1]), Some(96));
        assert_eq!(area([1, 1, 1], [4, 2, 1]), None);
        assert_eq!(area([1, 1, 1], [3, 0, 1]), None);
        assert_eq!(area([usize::MAX, 0, 0], [2, 1, 1]), None);
    }

    #[test]
    fn images_without_a_size_are_none() {
        assert_eq!(spec(ImageType::Image2d, u64::MAX, u64::MAX, 0).layout(), None);
        assert_eq!(spec(ImageType::Image2d, 4, 0, 0).layout(), None);
    }

    #[test]
    fn a_row_pitch_holds_a_row() {
        let layout = spec(ImageType::Image2d, 4, 3, 0).layout().unwrap();
        assert_eq!(
            [0, 63, 64, 80].map(|pitch| layout.row_pitch(pitch)),
            [Some(64), None, Some(64), Some(80)]
        );
    }

    #[test]
    fn limits_are_those_of_the_type() {
        let limits = ImageLimits { max_2d: [8, 4], max_3d: [2, 2, 2], max_array: 3, max_buffer: 100 };
        for (kind, sizes, fits) in [
            (ImageType::Image1dBuffer, (100, 0, 0), true),
            (ImageType::Image1d, (9, 0, 0), false),
            (ImageType::Image1dArray, (8, 0, 3), true),
            (ImageType::Image2d, (8, 5, 0), false),
            (ImageType::Image2dArray, (8, 4, 4), false),
        ] {
            let (width, height, images) = sizes;
            assert_eq!(limits.allow(kind, &spec(kind, width, height, images).shape), fits, "{kind:?}");
        }
    }
}
