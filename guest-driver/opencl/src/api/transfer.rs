//! Reading, writing, copying, filling and mapping buffers.

use opencl_sys::{
    CL_COMMAND_COPY_BUFFER, CL_COMMAND_COPY_BUFFER_RECT, CL_COMMAND_FILL_BUFFER, CL_COMMAND_MAP_BUFFER,
    CL_COMMAND_READ_BUFFER, CL_COMMAND_READ_BUFFER_RECT, CL_COMMAND_WRITE_BUFFER,
    CL_COMMAND_WRITE_BUFFER_RECT, CL_MAP_READ, CL_MAP_WRITE, CL_MAP_WRITE_INVALIDATE_REGION,
    CL_MEM_HOST_NO_ACCESS, CL_MEM_HOST_READ_ONLY, CL_MEM_HOST_WRITE_ONLY,
};

use crate::boundary::arguments::EventArgs;
use crate::boundary::object::{Handle, Object};
use crate::boundary::pointer::{AppMemory, Bytes, In};
use crate::core::buffer::Buffer;
use crate::core::error::{ClError, ClResult, refuse_if};
use crate::core::mapping::{self, Region};
use crate::core::memory::Memory;
use crate::core::queue::{Queue, Request};
use crate::core::rect::Rect;
use crate::core::transfer::{self, Enqueued, Part};

/// Checks that every command on a buffer makes.
pub(super) fn check(queue: &Object<Queue>, buffer: &Object<Buffer>) -> ClResult<()> {
    check_context(queue, buffer)?;
    // CL_MISALIGNED_SUB_BUFFER_OFFSET if buffer is a sub-buffer object and offset specified when the sub-buffer object
    // is created is not aligned to CL_DEVICE_MEM_BASE_ADDR_ALIGN value for device associated with queue.
    let (_, origin) = buffer.root();
    refuse_if(
        origin != 0 && !origin.is_multiple_of(queue.device().base_align()),
        ClError::MISALIGNED_SUB_BUFFER_OFFSET,
    )
}

/// CL_INVALID_CONTEXT if the context associated with command_queue and the memory object are not the same.
pub(super) fn check_context(queue: &Object<Queue>, memory: &Memory) -> ClResult<()> {
    refuse_if(queue.context().handle() != memory.context().handle(), ClError::INVALID_CONTEXT)
}

/// CL_INVALID_OPERATION if the object has been created with a flag that denies the application this access.
pub(super) fn check_host_access(memory: &Memory, denied: u64) -> ClResult<()> {
    refuse_if(memory.flags() & (denied | CL_MEM_HOST_NO_ACCESS) != 0, ClError::INVALID_OPERATION)
}

/// A range of a buffer that is transferred to or from `memory`.
fn part(buffer: &Object<Buffer>, offset: usize, len: usize, memory: AppMemory) -> ClResult<Part<'_>> {
    // CL_INVALID_VALUE if the region being read or written specified by (offset, size) is out of bounds or if ptr is a
    // NULL value.
    refuse_if(!buffer.contains(offset, len) || memory.is_null(), ClError::INVALID_VALUE)?;
    Ok(Part { buffer, offset, len })
}

/// `clEnqueueReadBuffer`.
pub(super) fn read(
    queue: Handle<Queue>,
    buffer: Handle<Buffer>,
    blocking: u32,
    offset: usize,
    size: usize,
    ptr: AppMemory,
    events: EventArgs,
) -> ClResult<()> {
    let (queue, buffer) = (queue.get()?, buffer.get()?);
    check(queue, buffer)?;
    let part = part(buffer, offset, size, ptr)?;
    let wait = events.wait_list(queue.context())?;
    check_host_access(buffer, CL_MEM_HOST_WRITE_ONLY)?;
    let request = Request::new(CL_COMMAND_READ_BUFFER, &wait, events.wants_event()).blocking(blocking);
    if size == 0 {
        events.give(queue.enqueue_nothing(&request)?.event);
    } else {
        events.give(transfer::read(queue, &request, part, ptr)?);
    }
    Ok(())
}

