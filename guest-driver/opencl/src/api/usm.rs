//! `cl_intel_unified_shared_memory`: shared virtual memory with a word for where it lies. Here it always lies in memory
//! that kernels and the application share.

use opencl_sys::{
    CL_COMMAND_MEMADVISE_INTEL, CL_COMMAND_MEMCPY_INTEL, CL_COMMAND_MEMFILL_INTEL,
    CL_COMMAND_MIGRATEMEM_INTEL, CL_MEM_ALLOC_BASE_PTR_INTEL, CL_MEM_ALLOC_DEVICE_INTEL,
    CL_MEM_ALLOC_FLAGS_INTEL, CL_MEM_ALLOC_INITIAL_PLACEMENT_DEVICE_INTEL,
    CL_MEM_ALLOC_INITIAL_PLACEMENT_HOST_INTEL, CL_MEM_ALLOC_SIZE_INTEL, CL_MEM_ALLOC_TYPE_INTEL,
    CL_MEM_ALLOC_WRITE_COMBINED_INTEL, CL_MEM_READ_WRITE, CL_MEM_TYPE_DEVICE_INTEL, CL_MEM_TYPE_HOST_INTEL,
    CL_MEM_TYPE_SHARED_INTEL, CL_MEM_TYPE_UNKNOWN_INTEL,
};

use crate::api::svm;
use crate::boundary::arguments::EventArgs;
use crate::boundary::object::{Handle, Object, RawHandle};
use crate::boundary::pointer::{AppMemory, Bytes, In};
use crate::core::context::Context;
use crate::core::device::Device;
use crate::core::error::{ClError, ClResult, refuse_if};
use crate::core::info::Info;
use crate::core::queue::Queue;
use crate::core::svm::{Kind, allocate};
use paragpu_protocol::svm::MemoryModel;

/// `CL_MEM_ALLOC_FLAGS_INTEL`, as a question.
const ALLOC_FLAGS: u32 = CL_MEM_ALLOC_FLAGS_INTEL as u32;

/// A host's page, and what allocations here are aligned to.
const PAGE: u32 = 4096;

/// What the three allocation functions have in common.
fn alloc(
    context: &Object<Context>,
    kind: Kind,
    properties: In<u64>,
    size: usize,
    alignment: u32,
) -> ClResult<AppMemory> {
    // CL_INVALID_VALUE if alignment is not zero or a power of two, or larger than what is supported.
    refuse_if(alignment != 0 && (!alignment.is_power_of_two() || alignment > PAGE), ClError::INVALID_VALUE)?;
    // CL_INVALID_BUFFER_SIZE if size is zero or greater than CL_DEVICE_MAX_MEM_ALLOC_SIZE for any device in context.
    let fits = context.devices().iter().all(|device| size as u64 <= device.limits().alloc);
    refuse_if(size == 0 || !fits, ClError::INVALID_BUFFER_SIZE)?;
    let flags = alloc_flags(&properties.properties().unwrap_or_default())?;
    // CL_INVALID_OPERATION if the allocation type is not supported by a device in context.
    refuse_if(context.memory_model() != MemoryModel::Shared, ClError::INVALID_OPERATION)?;
    allocate(context, kind, (CL_MEM_READ_WRITE, flags), size)
}

/// The one property: CL_INVALID_PROPERTY for others, twice the same, or flags that exclude each other or are unknown.
fn alloc_flags(list: &[u64]) -> ClResult<u64> {
    let placement = CL_MEM_ALLOC_INITIAL_PLACEMENT_DEVICE_INTEL | CL_MEM_ALLOC_INITIAL_PLACEMENT_HOST_INTEL;
    match list {
        [] => Ok(0),
        [name, flags] if *name == CL_MEM_ALLOC_FLAGS_INTEL => {
            let unknown = flags & !(CL_MEM_ALLOC_WRITE_COMBINED_INTEL | placement) != 0;
            refuse_if(unknown || flags & placement == placement, ClError::INVALID_PROPERTY)?;
            Ok(*flags)
        }
        _ => Err(ClError::INVALID_PROPERTY),
    }
}

