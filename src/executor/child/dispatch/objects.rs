//! Contexts, queues, buffers and user events: making them and giving them up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};

use paragpu_protocol::command::{
    CreateBuffer, CreateContext, CreateQueue, CreateSubBuffer, CreateUserEvent, Release, SetUserEvent,
    WatchEvent,
};
use paragpu_protocol::fault::Fault;
use paragpu_protocol::frame::Tail;
use paragpu_protocol::limits::MAX_CONTEXT_DEVICES;

use super::super::backend::{Backend, ClError, Outcome, QueueHints};
use super::super::context::Context;
use super::super::objects::{
    BufferObject, ContextObject, EventObject, EventState, Object, QueueObject, QueueState, creation, handle,
    handles,
};
use super::super::quota::Charge;
use super::super::record::{BufferRecord, QueueRecord};
use super::{require, reserved, size};

/// `CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE`
pub(super) const OUT_OF_ORDER: u64 = 1 << 0;
/// `CL_QUEUE_PROFILING_ENABLE`
pub(super) const PROFILING: u64 = 1 << 1;

/// `CL_MEM_READ_WRITE`, `WRITE_ONLY`, `READ_ONLY`, of which at most one.
pub(super) const KERNEL_ACCESS: u64 = 0b111;
/// `CL_MEM_HOST_WRITE_ONLY`, `HOST_READ_ONLY`, `HOST_NO_ACCESS`, of which at most one.
const HOST_ACCESS: u64 = 0b111 << 7;

pub(super) fn check_flags(flags: u64) -> Result<(), Fault> {
    let one_at_most = |bits: u64| bits.count_ones() <= 1;
    let fine = flags & !(KERNEL_ACCESS | HOST_ACCESS) == 0
        && one_at_most(flags & KERNEL_ACCESS)
        && one_at_most(flags & HOST_ACCESS);
    require(fine, Fault::BadValue)
}

fn queue_hints(word: u32) -> Result<QueueHints, Fault> {
    let [priority, throttle, none @ ..] = word.to_le_bytes();
    let known = |hint: u8| matches!(hint, 0 | 1 | 2 | 4);
    require(known(priority) && known(throttle) && none == [0, 0], Fault::BadValue)?;
    Ok(QueueHints { priority, throttle })
}

/// What was made, and what it takes of the vGPU's memory.
pub(super) fn split<T>(made: Result<(T, Charge), ClError>) -> (Result<T, ClError>, Option<Charge>) {
    match made {
        Ok((made, charge)) => (Ok(made), Some(charge)),
        Err(error) => (Err(error), None),
    }
}

impl<B: Backend> Context<B> {
    /// Makes something that takes so many bytes of device memory, if the vGPU may have them.
    pub(super) fn charged<T>(
        &self,
        bytes: u64,
        make: impl FnOnce() -> Result<T, ClError>,
    ) -> Result<(T, Charge), ClError> {
        let charge = self.quota.take(bytes).ok_or(ClError::ALLOCATION_FAILURE)?;
        Ok((make()?, charge))
    }

    pub(crate) fn create_context(&mut self, body: &CreateContext, tail: Tail<'_>) -> Result<(), Fault> {
        require(body.create.parent.get() == 0, Fault::Reserved)?;
        let devices = self.device_list(tail.data)?;
        require(!devices.is_empty() && devices.len() <= MAX_CONTEXT_DEVICES, Fault::BadValue)?;
        let reply = self.reply(&body.create.reply)?;
        let id = body.create.id.get();
        let common = self.objects.admit(id)?;
        let host = handles(&devices).and_then(|devices| self.backend.create_context(&devices));
        let outcome = creation(&host);
        let object = ContextObject::new(common, devices, host, self.kept.clone());
        self.objects.insert(id, Object::Context(Arc::new(object)));
        reply.status(outcome);
        Ok(())
    }

    pub(crate) fn create_queue(&mut self, body: &CreateQueue) -> Result<(), Fault> {
        let hints = queue_hints(body.hints.get())?;
        let context = self.objects.context(body.create.parent.get())?;
        let device = self.objects.device(body.device.get())?;
        let properties = body.properties.get();
        require(context.has_device(&device), Fault::BadValue)?;
        require(properties & !(OUT_OF_ORDER | PROFILING) == 0, Fault::BadValue)?;
        let reply = self.reply(&body.create.reply)?;
        let id = body.create.id.get();
        let common = self.objects.admit(id)?;
        let host = handle(&context.host).and_then(|context| {
            self.backend.create_queue(context, &handle(&device.host)?.handle, properties, hints)
        });
        let outcome = creation(&host);
        let object = QueueObject {
            common,
            record: QueueRecord {
                context: context.common.serial,
                device: device.name(),
                properties,
                hints,
                deferred: None,
            },
            context,
            device,
            host,
            unflushed: AtomicBool::new(false),
            unwatched: AtomicU32::new(0),
            unwatched_load: AtomicU64::new(0),
            landing: Arc::default(),
            state: QueueState::default().into(),
        };
        self.objects.insert(id, Object::Queue(Arc::new(object)));
        reply.status(outcome);
        Ok(())
    }

