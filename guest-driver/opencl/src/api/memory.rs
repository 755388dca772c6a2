//! What is the same for all memory objects.

use std::ffi::c_void;

use opencl_sys::{
    CL_COMMAND_MIGRATE_MEM_OBJECTS, CL_COMMAND_UNMAP_MEM_OBJECT, CL_MIGRATE_MEM_OBJECT_CONTENT_UNDEFINED,
    CL_MIGRATE_MEM_OBJECT_HOST,
};

use crate::api::{image_transfer, transfer};
use crate::boundary::arguments::EventArgs;
use crate::boundary::callback::{Callback, HandleFn, UserData};
use crate::boundary::object::Handle;
use crate::boundary::pointer::{AppMemory, In};
use crate::core::error::{ClError, ClResult, refuse_if};
use crate::core::info::Info;
use crate::core::mapping;
use crate::core::memory::MemoryObject;
use crate::core::queue::{Queue, Request};

/// `clRetainMemObject`.
pub(super) fn retain(memobj: Handle<MemoryObject>) -> ClResult<()> {
    memobj.get_any()?.retain();
    Ok(())
}

/// `clReleaseMemObject`.
pub(super) fn release(memobj: Handle<MemoryObject>) -> ClResult<()> {
    memobj.get_any()?.release()
}

/// `clGetMemObjectInfo`.
pub(super) fn info(memobj: Handle<MemoryObject>, param_name: u32) -> ClResult<Info> {
    memobj.get_any()?.info(param_name)
}

/// `clSetMemObjectDestructorCallback`.
pub(super) fn set_destructor(
    memobj: Handle<MemoryObject>,
    pfn_notify: Option<HandleFn>,
    user_data: UserData,
) -> ClResult<()> {
    let object = memobj.get_any()?;
    // CL_INVALID_VALUE if pfn_notify is NULL.
    object.memory().on_destruction(Callback::new(pfn_notify, user_data).ok_or(ClError::INVALID_VALUE)?);
    Ok(())
}

/// `clEnqueueUnmapMemObject`.
pub(super) fn unmap(
    queue: Handle<Queue>,
    memobj: Handle<MemoryObject>,
    mapped_ptr: AppMemory,
    events: EventArgs,
) -> ClResult<()> {
    let (queue, object) = (queue.get()?, memobj.get_any()?);
    // CL_INVALID_CONTEXT if the context associated with command_queue and memobj are not the same.
    refuse_if(queue.context().handle() != object.memory().context().handle(), ClError::INVALID_CONTEXT)?;
    let wait = events.wait_list(queue.context())?;
    let request = Request::new(CL_COMMAND_UNMAP_MEM_OBJECT, &wait, events.wants_event());
    events.give(mapping::unmap(queue, &object, mapped_ptr, &request)?);
    Ok(())
}

/// `clEnqueueMigrateMemObjects`: a hint, and the host's driver knows better.
pub(super) fn migrate(
    queue: Handle<Queue>,
    num_mem_objects: u32,
    mem_objects: In<*mut c_void>,
    flags: u64,
    events: EventArgs,
) -> ClResult<()> {
    let queue = queue.get()?;
    // CL_INVALID_VALUE if num_mem_objects is zero or if mem_objects is NULL.
    refuse_if(num_mem_objects == 0, ClError::INVALID_VALUE)?;
    let handles = mem_objects.handles(num_mem_objects as usize).ok_or(ClError::INVALID_VALUE)?;
    for handle in &handles {
        // CL_INVALID_MEM_OBJECT if any of the memory objects in mem_objects is not a valid memory object.
        match Handle::<MemoryObject>::get_any(handle)? {
            MemoryObject::Buffer(buffer) => transfer::check(queue, &buffer)?,
            MemoryObject::Image(image) => image_transfer::check(queue, &image)?,
            MemoryObject::Pipe(pipe) => transfer::check_context(queue, &pipe)?,
        }
    }
    // CL_INVALID_VALUE if flags is not 0 or is not any of the values described in the table above.
    let known = CL_MIGRATE_MEM_OBJECT_HOST | CL_MIGRATE_MEM_OBJECT_CONTENT_UNDEFINED;
    refuse_if(flags & !known != 0, ClError::INVALID_VALUE)?;
    let wait = events.wait_list(queue.context())?;
    let request = Request::new(CL_COMMAND_MIGRATE_MEM_OBJECTS, &wait, events.wants_event());
    events.give(queue.enqueue_nothing(&request)?.event);
    Ok(())
}
