//! Images, and what formats there are.

use opencl_sys::{
    CL_DEPTH, CL_MEM_COPY_HOST_PTR, CL_MEM_KERNEL_READ_AND_WRITE, CL_MEM_OBJECT_IMAGE2D,
    CL_MEM_OBJECT_IMAGE3D, CL_MEM_USE_HOST_PTR, CL_R, cl_image_format,
};
use paragpu_protocol::image::{ImageFormat, ImageShape, ImageType};

use crate::api::buffer;
use crate::boundary::object::{Handle, Object, RawHandle};
use crate::boundary::pointer::{AppMemory, ImageDesc, In, Out};
use crate::core::area::Texels;
use crate::core::buffer::inherited_flags;
use crate::core::context::Context;
use crate::core::error::{ClError, ClResult, refuse_if};
use crate::core::image::{self, Base, Description, Image};
use crate::core::info::Info;
use crate::core::memory::{MemoryObject, kernel_access};

/// CL_INVALID_OPERATION if there are no devices in context that support images (`CL_DEVICE_IMAGE_SUPPORT`).
pub(super) fn check_support(context: &Context) -> ClResult<()> {
    refuse_if(!context.has_images(), ClError::INVALID_OPERATION)
}

/// CL_INVALID_IMAGE_FORMAT_DESCRIPTOR if values specified in image_format are not valid or if image_format is NULL. Valid is
/// also what the host lists: Intel's driver for processors has 16-bit CL_BGRA, which the specification does not know.
fn check_format(
    context: &Object<Context>,
    flags: u64,
    format: In<cl_image_format>,
    kind: Option<ImageType>,
) -> ClResult<ImageFormat> {
    let format = format.value().ok_or(ClError::INVALID_IMAGE_FORMAT_DESCRIPTOR)?;
    let format = ImageFormat::new(format.image_channel_order, format.image_channel_data_type);
    let is_listed = || {
        let listed = kind.and_then(|kind| image::formats(context, kernel_access(flags), kind).ok());
        listed.is_some_and(|listed| listed.contains(&format))
    };
    let is_valid = format.is_combination() || is_listed();
    refuse_if(!is_valid, ClError::INVALID_IMAGE_FORMAT_DESCRIPTOR)?;
    Ok(format)
}

/// The sizes that an image of this type has; the others are ignored.
fn shape(kind: ImageType, desc: &ImageDesc) -> ImageShape {
    let if_it_has = |has: bool, size: usize| (if has { size as u64 } else { 0 }).into();
    ImageShape {
        width: (desc.width as u64).into(),
        height: if_it_has(kind.has_height(), desc.height),
        depth: if_it_has(kind == ImageType::Image3d, desc.depth),
        array_size: if_it_has(kind.is_array(), desc.array_size),
    }
}

/// What another object's memory is for an image: the flags with what is inherited, and where the elements are.
fn base_in_memory(
    context: &Context,
    description: &mut Description,
    desc: &ImageDesc,
) -> ClResult<Option<Base>> {
    let kind = description.kind;
    let is_in_buffer = kind == ImageType::Image1dBuffer;
    if desc.memory.is_null() {
        // CL_INVALID_IMAGE_DESCRIPTOR if values specified in image_desc are not valid: a 1D image buffer has a buffer.
        refuse_if(is_in_buffer, ClError::INVALID_IMAGE_DESCRIPTOR)?;
        return Ok(None);
    }
    // mem_object "may refer to a valid buffer or image memory object": a buffer for 1D image buffers, either for 2D
    // images, and NULL for others.
    let object = desc.memory.get_any().or(Err(ClError::INVALID_IMAGE_DESCRIPTOR))?;
    refuse_if(!is_in_buffer && kind != ImageType::Image2d, ClError::INVALID_IMAGE_DESCRIPTOR)?;
    let memory = object.memory();
    // CL_INVALID_CONTEXT is for the context argument; an object of another one is no valid mem_object.
    let is_own = memory.context().id() == context.id();
    refuse_if(!is_own, ClError::INVALID_IMAGE_DESCRIPTOR)?;
    // CL_INVALID_VALUE if flags widen what the object allows, or have host pointer flags, which are inherited.
    buffer::check_sub_flags(description.flags, memory.flags())?;
    description.flags = inherited_flags(description.flags, memory.flags());
    let texels = description.texels().ok_or(ClError::INVALID_IMAGE_DESCRIPTOR)?;
    match object {
        MemoryObject::Buffer(buffer) => {
            let row_pitch = if is_in_buffer { 0 } else { desc.row_pitch };
            check_in_buffer(&texels, row_pitch, buffer.size())?;
            Ok(Some(Base::Buffer(buffer, row_pitch)))
        }
        MemoryObject::Image(image) => {
            refuse_if(is_in_buffer, ClError::INVALID_IMAGE_DESCRIPTOR)?;
            check_in_image(description, &texels, &image)?;
            Ok(Some(Base::Image(image)))
        }
        MemoryObject::Pipe(_) => Err(ClError::INVALID_IMAGE_DESCRIPTOR),
    }
}

