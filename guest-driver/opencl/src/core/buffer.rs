//! Buffers and sub-buffers.

use std::ops::Deref;
use std::sync::Arc;

use opencl_sys::{
    CL_MEM_ASSOCIATED_MEMOBJECT, CL_MEM_COPY_HOST_PTR, CL_MEM_OBJECT_BUFFER, CL_MEM_OFFSET, CL_MEM_SIZE,
    CL_MEM_TYPE, CL_MEM_USE_HOST_PTR,
};
use paragpu_protocol::command::{CreateBuffer, CreatePlacedBuffer, CreateSubBuffer};
use paragpu_protocol::svm::MemoryModel;
use paragpu_protocol::types::{Create, Span};

use crate::boundary::object::{Kind, Object, RawHandle};
use crate::boundary::pointer::AppMemory;
use crate::core::context::{self, Context};
use crate::core::error::{ClError, ClResult};
use crate::core::info::Info;
use crate::core::memory::{HOST_ACCESS, KERNEL_ACCESS, Memory, WAIT_FROM_BYTES, host_flags};
use crate::core::placed::PlacedBytes;
use crate::core::shared;

/// A buffer or sub-buffer.
#[derive(Debug)]
pub(crate) struct Buffer {
    memory: Memory,
    size: usize,
    /// The buffer that this is a part of, and where it starts in it.
    parent: Option<(Arc<Object<Buffer>>, usize)>,
}

impl Kind for Buffer {
    const TAG: u32 = u32::from_le_bytes(*b"buff");
    const INVALID: ClError = ClError::INVALID_MEM_OBJECT;

    fn last_words(&mut self, handle: RawHandle) {
        self.memory.last_words(handle);
    }
}

impl Deref for Buffer {
    type Target = Memory;

    fn deref(&self) -> &Memory {
        &self.memory
    }
}

impl Buffer {
    /// Creates a buffer. `host_memory` goes with `CL_MEM_USE_HOST_PTR` or `CL_MEM_COPY_HOST_PTR`.
    pub(crate) fn new(
        context: &Object<Context>,
        flags: u64,
        size: usize,
        host_memory: Option<AppMemory>,
        properties: Vec<u64>,
    ) -> ClResult<Arc<Object<Buffer>>> {
        let connection = context.connection();
        let is_shared = context.places_buffers();
        if is_shared && host_memory.is_none() && size < WAIT_FROM_BYTES {
            if connection.is_lost() {
                return Err(ClError::DEVICE_NOT_AVAILABLE);
            }
            let memory = Memory::deferred(context, flags, size).with_properties(properties);
            return Ok(Object::new(Buffer { memory, size, parent: None }));
        }
        if is_shared && let Some(place) = connection.place(size) {
            return Buffer::placed(context, flags, (size, PlacedBytes::new(place)), host_memory, properties);
        }
        let staging = match host_memory {
            Some(memory) => {
                let mut staging = connection.staging(size).or(Err(ClError::MEM_OBJECT_ALLOCATION_FAILURE))?;
                staging.write(0, memory.bytes(size));
                Some(staging)
            }
            None => None,
        };
        let must_wait = size >= WAIT_FROM_BYTES;
        let slot = (must_wait || staging.is_some()).then(|| connection.slot()).transpose()?;
        let id = connection.new_id();
        let body = CreateBuffer {
            create: Create {
                reply: slot.as_ref().map_or(Default::default(), |slot| slot.to_ref()),
                ..context::create(id, context.id())
            },
            flags: host_flags(flags).into(),
            size: (size as u64).into(),
            init: staging.as_ref().map_or(Span::NONE, |staging| staging.span()),
        };
        connection.send(&body, &[], &[])?;
        // From here on dropping it releases it on the host.
        let host_memory = host_memory.filter(|_| flags & CL_MEM_USE_HOST_PTR != 0);
        let memory = Memory::new(context, id, flags, host_memory).with_properties(properties);
        let buffer = Object::new(Buffer { memory, size, parent: None });
        if let Some(slot) = slot {
            if must_wait {
                connection.wait(&slot).ok()?;
            }
            connection.retire(slot, staging);
        }
        Ok(buffer)
    }

