//! Native kernels.

use std::ffi::c_void;
use std::sync::Arc;

use opencl_sys::CL_COMMAND_NATIVE_KERNEL;

use crate::boundary::arguments::EventArgs;
use crate::boundary::callback::{NativeCall, NativeFn};
use crate::boundary::object::{Handle, Object};
use crate::boundary::pointer::{Bytes, In};
use crate::core::buffer::Buffer;
use crate::core::error::{ClError, ClResult, refuse_if};
use crate::core::queue::{Argument, Queue, Request};

/// `clEnqueueNativeKernel`.
#[expect(clippy::too_many_arguments, reason = "the specification's")]
pub(super) fn enqueue(
    queue: Handle<Queue>,
    user_func: Option<NativeFn>,
    args: Bytes,
    cb_args: usize,
    num_mem_objects: u32,
    mem_list: In<*mut c_void>,
    args_mem_loc: In<*const c_void>,
    events: EventArgs,
) -> ClResult<()> {
    let queue = queue.get()?;
    // CL_INVALID_OPERATION if the device associated with command_queue cannot execute the native kernel.
    refuse_if(!queue.device().runs_native_kernels(), ClError::INVALID_OPERATION)?;
    // CL_INVALID_VALUE if user_func is NULL.
    let function = user_func.ok_or(ClError::INVALID_VALUE)?;
    // CL_INVALID_VALUE if args is a NULL value and cb_args > 0, or if args is a NULL value and num_mem_objects > 0; if
    // args is not NULL and cb_args is 0.
    let count = num_mem_objects as usize;
    let invalid = if args.is_null() { cb_args > 0 || count > 0 } else { cb_args == 0 };
    refuse_if(invalid, ClError::INVALID_VALUE)?;
    // CL_INVALID_VALUE if num_mem_objects > 0 and mem_list or args_mem_loc are NULL; if num_mem_objects = 0 and mem_list or
    // args_mem_loc are not NULL.
    let invalid = mem_list.is_null() != (count == 0) || args_mem_loc.is_null() != (count == 0);
    refuse_if(invalid, ClError::INVALID_VALUE)?;
    let memory = memory(queue, args, cb_args, (count, mem_list, args_mem_loc))?;
    let wait = events.wait_list(queue.context())?;
    let request = Request::new(CL_COMMAND_NATIVE_KERNEL, &wait, events.wants_event());
    let call = NativeCall::new(function, args.get(cb_args).unwrap_or_default());
    events.give(queue.enqueue_native(&request, call, memory)?);
    Ok(())
}

/// The buffers among the arguments.
fn memory(
    queue: &Object<Queue>,
    args: Bytes,
    cb_args: usize,
    (count, mem_list, args_mem_loc): (usize, In<*mut c_void>, In<*const c_void>),
) -> ClResult<Vec<Argument>> {
    // CL_INVALID_MEM_OBJECT if one or more memory objects specified in mem_list are not valid or are not buffer objects.
    // NULL is allowed.
    let buffers: Vec<Option<Arc<Object<Buffer>>>> =
        mem_list.optional_objects(count).unwrap_or(Ok(Vec::new()))?;
    let places = args_mem_loc.values(count).unwrap_or_default();
    let place = |place: *const c_void| {
        let offset = (place as usize).checked_sub(args.address());
        let is_inside =
            |offset: &usize| offset.checked_add(size_of::<usize>()).is_some_and(|end| end <= cb_args);
        // CL_INVALID_VALUE for a location that is not in the block that args points to.
        offset.filter(is_inside).ok_or(ClError::INVALID_VALUE)
    };
    buffers
        .into_iter()
        .zip(places)
        .map(|(buffer, location)| {
            if let Some(buffer) = &buffer {
                // CL_INVALID_CONTEXT if the context associated with command_queue and the memory objects are not the same.
                let is_foreign = buffer.context().handle() != queue.context().handle();
                refuse_if(is_foreign, ClError::INVALID_CONTEXT)?;
            }
            Ok(Argument { buffer, offset: place(location)? })
        })
        .collect()
}