/// `clHostMemAllocINTEL`.
pub(super) fn host_alloc(
    context: Handle<Context>,
    properties: In<u64>,
    size: usize,
    alignment: u32,
) -> ClResult<AppMemory> {
    alloc(context.get()?, Kind::Host, properties, size, alignment)
}

/// CL_INVALID_DEVICE if device is not a valid device, or not associated with context.
fn device_of(context: &Context, device: Handle<Device>) -> ClResult<std::sync::Arc<Object<Device>>> {
    let device = device.get()?;
    refuse_if(!context.has_device(device), ClError::INVALID_DEVICE)?;
    Ok(device.arc())
}

/// `clDeviceMemAllocINTEL`.
pub(super) fn device_alloc(
    context: Handle<Context>,
    device: Handle<Device>,
    properties: In<u64>,
    size: usize,
    alignment: u32,
) -> ClResult<AppMemory> {
    let context = context.get()?;
    alloc(context, Kind::Device(device_of(context, device)?), properties, size, alignment)
}

/// `clSharedMemAllocINTEL`: the device may be NULL.
pub(super) fn shared_alloc(
    context: Handle<Context>,
    device: Handle<Device>,
    properties: In<u64>,
    size: usize,
    alignment: u32,
) -> ClResult<AppMemory> {
    let context = context.get()?;
    let device = if device.is_null() { None } else { Some(device_of(context, device)?) };
    alloc(context, Kind::Shared(device), properties, size, alignment)
}

/// `clMemFreeINTEL`: "if ptr is NULL, no action occurs".
pub(super) fn free(context: Handle<Context>, pointer: AppMemory) -> ClResult<()> {
    let context = context.get()?;
    if pointer.is_null() {
        return Ok(());
    }
    // CL_INVALID_VALUE if ptr is not a value returned by an allocation function.
    context.allocations().remove(pointer).map(drop).ok_or(ClError::INVALID_VALUE)
}

/// `clMemBlockingFreeINTEL`: waits for the commands that use the memory: for those of all queues of the context, since a
/// kernel may reach it without having said so.
pub(super) fn blocking_free(context: Handle<Context>, pointer: AppMemory) -> ClResult<()> {
    context.get()?.finish_queues()?;
    free(context, pointer)
}

/// `clGetMemAllocInfoINTEL`.
pub(super) fn alloc_info(context: Handle<Context>, pointer: AppMemory, param_name: u32) -> ClResult<Info> {
    let context = context.get()?;
    let place = context.allocations().find(pointer);
    let allocation = place.as_ref().map(|place| &place.allocation);
    Ok(match param_name {
        CL_MEM_ALLOC_TYPE_INTEL => Info::value(match allocation.map(|allocation| &allocation.kind) {
            Some(Kind::Host) => CL_MEM_TYPE_HOST_INTEL,
            Some(Kind::Device(_)) => CL_MEM_TYPE_DEVICE_INTEL,
            Some(Kind::Shared(_)) => CL_MEM_TYPE_SHARED_INTEL,
            Some(Kind::Svm) | None => CL_MEM_TYPE_UNKNOWN_INTEL,
        }),
        CL_MEM_ALLOC_BASE_PTR_INTEL => Info::value(allocation.map_or(0, |allocation| allocation.address)),
        CL_MEM_ALLOC_SIZE_INTEL => Info::value(allocation.map_or(0, |allocation| allocation.buffer.size())),
        CL_MEM_ALLOC_DEVICE_INTEL => Info::handle(match allocation.map(|allocation| &allocation.kind) {
            Some(Kind::Device(device) | Kind::Shared(Some(device))) => device.handle(),
            _ => RawHandle::NULL,
        }),
        ALLOC_FLAGS => Info::value(allocation.map_or(0, |allocation| allocation.flags)),
        // CL_INVALID_VALUE if param_name is not a valid memory allocation query.
        _ => return Err(ClError::INVALID_VALUE),
    })
}