/// Checks that an image has room in a buffer.
fn check_in_buffer(texels: &Texels, row_pitch: usize, size: usize) -> ClResult<()> {
    // CL_INVALID_IMAGE_DESCRIPTOR: the row pitch must be 0, or at least a row.
    let pitches = texels.pitches(texels.extent, row_pitch, 0).ok_or(ClError::INVALID_IMAGE_DESCRIPTOR)?;
    // CL_INVALID_IMAGE_SIZE: "the size in bytes of the buffer must be at least image_width (or image_row_pitch) times the
    // element size times image_height".
    let needed = pitches.row.checked_mul(texels.extent[1]).ok_or(ClError::INVALID_IMAGE_SIZE)?;
    refuse_if(needed > size, ClError::INVALID_IMAGE_SIZE)
}

/// Checks that an image can show another one.
fn check_in_image(description: &Description, texels: &Texels, image: &Image) -> ClResult<()> {
    // CL_INVALID_IMAGE_DESCRIPTOR if a 2D image is created from a 2D image and the sizes are not those of that image.
    refuse_if(image.texels() != texels, ClError::INVALID_IMAGE_DESCRIPTOR)?;
    // CL_INVALID_IMAGE_FORMAT_DESCRIPTOR if a 2D image object is created from another 2D image object and the channel data
    // types differ, or the channel orders are not such that one can stand for the other.
    let (own, other) = (description.format, image.description().format);
    let plain = |order: u32| match order {
        opencl_sys::CL_sRGB => opencl_sys::CL_RGB,
        opencl_sys::CL_sRGBx => opencl_sys::CL_RGBx,
        opencl_sys::CL_sRGBA => opencl_sys::CL_RGBA,
        opencl_sys::CL_sBGRA => opencl_sys::CL_BGRA,
        CL_DEPTH => CL_R,
        order => order,
    };
    let fits = own.data_type == other.data_type && plain(own.order.get()) == plain(other.order.get());
    refuse_if(!fits, ClError::INVALID_IMAGE_FORMAT_DESCRIPTOR)
}

