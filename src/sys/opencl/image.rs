//! Images and samplers: how they are made, and commands on images.

use std::ffi::c_void;
use std::io;
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};

use cl3::memory::{CL_IMAGE_ELEMENT_SIZE, CL_MEM_ASSOCIATED_MEMOBJECT, CL_MEM_COPY_HOST_PTR};
use cl3::types::{cl_event, cl_image_desc, cl_image_format};
use paragpu_protocol::image::{ImageFormat, ImageType};

use super::enqueue::Kept;
use super::handle::{Buffer, Context, Queue, RawImage, Sampler};
use super::query::{answer, number};
use super::{checked, cl};
use crate::sys::compute::ClError;
use crate::sys::image::{Area, ImageBase, ImageLayout, ImageSpec, ImageWork, SamplerSpec};
use crate::sys::map::{Mapping, Window};

/// An image, and how its elements are counted.
#[derive(Clone, Debug)]
pub struct Image {
    raw: RawImage,
    layout: ImageLayout,
}

impl Image {
    /// An image as it is asked for.
    pub fn new(
        context: &Context,
        spec: &ImageSpec,
        base: ImageBase<'_, Buffer, Image>,
    ) -> Result<Image, ClError> {
        let layout = spec.layout().ok_or(ClError::INVALID_IMAGE_SIZE)?;
        let zeroes;
        let (contents, memory) = match base {
            ImageBase::Own(Some(init)) => (Some(init), ptr::null_mut()),
            ImageBase::Own(None) => {
                // Untouched private pages all read as the one zero page, so that this costs no memory.
                zeroes = zeroed(layout.bytes())?;
                (Some(&zeroes), ptr::null_mut())
            }
            ImageBase::Buffer(buffer) => (None, buffer.raw()),
            ImageBase::Image(image) => (None, image.raw()),
        };
        let Some(contents) = contents else {
            // SAFETY: no host memory.
            let raw = unsafe { create(context, spec, layout.extent, memory, ptr::null_mut())? };
            if element_size(&raw)? != layout.element {
                return Err(ClError::IMAGE_FORMAT_NOT_SUPPORTED);
            }
            // A driver that took no notice of the memory has made some of its own, which nobody has cleared.
            if associated(&raw)? != memory {
                return Err(ClError::INVALID_OPERATION);
            }
            return Ok(Image { raw, layout });
        };
        if contents.len() != layout.bytes() {
            return Err(ClError::INVALID_VALUE);
        }
        check_element_size(context, spec, layout.element)?;
        // SAFETY: the window has the bytes of the whole image without gaps, in the driver's reckoning as in this
        // side's.
        let raw = unsafe { create(context, spec, layout.extent, memory, contents.as_ptr())? };
        Ok(Image { raw, layout })
    }

    pub(super) fn raw(&self) -> *mut c_void {
        self.raw.raw()
    }

    /// `clGetMemObjectInfo`, where the answer is a number.
    pub fn info(&self, param: u32) -> Result<u64, ClError> {
        let bytes = answer(|len, to, full| {
            // SAFETY: a live image; `to` has room for `len` bytes.
            unsafe { cl!(clGetMemObjectInfo(self.raw(), param, len, to, full)) }
        })?;
        Ok(number(&bytes))
    }

    /// Checks that memory has the bytes of a box without gaps.
    fn fits(&self, area: &Area, bytes: usize) -> Result<(), ClError> {
        let needed = self.layout.bytes_of(area).ok_or(ClError::INVALID_VALUE)?;
        if needed == bytes { Ok(()) } else { Err(ClError::INVALID_VALUE) }
    }
}

