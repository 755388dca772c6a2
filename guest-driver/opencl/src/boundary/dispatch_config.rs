//! `cl_mutable_dispatch_config_khr`, and the arrays that it points to.

use std::ffi::c_void;

use opencl_sys::{
    cl_mutable_dispatch_arg_khr, cl_mutable_dispatch_config_khr, cl_mutable_dispatch_exec_info_khr,
};

use crate::boundary::object::Handle;
use crate::boundary::pointer::{AppMemory, Argument, Bytes, In};
use crate::core::error::{ClError, ClResult, refuse_if};
use crate::core::mutable_command::MutableCommand;

/// What shall change of a recorded launch.
pub(crate) struct DispatchConfig {
    pub(crate) command: Handle<MutableCommand>,
    pub(crate) work_dim: u32,
    pub(crate) global_work_offset: In<usize>,
    pub(crate) global_work_size: In<usize>,
    pub(crate) local_work_size: In<usize>,
    args: List<cl_mutable_dispatch_arg_khr>,
    svm_args: List<cl_mutable_dispatch_arg_khr>,
    exec_infos: List<cl_mutable_dispatch_exec_info_khr>,
}

/// An array and its length.
struct List<T> {
    count: u32,
    elements: In<T>,
}

impl<T: Copy> List<T> {
    /// # Safety
    /// As [`Argument::from_c`]: `elements` is NULL or has `count` elements.
    unsafe fn new(count: u32, elements: *const T) -> List<T> {
        // SAFETY: as demanded of the caller.
        unsafe { List { count, elements: In::from_c(elements) } }
    }

    fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn elements(&self) -> ClResult<Vec<T>> {
        // CL_INVALID_VALUE if the list is NULL and its length is > 0, or the list is not NULL and its length is 0.
        refuse_if(self.elements.is_null() != self.is_empty(), ClError::INVALID_VALUE)?;
        Ok(self.elements.values(self.count as usize).unwrap_or_default())
    }
}

impl In<*const c_void> {
    /// The changes that `count` pointers point to; nothing if one is NULL, or all are.
    pub(crate) fn dispatch_configs(&self, count: usize) -> Option<Vec<DispatchConfig>> {
        let config = |config: *const c_void| {
            // SAFETY: `from_c` was promised pointers that are NULL or point to such a structure.
            let config = unsafe { In::<cl_mutable_dispatch_config_khr>::from_c(config.cast()) }.value()?;
            // SAFETY: and that what is in it keeps what the specification demands: NULL or a live handle, arrays with as
            // many elements as it says or as the command has dimensions.
            Some(unsafe {
                DispatchConfig {
                    command: Handle::from_c(config.command),
                    work_dim: config.work_dim,
                    global_work_offset: In::from_c(config.global_work_offset),
                    global_work_size: In::from_c(config.global_work_size),
                    local_work_size: In::from_c(config.local_work_size),
                    args: List::new(config.num_args, config.arg_list),
                    svm_args: List::new(config.num_svm_args, config.arg_svm_list),
                    exec_infos: List::new(config.num_exec_infos, config.exec_info_list),
                }
            })
        };
        self.values(count)?.into_iter().map(config).collect()
    }
}

impl DispatchConfig {
    /// True if arguments shall change.
    pub(crate) fn has_args(&self) -> bool {
        !self.args.is_empty() || !self.svm_args.is_empty()
    }

    /// True if it says what else the kernel reaches.
    pub(crate) fn has_exec_infos(&self) -> bool {
        !self.exec_infos.is_empty()
    }

    /// What `clSetKernelArg` would get: index, size and value.
    pub(crate) fn args(&self) -> ClResult<Vec<(u32, usize, Bytes)>> {
        // SAFETY: of each element `from_c` was promised what `clSetKernelArg` demands.
        let arg = |arg: cl_mutable_dispatch_arg_khr| unsafe {
            (arg.arg_index, arg.arg_size, Bytes::from_c(arg.arg_value))
        };
        Ok(self.args.elements()?.into_iter().map(arg).collect())
    }

    /// What `clSetKernelArgSVMPointer` would get: index and pointer.
    pub(crate) fn svm_args(&self) -> ClResult<Vec<(u32, AppMemory)>> {
        // SAFETY: a pointer, as an address.
        let arg =
            |arg: cl_mutable_dispatch_arg_khr| unsafe { (arg.arg_index, AppMemory::from_c(arg.arg_value)) };
        Ok(self.svm_args.elements()?.into_iter().map(arg).collect())
    }

    /// What `clSetKernelExecInfo` would get: name, size and value.
    pub(crate) fn exec_infos(&self) -> ClResult<Vec<(u32, usize, Bytes)>> {
        // SAFETY: of each element `from_c` was promised what `clSetKernelExecInfo` demands.
        let info = |info: cl_mutable_dispatch_exec_info_khr| unsafe {
            (info.param_name, info.param_value_size, Bytes::from_c(info.param_value))
        };
        Ok(self.exec_infos.elements()?.into_iter().map(info).collect())
    }
}