/// `clEnqueueMemFillINTEL`.
pub(super) fn fill(
    queue: Handle<Queue>,
    dst: AppMemory,
    pattern: Bytes,
    pattern_size: usize,
    size: usize,
    events: EventArgs,
) -> ClResult<()> {
    let queue = queue.get()?;
    // CL_INVALID_VALUE if pattern is NULL or if pattern_size is 0 or > 128 or not a power of two, if dst_ptr is not aligned
    // to it, or if size is not a multiple of it.
    let known = pattern_size.is_power_of_two() && pattern_size <= 128;
    refuse_if(pattern.is_null() || !known, ClError::INVALID_VALUE)?;
    let aligned = dst.address().is_multiple_of(pattern_size) && size.is_multiple_of(pattern_size);
    refuse_if(!aligned, ClError::INVALID_VALUE)?;
    let pattern = pattern.get(pattern_size).ok_or(ClError::INVALID_VALUE)?;
    svm::fill_as(CL_COMMAND_MEMFILL_INTEL, queue, (dst, size), pattern, &events)
}

/// `clEnqueueMemsetINTEL`, the older form of the same.
pub(super) fn set(
    queue: Handle<Queue>,
    dst: AppMemory,
    value: i32,
    size: usize,
    events: EventArgs,
) -> ClResult<()> {
    svm::fill_as(CL_COMMAND_MEMFILL_INTEL, queue.get()?, (dst, size), &[value as u8], &events)
}

/// `clEnqueueMemcpyINTEL`.
pub(super) fn copy(
    queue: Handle<Queue>,
    blocking: u32,
    dst: AppMemory,
    src: AppMemory,
    size: usize,
    events: EventArgs,
) -> ClResult<()> {
    svm::copy_as(CL_COMMAND_MEMCPY_INTEL, queue.get()?, blocking, (dst, src), size, &events)
}

/// `clEnqueueMigrateMemINTEL`: there is one memory, so nothing moves.
pub(super) fn migrate(
    queue: Handle<Queue>,
    pointer: AppMemory,
    size: usize,
    flags: u64,
    events: EventArgs,
) -> ClResult<()> {
    let queue = queue.get()?;
    svm::check_migration(flags)?;
    // CL_INVALID_VALUE if ptr is NULL, or is not in an allocation.
    svm::place(queue, pointer, size)?;
    svm::in_turn(queue, CL_COMMAND_MIGRATEMEM_INTEL, 0, &events)
}

/// `clEnqueueMemAdviseINTEL`: "advice may be ignored".
pub(super) fn advise(
    queue: Handle<Queue>,
    pointer: AppMemory,
    size: usize,
    _advice: u32,
    events: EventArgs,
) -> ClResult<()> {
    let queue = queue.get()?;
    svm::place(queue, pointer, size)?;
    svm::in_turn(queue, CL_COMMAND_MEMADVISE_INTEL, 0, &events)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allocation_flags_are_known_and_place_memory_once() {
        let name = CL_MEM_ALLOC_FLAGS_INTEL;
        let both = CL_MEM_ALLOC_INITIAL_PLACEMENT_DEVICE_INTEL | CL_MEM_ALLOC_INITIAL_PLACEMENT_HOST_INTEL;
        assert_eq!(alloc_flags(&[]), Ok(0));
        assert_eq!(alloc_flags(&[name, 1]), Ok(1));
        assert_eq!(alloc_flags(&[name, both]), Err(ClError::INVALID_PROPERTY));
        assert_eq!(alloc_flags(&[name, 1 << 9]), Err(ClError::INVALID_PROPERTY));
        assert_eq!(alloc_flags(&[7, 1]), Err(ClError::INVALID_PROPERTY));
        assert_eq!(alloc_flags(&[name, 1, name, 1]), Err(ClError::INVALID_PROPERTY));
    }
}
