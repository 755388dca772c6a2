//! How kernels reach shared memory: pointers as arguments, and pointers in memory.

use opencl_sys::{
    CL_KERNEL_EXEC_INFO_INDIRECT_DEVICE_ACCESS_INTEL, CL_KERNEL_EXEC_INFO_INDIRECT_HOST_ACCESS_INTEL,
    CL_KERNEL_EXEC_INFO_INDIRECT_SHARED_ACCESS_INTEL, CL_KERNEL_EXEC_INFO_SVM_FINE_GRAIN_SYSTEM,
    CL_KERNEL_EXEC_INFO_SVM_PTRS, CL_KERNEL_EXEC_INFO_USM_PTRS_INTEL,
};
use paragpu_protocol::kernel::ArgKind;
use paragpu_protocol::limits::MAX_EXEC_POINTERS;

use crate::boundary::object::Handle;
use crate::boundary::pointer::{AppMemory, Bytes};
use crate::core::error::{ClError, ClResult, refuse_if};
use crate::core::kernel::Kernel;

/// "CL_INVALID_OPERATION if no devices in the context associated with kernel support SVM."
fn check_svm(kernel: &Kernel) -> ClResult<()> {
    let none = kernel.context().devices().iter().all(|device| device.svm_capabilities() == 0);
    refuse_if(none, ClError::INVALID_OPERATION)
}

/// `clSetKernelArgSVMPointer`, `clSetKernelArgMemPointerINTEL`.
pub(super) fn set_arg(kernel: Handle<Kernel>, index: u32, pointer: AppMemory) -> ClResult<()> {
    give_pointer(kernel.get()?, index, pointer)
}

/// The same, or what a recorded launch shall have as an argument.
pub(super) fn give_pointer(kernel: &Kernel, index: u32, pointer: AppMemory) -> ClResult<()> {
    check_svm(kernel)?;
    // CL_INVALID_ARG_INDEX if arg_index is not a valid argument index. CL_INVALID_ARG_VALUE if arg_value specified is not a
    // valid value: a pointer to something that is not shared, or for an argument that is no pointer.
    refuse_if(kernel.arg(index)?.kind != ArgKind::Buffer, ClError::INVALID_ARG_VALUE)?;
    if pointer.is_null() {
        return kernel.set_object(index, None);
    }
    let place = kernel.context().allocations().find(pointer).ok_or(ClError::INVALID_ARG_VALUE)?;
    kernel.set_pointer(index, &place)
}

/// `clSetKernelExecInfo`.
pub(super) fn set_exec_info(
    kernel: Handle<Kernel>,
    param_name: u32,
    size: usize,
    value: Bytes,
) -> ClResult<()> {
    give_exec_info(kernel.get()?, param_name, size, value)
}

/// `clSetKernelExecInfo`, or the same for a recorded launch.
pub(super) fn give_exec_info(kernel: &Kernel, param_name: u32, size: usize, value: Bytes) -> ClResult<()> {
    check_svm(kernel)?;
    // CL_INVALID_VALUE if param_name is not valid, if param_value is NULL or if the size specified by param_value_size is
    // not valid.
    // An empty list of pointers may be NULL: it takes back what was said before.
    let value = value.get(size).or((size == 0).then_some(&[])).ok_or(ClError::INVALID_VALUE)?;
    let flag = || Ok(u32::from_ne_bytes(<[u8; 4]>::try_from(value).or(Err(ClError::INVALID_VALUE))?) != 0);
    match param_name {
        CL_KERNEL_EXEC_INFO_SVM_PTRS | CL_KERNEL_EXEC_INFO_USM_PTRS_INTEL => set_reachable(kernel, value),
        // CL_INVALID_OPERATION if param_name is CL_KERNEL_EXEC_INFO_SVM_FINE_GRAIN_SYSTEM and param_value is CL_TRUE but no
        // devices in context associated with kernel support fine-grain system SVM allocations.
        CL_KERNEL_EXEC_INFO_SVM_FINE_GRAIN_SYSTEM => refuse_if(flag()?, ClError::INVALID_OPERATION),
        // All shared memory is within every kernel's reach.
        CL_KERNEL_EXEC_INFO_INDIRECT_HOST_ACCESS_INTEL
        | CL_KERNEL_EXEC_INFO_INDIRECT_DEVICE_ACCESS_INTEL
        | CL_KERNEL_EXEC_INFO_INDIRECT_SHARED_ACCESS_INTEL => flag().map(|_any| ()),
        _ => Err(ClError::INVALID_VALUE),
    }
}

/// Tells the host which allocations the kernel reaches otherwise: an array of pointers.
fn set_reachable(kernel: &Kernel, value: &[u8]) -> ClResult<()> {
    let (pointers, rest) = value.as_chunks::<{ size_of::<usize>() }>();
    // CL_INVALID_VALUE if the size specified by param_value_size is not valid.
    let invalid = !rest.is_empty() || pointers.len() > MAX_EXEC_POINTERS as usize;
    refuse_if(invalid, ClError::INVALID_VALUE)?;
    let allocations = kernel.context().allocations();
    let find = |pointer: &[u8; size_of::<usize>()]| {
        allocations.find(AppMemory::at_address(usize::from_ne_bytes(*pointer))).ok_or(ClError::INVALID_VALUE)
    };
    kernel.set_reachable(&pointers.iter().map(find).collect::<ClResult<Vec<_>>>()?)
}
