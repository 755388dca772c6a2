//! Reading, writing, copying, filling and mapping images.

use opencl_sys::{
    CL_COMMAND_COPY_BUFFER_TO_IMAGE, CL_COMMAND_COPY_IMAGE, CL_COMMAND_COPY_IMAGE_TO_BUFFER,
    CL_COMMAND_FILL_IMAGE, CL_COMMAND_MAP_IMAGE, CL_COMMAND_READ_IMAGE, CL_COMMAND_WRITE_IMAGE,
    CL_MEM_HOST_READ_ONLY, CL_MEM_HOST_WRITE_ONLY,
};

use crate::api::transfer::{self, check_host_access, three};
use crate::boundary::arguments::EventArgs;
use crate::boundary::object::{Handle, Object};
use crate::boundary::pointer::{AppMemory, Bytes, In, Out};
use crate::core::area::{Area, Pitches};
use crate::core::buffer::Buffer;
use crate::core::error::{ClError, ClResult, refuse_if};
use crate::core::image::Image;
use crate::core::image_transfer::{self, ImagePart, color_bytes};
use crate::core::mapping::{self, Region};
use crate::core::queue::{Queue, Request};
use crate::core::transfer::Enqueued;

/// Checks that every command on an image makes.
pub(super) fn check(queue: &Object<Queue>, image: &Image) -> ClResult<()> {
    // CL_INVALID_CONTEXT if the context associated with command_queue and image are not the same.
    refuse_if(queue.context().handle() != image.context().handle(), ClError::INVALID_CONTEXT)?;
    // CL_INVALID_OPERATION if the device associated with command_queue does not support images.
    refuse_if(!queue.device().has_images(), ClError::INVALID_OPERATION)?;
    // CL_INVALID_IMAGE_SIZE if image dimensions (image width, height, specified or compute row and/or slice pitch) for
    // image are not supported by device associated with queue.
    let description = image.description();
    let is_taken = queue.device().takes_image(description.kind, &description.shape);
    refuse_if(!is_taken, ClError::INVALID_IMAGE_SIZE)
}

/// A box that lies in the image.
fn part(image: &Object<Image>, origin: In<usize>, region: In<usize>) -> ClResult<ImagePart<'_>> {
    // CL_INVALID_VALUE if origin or region is NULL, if values in origin and region do not follow rules described in the
    // argument description, or if the region being read or written specified by origin and region is out of bounds.
    let area = Area { origin: three(origin)?, region: three(region)? };
    let area = area.inside(image.texels()).ok_or(ClError::INVALID_VALUE)?;
    Ok(ImagePart { image, area })
}

/// The pitches of the application's memory that goes with a box.
fn pitches(part: &ImagePart<'_>, ptr: AppMemory, row_pitch: usize, slice_pitch: usize) -> ClResult<Pitches> {
    // CL_INVALID_VALUE if ptr is NULL.
    refuse_if(ptr.is_null(), ClError::INVALID_VALUE)?;
    // CL_INVALID_VALUE if row_pitch is not 0 and less than the bytes of a row, if slice_pitch is not 0 for an image that is
    // neither 3D nor an array, or less than those of a slice.
    let texels = part.image.texels();
    refuse_if(slice_pitch != 0 && !texels.has_slices(), ClError::INVALID_VALUE)?;
    texels.pitches(part.area.region, row_pitch, slice_pitch).ok_or(ClError::INVALID_VALUE)
}

/// `clEnqueueReadImage` or `clEnqueueWriteImage`.
struct HostTransfer {
    command: u32,
    /// The flag of an image that denies the application this.
    denied: u64,
    post: fn(&Object<Queue>, &Request<'_>, ImagePart<'_>, AppMemory, Pitches) -> Enqueued,
}

