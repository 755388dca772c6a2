//! Kernels and launches.

use std::ffi::c_void;

use opencl_sys::{
    CL_COMMAND_NDRANGE_KERNEL, CL_COMMAND_TASK, CL_DEVICE_TYPE_CUSTOM, CL_KERNEL_GLOBAL_WORK_SIZE,
    CL_MEM_READ_ONLY, CL_MEM_WRITE_ONLY,
};
use paragpu_protocol::command::Opcode;
use paragpu_protocol::info::InfoKind;
use paragpu_protocol::kernel::{ACCESS_READ, ACCESS_WRITE, ArgKind};

use crate::boundary::arguments::EventArgs;
use crate::boundary::object::{Handle, Object, RawHandle};
use crate::boundary::pointer::{Bytes, In, Out};
use crate::core::buffer::Buffer;
use crate::core::device::Device;
use crate::core::device_queue::DeviceQueue;
use crate::core::error::{ClError, ClResult, refuse_if};
use crate::core::image::Image;
use crate::core::info::Info;
use crate::core::kernel::{Kernel, Range};
use crate::core::pipe::Pipe;
use crate::core::program::Program;
use crate::core::queue::{Queue, Request};
use crate::core::sampler::Sampler;

/// `clCreateKernel`.
pub(super) fn create(program: Handle<Program>, kernel_name: Bytes) -> ClResult<RawHandle> {
    let program = program.get()?;
    // CL_INVALID_VALUE if kernel_name is NULL.
    let name = kernel_name.string(0).ok_or(ClError::INVALID_VALUE)?;
    // CL_INVALID_KERNEL_NAME if kernel_name is not found in program. The host knows.
    let name = String::from_utf8(name).or(Err(ClError::INVALID_KERNEL_NAME))?;
    // The protocol carries no longer one, and no compiler takes one.
    let is_long = name.len() > Opcode::CreateKernel.max_data() as usize;
    refuse_if(name.is_empty() || is_long, ClError::INVALID_KERNEL_NAME)?;
    Ok(Kernel::new(program, &name)?.hand_out())
}

/// `clCreateKernelsInProgram`.
pub(super) fn create_all(
    program: Handle<Program>,
    num_kernels: u32,
    kernels: Out<*mut c_void>,
    num_kernels_ret: Out<u32>,
) -> ClResult<()> {
    let program = program.get()?;
    let names = program.kernel_names()?;
    if !kernels.is_null() {
        // CL_INVALID_VALUE if kernels is not NULL and num_kernels is less than the number of kernels in program.
        refuse_if((num_kernels as usize) < names.len(), ClError::INVALID_VALUE)?;
        let all = names.iter().map(|name| Kernel::new(program, name)).collect::<ClResult<Vec<_>>>()?;
        kernels.fill_handles(&all.into_iter().map(Object::hand_out).collect::<Vec<_>>());
    }
    num_kernels_ret.set(names.len() as u32);
    Ok(())
}

/// `clCloneKernel`.
pub(super) fn duplicate(source_kernel: Handle<Kernel>) -> ClResult<RawHandle> {
    Ok(source_kernel.get()?.duplicate()?.hand_out())
}

/// `clRetainKernel`.
pub(super) fn retain(kernel: Handle<Kernel>) -> ClResult<()> {
    kernel.get().map(Object::retain)
}

/// `clReleaseKernel`.
pub(super) fn release(kernel: Handle<Kernel>) -> ClResult<()> {
    kernel.get()?.release()
}

/// CL_INVALID_ARG_SIZE if the argument is a memory object and arg_size != sizeof(cl_mem), or if arg_size !=
/// sizeof(cl_sampler) and the argument is a sampler.
fn check_handle_size(arg_size: usize) -> ClResult<()> {
    refuse_if(arg_size != size_of::<*mut c_void>(), ClError::INVALID_ARG_SIZE)
}

/// CL_INVALID_ARG_VALUE if the argument is an image declared with the read_only qualifier and arg_value refers to an
/// image object created with cl_mem_flags of CL_MEM_WRITE_ONLY or if the image argument is declared with the write_only
/// qualifier and arg_value refers to an image object created with cl_mem_flags of CL_MEM_READ_ONLY.
fn check_access(access: u8, flags: u64) -> ClResult<()> {
    let denied = (access & ACCESS_READ != 0 && flags & CL_MEM_WRITE_ONLY != 0)
        || (access & ACCESS_WRITE != 0 && flags & CL_MEM_READ_ONLY != 0);
    refuse_if(denied, ClError::INVALID_ARG_VALUE)
}