/// `clEnqueueWriteBuffer`.
pub(super) fn write(
    queue: Handle<Queue>,
    buffer: Handle<Buffer>,
    blocking: u32,
    offset: usize,
    size: usize,
    ptr: AppMemory,
    events: EventArgs,
) -> ClResult<()> {
    let (queue, buffer) = (queue.get()?, buffer.get()?);
    check(queue, buffer)?;
    let part = part(buffer, offset, size, ptr)?;
    let wait = events.wait_list(queue.context())?;
    check_host_access(buffer, CL_MEM_HOST_READ_ONLY)?;
    let request = Request::new(CL_COMMAND_WRITE_BUFFER, &wait, events.wants_event()).blocking(blocking);
    if size == 0 {
        events.give(queue.enqueue_nothing(&request)?.event);
    } else {
        events.give(transfer::write(queue, &request, part, ptr)?);
    }
    Ok(())
}

/// Three numbers: CL_INVALID_VALUE if the pointer is NULL.
pub(super) fn three(values: In<usize>) -> ClResult<[usize; 3]> {
    let values = values.values(3).ok_or(ClError::INVALID_VALUE)?;
    Ok([values[0], values[1], values[2]])
}

/// A rectangle that lies in the buffer.
fn rect_in(
    buffer: &Buffer,
    origin: In<usize>,
    region: [usize; 3],
    [row_pitch, slice_pitch]: [usize; 2],
) -> ClResult<Rect> {
    let rect = Rect::new(three(origin)?, region, row_pitch, slice_pitch)?;
    // CL_INVALID_VALUE if the region being read or written specified by (buffer_origin, region, buffer_row_pitch,
    // buffer_slice_pitch) is out of bounds.
    refuse_if(rect.end() > buffer.size(), ClError::INVALID_VALUE)?;
    Ok(rect)
}

/// The rectangle in the application's memory that goes with one in a buffer.
fn layout(
    ptr: AppMemory,
    origin: In<usize>,
    region: [usize; 3],
    [row_pitch, slice_pitch]: [usize; 2],
) -> ClResult<Rect> {
    // CL_INVALID_VALUE if ptr is NULL.
    refuse_if(ptr.is_null(), ClError::INVALID_VALUE)?;
    Rect::new(three(origin)?, region, row_pitch, slice_pitch)
}

/// `clEnqueueReadBufferRect`.
#[expect(clippy::too_many_arguments, reason = "the specification's")]
pub(super) fn read_rect(
    queue: Handle<Queue>,
    buffer: Handle<Buffer>,
    blocking: u32,
    buffer_origin: In<usize>,
    host_origin: In<usize>,
    region: In<usize>,
    buffer_row_pitch: usize,
    buffer_slice_pitch: usize,
    host_row_pitch: usize,
    host_slice_pitch: usize,
    ptr: AppMemory,
    events: EventArgs,
) -> ClResult<()> {
    let (queue, buffer) = (queue.get()?, buffer.get()?);
    check(queue, buffer)?;
    let region = three(region)?;
    let rect = rect_in(buffer, buffer_origin, region, [buffer_row_pitch, buffer_slice_pitch])?;
    let layout = layout(ptr, host_origin, region, [host_row_pitch, host_slice_pitch])?;
    let wait = events.wait_list(queue.context())?;
    check_host_access(buffer, CL_MEM_HOST_WRITE_ONLY)?;
    let request = Request::new(CL_COMMAND_READ_BUFFER_RECT, &wait, events.wants_event()).blocking(blocking);
    events.give(transfer::read_rect(queue, &request, (buffer, rect), (ptr, layout))?);
    Ok(())
}