/// Makes an image.
///
/// # Safety
/// `host_ptr` is null, or there are the bytes of an image of that size without gaps.
unsafe fn create(
    context: &Context,
    spec: &ImageSpec,
    [width, height, depth]: [usize; 3],
    memory: *mut c_void,
    host_ptr: *mut c_void,
) -> Result<RawImage, ClError> {
    let flags = if host_ptr.is_null() { spec.flags } else { spec.flags | CL_MEM_COPY_HOST_PTR };
    let format = cl_image_format {
        image_channel_order: spec.format.order.get(),
        image_channel_data_type: spec.format.data_type.get(),
    };
    let desc = cl_image_desc {
        image_type: spec.kind as u32,
        image_width: width,
        image_height: if spec.kind.has_height() { height } else { 0 },
        image_depth: if spec.kind == ImageType::Image3d { depth } else { 0 },
        image_array_size: match spec.kind {
            ImageType::Image1dArray => height,
            ImageType::Image2dArray => depth,
            _ => 0,
        },
        image_row_pitch: spec.row_pitch,
        image_slice_pitch: 0,
        num_mip_levels: 0,
        num_samples: 0,
        buffer: memory,
    };
    let mut status = 0;
    // SAFETY: a live context; format and description live during the call, and name a live object or none; the bytes
    // are there as the caller says, without gaps, which is what pitches of 0 mean, and CL_MEM_COPY_HOST_PTR is done
    // with them when the call returns.
    let raw = unsafe { cl!(clCreateImage(context.raw(), flags, &format, &desc, host_ptr, &mut status)) };
    RawImage::created(raw, status)
}

fn element_size(image: &RawImage) -> Result<usize, ClError> {
    let bytes = answer(|len, to, full| {
        // SAFETY: a live image; `to` has room for `len` bytes.
        unsafe { cl!(clGetImageInfo(image.raw(), CL_IMAGE_ELEMENT_SIZE, len, to, full)) }
    })?;
    Ok(number(&bytes) as usize)
}

/// `CL_MEM_ASSOCIATED_MEMOBJECT`.
fn associated(image: &RawImage) -> Result<*mut c_void, ClError> {
    let bytes = answer(|len, to, full| {
        // SAFETY: a live image; `to` has room for `len` bytes.
        unsafe { cl!(clGetMemObjectInfo(image.raw(), CL_MEM_ASSOCIATED_MEMOBJECT, len, to, full)) }
    })?;
    Ok(ptr::without_provenance_mut(number(&bytes) as usize))
}

/// Formats of which the driver's elements are known to be as large as this side's.
static KNOWN: Mutex<Vec<ImageFormat>> = Mutex::new(Vec::new());

/// Asks an image of one element how large that is: before the driver reads contents by its own reckoning.
fn check_element_size(context: &Context, spec: &ImageSpec, element: usize) -> Result<(), ClError> {
    let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if known().contains(&spec.format) {
        return Ok(());
    }
    // SAFETY: no host memory.
    let probe = unsafe { create(context, spec, [1; 3], ptr::null_mut(), ptr::null_mut())? };
    if element_size(&probe)? != element {
        return Err(ClError::IMAGE_FORMAT_NOT_SUPPORTED);
    }
    known().push(spec.format);
    Ok(())
}

fn zeroed(bytes: usize) -> Result<Window, ClError> {
    let zeroes = Mapping::anonymous(bytes).map_err(|error: io::Error| {
        log::debug!("{bytes} bytes of zeroes: {error}");
        ClError::ALLOCATION_FAILURE
    })?;
    Window::new(Arc::new(zeroes), 0, bytes as u64).ok_or(ClError::INVALID_IMAGE_SIZE)
}

/// `clGetSupportedImageFormats`.
pub fn image_formats(context: &Context, flags: u64, kind: ImageType) -> Result<Vec<ImageFormat>, ClError> {
    let list = |room: u32, formats: *mut cl_image_format, count: &mut u32| {
        // SAFETY: a live context; `formats` has `room` entries, or is null with no room; `count` is writable.
        unsafe { cl!(clGetSupportedImageFormats(context.raw(), flags, kind as u32, room, formats, count)) }
    };
    let mut count = 0;
    checked(list(0, ptr::null_mut(), &mut count))?;
    let none = cl_image_format { image_channel_order: 0, image_channel_data_type: 0 };
    let mut formats = vec![none; count as usize];
    if count != 0 {
        checked(list(count, formats.as_mut_ptr(), &mut count))?;
    }
    formats.truncate(count as usize);
    let format = |it: cl_image_format| ImageFormat::new(it.image_channel_order, it.image_channel_data_type);
    Ok(formats.into_iter().map(format).collect())
}