/// `clSetKernelArg`.
pub(super) fn set_arg(
    kernel: Handle<Kernel>,
    arg_index: u32,
    arg_size: usize,
    arg_value: Bytes,
) -> ClResult<()> {
    give_arg(kernel.get()?, arg_index, arg_size, arg_value)
}

/// `clSetKernelArg`, or what a recorded launch shall have as an argument.
pub(super) fn give_arg(kernel: &Kernel, arg_index: u32, arg_size: usize, arg_value: Bytes) -> ClResult<()> {
    let arg = kernel.arg(arg_index)?;
    match arg.kind {
        ArgKind::Value => {
            // CL_INVALID_ARG_SIZE if arg_size is zero. CL_INVALID_ARG_VALUE if arg_value specified is not a valid value.
            refuse_if(arg_size == 0, ClError::INVALID_ARG_SIZE)?;
            let value = arg_value.get(arg_size).ok_or(ClError::INVALID_ARG_VALUE)?;
            kernel.set_value(arg_index, value)
        }
        ArgKind::Buffer => {
            // CL_INVALID_MEM_OBJECT for an argument declared to be a memory object when the specified arg_value is not
            // a valid memory object.
            check_handle_size(arg_size)?;
            let buffer = arg_value.as_object::<Buffer>()?;
            let is_own = |buffer: &Object<Buffer>| buffer.context().handle() == kernel.context().handle();
            refuse_if(!buffer.as_deref().is_none_or(is_own), ClError::INVALID_MEM_OBJECT)?;
            kernel.set_object(arg_index, buffer.map(|buffer| buffer as _))
        }
        ArgKind::Image => {
            check_handle_size(arg_size)?;
            let image = arg_value.as_object::<Image>()?.ok_or(ClError::INVALID_MEM_OBJECT)?;
            let is_own = image.context().handle() == kernel.context().handle();
            refuse_if(!is_own, ClError::INVALID_MEM_OBJECT)?;
            check_access(arg.access, image.flags())?;
            kernel.set_object(arg_index, Some(image))
        }
        ArgKind::Sampler => {
            // CL_INVALID_SAMPLER for an argument declared to be of type sampler_t when the specified arg_value is not a
            // valid sampler object.
            check_handle_size(arg_size)?;
            let sampler = arg_value.as_object::<Sampler>()?.ok_or(ClError::INVALID_SAMPLER)?;
            let is_own = sampler.context().handle() == kernel.context().handle();
            refuse_if(!is_own, ClError::INVALID_SAMPLER)?;
            kernel.set_object(arg_index, Some(sampler))
        }
        ArgKind::Local => {
            // CL_INVALID_ARG_VALUE if the argument is declared with the local qualifier and arg_value is not NULL;
            // CL_INVALID_ARG_SIZE if arg_size is zero then.
            refuse_if(!arg_value.is_null(), ClError::INVALID_ARG_VALUE)?;
            refuse_if(arg_size == 0, ClError::INVALID_ARG_SIZE)?;
            kernel.set_local(arg_index, arg_size)
        }
        ArgKind::Pipe => {
            check_handle_size(arg_size)?;
            let pipe = arg_value.as_object::<Pipe>()?.ok_or(ClError::INVALID_MEM_OBJECT)?;
            let is_own = pipe.context().handle() == kernel.context().handle();
            refuse_if(!is_own, ClError::INVALID_MEM_OBJECT)?;
            kernel.set_object(arg_index, Some(pipe))
        }
        ArgKind::Queue => {
            // CL_INVALID_DEVICE_QUEUE for an argument declared to be of type queue_t when the specified arg_value is not a
            // valid device queue object.
            check_handle_size(arg_size)?;
            let queue = arg_value.as_object::<DeviceQueue>().ok().flatten();
            let queue = queue.ok_or(ClError::INVALID_DEVICE_QUEUE)?;
            let is_own = queue.context().handle() == kernel.context().handle();
            refuse_if(!is_own, ClError::INVALID_DEVICE_QUEUE)?;
            kernel.set_object(arg_index, Some(queue))
        }
        // Nothing else can be passed.
        ArgKind::Other => Err(ClError::INVALID_ARG_VALUE),
    }
}

