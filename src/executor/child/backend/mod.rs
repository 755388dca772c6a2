//! What runs a guest's commands: the host's OpenCL, or nothing at all.

pub mod null;
mod null_buffer;
mod null_image;
pub mod opencl;
pub mod traps;

use std::ffi::CStr;
use std::fmt;

use paragpu_protocol::image::{ImageFormat, ImageType};

use crate::sys::map::Window;

pub use crate::sys::opencl::Keep;
pub use paragpu_protocol::svm::MemoryModel;

pub use crate::sys::compute::{
    Arg, ArgValue, ClError, DeviceLimits, Done, HostBytes, HostDevice, Linked, NdRange, Order, Outcome,
    Partition, Query, QueueHints, Rect, StartWatch, Started, SubGroupInput, Work,
};
pub use crate::sys::image::{Area, ImageBase, ImageLayout, ImageLimits, ImageSpec, ImageWork, SamplerSpec};

/// A command over a backend's handles.
pub(crate) type WorkOf<'a, B> =
    Work<'a, <B as Backend>::Buffer, <B as Backend>::Image, <B as Backend>::Kernel>;

/// What an argument is set to, over a backend's handles.
pub(crate) type ArgValueOf<'a, B> = ArgValue<
    'a,
    <B as Backend>::Buffer,
    <B as Backend>::Image,
    <B as Backend>::Sampler,
    <B as Backend>::Pipe,
    <B as Backend>::DeviceQueue,
>;

