//! The symbols that the loader looks for in this library (`cl_khr_icd`). Everything else it finds through the handles.
#![allow(non_snake_case, reason = "the names are OpenCL's")]

use std::ffi::{c_char, c_void};

use opencl_sys::{CL_SUCCESS, cl_int, cl_uint};

use crate::api::{entries, platform, svm};
use crate::boundary::entry;
use crate::boundary::pointer::Argument;

/// The driver's platform.
///
/// # Safety
/// As the OpenCL specification demands of `clGetPlatformIDs`.
#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn clIcdGetPlatformIDsKHR(
    num_entries: cl_uint,
    platforms: *mut *mut c_void,
    num_platforms: *mut cl_uint,
) -> cl_int {
    // SAFETY: the same function.
    unsafe { entries::clGetPlatformIDs(num_entries, platforms, num_platforms) }
}

/// What the loader asks about the platform before it dispatches through its handle.
///
/// # Safety
/// As the OpenCL specification demands.
#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn clGetPlatformInfo(
    platform: *mut c_void,
    param_name: cl_uint,
    param_value_size: usize,
    param_value: *mut c_void,
    param_value_size_ret: *mut usize,
) -> cl_int {
    // SAFETY: the same function.
    unsafe {
        entries::clGetPlatformInfo(platform, param_name, param_value_size, param_value, param_value_size_ret)
    }
}

/// Address of an extension function, or NULL.
///
/// # Safety
/// `name` is NULL or a string.
#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn clGetExtensionFunctionAddress(name: *const c_char) -> *mut c_void {
    // SAFETY: the application keeps what the specification demands of its arguments.
    let name = unsafe { Argument::from_c(name) };
    entry::pointer_or_null(|| platform::function_address(name))
}

/// Address of an extension function of the platform, or NULL.
///
/// # Safety
/// As the OpenCL specification demands.
pub(super) unsafe extern "C" fn clGetExtensionFunctionAddressForPlatform(
    platform: *mut c_void,
    name: *const c_char,
) -> *mut c_void {
    // SAFETY: the application keeps what the specification demands of its arguments.
    let (platform, name) = unsafe { (Argument::from_c(platform), Argument::from_c(name)) };
    entry::pointer_or_null(|| platform::function_address_for_platform(platform, name))
}

/// `clUnloadCompiler`: a hint, and there is nothing to unload.
///
/// # Safety
/// None.
pub(super) unsafe extern "C" fn clUnloadCompiler() -> cl_int {
    CL_SUCCESS
}

/// Shared virtual memory of a context, or NULL.
///
/// # Safety
/// As the OpenCL specification demands.
pub(super) unsafe extern "C" fn clSVMAlloc(
    context: *mut c_void,
    flags: u64,
    size: usize,
    alignment: cl_uint,
) -> *mut c_void {
    // SAFETY: the application keeps what the specification demands of its arguments.
    let context = unsafe { Argument::from_c(context) };
    entry::pointer_or_null(|| svm::alloc(context, flags, size, alignment))
}

/// Frees shared virtual memory.
///
/// # Safety
/// As the OpenCL specification demands.
pub(super) unsafe extern "C" fn clSVMFree(context: *mut c_void, pointer: *mut c_void) {
    // SAFETY: the application keeps what the specification demands of its arguments.
    let (context, pointer) = unsafe { (Argument::from_c(context), Argument::from_c(pointer)) };
    entry::pointer_or_null(|| {
        svm::free(context, pointer);
        None
    });
}