/// `clGetKernelInfo`.
pub(super) fn info(kernel: Handle<Kernel>, param_name: u32) -> ClResult<Info> {
    kernel.get()?.info(param_name)
}

/// `clGetKernelArgInfo`.
pub(super) fn arg_info(kernel: Handle<Kernel>, arg_index: u32, param_name: u32) -> ClResult<Info> {
    let kernel = kernel.get()?;
    // CL_INVALID_ARG_INDEX if arg_index is not a valid argument index.
    kernel.arg(arg_index)?;
    Ok(kernel.arg_info(arg_index, param_name)?.into())
}

/// The device that a question about a kernel is for.
fn device_for<'a>(kernel: &'a Kernel, device: &'a Handle<Device>) -> ClResult<&'a Object<Device>> {
    // CL_INVALID_DEVICE if device is not in the list of devices associated with kernel or if device is NULL but there is
    // more than one device associated with kernel.
    match kernel.devices() {
        [only] if device.is_null() => Ok(only),
        _ => {
            let device = device.get()?;
            refuse_if(!kernel.has_device(device), ClError::INVALID_DEVICE)?;
            Ok(device)
        }
    }
}

/// `clGetKernelWorkGroupInfo`.
pub(super) fn work_group_info(
    kernel: Handle<Kernel>,
    device: Handle<Device>,
    param_name: u32,
) -> ClResult<Info> {
    let kernel = kernel.get()?;
    let device = device_for(kernel, &device)?;
    // CL_INVALID_VALUE if param_name is CL_KERNEL_GLOBAL_WORK_SIZE and device is not a custom device and kernel is not a
    // built-in kernel.
    let is_usual = device.device_type() & CL_DEVICE_TYPE_CUSTOM == 0 && !kernel.program().is_built_in();
    refuse_if(param_name == CL_KERNEL_GLOBAL_WORK_SIZE && is_usual, ClError::INVALID_VALUE)?;
    let index = kernel.context().reference(device)?;
    Ok(kernel.ask(InfoKind::KernelWorkGroup, param_name, index, &[])?.into())
}

/// "CL_INVALID_VALUE if the size in bytes specified by input_value_size is not valid for param_name": up to three sizes,
/// or one, or nothing. Which of these the host tells apart, but to the protocol anything else is a fault.
fn is_sub_group_input(size: usize) -> bool {
    size <= 3 * size_of::<usize>() && size.is_multiple_of(size_of::<usize>())
}

/// `clGetKernelSubGroupInfo`. `size` is `param_value_size`.
pub(super) fn sub_group_info(
    kernel: Handle<Kernel>,
    device: Handle<Device>,
    param_name: u32,
    input_value_size: usize,
    input_value: Bytes,
    size: usize,
) -> ClResult<Info> {
    let kernel = kernel.get()?;
    let device = device_for(kernel, &device)?;
    refuse_if(!is_sub_group_input(input_value_size), ClError::INVALID_VALUE)?;
    // CL_INVALID_VALUE if input_value is NULL where a value is needed: without one, the host says so.
    let input = input_value.get(input_value_size).unwrap_or_default();
    let index = kernel.context().reference(device)?;
    Ok(kernel.sub_group_info(param_name, index, input, size)?.into())
}

/// Up to three sizes; `rest` fills the dimensions that are not used.
pub(super) fn sizes(values: In<usize>, dims: u32, rest: usize) -> Option<[usize; 3]> {
    values.array(dims as usize, rest)
}