/// The application's memory, or none, for an image with memory of its own.
fn own_base(description: &Description, desc: &ImageDesc, host_ptr: AppMemory) -> ClResult<Base> {
    // CL_INVALID_HOST_PTR if host_ptr is NULL and CL_MEM_USE_HOST_PTR or CL_MEM_COPY_HOST_PTR are set in flags or if
    // host_ptr is not NULL but CL_MEM_COPY_HOST_PTR or CL_MEM_USE_HOST_PTR are not set in flags.
    let needs_memory = description.flags & (CL_MEM_USE_HOST_PTR | CL_MEM_COPY_HOST_PTR) != 0;
    refuse_if(host_ptr.is_null() == needs_memory, ClError::INVALID_HOST_PTR)?;
    // CL_INVALID_IMAGE_DESCRIPTOR if values specified in image_desc are not valid: the pitches must be 0 if host_ptr is
    // NULL; otherwise image_row_pitch must be 0, or at least a row and a multiple of the element size, and
    // image_slice_pitch 0, or at least a slice and a multiple of the row pitch.
    let texels = description.texels().ok_or(ClError::INVALID_IMAGE_DESCRIPTOR)?;
    if !needs_memory {
        let has_pitches = desc.row_pitch != 0 || desc.slice_pitch != 0;
        refuse_if(has_pitches, ClError::INVALID_IMAGE_DESCRIPTOR)?;
        return Ok(Base::Own);
    }
    let pitches = texels.pitches(texels.extent, desc.row_pitch, desc.slice_pitch);
    let pitches = pitches.ok_or(ClError::INVALID_IMAGE_DESCRIPTOR)?;
    let is_even = pitches.row.is_multiple_of(texels.size) && pitches.slice.is_multiple_of(pitches.row);
    refuse_if(!is_even, ClError::INVALID_IMAGE_DESCRIPTOR)?;
    Ok(Base::Application(host_ptr, pitches))
}

fn create_checked(
    context: Handle<Context>,
    flags: u64,
    format: In<cl_image_format>,
    desc: Option<ImageDesc>,
    host_ptr: AppMemory,
    properties: Vec<u64>,
) -> ClResult<RawHandle> {
    let context = context.get()?;
    check_support(context)?;
    buffer::check_flags(flags)?;
    let kind = desc.as_ref().and_then(|desc| ImageType::from_wire(desc.kind));
    let format = check_format(context, flags, format, kind)?;
    // CL_INVALID_IMAGE_DESCRIPTOR if values specified in image_desc are not valid or if image_desc is NULL.
    let desc = desc.ok_or(ClError::INVALID_IMAGE_DESCRIPTOR)?;
    let kind = kind.ok_or(ClError::INVALID_IMAGE_DESCRIPTOR)?;
    // num_mip_levels and num_samples must be 0.
    refuse_if(desc.num_mip_levels != 0 || desc.num_samples != 0, ClError::INVALID_IMAGE_DESCRIPTOR)?;
    let shape = shape(kind, &desc);
    refuse_if(shape.extent(kind).is_none(), ClError::INVALID_IMAGE_DESCRIPTOR)?;
    // CL_INVALID_IMAGE_SIZE if image dimensions specified in image_desc exceed the maximum image dimensions described in
    // the Device Queries table for all devices in context.
    let is_taken = context.devices().iter().any(|device| device.takes_image(kind, &shape));
    refuse_if(!is_taken, ClError::INVALID_IMAGE_SIZE)?;
    let mut description = Description { flags, format, kind, shape };
    let base = match base_in_memory(context, &mut description, &desc)? {
        Some(base) => {
            // CL_INVALID_HOST_PTR if host_ptr is not NULL but no flag is for it.
            refuse_if(!host_ptr.is_null(), ClError::INVALID_HOST_PTR)?;
            base
        }
        None => {
            description.flags = buffer::default_flags(flags);
            own_base(&description, &desc, host_ptr)?
        }
    };
    // CL_IMAGE_FORMAT_NOT_SUPPORTED if there are no devices in context that support image_format: the host knows.
    Ok(Image::new(context, description, base, properties)?.hand_out())
}

/// `clCreateImage`.
pub(super) fn create(
    context: Handle<Context>,
    flags: u64,
    format: In<cl_image_format>,
    desc: In<opencl_sys::cl_image_desc>,
    host_ptr: AppMemory,
) -> ClResult<RawHandle> {
    create_checked(context, flags, format, desc.image_desc(), host_ptr, Vec::new())
}

