//! Transfers between images and the application's memory, buffers and other images. The boxes have been checked.

use opencl_sys::CL_DEPTH;
use paragpu_protocol::command::{
    CopyBufferToImage, CopyImage, CopyImageToBuffer, FillImage, ReadImage, WriteImage,
};
use paragpu_protocol::image::MAX_ELEMENT_BYTES;
use paragpu_protocol::types::{Enqueue, Span};

use crate::boundary::object::Object;
use crate::boundary::pointer::AppMemory;
use crate::core::area::{Area, Pitches};
use crate::core::buffer::Buffer;
use crate::core::copies::Destination;
use crate::core::error::{ClError, ClResult};
use crate::core::image::Image;
use crate::core::queue::{Payload, Posted, Queue, Request};
use crate::core::rect::{Rect, dim3};
use crate::core::transfer::{Enqueued, INLINE_BYTES, INLINE_COPIES, PIECE_BYTES, staging_for_whole};

/// A box of an image.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ImagePart<'a> {
    pub(crate) image: &'a Object<Image>,
    pub(crate) area: Area,
}

impl ImagePart<'_> {
    /// Bytes without gaps.
    pub(crate) fn len(&self) -> usize {
        self.area.len(self.image.texels())
    }

    /// How the box lies in memory with these pitches.
    fn layout(&self, pitches: Pitches) -> ClResult<Rect> {
        // What does not fit an address is outside of any memory.
        self.image.texels().rect([0; 3], self.area.region, pitches).ok_or(ClError::INVALID_VALUE)
    }

    /// Posts the read of the box.
    pub(crate) fn post_read(
        &self,
        queue: &Object<Queue>,
        request: &Request<'_>,
        payload: Payload,
        dst: Span,
    ) -> ClResult<Posted> {
        queue.enqueue(request, payload, &[], |enqueue| ReadImage {
            enqueue,
            image: self.image.id().into(),
            reserved: 0.into(),
            origin: dim3(self.area.origin),
            extent: dim3(self.area.region),
            dst,
        })
    }

    /// Posts the write of the box: of `data`, or of what is at `src` if there is none.
    pub(crate) fn post_write(
        &self,
        queue: &Object<Queue>,
        request: &Request<'_>,
        payload: Payload,
        data: &[u8],
        src: Span,
    ) -> ClResult<Posted> {
        queue.enqueue(request, payload, data, |enqueue| WriteImage {
            enqueue,
            image: self.image.id().into(),
            reserved: 0.into(),
            origin: dim3(self.area.origin),
            extent: dim3(self.area.region),
            src,
        })
    }

    /// Runs `transfer` for each piece of the box, one after the other, with where it lies in memory with these pitches;
    /// the last one carries the event.
    fn by_pieces(
        &self,
        request: &Request<'_>,
        pitches: Pitches,
        transfer: impl Fn(&Request<'_>, ImagePart<'_>, usize) -> Enqueued,
    ) -> Enqueued {
        let texels = self.image.texels();
        let parts = self.area.parts(texels, PIECE_BYTES);
        let last = parts.len() - 1;
        let mut event = None;
        for (index, (_, area)) in parts.into_iter().enumerate() {
            let request = Request {
                wait: if index == 0 { request.wait } else { &[] },
                wants_event: request.wants_event && index == last,
                is_blocking: true,
                ..*request
            };
            let from = [0, 1, 2].map(|dim| area.origin[dim] - self.area.origin[dim]);
            let rect = texels.rect(from, area.region, pitches).ok_or(ClError::INVALID_VALUE)?;
            event = transfer(&request, ImagePart { area, ..*self }, rect.start())?;
        }
        Ok(event)
    }
}

/// `clEnqueueReadImage`.
pub(crate) fn read(
    queue: &Object<Queue>,
    request: &Request<'_>,
    part: ImagePart<'_>,
    memory: AppMemory,
    pitches: Pitches,
) -> Enqueued {
    let layout = part.layout(pitches)?;
    let Some(staging) = staging_for_whole(queue, request, part.len())? else {
        return part.by_pieces(request, pitches, |request, piece, at| {
            read(queue, request, piece, memory.offset(at), pitches)
        });
    };
    let dst = staging.span();
    let payload = Payload::Sink(staging, Destination::Rect(memory, layout));
    Ok(part.post_read(queue, request, payload, dst)?.event)
}

