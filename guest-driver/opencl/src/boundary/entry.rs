//! From an ordinary Rust function to a C entry point.

use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};

use opencl_sys::{CL_SUCCESS, cl_int};

use crate::boundary::object::RawHandle;
use crate::boundary::pointer::{AppMemory, Out};
use crate::core::error::{ClError, ClResult};

/// Runs an entry point's body. A panic is a bug in this driver; it ends the call, not the application.
fn run<T>(body: impl FnOnce() -> ClResult<T>) -> ClResult<T> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(Err(ClError::OUT_OF_HOST_MEMORY))
}

/// For entry points that return a status.
pub(crate) fn status(body: impl FnOnce() -> ClResult<()>) -> cl_int {
    match run(body) {
        Ok(()) => CL_SUCCESS,
        Err(ClError(code)) => code,
    }
}

/// For entry points that return a pointer, and the status through `errcode_ret`.
pub(crate) fn pointer<T: Pointer>(
    errcode_ret: Out<cl_int>,
    body: impl FnOnce() -> ClResult<T>,
) -> *mut c_void {
    match run(body) {
        Ok(value) => {
            errcode_ret.set(CL_SUCCESS);
            value.into_pointer()
        }
        Err(ClError(code)) => {
            errcode_ret.set(code);
            std::ptr::null_mut()
        }
    }
}

/// For entry points that return a pointer also where they fail, and the status through `errcode_ret`.
pub(crate) fn pointer_with_status<T: Pointer>(
    errcode_ret: Out<cl_int>,
    body: impl FnOnce() -> ClResult<(T, ClResult<()>)>,
) -> *mut c_void {
    match run(body) {
        Ok((value, Err(ClError(code)))) => {
            errcode_ret.set(code);
            value.into_pointer()
        }
        result => pointer(errcode_ret, || result.map(|(value, _)| value)),
    }
}

/// For entry points that return a pointer and nothing else.
pub(crate) fn pointer_or_null(body: impl FnOnce() -> Option<*mut c_void>) -> *mut c_void {
    run(|| Ok(body())).ok().flatten().unwrap_or(std::ptr::null_mut())
}

/// What such entry points return.
pub(crate) trait Pointer {
    /// As C sees it.
    fn into_pointer(self) -> *mut c_void;
}

impl Pointer for RawHandle {
    fn into_pointer(self) -> *mut c_void {
        self.0
    }
}

impl Pointer for AppMemory {
    fn into_pointer(self) -> *mut c_void {
        self.as_pointer()
    }
}

/// Makes C entry points of Rust functions. The first word says what is added to the arguments that are written out:
///
/// | word | added | the function returns |
/// |---|---|---|
/// | `status` | | `ClResult<()>` |
/// | `create` | `errcode_ret` | `ClResult<RawHandle>` |
/// | `create_or_report` | `errcode_ret` | `ClResult<(RawHandle, ClResult<()>)>`: an object, and an error beside it |
/// | `sized_query` | as `query` | as `query`, and gets `param_value_size` as its last argument |
/// | `query` | `param_value_size`, `param_value`, `param_value_size_ret` | `ClResult<Info>` |
/// | `enqueue` | wait list and `event` | `ClResult<()>` |
/// | `map` | wait list, `event` and `errcode_ret` | `ClResult<AppMemory>` |
/// | `record` | in front `command_buffer`, `command_queue`, `properties`; sync points and `mutable_handle` | `ClResult<()>` |
/// | `record_without_properties` | the same without `properties` | `ClResult<()>` |
macro_rules! entries {
    ($($kind:ident $name:ident ($($arg:ident: $type:ty),* $(,)?) => $path:path;)*) => {
        $( $crate::boundary::entry::entry!{ $kind $name ($($arg: $type),*) => $path } )*
    };
}

