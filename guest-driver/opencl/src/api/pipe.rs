//! Pipes.

use opencl_sys::{CL_MEM_HOST_NO_ACCESS, CL_MEM_READ_WRITE};

use crate::boundary::object::{Handle, RawHandle};
use crate::boundary::pointer::In;
use crate::core::context::Context;
use crate::core::error::{ClError, ClResult, refuse_if};
use crate::core::info::Info;
use crate::core::pipe::Pipe;

/// `clCreatePipe`.
pub(super) fn create(
    context: Handle<Context>,
    flags: u64,
    packet_size: u32,
    max_packets: u32,
    properties: In<isize>,
) -> ClResult<RawHandle> {
    let context = context.get()?;
    // CL_INVALID_OPERATION if no devices in context support pipes.
    let most = context.devices().iter().filter_map(|device| device.max_packet_size()).max();
    let most = most.ok_or(ClError::INVALID_OPERATION)?;
    // CL_INVALID_VALUE if values specified in flags are not as defined above: "only CL_MEM_READ_WRITE and
    // CL_MEM_HOST_NO_ACCESS can be specified".
    refuse_if(flags & !(CL_MEM_READ_WRITE | CL_MEM_HOST_NO_ACCESS) != 0, ClError::INVALID_VALUE)?;
    // CL_INVALID_VALUE if properties is not NULL.
    refuse_if(!properties.is_null(), ClError::INVALID_VALUE)?;
    // CL_INVALID_PIPE_SIZE if pipe_packet_size is 0 or the pipe_packet_size exceeds CL_DEVICE_PIPE_MAX_PACKET_SIZE value for
    // all devices in context or if pipe_max_packets is 0.
    let fits = packet_size != 0 && packet_size <= most && max_packets != 0;
    refuse_if(!fits, ClError::INVALID_PIPE_SIZE)?;
    // "If value specified for flags is 0, the default is used which is CL_MEM_READ_WRITE | CL_MEM_HOST_NO_ACCESS."
    let flags = if flags == 0 { CL_MEM_READ_WRITE | CL_MEM_HOST_NO_ACCESS } else { flags };
    Ok(Pipe::new(context, flags, packet_size, max_packets)?.hand_out())
}

/// `clGetPipeInfo`.
pub(super) fn info(pipe: Handle<Pipe>, param_name: u32) -> ClResult<Info> {
    pipe.get()?.pipe_info(param_name)
}
