//! Images.

use std::ops::Deref;
use std::sync::Arc;

use opencl_sys::{
    CL_IMAGE_ARRAY_SIZE, CL_IMAGE_BUFFER, CL_IMAGE_DEPTH, CL_IMAGE_ELEMENT_SIZE, CL_IMAGE_FORMAT,
    CL_IMAGE_HEIGHT, CL_IMAGE_NUM_MIP_LEVELS, CL_IMAGE_NUM_SAMPLES, CL_IMAGE_ROW_PITCH, CL_IMAGE_SLICE_PITCH,
    CL_IMAGE_WIDTH, CL_MEM_ASSOCIATED_MEMOBJECT, CL_MEM_OFFSET, CL_MEM_SIZE, CL_MEM_TYPE,
    CL_MEM_USE_HOST_PTR,
};
use paragpu_protocol::command::{CreateImage, GetImageFormats};
use paragpu_protocol::image::{ImageFormat, ImageShape, ImageType};
use paragpu_protocol::info::InfoKind;
use paragpu_protocol::types::{Create, Span};
use zerocopy::FromBytes;

use crate::boundary::object::{Kind, Object, RawHandle};
use crate::boundary::pointer::AppMemory;
use crate::core::area::{Area, Pitches, Texels};
use crate::core::buffer::Buffer;
use crate::core::context::{self, Context};
use crate::core::copies::Destination;
use crate::core::error::{ClError, ClResult};
use crate::core::info::{self, Info};
use crate::core::lock;
use crate::core::memory::{Memory, MemoryObject, WAIT_FROM_BYTES, host_flags, kernel_access};
use crate::core::query::Question;
use crate::core::staging::Staging;

/// Room for a list of formats at first.
const FORMATS_BYTES: usize = 4096;

/// An image.
#[derive(Debug)]
pub(crate) struct Image {
    memory: Memory,
    description: Description,
    texels: Texels,
    /// Of the application's memory or of the buffer that it was made from, otherwise without gaps.
    pitches: Pitches,
    /// What it has its memory from.
    parent: Option<MemoryObject>,
}

/// What an image shall be. The flags are complete, and the sizes are those that its type has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Description {
    pub(crate) flags: u64,
    pub(crate) format: ImageFormat,
    pub(crate) kind: ImageType,
    pub(crate) shape: ImageShape,
}

impl Description {
    /// How the elements are counted; `None` if there is no such image.
    pub(crate) fn texels(&self) -> Option<Texels> {
        let extent = self.shape.extent(self.kind)?;
        let size = self.format.element_size()?;
        paragpu_protocol::image::packed_bytes(extent, size).and_then(|bytes| usize::try_from(bytes).ok())?;
        // No larger than the bytes.
        Some(Texels { kind: self.kind, extent: extent.map(|size| size as usize), size: size as usize })
    }
}

/// Where an image has its elements from.
#[derive(Debug)]
pub(crate) enum Base {
    /// Memory of its own.
    Own,
    /// The application's memory, which is copied, or is where the image shows when it is mapped.
    Application(AppMemory, Pitches),
    /// A buffer with this row pitch, or 0 for rows without gaps.
    Buffer(Arc<Object<Buffer>>, usize),
    /// Another image, which it shows.
    Image(Arc<Object<Image>>),
}

impl Kind for Image {
    const TAG: u32 = u32::from_le_bytes(*b"imag");
    const INVALID: ClError = ClError::INVALID_MEM_OBJECT;

    fn last_words(&mut self, handle: RawHandle) {
        self.memory.last_words(handle);
    }
}

impl Deref for Image {
    type Target = Memory;

    fn deref(&self) -> &Memory {
        &self.memory
    }
}