/// Checks the work-group size that the application wants.
fn check_local(kernel: &Kernel, device: &Object<Device>, range: &Range) -> ClResult<()> {
    let Some(local) = range.local else { return Ok(()) };
    let limits = kernel.limits(device)?;
    let is_required = limits.required != [0; 3];
    let local64 = local.map(|size| size as u64);
    // CL_INVALID_WORK_GROUP_SIZE if local_work_size is specified and does not match the required work-group size for
    // kernel in the program source.
    refuse_if(is_required && local64 != limits.required, ClError::INVALID_WORK_GROUP_SIZE)?;
    // CL_INVALID_WORK_ITEM_SIZE if the number of work-items specified in any of local_work_size[0], …
    // local_work_size[work_dim - 1] is greater than the corresponding values specified by CL_DEVICE_MAX_WORK_ITEM_SIZES.
    let most = device.limits().work_item_sizes;
    refuse_if((0..3).any(|dim| local64[dim] > most[dim]), ClError::INVALID_WORK_ITEM_SIZE)?;
    // CL_INVALID_WORK_GROUP_SIZE if the total number of work-items in the work-group is greater than
    // CL_KERNEL_WORK_GROUP_SIZE, or if any size is 0.
    let total = local64.iter().try_fold(1u64, |product, size| product.checked_mul(*size)).unwrap_or(u64::MAX);
    let most = limits.work_group_size.min(device.limits().work_group_size);
    refuse_if(total == 0 || total > most, ClError::INVALID_WORK_GROUP_SIZE)?;
    // CL_INVALID_WORK_GROUP_SIZE if the program was compiled with -cl-uniform-work-group-size, or the device has no
    // non-uniform work-groups, and the number of work-items specified by global_work_size is not evenly divisible by the
    // size of work-group.
    let may_be_uneven = !kernel.needs_uniform_groups() && device.has_non_uniform_work_groups();
    refuse_if(!range.is_uniform() && !may_be_uneven, ClError::INVALID_WORK_GROUP_SIZE)
}

/// Checks that every launch makes.
fn check_launch(queue: &Object<Queue>, kernel: &Object<Kernel>) -> ClResult<()> {
    check_kernel(queue, kernel)?;
    // CL_INVALID_KERNEL_ARGS if the kernel argument values have not been specified.
    refuse_if(!kernel.has_all_args(), ClError::INVALID_KERNEL_ARGS)
}

/// Checks that every launch makes, and those that are recorded before their arguments are set.
pub(super) fn check_kernel(queue: &Object<Queue>, kernel: &Object<Kernel>) -> ClResult<()> {
    // CL_INVALID_CONTEXT if context associated with command_queue and kernel are not the same.
    refuse_if(queue.context().handle() != kernel.context().handle(), ClError::INVALID_CONTEXT)?;
    // CL_INVALID_PROGRAM_EXECUTABLE if there is no successfully built program executable available for device associated
    // with command_queue.
    refuse_if(!kernel.has_device(queue.device()), ClError::INVALID_PROGRAM_EXECUTABLE)
}

/// Offset, global and local sizes as the application gives them.
type Sizes = (In<usize>, In<usize>, In<usize>);

/// The index space that the application asks for.
pub(super) fn given_range(
    work_dim: u32,
    (global_work_offset, global_work_size, local_work_size): Sizes,
) -> ClResult<Range> {
    // CL_INVALID_WORK_DIMENSION if work_dim is not a valid value (i.e. a value between 1 and 3).
    refuse_if(!(1..=3).contains(&work_dim), ClError::INVALID_WORK_DIMENSION)?;
    Ok(Range {
        dims: work_dim,
        offset: sizes(global_work_offset, work_dim, 0).unwrap_or_default(),
        global: sizes(global_work_size, work_dim, 1).unwrap_or_default(),
        local: sizes(local_work_size, work_dim, 1),
    })
}

/// Checks an index space, and completes it; nothing if it is empty.
pub(super) fn check_range(
    queue: &Object<Queue>,
    kernel: &Object<Kernel>,
    mut range: Range,
) -> ClResult<Option<Range>> {
    if range.global.contains(&0) {
        // CL_INVALID_GLOBAL_WORK_SIZE if global_work_size is NULL or if any of the values specified in it are 0 — before
        // OpenCL 2.1. Since then the command "will trivially succeed after its event dependencies are satisfied".
        refuse_if(!queue.device().allows_empty_range(), ClError::INVALID_GLOBAL_WORK_SIZE)?;
        return Ok(None);
    }
    // CL_INVALID_GLOBAL_OFFSET if the value specified in global_work_size + the corresponding values in
    // global_work_offset for any dimensions is greater than the maximum value representable by size_t on the device.
    let overflows = (0..3).any(|dim| range.global[dim].checked_add(range.offset[dim]).is_none());
    refuse_if(overflows, ClError::INVALID_GLOBAL_OFFSET)?;
    if range.local.is_none() {
        // CL_INVALID_WORK_GROUP_SIZE if local_work_size is NULL and the reqd_work_group_size attribute is used — before
        // OpenCL 2.1. Since then that size is used, which drivers do not all know.
        let required = kernel.limits(queue.device())?.required;
        range.local = (required != [0; 3]).then(|| required.map(|size| size as usize));
        let is_deeper =
            range.local.is_some_and(|local| local[range.dims as usize..].iter().any(|size| *size != 1));
        refuse_if(is_deeper, ClError::INVALID_WORK_GROUP_SIZE)?;
    }
    check_local(kernel, queue.device(), &range)?;
    Ok(Some(range))
}

