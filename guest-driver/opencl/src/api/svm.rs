//! Shared virtual memory.

use std::ffi::c_void;

use opencl_sys::{
    CL_COMMAND_SVM_FREE, CL_COMMAND_SVM_MAP, CL_COMMAND_SVM_MEMCPY, CL_COMMAND_SVM_MEMFILL,
    CL_COMMAND_SVM_MIGRATE_MEM, CL_COMMAND_SVM_UNMAP, CL_DEVICE_SVM_ATOMICS, CL_DEVICE_SVM_FINE_GRAIN_BUFFER,
    CL_MAP_READ, CL_MAP_WRITE, CL_MAP_WRITE_INVALIDATE_REGION, CL_MEM_SVM_ATOMICS,
    CL_MEM_SVM_FINE_GRAIN_BUFFER, CL_MIGRATE_MEM_OBJECT_CONTENT_UNDEFINED, CL_MIGRATE_MEM_OBJECT_HOST,
};

use crate::boundary::arguments::EventArgs;
use crate::boundary::callback::{Callback, SvmFreeFn, UserData};
use crate::boundary::object::{Handle, Object};
use crate::boundary::pointer::{AppMemory, Bytes, In};
use crate::core::context::Context;
use crate::core::error::{ClError, ClResult, refuse_if};
use crate::core::host_task;
use crate::core::mapping::{self, Region};
use crate::core::memory::{KERNEL_ACCESS, MemoryObject};
use crate::core::queue::{Queue, Request};
use crate::core::svm::{self, Kind, Place};
use crate::core::transfer::{self, Enqueued, Part};

/// The largest alignment that is given out: that of `long16`, the largest type of OpenCL C. Allocations start on pages.
const MAX_ALIGNMENT: u32 = 128;

/// `clSVMAlloc`: NULL where another function would return an error.
pub(super) fn alloc(
    context: Handle<Context>,
    flags: u64,
    size: usize,
    alignment: u32,
) -> Option<*mut c_void> {
    let context = context.get().ok()?;
    check_flags(flags, context.devices().iter().map(|device| device.svm_capabilities())).ok()?;
    // "clSVMAlloc will fail if … alignment is not a power of two or the OpenCL implementation cannot support the specified
    // alignment for at least one device in context", or "size is 0 or > CL_DEVICE_MAX_MEM_ALLOC_SIZE value for any device
    // in context".
    let aligned = alignment == 0 || (alignment.is_power_of_two() && alignment <= MAX_ALIGNMENT);
    let fits = context.devices().iter().all(|device| size as u64 <= device.limits().alloc);
    if !aligned || size == 0 || !fits {
        return None;
    }
    let access = match flags & KERNEL_ACCESS {
        0 => opencl_sys::CL_MEM_READ_WRITE,
        access => access,
    };
    Some(svm::allocate(context, Kind::Svm, (access, flags), size).ok()?.as_pointer())
}

/// "clSVMAlloc will fail if … context is not a valid context, or no devices in context support SVM; flags does not contain
/// CL_MEM_SVM_FINE_GRAIN_BUFFER but does contain CL_MEM_SVM_ATOMICS; values specified in flags do not follow the rules;
/// CL_MEM_SVM_FINE_GRAIN_BUFFER or CL_MEM_SVM_ATOMICS is specified and is not supported by at least one device".
fn check_flags(flags: u64, capabilities: impl Iterator<Item = u64> + Clone) -> ClResult<()> {
    let known = KERNEL_ACCESS | CL_MEM_SVM_FINE_GRAIN_BUFFER | CL_MEM_SVM_ATOMICS;
    let (fine, atomics) = (flags & CL_MEM_SVM_FINE_GRAIN_BUFFER != 0, flags & CL_MEM_SVM_ATOMICS != 0);
    let everywhere = |capability: u64| capabilities.clone().all(|has| has & capability != 0);
    let invalid = flags & !known != 0
        || (flags & KERNEL_ACCESS).count_ones() > 1
        || (atomics && !fine)
        || (fine && !everywhere(CL_DEVICE_SVM_FINE_GRAIN_BUFFER))
        || (atomics && !everywhere(CL_DEVICE_SVM_ATOMICS))
        || capabilities.clone().all(|has| has == 0);
    refuse_if(invalid, ClError::INVALID_VALUE)
}

/// `clSVMFree`: "if svm_pointer is a NULL pointer, no action occurs".
pub(super) fn free(context: Handle<Context>, pointer: AppMemory) {
    if let Ok(context) = context.get() {
        // A pointer that is none of ours is the application's mistake, about which this function cannot tell.
        drop(context.allocations().remove(pointer));
    }
}