/// `clEnqueueWriteImage`.
pub(crate) fn write(
    queue: &Object<Queue>,
    request: &Request<'_>,
    part: ImagePart<'_>,
    memory: AppMemory,
    pitches: Pitches,
) -> Enqueued {
    let from = Destination::Rect(memory, part.layout(pitches)?);
    if part.len() <= INLINE_BYTES {
        // Once more than a buffer's: the rows are put together first.
        queue.connection().copied(INLINE_COPIES + 1, part.len());
        let posted = part.post_write(queue, request, Payload::None, &from.bytes(), Span::NONE)?;
        return Ok(posted.event);
    }
    let Some(mut staging) = staging_for_whole(queue, request, part.len())? else {
        return part.by_pieces(request, pitches, |request, piece, at| {
            write(queue, request, piece, memory.offset(at), pitches)
        });
    };
    from.copy_to(&mut staging);
    let src = staging.span();
    Ok(part.post_write(queue, request, Payload::Source(staging), &[], src)?.event)
}

/// `clEnqueueCopyImage`. `to` is as large as `from`.
pub(crate) fn copy(
    queue: &Object<Queue>,
    request: &Request<'_>,
    from: ImagePart<'_>,
    to: ImagePart<'_>,
) -> Enqueued {
    let posted = queue.enqueue(request, Payload::None, &[], |enqueue| CopyImage {
        enqueue,
        src: from.image.id().into(),
        dst: to.image.id().into(),
        src_origin: dim3(from.area.origin),
        dst_origin: dim3(to.area.origin),
        extent: dim3(from.area.region),
    })?;
    Ok(posted.event)
}

/// Bytes of a fill colour: "if the image is a depth image, a single float, otherwise four components".
pub(crate) fn color_bytes(image: &Image) -> usize {
    let is_depth = image.description().format.order.get() == CL_DEPTH;
    if is_depth { size_of::<f32>() } else { MAX_ELEMENT_BYTES as usize }
}

/// `clEnqueueFillImage`.
pub(crate) fn fill(
    queue: &Object<Queue>,
    request: &Request<'_>,
    part: ImagePart<'_>,
    color: &[u8],
) -> Enqueued {
    let mut words = [0; MAX_ELEMENT_BYTES as usize];
    words[..color.len()].copy_from_slice(color);
    let posted = queue.enqueue(request, Payload::None, &words, |enqueue| FillImage {
        enqueue,
        image: part.image.id().into(),
        reserved: 0.into(),
        origin: dim3(part.area.origin),
        extent: dim3(part.area.region),
    })?;
    Ok(posted.event)
}

/// `clEnqueueCopyImageToBuffer`.
pub(crate) fn copy_to_buffer(
    queue: &Object<Queue>,
    request: &Request<'_>,
    part: ImagePart<'_>,
    (buffer, offset): (&Object<Buffer>, usize),
) -> Enqueued {
    let posted = queue.enqueue(request, Payload::None, &[], |enqueue: Enqueue| CopyImageToBuffer {
        enqueue,
        image: part.image.id().into(),
        buffer: buffer.id().into(),
        origin: dim3(part.area.origin),
        extent: dim3(part.area.region),
        offset: (offset as u64).into(),
    })?;
    Ok(posted.event)
}

/// `clEnqueueCopyBufferToImage`.
pub(crate) fn copy_from_buffer(
    queue: &Object<Queue>,
    request: &Request<'_>,
    part: ImagePart<'_>,
    (buffer, offset): (&Object<Buffer>, usize),
) -> Enqueued {
    let posted = queue.enqueue(request, Payload::None, &[], |enqueue: Enqueue| CopyBufferToImage {
        enqueue,
        image: part.image.id().into(),
        buffer: buffer.id().into(),
        origin: dim3(part.area.origin),
        extent: dim3(part.area.region),
        offset: (offset as u64).into(),
    })?;
    Ok(posted.event)
}
