//! `cl_khr_command_buffer`: recording commands, and enqueueing what was recorded.

use std::ffi::c_void;

use opencl_sys::{
    CL_COMMAND_BUFFER_CAPABILITY_SIMULTANEOUS_USE_KHR, CL_COMMAND_BUFFER_FLAGS_KHR,
    CL_COMMAND_BUFFER_MUTABLE_KHR, CL_COMMAND_BUFFER_SIMULTANEOUS_USE_KHR,
    CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE,
};

use crate::api::mutable_command::{self, Properties};
use crate::api::{image_transfer, kernel, svm, transfer};
use crate::boundary::arguments::{EventArgs, RecordArgs};
use crate::boundary::object::{Handle, Object, RawHandle};
use crate::boundary::pointer::{AppMemory, Bytes, In};
use crate::core::buffer::Buffer;
use crate::core::command_buffer::{CommandBuffer, Post, Terms};
use crate::core::device::Device;
use crate::core::error::{ClError, ClResult, refuse_if};
use crate::core::extensions::{CommandBufferVersion, MutableDispatchVersion};
use crate::core::image::Image;
use crate::core::info::Info;
use crate::core::kernel::Kernel;
use crate::core::mutable_command::{Launch, MutableCommand};
use crate::core::queue::{Queue, Request};

/// `CL_COMMAND_BUFFER_CAPABILITY_OUT_OF_ORDER_KHR`, before version 0.9.7.
const OUT_OF_ORDER: u64 = 1 << 3;
/// `CL_COMMAND_BUFFER_MUTABLE_DISPATCH_ASSERTS_KHR` of `cl_khr_command_buffer_mutable_dispatch`.
const MUTABLE_DISPATCH_ASSERTS: u64 = 0x12b7;

/// `clCreateCommandBufferKHR`.
pub(super) fn create(num_queues: u32, queues: In<*mut c_void>, properties: In<u64>) -> ClResult<RawHandle> {
    // CL_INVALID_VALUE if num_queues is zero or queues is NULL; if num_queues is greater than one without
    // cl_khr_command_buffer_multi_device.
    refuse_if(num_queues != 1, ClError::INVALID_VALUE)?;
    // CL_INVALID_COMMAND_QUEUE if any command-queue in queues is not a valid command-queue.
    let queues = queues.objects::<Queue>(1).ok_or(ClError::INVALID_VALUE)??;
    let queue: &Object<Queue> = &queues[0];
    let device = queue.device();
    // Of a device without the extension nothing is compatible.
    let version = device.command_buffer_version().ok_or(ClError::INCOMPATIBLE_COMMAND_QUEUE)?;
    // CL_INCOMPATIBLE_COMMAND_QUEUE_KHR if one or more command-queues in queues has the out-of-order property and the
    // device does not have CL_COMMAND_BUFFER_CAPABILITY_OUT_OF_ORDER_KHR, or lacks properties that the device requires:
    // before version 0.9.7. Since then the queue that it is enqueued in counts.
    if !version.has_supported_properties() {
        refuse_if(!is_compatible(queue), ClError::INCOMPATIBLE_COMMAND_QUEUE)?;
    }
    let terms = terms(device, version, properties)?;
    // CL_INVALID_PROPERTY if values specified in properties are valid but are not supported by all the devices associated
    // with command-queues in queues.
    let capabilities = device.command_buffer_capabilities();
    let is_supported = capabilities & CL_COMMAND_BUFFER_CAPABILITY_SIMULTANEOUS_USE_KHR != 0;
    refuse_if(terms.is_simultaneous && !is_supported, ClError::INVALID_PROPERTY)?;
    Ok(CommandBuffer::new(queues, version, terms).hand_out())
}