impl Image {
    /// Creates an image. Waits for the host where its driver has rules of its own: for images in others' memory, and for
    /// formats that it does not list.
    pub(crate) fn new(
        context: &Object<Context>,
        description: Description,
        base: Base,
        properties: Vec<u64>,
    ) -> ClResult<Arc<Object<Image>>> {
        // CL_INVALID_IMAGE_DESCRIPTOR if values specified in image_desc are not valid.
        let texels = description.texels().ok_or(ClError::INVALID_IMAGE_DESCRIPTOR)?;
        let connection = context.connection();
        let staging = match &base {
            Base::Application(memory, pitches) => Some(pack(context, *memory, *pitches, &texels)?),
            _ => None,
        };
        let (row_pitch, parent) = match &base {
            Base::Buffer(buffer, row_pitch) => (*row_pitch, Some(MemoryObject::Buffer(buffer.clone()))),
            Base::Image(image) => (0, Some(MemoryObject::Image(image.clone()))),
            Base::Own | Base::Application(..) => (0, None),
        };
        let is_listed = || -> ClResult<bool> {
            let listed = formats(context, kernel_access(description.flags), description.kind)?;
            Ok(listed.contains(&description.format))
        };
        let len = Area::whole(&texels).len(&texels);
        let must_wait = parent.is_some() || len >= WAIT_FROM_BYTES || !is_listed()?;
        let slot = (must_wait || staging.is_some()).then(|| connection.slot()).transpose()?;
        let id = connection.new_id();
        let body = CreateImage {
            create: Create {
                reply: slot.as_ref().map_or(Default::default(), |slot| slot.to_ref()),
                ..context::create(id, context.id())
            },
            flags: host_flags(description.flags).into(),
            format: description.format,
            kind: (description.kind as u32).into(),
            memory: parent.as_ref().map_or(0, |parent| parent.memory().id()).into(),
            shape: description.shape,
            row_pitch: (row_pitch as u64).into(),
            init: staging.as_ref().map_or(Span::NONE, |staging| staging.span()),
        };
        connection.send(&body, &[], &[])?;
        // From here on dropping it releases it on the host.
        let packed =
            |row_pitch| texels.pitches(texels.extent, row_pitch, 0).ok_or(ClError::INVALID_IMAGE_DESCRIPTOR);
        let (host_memory, pitches) = match &base {
            Base::Own => (None, packed(0)?),
            Base::Application(memory, pitches) => {
                (Some(*memory).filter(|_| description.flags & CL_MEM_USE_HOST_PTR != 0), *pitches)
            }
            Base::Buffer(buffer, row_pitch) => (buffer.host_memory(), packed(*row_pitch)?),
            Base::Image(image) => (image.host_memory(), image.pitches),
        };
        let memory = Memory::new(context, id, description.flags, host_memory).with_properties(properties);
        let image = Object::new(Image { memory, description, texels, pitches, parent });
        if let Some(slot) = slot {
            let outcome = if must_wait { connection.wait(&slot).ok().map(|_| ()) } else { Ok(()) };
            connection.retire(slot, staging);
            outcome?;
        }
        Ok(image)
    }

    /// What it was made to be.
    pub(crate) fn description(&self) -> &Description {
        &self.description
    }

    /// How its elements are counted.
    pub(crate) fn texels(&self) -> &Texels {
        &self.texels
    }

    /// True if it lies in a buffer that is shared memory.
    pub(crate) fn is_shared(&self) -> bool {
        match &self.parent {
            Some(MemoryObject::Buffer(buffer)) => buffer.shared_bytes().is_some(),
            Some(MemoryObject::Image(image)) => image.is_shared(),
            Some(MemoryObject::Pipe(_)) | None => false,
        }
    }

    /// Where in the application's memory a box is to be seen when it is mapped, and how it lies there.
    pub(crate) fn host_place(&self, area: &Area) -> Option<(Destination, AppMemory, Pitches)> {
        let (memory, pitches) = (self.host_memory()?, self.pitches);
        let rect = self.texels.rect(area.origin, area.region, pitches)?;
        Some((Destination::Rect(memory, rect), memory.offset(rect.start()), pitches))
    }

    /// `clGetMemObjectInfo`, as far as it is not the same for all memory objects.
    pub(crate) fn info(&self, param: u32) -> ClResult<Info> {
        Ok(match param {
            CL_MEM_TYPE => Info::value(self.description.kind as u32),
            // "The actual size of the data store", which only the host knows.
            CL_MEM_SIZE => {
                let question = Question { kind: InfoKind::Image, object: self.id(), param, index: 0 };
                let size = info::number::<u64>(&question.ask(self.context().connection())?);
                Info::value(size.ok_or(ClError::OUT_OF_RESOURCES)? as usize)
            }
            CL_MEM_ASSOCIATED_MEMOBJECT => Info::handle(self.parent_handle()),
            CL_MEM_OFFSET => Info::value(0usize),
            // CL_INVALID_VALUE if param_name is not one of the supported values.
            _ => return Err(ClError::INVALID_VALUE),
        })
    }

