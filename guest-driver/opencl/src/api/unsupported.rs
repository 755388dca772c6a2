//! What this driver does not offer: each entry point checks its object and returns the error that the specification
//! has for devices without the feature.

use std::ffi::c_void;

use crate::boundary::arguments::EventArgs;
use crate::boundary::callback::{NativeFn, SvmFreeFn, UserData};
use crate::boundary::object::{Handle, RawHandle};
use crate::boundary::pointer::{AppMemory, Bytes, In};
use crate::core::context::Context;
use crate::core::error::{ClError, ClResult};
use crate::core::info::Info;
use crate::core::kernel::Kernel;
use crate::core::memory::MemoryObject;
use crate::core::queue::Queue;

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

/// `clEnqueueNativeKernel`.
#[expect(clippy::too_many_arguments, reason = "the specification's")]
pub(super) fn native_kernel(
    queue: Handle<Queue>,
    _user_func: Option<NativeFn>,
    _args: AppMemory,
    _args_size: usize,
    _num_mem_objects: u32,
    _mem_list: In<*mut c_void>,
    _args_mem_loc: In<*const c_void>,
    _events: EventArgs,
) -> ClResult<()> {
    queue.get()?;
    // CL_INVALID_OPERATION if the device associated with command_queue cannot execute the native kernel.
    Err(ClError::INVALID_OPERATION)
}

/// "CL_INVALID_OPERATION if the device associated with command queue does not support SVM."
fn no_svm(queue: &Handle<Queue>) -> ClResult<()> {
    queue.get()?;
    Err(ClError::INVALID_OPERATION)
}

/// `clEnqueueSVMFree`.
pub(super) fn svm_free(
    queue: Handle<Queue>,
    _count: u32,
    _pointers: In<*mut c_void>,
    _function: Option<SvmFreeFn>,
    _user_data: UserData,
    _events: EventArgs,
) -> ClResult<()> {
    no_svm(&queue)
}

/// `clEnqueueSVMMemcpy`.
pub(super) fn svm_copy(
    queue: Handle<Queue>,
    _blocking: u32,
    _dst: AppMemory,
    _src: AppMemory,
    _size: usize,
    _events: EventArgs,
) -> ClResult<()> {
    no_svm(&queue)
}

/// `clEnqueueSVMMemFill`.
pub(super) fn svm_fill(
    queue: Handle<Queue>,
    _ptr: AppMemory,
    _pattern: Bytes,
    _pattern_size: usize,
    _size: usize,
    _events: EventArgs,
) -> ClResult<()> {
    no_svm(&queue)
}

/// `clEnqueueSVMMap`.
pub(super) fn svm_map(
    queue: Handle<Queue>,
    _blocking: u32,
    _flags: u64,
    _ptr: AppMemory,
    _size: usize,
    _events: EventArgs,
) -> ClResult<()> {
    no_svm(&queue)
}

/// `clEnqueueSVMUnmap`.
pub(super) fn svm_unmap(queue: Handle<Queue>, _ptr: AppMemory, _events: EventArgs) -> ClResult<()> {
    no_svm(&queue)
}

/// `clEnqueueSVMMigrateMem`.
pub(super) fn svm_migrate(
    queue: Handle<Queue>,
    _count: u32,
    _pointers: In<*const c_void>,
    _sizes: In<usize>,
    _flags: u64,
    _events: EventArgs,
) -> ClResult<()> {
    no_svm(&queue)
}

/// `clSetKernelArgSVMPointer`.
pub(super) fn svm_argument(kernel: Handle<Kernel>, _index: u32, _value: Bytes) -> ClResult<()> {
    kernel.get()?;
    // CL_INVALID_OPERATION if no devices in the context associated with kernel support SVM.
    Err(ClError::INVALID_OPERATION)
}

/// `clSetKernelExecInfo`, all of which is about shared virtual memory.
pub(super) fn kernel_exec_info(
    kernel: Handle<Kernel>,
    _param_name: u32,
    _size: usize,
    _value: Bytes,
) -> ClResult<()> {
    kernel.get()?;
    // CL_INVALID_OPERATION if no devices in the context associated with kernel support SVM.
    Err(ClError::INVALID_OPERATION)
}