/// What the properties of a command buffer say.
fn terms(device: &Device, version: CommandBufferVersion, properties: In<u64>) -> ClResult<Terms> {
    let list = properties.properties().unwrap_or_default();
    let mutable_dispatch = device.mutable_dispatch_version();
    let (mut flags, mut asserts) = (None, None);
    for pair in list.chunks_exact(2) {
        // CL_INVALID_VALUE if values specified in properties are not valid, or if the same property name is specified
        // more than once.
        let place = match pair[0] {
            CL_COMMAND_BUFFER_FLAGS_KHR => &mut flags,
            MUTABLE_DISPATCH_ASSERTS if mutable_dispatch.is_some() => &mut asserts,
            _ => return Err(ClError::INVALID_VALUE),
        };
        refuse_if(place.replace(pair[1]).is_some(), ClError::INVALID_VALUE)?;
    }
    let (flags, asserts) = (flags.unwrap_or(0), asserts.unwrap_or(0));
    // CL_COMMAND_BUFFER_SIMULTANEOUS_USE_KHR moved from this extension to that for mutable commands.
    let simultaneous = CL_COMMAND_BUFFER_SIMULTANEOUS_USE_KHR;
    let valid = match (mutable_dispatch.is_some(), version.has_pending_state()) {
        (true, _) => simultaneous | CL_COMMAND_BUFFER_MUTABLE_KHR,
        (false, true) => simultaneous,
        (false, false) => 0,
    };
    refuse_if(flags & !valid != 0, ClError::INVALID_VALUE)?;
    mutable_command::check_asserts(asserts)?;
    let end = (!properties.is_null()).then_some(0);
    Ok(Terms {
        property_list: list.into_iter().chain(end).collect(),
        is_simultaneous: flags & simultaneous != 0,
        mutable_dispatch,
        is_mutable: flags & CL_COMMAND_BUFFER_MUTABLE_KHR != 0,
        limits_groups: asserts != 0,
    })
}

/// True if command buffers can be recorded for this queue, or enqueued in it.
fn is_compatible(queue: &Queue) -> bool {
    let (device, properties): (&Device, u64) = (queue.device(), queue.properties());
    let out_of_order = properties & CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE != 0;
    let allowed = match device.command_buffer_supported_properties() {
        Some(supported) => properties & !supported == 0,
        None => !out_of_order || device.command_buffer_capabilities() & OUT_OF_ORDER != 0,
    };
    allowed && device.command_buffer_required_properties() & !properties == 0
}

/// `clFinalizeCommandBufferKHR`.
pub(super) fn finalize(command_buffer: Handle<CommandBuffer>) -> ClResult<()> {
    command_buffer.get()?.finalize()
}

/// `clRetainCommandBufferKHR`.
pub(super) fn retain(command_buffer: Handle<CommandBuffer>) -> ClResult<()> {
    command_buffer.get().map(Object::retain)
}

/// `clReleaseCommandBufferKHR`.
pub(super) fn release(command_buffer: Handle<CommandBuffer>) -> ClResult<()> {
    command_buffer.get()?.release()
}

/// `clGetCommandBufferInfoKHR`.
pub(super) fn info(command_buffer: Handle<CommandBuffer>, param_name: u32) -> ClResult<Info> {
    command_buffer.get()?.info(param_name)
}

/// `clEnqueueCommandBufferKHR`.
pub(super) fn enqueue(
    num_queues: u32,
    queues: In<*mut c_void>,
    command_buffer: Handle<CommandBuffer>,
    events: EventArgs,
) -> ClResult<()> {
    let buffer = command_buffer.get()?;
    // CL_INVALID_OPERATION if command_buffer has not been finalized.
    refuse_if(!buffer.is_final(), ClError::INVALID_OPERATION)?;
    // CL_INVALID_VALUE if queues is NULL and num_queues is > 0, or queues is not NULL and num_queues is 0; if num_queues is
    // > 0 and not the same value as num_queues set on command_buffer creation.
    refuse_if(queues.is_null() != (num_queues == 0), ClError::INVALID_VALUE)?;
    let own = buffer.queues();
    refuse_if(num_queues != 0 && num_queues as usize != own.len(), ClError::INVALID_VALUE)?;
    // CL_INVALID_COMMAND_QUEUE if any element of queues is not a valid command-queue.
    let others = queues.objects::<Queue>(num_queues as usize).transpose()?;
    let queues = others.as_deref().unwrap_or(own);
    for (queue, own) in queues.iter().zip(own) {
        // CL_INVALID_CONTEXT if any element of queues does not have the same context as the command-queue set on
        // command_buffer creation at the same list index.
        let same_context = queue.context().handle() == own.context().handle();
        refuse_if(!same_context, ClError::INVALID_CONTEXT)?;
        // CL_INCOMPATIBLE_COMMAND_QUEUE_KHR if any element of queues is not compatible with the command-queue set on
        // command_buffer creation at the same list index.
        let same_device = queue.device().handle() == own.device().handle();
        let fits = if buffer.version().has_supported_properties() {
            is_compatible(queue)
        } else {
            queue.properties() == own.properties()
        };
        refuse_if(!same_device || !fits, ClError::INCOMPATIBLE_COMMAND_QUEUE)?;
    }
    let wait = events.wait_list(buffer.context())?;
    let enqueued = buffer.enqueue(queues, &wait, events.wants_event());
    buffer.context().tell_if_lost();
    events.give(enqueued?);
    Ok(())
}

