//! Programs.

use std::ffi::{c_char, c_void};
use std::sync::Arc;

use opencl_sys::CL_SUCCESS;

use crate::boundary::arguments;
use crate::boundary::callback::{Callback, HandleFn, UserData};
use crate::boundary::object::{Handle, Object, RawHandle};
use crate::boundary::pointer::{Bytes, In, Out};
use crate::core::context::Context;
use crate::core::device::Device;
use crate::core::error::{ClError, ClResult, refuse_if};
use crate::core::info::Info;
use crate::core::program::{BuildRequest, Program};

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

/// The devices in a list, each once; none for all of `known`.
fn device_list(
    known: &[Arc<Object<Device>>],
    count: u32,
    list: In<*mut c_void>,
) -> ClResult<Vec<Arc<Object<Device>>>> {
    // CL_INVALID_VALUE if device_list is NULL and num_devices is greater than zero, or if device_list is not NULL and
    // num_devices is zero.
    refuse_if(list.is_null() != (count == 0), ClError::INVALID_VALUE)?;
    // CL_INVALID_DEVICE if any device in device_list is not in the list of devices associated with program.
    let devices = list.objects::<Device>(count as usize).unwrap_or(Ok(Vec::new()))?;
    let is_known = |device: &Arc<Object<Device>>| known.iter().any(|own| Arc::ptr_eq(own, device));
    refuse_if(!devices.iter().all(is_known), ClError::INVALID_DEVICE)?;
    let mut each: Vec<Arc<Object<Device>>> = Vec::new();
    for device in devices {
        if !each.iter().any(|own| Arc::ptr_eq(own, &device)) {
            each.push(device);
        }
    }
    Ok(each)
}

/// `given`, or all of `known` if those are none.
fn or_all<'a>(
    given: &'a [Arc<Object<Device>>],
    known: &'a [Arc<Object<Device>>],
) -> &'a [Arc<Object<Device>>] {
    if given.is_empty() { known } else { given }
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
    let devices = &self::device_list(program.devices(), num_devices, device_list)?;
    let notify = notify(pfn_notify, user_data)?;
    program.build(BuildRequest { devices, options: options.string(0), notify })
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
    let is_own = program.devices().iter().any(|own| own.handle() == device.handle());
    refuse_if(!is_own, ClError::INVALID_DEVICE)?;
    program.build_info(device, param_name)
}

/// `clCompileProgram`.
#[expect(clippy::too_many_arguments, reason = "the specification's")]
pub(super) fn compile(
    program: Handle<Program>,
    num_devices: u32,
    device_list: In<*mut c_void>,
    options: Bytes,
    num_input_headers: u32,
    input_headers: In<*mut c_void>,
    header_include_names: In<*const c_char>,
    pfn_notify: Option<HandleFn>,
    user_data: UserData,
) -> ClResult<()> {
    let program = program.get()?;
    let devices = &self::device_list(program.devices(), num_devices, device_list)?;
    // CL_INVALID_VALUE if num_input_headers is zero and header_include_names or input_headers are not NULL or if
    // num_input_headers is not zero and header_include_names or input_headers are NULL.
    let has_none = num_input_headers == 0;
    let is_odd = input_headers.is_null() != has_none || header_include_names.is_null() != has_none;
    refuse_if(is_odd, ClError::INVALID_VALUE)?;
    let notify = notify(pfn_notify, user_data)?;
    let count = num_input_headers as usize;
    let headers = input_headers.objects::<Program>(count).unwrap_or(Ok(Vec::new()))?;
    let no_lengths = In::none();
    let names = if has_none { Some(Vec::new()) } else { header_include_names.strings(count, no_lengths) };
    let headers: Vec<_> = names.ok_or(ClError::INVALID_VALUE)?.into_iter().zip(headers).collect();
    // CL_COMPILER_NOT_AVAILABLE if a compiler is not available.
    let all = or_all(devices, program.devices());
    refuse_if(!all.iter().all(|device| device.has_compiler()), ClError::COMPILER_NOT_AVAILABLE)?;
    program.compile(BuildRequest { devices, options: options.string(0), notify }, &headers)
}

