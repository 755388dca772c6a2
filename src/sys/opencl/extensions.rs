//! Functions of extensions, which are found by name.

use std::ffi::{CStr, c_void};

use super::handle::Queue;
use super::kernel::Kernel;
use super::query::Platform;
use super::{checked, cl};
use crate::sys::compute::{ClError, NdRange};

/// The address of a function of the platform's.
fn address(platform: Platform, name: &CStr) -> Result<*mut c_void, ClError> {
    // Loaders call through the driver's table without looking, and older tables end before this entry.
    if platform.version() < (1, 2) {
        return Err(ClError::INVALID_OPERATION);
    }
    // SAFETY: a platform that the loader gave out, and a terminated string.
    let address = unsafe { cl!(clGetExtensionFunctionAddressForPlatform(platform.raw(), name.as_ptr())) }?;
    if address.is_null() { Err(ClError::INVALID_OPERATION) } else { Ok(address) }
}

type SuggestLocalSize =
    unsafe extern "C" fn(*mut c_void, *mut c_void, u32, *const usize, *const usize, *mut usize) -> i32;

/// `clGetKernelSuggestedLocalWorkSizeKHR` of `cl_khr_suggested_local_work_size`.
pub fn suggest_local_size(
    platform: Platform,
    queue: &Queue,
    kernel: &Kernel,
    range: &NdRange,
) -> Result<[usize; 3], ClError> {
    let address = address(platform, c"clGetKernelSuggestedLocalWorkSizeKHR")?;
    // SAFETY: the platform's function of this name, which the extension declares so.
    let function = unsafe { std::mem::transmute::<*mut c_void, SuggestLocalSize>(address) };
    let mut suggested = [1; 3];
    let dims = range.dims.clamp(1, 3);
    let (offset, global) = (range.offset.as_ptr(), range.global.as_ptr());
    // SAFETY: live handles; three sizes each, of which at most three are read or written.
    checked(Ok(unsafe {
        function(queue.raw(), kernel.raw(), dims, offset, global, suggested.as_mut_ptr())
    }))?;
    Ok(suggested)
}