    pub(crate) fn create_buffer(&mut self, body: &CreateBuffer) -> Result<(), Fault> {
        let context = self.objects.context(body.create.parent.get())?;
        let (flags, bytes) = (body.flags.get(), size(body.size)?);
        check_flags(flags)?;
        let init = if body.init.is_none() { None } else { Some(self.regions.window(&body.init)?) };
        if let Some(init) = &init {
            require(init.len() == bytes, Fault::BadValue)?;
        }
        let reply = self.reply(&body.create.reply)?;
        let id = body.create.id.get();
        let common = self.objects.admit(id)?;
        let made = match &context.host {
            Err(error) => Err(*error),
            Ok(_) if bytes == 0 || bytes as u64 > context.max_alloc() => Err(ClError::INVALID_BUFFER_SIZE),
            Ok(context) => self
                .charged(bytes as u64, || self.backend.create_buffer(context, flags, bytes, init.as_ref())),
        };
        let (host, charge) = split(made);
        if host.is_ok() && init.is_some() {
            self.usage.wrote(bytes, 1);
        }
        let outcome = creation(&host);
        let record = BufferRecord {
            context: context.common.serial,
            flags,
            size: bytes as u64,
            parent: None,
            shared: None,
            place: None,
        };
        let object = BufferObject { _charge: charge, ..BufferObject::new(common, context, record, host) };
        self.objects.insert(id, Object::Buffer(Arc::new(object)));
        reply.status(outcome);
        Ok(())
    }

    pub(crate) fn create_sub_buffer(&mut self, body: &CreateSubBuffer) -> Result<(), Fault> {
        let parent = self.objects.buffer(body.create.parent.get())?;
        let (flags, origin, bytes) = (body.flags.get(), size(body.origin)?, size(body.size)?);
        check_flags(flags)?;
        let end = origin.checked_add(bytes).ok_or(Fault::BadValue)?;
        require(parent.parent.is_none(), Fault::BadValue)?;
        require(bytes != 0 && end as u64 <= parent.record.size, Fault::BadValue)?;
        let reply = self.reply(&body.create.reply)?;
        let id = body.create.id.get();
        let common = self.objects.admit(id)?;
        let host = handle(&parent.host)
            .and_then(|parent| self.backend.create_sub_buffer(parent, flags, origin, bytes));
        let outcome = creation(&host);
        let record = BufferRecord {
            context: parent.context.common.serial,
            flags,
            size: bytes as u64,
            parent: Some((parent.common.serial, origin as u64)),
            shared: None,
            place: None,
        };
        let context = parent.context.clone();
        let object =
            BufferObject { parent: Some(parent), ..BufferObject::new(common, context, record, host) };
        self.objects.insert(id, Object::Buffer(Arc::new(object)));
        reply.status(outcome);
        Ok(())
    }

    pub(crate) fn create_user_event(&mut self, body: &CreateUserEvent) -> Result<(), Fault> {
        let context = self.objects.context(body.create.parent.get())?;
        let reply = self.reply(&body.create.reply)?;
        let id = body.create.id.get();
        let common = self.objects.admit(id)?;
        let host = handle(&context.host).and_then(|context| self.backend.create_user_event(context));
        let outcome = creation(&host);
        let state = Arc::new(EventState::user());
        let event = Arc::new(EventObject { common, context, state, host });
        match &event.host {
            Ok(_) => self.open.push(event.clone()),
            Err(error) => event.state.complete(Outcome::failed(*error)),
        }
        self.objects.insert(id, Object::Event(event));
        reply.status(outcome);
        Ok(())
    }

    pub(crate) fn set_user_event(&mut self, body: &SetUserEvent) -> Result<(), Fault> {
        let event = self.objects.event(body.event.get())?;
        let status = body.status.get();
        require(event.state.is_user() && status <= 0, Fault::BadValue)?;
        let Ok(host) = &event.host else { return Ok(()) };
        // A second time is an error that the guest's driver has returned already.
        require(event.state.is_open(), Fault::BadValue)?;
        self.open.retain(|open| !Arc::ptr_eq(open, &event));
        // Before the device hears of it: commands that it lets go may complete at once.
        event.state.complete(Outcome { status, profile: None });
        if let Some(pacer) = &self.pacer {
            pacer.release_gated();
        }
        if let Err(error) = self.backend.set_user_event(host, status) {
            log::debug!("ending a user event: {error}");
        }
        Ok(())
    }

    pub(crate) fn watch_event(&mut self, body: &WatchEvent) -> Result<(), Fault> {
        reserved(body.reserved)?;
        let event = self.objects.event(body.event.get())?;
        require(!event.state.is_user(), Fault::BadValue)?;
        let reply = self.reply(&body.reply)?;
        let (true, Ok(host)) = (reply.is_wanted(), &event.host) else {
            reply.status(Ok(()));
            return Ok(());
        };
        // A command that nobody submits never starts.
        self.flush();
        if event.state.await_start(reply.later(None, event.state.gates.clone(), 0)) {
            let state = Arc::downgrade(&event.state);
            let started = Box::new(move || {
                if let Some(state) = state.upgrade() {
                    state.start();
                }
            });
            event.state.keep_watch(self.backend.watch_start(host, started));
        }
        Ok(())
    }

    pub(crate) fn release(&mut self, body: &Release) -> Result<(), Fault> {
        reserved(body.reserved)?;
        if let Object::Queue(queue) = self.objects.remove(body.id.get())? {
            // Its commands go on (OpenCL 3.0, clReleaseCommandQueue: an implicit flush).
            if let Ok(host) = &queue.host
                && let Err(error) = self.backend.flush(host)
            {
                log::debug!("flush: {error}");
            }
        }
        Ok(())
    }
}