/// `clLinkProgram`. A link that fails comes with a program, which has the log.
#[expect(clippy::too_many_arguments, reason = "the specification's")]
pub(super) fn link(
    context: Handle<Context>,
    num_devices: u32,
    device_list: In<*mut c_void>,
    options: Bytes,
    num_input_programs: u32,
    input_programs: In<*mut c_void>,
    pfn_notify: Option<HandleFn>,
    user_data: UserData,
) -> ClResult<(RawHandle, ClResult<()>)> {
    let context = context.get()?;
    let devices = &self::device_list(context.devices(), num_devices, device_list)?;
    let notify = notify(pfn_notify, user_data)?;
    // CL_INVALID_VALUE if num_input_programs is zero or input_programs is NULL. CL_INVALID_PROGRAM if programs specified
    // in input_programs are not valid program objects.
    let inputs = arguments::non_empty::<Program>(num_input_programs, input_programs)?;
    // CL_INVALID_CONTEXT if they are not of this context.
    let is_own = |program: &Arc<Object<Program>>| program.context().handle() == context.handle();
    refuse_if(!inputs.iter().all(is_own), ClError::INVALID_CONTEXT)?;
    // CL_LINKER_NOT_AVAILABLE if a linker is not available.
    let all = or_all(devices, context.devices());
    refuse_if(!all.iter().all(|device| device.has_linker()), ClError::LINKER_NOT_AVAILABLE)?;
    let request = BuildRequest { devices, options: options.string(0), notify };
    let (program, outcome) = Program::link(context, request, inputs)?;
    Ok((program.hand_out(), outcome))
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
    let devices = self::device_list(context.devices(), num_devices, device_list)?;
    let count = num_devices as usize;
    // A device that is there twice has two binaries.
    refuse_if(devices.len() != count, ClError::INVALID_VALUE)?;
    let binaries = binaries.arrays(count, lengths).ok_or(ClError::INVALID_VALUE)?;
    // CL_INVALID_VALUE if any entry in binaries is NULL or its length is zero.
    if binaries.iter().any(Option::is_none) {
        let status =
            |binary: &Option<_>| if binary.is_some() { CL_SUCCESS } else { ClError::INVALID_VALUE.0 };
        binary_status.fill(&binaries.iter().map(status).collect::<Vec<_>>());
        return Err(ClError::INVALID_VALUE);
    }
    let binaries: Vec<_> = binaries.into_iter().flatten().collect();
    let (outcomes, program) = Program::with_binaries(context, devices, &binaries)?;
    let status = |outcome: &ClResult<()>| outcome.map_or_else(|error| error.0, |()| CL_SUCCESS);
    binary_status.fill(&outcomes.iter().map(status).collect::<Vec<_>>());
    // CL_INVALID_BINARY if an invalid program binary was encountered for any device.
    Ok(program.ok_or(ClError::INVALID_BINARY)?.hand_out())
}

/// `clCreateProgramWithBuiltInKernels`.
pub(super) fn create_with_built_in_kernels(
    context: Handle<Context>,
    num_devices: u32,
    device_list: In<*mut c_void>,
    kernel_names: Bytes,
) -> ClResult<RawHandle> {
    let context = context.get()?;
    // CL_INVALID_VALUE if device_list is NULL or num_devices is zero, or if kernel_names is NULL.
    refuse_if(num_devices == 0 || device_list.is_null(), ClError::INVALID_VALUE)?;
    let names = kernel_names.string(0).ok_or(ClError::INVALID_VALUE)?;
    let devices = self::device_list(context.devices(), num_devices, device_list)?;
    // CL_INVALID_VALUE if kernel_names contains a kernel name that is not supported by any of the devices in device_list.
    let known = devices.iter().map(|device| device.built_in_kernels()).collect::<ClResult<Vec<_>>>()?;
    let is_known =
        |name: &[u8]| known.iter().any(|list| list.split(';').any(|known| known.as_bytes() == name));
    refuse_if(!names.split(|byte| *byte == b';').all(is_known), ClError::INVALID_VALUE)?;
    Ok(Program::with_built_in_kernels(context, devices, &names)?.hand_out())
}

/// `clCreateProgramWithIL`, and `clCreateProgramWithILKHR` of `cl_khr_il_program`.
pub(super) fn create_with_il(context: Handle<Context>, il: Bytes, length: usize) -> ClResult<RawHandle> {
    let context = context.get()?;
    let takes_il = |device: &&Arc<Object<Device>>| device.takes_il();
    let devices: Vec<_> = context.devices().iter().filter(takes_il).cloned().collect();
    // CL_INVALID_OPERATION if no devices in context support intermediate language programs.
    refuse_if(devices.is_empty(), ClError::INVALID_OPERATION)?;
    // CL_INVALID_VALUE if il is NULL or if length is zero.
    let module = il.get(length).filter(|module| !module.is_empty()).ok_or(ClError::INVALID_VALUE)?;
    Ok(Program::with_il(context, devices, module)?.hand_out())
}

/// `clSetProgramSpecializationConstant`, for programs from intermediate language.
pub(super) fn set_specialization_constant(
    program: Handle<Program>,
    spec_id: u32,
    spec_size: usize,
    spec_value: Bytes,
) -> ClResult<()> {
    let program = program.get()?;
    // CL_INVALID_OPERATION if no devices associated with program support intermediate language programs.
    let takes_il = |device: &Arc<Object<Device>>| device.takes_il();
    refuse_if(!program.devices().iter().any(takes_il), ClError::INVALID_OPERATION)?;
    // CL_INVALID_PROGRAM if program is not a valid program object created from an intermediate language.
    refuse_if(!program.is_il(), ClError::INVALID_PROGRAM)?;
    // CL_INVALID_VALUE if spec_value is NULL.
    let value = spec_value.get(spec_size).ok_or(ClError::INVALID_VALUE)?;
    program.set_constant(spec_id, value)
}

/// `clSetProgramReleaseCallback`.
pub(super) fn set_release_callback(
    program: Handle<Program>,
    _pfn_notify: Option<HandleFn>,
    _user_data: UserData,
) -> ClResult<()> {
    program.get()?;
    // CL_INVALID_OPERATION if no devices associated with program support destructors for program scope global variables.
    // None do: this part of OpenCL 2.2 has no query that would say so.
    Err(ClError::INVALID_OPERATION)
}
