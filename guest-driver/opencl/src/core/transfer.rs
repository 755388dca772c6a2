//! Transfers between buffers and the application's memory, and between buffers. The ranges have been checked.

use std::sync::Arc;

use paragpu_protocol::command::{
    CopyBuffer, CopyBufferRect, FillBuffer, ReadBuffer, ReadBufferRect, WriteBuffer, WriteBufferRect,
};
use paragpu_protocol::types::Span;

use crate::boundary::object::Object;
use crate::boundary::pointer::AppMemory;
use crate::core::buffer::Buffer;
use crate::core::copies::Destination;
use crate::core::error::ClResult;
use crate::core::event::Event;
use crate::core::queue::{Payload, Posted, Queue, Request};
use crate::core::rect::{Rect, dim3};
use crate::core::staging::Staging;

/// Writes up to this size travel in the command itself.
pub(crate) const INLINE_BYTES: usize = 4 * 1024;
/// How often these are copied here: to the command, and with it to the ring.
pub(crate) const INLINE_COPIES: u32 = 2;
/// Longest transfer that takes one piece of staging memory; beyond it, blocking transfers go piece by piece.
const WHOLE_BYTES: usize = 256 << 20;
/// Size of these pieces.
pub(crate) const PIECE_BYTES: usize = 16 << 20;

/// Copies and fills up to this size are made here, where nothing else is to be done: the device would take as long, and the
/// application could not do much meanwhile.
const SMALL_BYTES: usize = 64 * 1024;

/// What an enqueue function gives back.
pub(crate) type Enqueued = ClResult<Option<Arc<Object<Event>>>>;

/// A range of a buffer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part<'a> {
    pub(crate) buffer: &'a Object<Buffer>,
    pub(crate) offset: usize,
    pub(crate) len: usize,
}

impl<'a> Part<'a> {
    /// Where this process sees the very bytes that kernels use, if it does.
    fn visible(&self) -> Option<AppMemory> {
        Some(self.buffer.visible()?.offset(self.offset))
    }

    /// The part in pieces, each with its distance from the start.
    fn pieces(self) -> impl Iterator<Item = (usize, Part<'a>)> {
        (0..self.len).step_by(PIECE_BYTES).map(move |at| {
            (at, Part { offset: self.offset + at, len: PIECE_BYTES.min(self.len - at), ..self })
        })
    }

    /// Posts the read of the part.
    pub(crate) fn post_read(
        &self,
        queue: &Object<Queue>,
        request: &Request<'_>,
        payload: Payload,
        dst: Span,
    ) -> ClResult<Posted> {
        queue.enqueue(request, payload, &[], |enqueue| ReadBuffer {
            enqueue,
            buffer: self.buffer.id().into(),
            reserved: 0.into(),
            offset: (self.offset as u64).into(),
            dst,
        })
    }

    /// Posts the write of the part: of `data`, or of what is at `src` if there is none.
    pub(crate) fn post_write(
        &self,
        queue: &Object<Queue>,
        request: &Request<'_>,
        payload: Payload,
        data: &[u8],
        src: Span,
    ) -> ClResult<Posted> {
        queue.enqueue(request, payload, data, |enqueue| WriteBuffer {
            enqueue,
            buffer: self.buffer.id().into(),
            reserved: 0.into(),
            offset: (self.offset as u64).into(),
            src,
        })
    }
}

/// Runs `transfer` for each piece, one after the other; the last one carries the event.
fn by_pieces(
    part: Part<'_>,
    request: &Request<'_>,
    transfer: impl Fn(&Request<'_>, Part<'_>, usize) -> Enqueued,
) -> Enqueued {
    let mut event = None;
    for (at, piece) in part.pieces() {
        let is_last = at + piece.len == part.len;
        let request = Request {
            wait: if at == 0 { request.wait } else { &[] },
            wants_event: request.wants_event && is_last,
            is_blocking: true,
            ..*request
        };
        event = transfer(&request, piece, at)?;
    }
    Ok(event)
}

/// Staging memory for the whole transfer. Nothing if it shall go by pieces: because it is long, and blocks anyway, or
/// because there is no memory for it, since blocking is better than failing.
pub(crate) fn staging_for_whole(
    queue: &Queue,
    request: &Request<'_>,
    len: usize,
) -> ClResult<Option<Staging>> {
    if len > WHOLE_BYTES && request.is_blocking {
        return Ok(None);
    }
    match queue.staging(len) {
        Err(_) if len > PIECE_BYTES => Ok(None),
        staging => staging.map(Some),
    }
}

/// `clEnqueueReadBuffer`.
pub(crate) fn read(
    queue: &Object<Queue>,
    request: &Request<'_>,
    part: Part<'_>,
    memory: AppMemory,
) -> Enqueued {
    if let Some(bytes) = part.visible()
        && let Some(event) = queue.at_once(request, || queue.copy((bytes, memory), part.len))?
    {
        return Ok(event);
    }
    let Some(staging) = staging_for_whole(queue, request, part.len)? else {
        return by_pieces(part, request, |request, piece, at| read(queue, request, piece, memory.offset(at)));
    };
    let dst = staging.span();
    let payload = Payload::Sink(staging, Destination::Linear(memory, part.len));
    Ok(part.post_read(queue, request, payload, dst)?.event)
}

