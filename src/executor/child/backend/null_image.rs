//! Images of the [null backend](super::null): boxes of a buffer's bytes. Samplers are nothing at all.

use super::null_buffer::{self, NullBuffer};
use super::{Area, ClError, HostBytes, ImageBase, ImageLayout, ImageLimits, ImageSpec, ImageWork, Rect};

/// Small, as its buffers are.
pub(super) const LIMITS: ImageLimits =
    ImageLimits { max_2d: [512, 512], max_3d: [64, 64, 64], max_array: 64, max_buffer: 1 << 16 };

/// An image: where its elements are.
#[derive(Clone, Debug)]
pub struct NullImage {
    bytes: NullBuffer,
    layout: ImageLayout,
    row_pitch: usize,
}

impl NullImage {
    pub(super) fn new(
        spec: &ImageSpec,
        base: ImageBase<'_, NullBuffer, NullImage>,
    ) -> Result<NullImage, ClError> {
        let layout = spec.layout().ok_or(ClError::INVALID_IMAGE_SIZE)?;
        let row_pitch = layout.row_pitch(spec.row_pitch).ok_or(ClError::INVALID_IMAGE_SIZE)?;
        let bytes = match base {
            ImageBase::Own(init) => NullBuffer::new(layout.bytes(), init)?,
            ImageBase::Buffer(buffer) => buffer.clone(),
            ImageBase::Image(image) if image.layout == layout => return Ok(image.clone()),
            ImageBase::Image(_) => return Err(ClError::INVALID_VALUE),
        };
        Ok(NullImage { bytes, layout, row_pitch })
    }

    pub(super) fn bytes(&self) -> usize {
        self.layout.bytes()
    }

    /// A box as a rectangle of the buffer, and its extent in bytes.
    fn rect(&self, area: &Area) -> Result<(Rect, [usize; 3]), ClError> {
        self.layout.bytes_of(area).ok_or(ClError::INVALID_VALUE)?;
        let ([x, y, z], [width, height, depth]) = (area.origin, area.extent);
        let rect = Rect {
            origin: [x * self.layout.element, y, z],
            row_pitch: self.row_pitch,
            slice_pitch: self.row_pitch * self.layout.extent[1],
        };
        Ok((rect, [width * self.layout.element, height, depth]))
    }

    fn read(&self, area: &Area) -> Result<Box<[u8]>, ClError> {
        let (rect, extent) = self.rect(area)?;
        let [width, height, depth] = extent;
        let mut packed = vec![0; width * height * depth];
        null_buffer::rows(rect, extent, self.bytes.len(), |at, to, width| {
            self.bytes.read(at, &mut packed[to..to + width])
        })?;
        Ok(packed.into())
    }

    fn write(&self, area: &Area, from: &HostBytes) -> Result<(), ClError> {
        let (rect, extent) = self.rect(area)?;
        null_buffer::write_rect(&self.bytes, rect, extent, from)
    }
}

pub(super) fn run(work: ImageWork<'_, NullBuffer, NullImage>) -> Result<(), ClError> {
    match work {
        ImageWork::Read { image, area, to } => null_buffer::move_bytes(to.write(0, &image.read(&area)?)),
        ImageWork::Write { image, area, from } => image.write(&area, &from),
        ImageWork::Copy { from, to, origins, extent } => {
            let bytes = from.read(&Area { origin: origins.0, extent })?;
            to.write(&Area { origin: origins.1, extent }, &HostBytes::Heap(bytes))
        }
        // In what its format makes of it: for want of a device, the first bytes.
        ImageWork::Fill { image, area, color } => {
            let bytes = image.layout.bytes_of(&area).ok_or(ClError::INVALID_VALUE)?;
            let element = color.iter().take(image.layout.element).copied();
            let bytes: Box<[u8]> = element.cycle().take(bytes).collect();
            image.write(&area, &HostBytes::Heap(bytes))
        }
        ImageWork::ToBuffer { image, area, buffer, offset } => buffer.write(offset, &image.read(&area)?),
        ImageWork::FromBuffer { image, area, buffer, offset } => {
            let bytes = image.layout.bytes_of(&area).ok_or(ClError::INVALID_VALUE)?;
            buffer.range(offset, bytes)?;
            let mut copy = vec![0; bytes];
            buffer.read(offset, &mut copy)?;
            image.write(&area, &HostBytes::Heap(copy.into()))
        }
    }
}