/// A command that has only its place.
fn nothing() -> Post {
    Box::new(|queue: &Object<Queue>, request: &Request<'_>| Ok(queue.enqueue_nothing(request)?.event))
}

/// `clCommandBarrierWithWaitListKHR`.
pub(super) fn barrier(args: RecordArgs) -> ClResult<()> {
    args.begin()?.barrier(nothing())
}

/// `clCommandNDRangeKernelKHR`: "the kernel's arguments are those that are set when the command is recorded".
pub(super) fn nd_range_kernel(
    args: RecordArgs,
    kernel: Handle<Kernel>,
    work_dim: u32,
    global_work_offset: In<usize>,
    global_work_size: In<usize>,
    local_work_size: In<usize>,
) -> ClResult<()> {
    let recording = args.begin_any()?;
    let (buffer, queue, kernel) = (recording.buffer(), recording.queue(), kernel.get()?);
    let version = buffer.mutable_dispatch();
    if version.is_none() {
        args.check_plain()?;
    }
    let properties = Properties::parse(args.properties())?;
    let fields = properties.fields(queue.device())?;
    // CL_INVALID_OPERATION if the device associated with command_queue does not support
    // CL_COMMAND_BUFFER_CAPABILITY_KERNEL_PRINTF_KHR and the kernel contains a printf call.
    let prints = opencl_sys::CL_COMMAND_BUFFER_CAPABILITY_KERNEL_PRINTF_KHR;
    let is_refused = kernel.may_print() && queue.device().command_buffer_capabilities() & prints == 0;
    refuse_if(is_refused, ClError::INVALID_OPERATION)?;
    // CL_INVALID_VALUE if command_buffer was created with the CL_COMMAND_BUFFER_MUTABLE_DISPATCH_ASSERTS_KHR property with
    // CL_MUTABLE_DISPATCH_ASSERT_NO_ADDITIONAL_WORK_GROUPS_KHR and local_work_size is NULL, or if properties includes the
    // CL_MUTABLE_DISPATCH_ASSERTS_KHR property with it and local_work_size is NULL.
    let limits_groups = buffer.limits_groups() || properties.limits_groups();
    refuse_if(limits_groups && local_work_size.is_null(), ClError::INVALID_VALUE)?;
    kernel::check_kernel(queue, kernel)?;
    // CL_INVALID_KERNEL_ARGS if the kernel argument values have not been specified and the
    // CL_MUTABLE_DISPATCH_ARGUMENTS_KHR flag was not set in the properties parameter: since version 0.9.5.
    let may_lack = version.is_some_and(MutableDispatchVersion::takes_incomplete_kernels)
        && properties.defers_arguments();
    refuse_if(!may_lack && !kernel.has_all_args(), ClError::INVALID_KERNEL_ARGS)?;
    let given = kernel::given_range(work_dim, (global_work_offset, global_work_size, local_work_size))?;
    let range = kernel::check_range(queue, kernel, given)?;
    let launch = Launch { kernel: kernel.duplicate()?, given, range };
    let command = MutableCommand::new(buffer, kernel, (properties.list(), fields), launch);
    recording.launch(command)
}

/// `clCommandCopyBufferKHR`.
pub(super) fn copy_buffer(
    args: RecordArgs,
    src_buffer: Handle<Buffer>,
    dst_buffer: Handle<Buffer>,
    src_offset: usize,
    dst_offset: usize,
    size: usize,
) -> ClResult<()> {
    let recording = args.begin()?;
    let buffers = (src_buffer.get()?, dst_buffer.get()?);
    let post = transfer::copier(recording.queue(), buffers, (src_offset, dst_offset), size)?;
    recording.command(Box::new(post))
}

/// `clCommandCopyBufferRectKHR`.
#[expect(clippy::too_many_arguments, reason = "the specification's")]
pub(super) fn copy_buffer_rect(
    args: RecordArgs,
    src_buffer: Handle<Buffer>,
    dst_buffer: Handle<Buffer>,
    src_origin: In<usize>,
    dst_origin: In<usize>,
    region: In<usize>,
    src_row_pitch: usize,
    src_slice_pitch: usize,
    dst_row_pitch: usize,
    dst_slice_pitch: usize,
) -> ClResult<()> {
    let recording = args.begin()?;
    let src = (src_buffer.get()?, src_origin, [src_row_pitch, src_slice_pitch]);
    let dst = (dst_buffer.get()?, dst_origin, [dst_row_pitch, dst_slice_pitch]);
    let post = transfer::rect_copier(recording.queue(), src, dst, region)?;
    recording.command(Box::new(post))
}

/// `clCommandFillBufferKHR`.
pub(super) fn fill_buffer(
    args: RecordArgs,
    buffer: Handle<Buffer>,
    pattern: Bytes,
    pattern_size: usize,
    offset: usize,
    size: usize,
) -> ClResult<()> {
    let recording = args.begin()?;
    let buffer = buffer.get()?;
    let post = transfer::filler(recording.queue(), buffer, (pattern, pattern_size), (offset, size))?;
    recording.command(Box::new(post))
}

/// `clCommandSVMMemcpyKHR`.
pub(super) fn svm_copy(args: RecordArgs, dst: AppMemory, src: AppMemory, size: usize) -> ClResult<()> {
    let recording = args.begin()?;
    svm::check_queue(recording.queue())?;
    let post = svm::copier(recording.queue(), (dst, src), size)?;
    recording.command(Box::new(post))
}

/// `clCommandSVMMemFillKHR`.
pub(super) fn svm_fill(
    args: RecordArgs,
    pointer: AppMemory,
    pattern: Bytes,
    pattern_size: usize,
    size: usize,
) -> ClResult<()> {
    let recording = args.begin()?;
    svm::check_queue(recording.queue())?;
    let pattern = svm::fill_pattern(pointer, pattern, pattern_size, size)?;
    let post = svm::filler(recording.queue(), (pointer, size), pattern)?;
    recording.command(Box::new(post))
}

/// `clCommandCopyImageKHR`.
pub(super) fn copy_image(
    args: RecordArgs,
    src_image: Handle<Image>,
    dst_image: Handle<Image>,
    src_origin: In<usize>,
    dst_origin: In<usize>,
    region: In<usize>,
) -> ClResult<()> {
    let recording = args.begin()?;
    let (src, dst) = ((src_image.get()?, src_origin), (dst_image.get()?, dst_origin));
    let post = image_transfer::copier(recording.queue(), src, dst, region)?;
    recording.command(Box::new(post))
}

/// `clCommandCopyBufferToImageKHR`.
pub(super) fn copy_buffer_to_image(
    args: RecordArgs,
    src_buffer: Handle<Buffer>,
    dst_image: Handle<Image>,
    src_offset: usize,
    dst_origin: In<usize>,
    region: In<usize>,
) -> ClResult<()> {
    let recording = args.begin()?;
    let (src, dst) = ((src_buffer.get()?, src_offset), (dst_image.get()?, dst_origin));
    let post = image_transfer::from_buffer_copier(recording.queue(), src, dst, region)?;
    recording.command(Box::new(post))
}

/// `clCommandCopyImageToBufferKHR`.
pub(super) fn copy_image_to_buffer(
    args: RecordArgs,
    src_image: Handle<Image>,
    dst_buffer: Handle<Buffer>,
    src_origin: In<usize>,
    region: In<usize>,
    dst_offset: usize,
) -> ClResult<()> {
    let recording = args.begin()?;
    let (src, dst) = ((src_image.get()?, src_origin), (dst_buffer.get()?, dst_offset));
    let post = image_transfer::to_buffer_copier(recording.queue(), src, region, dst)?;
    recording.command(Box::new(post))
}

/// `clCommandFillImageKHR`.
pub(super) fn fill_image(
    args: RecordArgs,
    image: Handle<Image>,
    fill_color: Bytes,
    origin: In<usize>,
    region: In<usize>,
) -> ClResult<()> {
    let recording = args.begin()?;
    let post = image_transfer::filler(recording.queue(), image.get()?, fill_color, (origin, region))?;
    recording.command(Box::new(post))
}
