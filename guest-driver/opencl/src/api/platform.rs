//! Platforms, and how the loader finds them.

use std::ffi::c_void;

use crate::api::{command_buffer_entries, entries, exports};
use crate::boundary::arguments;
use crate::boundary::object::Handle;
use crate::boundary::pointer::{Bytes, Out};
use crate::core::error::{ClError, ClResult};
use crate::core::info::Info;
use crate::core::platform::{self, Platform};

/// `clGetPlatformIDs` and `clIcdGetPlatformIDsKHR`.
pub(super) fn ids(num_entries: u32, platforms: Out<*mut c_void>, num_platforms: Out<u32>) -> ClResult<()> {
    // CL_PLATFORM_NOT_FOUND_KHR if zero platforms are available. Why there is none, `PARAGPU_DEBUG` tells.
    let found = platform::found().or(Err(ClError::PLATFORM_NOT_FOUND))?;
    arguments::give_list(&[found.platform.handle()], num_entries, platforms, num_platforms)
}

/// `clGetPlatformInfo`. "platform refers to the platform ID returned by clGetPlatformIDs or can be NULL. If platform is
/// NULL, the behavior is implementation-defined": NULL is this platform.
pub(super) fn info(platform: Handle<Platform>, param_name: u32) -> ClResult<Info> {
    arguments::optional(&platform)?;
    Platform::info(param_name)
}

/// `clUnloadPlatformCompiler`: a hint, and there is nothing to unload.
pub(super) fn unload_compiler(platform: Handle<Platform>) -> ClResult<()> {
    platform.get().map(|_| ())
}

/// `clGetExtensionFunctionAddress`: NULL for what there is not.
pub(super) fn function_address(name: Bytes) -> Option<*mut c_void> {
    let name = name.string(0)?;
    match name.as_slice() {
        b"clIcdGetPlatformIDsKHR" => Some(exports::clIcdGetPlatformIDsKHR as *mut c_void),
        b"clCreateProgramWithILKHR" => Some(entries::clCreateProgramWithIL as *mut c_void),
        b"clCreateCommandQueueWithPropertiesKHR" => {
            Some(entries::clCreateCommandQueueWithProperties as *mut c_void)
        }
        b"clGetKernelSuggestedLocalWorkSizeKHR" => {
            Some(entries::clGetKernelSuggestedLocalWorkSizeKHR as *mut c_void)
        }
        b"clGetKernelSubGroupInfoKHR" => Some(entries::clGetKernelSubGroupInfo as *mut c_void),
        b"clHostMemAllocINTEL" => Some(entries::clHostMemAllocINTEL as *mut c_void),
        b"clDeviceMemAllocINTEL" => Some(entries::clDeviceMemAllocINTEL as *mut c_void),
        b"clSharedMemAllocINTEL" => Some(entries::clSharedMemAllocINTEL as *mut c_void),
        b"clMemFreeINTEL" => Some(entries::clMemFreeINTEL as *mut c_void),
        b"clMemBlockingFreeINTEL" => Some(entries::clMemBlockingFreeINTEL as *mut c_void),
        b"clGetMemAllocInfoINTEL" => Some(entries::clGetMemAllocInfoINTEL as *mut c_void),
        b"clSetKernelArgMemPointerINTEL" => Some(entries::clSetKernelArgSVMPointer as *mut c_void),
        b"clEnqueueMemsetINTEL" => Some(entries::clEnqueueMemsetINTEL as *mut c_void),
        b"clEnqueueMemFillINTEL" => Some(entries::clEnqueueMemFillINTEL as *mut c_void),
        b"clEnqueueMemcpyINTEL" => Some(entries::clEnqueueMemcpyINTEL as *mut c_void),
        b"clEnqueueMigrateMemINTEL" => Some(entries::clEnqueueMigrateMemINTEL as *mut c_void),
        b"clEnqueueMemAdviseINTEL" => Some(entries::clEnqueueMemAdviseINTEL as *mut c_void),
        name => command_buffer_entries::function_address(name, platform::command_buffer_version()?),
    }
}

/// `clGetExtensionFunctionAddressForPlatform`.
pub(super) fn function_address_for_platform(platform: Handle<Platform>, name: Bytes) -> Option<*mut c_void> {
    platform.get().ok()?;
    function_address(name)
}