    /// `clGetImageInfo`.
    pub(crate) fn image_info(&self, param: u32) -> ClResult<Info> {
        let ImageShape { width, height, depth, array_size } = self.description.shape;
        let size = |size: zerocopy::little_endian::U64| Info::value(size.get() as usize);
        Ok(match param {
            CL_IMAGE_FORMAT => Info::value(self.description.format),
            CL_IMAGE_ELEMENT_SIZE => Info::value(self.texels.size),
            CL_IMAGE_ROW_PITCH => Info::value(self.pitches.row),
            // "... this is the size of each 2D slice of a 3D image or of each image in an image array; for others 0".
            CL_IMAGE_SLICE_PITCH if !self.texels.has_slices() => Info::value(0usize),
            CL_IMAGE_SLICE_PITCH => Info::value(self.pitches.slice),
            CL_IMAGE_WIDTH => size(width),
            CL_IMAGE_HEIGHT => size(height),
            CL_IMAGE_DEPTH => size(depth),
            CL_IMAGE_ARRAY_SIZE => size(array_size),
            CL_IMAGE_BUFFER => Info::handle(match &self.parent {
                Some(MemoryObject::Buffer(buffer)) => buffer.handle(),
                _ => RawHandle::NULL,
            }),
            CL_IMAGE_NUM_MIP_LEVELS | CL_IMAGE_NUM_SAMPLES => Info::value(0u32),
            // CL_INVALID_VALUE if param_name is not one of the supported values.
            _ => return Err(ClError::INVALID_VALUE),
        })
    }

    fn parent_handle(&self) -> RawHandle {
        self.parent.as_ref().map_or(RawHandle::NULL, MemoryObject::handle)
    }
}

/// The application's elements without gaps, for the host.
fn pack(
    context: &Object<Context>,
    memory: AppMemory,
    pitches: Pitches,
    texels: &Texels,
) -> ClResult<Staging> {
    let whole = Area::whole(texels);
    // CL_INVALID_IMAGE_DESCRIPTOR: no memory is that large.
    let rect = texels.rect(whole.origin, whole.region, pitches).ok_or(ClError::INVALID_IMAGE_DESCRIPTOR)?;
    let staging = context.connection().staging(whole.len(texels));
    let mut staging = staging.or(Err(ClError::MEM_OBJECT_ALLOCATION_FAILURE))?;
    Destination::Rect(memory, rect).copy_to(&mut staging);
    Ok(staging)
}

/// `clGetSupportedImageFormats`; asked for once per context, flags and type.
pub(crate) fn formats(context: &Object<Context>, flags: u64, kind: ImageType) -> ClResult<Vec<ImageFormat>> {
    if let Some(formats) = lock(context.image_formats()).get(&(flags, kind)) {
        return Ok(formats.clone());
    }
    let connection = context.connection();
    let mut room = FORMATS_BYTES;
    let formats = loop {
        let staging = connection.staging(room)?;
        let slot = connection.slot()?;
        let body = GetImageFormats {
            context: context.id().into(),
            kind: (kind as u32).into(),
            flags: flags.into(),
            dst: staging.span(),
            reply: slot.to_ref(),
        };
        connection.send(&body, &[], &[])?;
        let len = connection.wait(&slot).ok()?.len as usize;
        if len <= room {
            let mut answer = vec![0; len];
            staging.read(0, &mut answer);
            let (formats, _) =
                <[ImageFormat]>::ref_from_prefix_with_elems(&answer, len / size_of::<ImageFormat>())
                    .map_err(|_short| ClError::OUT_OF_RESOURCES)?;
            break formats.to_vec();
        }
        room = len;
    };
    lock(context.image_formats()).insert((flags, kind), formats.clone());
    Ok(formats)
}