    /// Creates a buffer in shared memory that the host's devices use as it is.
    fn placed(
        context: &Object<Context>,
        flags: u64,
        (size, bytes): (usize, PlacedBytes),
        host_memory: Option<AppMemory>,
        properties: Vec<u64>,
    ) -> ClResult<Arc<Object<Buffer>>> {
        let connection = context.connection();
        if let Some(memory) = host_memory {
            memory.copy_to(bytes.memory(), size);
            connection.copied(1, size);
        }
        let slot = (size >= WAIT_FROM_BYTES).then(|| connection.slot()).transpose()?;
        let id = connection.new_id();
        let body = CreatePlacedBuffer {
            create: Create {
                reply: slot.as_ref().map_or(Default::default(), |slot| slot.to_ref()),
                ..context::create(id, context.id())
            },
            flags: host_flags(flags).into(),
            memory: bytes.place().span(),
        };
        connection.send(&body, &[], &[])?;
        // From here on dropping it releases it on the host.
        let host_memory = host_memory.filter(|_| flags & CL_MEM_USE_HOST_PTR != 0);
        let memory = Memory::new(context, id, flags, host_memory).placed(bytes, true);
        let memory = memory.with_properties(properties);
        let buffer = Object::new(Buffer { memory, size, parent: None });
        if let Some(slot) = slot {
            connection.wait(&slot).ok()?;
        }
        Ok(buffer)
    }

    /// Creates a buffer that kernels and the application find at one address, zeroed.
    ///
    /// CL_INVALID_OPERATION if the context's devices have no such memory.
    pub(crate) fn with_address(
        context: &Object<Context>,
        flags: u64,
        size: usize,
    ) -> ClResult<Arc<Object<Buffer>>> {
        let memory = match context.memory_model() {
            MemoryModel::Shared => {
                let (id, bytes) = shared::allocate(context, host_flags(flags), size)?;
                Memory::of_shared(context, id, flags, (bytes, true))
            }
            MemoryModel::Coarse => {
                let (id, bytes) = shared::allocate_coarse(context, host_flags(flags), size)?;
                Memory::of_coarse(context, id, flags, bytes)
            }
            MemoryModel::Apart => return Err(ClError::INVALID_OPERATION),
        };
        Ok(Object::new(Buffer { memory, size, parent: None }))
    }

    /// Creates a buffer of some bytes of this one, which kernels and the application find at one address:
    /// `CL_MEM_USE_HOST_PTR` with a pointer to them.
    pub(crate) fn of_address(
        &self,
        (flags, offset, size): (u64, usize, usize),
        properties: Vec<u64>,
    ) -> ClResult<Arc<Object<Buffer>>> {
        let context = self.context();
        let memory = match (self.shared_bytes(), self.coarse_bytes()) {
            (Some(bytes), _) => {
                let bytes = bytes.part(offset);
                let id = shared::buffer_of(context, host_flags(flags), &bytes, size)?;
                Memory::of_shared(context, id, flags, (bytes, true))
            }
            (None, Some(bytes)) => {
                let bytes = bytes.part(offset);
                let id = shared::buffer_of_coarse(context, host_flags(flags), &bytes, size)?;
                Memory::of_coarse(context, id, flags, bytes)
            }
            (None, None) => return Err(ClError::INVALID_OPERATION),
        };
        let memory = memory.with_properties(properties);
        Ok(Object::new(Buffer { memory, size, parent: None }))
    }

    /// `CL_MEM_SIZE`.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// True if this is a sub-buffer.
    pub(crate) fn is_sub_buffer(&self) -> bool {
        self.parent.is_some()
    }

