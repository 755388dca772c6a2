//! Programs.

use std::ffi::{c_char, c_void};
use std::sync::Arc;

use opencl_sys::{CL_INVALID_BINARY, CL_SUCCESS};

use crate::boundary::callback::{Callback, HandleFn, UserData};
use crate::boundary::object::{Handle, Object, RawHandle};
use crate::boundary::pointer::{Bytes, In, Out};
use crate::core::context::Context;
use crate::core::device::Device;
use crate::core::error::{ClError, ClResult, refuse_if};
use crate::core::info::Info;
use crate::core::program::Program;

/// `clCreateProgramWithSource`.
pub(super) fn create_with_source(
    context: Handle<Context>,
    count: u32,
    strings: In<*const c_char>,
    lengths: In<usize>,
) -> ClResult<RawHandle> {
    let context = context.get()?;
    // CL_INVALID_VALUE if count is zero or if strings or any entry in strings is NULL.
    refuse_if(count == 0, ClError::INVALID_VALUE)?;
    let strings = strings.strings(count as usize, lengths).ok_or(ClError::INVALID_VALUE)?;
    Ok(Program::with_source(context, strings.concat())?.hand_out())
}

/// `clRetainProgram`.
pub(super) fn retain(program: Handle<Program>) -> ClResult<()> {
    program.get().map(Object::retain)
}

/// `clReleaseProgram`.
pub(super) fn release(program: Handle<Program>) -> ClResult<()> {
    program.get()?.release()
}

/// The devices that a build is for; none for all of the context's.
fn device_list(context: &Context, count: u32, list: In<*mut c_void>) -> ClResult<Vec<Arc<Object<Device>>>> {
    // CL_INVALID_VALUE if device_list is NULL and num_devices is greater than zero, or if device_list is not NULL and
    // num_devices is zero.
    refuse_if(list.is_null() != (count == 0), ClError::INVALID_VALUE)?;
    // CL_INVALID_DEVICE if any device in device_list is not in the list of devices associated with program.
    let devices = list.objects::<Device>(count as usize).unwrap_or(Ok(Vec::new()))?;
    let is_known = |device: &Arc<Object<Device>>| context.has_device(device);
    refuse_if(!devices.iter().all(is_known), ClError::INVALID_DEVICE)?;
    Ok(devices)
}

fn notify(function: Option<HandleFn>, user_data: UserData) -> ClResult<Option<Callback<HandleFn>>> {
    // CL_INVALID_VALUE if pfn_notify is NULL but user_data is not NULL.
    refuse_if(function.is_none() && !user_data.is_null(), ClError::INVALID_VALUE)?;
    Ok(Callback::new(function, user_data))
}

/// `clBuildProgram`.
pub(super) fn build(
    program: Handle<Program>,
    num_devices: u32,
    device_list: In<*mut c_void>,
    options: Bytes,
    pfn_notify: Option<HandleFn>,
    user_data: UserData,
) -> ClResult<()> {
    let program = program.get()?;
    let devices = self::device_list(program.context(), num_devices, device_list)?;
    let notify = notify(pfn_notify, user_data)?;
    program.build(&devices, &options.string(0).unwrap_or_default(), notify)
}

/// `clGetProgramInfo`.
pub(super) fn info(program: Handle<Program>, param_name: u32) -> ClResult<Info> {
    program.get()?.info(param_name)
}

/// `clGetProgramBuildInfo`.
pub(super) fn build_info(
    program: Handle<Program>,
    device: Handle<Device>,
    param_name: u32,
) -> ClResult<Info> {
    let (program, device) = (program.get()?, device.get()?);
    // CL_INVALID_DEVICE if device is not in the list of devices associated with program.
    refuse_if(!program.context().has_device(device), ClError::INVALID_DEVICE)?;
    program.build_info(device, param_name)
}

/// `clCompileProgram`. Programs are built from source in one step: CL_DEVICE_LINKER_AVAILABLE is CL_FALSE.
#[expect(clippy::too_many_arguments, reason = "the specification's")]
pub(super) fn compile(
    program: Handle<Program>,
    num_devices: u32,
    device_list: In<*mut c_void>,
    _options: Bytes,
    _num_input_headers: u32,
    _input_headers: In<*mut c_void>,
    _header_include_names: In<*const c_char>,
    pfn_notify: Option<HandleFn>,
    user_data: UserData,
) -> ClResult<()> {
    let program = program.get()?;
    self::device_list(program.context(), num_devices, device_list)?;
    notify(pfn_notify, user_data)?;
    // CL_COMPILER_NOT_AVAILABLE if a compiler is not available: there is none that makes objects for a linker.
    Err(ClError::COMPILER_NOT_AVAILABLE)
}