/// "CL_INVALID_OPERATION if the device associated with command queue does not support SVM."
pub(super) fn check_queue(queue: &Queue) -> ClResult<()> {
    refuse_if(queue.device().svm_capabilities() == 0, ClError::INVALID_OPERATION)
}

/// The `size` bytes at a pointer into an allocation of the queue's context.
///
/// CL_INVALID_VALUE if the pointer is NULL, or the region does not lie in memory allocated with clSVMAlloc.
pub(super) fn place(queue: &Queue, pointer: AppMemory, size: usize) -> ClResult<Place> {
    let place = queue.context().allocations().find(pointer).ok_or(ClError::INVALID_VALUE)?;
    refuse_if(size > place.room(), ClError::INVALID_VALUE)?;
    Ok(place)
}

/// The same as a part of a buffer.
pub(super) fn part(place: &Place, len: usize) -> Part<'_> {
    Part { buffer: &place.allocation.buffer, offset: place.offset, len }
}

/// `clEnqueueSVMFree`.
pub(super) fn enqueue_free(
    queue: Handle<Queue>,
    count: u32,
    pointers: In<*mut c_void>,
    function: Option<SvmFreeFn>,
    user_data: UserData,
    events: EventArgs,
) -> ClResult<()> {
    let queue = queue.get()?;
    check_queue(queue)?;
    // CL_INVALID_VALUE if num_svm_pointers is 0 and svm_pointers is non-NULL, or if svm_pointers is NULL and
    // num_svm_pointers is not 0.
    refuse_if((count == 0) != pointers.is_null(), ClError::INVALID_VALUE)?;
    let pointers = pointers.memories(count as usize).unwrap_or_default();
    let wait = events.wait_list(queue.context())?;
    let request = Request::new(CL_COMMAND_SVM_FREE, &wait, events.wants_event());
    let owner = queue.arc();
    let callback = Callback::new(function, user_data);
    events.give(host_task::enqueue(queue, &request, move || {
        match callback {
            // "pfn_free_func specifies the callback function to be called to free the SVM pointers."
            Some(callback) => callback.call(owner.handle(), &pointers),
            None => {
                pointers.into_iter().for_each(|pointer| drop(owner.context().allocations().remove(pointer)));
            }
        }
        0
    })?);
    Ok(())
}

/// `clEnqueueSVMMemcpy`.
pub(super) fn copy(
    queue: Handle<Queue>,
    blocking: u32,
    dst: AppMemory,
    src: AppMemory,
    size: usize,
    events: EventArgs,
) -> ClResult<()> {
    let queue = queue.get()?;
    check_queue(queue)?;
    copy_as(CL_COMMAND_SVM_MEMCPY, queue, blocking, (dst, src), size, &events)
}

/// `clEnqueueSVMMemcpy` and `clEnqueueMemcpyINTEL`.
pub(super) fn copy_as(
    command: u32,
    queue: &Object<Queue>,
    blocking: u32,
    memories: (AppMemory, AppMemory),
    size: usize,
    events: &EventArgs,
) -> ClResult<()> {
    let copy = copier(queue, memories, size)?;
    let wait = events.wait_list(queue.context())?;
    let request = Request::new(command, &wait, events.wants_event()).blocking(blocking);
    events.give(copy(queue, &request)?);
    Ok(())
}

/// A checked copy: either side may be shared memory or any other of the application's.
pub(super) fn copier(
    queue: &Object<Queue>,
    (dst, src): (AppMemory, AppMemory),
    size: usize,
) -> ClResult<impl Fn(&Object<Queue>, &Request<'_>) -> Enqueued + Send + Sync + use<>> {
    // CL_INVALID_VALUE if dst_ptr or src_ptr is NULL.
    refuse_if(dst.is_null() || src.is_null(), ClError::INVALID_VALUE)?;
    // CL_MEM_COPY_OVERLAP if the values specified for dst_ptr, src_ptr and size result in an overlapping copy.
    refuse_if(dst.address().abs_diff(src.address()) < size, ClError::MEM_COPY_OVERLAP)?;
    let find = |pointer| -> ClResult<Option<Place>> {
        let place = queue.context().allocations().find(pointer);
        // What starts in an allocation ends there.
        refuse_if(place.as_ref().is_some_and(|place| size > place.room()), ClError::INVALID_VALUE)?;
        Ok(place)
    };
    let places = if size == 0 { (None, None) } else { (find(src)?, find(dst)?) };
    Ok(move |queue: &Object<Queue>, request: &Request<'_>| match &places {
        _ if size == 0 => Ok(queue.enqueue_nothing(request)?.event),
        (Some(from), Some(to)) => transfer::copy(queue, request, part(from, size), part(to, size)),
        (Some(from), None) => transfer::read(queue, request, part(from, size), dst),
        (None, Some(to)) => transfer::write(queue, request, part(to, size), src),
        (None, None) => host_task::enqueue(queue, request, move || {
            dst.bytes_mut(size).copy_from_slice(src.bytes(size));
            0
        }),
    })
}