/// `clEnqueueWriteBufferRect`.
#[expect(clippy::too_many_arguments, reason = "the specification's")]
pub(super) fn write_rect(
    queue: Handle<Queue>,
    buffer: Handle<Buffer>,
    blocking: u32,
    buffer_origin: In<usize>,
    host_origin: In<usize>,
    region: In<usize>,
    buffer_row_pitch: usize,
    buffer_slice_pitch: usize,
    host_row_pitch: usize,
    host_slice_pitch: usize,
    ptr: AppMemory,
    events: EventArgs,
) -> ClResult<()> {
    let (queue, buffer) = (queue.get()?, buffer.get()?);
    check(queue, buffer)?;
    let region = three(region)?;
    let rect = rect_in(buffer, buffer_origin, region, [buffer_row_pitch, buffer_slice_pitch])?;
    let layout = layout(ptr, host_origin, region, [host_row_pitch, host_slice_pitch])?;
    let wait = events.wait_list(queue.context())?;
    check_host_access(buffer, CL_MEM_HOST_READ_ONLY)?;
    let request = Request::new(CL_COMMAND_WRITE_BUFFER_RECT, &wait, events.wants_event()).blocking(blocking);
    events.give(transfer::write_rect(queue, &request, (buffer, rect), (ptr, layout))?);
    Ok(())
}

/// A checked `clEnqueueCopyBuffer` or `clCommandCopyBufferKHR`.
pub(super) fn copier(
    queue: &Object<Queue>,
    (src, dst): (&Object<Buffer>, &Object<Buffer>),
    (src_offset, dst_offset): (usize, usize),
    size: usize,
) -> ClResult<impl Fn(&Object<Queue>, &Request<'_>) -> Enqueued + Send + Sync + use<>> {
    check(queue, src)?;
    check(queue, dst)?;
    // CL_INVALID_VALUE if src_offset, dst_offset, size, src_offset + size or dst_offset + size require accessing elements
    // outside the src_buffer and dst_buffer buffer objects respectively.
    refuse_if(!src.contains(src_offset, size) || !dst.contains(dst_offset, size), ClError::INVALID_VALUE)?;
    // CL_MEM_COPY_OVERLAP if src_buffer and dst_buffer are the same buffer or sub-buffer object and the source and
    // destination regions overlap or if src_buffer and dst_buffer are different sub-buffers of the same associated
    // buffer object and they overlap.
    let ((src_root, src_base), (dst_root, dst_base)) = (src.root(), dst.root());
    let (from, to) = (src_base + src_offset, dst_base + dst_offset);
    let overlaps = src_root == dst_root && from < to + size && to < from + size;
    refuse_if(overlaps, ClError::MEM_COPY_OVERLAP)?;
    let (src, dst) = (src.arc(), dst.arc());
    Ok(move |queue: &Object<Queue>, request: &Request<'_>| {
        if size == 0 {
            return Ok(queue.enqueue_nothing(request)?.event);
        }
        let from = Part { buffer: &src, offset: src_offset, len: size };
        let to = Part { buffer: &dst, offset: dst_offset, len: size };
        transfer::copy(queue, request, from, to)
    })
}

/// `clEnqueueCopyBuffer`.
pub(super) fn copy(
    queue: Handle<Queue>,
    src_buffer: Handle<Buffer>,
    dst_buffer: Handle<Buffer>,
    src_offset: usize,
    dst_offset: usize,
    size: usize,
    events: EventArgs,
) -> ClResult<()> {
    let (queue, src, dst) = (queue.get()?, src_buffer.get()?, dst_buffer.get()?);
    let copy = copier(queue, (src, dst), (src_offset, dst_offset), size)?;
    let wait = events.wait_list(queue.context())?;
    let request = Request::new(CL_COMMAND_COPY_BUFFER, &wait, events.wants_event());
    events.give(copy(queue, &request)?);
    Ok(())
}

/// A buffer, an origin in it, and its pitches.
type Corner<'a> = (&'a Object<Buffer>, In<usize>, [usize; 2]);

