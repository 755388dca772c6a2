//! Pipes: what kernels hand packets on in. The application only makes them, and gives them to kernels.

use std::ops::Deref;
use std::sync::Arc;

use opencl_sys::{
    CL_MEM_ASSOCIATED_MEMOBJECT, CL_MEM_OBJECT_PIPE, CL_MEM_OFFSET, CL_MEM_SIZE, CL_MEM_TYPE,
    CL_PIPE_MAX_PACKETS, CL_PIPE_PACKET_SIZE, CL_PIPE_PROPERTIES,
};
use paragpu_protocol::command::CreatePipe;
use paragpu_protocol::types::Create;

use crate::boundary::object::{Kind, Object, RawHandle};
use crate::core::context::{self, Context};
use crate::core::error::{ClError, ClResult};
use crate::core::info::Info;
use crate::core::memory::Memory;

/// A pipe.
#[derive(Debug)]
pub(crate) struct Pipe {
    memory: Memory,
    packet_size: u32,
    max_packets: u32,
}

impl Kind for Pipe {
    const TAG: u32 = u32::from_le_bytes(*b"pipe");
    const INVALID: ClError = ClError::INVALID_MEM_OBJECT;

    fn last_words(&mut self, handle: RawHandle) {
        self.memory.last_words(handle);
    }
}

impl Deref for Pipe {
    type Target = Memory;

    fn deref(&self) -> &Memory {
        &self.memory
    }
}

impl Pipe {
    /// Creates a pipe; waits for the host, which knows how large it may be.
    pub(crate) fn new(
        context: &Object<Context>,
        flags: u64,
        packet_size: u32,
        max_packets: u32,
    ) -> ClResult<Arc<Object<Pipe>>> {
        let connection = context.connection();
        let id = connection.new_id();
        let slot = connection.slot()?;
        let create = Create { reply: slot.to_ref(), ..context::create(id, context.id()) };
        let body = CreatePipe { create, packet_size: packet_size.into(), max_packets: max_packets.into() };
        connection.send(&body, &[], &[])?;
        // From here on dropping it releases it on the host.
        let memory = Memory::new(context, id, flags, None);
        let pipe = Object::new(Pipe { memory, packet_size, max_packets });
        connection.wait(&slot).ok()?;
        Ok(pipe)
    }

    /// `clGetPipeInfo`.
    pub(crate) fn pipe_info(&self, param: u32) -> ClResult<Info> {
        Ok(match param {
            CL_PIPE_PACKET_SIZE => Info::value(self.packet_size),
            CL_PIPE_MAX_PACKETS => Info::value(self.max_packets),
            // There are no properties.
            CL_PIPE_PROPERTIES => Info::list::<isize>(&[]),
            // CL_INVALID_VALUE if param_name is not one of the supported values.
            _ => return Err(ClError::INVALID_VALUE),
        })
    }

    /// The part of `clGetMemObjectInfo` that is a pipe's own.
    pub(crate) fn info(&self, param: u32) -> ClResult<Info> {
        Ok(match param {
            CL_MEM_TYPE => Info::value(CL_MEM_OBJECT_PIPE),
            CL_MEM_SIZE => Info::value(self.packet_size as usize * self.max_packets as usize),
            CL_MEM_ASSOCIATED_MEMOBJECT => Info::handle(RawHandle::NULL),
            CL_MEM_OFFSET => Info::value(0usize),
            // CL_INVALID_VALUE if param_name is not one of the supported values.
            _ => return Err(ClError::INVALID_VALUE),
        })
    }
}