/// `clEnqueueSVMMemFill`.
pub(super) fn fill(
    queue: Handle<Queue>,
    pointer: AppMemory,
    pattern: Bytes,
    pattern_size: usize,
    size: usize,
    events: EventArgs,
) -> ClResult<()> {
    let queue = queue.get()?;
    check_queue(queue)?;
    let pattern = fill_pattern(pointer, pattern, pattern_size, size)?;
    fill_as(CL_COMMAND_SVM_MEMFILL, queue, (pointer, size), &pattern, &events)
}

/// The pattern of a fill, checked.
pub(super) fn fill_pattern(
    pointer: AppMemory,
    pattern: Bytes,
    pattern_size: usize,
    size: usize,
) -> ClResult<Vec<u8>> {
    // CL_INVALID_VALUE if pattern is NULL or if pattern_size is 0 or not one of 1, 2, 4, 8, 16, 32, 64, 128.
    let known = pattern_size.is_power_of_two() && pattern_size <= 128;
    refuse_if(pattern.is_null() || !known, ClError::INVALID_VALUE)?;
    // CL_INVALID_VALUE if svm_ptr is not aligned to pattern_size bytes, or if size is not a multiple of pattern_size.
    let aligned = pointer.address().is_multiple_of(pattern_size) && size.is_multiple_of(pattern_size);
    refuse_if(!aligned, ClError::INVALID_VALUE)?;
    Ok(pattern.get(pattern_size).ok_or(ClError::INVALID_VALUE)?.to_vec())
}

/// `clEnqueueSVMMemFill` and `clEnqueueMemFillINTEL`, checked.
pub(super) fn fill_as(
    command: u32,
    queue: &Object<Queue>,
    (pointer, size): (AppMemory, usize),
    pattern: &[u8],
    events: &EventArgs,
) -> ClResult<()> {
    let fill = filler(queue, (pointer, size), pattern.to_vec())?;
    let wait = events.wait_list(queue.context())?;
    let request = Request::new(command, &wait, events.wants_event());
    events.give(fill(queue, &request)?);
    Ok(())
}

/// A checked fill.
pub(super) fn filler(
    queue: &Object<Queue>,
    (pointer, size): (AppMemory, usize),
    pattern: Vec<u8>,
) -> ClResult<impl Fn(&Object<Queue>, &Request<'_>) -> Enqueued + Send + Sync + use<>> {
    // CL_INVALID_VALUE if svm_ptr is NULL.
    refuse_if(pointer.is_null(), ClError::INVALID_VALUE)?;
    let place = place(queue, pointer, size)?;
    Ok(move |queue: &Object<Queue>, request: &Request<'_>| match size {
        0 => Ok(queue.enqueue_nothing(request)?.event),
        _ => transfer::fill(queue, request, part(&place, size), &pattern),
    })
}

/// `clEnqueueSVMMap`: the application sees the same bytes as kernels, in its turn.
pub(super) fn map(
    queue: Handle<Queue>,
    blocking: u32,
    flags: u64,
    pointer: AppMemory,
    size: usize,
    events: EventArgs,
) -> ClResult<()> {
    let queue = queue.get()?;
    check_queue(queue)?;
    // CL_INVALID_VALUE if svm_ptr is NULL, if size is 0, or if values specified in map_flags are not valid.
    let invalidates = flags & CL_MAP_WRITE_INVALIDATE_REGION != 0;
    let unknown = flags & !(CL_MAP_READ | CL_MAP_WRITE | CL_MAP_WRITE_INVALIDATE_REGION) != 0;
    let both = invalidates && flags & (CL_MAP_READ | CL_MAP_WRITE) != 0;
    refuse_if(pointer.is_null() || size == 0 || unknown || both, ClError::INVALID_VALUE)?;
    let place = place(queue, pointer, size)?;
    let buffer = &place.allocation.buffer;
    if buffer.coarse_bytes().is_none() {
        return in_turn(queue, CL_COMMAND_SVM_MAP, blocking, &events);
    }
    let wait = events.wait_list(queue.context())?;
    let request = Request::new(CL_COMMAND_SVM_MAP, &wait, events.wants_event()).blocking(blocking);
    let region = Region::Buffer(part(&place, size));
    events.give(mapping::map(queue, region, flags, &request)?.1);
    Ok(())
}