impl HostTransfer {
    fn enqueue(
        self,
        (queue, image): (Handle<Queue>, Handle<Image>),
        blocking: u32,
        (origin, region): (In<usize>, In<usize>),
        (ptr, row_pitch, slice_pitch): (AppMemory, usize, usize),
        events: &EventArgs,
    ) -> ClResult<()> {
        let (queue, image) = (queue.get()?, image.get()?);
        check(queue, image)?;
        let part = part(image, origin, region)?;
        let pitches = pitches(&part, ptr, row_pitch, slice_pitch)?;
        let wait = events.wait_list(queue.context())?;
        check_host_access(image, self.denied)?;
        let request = Request::new(self.command, &wait, events.wants_event()).blocking(blocking);
        events.give((self.post)(queue, &request, part, ptr, pitches)?);
        Ok(())
    }
}

/// `clEnqueueReadImage`.
#[expect(clippy::too_many_arguments, reason = "the specification's")]
pub(super) fn read(
    queue: Handle<Queue>,
    image: Handle<Image>,
    blocking: u32,
    origin: In<usize>,
    region: In<usize>,
    row_pitch: usize,
    slice_pitch: usize,
    ptr: AppMemory,
    events: EventArgs,
) -> ClResult<()> {
    let (command, denied) = (CL_COMMAND_READ_IMAGE, CL_MEM_HOST_WRITE_ONLY);
    let transfer = HostTransfer { command, denied, post: image_transfer::read };
    let memory = (ptr, row_pitch, slice_pitch);
    transfer.enqueue((queue, image), blocking, (origin, region), memory, &events)
}

/// `clEnqueueWriteImage`.
#[expect(clippy::too_many_arguments, reason = "the specification's")]
pub(super) fn write(
    queue: Handle<Queue>,
    image: Handle<Image>,
    blocking: u32,
    origin: In<usize>,
    region: In<usize>,
    row_pitch: usize,
    slice_pitch: usize,
    ptr: AppMemory,
    events: EventArgs,
) -> ClResult<()> {
    let (command, denied) = (CL_COMMAND_WRITE_IMAGE, CL_MEM_HOST_READ_ONLY);
    let transfer = HostTransfer { command, denied, post: image_transfer::write };
    let memory = (ptr, row_pitch, slice_pitch);
    transfer.enqueue((queue, image), blocking, (origin, region), memory, &events)
}

/// A checked `clEnqueueFillImage` or `clCommandFillImageKHR`.
pub(super) fn filler(
    queue: &Object<Queue>,
    image: &Object<Image>,
    fill_color: Bytes,
    (origin, region): (In<usize>, In<usize>),
) -> ClResult<impl Fn(&Object<Queue>, &Request<'_>) -> Enqueued + Send + Sync + use<>> {
    check(queue, image)?;
    // CL_INVALID_VALUE if fill_color is NULL.
    let color = fill_color.get(color_bytes(image)).ok_or(ClError::INVALID_VALUE)?.to_vec();
    let area = part(image, origin, region)?.area;
    let image = image.arc();
    Ok(move |queue: &Object<Queue>, request: &Request<'_>| {
        image_transfer::fill(queue, request, ImagePart { image: &image, area }, &color)
    })
}

/// `clEnqueueFillImage`.
pub(super) fn fill(
    queue: Handle<Queue>,
    image: Handle<Image>,
    fill_color: Bytes,
    origin: In<usize>,
    region: In<usize>,
    events: EventArgs,
) -> ClResult<()> {
    let (queue, image) = (queue.get()?, image.get()?);
    let fill = filler(queue, image, fill_color, (origin, region))?;
    let wait = events.wait_list(queue.context())?;
    let request = Request::new(CL_COMMAND_FILL_IMAGE, &wait, events.wants_event());
    events.give(fill(queue, &request)?);
    Ok(())
}

/// An image, and an origin in it.
type Corner<'a> = (&'a Object<Image>, In<usize>);

