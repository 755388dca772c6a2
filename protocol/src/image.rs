//! Images: their types, formats and sizes, reckoned the same way on both sides.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// A `cl_mem_object_type` that is an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum ImageType {
    /// `CL_MEM_OBJECT_IMAGE2D`
    Image2d = 0x10f1,
    /// `CL_MEM_OBJECT_IMAGE3D`
    Image3d = 0x10f2,
    /// `CL_MEM_OBJECT_IMAGE2D_ARRAY`
    Image2dArray = 0x10f3,
    /// `CL_MEM_OBJECT_IMAGE1D`
    Image1d = 0x10f4,
    /// `CL_MEM_OBJECT_IMAGE1D_ARRAY`
    Image1dArray = 0x10f5,
    /// `CL_MEM_OBJECT_IMAGE1D_BUFFER`
    Image1dBuffer = 0x10f6,
}

impl ImageType {
    /// Every type.
    pub const ALL: [ImageType; 6] = [
        ImageType::Image2d,
        ImageType::Image3d,
        ImageType::Image2dArray,
        ImageType::Image1d,
        ImageType::Image1dArray,
        ImageType::Image1dBuffer,
    ];

    /// The type with this number.
    pub fn from_wire(number: u32) -> Option<ImageType> {
        ImageType::ALL.into_iter().find(|kind| *kind as u32 == number)
    }

    /// True if images of this type have an `image_height`.
    pub fn has_height(self) -> bool {
        matches!(self, ImageType::Image2d | ImageType::Image3d | ImageType::Image2dArray)
    }

    /// True if images of this type have an `image_array_size`.
    pub fn is_array(self) -> bool {
        matches!(self, ImageType::Image1dArray | ImageType::Image2dArray)
    }
}

/// Bytes of the largest element: four channels of 32 bits.
pub const MAX_ELEMENT_BYTES: u32 = 16;

/// `cl_image_format`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct ImageFormat {
    /// `cl_channel_order`.
    pub order: U32,
    /// `cl_channel_type`.
    pub data_type: U32,
}

/// `CL_DEPTH`, of whose channel a fill colour is a single float.
pub const ORDER_DEPTH: u32 = 0x10bd;

/// What a channel of a data type takes.
enum Channel {
    /// So many bytes each.
    Bytes(u32),
    /// All channels together take so many bytes.
    Packed(u32),
}

impl ImageFormat {
    /// A format.
    pub fn new(order: u32, data_type: u32) -> ImageFormat {
        ImageFormat { order: order.into(), data_type: data_type.into() }
    }

    fn channels(&self) -> Option<u32> {
        Some(match self.order.get() {
            // R, A, INTENSITY, LUMINANCE, Rx, DEPTH.
            0x10b0 | 0x10b1 | 0x10b8 | 0x10b9 | 0x10ba | ORDER_DEPTH => 1,
            // RG, RA, RGx.
            0x10b2 | 0x10b3 | 0x10bb => 2,
            // RGB, RGBx, sRGB.
            0x10b4 | 0x10bc | 0x10bf => 3,
            // RGBA, BGRA, ARGB, sRGBx, sRGBA, sBGRA, ABGR.
            0x10b5..=0x10b7 | 0x10c0..=0x10c3 => 4,
            _ => return None,
        })
    }

    fn channel(&self) -> Option<Channel> {
        Some(match self.data_type.get() {
            // SNORM_INT8, UNORM_INT8, SIGNED_INT8, UNSIGNED_INT8.
            0x10d0 | 0x10d2 | 0x10d7 | 0x10da => Channel::Bytes(1),
            // SNORM_INT16, UNORM_INT16, SIGNED_INT16, UNSIGNED_INT16, HALF_FLOAT.
            0x10d1 | 0x10d3 | 0x10d8 | 0x10db | 0x10dd => Channel::Bytes(2),
            // SIGNED_INT32, UNSIGNED_INT32, FLOAT.
            0x10d9 | 0x10dc | 0x10de => Channel::Bytes(4),
            // UNORM_SHORT_565, UNORM_SHORT_555.
            0x10d4 | 0x10d5 => Channel::Packed(2),
            // UNORM_INT_101010, UNORM_INT_101010_2.
            0x10d6 | 0x10e0 => Channel::Packed(4),
            _ => return None,
        })
    }

