//! What runs a guest's commands: the host's OpenCL, or nothing at all.

pub mod null;
pub mod opencl;

use std::ffi::CStr;
use std::fmt;

use crate::sys::map::Window;

pub use crate::sys::compute::{
    Arg, ArgValue, ClError, DeviceLimits, Done, HostBytes, Linked, NdRange, Order, Outcome, Query, Rect,
    SubGroupInput, Work,
};

/// A host's compute devices. Handles release what they stand for when the last of them is dropped.
///
/// Callers have checked ids, bounds and limits; an implementation must be memory-safe without that.
pub trait Backend: Send + Sync + 'static {
    /// A context.
    type Context: Clone + Send + Sync + fmt::Debug + 'static;
    /// A command queue.
    type Queue: Clone + Send + Sync + fmt::Debug + 'static;
    /// A buffer.
    type Buffer: Clone + Send + Sync + fmt::Debug + 'static;
    /// A program.
    type Program: Clone + Send + Sync + fmt::Debug + 'static;
    /// A kernel. Not shared: setting arguments is not thread-safe.
    type Kernel: Send + fmt::Debug + 'static;
    /// An event.
    type Event: Clone + Send + Sync + fmt::Debug + 'static;

    /// The devices, in the order of their indices on the wire.
    fn devices(&self) -> &[DeviceLimits];

    /// A context on devices.
    fn create_context(&self, devices: &[usize]) -> Result<Self::Context, ClError>;

    /// A queue with these `cl_command_queue_properties`.
    fn create_queue(
        &self,
        context: &Self::Context,
        device: usize,
        properties: u64,
    ) -> Result<Self::Queue, ClError>;

    /// A buffer of zeroes, or of the bytes of `init`, which is as long.
    fn create_buffer(
        &self,
        context: &Self::Context,
        flags: u64,
        size: usize,
        init: Option<&Window>,
    ) -> Result<Self::Buffer, ClError>;

    /// A part of a buffer.
    fn create_sub_buffer(
        &self,
        parent: &Self::Buffer,
        flags: u64,
        origin: usize,
        size: usize,
    ) -> Result<Self::Buffer, ClError>;

    /// A program from source.
    fn create_program(&self, context: &Self::Context, source: &[u8]) -> Result<Self::Program, ClError>;

    /// A program from SPIR-V.
    fn create_program_with_il(&self, context: &Self::Context, il: &[u8]) -> Result<Self::Program, ClError>;

    /// A program of the devices' built-in kernels of these names, which semicolons separate.
    fn create_built_in_program(
        &self,
        context: &Self::Context,
        devices: &[usize],
        names: &CStr,
    ) -> Result<Self::Program, ClError>;

    /// Sets a specialization constant of a program from SPIR-V.
    fn set_spec_constant(&self, program: &Self::Program, id: u32, value: &[u8]) -> Result<(), ClError>;

    /// Builds a program for devices, and waits for it.
    fn build(&self, program: &Self::Program, devices: &[usize], options: &CStr) -> Result<(), ClError>;

    /// Compiles a program for devices, with headers and the names by which they are included, and waits for it.
    fn compile(
        &self,
        program: &Self::Program,
        devices: &[usize],
        options: &CStr,
        headers: &[(&CStr, &Self::Program)],
    ) -> Result<(), ClError>;

    /// Links programs for devices, and waits for it.
    fn link(
        &self,
        context: &Self::Context,
        devices: &[usize],
        options: &CStr,
        inputs: &[&Self::Program],
    ) -> Linked<Self::Program>;

    /// A kernel of a program. `declared` is what its arguments are; without it, the backend knows.
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
        value: ArgValue<'_, Self::Buffer>,
    ) -> Result<(), ClError>;

    /// A user event.
    fn create_user_event(&self, context: &Self::Context) -> Result<Self::Event, ClError>;

    /// Ends a user event.
    fn set_user_event(&self, event: &Self::Event, status: i32) -> Result<(), ClError>;

    /// Puts a command into a queue. `order.done` is called exactly once, also if this fails.
    fn enqueue(
        &self,
        queue: &Self::Queue,
        work: Work<'_, Self::Buffer, Self::Kernel>,
        order: Order<'_, Self::Event>,
    ) -> Result<Option<Self::Event>, ClError>;

    /// Submits what is in a queue.
    fn flush(&self, queue: &Self::Queue) -> Result<(), ClError>;

    /// Waits until what is in a queue is complete.
    fn finish(&self, queue: &Self::Queue) -> Result<(), ClError>;

    /// Does what the backend's driver leaves undone. True if it wants to be called again soon. Called now and then
    /// by threads that may wait, and after commands have been failed.
    fn tend(&self) -> bool {
        false
    }

    /// Answers a query; the parameter has been checked against the list of those that a guest may ask for.
    fn query(&self, query: Query<'_, Self::Program, Self::Kernel>, param: u32) -> Result<Vec<u8>, ClError>;
}