/// A checked `clEnqueueCopyImage` or `clCommandCopyImageKHR`.
pub(super) fn copier(
    queue: &Object<Queue>,
    (src, src_origin): Corner<'_>,
    (dst, dst_origin): Corner<'_>,
    region: In<usize>,
) -> ClResult<impl Fn(&Object<Queue>, &Request<'_>) -> Enqueued + Send + Sync + use<>> {
    check(queue, src)?;
    check(queue, dst)?;
    // CL_IMAGE_FORMAT_MISMATCH if src_image and dst_image do not use the same image format.
    let is_same = src.description().format == dst.description().format;
    refuse_if(!is_same, ClError::IMAGE_FORMAT_MISMATCH)?;
    let (from, to) = (part(src, src_origin, region)?.area, part(dst, dst_origin, region)?.area);
    // CL_MEM_COPY_OVERLAP if src_image and dst_image are the same image object and the source and destination regions
    // overlap.
    let overlaps = src.handle() == dst.handle() && from.overlaps(&to);
    refuse_if(overlaps, ClError::MEM_COPY_OVERLAP)?;
    let (src, dst) = (src.arc(), dst.arc());
    Ok(move |queue: &Object<Queue>, request: &Request<'_>| {
        let (from, to) = (ImagePart { image: &src, area: from }, ImagePart { image: &dst, area: to });
        image_transfer::copy(queue, request, from, to)
    })
}

/// `clEnqueueCopyImage`.
pub(super) fn copy(
    queue: Handle<Queue>,
    src_image: Handle<Image>,
    dst_image: Handle<Image>,
    src_origin: In<usize>,
    dst_origin: In<usize>,
    region: In<usize>,
    events: EventArgs,
) -> ClResult<()> {
    let (queue, src, dst) = (queue.get()?, src_image.get()?, dst_image.get()?);
    let copy = copier(queue, (src, src_origin), (dst, dst_origin), region)?;
    let wait = events.wait_list(queue.context())?;
    let request = Request::new(CL_COMMAND_COPY_IMAGE, &wait, events.wants_event());
    events.give(copy(queue, &request)?);
    Ok(())
}

/// Which way a box is copied between an image and a buffer.
type Direction = fn(&Object<Queue>, &Request<'_>, ImagePart<'_>, (&Object<Buffer>, usize)) -> Enqueued;

/// A checked copy between a box of an image and a buffer: `clEnqueueCopyImageToBuffer`, `clEnqueueCopyBufferToImage`, or
/// one that is recorded.
fn buffer_copier(
    direction: Direction,
    queue: &Object<Queue>,
    (image, origin): Corner<'_>,
    region: In<usize>,
    (buffer, offset): (&Object<Buffer>, usize),
) -> ClResult<impl Fn(&Object<Queue>, &Request<'_>) -> Enqueued + Send + Sync + use<>> {
    check(queue, image)?;
    let part = part(image, origin, region)?;
    transfer::check(queue, buffer)?;
    // CL_INVALID_VALUE if the region specified by offset and the bytes of the box refer to a region outside the buffer.
    refuse_if(!buffer.contains(offset, part.len()), ClError::INVALID_VALUE)?;
    let (area, image, buffer) = (part.area, image.arc(), buffer.arc());
    Ok(move |queue: &Object<Queue>, request: &Request<'_>| {
        direction(queue, request, ImagePart { image: &image, area }, (&buffer, offset))
    })
}

/// A checked `clEnqueueCopyImageToBuffer` or `clCommandCopyImageToBufferKHR`.
pub(super) fn to_buffer_copier(
    queue: &Object<Queue>,
    src: Corner<'_>,
    region: In<usize>,
    dst: (&Object<Buffer>, usize),
) -> ClResult<impl Fn(&Object<Queue>, &Request<'_>) -> Enqueued + Send + Sync + use<>> {
    buffer_copier(image_transfer::copy_to_buffer, queue, src, region, dst)
}

