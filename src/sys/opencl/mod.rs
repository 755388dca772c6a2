//! The C boundary of OpenCL: handles that release themselves, and calls whose preconditions the types keep.
//!
//! The library is loaded at run time, so that a host without one can say so.

mod arguments;
mod built_in;
mod coarse;
mod device_side;
mod enqueue;
mod extensions;
pub mod handle;
mod image;
mod kernel;
mod partition;
mod program;
mod query;
mod starts;

use cl3::error_codes::CL_SUCCESS;

use super::compute::ClError;

pub use built_in::BuiltIns;
pub use coarse::CoarseMemory;
pub use enqueue::{enqueue, tend};
pub use extensions::suggest_local_size;
pub use handle::{Buffer, Context, DeviceQueue, Event, Keep, Pipe, Program, Queue, Sampler};
pub use image::{Image, image_formats};
pub use kernel::{HostArg, Kernel};
pub use partition::Partitions;
pub use query::{Device, Platform, platforms, query};
pub use starts::watch_start;

/// `$function(arguments…)` of the loaded library; an error where there is no such library or function.
macro_rules! cl {
    ($function:ident($($argument:expr),* $(,)?)) => {
        $crate::sys::opencl::foreign(|library| library.$function($($argument),*))
    };
}
use cl;

/// Why the host's OpenCL cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The loader library is not there.
    #[error("libOpenCL.so.1 cannot be loaded ({0}); install ocl-icd-libopencl1")]
    NoLoader(String),
}

/// Loads the library.
pub fn load() -> Result<(), LoadError> {
    match cl3::load_library() {
        Ok(_) => Ok(()),
        Err(error) => Err(LoadError::NoLoader(error.to_string())),
    }
}

/// Calls into the library. The bindings call themselves safe, which a C function with pointers is not.
///
/// # Safety
/// The preconditions of the function that `call` calls hold.
unsafe fn foreign<T>(call: impl FnOnce(&cl3::OpenClRuntime) -> Option<T>) -> Result<T, ClError> {
    match cl3::load_library() {
        Ok(library) => call(library).ok_or(ClError::INVALID_OPERATION),
        Err(_) => Err(ClError::OUT_OF_HOST_MEMORY),
    }
}

fn checked(status: Result<i32, ClError>) -> Result<(), ClError> {
    match status? {
        CL_SUCCESS => Ok(()),
        code => Err(ClError::from_code(code)),
    }
}
