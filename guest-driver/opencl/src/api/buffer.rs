//! Buffers and sub-buffers.

use opencl_sys::{
    CL_BUFFER_CREATE_TYPE_REGION, CL_MEM_ALLOC_HOST_PTR, CL_MEM_COPY_HOST_PTR, CL_MEM_READ_WRITE,
    CL_MEM_USE_HOST_PTR, cl_buffer_region,
};

use crate::boundary::object::{Handle, RawHandle};
use crate::boundary::pointer::{AppMemory, In};
use crate::core::buffer::{self, Buffer};
use crate::core::context::Context;
use crate::core::error::{ClError, ClResult, refuse_if};
use crate::core::memory::{HOST_ACCESS, KERNEL_ACCESS};

pub(super) const HOST_POINTER: u64 = CL_MEM_USE_HOST_PTR | CL_MEM_ALLOC_HOST_PTR | CL_MEM_COPY_HOST_PTR;

/// CL_INVALID_VALUE if values specified in flags are not valid: unknown ones, or two that exclude each other.
pub(super) fn check_flags(flags: u64) -> ClResult<()> {
    let invalid = flags & !(KERNEL_ACCESS | HOST_ACCESS | HOST_POINTER) != 0
        || (flags & KERNEL_ACCESS).count_ones() > 1
        || (flags & HOST_ACCESS).count_ones() > 1
        || (flags & CL_MEM_USE_HOST_PTR != 0 && flags & HOST_POINTER != CL_MEM_USE_HOST_PTR);
    refuse_if(invalid, ClError::INVALID_VALUE)
}

/// The flags of a sub-buffer: CL_INVALID_VALUE if they widen what its buffer allows.
pub(super) fn check_sub_flags(flags: u64, of_buffer: u64) -> ClResult<()> {
    check_flags(flags)?;
    // CL_INVALID_VALUE if flags specifies CL_MEM_USE_HOST_PTR, CL_MEM_ALLOC_HOST_PTR or CL_MEM_COPY_HOST_PTR.
    let mut invalid = flags & HOST_POINTER != 0;
    // CL_INVALID_VALUE if buffer was created with CL_MEM_WRITE_ONLY and flags specifies CL_MEM_READ_WRITE or
    // CL_MEM_READ_ONLY, or if buffer was created with CL_MEM_READ_ONLY and flags specifies CL_MEM_READ_WRITE or
    // CL_MEM_WRITE_ONLY; likewise for the host access flags, where CL_MEM_HOST_NO_ACCESS is the narrowest.
    for group in [KERNEL_ACCESS, HOST_ACCESS] {
        let (wanted, allowed) = (flags & group, of_buffer & group);
        let is_any = allowed == 0 || allowed == CL_MEM_READ_WRITE;
        let is_narrowest = wanted == opencl_sys::CL_MEM_HOST_NO_ACCESS;
        invalid |= wanted != 0 && !is_any && wanted != allowed && !is_narrowest;
    }
    refuse_if(invalid, ClError::INVALID_VALUE)
}

fn create_checked(
    context: Handle<Context>,
    flags: u64,
    size: usize,
    host_ptr: AppMemory,
    properties: Vec<u64>,
) -> ClResult<RawHandle> {
    let context = context.get()?;
    check_flags(flags)?;
    // CL_INVALID_BUFFER_SIZE if size is 0 or if size is greater than CL_DEVICE_MAX_MEM_ALLOC_SIZE for all devices in
    // context.
    let largest = context.devices().iter().map(|device| device.limits().alloc).max();
    refuse_if(size == 0 || size as u64 > largest.unwrap_or(0), ClError::INVALID_BUFFER_SIZE)?;
    // CL_INVALID_HOST_PTR if host_ptr is NULL and CL_MEM_USE_HOST_PTR or CL_MEM_COPY_HOST_PTR are set in flags or if
    // host_ptr is not NULL but CL_MEM_COPY_HOST_PTR or CL_MEM_USE_HOST_PTR are not set in flags.
    let needs_memory = flags & (CL_MEM_USE_HOST_PTR | CL_MEM_COPY_HOST_PTR) != 0;
    refuse_if(host_ptr.is_null() == needs_memory, ClError::INVALID_HOST_PTR)?;
    // CL_MEM_USE_HOST_PTR with a pointer that clSVMAlloc returned: the buffer is that memory.
    let place = if flags & CL_MEM_USE_HOST_PTR == 0 { None } else { context.allocations().find(host_ptr) };
    if let Some(place) = place {
        // CL_INVALID_BUFFER_SIZE "if CL_MEM_USE_HOST_PTR is set in flags and host_ptr is a pointer returned by clSVMAlloc and
        // size is greater than the size passed to clSVMAlloc".
        refuse_if(size > place.room(), ClError::INVALID_BUFFER_SIZE)?;
        let part = (default_flags(flags), place.offset, size);
        return Ok(place.allocation.buffer.of_address(part, properties)?.hand_out());
    }
    let memory = needs_memory.then_some(host_ptr);
    Ok(Buffer::new(context, default_flags(flags), size, memory, properties)?.hand_out())
}

/// If the value specified for flags is 0, the default is used which is CL_MEM_READ_WRITE. Other flags are kept as they are:
/// CL_MEM_FLAGS returns what was specified.
pub(super) fn default_flags(flags: u64) -> u64 {
    if flags == 0 { CL_MEM_READ_WRITE } else { flags }
}