/// A checked `clEnqueueCopyBufferToImage` or `clCommandCopyBufferToImageKHR`.
pub(super) fn from_buffer_copier(
    queue: &Object<Queue>,
    src: (&Object<Buffer>, usize),
    dst: Corner<'_>,
    region: In<usize>,
) -> ClResult<impl Fn(&Object<Queue>, &Request<'_>) -> Enqueued + Send + Sync + use<>> {
    buffer_copier(image_transfer::copy_from_buffer, queue, dst, region, src)
}

/// `clEnqueueCopyImageToBuffer`.
pub(super) fn copy_to_buffer(
    queue: Handle<Queue>,
    src_image: Handle<Image>,
    dst_buffer: Handle<Buffer>,
    src_origin: In<usize>,
    region: In<usize>,
    dst_offset: usize,
    events: EventArgs,
) -> ClResult<()> {
    let (queue, image, buffer) = (queue.get()?, src_image.get()?, dst_buffer.get()?);
    let copy = to_buffer_copier(queue, (image, src_origin), region, (buffer, dst_offset))?;
    let wait = events.wait_list(queue.context())?;
    let request = Request::new(CL_COMMAND_COPY_IMAGE_TO_BUFFER, &wait, events.wants_event());
    events.give(copy(queue, &request)?);
    Ok(())
}

/// `clEnqueueCopyBufferToImage`.
pub(super) fn copy_from_buffer(
    queue: Handle<Queue>,
    src_buffer: Handle<Buffer>,
    dst_image: Handle<Image>,
    src_offset: usize,
    dst_origin: In<usize>,
    region: In<usize>,
    events: EventArgs,
) -> ClResult<()> {
    let (queue, buffer, image) = (queue.get()?, src_buffer.get()?, dst_image.get()?);
    let copy = from_buffer_copier(queue, (buffer, src_offset), (image, dst_origin), region)?;
    let wait = events.wait_list(queue.context())?;
    let request = Request::new(CL_COMMAND_COPY_BUFFER_TO_IMAGE, &wait, events.wants_event());
    events.give(copy(queue, &request)?);
    Ok(())
}

/// `clEnqueueMapImage`.
#[expect(clippy::too_many_arguments, reason = "the specification's")]
pub(super) fn map(
    queue: Handle<Queue>,
    image: Handle<Image>,
    blocking_map: u32,
    map_flags: u64,
    origin: In<usize>,
    region: In<usize>,
    image_row_pitch: Out<usize>,
    image_slice_pitch: Out<usize>,
    events: EventArgs,
) -> ClResult<AppMemory> {
    let (queue, image) = (queue.get()?, image.get()?);
    check(queue, image)?;
    let part = part(image, origin, region)?;
    transfer::check_map_flags(map_flags)?;
    // CL_INVALID_VALUE if image_row_pitch is NULL, or if image is a 3D image or an array and image_slice_pitch is NULL.
    let texels = image.texels();
    let lacks_pitch = image_row_pitch.is_null() || (texels.has_slices() && image_slice_pitch.is_null());
    refuse_if(lacks_pitch, ClError::INVALID_VALUE)?;
    let wait = events.wait_list(queue.context())?;
    transfer::check_map_access(image, map_flags)?;
    let of_memory = image.host_place(&part.area).map(|(_, _, pitches)| pitches);
    let pitches = of_memory.or_else(|| texels.pitches(part.area.region, 0, 0));
    let Pitches { row, slice } = pitches.ok_or(ClError::INVALID_VALUE)?;
    let request = Request::new(CL_COMMAND_MAP_IMAGE, &wait, events.wants_event()).blocking(blocking_map);
    let (memory, event) = mapping::map(queue, Region::Image(part), map_flags, &request)?;
    events.give(event);
    image_row_pitch.set(row);
    // "For a 1D or 2D image, zero is returned."
    image_slice_pitch.set(if texels.has_slices() { slice } else { 0 });
    Ok(memory)
}