/// `clCreateImageWithProperties`.
pub(super) fn create_with_properties(
    context: Handle<Context>,
    properties: In<u64>,
    flags: u64,
    format: In<cl_image_format>,
    desc: In<opencl_sys::cl_image_desc>,
    host_ptr: AppMemory,
) -> ClResult<RawHandle> {
    context.get()?;
    let properties = buffer::memory_properties(properties)?;
    create_checked(context, flags, format, desc.image_desc(), host_ptr, properties)
}

/// `clCreateImage2D`.
pub(super) fn create_2d(
    context: Handle<Context>,
    flags: u64,
    format: In<cl_image_format>,
    width: usize,
    height: usize,
    row_pitch: usize,
    host_ptr: AppMemory,
) -> ClResult<RawHandle> {
    // CL_INVALID_IMAGE_SIZE if image_width or image_height are 0.
    refuse_if(width == 0 || height == 0, ClError::INVALID_IMAGE_SIZE)?;
    let desc = ImageDesc { width, height, row_pitch, ..ImageDesc::of_type(CL_MEM_OBJECT_IMAGE2D) };
    create_old(context, flags, format, desc, host_ptr)
}

/// `clCreateImage3D`.
#[expect(clippy::too_many_arguments, reason = "the specification's")]
pub(super) fn create_3d(
    context: Handle<Context>,
    flags: u64,
    format: In<cl_image_format>,
    width: usize,
    height: usize,
    depth: usize,
    row_pitch: usize,
    slice_pitch: usize,
    host_ptr: AppMemory,
) -> ClResult<RawHandle> {
    // CL_INVALID_IMAGE_SIZE if image_width, image_height or image_depth are 0.
    refuse_if(width == 0 || height == 0 || depth == 0, ClError::INVALID_IMAGE_SIZE)?;
    let desc = ImageDesc::of_type(CL_MEM_OBJECT_IMAGE3D);
    let desc = ImageDesc { width, height, depth, row_pitch, slice_pitch, ..desc };
    create_old(context, flags, format, desc, host_ptr)
}

/// What OpenCL 1.1 calls otherwise: "CL_INVALID_IMAGE_SIZE if image_row_pitch [or image_slice_pitch] do not follow rules".
fn create_old(
    context: Handle<Context>,
    flags: u64,
    format: In<cl_image_format>,
    desc: ImageDesc,
    host_ptr: AppMemory,
) -> ClResult<RawHandle> {
    create_checked(context, flags, format, Some(desc), host_ptr, Vec::new()).map_err(|error| {
        if error == ClError::INVALID_IMAGE_DESCRIPTOR { ClError::INVALID_IMAGE_SIZE } else { error }
    })
}

/// `clGetSupportedImageFormats`.
pub(super) fn formats(
    context: Handle<Context>,
    flags: u64,
    image_type: u32,
    num_entries: u32,
    formats: Out<cl_image_format>,
    num_formats: Out<u32>,
) -> ClResult<()> {
    let context = context.get()?;
    // CL_INVALID_VALUE if flags or image_type are not valid, or if num_entries is 0 and image_formats is not NULL.
    buffer::check_flags(flags & !CL_MEM_KERNEL_READ_AND_WRITE)?;
    let kind = ImageType::from_wire(image_type).ok_or(ClError::INVALID_VALUE)?;
    refuse_if(num_entries == 0 && !formats.is_null(), ClError::INVALID_VALUE)?;
    let both = flags & CL_MEM_KERNEL_READ_AND_WRITE;
    let flags = if both != 0 { both } else { kernel_access(flags) };
    let all = if context.has_images() { image::formats(context, flags, kind)? } else { Vec::new() };
    let taken: Vec<_> = all
        .iter()
        .take(num_entries as usize)
        .map(|format| cl_image_format {
            image_channel_order: format.order.get(),
            image_channel_data_type: format.data_type.get(),
        })
        .collect();
    formats.fill(&taken);
    num_formats.set(all.len() as u32);
    Ok(())
}

/// `clGetImageInfo`.
pub(super) fn info(image: Handle<Image>, param_name: u32) -> ClResult<Info> {
    image.get()?.image_info(param_name)
}