impl Sampler {
    /// A sampler as it is asked for.
    pub fn new(context: &Context, spec: SamplerSpec) -> Result<Sampler, ClError> {
        let mut status = 0;
        let normalized = u32::from(spec.normalized);
        // SAFETY: a live context; clCreateSampler is what every version has.
        let raw = unsafe {
            cl!(clCreateSampler(context.raw(), normalized, spec.addressing, spec.filter, &mut status))
        };
        Sampler::created(raw, status)
    }
}

/// The enqueue call of a command on images. Host memory moves to `kept` before the driver learns of it.
///
/// # Safety
/// `list` has `count` live events, and `out` is null or writable.
pub(super) unsafe fn enqueue(
    queue: &Queue,
    work: ImageWork<'_, Buffer, Image>,
    (count, list): (u32, *const cl_event),
    out: *mut cl_event,
    kept: &mut Option<Kept>,
) -> Result<i32, ClError> {
    let queue = queue.raw();
    // All blocks below: live handles; the wait list and `out` as the caller says; three numbers each in origins and
    // extents. Boxes are the driver's to check against its images, offsets against its buffers.
    match work {
        ImageWork::Read { image, area: Area { origin, extent }, to } => {
            image.fits(&Area { origin, extent }, to.len())?;
            let at = to.as_ptr();
            *kept = Some(Kept::window(to));
            let (image, origin, extent) = (image.raw(), origin.as_ptr(), extent.as_ptr());
            // SAFETY: as above; the window has the bytes of the box without gaps, which is what pitches of 0 mean, and
            // stays mapped until the callback drops it.
            unsafe { cl!(clEnqueueReadImage(queue, image, 0, origin, extent, 0, 0, at, count, list, out)) }
        }
        ImageWork::Write { image, area: Area { origin, extent }, from } => {
            image.fits(&Area { origin, extent }, from.len())?;
            let at = from.as_ptr();
            *kept = Some(Kept::bytes(from));
            let (image, origin, extent) = (image.raw(), origin.as_ptr(), extent.as_ptr());
            // SAFETY: as above; the bytes are those of the box without gaps, and stay until the callback drops them.
            unsafe { cl!(clEnqueueWriteImage(queue, image, 0, origin, extent, 0, 0, at, count, list, out)) }
        }
        ImageWork::Copy { from, to, origins, extent } => {
            let (from, to) = (from.raw(), to.raw());
            let (source, target, extent) = (origins.0.as_ptr(), origins.1.as_ptr(), extent.as_ptr());
            // SAFETY: as above; no host memory.
            unsafe { cl!(clEnqueueCopyImage(queue, from, to, source, target, extent, count, list, out)) }
        }
        ImageWork::Fill { image, area: Area { origin, extent }, color } => {
            let color = Color(color);
            let (color, image) = (ptr::from_ref(&color).cast(), image.raw());
            let (origin, extent) = (origin.as_ptr(), extent.as_ptr());
            // SAFETY: as above; a colour is at most four aligned words, and copied before the call returns.
            unsafe { cl!(clEnqueueFillImage(queue, image, color, origin, extent, count, list, out)) }
        }
        ImageWork::ToBuffer { image, area: Area { origin, extent }, buffer, offset } => {
            let (image, buffer) = (image.raw(), buffer.raw());
            let (origin, extent) = (origin.as_ptr(), extent.as_ptr());
            // SAFETY: as above; no host memory.
            unsafe {
                cl!(clEnqueueCopyImageToBuffer(
                    queue, image, buffer, origin, extent, offset, count, list, out
                ))
            }
        }
        ImageWork::FromBuffer { image, area: Area { origin, extent }, buffer, offset } => {
            let (image, buffer) = (image.raw(), buffer.raw());
            let (origin, extent) = (origin.as_ptr(), extent.as_ptr());
            // SAFETY: as above; no host memory.
            unsafe {
                cl!(clEnqueueCopyBufferToImage(
                    queue, buffer, image, offset, origin, extent, count, list, out
                ))
            }
        }
    }
}

/// A fill colour, aligned as drivers read it.
#[repr(C, align(16))]
struct Color([u8; 16]);
