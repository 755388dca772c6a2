//! Queues on a device: kernels enqueue there. To the application such a queue is a handle that it passes to kernels; whatever
//! takes commands takes only a [`Queue`](crate::core::queue::Queue).

use std::sync::{Arc, Mutex, Weak};

use opencl_sys::{
    CL_QUEUE_CONTEXT, CL_QUEUE_DEVICE, CL_QUEUE_DEVICE_DEFAULT, CL_QUEUE_ON_DEVICE_DEFAULT,
    CL_QUEUE_PROPERTIES, CL_QUEUE_PROPERTIES_ARRAY, CL_QUEUE_REFERENCE_COUNT, CL_QUEUE_SIZE,
};
use paragpu_protocol::command::{CreateDeviceQueue, SetDefaultQueue};
use paragpu_protocol::types::Create;

use crate::boundary::object::{Kind, Object, RawHandle};
use crate::core::context::{self, Context};
use crate::core::device::Device;
use crate::core::error::{ClError, ClResult};
use crate::core::info::Info;
use crate::core::lock;

/// A queue on a device.
#[derive(Debug)]
pub(crate) struct DeviceQueue {
    context: Arc<Object<Context>>,
    device: Arc<Object<Device>>,
    id: u32,
    properties: u64,
    size: Option<u32>,
    /// As the application gave them.
    property_list: Vec<u64>,
}

impl Kind for DeviceQueue {
    const TAG: u32 = u32::from_le_bytes(*b"devq");
    const INVALID: ClError = ClError::INVALID_COMMAND_QUEUE;
}

impl DeviceQueue {
    /// Creates a queue with properties that the device has, of `size` bytes, or as large as the device prefers. One that is to
    /// be the default is the one that is that already, if there is one.
    pub(crate) fn new(
        context: &Object<Context>,
        device: &Object<Device>,
        (properties, size): (u64, Option<u32>),
        property_list: Vec<u64>,
    ) -> ClResult<Arc<Object<DeviceQueue>>> {
        let is_default = properties & CL_QUEUE_ON_DEVICE_DEFAULT != 0;
        // "If a default device queue has already been created …, will return the default device queue".
        let present = if is_default { context.default_queues().of(device) } else { None };
        if let Some(queue) = present {
            return Ok(queue);
        }
        let connection = context.connection();
        let id = connection.new_id();
        let slot = connection.slot()?;
        let body = CreateDeviceQueue {
            create: Create { reply: slot.to_ref(), ..context::create(id, context.id()) },
            device: context.reference(device)?.into(),
            size: size.unwrap_or(0).into(),
            properties: properties.into(),
        };
        connection.send(&body, &[], &[])?;
        // From here on dropping it releases it on the host.
        let (context, device) = (context.arc(), device.arc());
        let queue = Object::new(DeviceQueue { context, device, id, properties, size, property_list });
        // Of what size queues can be, the host knows.
        connection.wait(&slot).ok()?;
        if is_default {
            queue.context.default_queues().set(&queue);
        }
        Ok(queue)
    }

    /// What the host calls the queue.
    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// Its context.
    pub(crate) fn context(&self) -> &Arc<Object<Context>> {
        &self.context
    }

    /// Its device.
    pub(crate) fn device(&self) -> &Arc<Object<Device>> {
        &self.device
    }
}

impl Object<DeviceQueue> {
    /// `clSetDefaultDeviceCommandQueue`.
    pub(crate) fn make_default(&self) -> ClResult<()> {
        let body = SetDefaultQueue { queue: self.id.into(), reserved: 0.into() };
        self.context.connection().send(&body, &[], &[])?;
        self.context.default_queues().set(&self.arc());
        Ok(())
    }

    /// `clGetCommandQueueInfo`.
    pub(crate) fn info(&self, param: u32) -> ClResult<Info> {
        Ok(match param {
            CL_QUEUE_CONTEXT => Info::handle(self.context.handle()),
            CL_QUEUE_DEVICE => Info::handle(self.device.handle()),
            CL_QUEUE_REFERENCE_COUNT => Info::value(self.reference_count()),
            CL_QUEUE_PROPERTIES => Info::value(self.properties),
            CL_QUEUE_PROPERTIES_ARRAY => Info::list(&self.property_list),
            CL_QUEUE_SIZE => {
                Info::value(self.size.unwrap_or_else(|| self.device.preferred_device_queue_size()))
            }
            CL_QUEUE_DEVICE_DEFAULT => self.context.default_queues().info(&self.device),
            // CL_INVALID_VALUE if param_name is not one of the supported values.
            _ => return Err(ClError::INVALID_VALUE),
        })
    }
}

impl Drop for DeviceQueue {
    fn drop(&mut self) {
        self.context.connection().release(self.id);
    }
}

/// The default queues on the devices of a context.
#[derive(Debug, Default)]
pub(crate) struct DefaultQueues(Mutex<Vec<Weak<Object<DeviceQueue>>>>);

impl DefaultQueues {
    /// The one on a device.
    pub(crate) fn of(&self, device: &Object<Device>) -> Option<Arc<Object<DeviceQueue>>> {
        let queues = lock(&self.0);
        let mut alive = queues.iter().filter_map(Weak::upgrade);
        alive.find(|queue| queue.device.handle() == device.handle())
    }

    /// `CL_QUEUE_DEVICE_DEFAULT`.
    pub(crate) fn info(&self, device: &Object<Device>) -> Info {
        Info::handle(self.of(device).map_or(RawHandle::NULL, |queue| queue.handle()))
    }

    fn set(&self, queue: &Arc<Object<DeviceQueue>>) {
        let mut queues = lock(&self.0);
        let is_other = |other: &Arc<Object<DeviceQueue>>| other.device.handle() != queue.device.handle();
        queues.retain(|other| other.upgrade().as_ref().is_some_and(is_other));
        queues.push(Arc::downgrade(queue));
    }
}