/// `clEnqueueNDRangeKernel`.
pub(super) fn enqueue_nd_range(
    queue: Handle<Queue>,
    kernel: Handle<Kernel>,
    work_dim: u32,
    global_work_offset: In<usize>,
    global_work_size: In<usize>,
    local_work_size: In<usize>,
    events: EventArgs,
) -> ClResult<()> {
    let (queue, kernel) = (queue.get()?, kernel.get()?);
    check_launch(queue, kernel)?;
    let given = given_range(work_dim, (global_work_offset, global_work_size, local_work_size))?;
    let range = check_range(queue, kernel, given)?;
    let wait = events.wait_list(queue.context())?;
    let request = Request::new(CL_COMMAND_NDRANGE_KERNEL, &wait, events.wants_event());
    events.give(match range {
        Some(range) => kernel.enqueue(queue, &request, range)?,
        None => queue.enqueue_nothing(&request)?.event,
    });
    Ok(())
}

/// `clGetKernelSuggestedLocalWorkSizeKHR` of `cl_khr_suggested_local_work_size`.
pub(super) fn suggested_local_size(
    queue: Handle<Queue>,
    kernel: Handle<Kernel>,
    work_dim: u32,
    global_work_offset: In<usize>,
    global_work_size: In<usize>,
    suggested_local_work_size: Out<usize>,
) -> ClResult<()> {
    let (queue, kernel) = (queue.get()?, kernel.get()?);
    check_launch(queue, kernel)?;
    // CL_INVALID_WORK_DIMENSION if work_dim is not a valid value (i.e. a value between 1 and 3).
    refuse_if(!(1..=3).contains(&work_dim), ClError::INVALID_WORK_DIMENSION)?;
    // CL_INVALID_GLOBAL_WORK_SIZE if global_work_size is NULL or if any of the values specified in global_work_size are 0.
    let global = sizes(global_work_size, work_dim, 1).unwrap_or_default();
    refuse_if(global.contains(&0), ClError::INVALID_GLOBAL_WORK_SIZE)?;
    let offset = sizes(global_work_offset, work_dim, 0).unwrap_or_default();
    // CL_INVALID_GLOBAL_OFFSET if the value specified in global_work_size plus the corresponding value in
    // global_work_offset for dimension exceeds the maximum value representable by size_t on the device.
    let overflows = (0..3).any(|dim| global[dim].checked_add(offset[dim]).is_none());
    refuse_if(overflows, ClError::INVALID_GLOBAL_OFFSET)?;
    // CL_INVALID_VALUE if suggested_local_work_size is NULL.
    refuse_if(suggested_local_work_size.is_null(), ClError::INVALID_VALUE)?;
    let range = Range { dims: work_dim, offset, global, local: None };
    let suggested = kernel.suggested_local_size(queue, &range)?;
    suggested_local_work_size.fill(&suggested[..work_dim as usize]);
    Ok(())
}

/// `clEnqueueTask`: one work-item.
pub(super) fn enqueue_task(queue: Handle<Queue>, kernel: Handle<Kernel>, events: EventArgs) -> ClResult<()> {
    let (queue, kernel) = (queue.get()?, kernel.get()?);
    check_launch(queue, kernel)?;
    let wait = events.wait_list(queue.context())?;
    let range = Range { dims: 1, offset: [0; 3], global: [1; 3], local: Some([1; 3]) };
    check_local(kernel, queue.device(), &range)?;
    let request = Request::new(CL_COMMAND_TASK, &wait, events.wants_event());
    events.give(kernel.enqueue(queue, &request, range)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sub_group_inputs_are_whole_sizes() {
        let accepted = (0..64).filter(|size| is_sub_group_input(*size)).collect::<Vec<_>>();
        assert_eq!(accepted, [0, 8, 16, 24]);
    }
}