    /// True if the range lies in the buffer.
    pub(crate) fn contains(&self, offset: usize, len: usize) -> bool {
        offset.checked_add(len).is_some_and(|end| end <= self.size)
    }
}

impl Object<Buffer> {
    /// Creates a sub-buffer of a range that lies in this buffer. `flags` are complete: what was inherited is in them.
    pub(crate) fn part(&self, flags: u64, origin: usize, size: usize) -> ClResult<Arc<Object<Buffer>>> {
        let connection = self.context().connection();
        let id = connection.new_id();
        let body = CreateSubBuffer {
            create: context::create(id, self.id()),
            flags: host_flags(flags).into(),
            origin: (origin as u64).into(),
            size: (size as u64).into(),
        };
        connection.send(&body, &[], &[])?;
        let memory = match self.shared_bytes() {
            Some(bytes) => Memory::of_shared(self.context(), id, flags, (bytes.part(origin), false)),
            None => {
                let host_memory = self.host_memory().map(|memory| memory.offset(origin));
                let memory = Memory::new(self.context(), id, flags, host_memory);
                match self.placed_bytes() {
                    Some(bytes) => memory.placed(bytes.part(origin), false),
                    None => memory,
                }
            }
        };
        Ok(Object::new(Buffer { memory, size, parent: Some((self.arc(), origin)) }))
    }

    /// The buffer that is no part of another one.
    pub(crate) fn whole(&self) -> Arc<Object<Buffer>> {
        self.parent.as_ref().map_or_else(|| self.arc(), |(parent, _)| parent.clone())
    }

    /// Its handle, and where this one starts in it.
    pub(crate) fn root(&self) -> (RawHandle, usize) {
        match &self.parent {
            Some((parent, origin)) => (parent.handle(), *origin),
            None => (self.handle(), 0),
        }
    }

    /// `clGetMemObjectInfo`, as far as it is not the same for all memory objects.
    pub(crate) fn info(&self, param: u32) -> ClResult<Info> {
        Ok(match param {
            CL_MEM_TYPE => Info::value(CL_MEM_OBJECT_BUFFER),
            CL_MEM_SIZE => Info::value(self.size),
            CL_MEM_ASSOCIATED_MEMOBJECT => {
                Info::handle(self.parent.as_ref().map_or(RawHandle::NULL, |(parent, _)| parent.handle()))
            }
            CL_MEM_OFFSET => Info::value(self.parent.as_ref().map_or(0, |(_, origin)| *origin)),
            // CL_INVALID_VALUE if param_name is not one of the supported values.
            _ => return Err(ClError::INVALID_VALUE),
        })
    }
}

/// The flags of a sub-buffer: what `flags` does not say is inherited from the buffer; host pointer flags always are.
pub(crate) fn inherited_flags(flags: u64, of_buffer: u64) -> u64 {
    let host_pointer = CL_MEM_USE_HOST_PTR | CL_MEM_COPY_HOST_PTR | opencl_sys::CL_MEM_ALLOC_HOST_PTR;
    let mut all = flags | of_buffer & host_pointer;
    for group in [KERNEL_ACCESS, HOST_ACCESS] {
        if flags & group == 0 {
            all |= of_buffer & group;
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use opencl_sys::{
        CL_MEM_HOST_NO_ACCESS, CL_MEM_HOST_READ_ONLY, CL_MEM_READ_ONLY, CL_MEM_READ_WRITE, CL_MEM_WRITE_ONLY,
    };

    #[test]
    fn sub_buffers_inherit_what_they_do_not_say() {
        let parent = CL_MEM_READ_ONLY | CL_MEM_HOST_NO_ACCESS | CL_MEM_USE_HOST_PTR;
        assert_eq!(inherited_flags(0, parent), parent);
        assert_eq!(
            inherited_flags(CL_MEM_WRITE_ONLY, CL_MEM_READ_WRITE | CL_MEM_HOST_READ_ONLY),
            CL_MEM_WRITE_ONLY | CL_MEM_HOST_READ_ONLY
        );
    }
}