macro_rules! entry {
    (status $name:ident ($($arg:ident: $type:ty),*) => $path:path) => {
        pub(super) unsafe extern "C" fn $name($($arg: $type),*) -> cl_int {
            $crate::boundary::entry::status(|| {
                // SAFETY: the application keeps what the specification demands of its arguments.
                unsafe { $path($( Argument::from_c($arg) ),*) }
            })
        }
    };
    (create $name:ident ($($arg:ident: $type:ty),*) => $path:path) => {
        pub(super) unsafe extern "C" fn $name($($arg: $type,)* errcode_ret: *mut cl_int) -> *mut c_void {
            // SAFETY: the application keeps what the specification demands of its arguments.
            let errcode_ret = unsafe { Argument::from_c(errcode_ret) };
            $crate::boundary::entry::pointer(errcode_ret, || {
                // SAFETY: as above.
                unsafe { $path($( Argument::from_c($arg) ),*) }
            })
        }
    };
    (create_or_report $name:ident ($($arg:ident: $type:ty),*) => $path:path) => {
        pub(super) unsafe extern "C" fn $name($($arg: $type,)* errcode_ret: *mut cl_int) -> *mut c_void {
            // SAFETY: the application keeps what the specification demands of its arguments.
            let errcode_ret = unsafe { Argument::from_c(errcode_ret) };
            $crate::boundary::entry::pointer_with_status(errcode_ret, || {
                // SAFETY: as above.
                unsafe { $path($( Argument::from_c($arg) ),*) }
            })
        }
    };
    (sized_query $name:ident ($($arg:ident: $type:ty),*) => $path:path) => {
        pub(super) unsafe extern "C" fn $name(
            $($arg: $type,)*
            param_value_size: usize,
            param_value: *mut c_void,
            param_value_size_ret: *mut usize,
        ) -> cl_int {
            $crate::boundary::entry::status(|| {
                // SAFETY: the application keeps what the specification demands of its arguments.
                let (info, answer) = unsafe {
                    (
                        $path($( Argument::from_c($arg), )* param_value_size)?,
                        Answer::new(param_value_size, param_value, param_value_size_ret),
                    )
                };
                answer.give(&info)
            })
        }
    };
    (query $name:ident ($($arg:ident: $type:ty),*) => $path:path) => {
        pub(super) unsafe extern "C" fn $name(
            $($arg: $type,)*
            param_value_size: usize,
            param_value: *mut c_void,
            param_value_size_ret: *mut usize,
        ) -> cl_int {
            $crate::boundary::entry::status(|| {
                // SAFETY: the application keeps what the specification demands of its arguments.
                let (info, answer) = unsafe {
                    (
                        $path($( Argument::from_c($arg) ),*)?,
                        Answer::new(param_value_size, param_value, param_value_size_ret),
                    )
                };
                answer.give(&info)
            })
        }
    };
    (enqueue $name:ident ($($arg:ident: $type:ty),*) => $path:path) => {
        pub(super) unsafe extern "C" fn $name(
            $($arg: $type,)*
            num_events_in_wait_list: cl_uint,
            event_wait_list: *const *mut c_void,
            event: *mut *mut c_void,
        ) -> cl_int {
            $crate::boundary::entry::status(|| {
                // SAFETY: the application keeps what the specification demands of its arguments.
                unsafe {
                    $path(
                        $( Argument::from_c($arg), )*
                        EventArgs::new(num_events_in_wait_list, event_wait_list, event),
                    )
                }
            })
        }
    };
    (record $name:ident $args:tt => $path:path) => {
        $crate::boundary::entry::entry!{ recorder (properties: *const cl_ulong) properties; $name $args => $path }
    };
    (record_without_properties $name:ident $args:tt => $path:path) => {
        $crate::boundary::entry::entry!{ recorder () std::ptr::null(); $name $args => $path }
    };
    (
        recorder ($($properties:ident: $list:ty)?) $given:expr;
        $name:ident ($($arg:ident: $type:ty),*) => $path:path
    ) => {
        pub(super) unsafe extern "C" fn $name(
            command_buffer: *mut c_void,
            command_queue: *mut c_void,
            $($properties: $list,)?
            $($arg: $type,)*
            num_sync_points_in_wait_list: cl_uint,
            sync_point_wait_list: *const cl_uint,
            sync_point: *mut cl_uint,
            mutable_handle: *mut *mut c_void,
        ) -> cl_int {
            $crate::boundary::entry::status(|| {
                // SAFETY: the application keeps what the specification demands of its arguments.
                unsafe {
                    $path(
                        RecordArgs::new(
                            (command_buffer, command_queue, $given),
                            (num_sync_points_in_wait_list, sync_point_wait_list, sync_point),
                            mutable_handle,
                        ),
                        $( Argument::from_c($arg), )*
                    )
                }
            })
        }
    };
    (map $name:ident ($($arg:ident: $type:ty),*) => $path:path) => {
        pub(super) unsafe extern "C" fn $name(
            $($arg: $type,)*
            num_events_in_wait_list: cl_uint,
            event_wait_list: *const *mut c_void,
            event: *mut *mut c_void,
            errcode_ret: *mut cl_int,
        ) -> *mut c_void {
            // SAFETY: the application keeps what the specification demands of its arguments.
            let errcode_ret = unsafe { Argument::from_c(errcode_ret) };
            $crate::boundary::entry::pointer(errcode_ret, || {
                // SAFETY: as above.
                unsafe {
                    $path(
                        $( Argument::from_c($arg), )*
                        EventArgs::new(num_events_in_wait_list, event_wait_list, event),
                    )
                }
            })
        }
    };
}
pub(crate) use {entries, entry};