/// `clLinkProgram`.
#[expect(clippy::too_many_arguments, reason = "the specification's")]
pub(super) fn link(
    context: Handle<Context>,
    num_devices: u32,
    device_list: In<*mut c_void>,
    _options: Bytes,
    _num_input_programs: u32,
    _input_programs: In<*mut c_void>,
    pfn_notify: Option<HandleFn>,
    user_data: UserData,
) -> ClResult<RawHandle> {
    self::device_list(context.get()?, num_devices, device_list)?;
    notify(pfn_notify, user_data)?;
    // CL_LINKER_NOT_AVAILABLE if a linker is not available.
    Err(ClError::LINKER_NOT_AVAILABLE)
}

/// `clCreateProgramWithBinary`.
pub(super) fn create_with_binary(
    context: Handle<Context>,
    num_devices: u32,
    device_list: In<*mut c_void>,
    lengths: In<usize>,
    binaries: In<*const u8>,
    binary_status: Out<i32>,
) -> ClResult<RawHandle> {
    let context = context.get()?;
    // CL_INVALID_VALUE if device_list is NULL or num_devices is zero, or if lengths or binaries is NULL.
    let missing = num_devices == 0 || device_list.is_null() || lengths.is_null() || binaries.is_null();
    refuse_if(missing, ClError::INVALID_VALUE)?;
    self::device_list(context, num_devices, device_list)?;
    let count = num_devices as usize;
    let binaries = binaries.arrays(count, lengths).ok_or(ClError::INVALID_VALUE)?;
    // CL_INVALID_VALUE if any entry in binaries is NULL or its length is zero.
    let Some(binaries) = binaries.into_iter().collect::<Option<Vec<_>>>() else {
        binary_status.fill(&vec![ClError::INVALID_VALUE.0; count]);
        return Err(ClError::INVALID_VALUE);
    };
    // One text for all devices: a binary that differs from another device's is none of ours.
    let same = binaries.iter().all(|binary| *binary == binaries[0]);
    let program =
        if same { Program::with_binary(context, &binaries[0]) } else { Err(ClError(CL_INVALID_BINARY)) };
    binary_status.fill(&vec![program.as_ref().map_or_else(|error| error.0, |_| CL_SUCCESS); count]);
    Ok(program?.hand_out())
}

/// `clCreateProgramWithBuiltInKernels`.
pub(super) fn create_with_built_in_kernels(
    context: Handle<Context>,
    num_devices: u32,
    device_list: In<*mut c_void>,
    _kernel_names: Bytes,
) -> ClResult<RawHandle> {
    let context = context.get()?;
    refuse_if(num_devices == 0, ClError::INVALID_VALUE)?;
    self::device_list(context, num_devices, device_list)?;
    // CL_INVALID_VALUE if kernel_names contains a kernel name that is not supported by any of the devices in
    // device_list. No device has any.
    Err(ClError::INVALID_VALUE)
}

/// `clCreateProgramWithIL`.
pub(super) fn create_with_il(context: Handle<Context>, _il: Bytes, _length: usize) -> ClResult<RawHandle> {
    context.get()?;
    // CL_INVALID_OPERATION if no devices in context support intermediate language programs.
    Err(ClError::INVALID_OPERATION)
}

/// `clSetProgramSpecializationConstant`, for programs from intermediate language.
pub(super) fn set_specialization_constant(
    program: Handle<Program>,
    _spec_id: u32,
    _spec_size: usize,
    _spec_value: Bytes,
) -> ClResult<()> {
    program.get()?;
    // CL_INVALID_OPERATION if no devices associated with program support intermediate language programs.
    Err(ClError::INVALID_OPERATION)
}

/// `clSetProgramReleaseCallback`.
pub(super) fn set_release_callback(
    program: Handle<Program>,
    _pfn_notify: Option<HandleFn>,
    _user_data: UserData,
) -> ClResult<()> {
    program.get()?;
    // CL_INVALID_OPERATION if no devices associated with program support destructors for program scope global variables.
    Err(ClError::INVALID_OPERATION)
}
