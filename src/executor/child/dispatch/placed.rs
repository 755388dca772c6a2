//! Buffers that lie in the guest's memory without an address: see `CreatePlacedBuffer`.

use std::sync::Arc;

use paragpu_protocol::command::CreatePlacedBuffer;
use paragpu_protocol::fault::Fault;

use super::super::backend::{Backend, ClError, HostDevice, MemoryModel, Order, QueueHints, Work};
use super::super::context::Context;
use super::super::objects::{BufferObject, ContextObject, Object, SharedMemory, creation, handle};
use super::super::record::BufferRecord;
use super::objects::{check_flags, split};
use super::require;
use crate::sys::map::{Mapping, PAGE_BYTES, Window};

/// Length of the buffer that is tried: drivers copy memory whose length or place they do not like.
const TRIED_BYTES: usize = 100;

impl<B: Backend> Context<B> {
    pub(crate) fn create_placed_buffer(&mut self, body: &CreatePlacedBuffer) -> Result<(), Fault> {
        let context = self.objects.context(body.create.parent.get())?;
        let flags = body.flags.get();
        check_flags(flags)?;
        let memory = self.regions.window(&body.memory)?;
        require(!memory.is_empty(), Fault::BadValue)?;
        let reply = self.reply(&body.create.reply)?;
        let id = body.create.id.get();
        let common = self.objects.admit(id)?;
        let bytes = memory.len() as u64;
        let placed = Arc::new(SharedMemory::of_buffer(memory.clone()));
        let made = match &context.host {
            Err(error) => Err(*error),
            Ok(_) if !self.places(&context) => Err(ClError::INVALID_OPERATION),
            Ok(_) if bytes > context.max_alloc() => Err(ClError::INVALID_BUFFER_SIZE),
            Ok(context) => self.charged(bytes, || {
                self.backend.create_shared_buffer(context, flags, memory, Box::new(Arc::clone(&placed)))
            }),
        };
        let (host, charge) = split(made);
        let outcome = creation(&host);
        let record = BufferRecord {
            context: context.common.serial,
            flags,
            size: bytes,
            parent: None,
            shared: None,
            place: Some((body.memory.region.get(), body.memory.offset.get())),
        };
        let object = BufferObject {
            placed: Some(placed),
            _charge: charge,
            ..BufferObject::new(common, context, record, host)
        };
        self.objects.insert(id, Object::Buffer(Arc::new(object)));
        reply.status(outcome);
        Ok(())
    }

    /// True if all devices of the context leave a buffer's bytes where they are, so that whoever looks there sees what commands
    /// have written. `CL_MEM_USE_HOST_PTR` does not promise that, so it is tried, once for each context.
    pub(crate) fn places(&self, context: &ContextObject<B>) -> bool {
        *context.places.get_or_init(|| {
            let leaves = |device: &HostDevice<B::Device>| {
                device.limits.memory == MemoryModel::Shared
                    && self.leaves_in_place(context, &device.handle).unwrap_or_else(|error| {
                        log::debug!("trying a buffer in host memory: {error}");
                        false
                    })
            };
            context.devices.iter().all(|device| device.host.as_ref().is_ok_and(leaves))
        })
    }

    fn leaves_in_place(&self, context: &ContextObject<B>, device: &B::Device) -> Result<bool, ClError> {
        let context = handle(&context.host)?;
        let none = |_| ClError::OUT_OF_HOST_MEMORY;
        let memory = Arc::new(Mapping::anonymous(2 * PAGE_BYTES).map_err(none)?);
        let window = |start: usize| {
            Window::new(Arc::clone(&memory), start as u64, TRIED_BYTES as u64).ok_or(ClError::INVALID_VALUE)
        };
        let (bytes, seen) = (window(PAGE_BYTES)?, window(0)?);
        let queue = self.backend.create_queue(context, device, 0, QueueHints::default())?;
        let buffer = self.backend.create_shared_buffer(context, 1, bytes.clone(), Box::new(()))?;
        let run = |work| {
            let order = Order { wait: &[], event: false, profile: false, done: None };
            self.backend.enqueue(&queue, work, order)?;
            self.backend.finish(&queue)
        };
        let fill = Work::Fill { buffer: &buffer, pattern: &[0x5a; 4], offset: 0, size: TRIED_BYTES };
        run(fill)?;
        let is_written = bytes.to_vec() == [0x5a; TRIED_BYTES];
        let is_whole = bytes.write(0, &[0xa5; TRIED_BYTES]);
        run(Work::Read { buffer: &buffer, offset: 0, to: seen.clone() })?;
        Ok(is_written && is_whole && seen.to_vec() == [0xa5; TRIED_BYTES])
    }
}
