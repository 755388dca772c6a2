//! Mapped regions of buffers and images.
//!
//! Where kernels use bytes that this process sees, a mapped region is those bytes, and nothing is copied. Elsewhere it is staging
//! memory with the object's bytes in it, without gaps, and the application gets the address of that memory itself; unmapping
//! writes it back. Only objects with `CL_MEM_USE_HOST_PTR` must show the region at a fixed address, so there the bytes are
//! copied once more.

use std::sync::Arc;

use opencl_sys::{CL_MAP_READ, CL_MAP_WRITE};
use paragpu_protocol::types::Span;

use crate::boundary::object::Object;
use crate::boundary::pointer::AppMemory;
use crate::core::area::Area;
use crate::core::completion::Completion;
use crate::core::copies::Destination;
use crate::core::error::{ClError, ClResult};
use crate::core::event::Event;
use crate::core::image_transfer::ImagePart;
use crate::core::lock;
use crate::core::memory::{Memory, MemoryObject};
use crate::core::queue::{Payload, Posted, Queue, Request};
use crate::core::staging::Staging;
use crate::core::transfer::Part;

/// Flags of a map that lets the application write.
const WRITES: u64 = CL_MAP_WRITE | opencl_sys::CL_MAP_WRITE_INVALIDATE_REGION;

/// One mapped region. A region that is mapped when its object is released gives its memory back when the read that
/// filled it is over.
#[derive(Debug)]
pub(crate) struct Mapping {
    memory: AppMemory,
    place: Place,
    flags: u64,
    /// Nothing for `CL_MEM_USE_HOST_PTR`, and for bytes that are mapped where they are.
    staging: Option<Staging>,
    read: Option<Arc<Completion>>,
}

/// What of its object a mapping shows.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// Offset and length.
    Range(usize, usize),
    Area(Area),
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if let Some((staging, read)) = self.staging.take().zip(self.read.as_ref())
            && read.poll().is_none()
        {
            read.leave_staging(staging);
        }
    }
}

