//! The entry points of `cl_khr_command_buffer` and `cl_khr_command_buffer_mutable_dispatch`. Those that record commands
//! come twice: as of version 0.9.5, and as before, when only the one for kernels had `properties`. An application gets the
//! host's version by the name.
#![allow(non_snake_case, reason = "the names are OpenCL's")]

use std::ffi::c_void;

use opencl_sys::{cl_int, cl_uint, cl_ulong};

use crate::api::{command_buffer, mutable_command};
use crate::boundary::arguments::{Answer, EventArgs, RecordArgs};
use crate::boundary::entry::entries;
use crate::boundary::pointer::Argument;
use crate::core::extensions::CommandBufferVersion;
use crate::core::platform;

type Handle = *mut c_void;

entries! {
    create clCreateCommandBufferKHR(
        num_queues: cl_uint, queues: *const Handle, properties: *const cl_ulong,
    ) => command_buffer::create;
    status clFinalizeCommandBufferKHR(command_buffer: Handle) => command_buffer::finalize;
    status clRetainCommandBufferKHR(command_buffer: Handle) => command_buffer::retain;
    status clReleaseCommandBufferKHR(command_buffer: Handle) => command_buffer::release;
    query clGetCommandBufferInfoKHR(command_buffer: Handle, param_name: cl_uint) => command_buffer::info;
    enqueue clEnqueueCommandBufferKHR(
        num_queues: cl_uint, queues: *mut Handle, command_buffer: Handle,
    ) => command_buffer::enqueue;
    status clUpdateMutableCommandsKHR(
        command_buffer: Handle, num_configs: cl_uint, config_types: *const cl_uint, configs: *mut *const c_void,
    ) => mutable_command::update;
    query clGetMutableCommandInfoKHR(command: Handle, param_name: cl_uint) => mutable_command::info;
    record clCommandNDRangeKernelKHR(
        kernel: Handle, work_dim: cl_uint, global_work_offset: *const usize, global_work_size: *const usize,
        local_work_size: *const usize,
    ) => command_buffer::nd_range_kernel;
}

/// Each in both versions.
macro_rules! both {
    ($($name:ident $args:tt => $path:path;)*) => {
        entries! { $( record $name $args => $path; )* }

        /// As they were without `properties`.
        mod old {
            use super::*;
            entries! { $( record_without_properties $name $args => $path; )* }
        }

        fn recorder(name: &[u8], has_properties: bool) -> Option<*mut c_void> {
            $( if name == stringify!($name).as_bytes() {
                return Some(if has_properties { $name as *mut c_void } else { old::$name as *mut c_void });
            } )*
            None
        }
    };
}

both! {
    clCommandBarrierWithWaitListKHR() => command_buffer::barrier;
    clCommandCopyBufferKHR(
        src_buffer: Handle, dst_buffer: Handle, src_offset: usize, dst_offset: usize, size: usize,
    ) => command_buffer::copy_buffer;
    clCommandCopyBufferRectKHR(
        src_buffer: Handle, dst_buffer: Handle, src_origin: *const usize, dst_origin: *const usize,
        region: *const usize, src_row_pitch: usize, src_slice_pitch: usize, dst_row_pitch: usize,
        dst_slice_pitch: usize,
    ) => command_buffer::copy_buffer_rect;
    clCommandCopyImageKHR(
        src_image: Handle, dst_image: Handle, src_origin: *const usize, dst_origin: *const usize, region: *const usize,
    ) => command_buffer::copy_image;
    clCommandCopyBufferToImageKHR(
        src_buffer: Handle, dst_image: Handle, src_offset: usize, dst_origin: *const usize, region: *const usize,
    ) => command_buffer::copy_buffer_to_image;
    clCommandCopyImageToBufferKHR(
        src_image: Handle, dst_buffer: Handle, src_origin: *const usize, region: *const usize, dst_offset: usize,
    ) => command_buffer::copy_image_to_buffer;
    clCommandFillImageKHR(
        image: Handle, fill_color: *const c_void, origin: *const usize, region: *const usize,
    ) => command_buffer::fill_image;
    clCommandFillBufferKHR(
        buffer: Handle, pattern: *const c_void, pattern_size: usize, offset: usize, size: usize,
    ) => command_buffer::fill_buffer;
    clCommandSVMMemcpyKHR(
        dst_ptr: *mut c_void, src_ptr: *const c_void, size: usize,
    ) => command_buffer::svm_copy;
    clCommandSVMMemFillKHR(
        svm_ptr: *mut c_void, pattern: *const c_void, pattern_size: usize, size: usize,
    ) => command_buffer::svm_fill;
}

/// The address of a function of this version of the extension.
pub(super) fn function_address(name: &[u8], version: CommandBufferVersion) -> Option<*mut c_void> {
    match name {
        b"clCreateCommandBufferKHR" => Some(clCreateCommandBufferKHR as *mut c_void),
        b"clFinalizeCommandBufferKHR" => Some(clFinalizeCommandBufferKHR as *mut c_void),
        b"clRetainCommandBufferKHR" => Some(clRetainCommandBufferKHR as *mut c_void),
        b"clReleaseCommandBufferKHR" => Some(clReleaseCommandBufferKHR as *mut c_void),
        b"clGetCommandBufferInfoKHR" => Some(clGetCommandBufferInfoKHR as *mut c_void),
        b"clEnqueueCommandBufferKHR" => Some(clEnqueueCommandBufferKHR as *mut c_void),
        b"clCommandNDRangeKernelKHR" => Some(clCommandNDRangeKernelKHR as *mut c_void),
        b"clUpdateMutableCommandsKHR" if platform::has_mutable_dispatch() => {
            Some(clUpdateMutableCommandsKHR as *mut c_void)
        }
        b"clGetMutableCommandInfoKHR" if platform::has_mutable_dispatch() => {
            Some(clGetMutableCommandInfoKHR as *mut c_void)
        }
        _ => recorder(name, version.has_properties()),
    }
}
