//! The C entry points, made from the functions beside this file.
#![allow(non_snake_case, reason = "the names are OpenCL's")]

use std::ffi::{c_char, c_uchar, c_void};

use opencl_sys::{cl_bitfield, cl_bool, cl_image_desc, cl_image_format, cl_int, cl_uint, cl_ulong};

use crate::api::{
    buffer, context, device, event, image, image_transfer, kernel, kernel_memory, memory, native, pipe,
    platform, program, queue, sampler, svm, transfer, usm,
};
use crate::boundary::arguments::{Answer, EventArgs};
use crate::boundary::callback::{EventFn, HandleFn, NativeFn, NotifyFn, SvmFreeFn};
use crate::boundary::entry::entries;
use crate::boundary::pointer::Argument;

type Handle = *mut c_void;

entries! {
    status clGetPlatformIDs(num_entries: cl_uint, platforms: *mut Handle, num_platforms: *mut cl_uint) => platform::ids;
    query clGetPlatformInfo(platform: Handle, param_name: cl_uint) => platform::info;
    status clUnloadPlatformCompiler(platform: Handle) => platform::unload_compiler;

    status clGetDeviceIDs(
        platform: Handle, device_type: cl_bitfield, num_entries: cl_uint, devices: *mut Handle,
        num_devices: *mut cl_uint,
    ) => device::ids;
    query clGetDeviceInfo(device: Handle, param_name: cl_uint) => device::info;
    status clRetainDevice(device: Handle) => device::retain;
    status clReleaseDevice(device: Handle) => device::release;
    status clCreateSubDevices(
        in_device: Handle, properties: *const isize, num_devices: cl_uint, out_devices: *mut Handle,
        num_devices_ret: *mut cl_uint,
    ) => device::create_sub_devices;
    status clGetDeviceAndHostTimer(
        device: Handle, device_timestamp: *mut cl_ulong, host_timestamp: *mut cl_ulong,
    ) => device::timers;
    status clGetHostTimer(device: Handle, host_timestamp: *mut cl_ulong) => device::host_timer;

    create clCreateContext(
        properties: *const isize, num_devices: cl_uint, devices: *const Handle, pfn_notify: Option<NotifyFn>,
        user_data: *mut c_void,
    ) => context::create;
    create clCreateContextFromType(
        properties: *const isize, device_type: cl_bitfield, pfn_notify: Option<NotifyFn>, user_data: *mut c_void,
    ) => context::create_from_type;
    status clRetainContext(context: Handle) => context::retain;
    status clReleaseContext(context: Handle) => context::release;
    query clGetContextInfo(context: Handle, param_name: cl_uint) => context::info;
    status clSetContextDestructorCallback(
        context: Handle, pfn_notify: Option<HandleFn>, user_data: *mut c_void,
    ) => context::set_destructor;

    create clCreateCommandQueue(context: Handle, device: Handle, properties: cl_bitfield) => queue::create;
    create clCreateCommandQueueWithProperties(
        context: Handle, device: Handle, properties: *const cl_ulong,
    ) => queue::create_with_properties;
    status clRetainCommandQueue(queue: Handle) => queue::retain;
    status clReleaseCommandQueue(queue: Handle) => queue::release;
    query clGetCommandQueueInfo(queue: Handle, param_name: cl_uint) => queue::info;
    status clSetCommandQueueProperty(
        queue: Handle, properties: cl_bitfield, enable: cl_bool, old_properties: *mut cl_bitfield,
    ) => queue::set_property;
    status clSetDefaultDeviceCommandQueue(context: Handle, device: Handle, queue: Handle) => queue::set_default;
    status clFlush(queue: Handle) => queue::flush;
    status clFinish(queue: Handle) => queue::finish;

    create clCreateBuffer(context: Handle, flags: cl_bitfield, size: usize, host_ptr: *mut c_void) => buffer::create;
    create clCreateBufferWithProperties(
        context: Handle, properties: *const cl_ulong, flags: cl_bitfield, size: usize, host_ptr: *mut c_void,
    ) => buffer::create_with_properties;
    create clCreateSubBuffer(
        buffer: Handle, flags: cl_bitfield, buffer_create_type: cl_uint, buffer_create_info: *const c_void,
    ) => buffer::create_sub_buffer;
    status clRetainMemObject(memobj: Handle) => memory::retain;
    status clReleaseMemObject(memobj: Handle) => memory::release;
    query clGetMemObjectInfo(memobj: Handle, param_name: cl_uint) => memory::info;
    status clSetMemObjectDestructorCallback(
        memobj: Handle, pfn_notify: Option<HandleFn>, user_data: *mut c_void,
    ) => memory::set_destructor;

    enqueue clEnqueueReadBuffer(
        queue: Handle, buffer: Handle, blocking: cl_bool, offset: usize, size: usize, ptr: *mut c_void,
    ) => transfer::read;
    enqueue clEnqueueWriteBuffer(
        queue: Handle, buffer: Handle, blocking: cl_bool, offset: usize, size: usize, ptr: *const c_void,
    ) => transfer::write;
    enqueue clEnqueueReadBufferRect(
        queue: Handle, buffer: Handle, blocking: cl_bool, buffer_origin: *const usize, host_origin: *const usize,
        region: *const usize, buffer_row_pitch: usize, buffer_slice_pitch: usize, host_row_pitch: usize,
        host_slice_pitch: usize, ptr: *mut c_void,
    ) => transfer::read_rect;
    enqueue clEnqueueWriteBufferRect(
        queue: Handle, buffer: Handle, blocking: cl_bool, buffer_origin: *const usize, host_origin: *const usize,
        region: *const usize, buffer_row_pitch: usize, buffer_slice_pitch: usize, host_row_pitch: usize,
        host_slice_pitch: usize, ptr: *const c_void,
    ) => transfer::write_rect;
    enqueue clEnqueueCopyBuffer(
        queue: Handle, src: Handle, dst: Handle, src_offset: usize, dst_offset: usize, size: usize,
    ) => transfer::copy;
    enqueue clEnqueueCopyBufferRect(
        queue: Handle, src: Handle, dst: Handle, src_origin: *const usize, dst_origin: *const usize,
        region: *const usize, src_row_pitch: usize, src_slice_pitch: usize, dst_row_pitch: usize,
        dst_slice_pitch: usize,
    ) => transfer::copy_rect;
    enqueue clEnqueueFillBuffer(
        queue: Handle, buffer: Handle, pattern: *const c_void, pattern_size: usize, offset: usize, size: usize,
    ) => transfer::fill;
    map clEnqueueMapBuffer(
        queue: Handle, buffer: Handle, blocking: cl_bool, flags: cl_bitfield, offset: usize, size: usize,
    ) => transfer::map;
    enqueue clEnqueueUnmapMemObject(queue: Handle, memobj: Handle, mapped_ptr: *mut c_void) => memory::unmap;
    enqueue clEnqueueMigrateMemObjects(
        queue: Handle, num_mem_objects: cl_uint, mem_objects: *const Handle, flags: cl_bitfield,
    ) => memory::migrate;

    create clCreateProgramWithSource(
        context: Handle, count: cl_uint, strings: *mut *const c_char, lengths: *const usize,
    ) => program::create_with_source;
    create clCreateProgramWithBinary(
        context: Handle, num_devices: cl_uint, device_list: *const Handle, lengths: *const usize,
        binaries: *mut *const c_uchar, binary_status: *mut cl_int,
    ) => program::create_with_binary;
    create clCreateProgramWithBuiltInKernels(
        context: Handle, num_devices: cl_uint, device_list: *const Handle, kernel_names: *const c_char,
    ) => program::create_with_built_in_kernels;
    create clCreateProgramWithIL(context: Handle, il: *const c_void, length: usize) => program::create_with_il;
    status clRetainProgram(program: Handle) => program::retain;
    status clReleaseProgram(program: Handle) => program::release;
    status clBuildProgram(
        program: Handle, num_devices: cl_uint, device_list: *const Handle, options: *const c_char,
        pfn_notify: Option<HandleFn>, user_data: *mut c_void,
    ) => program::build;
    status clCompileProgram(
        program: Handle, num_devices: cl_uint, device_list: *const Handle, options: *const c_char,
        num_input_headers: cl_uint, input_headers: *const Handle, header_include_names: *mut *const c_char,
        pfn_notify: Option<HandleFn>, user_data: *mut c_void,
    ) => program::compile;
    create_or_report clLinkProgram(
        context: Handle, num_devices: cl_uint, device_list: *const Handle, options: *const c_char,
        num_input_programs: cl_uint, input_programs: *const Handle, pfn_notify: Option<HandleFn>,
        user_data: *mut c_void,
    ) => program::link;
    query clGetProgramInfo(program: Handle, param_name: cl_uint) => program::info;
    query clGetProgramBuildInfo(program: Handle, device: Handle, param_name: cl_uint) => program::build_info;
    status clSetProgramReleaseCallback(
        program: Handle, pfn_notify: Option<HandleFn>, user_data: *mut c_void,
    ) => program::set_release_callback;
    status clSetProgramSpecializationConstant(
        program: Handle, spec_id: cl_uint, spec_size: usize, spec_value: *const c_void,
    ) => program::set_specialization_constant;

    create clCreateKernel(program: Handle, kernel_name: *const c_char) => kernel::create;
    status clCreateKernelsInProgram(
        program: Handle, num_kernels: cl_uint, kernels: *mut Handle, num_kernels_ret: *mut cl_uint,
    ) => kernel::create_all;
    create clCloneKernel(source_kernel: Handle) => kernel::duplicate;
    status clRetainKernel(kernel: Handle) => kernel::retain;
    status clReleaseKernel(kernel: Handle) => kernel::release;
    status clSetKernelArg(
        kernel: Handle, arg_index: cl_uint, arg_size: usize, arg_value: *const c_void,
    ) => kernel::set_arg;
    query clGetKernelInfo(kernel: Handle, param_name: cl_uint) => kernel::info;
    query clGetKernelArgInfo(kernel: Handle, arg_index: cl_uint, param_name: cl_uint) => kernel::arg_info;
    query clGetKernelWorkGroupInfo(kernel: Handle, device: Handle, param_name: cl_uint) => kernel::work_group_info;
    sized_query clGetKernelSubGroupInfo(
        kernel: Handle, device: Handle, param_name: cl_uint, input_value_size: usize, input_value: *const c_void,
    ) => kernel::sub_group_info;
    enqueue clEnqueueNDRangeKernel(
        queue: Handle, kernel: Handle, work_dim: cl_uint, global_work_offset: *const usize,
        global_work_size: *const usize, local_work_size: *const usize,
    ) => kernel::enqueue_nd_range;
    enqueue clEnqueueTask(queue: Handle, kernel: Handle) => kernel::enqueue_task;
    status clGetKernelSuggestedLocalWorkSizeKHR(
        queue: Handle, kernel: Handle, work_dim: cl_uint, global_work_offset: *const usize,
        global_work_size: *const usize, suggested_local_work_size: *mut usize,
    ) => kernel::suggested_local_size;

    create clCreateUserEvent(context: Handle) => event::create_user;
    status clSetUserEventStatus(event: Handle, execution_status: cl_int) => event::set_user_status;
    status clRetainEvent(event: Handle) => event::retain;
    status clReleaseEvent(event: Handle) => event::release;
    status clWaitForEvents(num_events: cl_uint, event_list: *const Handle) => event::wait;
    query clGetEventInfo(event: Handle, param_name: cl_uint) => event::info;
    query clGetEventProfilingInfo(event: Handle, param_name: cl_uint) => event::profiling_info;
    status clSetEventCallback(
        event: Handle, command_exec_callback_type: cl_int, pfn_notify: Option<EventFn>, user_data: *mut c_void,
    ) => event::set_callback;
    status clEnqueueMarker(queue: Handle, event: *mut Handle) => event::enqueue_marker;
    status clEnqueueBarrier(queue: Handle) => event::enqueue_barrier;
    status clEnqueueWaitForEvents(
        queue: Handle, num_events: cl_uint, event_list: *const Handle,
    ) => event::enqueue_wait;
    enqueue clEnqueueMarkerWithWaitList(queue: Handle) => event::enqueue_marker_with_wait_list;
    enqueue clEnqueueBarrierWithWaitList(queue: Handle) => event::enqueue_barrier_with_wait_list;

    create clCreateImage(
        context: Handle, flags: cl_bitfield, image_format: *const cl_image_format, image_desc: *const cl_image_desc,
        host_ptr: *mut c_void,
    ) => image::create;
    create clCreateImageWithProperties(
        context: Handle, properties: *const cl_ulong, flags: cl_bitfield, image_format: *const cl_image_format,
        image_desc: *const cl_image_desc, host_ptr: *mut c_void,
    ) => image::create_with_properties;
    create clCreateImage2D(
        context: Handle, flags: cl_bitfield, image_format: *const cl_image_format, width: usize, height: usize,
        row_pitch: usize, host_ptr: *mut c_void,
    ) => image::create_2d;
    create clCreateImage3D(
        context: Handle, flags: cl_bitfield, image_format: *const cl_image_format, width: usize, height: usize,
        depth: usize, row_pitch: usize, slice_pitch: usize, host_ptr: *mut c_void,
    ) => image::create_3d;
    status clGetSupportedImageFormats(
        context: Handle, flags: cl_bitfield, image_type: cl_uint, num_entries: cl_uint,
        image_formats: *mut cl_image_format, num_image_formats: *mut cl_uint,
    ) => image::formats;
    query clGetImageInfo(image: Handle, param_name: cl_uint) => image::info;
    create clCreatePipe(
        context: Handle, flags: cl_bitfield, packet_size: cl_uint, max_packets: cl_uint, properties: *const isize,
    ) => pipe::create;
    query clGetPipeInfo(pipe: Handle, param_name: cl_uint) => pipe::info;
    create clCreateSampler(
        context: Handle, normalized_coords: cl_bool, addressing_mode: cl_uint, filter_mode: cl_uint,
    ) => sampler::create;
    create clCreateSamplerWithProperties(
        context: Handle, properties: *const cl_ulong,
    ) => sampler::create_with_properties;
    status clRetainSampler(sampler: Handle) => sampler::retain;
    status clReleaseSampler(sampler: Handle) => sampler::release;
    query clGetSamplerInfo(sampler: Handle, param_name: cl_uint) => sampler::info;
    enqueue clEnqueueReadImage(
        queue: Handle, image: Handle, blocking: cl_bool, origin: *const usize, region: *const usize,
        row_pitch: usize, slice_pitch: usize, ptr: *mut c_void,
    ) => image_transfer::read;
    enqueue clEnqueueWriteImage(
        queue: Handle, image: Handle, blocking: cl_bool, origin: *const usize, region: *const usize,
        row_pitch: usize, slice_pitch: usize, ptr: *const c_void,
    ) => image_transfer::write;
    enqueue clEnqueueFillImage(
        queue: Handle, image: Handle, fill_color: *const c_void, origin: *const usize, region: *const usize,
    ) => image_transfer::fill;
    enqueue clEnqueueCopyImage(
        queue: Handle, src: Handle, dst: Handle, src_origin: *const usize, dst_origin: *const usize,
        region: *const usize,
    ) => image_transfer::copy;
    enqueue clEnqueueCopyImageToBuffer(
        queue: Handle, src: Handle, dst: Handle, src_origin: *const usize, region: *const usize, dst_offset: usize,
    ) => image_transfer::copy_to_buffer;
    enqueue clEnqueueCopyBufferToImage(
        queue: Handle, src: Handle, dst: Handle, src_offset: usize, dst_origin: *const usize, region: *const usize,
    ) => image_transfer::copy_from_buffer;
    map clEnqueueMapImage(
        queue: Handle, image: Handle, blocking: cl_bool, flags: cl_bitfield, origin: *const usize,
        region: *const usize, row_pitch: *mut usize, slice_pitch: *mut usize,
    ) => image_transfer::map;
    enqueue clEnqueueNativeKernel(
        queue: Handle, user_func: Option<NativeFn>, args: *mut c_void, cb_args: usize, num_mem_objects: cl_uint,
        mem_list: *const Handle, args_mem_loc: *mut *const c_void,
    ) => native::enqueue;
    enqueue clEnqueueSVMFree(
        queue: Handle, num_svm_pointers: cl_uint, svm_pointers: *mut *mut c_void, pfn_free_func: Option<SvmFreeFn>,
        user_data: *mut c_void,
    ) => svm::enqueue_free;
    enqueue clEnqueueSVMMemcpy(
        queue: Handle, blocking: cl_bool, dst: *mut c_void, src: *const c_void, size: usize,
    ) => svm::copy;
    enqueue clEnqueueSVMMemFill(
        queue: Handle, svm_ptr: *mut c_void, pattern: *const c_void, pattern_size: usize, size: usize,
    ) => svm::fill;
    enqueue clEnqueueSVMMap(
        queue: Handle, blocking: cl_bool, flags: cl_bitfield, svm_ptr: *mut c_void, size: usize,
    ) => svm::map;
    enqueue clEnqueueSVMUnmap(queue: Handle, svm_ptr: *mut c_void) => svm::unmap;
    enqueue clEnqueueSVMMigrateMem(
        queue: Handle, num_svm_pointers: cl_uint, svm_pointers: *mut *const c_void, sizes: *const usize,
        flags: cl_bitfield,
    ) => svm::migrate;
    status clSetKernelArgSVMPointer(
        kernel: Handle, arg_index: cl_uint, arg_value: *const c_void,
    ) => kernel_memory::set_arg;
    status clSetKernelExecInfo(
        kernel: Handle, param_name: cl_uint, size: usize, value: *const c_void,
    ) => kernel_memory::set_exec_info;

    create clHostMemAllocINTEL(
        context: Handle, properties: *const cl_ulong, size: usize, alignment: cl_uint,
    ) => usm::host_alloc;
    create clDeviceMemAllocINTEL(
        context: Handle, device: Handle, properties: *const cl_ulong, size: usize, alignment: cl_uint,
    ) => usm::device_alloc;
    create clSharedMemAllocINTEL(
        context: Handle, device: Handle, properties: *const cl_ulong, size: usize, alignment: cl_uint,
    ) => usm::shared_alloc;
    status clMemFreeINTEL(context: Handle, ptr: *mut c_void) => usm::free;
    status clMemBlockingFreeINTEL(context: Handle, ptr: *mut c_void) => usm::blocking_free;
    query clGetMemAllocInfoINTEL(context: Handle, ptr: *const c_void, param_name: cl_uint) => usm::alloc_info;
    enqueue clEnqueueMemFillINTEL(
        queue: Handle, dst: *mut c_void, pattern: *const c_void, pattern_size: usize, size: usize,
    ) => usm::fill;
    enqueue clEnqueueMemsetINTEL(queue: Handle, dst: *mut c_void, value: cl_int, size: usize) => usm::set;
    enqueue clEnqueueMemcpyINTEL(
        queue: Handle, blocking: cl_bool, dst: *mut c_void, src: *const c_void, size: usize,
    ) => usm::copy;
    enqueue clEnqueueMigrateMemINTEL(
        queue: Handle, ptr: *const c_void, size: usize, flags: cl_bitfield,
    ) => usm::migrate;
    enqueue clEnqueueMemAdviseINTEL(
        queue: Handle, ptr: *const c_void, size: usize, advice: cl_uint,
    ) => usm::advise;
}