/// A region of an object; it lies in the object.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Region<'a> {
    Buffer(Part<'a>),
    Image(ImagePart<'a>),
}

impl<'a> Region<'a> {
    fn of(object: &'a MemoryObject, place: Place) -> Option<Region<'a>> {
        match (object, place) {
            (MemoryObject::Buffer(buffer), Place::Range(offset, len)) => {
                Some(Region::Buffer(Part { buffer, offset, len }))
            }
            (MemoryObject::Image(image), Place::Area(area)) => Some(Region::Image(ImagePart { image, area })),
            _ => None,
        }
    }

    fn place(&self) -> Place {
        match self {
            Region::Buffer(part) => Place::Range(part.offset, part.len),
            Region::Image(part) => Place::Area(part.area),
        }
    }

    fn memory(&self) -> &'a Memory {
        match self {
            Region::Buffer(part) => part.buffer,
            Region::Image(part) => part.image,
        }
    }

    /// Bytes without gaps.
    fn len(&self) -> usize {
        match self {
            Region::Buffer(part) => part.len,
            Region::Image(part) => part.len(),
        }
    }

    /// Where in the application's memory the region must be shown, and its first byte there.
    fn host_place(&self) -> Option<(Destination, AppMemory)> {
        match self {
            Region::Buffer(part) => {
                let memory = part.buffer.host_memory()?.offset(part.offset);
                Some((Destination::Linear(memory, part.len), memory))
            }
            Region::Image(part) => part.image.host_place(&part.area).map(|(place, first, _)| (place, first)),
        }
    }

    /// The first byte, where the application may have what kernels use.
    fn in_place(&self) -> Option<AppMemory> {
        match self {
            Region::Buffer(part)
                if part.buffer.host_memory().is_none() || part.buffer.shared_bytes().is_some() =>
            {
                Some(part.buffer.visible()?.offset(part.offset))
            }
            Region::Buffer(_) => None,
            Region::Image(part) if part.image.is_shared() => self.host_place().map(|(_, first)| first),
            Region::Image(_) => None,
        }
    }

    /// Copies between what kernels use and where the application must see it, if both are here and nothing is to be waited
    /// for. Nothing if the host must do it.
    fn copy_here(
        &self,
        queue: &Object<Queue>,
        request: &Request<'_>,
        is_write: bool,
    ) -> ClResult<Option<Posted>> {
        let Region::Buffer(part) = self else { return Ok(None) };
        let places = part.buffer.visible().zip(part.buffer.host_memory());
        let Some((bytes, memory)) = places else { return Ok(None) };
        let (bytes, memory) = (bytes.offset(part.offset), memory.offset(part.offset));
        let (from, to) = if is_write { (memory, bytes) } else { (bytes, memory) };
        let event = queue.at_once(request, || queue.copy((from, to), part.len))?;
        Ok(event.map(|event| Posted { event, completion: None }))
    }

    fn read(
        &self,
        queue: &Object<Queue>,
        request: &Request<'_>,
        payload: Payload,
        dst: Span,
    ) -> ClResult<Posted> {
        match self {
            Region::Buffer(part) => part.post_read(queue, request, payload, dst),
            Region::Image(part) => part.post_read(queue, request, payload, dst),
        }
    }

    fn write(&self, queue: &Object<Queue>, request: &Request<'_>, staging: Staging) -> ClResult<Posted> {
        let src = staging.span();
        let payload = Payload::Source(staging);
        match self {
            Region::Buffer(part) => part.post_write(queue, request, payload, &[], src),
            Region::Image(part) => part.post_write(queue, request, payload, &[], src),
        }
    }
}

/// `clEnqueueMapBuffer`, `clEnqueueMapImage`, and `clEnqueueSVMMap` where there is something to bring up to date.
pub(crate) fn map(
    queue: &Object<Queue>,
    region: Region<'_>,
    flags: u64,
    request: &Request<'_>,
) -> ClResult<(AppMemory, Option<Arc<Object<Event>>>)> {
    let staging = || queue.staging(region.len()).or(Err(ClError::MEM_OBJECT_ALLOCATION_FAILURE));

    // CL_MAP_WRITE alone must show the contents too: what the application does not write stays as it was.
    let must_read = flags & (CL_MAP_READ | CL_MAP_WRITE) != 0;
    let (memory, staging, posted) = match region.host_place() {
        _ if let Some(memory) = region.in_place() => (memory, None, nothing(queue, request)?),
        Some((place, memory)) if must_read => match region.copy_here(queue, request, false)? {
            Some(posted) => (memory, None, posted),
            None => {
                let staging = staging()?;
                let span = staging.span();
                (memory, None, region.read(queue, request, Payload::Sink(staging, place), span)?)
            }
        },
        Some((_, memory)) => (memory, None, nothing(queue, request)?),
        None => {
            let staging = staging()?;
            let memory = AppMemory::at(staging.as_ptr());
            let posted = if must_read {
                region.read(queue, request, Payload::Elsewhere, staging.span())?
            } else {
                nothing(queue, request)?
            };
            (memory, Some(staging), posted)
        }
    };
    let mapping = Mapping { memory, place: region.place(), flags, staging, read: posted.completion };
    lock(region.memory().mappings()).push(mapping);
    Ok((memory, posted.event))
}

/// A command that only has to take its place in the queue, if anybody could notice.
fn nothing(queue: &Object<Queue>, request: &Request<'_>) -> ClResult<Posted> {
    if !request.wants_event && !request.is_blocking && request.wait.is_empty() {
        return Ok(Posted::default());
    }
    match queue.at_once(request, || ())? {
        Some(event) => Ok(Posted { event, completion: None }),
        None => queue.enqueue_nothing(request),
    }
}

/// `clEnqueueUnmapMemObject`.
pub(crate) fn unmap(
    queue: &Object<Queue>,
    object: &MemoryObject,
    memory: AppMemory,
    request: &Request<'_>,
) -> ClResult<Option<Arc<Object<Event>>>> {
    let mut mapping = {
        let mut mappings = lock(object.memory().mappings());
        let same = |mapping: &Mapping| mapping.memory.address() == memory.address();
        // CL_INVALID_VALUE if mapped_ptr is not a valid pointer returned by clEnqueueMapBuffer or clEnqueueMapImage.
        let index = mappings.iter().position(same).ok_or(ClError::INVALID_VALUE)?;
        mappings.remove(index)
    };
    let region = Region::of(object, mapping.place).ok_or(ClError::INVALID_VALUE)?;
    // Where the bytes have not even reached the application's memory, nobody has written there yet.
    let is_unseen = mapping.read.as_ref().is_some_and(|read| read.has_staging());
    if mapping.flags & WRITES == 0 || is_unseen || region.in_place().is_some() {
        return Ok(nothing(queue, request)?.event);
    }
    if mapping.staging.is_none()
        && let Some(posted) = region.copy_here(queue, request, true)?
    {
        return Ok(posted.event);
    }
    let staging = match mapping.staging.take() {
        Some(staging) => staging,
        None => match queue.staging(region.len()) {
            Ok(mut staging) => {
                if let Some((place, _)) = region.host_place() {
                    place.copy_to(&mut staging);
                }
                staging
            }
            Err(error) => {
                // The region stays mapped, so that the application can try again.
                lock(object.memory().mappings()).push(mapping);
                return Err(error);
            }
        },
    };
    Ok(region.write(queue, request, staging)?.event)
}
