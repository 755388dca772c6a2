//! What this driver does not offer: each entry point checks its object and returns the error that the specification
//! has for devices without the feature.

use opencl_sys::{cl_image_desc, cl_image_format};

use crate::boundary::arguments::EventArgs;
use crate::boundary::object::{Handle, Kind, RawHandle};
use crate::boundary::pointer::{AppMemory, Bytes, In, Out};
use crate::core::buffer::Buffer;
use crate::core::context::Context;
use crate::core::error::{ClError, ClResult};
use crate::core::info::Info;
use crate::core::queue::Queue;

/// Samplers: a kind of which no object exists.
#[derive(Debug)]
pub(super) struct Sampler;

impl Kind for Sampler {
    const TAG: u32 = u32::from_le_bytes(*b"samp");
    const INVALID: ClError = ClError::INVALID_SAMPLER;
}

/// "CL_INVALID_OPERATION if there are no devices in context that support images" (`CL_DEVICE_IMAGE_SUPPORT`).
fn no_images<T>(context: &Handle<Context>) -> ClResult<T> {
    context.get()?;
    Err(ClError::INVALID_OPERATION)
}

/// `clCreateImage`.
pub(super) fn create_image(
    context: Handle<Context>,
    _flags: u64,
    _format: In<cl_image_format>,
    _desc: In<cl_image_desc>,
    _host_ptr: AppMemory,
) -> ClResult<RawHandle> {
    no_images(&context)
}

/// `clCreateImageWithProperties`.
pub(super) fn create_image_with_properties(
    context: Handle<Context>,
    _properties: In<u64>,
    _flags: u64,
    _format: In<cl_image_format>,
    _desc: In<cl_image_desc>,
    _host_ptr: AppMemory,
) -> ClResult<RawHandle> {
    no_images(&context)
}

/// `clCreateImage2D`.
pub(super) fn create_image_2d(
    context: Handle<Context>,
    _flags: u64,
    _format: In<cl_image_format>,
    _width: usize,
    _height: usize,
    _row_pitch: usize,
    _host_ptr: AppMemory,
) -> ClResult<RawHandle> {
    no_images(&context)
}

/// `clCreateImage3D`.
#[expect(clippy::too_many_arguments, reason = "the specification's")]
pub(super) fn create_image_3d(
    context: Handle<Context>,
    _flags: u64,
    _format: In<cl_image_format>,
    _width: usize,
    _height: usize,
    _depth: usize,
    _row_pitch: usize,
    _slice_pitch: usize,
    _host_ptr: AppMemory,
) -> ClResult<RawHandle> {
    no_images(&context)
}

/// `clGetSupportedImageFormats`: there are none, which is an answer and no error.
pub(super) fn image_formats(
    context: Handle<Context>,
    _flags: u64,
    _image_type: u32,
    num_entries: u32,
    formats: Out<cl_image_format>,
    num_formats: Out<u32>,
) -> ClResult<()> {
    context.get()?;
    // CL_INVALID_VALUE if num_entries is 0 and image_formats is not NULL.
    crate::core::error::refuse_if(num_entries == 0 && !formats.is_null(), ClError::INVALID_VALUE)?;
    num_formats.set(0);
    Ok(())
}

/// `clCreateSampler`.
pub(super) fn create_sampler(
    context: Handle<Context>,
    _normalized: u32,
    _addressing: u32,
    _filter: u32,
) -> ClResult<RawHandle> {
    no_images(&context)
}

/// `clCreateSamplerWithProperties`.
pub(super) fn create_sampler_with_properties(
    context: Handle<Context>,
    _properties: In<u64>,
) -> ClResult<RawHandle> {
    no_images(&context)
}

/// `clRetainSampler`, `clReleaseSampler`: no handle is a sampler.
pub(super) fn keep_sampler(sampler: Handle<Sampler>) -> ClResult<()> {
    sampler.get().map(|_| ())
}

/// `clGetSamplerInfo`.
pub(super) fn sampler_info(sampler: Handle<Sampler>, _param_name: u32) -> ClResult<Info> {
    sampler.get()?;
    Err(ClError::INVALID_SAMPLER)
}

/// `clGetImageInfo`, `clGetPipeInfo`: no memory object is an image or a pipe.
pub(super) fn image_or_pipe_info(_memobj: Handle<Buffer>, _param_name: u32) -> ClResult<Info> {
    Err(ClError::INVALID_MEM_OBJECT)
}

/// `clCreatePipe`.
pub(super) fn create_pipe(
    context: Handle<Context>,
    _flags: u64,
    _packet_size: u32,
    _max_packets: u32,
    _properties: In<isize>,
) -> ClResult<RawHandle> {
    context.get()?;
    // CL_INVALID_OPERATION if no devices in context support pipes.
    Err(ClError::INVALID_OPERATION)
}

/// CL_INVALID_MEM_OBJECT: no memory object is an image.
fn no_image_of<T>(queue: &Handle<Queue>) -> ClResult<T> {
    queue.get()?;
    Err(ClError::INVALID_MEM_OBJECT)
}

/// `clEnqueueReadImage`, `clEnqueueWriteImage`.
#[expect(clippy::too_many_arguments, reason = "the specification's")]
pub(super) fn transfer_image(
    queue: Handle<Queue>,
    _image: Handle<Buffer>,
    _blocking: u32,
    _origin: In<usize>,
    _region: In<usize>,
    _row_pitch: usize,
    _slice_pitch: usize,
    _ptr: AppMemory,
    _events: EventArgs,
) -> ClResult<()> {
    no_image_of(&queue)
}

/// `clEnqueueFillImage`.
pub(super) fn fill_image(
    queue: Handle<Queue>,
    _image: Handle<Buffer>,
    _color: Bytes,
    _origin: In<usize>,
    _region: In<usize>,
    _events: EventArgs,
) -> ClResult<()> {
    no_image_of(&queue)
}

/// `clEnqueueCopyImage`.
pub(super) fn copy_image(
    queue: Handle<Queue>,
    _src: Handle<Buffer>,
    _dst: Handle<Buffer>,
    _src_origin: In<usize>,
    _dst_origin: In<usize>,
    _region: In<usize>,
    _events: EventArgs,
) -> ClResult<()> {
    no_image_of(&queue)
}

/// `clEnqueueCopyImageToBuffer`.
pub(super) fn copy_image_to_buffer(
    queue: Handle<Queue>,
    _image: Handle<Buffer>,
    _buffer: Handle<Buffer>,
    _origin: In<usize>,
    _region: In<usize>,
    _offset: usize,
    _events: EventArgs,
) -> ClResult<()> {
    no_image_of(&queue)
}

/// `clEnqueueCopyBufferToImage`.
pub(super) fn copy_buffer_to_image(
    queue: Handle<Queue>,
    _buffer: Handle<Buffer>,
    _image: Handle<Buffer>,
    _offset: usize,
    _origin: In<usize>,
    _region: In<usize>,
    _events: EventArgs,
) -> ClResult<()> {
    no_image_of(&queue)
}

/// `clEnqueueMapImage`.
#[expect(clippy::too_many_arguments, reason = "the specification's")]
pub(super) fn map_image(
    queue: Handle<Queue>,
    _image: Handle<Buffer>,
    _blocking: u32,
    _flags: u64,
    _origin: In<usize>,
    _region: In<usize>,
    _row_pitch: Out<usize>,
    _slice_pitch: Out<usize>,
    _events: EventArgs,
) -> ClResult<AppMemory> {
    no_image_of(&queue)
}