/// A checked `clEnqueueCopyBufferRect` or `clCommandCopyBufferRectKHR`.
pub(super) fn rect_copier(
    queue: &Object<Queue>,
    (src, src_origin, src_pitches): Corner<'_>,
    (dst, dst_origin, dst_pitches): Corner<'_>,
    region: In<usize>,
) -> ClResult<impl Fn(&Object<Queue>, &Request<'_>) -> Enqueued + Send + Sync + use<>> {
    check(queue, src)?;
    check(queue, dst)?;
    let region = three(region)?;
    let from = rect_in(src, src_origin, region, src_pitches)?;
    let to = rect_in(dst, dst_origin, region, dst_pitches)?;
    if src.handle() == dst.handle() {
        // CL_INVALID_VALUE if src_buffer and dst_buffer are the same buffer object and src_slice_pitch is not equal to
        // dst_slice_pitch and src_row_pitch is not equal to dst_row_pitch.
        let same_pitches = from.row_pitch == to.row_pitch && from.slice_pitch == to.slice_pitch;
        refuse_if(!same_pitches, ClError::INVALID_VALUE)?;
    }
    // CL_MEM_COPY_OVERLAP if src_buffer and dst_buffer are the same buffer or sub-buffer object and the source and
    // destination regions overlap or if src_buffer and dst_buffer are different sub-buffers of the same associated
    // buffer object and they overlap.
    let ((src_root, src_base), (dst_root, dst_base)) = (src.root(), dst.root());
    let overlaps = src_root == dst_root && from.overlaps(src_base, &to, dst_base);
    refuse_if(overlaps, ClError::MEM_COPY_OVERLAP)?;
    let (src, dst) = (src.arc(), dst.arc());
    Ok(move |queue: &Object<Queue>, request: &Request<'_>| {
        transfer::copy_rect(queue, request, (&src, from), (&dst, to))
    })
}

/// `clEnqueueCopyBufferRect`.
#[expect(clippy::too_many_arguments, reason = "the specification's")]
pub(super) fn copy_rect(
    queue: Handle<Queue>,
    src_buffer: Handle<Buffer>,
    dst_buffer: Handle<Buffer>,
    src_origin: In<usize>,
    dst_origin: In<usize>,
    region: In<usize>,
    src_row_pitch: usize,
    src_slice_pitch: usize,
    dst_row_pitch: usize,
    dst_slice_pitch: usize,
    events: EventArgs,
) -> ClResult<()> {
    let queue = queue.get()?;
    let src = (src_buffer.get()?, src_origin, [src_row_pitch, src_slice_pitch]);
    let dst = (dst_buffer.get()?, dst_origin, [dst_row_pitch, dst_slice_pitch]);
    let copy = rect_copier(queue, src, dst, region)?;
    let wait = events.wait_list(queue.context())?;
    let request = Request::new(CL_COMMAND_COPY_BUFFER_RECT, &wait, events.wants_event());
    events.give(copy(queue, &request)?);
    Ok(())
}

/// A checked `clEnqueueFillBuffer` or `clCommandFillBufferKHR`.
pub(super) fn filler(
    queue: &Object<Queue>,
    buffer: &Object<Buffer>,
    (pattern, pattern_size): (Bytes, usize),
    (offset, size): (usize, usize),
) -> ClResult<impl Fn(&Object<Queue>, &Request<'_>) -> Enqueued + Send + Sync + use<>> {
    check(queue, buffer)?;
    // CL_INVALID_VALUE if offset or offset + size require accessing elements outside the buffer object.
    refuse_if(!buffer.contains(offset, size), ClError::INVALID_VALUE)?;
    // CL_INVALID_VALUE if pattern is NULL or if pattern_size is 0 or if pattern_size is one of { 1, 2, 4, 8, 16, 32, 64,
    // 128 } — that is: not one of them.
    refuse_if(!pattern_size.is_power_of_two() || pattern_size > 128, ClError::INVALID_VALUE)?;
    let pattern = pattern.get(pattern_size).ok_or(ClError::INVALID_VALUE)?.to_vec();
    // CL_INVALID_VALUE if offset and size are not a multiple of pattern_size.
    let fits = offset.is_multiple_of(pattern_size) && size.is_multiple_of(pattern_size);
    refuse_if(!fits, ClError::INVALID_VALUE)?;
    let buffer = buffer.arc();
    Ok(move |queue: &Object<Queue>, request: &Request<'_>| match size {
        0 => Ok(queue.enqueue_nothing(request)?.event),
        _ => transfer::fill(queue, request, Part { buffer: &buffer, offset, len: size }, &pattern),
    })
}

