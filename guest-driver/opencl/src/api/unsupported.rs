//! What this driver does not offer: each entry point checks its object and returns the error that the specification
//! has for devices without the feature.

use crate::boundary::object::{Handle, RawHandle};
use crate::boundary::pointer::In;
use crate::core::context::Context;
use crate::core::error::{ClError, ClResult};
use crate::core::info::Info;
use crate::core::memory::MemoryObject;

/// `clGetPipeInfo`: no memory object is a pipe.
pub(super) fn pipe_info(_memobj: Handle<MemoryObject>, _param_name: u32) -> ClResult<Info> {
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