/// A host's compute devices. Handles release what they stand for when the last of them is dropped.
///
/// Callers have checked ids, bounds and limits; an implementation must be memory-safe without that.
pub trait Backend: Send + Sync + 'static {
    /// A device, or a part of one.
    type Device: Clone + Send + Sync + fmt::Debug + 'static;
    /// A context.
    type Context: Clone + Send + Sync + fmt::Debug + 'static;
    /// A command queue.
    type Queue: Clone + Send + Sync + fmt::Debug + 'static;
    /// A buffer.
    type Buffer: Clone + Send + Sync + fmt::Debug + 'static;
    /// An image.
    type Image: Clone + Send + Sync + fmt::Debug + 'static;
    /// A sampler.
    type Sampler: Clone + Send + Sync + fmt::Debug + 'static;
    /// A pipe.
    type Pipe: Clone + Send + Sync + fmt::Debug + 'static;
    /// A queue on the device.
    type DeviceQueue: Clone + Send + Sync + fmt::Debug + 'static;
    /// A program.
    type Program: Clone + Send + Sync + fmt::Debug + 'static;
    /// A kernel. Not shared: setting arguments is not thread-safe.
    type Kernel: Send + fmt::Debug + 'static;
    /// An event.
    type Event: Clone + Send + Sync + fmt::Debug + 'static;

    /// Zeroed memory that kernels and this process know by the same address, for devices whose [`MemoryModel`] is coarse.
    /// Dropping it calls no OpenCL.
    type Coarse: Clone + Send + Sync + fmt::Debug + 'static;

    /// The devices, in the order of their indices on the wire.
    fn devices(&self) -> &[HostDevice<Self::Device>];

    /// How many sub-devices a partition would have.
    fn count_sub_devices(&self, parent: &Self::Device, partition: &Partition) -> Result<usize, ClError>;

    /// Divides a device. An error if that does not make `count` sub-devices.
    fn create_sub_devices(
        &self,
        parent: &Self::Device,
        partition: &Partition,
        count: usize,
    ) -> Result<Vec<HostDevice<Self::Device>>, ClError>;

    /// A context on devices.
    fn create_context(&self, devices: &[&Self::Device]) -> Result<Self::Context, ClError>;

    /// A queue with these `cl_command_queue_properties`, and with the hints if the device takes them.
    fn create_queue(
        &self,
        context: &Self::Context,
        device: &Self::Device,
        properties: u64,
        hints: QueueHints,
    ) -> Result<Self::Queue, ClError>;

    /// A buffer of zeroes, or of the bytes of `init`, which is as long.
    fn create_buffer(
        &self,
        context: &Self::Context,
        flags: u64,
        size: usize,
        init: Option<&Window>,
    ) -> Result<Self::Buffer, ClError>;

    /// A buffer whose bytes are those of `memory`. That and `keep` are kept until nothing uses the buffer any more.
    fn create_shared_buffer(
        &self,
        context: &Self::Context,
        flags: u64,
        memory: Window,
        keep: Keep,
    ) -> Result<Self::Buffer, ClError>;

    /// Allocates such memory, and says where it is.
    fn create_coarse_memory(
        &self,
        context: &Self::Context,
        device: &Self::Device,
        size: usize,
    ) -> Result<(Self::Coarse, usize), ClError>;

    /// A buffer of some of its bytes. `keep` is kept until nothing uses the buffer any more.
    fn create_coarse_buffer(
        &self,
        context: &Self::Context,
        flags: u64,
        bytes: (&Self::Coarse, usize, usize),
        keep: Keep,
    ) -> Result<Self::Buffer, ClError>;

    /// A part of a buffer.
    fn create_sub_buffer(
        &self,
        parent: &Self::Buffer,
        flags: u64,
        origin: usize,
        size: usize,
    ) -> Result<Self::Buffer, ClError>;

    /// The image formats that a context supports for these `cl_mem_flags` and this type.
    fn image_formats(
        &self,
        context: &Self::Context,
        flags: u64,
        kind: ImageType,
    ) -> Result<Vec<ImageFormat>, ClError>;

    /// An image.
    fn create_image(
        &self,
        context: &Self::Context,
        spec: &ImageSpec,
        base: ImageBase<'_, Self::Buffer, Self::Image>,
    ) -> Result<Self::Image, ClError>;

    /// What the driver says of an image, where that is a number; the parameter has been checked against the list of
    /// those that a guest may ask for.
    fn image_info(&self, image: &Self::Image, param: u32) -> Result<u64, ClError>;

    /// A sampler.
    fn create_sampler(&self, context: &Self::Context, spec: SamplerSpec) -> Result<Self::Sampler, ClError>;

    /// A pipe for that many packets of so many bytes.
    fn create_pipe(
        &self,
        context: &Self::Context,
        packet_size: u32,
        max_packets: u32,
    ) -> Result<Self::Pipe, ClError>;

    /// A queue on a device with these `cl_command_queue_properties`, of `size` bytes, or as large as the device prefers.
    fn create_device_queue(
        &self,
        context: &Self::Context,
        device: &Self::Device,
        properties: u64,
        size: Option<u32>,
    ) -> Result<Self::DeviceQueue, ClError>;

    /// Makes a queue on a device the default of that device.
    fn set_default_queue(
        &self,
        context: &Self::Context,
        device: &Self::Device,
        queue: &Self::DeviceQueue,
    ) -> Result<(), ClError>;

    /// A program from source.
    fn create_program(&self, context: &Self::Context, source: &[u8]) -> Result<Self::Program, ClError>;

    /// A program from SPIR-V.
    fn create_program_with_il(&self, context: &Self::Context, il: &[u8]) -> Result<Self::Program, ClError>;

    /// A program of the devices' built-in kernels of these names, which semicolons separate.
    fn create_built_in_program(
        &self,
        context: &Self::Context,
        devices: &[&Self::Device],
        names: &CStr,
    ) -> Result<Self::Program, ClError>;

    /// Sets a specialization constant of a program from SPIR-V.
    fn set_spec_constant(&self, program: &Self::Program, id: u32, value: &[u8]) -> Result<(), ClError>;

    /// Builds a program for devices (all of its context's if there are none), and waits for it.
    fn build(
        &self,
        program: &Self::Program,
        devices: &[&Self::Device],
        options: &CStr,
    ) -> Result<(), ClError>;

    /// Compiles a program for devices (all of its context's if there are none), with headers and the names by which they
    /// are included, and waits for it.
    fn compile(
        &self,
        program: &Self::Program,
        devices: &[&Self::Device],
        options: &CStr,
        headers: &[(&CStr, &Self::Program)],
    ) -> Result<(), ClError>;

    /// Links programs for devices (all of the context's if there are none), and waits for it.
    fn link(
        &self,
        context: &Self::Context,
        devices: &[&Self::Device],
        options: &CStr,
        inputs: &[&Self::Program],
    ) -> Linked<Self::Program>;

    /// A kernel of a program. `declared` is what its arguments are; without it, the backend knows, or the error is
    /// [`ClError::ARG_INFO_NOT_AVAILABLE`].
    fn create_kernel(
        &self,
        program: &Self::Program,
        name: &CStr,
        declared: Option<&[Arg]>,
    ) -> Result<Self::Kernel, ClError>;

    /// A kernel's arguments.
    fn args<'k>(&self, kernel: &'k Self::Kernel) -> &'k [Arg];

    /// Sets a kernel's argument.
    fn set_arg(
        &self,
        kernel: &mut Self::Kernel,
        index: u32,
        value: ArgValueOf<'_, Self>,
    ) -> Result<(), ClError>;

    /// Tells which coarse-grain memory a kernel reaches through pointers in memory.
    fn set_reachable(&self, kernel: &mut Self::Kernel, addresses: &[usize]) -> Result<(), ClError>;

    /// A user event.
    fn create_user_event(&self, context: &Self::Context) -> Result<Self::Event, ClError>;

    /// Ends a user event.
    fn set_user_event(&self, event: &Self::Event, status: i32) -> Result<(), ClError>;

    /// Calls `started` when the event's command starts to run, or has; perhaps also when it ends without.
    fn watch_start(&self, event: &Self::Event, started: Started) -> StartWatch;

    /// Puts a command into a queue. `order.done` is called exactly once, also if this fails.
    fn enqueue(
        &self,
        queue: &Self::Queue,
        work: Work<'_, Self::Buffer, Self::Image, Self::Kernel>,
        order: Order<'_, Self::Event>,
    ) -> Result<Option<Self::Event>, ClError>;

    /// Submits what is in a queue.
    fn flush(&self, queue: &Self::Queue) -> Result<(), ClError>;

    /// Waits until what is in a queue is complete.
    fn finish(&self, queue: &Self::Queue) -> Result<(), ClError>;

    /// Makes the driver print what complete kernels of this context have printed, if it does so only when a program
    /// synchronises with the device. Waits for no command of the guest's.
    fn settle_print(&self, _context: &Self::Context, _device: &Self::Device) {}

    /// Does what the backend's driver leaves undone. True if it wants to be called again soon. Called now and then
    /// by threads that may wait, and after commands have been failed.
    fn tend(&self) -> bool {
        false
    }

    /// The local size that the device would choose for a launch.
    fn suggest_local_size(
        &self,
        queue: &Self::Queue,
        kernel: &Self::Kernel,
        range: &NdRange,
    ) -> Result<[usize; 3], ClError>;

    /// Answers a query; the parameter has been checked against the list of those that a guest may ask for.
    fn query(
        &self,
        query: Query<'_, Self::Device, Self::Program, Self::Kernel>,
        param: u32,
    ) -> Result<Vec<u8>, ClError>;
}