/// `clEnqueueWriteBuffer`.
pub(crate) fn write(
    queue: &Object<Queue>,
    request: &Request<'_>,
    part: Part<'_>,
    memory: AppMemory,
) -> Enqueued {
    if let Some(to) = part.visible()
        && let Some(event) = queue.at_once(request, || queue.copy((memory, to), part.len))?
    {
        return Ok(event);
    }
    let bytes = memory.bytes(part.len);
    if part.len <= INLINE_BYTES {
        queue.connection().copied(INLINE_COPIES, part.len);
        return Ok(part.post_write(queue, request, Payload::None, bytes, Span::NONE)?.event);
    }
    let Some(mut staging) = staging_for_whole(queue, request, part.len)? else {
        return by_pieces(part, request, |request, piece, at| {
            write(queue, request, piece, memory.offset(at))
        });
    };
    staging.write(0, bytes);
    let src = staging.span();
    Ok(part.post_write(queue, request, Payload::Source(staging), &[], src)?.event)
}

/// Copies a rectangle to another of the same size.
fn copy_rows(queue: &Object<Queue>, (from, rect): (AppMemory, Rect), (to, layout): (AppMemory, Rect)) {
    for (at, to_at) in rect.rows().zip(layout.rows()) {
        queue.copy((from.offset(at), to.offset(to_at)), rect.row_len());
    }
}

/// `clEnqueueReadBufferRect`.
pub(crate) fn read_rect(
    queue: &Object<Queue>,
    request: &Request<'_>,
    (buffer, rect): (&Object<Buffer>, Rect),
    (memory, layout): (AppMemory, Rect),
) -> Enqueued {
    if let Some(bytes) = buffer.visible()
        && let Some(event) = queue.at_once(request, || copy_rows(queue, (bytes, rect), (memory, layout)))?
    {
        return Ok(event);
    }
    let staging = queue.staging(rect.len())?;
    let dst = staging.span();
    let payload = Payload::Sink(staging, Destination::Rect(memory, layout));
    let posted = queue.enqueue(request, payload, &[], |enqueue| ReadBufferRect {
        enqueue,
        buffer: buffer.id().into(),
        reserved: 0.into(),
        origin: dim3(rect.origin),
        extent: dim3(rect.region),
        row_pitch: (rect.row_pitch as u64).into(),
        slice_pitch: (rect.slice_pitch as u64).into(),
        dst,
    })?;
    Ok(posted.event)
}

/// `clEnqueueWriteBufferRect`.
pub(crate) fn write_rect(
    queue: &Object<Queue>,
    request: &Request<'_>,
    (buffer, rect): (&Object<Buffer>, Rect),
    (memory, layout): (AppMemory, Rect),
) -> Enqueued {
    if let Some(to) = buffer.visible()
        && let Some(event) = queue.at_once(request, || copy_rows(queue, (memory, layout), (to, rect)))?
    {
        return Ok(event);
    }
    let mut staging = queue.staging(rect.len())?;
    Destination::Rect(memory, layout).copy_to(&mut staging);
    let src = staging.span();
    let posted = queue.enqueue(request, Payload::Source(staging), &[], |enqueue| WriteBufferRect {
        enqueue,
        buffer: buffer.id().into(),
        reserved: 0.into(),
        origin: dim3(rect.origin),
        extent: dim3(rect.region),
        row_pitch: (rect.row_pitch as u64).into(),
        slice_pitch: (rect.slice_pitch as u64).into(),
        src,
    })?;
    Ok(posted.event)
}

/// `clEnqueueCopyBuffer`.
pub(crate) fn copy(queue: &Object<Queue>, request: &Request<'_>, from: Part<'_>, to: Part<'_>) -> Enqueued {
    if from.len <= SMALL_BYTES
        && let Some((bytes, to)) = from.visible().zip(to.visible())
        && let Some(event) = queue.at_once(request, || bytes.copy_to(to, from.len))?
    {
        return Ok(event);
    }
    let posted = queue.enqueue(request, Payload::None, &[], |enqueue| CopyBuffer {
        enqueue,
        src: from.buffer.id().into(),
        dst: to.buffer.id().into(),
        src_offset: (from.offset as u64).into(),
        dst_offset: (to.offset as u64).into(),
        size: (from.len as u64).into(),
    })?;
    Ok(posted.event)
}

/// `clEnqueueCopyBufferRect`.
pub(crate) fn copy_rect(
    queue: &Object<Queue>,
    request: &Request<'_>,
    (src, from): (&Object<Buffer>, Rect),
    (dst, to): (&Object<Buffer>, Rect),
) -> Enqueued {
    let posted = queue.enqueue(request, Payload::None, &[], |enqueue| CopyBufferRect {
        enqueue,
        src: src.id().into(),
        dst: dst.id().into(),
        src_origin: dim3(from.origin),
        dst_origin: dim3(to.origin),
        extent: dim3(from.region),
        src_row_pitch: (from.row_pitch as u64).into(),
        src_slice_pitch: (from.slice_pitch as u64).into(),
        dst_row_pitch: (to.row_pitch as u64).into(),
        dst_slice_pitch: (to.slice_pitch as u64).into(),
    })?;
    Ok(posted.event)
}

/// `clEnqueueFillBuffer`.
pub(crate) fn fill(queue: &Object<Queue>, request: &Request<'_>, part: Part<'_>, pattern: &[u8]) -> Enqueued {
    if part.len <= SMALL_BYTES
        && let Some(to) = part.visible()
        && let Some(event) = queue.at_once(request, || to.fill(part.len, pattern))?
    {
        return Ok(event);
    }
    let posted = queue.enqueue(request, Payload::None, pattern, |enqueue| FillBuffer {
        enqueue,
        buffer: part.buffer.id().into(),
        reserved: 0.into(),
        offset: (part.offset as u64).into(),
        size: (part.len as u64).into(),
    })?;
    Ok(posted.event)
}
