//! Memory objects: buffers and sub-buffers.

use std::sync::{Arc, Mutex};

use opencl_sys::{
    CL_MEM_ASSOCIATED_MEMOBJECT, CL_MEM_CONTEXT, CL_MEM_COPY_HOST_PTR, CL_MEM_FLAGS, CL_MEM_HOST_NO_ACCESS,
    CL_MEM_HOST_PTR, CL_MEM_HOST_READ_ONLY, CL_MEM_HOST_WRITE_ONLY, CL_MEM_MAP_COUNT, CL_MEM_OBJECT_BUFFER,
    CL_MEM_OFFSET, CL_MEM_PROPERTIES, CL_MEM_READ_ONLY, CL_MEM_READ_WRITE, CL_MEM_REFERENCE_COUNT,
    CL_MEM_SIZE, CL_MEM_TYPE, CL_MEM_USE_HOST_PTR, CL_MEM_USES_SVM_POINTER, CL_MEM_WRITE_ONLY,
};
use paragpu_protocol::command::{CreateBuffer, CreateSubBuffer};
use paragpu_protocol::types::{Create, Span};

use crate::boundary::callback::{Callback, HandleFn};
use crate::boundary::object::{Kind, Object, RawHandle};
use crate::boundary::pointer::AppMemory;
use crate::core::context::{self, Context};
use crate::core::error::{ClError, ClResult};
use crate::core::info::Info;
use crate::core::lock;
use crate::core::mapping::Mapping;

/// Kernel access flags: at most one of them.
pub(crate) const KERNEL_ACCESS: u64 = CL_MEM_READ_WRITE | CL_MEM_WRITE_ONLY | CL_MEM_READ_ONLY;
/// Host access flags: at most one of them.
pub(crate) const HOST_ACCESS: u64 = CL_MEM_HOST_WRITE_ONLY | CL_MEM_HOST_READ_ONLY | CL_MEM_HOST_NO_ACCESS;

/// From this size on, creating a buffer waits for the host: an application that asks for much memory wants to know
/// whether it got it, and a round trip is nothing next to filling it.
const WAIT_FROM_BYTES: usize = 16 << 20;

/// A buffer or sub-buffer.
#[derive(Debug)]
pub(crate) struct Buffer {
    context: Arc<Object<Context>>,
    id: u32,
    flags: u64,
    size: usize,
    host_memory: Option<AppMemory>,
    /// The buffer that this is a part of, and where it starts in it.
    parent: Option<(Arc<Object<Buffer>>, usize)>,
    properties: Vec<u64>,
    mappings: Mutex<Vec<Mapping>>,
    destructors: Mutex<Vec<Callback<HandleFn>>>,
}

impl Kind for Buffer {
    const TAG: u32 = u32::from_le_bytes(*b"memo");
    const INVALID: ClError = ClError::INVALID_MEM_OBJECT;

    fn last_words(&mut self, handle: RawHandle) {
        context::call_destructors(&self.destructors, handle);
    }
}

/// What the host is told of the flags: host pointers are this side's affair.
fn host_flags(flags: u64) -> u64 {
    flags & (KERNEL_ACCESS | HOST_ACCESS)
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
        let buffer = Object::new(Buffer {
            context: context.arc(),
            id,
            flags,
            size,
            host_memory: host_memory.filter(|_| flags & CL_MEM_USE_HOST_PTR != 0),
            parent: None,
            properties,
            mappings: Mutex::default(),
            destructors: Mutex::default(),
        });
        if let Some(slot) = slot {
            if must_wait {
                connection.wait(&slot).ok()?;
            }
            connection.retire(slot, staging);
        }
        Ok(buffer)
    }

    /// The buffer's context.
    pub(crate) fn context(&self) -> &Arc<Object<Context>> {
        &self.context
    }

    /// What the host calls the buffer.
    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// `CL_MEM_FLAGS`.
    pub(crate) fn flags(&self) -> u64 {
        self.flags
    }

    /// `CL_MEM_SIZE`.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// True if this is a sub-buffer.
    pub(crate) fn is_sub_buffer(&self) -> bool {
        self.parent.is_some()
    }

    /// The application's memory of a `CL_MEM_USE_HOST_PTR` buffer.
    pub(crate) fn host_memory(&self) -> Option<AppMemory> {
        self.host_memory
    }

    /// The regions that are mapped now.
    pub(crate) fn mappings(&self) -> &Mutex<Vec<Mapping>> {
        &self.mappings
    }

    /// True if the range lies in the buffer.
    pub(crate) fn contains(&self, offset: usize, len: usize) -> bool {
        offset.checked_add(len).is_some_and(|end| end <= self.size)
    }

    /// `clSetMemObjectDestructorCallback`.
    pub(crate) fn on_destruction(&self, callback: Callback<HandleFn>) {
        lock(&self.destructors).push(callback);
    }
}

impl Object<Buffer> {
    /// Creates a sub-buffer of a range that lies in this buffer. `flags` are complete: what was inherited is in them.
    pub(crate) fn part(&self, flags: u64, origin: usize, size: usize) -> ClResult<Arc<Object<Buffer>>> {
        let connection = self.context.connection();
        let id = connection.new_id();
        let body = CreateSubBuffer {
            create: context::create(id, self.id),
            flags: host_flags(flags).into(),
            origin: (origin as u64).into(),
            size: (size as u64).into(),
        };
        connection.send(&body, &[], &[])?;
        Ok(Object::new(Buffer {
            context: self.context.clone(),
            id,
            flags,
            size,
            host_memory: self.host_memory.map(|memory| memory.offset(origin)),
            parent: Some((self.arc(), origin)),
            properties: Vec::new(),
            mappings: Mutex::default(),
            destructors: Mutex::default(),
        }))
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

    /// `clGetMemObjectInfo`.
    pub(crate) fn info(&self, param: u32) -> ClResult<Info> {
        Ok(match param {
            CL_MEM_TYPE => Info::value(CL_MEM_OBJECT_BUFFER),
            CL_MEM_FLAGS => Info::value(self.flags),
            CL_MEM_SIZE => Info::value(self.size),
            CL_MEM_HOST_PTR => Info::value(self.host_memory.map_or(0, |memory| memory.address())),
            CL_MEM_MAP_COUNT => Info::value(lock(&self.mappings).len() as u32),
            CL_MEM_REFERENCE_COUNT => Info::value(self.reference_count()),
            CL_MEM_CONTEXT => Info::handle(self.context.handle()),
            CL_MEM_ASSOCIATED_MEMOBJECT => {
                Info::handle(self.parent.as_ref().map_or(RawHandle::NULL, |(parent, _)| parent.handle()))
            }
            CL_MEM_OFFSET => Info::value(self.parent.as_ref().map_or(0, |(_, origin)| *origin)),
            CL_MEM_USES_SVM_POINTER => Info::bool(false),
            CL_MEM_PROPERTIES => Info::list(&self.properties),
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

impl Drop for Buffer {
    fn drop(&mut self) {
        self.context.connection().release(self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