/// `clEnqueueFillBuffer`.
pub(super) fn fill(
    queue: Handle<Queue>,
    buffer: Handle<Buffer>,
    pattern: Bytes,
    pattern_size: usize,
    offset: usize,
    size: usize,
    events: EventArgs,
) -> ClResult<()> {
    let (queue, buffer) = (queue.get()?, buffer.get()?);
    let fill = filler(queue, buffer, (pattern, pattern_size), (offset, size))?;
    let wait = events.wait_list(queue.context())?;
    let request = Request::new(CL_COMMAND_FILL_BUFFER, &wait, events.wants_event());
    events.give(fill(queue, &request)?);
    Ok(())
}

/// CL_INVALID_VALUE if values specified in map_flags are not valid.
pub(super) fn check_map_flags(map_flags: u64) -> ClResult<()> {
    let (plain, invalidate) = (CL_MAP_READ | CL_MAP_WRITE, CL_MAP_WRITE_INVALIDATE_REGION);
    let excluded = map_flags & invalidate != 0 && map_flags & plain != 0;
    refuse_if(map_flags & !(plain | invalidate) != 0 || excluded, ClError::INVALID_VALUE)
}

/// CL_INVALID_OPERATION if the object has been created with CL_MEM_HOST_WRITE_ONLY or CL_MEM_HOST_NO_ACCESS and
/// CL_MAP_READ is set in map_flags or if it has been created with CL_MEM_HOST_READ_ONLY or CL_MEM_HOST_NO_ACCESS and
/// CL_MAP_WRITE or CL_MAP_WRITE_INVALIDATE_REGION is set in map_flags.
pub(super) fn check_map_access(memory: &Memory, map_flags: u64) -> ClResult<()> {
    if map_flags & CL_MAP_READ != 0 {
        check_host_access(memory, CL_MEM_HOST_WRITE_ONLY)?;
    }
    if map_flags & (CL_MAP_WRITE | CL_MAP_WRITE_INVALIDATE_REGION) != 0 {
        check_host_access(memory, CL_MEM_HOST_READ_ONLY)?;
    }
    Ok(())
}

/// `clEnqueueMapBuffer`.
pub(super) fn map(
    queue: Handle<Queue>,
    buffer: Handle<Buffer>,
    blocking_map: u32,
    map_flags: u64,
    offset: usize,
    size: usize,
    events: EventArgs,
) -> ClResult<AppMemory> {
    let (queue, buffer) = (queue.get()?, buffer.get()?);
    check(queue, buffer)?;
    // CL_INVALID_VALUE if region being mapped given by (offset, size) is out of bounds or if size is 0 or if values
    // specified in map_flags are not valid.
    refuse_if(!buffer.contains(offset, size) || size == 0, ClError::INVALID_VALUE)?;
    check_map_flags(map_flags)?;
    let wait = events.wait_list(queue.context())?;
    check_map_access(buffer, map_flags)?;
    let region = Region::Buffer(Part { buffer, offset, len: size });
    let request = Request::new(CL_COMMAND_MAP_BUFFER, &wait, events.wants_event()).blocking(blocking_map);
    let (memory, event) = mapping::map(queue, region, map_flags, &request)?;
    events.give(event);
    Ok(memory)
}