/// `clCreateBuffer`.
pub(super) fn create(
    context: Handle<Context>,
    flags: u64,
    size: usize,
    host_ptr: AppMemory,
) -> ClResult<RawHandle> {
    create_checked(context, flags, size, host_ptr, Vec::new())
}

/// `clCreateBufferWithProperties`.
pub(super) fn create_with_properties(
    context: Handle<Context>,
    properties: In<u64>,
    flags: u64,
    size: usize,
    host_ptr: AppMemory,
) -> ClResult<RawHandle> {
    context.get()?;
    create_checked(context, flags, size, host_ptr, memory_properties(properties)?)
}

/// The properties of a memory object, as `CL_MEM_PROPERTIES` returns them: with the 0 at the end, or nothing for NULL.
pub(super) fn memory_properties(properties: In<u64>) -> ClResult<Vec<u64>> {
    // CL_INVALID_PROPERTY if a property name in properties is not a supported property name. None is.
    let mut list = properties.properties().unwrap_or_default();
    refuse_if(!list.is_empty(), ClError::INVALID_PROPERTY)?;
    if !properties.is_null() {
        list.push(0);
    }
    Ok(list)
}

/// `clCreateSubBuffer`.
pub(super) fn create_sub_buffer(
    buffer: Handle<Buffer>,
    flags: u64,
    buffer_create_type: u32,
    buffer_create_info: In<cl_buffer_region>,
) -> ClResult<RawHandle> {
    let buffer = buffer.get()?;
    // CL_INVALID_MEM_OBJECT if buffer is not a valid buffer object or is a sub-buffer object.
    refuse_if(buffer.is_sub_buffer(), ClError::INVALID_MEM_OBJECT)?;
    check_sub_flags(flags, buffer.flags())?;
    // CL_INVALID_VALUE if the value specified in buffer_create_type is not valid, or if buffer_create_info is NULL.
    refuse_if(buffer_create_type != CL_BUFFER_CREATE_TYPE_REGION, ClError::INVALID_VALUE)?;
    let cl_buffer_region { origin, size } = buffer_create_info.value().ok_or(ClError::INVALID_VALUE)?;
    // CL_INVALID_BUFFER_SIZE if the size field of the cl_buffer_region structure is 0.
    refuse_if(size == 0, ClError::INVALID_BUFFER_SIZE)?;
    // CL_INVALID_VALUE if the region specified by the cl_buffer_region structure is out of bounds in buffer.
    refuse_if(!buffer.contains(origin, size), ClError::INVALID_VALUE)?;
    // CL_MISALIGNED_SUB_BUFFER_OFFSET if there are no devices in context associated with buffer for which the origin
    // field of the cl_buffer_region structure is aligned to CL_DEVICE_MEM_BASE_ADDR_ALIGN.
    let is_aligned =
        buffer.context().devices().iter().any(|device| origin.is_multiple_of(device.base_align()));
    refuse_if(!is_aligned, ClError::MISALIGNED_SUB_BUFFER_OFFSET)?;
    Ok(buffer.part(buffer::inherited_flags(flags, buffer.flags()), origin, size)?.hand_out())
}

#[cfg(test)]
mod tests {
    use super::*;
    use opencl_sys::{CL_MEM_HOST_NO_ACCESS, CL_MEM_HOST_READ_ONLY, CL_MEM_READ_ONLY, CL_MEM_WRITE_ONLY};

    #[test]
    fn flags_that_exclude_each_other_are_refused() {
        for flags in [
            CL_MEM_READ_ONLY | CL_MEM_WRITE_ONLY,
            CL_MEM_HOST_READ_ONLY | CL_MEM_HOST_NO_ACCESS,
            CL_MEM_USE_HOST_PTR | CL_MEM_COPY_HOST_PTR,
            CL_MEM_USE_HOST_PTR | CL_MEM_ALLOC_HOST_PTR,
            1 << 20,
        ] {
            assert_eq!(check_flags(flags), Err(ClError::INVALID_VALUE), "{flags:#x}");
        }
        assert_eq!(check_flags(0), Ok(()));
        assert_eq!(check_flags(CL_MEM_READ_ONLY | CL_MEM_ALLOC_HOST_PTR | CL_MEM_COPY_HOST_PTR), Ok(()));
    }

    #[test]
    fn sub_buffers_do_not_widen_access() {
        assert_eq!(check_sub_flags(CL_MEM_READ_ONLY, CL_MEM_READ_WRITE), Ok(()));
        assert_eq!(check_sub_flags(CL_MEM_READ_WRITE, CL_MEM_READ_ONLY), Err(ClError::INVALID_VALUE));
        assert_eq!(
            check_sub_flags(CL_MEM_HOST_READ_ONLY, CL_MEM_HOST_NO_ACCESS),
            Err(ClError::INVALID_VALUE)
        );
        assert_eq!(check_sub_flags(CL_MEM_HOST_NO_ACCESS, CL_MEM_HOST_READ_ONLY), Ok(()));
        assert_eq!(check_sub_flags(CL_MEM_COPY_HOST_PTR, 0), Err(ClError::INVALID_VALUE));
    }
}
