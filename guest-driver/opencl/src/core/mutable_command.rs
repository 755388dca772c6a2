//! Launches of a command buffer that can be changed after they are recorded (`cl_khr_command_buffer_mutable_dispatch`).

use std::sync::{Arc, Mutex, Weak};

use opencl_sys::{
    CL_COMMAND_NDRANGE_KERNEL, CL_MUTABLE_COMMAND_COMMAND_BUFFER_KHR, CL_MUTABLE_COMMAND_COMMAND_QUEUE_KHR,
    CL_MUTABLE_COMMAND_COMMAND_TYPE_KHR, CL_MUTABLE_COMMAND_PROPERTIES_ARRAY_KHR,
    CL_MUTABLE_DISPATCH_DIMENSIONS_KHR, CL_MUTABLE_DISPATCH_GLOBAL_WORK_OFFSET_KHR,
    CL_MUTABLE_DISPATCH_GLOBAL_WORK_SIZE_KHR, CL_MUTABLE_DISPATCH_KERNEL_KHR,
    CL_MUTABLE_DISPATCH_LOCAL_WORK_SIZE_KHR,
};

use crate::boundary::object::{Kind, Object, RawHandle};
use crate::core::command_buffer::CommandBuffer;
use crate::core::error::{ClError, ClResult};
use crate::core::info::Info;
use crate::core::kernel::{Kernel, Range};
use crate::core::lock;
use crate::core::queue::{Queue, Request};
use crate::core::transfer::Enqueued;

/// A recorded launch. "The lifetime of this handle is tied to the parent command-buffer", which holds it.
#[derive(Debug)]
pub(crate) struct MutableCommand {
    buffer: Weak<Object<CommandBuffer>>,
    /// The application's, for those who ask.
    kernel: Arc<Object<Kernel>>,
    /// As the application gave them.
    property_list: Vec<u64>,
    /// `CL_MUTABLE_DISPATCH_UPDATABLE_FIELDS_KHR`.
    fields: u64,
    launch: Mutex<Launch>,
}

/// What is launched.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    /// A clone with the arguments of the launch.
    pub(crate) kernel: Arc<Object<Kernel>>,
    /// The index space that the application asked for.
    pub(crate) given: Range,
    /// The one that is posted; nothing if it is empty.
    pub(crate) range: Option<Range>,
}

impl Kind for MutableCommand {
    const TAG: u32 = u32::from_le_bytes(*b"mcmd");
    const INVALID: ClError = ClError::INVALID_MUTABLE_COMMAND;
}

impl MutableCommand {
    /// A launch of a clone of `kernel`, which is to be recorded.
    pub(crate) fn new(
        buffer: &Object<CommandBuffer>,
        kernel: &Object<Kernel>,
        (property_list, fields): (Vec<u64>, u64),
        launch: Launch,
    ) -> Arc<Object<MutableCommand>> {
        Object::new(MutableCommand {
            buffer: Arc::downgrade(&buffer.arc()),
            kernel: kernel.arc(),
            property_list,
            fields,
            launch: Mutex::new(launch),
        })
    }

    /// True if it was recorded in this command buffer.
    pub(crate) fn is_of(&self, buffer: &Object<CommandBuffer>) -> bool {
        self.buffer.as_ptr() == &raw const *buffer
    }

    /// What may be changed.
    pub(crate) fn fields(&self) -> u64 {
        self.fields
    }

    /// True if it can be launched.
    pub(crate) fn has_all_args(&self) -> bool {
        lock(&self.launch).kernel.has_all_args()
    }

    /// Posts it.
    pub(crate) fn post(&self, queue: &Object<Queue>, request: &Request<'_>) -> Enqueued {
        let Launch { kernel, range, .. } = lock(&self.launch).clone();
        match range {
            Some(range) => kernel.enqueue(queue, request, range),
            None => Ok(queue.enqueue_nothing(request)?.event),
        }
    }

    /// `clGetMutableCommandInfoKHR`.
    pub(crate) fn info(&self, param: u32) -> ClResult<Info> {
        let Range { dims, offset, global, local } = lock(&self.launch).given;
        let sizes = |sizes: [usize; 3]| Info::list(&sizes[..dims as usize]);
        let buffer = self.buffer.upgrade();
        Ok(match param {
            CL_MUTABLE_COMMAND_COMMAND_QUEUE_KHR => {
                Info::handle(buffer.map_or(RawHandle::NULL, |buffer| buffer.queues()[0].handle()))
            }
            CL_MUTABLE_COMMAND_COMMAND_BUFFER_KHR => {
                Info::handle(buffer.map_or(RawHandle::NULL, |buffer| buffer.handle()))
            }
            CL_MUTABLE_COMMAND_COMMAND_TYPE_KHR => Info::value(CL_COMMAND_NDRANGE_KERNEL),
            CL_MUTABLE_COMMAND_PROPERTIES_ARRAY_KHR => Info::list(&self.property_list),
            CL_MUTABLE_DISPATCH_KERNEL_KHR => Info::handle(self.kernel.handle()),
            CL_MUTABLE_DISPATCH_DIMENSIONS_KHR => Info::value(dims),
            CL_MUTABLE_DISPATCH_GLOBAL_WORK_OFFSET_KHR => sizes(offset),
            CL_MUTABLE_DISPATCH_GLOBAL_WORK_SIZE_KHR => sizes(global),
            // "If a local work-item size was not set, zero is returned for each element in the array."
            CL_MUTABLE_DISPATCH_LOCAL_WORK_SIZE_KHR => sizes(local.unwrap_or_default()),
            // CL_INVALID_VALUE if param_name is not one of the supported values.
            _ => return Err(ClError::INVALID_VALUE),
        })
    }
}

/// Changes of recorded launches, which are made all at once or not at all.
#[derive(Debug, Default)]
pub(crate) struct Update(Vec<(Arc<Object<MutableCommand>>, Launch)>);

impl Update {
    /// What a command launches after the changes so far.
    pub(crate) fn launch(&self, command: &Object<MutableCommand>) -> Launch {
        let changed = self.0.iter().rev().find(|(other, _)| other.handle() == command.handle());
        changed.map_or_else(|| lock(&command.launch).clone(), |(_, launch)| launch.clone())
    }

    /// Adds what a command shall launch.
    pub(crate) fn add(&mut self, command: &Object<MutableCommand>, launch: Launch) {
        self.0.push((command.arc(), launch));
    }

    /// Makes the changes.
    pub(crate) fn apply(self) {
        for (command, launch) in self.0 {
            *lock(&command.launch) = launch;
        }
    }
}