    /// `CL_IMAGE_ELEMENT_SIZE`; `None` for a format that this protocol does not carry.
    pub fn element_size(&self) -> Option<u32> {
        let channels = self.channels()?;
        match self.channel()? {
            Channel::Bytes(bytes) => Some(channels * bytes),
            Channel::Packed(bytes) => (channels >= 3).then_some(bytes),
        }
    }

    /// True if the specification lets this data type go with this channel order (OpenCL 3.0, section 5.3.1.1).
    pub fn is_combination(&self) -> bool {
        let (order, data_type) = (self.order.get(), self.data_type.get());
        match order {
            // RGB, RGBx: packed only.
            0x10b4 | 0x10bc => matches!(data_type, 0x10d4..=0x10d6),
            // RGBA: and packed with two bits of alpha.
            0x10b5 => matches!(self.channel(), Some(Channel::Bytes(_))) || data_type == 0x10e0,
            // ARGB, BGRA, ABGR: 8 bits.
            0x10b6 | 0x10b7 | 0x10c3 => matches!(self.channel(), Some(Channel::Bytes(1))),
            // INTENSITY, LUMINANCE: no integers.
            0x10b8 | 0x10b9 => matches!(data_type, 0x10d0..=0x10d3 | 0x10dd | 0x10de),
            // DEPTH: UNORM_INT16, FLOAT.
            ORDER_DEPTH => matches!(data_type, 0x10d3 | 0x10de),
            // sRGB, sRGBx, sRGBA, sBGRA: UNORM_INT8.
            0x10bf..=0x10c2 => data_type == 0x10d2,
            _ => self.channels().is_some() && matches!(self.channel(), Some(Channel::Bytes(_))),
        }
    }
}

/// The size of an image in elements, as `cl_image_desc` has it. What its type does not have is 0.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct ImageShape {
    /// `image_width`.
    pub width: U64,
    /// `image_height`.
    pub height: U64,
    /// `image_depth`.
    pub depth: U64,
    /// `image_array_size`.
    pub array_size: U64,
}

impl ImageShape {
    /// The size in the three dimensions that origins and regions count in: images of an array lie along the last
    /// one that the type has, what it does not have is 1. `None` if a size is 0, or one that the type does not have
    /// is not.
    pub fn extent(&self, kind: ImageType) -> Option<[u64; 3]> {
        let sizes = [self.width, self.height, self.depth, self.array_size].map(U64::get);
        let [width, height, depth, images] = sizes;
        let has = [true, kind.has_height(), kind == ImageType::Image3d, kind.is_array()];
        if sizes.iter().zip(has).any(|(size, has)| (*size != 0) != has) {
            return None;
        }
        Some(match kind {
            ImageType::Image1d | ImageType::Image1dBuffer => [width, 1, 1],
            ImageType::Image1dArray => [width, images, 1],
            ImageType::Image2d => [width, height, 1],
            ImageType::Image2dArray => [width, height, images],
            ImageType::Image3d => [width, height, depth],
        })
    }
}

/// Bytes of a box of elements without gaps; `None` if there is no such number.
pub fn packed_bytes(extent: [u64; 3], element_size: u32) -> Option<u64> {
    extent.into_iter().try_fold(u64::from(element_size), u64::checked_mul)
}

