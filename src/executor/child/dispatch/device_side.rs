//! What kernels alone use: pipes, and the queues in which they enqueue.

use std::sync::Arc;

use paragpu_protocol::command::{CreateDeviceQueue, CreatePipe, SetDefaultQueue};
use paragpu_protocol::fault::Fault;

use super::super::backend::{Backend, ClError};
use super::super::context::Context;
use super::super::objects::{DeviceQueueObject, Object, PipeObject, creation, handle};
use super::super::record::{DeviceQueueRecord, PipeRecord};
use super::objects::{OUT_OF_ORDER, PROFILING, split};
use super::{require, reserved};

/// `CL_QUEUE_ON_DEVICE`
const ON_DEVICE: u64 = 1 << 2;
/// `CL_QUEUE_ON_DEVICE_DEFAULT`
const DEFAULT: u64 = 1 << 3;

impl<B: Backend> Context<B> {
    pub(crate) fn create_pipe(&mut self, body: &CreatePipe) -> Result<(), Fault> {
        let context = self.objects.context(body.create.parent.get())?;
        let (packet_size, max_packets) = (body.packet_size.get(), body.max_packets.get());
        require(packet_size != 0 && max_packets != 0, Fault::BadValue)?;
        let reply = self.reply(&body.create.reply)?;
        let id = body.create.id.get();
        let common = self.objects.admit(id)?;
        // Drivers need not look.
        let bytes = u64::from(packet_size) * u64::from(max_packets);
        let made = match &context.host {
            Err(error) => Err(*error),
            Ok(_) if bytes > context.max_alloc() => Err(ClError::INVALID_PIPE_SIZE),
            Ok(context) => {
                self.charged(bytes, || self.backend.create_pipe(context, packet_size, max_packets))
            }
        };
        let (host, charge) = split(made);
        let outcome = creation(&host);
        let record = PipeRecord { context: context.common.serial, packet_size, max_packets };
        self.objects.insert(
            id,
            Object::Pipe(Arc::new(PipeObject { common, context, record, _charge: charge, host })),
        );
        reply.status(outcome);
        Ok(())
    }

    pub(crate) fn create_device_queue(&mut self, body: &CreateDeviceQueue) -> Result<(), Fault> {
        let context = self.objects.context(body.create.parent.get())?;
        let device = self.objects.device(body.device.get())?;
        let properties = body.properties.get();
        let size = Some(body.size.get()).filter(|size| *size != 0);
        require(context.has_device(&device), Fault::BadValue)?;
        let needed = ON_DEVICE | OUT_OF_ORDER;
        require(properties & !(PROFILING | DEFAULT) == needed, Fault::BadValue)?;
        let reply = self.reply(&body.create.reply)?;
        let id = body.create.id.get();
        let common = self.objects.admit(id)?;
        let host = handle(&context.host).and_then(|context| {
            let device = &handle(&device.host)?.handle;
            self.backend.create_device_queue(context, device, properties, size)
        });
        let record =
            DeviceQueueRecord { context: context.common.serial, device: device.name(), properties, size };
        let queue = Arc::new(DeviceQueueObject { common, context, device, record, host });
        if let (Ok(host), true) = (&queue.host, properties & DEFAULT != 0) {
            queue.context.set_default_queue(&queue, host);
        }
        let outcome = creation(&queue.host);
        self.objects.insert(id, Object::DeviceQueue(queue));
        reply.status(outcome);
        Ok(())
    }

    pub(crate) fn set_default_queue(&mut self, body: &SetDefaultQueue) -> Result<(), Fault> {
        reserved(body.reserved)?;
        let queue = self.objects.device_queue(body.queue.get())?;
        let set = handle(&queue.host).and_then(|host| {
            let context = handle(&queue.context.host)?;
            let device = &handle(&queue.device.host)?.handle;
            self.backend.set_default_queue(context, device, host)?;
            queue.context.set_default_queue(&queue, host);
            Ok(())
        });
        if let Err(error) = set {
            log::debug!("setting the default queue of a device: {error}");
        }
        Ok(())
    }
}
