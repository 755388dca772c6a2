//! Mapped regions of buffers.
//!
//! A mapped region is staging memory with the buffer's bytes in it, and the application gets the address of that
//! memory itself; unmapping writes it back. Only buffers with `CL_MEM_USE_HOST_PTR` must show the region at a fixed
//! address, so there the bytes are copied once more.

use std::sync::Arc;

use opencl_sys::{CL_COMMAND_MAP_BUFFER, CL_COMMAND_UNMAP_MEM_OBJECT, CL_MAP_READ, CL_MAP_WRITE};
use paragpu_protocol::command::{ReadBuffer, WriteBuffer};

use crate::boundary::object::Object;
use crate::boundary::pointer::AppMemory;
use crate::core::buffer::Buffer;
use crate::core::completion::Completion;
use crate::core::copies::Destination;
use crate::core::error::{ClError, ClResult};
use crate::core::event::Event;
use crate::core::lock;
use crate::core::queue::{Payload, Posted, Queue, Request};
use crate::core::staging::Staging;

/// Flags of a map that lets the application write.
const WRITES: u64 = CL_MAP_WRITE | opencl_sys::CL_MAP_WRITE_INVALIDATE_REGION;

/// One mapped region. A region that is mapped when its buffer is released gives its memory back when the read that
/// filled it is over.
#[derive(Debug)]
pub(crate) struct Mapping {
    memory: AppMemory,
    offset: usize,
    len: usize,
    flags: u64,
    /// Nothing for `CL_MEM_USE_HOST_PTR`.
    staging: Option<Staging>,
    read: Option<Arc<Completion>>,
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

/// What shall be mapped: `CL_MAP_…` flags and a range that lies in the buffer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Region {
    pub(crate) flags: u64,
    pub(crate) offset: usize,
    pub(crate) len: usize,
}

/// `clEnqueueMapBuffer`.
pub(crate) fn map(
    queue: &Object<Queue>,
    buffer: &Object<Buffer>,
    region: Region,
    is_blocking: bool,
    (wait, wants_event): (&[Arc<Object<Event>>], bool),
) -> ClResult<(AppMemory, Option<Arc<Object<Event>>>)> {
    let Region { flags, offset, len } = region;
    let request = Request { is_blocking, ..Request::new(CL_COMMAND_MAP_BUFFER, wait, wants_event) };
    let host_memory = buffer.host_memory().map(|memory| memory.offset(offset));
    let staging = || queue.staging(len).or(Err(ClError::MEM_OBJECT_ALLOCATION_FAILURE));

    // CL_MAP_WRITE alone must show the contents too: what the application does not write stays as it was.
    let must_read = flags & (CL_MAP_READ | CL_MAP_WRITE) != 0;
    let read = |payload, span| {
        queue.enqueue(&request, payload, &[], |enqueue| ReadBuffer {
            enqueue,
            buffer: buffer.id().into(),
            reserved: 0.into(),
            offset: (offset as u64).into(),
            dst: span,
        })
    };
    let (memory, staging, posted) = match host_memory {
        // Kernels write to the same bytes.
        Some(memory) if buffer.shared_bytes().is_some() => (memory, None, nothing(queue, &request)?),
        Some(memory) if must_read => {
            let staging = staging()?;
            let span = staging.span();
            (memory, None, read(Payload::Sink(staging, Destination::Linear(memory, len)), span)?)
        }
        Some(memory) => (memory, None, nothing(queue, &request)?),
        None => {
            let staging = staging()?;
            let memory = AppMemory::at(staging.as_ptr());
            let posted =
                if must_read { read(Payload::Elsewhere, staging.span())? } else { nothing(queue, &request)? };
            (memory, Some(staging), posted)
        }
    };
    let mapping = Mapping { memory, offset, len, flags, staging, read: posted.completion };
    lock(buffer.mappings()).push(mapping);
    Ok((memory, posted.event))
}

/// A command that only has to take its place in the queue, if anybody could notice.
fn nothing(queue: &Object<Queue>, request: &Request<'_>) -> ClResult<Posted> {
    if request.wants_event || request.is_blocking || !request.wait.is_empty() {
        queue.enqueue_nothing(request)
    } else {
        Ok(Posted::default())
    }
}

/// `clEnqueueUnmapMemObject`.
pub(crate) fn unmap(
    queue: &Object<Queue>,
    buffer: &Object<Buffer>,
    memory: AppMemory,
    (wait, wants_event): (&[Arc<Object<Event>>], bool),
) -> ClResult<Option<Arc<Object<Event>>>> {
    let mut mapping = {
        let mut mappings = lock(buffer.mappings());
        let same = |mapping: &Mapping| mapping.memory.address() == memory.address();
        // CL_INVALID_VALUE if mapped_ptr is not a valid pointer returned by clEnqueueMapBuffer.
        let index = mappings.iter().position(same).ok_or(ClError::INVALID_VALUE)?;
        mappings.remove(index)
    };
    let request = Request::new(CL_COMMAND_UNMAP_MEM_OBJECT, wait, wants_event);
    // Where the bytes have not even reached the application's memory, nobody has written there yet.
    let is_unseen = mapping.read.as_ref().is_some_and(|read| read.has_staging());
    if mapping.flags & WRITES == 0 || is_unseen || buffer.shared_bytes().is_some() {
        return Ok(nothing(queue, &request)?.event);
    }
    let staging = match mapping.staging.take() {
        Some(staging) => staging,
        None => match queue.staging(mapping.len) {
            Ok(mut staging) => {
                staging.write(0, mapping.memory.bytes(mapping.len));
                staging
            }
            Err(error) => {
                // The region stays mapped, so that the application can try again.
                lock(buffer.mappings()).push(mapping);
                return Err(error);
            }
        },
    };
    let span = staging.span();
    let posted = queue.enqueue(&request, Payload::Source(staging), &[], |enqueue| WriteBuffer {
        enqueue,
        buffer: buffer.id().into(),
        reserved: 0.into(),
        offset: (mapping.offset as u64).into(),
        src: span,
    })?;
    Ok(posted.event)
}