/// True if a box that is not empty lies in an image of that size.
pub fn is_inside(origin: [u64; 3], extent: [u64; 3], image: [u64; 3]) -> bool {
    (0..3).all(|dim| {
        extent[dim] != 0 && origin[dim].checked_add(extent[dim]).is_some_and(|end| end <= image[dim])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(sizes: [u64; 4]) -> ImageShape {
        let [width, height, depth, array_size] = sizes.map(U64::new);
        ImageShape { width, height, depth, array_size }
    }

    #[test]
    fn element_sizes_are_those_of_the_specification() {
        for (order, data_type, size) in [
            (0x10b5, 0x10d2, Some(4)),
            (0x10b5, 0x10de, Some(16)),
            (0x10b0, 0x10dd, Some(2)),
            (0x10b2, 0x10d9, Some(8)),
            (0x10b4, 0x10d4, Some(2)),
            (0x10bc, 0x10d6, Some(4)),
            (0x10b5, 0x10e0, Some(4)),
            (0x10bd, 0x10d3, Some(2)),
            (0x10c1, 0x10d2, Some(4)),
            (0x10b0, 0x10d4, None),
            (0x10be, 0x10df, None),
            (0x10b5, 0x10e1, None),
            (0, 0x10d2, None),
        ] {
            assert_eq!(ImageFormat::new(order, data_type).element_size(), size, "{order:#x} {data_type:#x}");
        }
        let sizes = (0x10b0..0x10d0).flat_map(|order| (0x10d0..0x10f0).map(move |kind| (order, kind)));
        for format in sizes.map(|(order, kind)| ImageFormat::new(order, kind)) {
            assert!(format.element_size().is_none_or(|size| (1..=MAX_ELEMENT_BYTES).contains(&size)));
            assert!(!format.is_combination() || format.element_size().is_some(), "{format:?}");
        }
    }

    #[test]
    fn only_the_specifications_combinations_are_formats() {
        for (order, data_type, is_one) in [
            (0x10b5, 0x10d2, true),
            (0x10b5, 0x10d4, false),
            (0x10b4, 0x10d2, false),
            (0x10b4, 0x10d4, true),
            (0x10b6, 0x10da, true),
            (0x10b6, 0x10de, false),
            (0x10b8, 0x10d7, false),
            (0x10bd, 0x10de, true),
            (0x10bd, 0x10d2, false),
            (0x10b2, 0x10e0, false),
            (0x1234, 0x10d2, false),
        ] {
            assert_eq!(
                ImageFormat::new(order, data_type).is_combination(),
                is_one,
                "{order:#x} {data_type:#x}"
            );
        }
    }

    #[test]
    fn an_image_has_the_sizes_of_its_type_and_no_others() {
        for (kind, sizes, extent) in [
            (ImageType::Image1d, [5, 0, 0, 0], Some([5, 1, 1])),
            (ImageType::Image1dBuffer, [5, 0, 0, 0], Some([5, 1, 1])),
            (ImageType::Image1dArray, [5, 0, 0, 3], Some([5, 3, 1])),
            (ImageType::Image2d, [5, 4, 0, 0], Some([5, 4, 1])),
            (ImageType::Image2dArray, [5, 4, 0, 3], Some([5, 4, 3])),
            (ImageType::Image3d, [5, 4, 2, 0], Some([5, 4, 2])),
            (ImageType::Image1d, [5, 1, 0, 0], None),
            (ImageType::Image2d, [5, 0, 0, 0], None),
            (ImageType::Image3d, [5, 4, 2, 1], None),
            (ImageType::Image2dArray, [0, 4, 0, 3], None),
        ] {
            assert_eq!(shape(sizes).extent(kind), extent, "{kind:?} {sizes:?}");
        }
    }

    #[test]
    fn boxes_do_not_leave_their_image_by_overflow() {
        assert!(is_inside([1, 0, 0], [4, 4, 1], [5, 4, 1]));
        assert!(!is_inside([2, 0, 0], [4, 4, 1], [5, 4, 1]));
        assert!(!is_inside([0, 0, 0], [5, 0, 1], [5, 4, 1]));
        assert!(!is_inside([u64::MAX, 0, 0], [2, 1, 1], [5, 4, 1]));
        assert_eq!(packed_bytes([2, 3, 4], 16), Some(384));
        assert_eq!(packed_bytes([u64::MAX, 2, 1], 1), None);
    }
}