/// `clEnqueueSVMUnmap`.
pub(super) fn unmap(queue: Handle<Queue>, pointer: AppMemory, events: EventArgs) -> ClResult<()> {
    let queue = queue.get()?;
    check_queue(queue)?;
    // CL_INVALID_VALUE if svm_ptr is NULL.
    let place = place(queue, pointer, 0)?;
    let buffer = &place.allocation.buffer;
    if buffer.coarse_bytes().is_none() {
        return in_turn(queue, CL_COMMAND_SVM_UNMAP, 0, &events);
    }
    let wait = events.wait_list(queue.context())?;
    let request = Request::new(CL_COMMAND_SVM_UNMAP, &wait, events.wants_event());
    events.give(mapping::unmap(queue, &MemoryObject::Buffer(buffer.clone()), pointer, &request)?);
    Ok(())
}

/// `clEnqueueSVMMigrateMem`: there is one memory, so nothing moves.
pub(super) fn migrate(
    queue: Handle<Queue>,
    count: u32,
    pointers: In<*const c_void>,
    sizes: In<usize>,
    flags: u64,
    events: EventArgs,
) -> ClResult<()> {
    let queue = queue.get()?;
    check_queue(queue)?;
    // CL_INVALID_VALUE if num_svm_pointers is zero or svm_pointers is NULL.
    refuse_if(count == 0, ClError::INVALID_VALUE)?;
    let pointers = pointers.memories(count as usize).ok_or(ClError::INVALID_VALUE)?;
    check_migration(flags)?;
    let sizes = sizes.values(count as usize).unwrap_or_else(|| vec![0; pointers.len()]);
    for (pointer, size) in pointers.into_iter().zip(sizes) {
        // CL_INVALID_VALUE if sizes[i] is non-zero range [svm_pointers[i], svm_pointers[i]+sizes[i]) is not contained
        // within an existing clSVMAlloc allocation.
        place(queue, pointer, size)?;
    }
    in_turn(queue, CL_COMMAND_SVM_MIGRATE_MEM, 0, &events)
}

/// CL_INVALID_VALUE if values specified in flags are not valid.
pub(super) fn check_migration(flags: u64) -> ClResult<()> {
    let known = CL_MIGRATE_MEM_OBJECT_HOST | CL_MIGRATE_MEM_OBJECT_CONTENT_UNDEFINED;
    refuse_if(flags & !known != 0, ClError::INVALID_VALUE)
}

/// A command that only takes its turn.
pub(super) fn in_turn(
    queue: &Object<Queue>,
    command: u32,
    blocking: u32,
    events: &EventArgs,
) -> ClResult<()> {
    let wait = events.wait_list(queue.context())?;
    let request = Request::new(command, &wait, events.wants_event()).blocking(blocking);
    events.give(queue.enqueue_nothing(&request)?.event);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use opencl_sys::{CL_DEVICE_SVM_COARSE_GRAIN_BUFFER, CL_MEM_READ_ONLY, CL_MEM_WRITE_ONLY};

    #[test]
    fn flags_need_what_every_device_has() {
        let coarse = CL_DEVICE_SVM_COARSE_GRAIN_BUFFER;
        let fine = coarse | CL_DEVICE_SVM_FINE_GRAIN_BUFFER;
        let all = fine | CL_DEVICE_SVM_ATOMICS;
        let check = |flags, devices: &[u64]| check_flags(flags, devices.iter().copied()).is_ok();
        assert!(check(0, &[coarse]) && check(CL_MEM_READ_ONLY, &[coarse]));
        assert!(!check(0, &[0]), "no SVM at all");
        assert!(!check(CL_MEM_READ_ONLY | CL_MEM_WRITE_ONLY, &[all]));
        assert!(!check(CL_MEM_SVM_ATOMICS, &[all]), "atomics are for fine grain");
        assert!(!check(CL_MEM_SVM_FINE_GRAIN_BUFFER, &[fine, coarse]));
        assert!(check(CL_MEM_SVM_FINE_GRAIN_BUFFER, &[fine, all]));
        assert!(!check(CL_MEM_SVM_FINE_GRAIN_BUFFER | CL_MEM_SVM_ATOMICS, &[fine]));
        assert!(check(CL_MEM_SVM_FINE_GRAIN_BUFFER | CL_MEM_SVM_ATOMICS, &[all]));
        assert!(!check(1 << 30, &[all]));
    }
}
