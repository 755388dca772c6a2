//! Contexts.

use std::collections::HashMap;
use std::ffi::CStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use opencl_sys::{
    CL_CONTEXT_DEVICES, CL_CONTEXT_NUM_DEVICES, CL_CONTEXT_PROPERTIES, CL_CONTEXT_REFERENCE_COUNT,
};
use paragpu_protocol::command::CreateContext;
use paragpu_protocol::image::{ImageFormat, ImageType};
use paragpu_protocol::info::InfoKind;
use paragpu_protocol::limits::MAX_CONTEXT_DEVICES;
use paragpu_protocol::svm::{MemoryModel, PLACES};
use paragpu_protocol::types::{Create, SlotRef};

use crate::boundary::callback::{Callback, HandleFn, NotifyFn};
use crate::boundary::object::{Kind, Object, RawHandle};
use crate::core::connection::Connection;
use crate::core::device::{self, Device};
use crate::core::device_queue::DefaultQueues;
use crate::core::error::{ClError, ClResult, refuse_if};
use crate::core::info::{self, Info};
use crate::core::lock;
use crate::core::notifier::Notifier;
use crate::core::query::Question;
use crate::core::queue::Queue;
use crate::core::svm::Allocations;

/// Told to the application's callback when the host has given up the context.
const LOST: &CStr = c"paragpu: the host lost this context; a new one will work";

/// A context: devices, and what is shared between them.
#[derive(Debug)]
pub(crate) struct Context {
    connection: Arc<Connection>,
    id: u32,
    devices: Vec<Arc<Object<Device>>>,
    /// What the host calls them.
    references: Vec<u32>,
    places_buffers: OnceLock<bool>,
    properties: Vec<isize>,
    notify: Option<Callback<NotifyFn>>,
    is_lost_told: AtomicBool,
    destructors: Mutex<Vec<Callback<HandleFn>>>,
    image_formats: Mutex<FormatLists>,
    notifier: Notifier,
    allocations: Allocations,
    queues: Mutex<Vec<Weak<Object<Queue>>>>,
    default_queues: DefaultQueues,
}

/// The host's lists of image formats, by `cl_mem_flags` and type.
type FormatLists = HashMap<(u64, ImageType), Vec<ImageFormat>>;

impl Kind for Context {
    const TAG: u32 = u32::from_le_bytes(*b"cont");
    const INVALID: ClError = ClError::INVALID_CONTEXT;

    fn last_words(&mut self, handle: RawHandle) {
        self.notifier.stop();
        call_destructors(&self.destructors, handle);
    }
}

/// Calls destructor callbacks: "in the reverse order in which they were registered".
pub(crate) fn call_destructors(destructors: &Mutex<Vec<Callback<HandleFn>>>, handle: RawHandle) {
    let callbacks = std::mem::take(&mut *lock(destructors));
    callbacks.iter().rev().for_each(|callback| callback.call(handle));
}

/// What creates an object whose outcome nobody waits for.
pub(crate) fn create(id: u32, parent: u32) -> Create {
    Create { id: id.into(), parent: parent.into(), reply: SlotRef::NONE }
}

impl Context {
    /// Creates a context on devices without duplicates.
    pub(crate) fn new(
        devices: Vec<Arc<Object<Device>>>,
        properties: Vec<isize>,
        notify: Option<Callback<NotifyFn>>,
    ) -> ClResult<Arc<Object<Context>>> {
        // CL_OUT_OF_RESOURCES if there is a failure to allocate resources required by the OpenCL implementation on the
        // device: more devices than the host takes.
        refuse_if(devices.len() > MAX_CONTEXT_DEVICES, ClError::OUT_OF_RESOURCES)?;
        let connection = Connection::current()?;
        let id = connection.new_id();
        let references: Vec<u32> =
            devices.iter().map(|device| device.reference(&connection)).collect::<ClResult<_>>()?;
        let data: Vec<u8> = references.iter().flat_map(|reference| reference.to_le_bytes()).collect();
        let slot = connection.slot()?;
        let create = Create { reply: slot.to_ref(), ..create(id, 0) };
        connection.send(&CreateContext { create }, &[], &data)?;
        // From here on dropping it releases it on the host.
        let context = Object::new(Context {
            notifier: Notifier::new(connection.clone()),
            connection: connection.clone(),
            id,
            devices,
            references,
            places_buffers: OnceLock::new(),
            properties,
            notify,
            is_lost_told: AtomicBool::new(false),
            destructors: Mutex::default(),
            image_formats: Mutex::default(),
            allocations: Allocations::default(),
            queues: Mutex::default(),
            default_queues: DefaultQueues::default(),
        });
        // Which devices go together, the host knows.
        connection.wait(&slot).ok()?;
        Ok(context)
    }

    /// The connection that the context lives in.
    pub(crate) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// What the host calls the context.
    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// Its devices.
    pub(crate) fn devices(&self) -> &[Arc<Object<Device>>] {
        &self.devices
    }

    /// True if the device is one of the context's.
    pub(crate) fn has_device(&self, device: &Object<Device>) -> bool {
        self.devices.iter().any(|own| own.handle() == device.handle())
    }

    /// True if a device of the context has images.
    pub(crate) fn has_images(&self) -> bool {
        self.devices.iter().any(|device| device.has_images())
    }

    /// What the host has answered to `clGetSupportedImageFormats`.
    pub(crate) fn image_formats(&self) -> &Mutex<FormatLists> {
        &self.image_formats
    }

    /// How the memory of all its devices relates to that of this process.
    pub(crate) fn memory_model(&self) -> MemoryModel {
        let models = self.devices.iter().map(|device| device.memory_model());
        models.fold(MemoryModel::Shared, |one, other| match (one, other) {
            (MemoryModel::Shared, other) => other,
            (MemoryModel::Coarse, MemoryModel::Shared | MemoryModel::Coarse) => MemoryModel::Coarse,
            _ => MemoryModel::Apart,
        })
    }

    /// True if buffers can lie in shared memory without an address. Waits for the host the first time.
    pub(crate) fn places_buffers(&self) -> bool {
        *self.places_buffers.get_or_init(|| {
            let question = Question { kind: InfoKind::Memory, object: self.id, param: PLACES, index: 0 };
            let answer = || question.ask(&self.connection).ok();
            self.memory_model() == MemoryModel::Shared
                && answer().is_some_and(|answer| info::number::<u32>(&answer) == Some(1))
        })
    }

    /// Its shared virtual memory.
    pub(crate) fn allocations(&self) -> &Allocations {
        &self.allocations
    }

    /// Notes a queue of the context.
    pub(crate) fn add_queue(&self, queue: &Arc<Object<Queue>>) {
        let mut queues = lock(&self.queues);
        queues.retain(|queue| queue.strong_count() > 0);
        queues.push(Arc::downgrade(queue));
    }

    /// The default queues on its devices.
    pub(crate) fn default_queues(&self) -> &DefaultQueues {
        &self.default_queues
    }

    /// Waits until everything that is in the context's queues now is complete.
    pub(crate) fn finish_queues(&self) -> ClResult<()> {
        let queues: Vec<_> = lock(&self.queues).iter().filter_map(Weak::upgrade).collect();
        queues.iter().try_for_each(|queue| queue.finish())
    }

    /// What the host calls a device of the context's.
    pub(crate) fn reference(&self, device: &Object<Device>) -> ClResult<u32> {
        let index = self.devices.iter().position(|own| own.handle() == device.handle());
        index.map(|index| self.references[index]).ok_or(ClError::INVALID_DEVICE)
    }

    /// Who calls the callbacks of this context's events.
    pub(crate) fn notifier(&self) -> &Notifier {
        &self.notifier
    }

    /// Tells the application of an error that no call of its own reports as what it is.
    pub(crate) fn tell(&self, message: &CStr) {
        if let Some(notify) = &self.notify {
            notify.call(message);
        }
    }

    /// Tells the application, once, that the context is lost.
    pub(crate) fn tell_if_lost(&self) {
        if self.connection.is_lost() && !self.is_lost_told.swap(true, Ordering::Relaxed) {
            self.tell(LOST);
        }
    }

    /// `clSetContextDestructorCallback`.
    pub(crate) fn on_destruction(&self, callback: Callback<HandleFn>) {
        lock(&self.destructors).push(callback);
    }
}

impl Object<Context> {
    /// `clGetContextInfo`.
    pub(crate) fn info(&self, param: u32) -> ClResult<Info> {
        Ok(match param {
            CL_CONTEXT_REFERENCE_COUNT => Info::value(self.reference_count()),
            CL_CONTEXT_NUM_DEVICES => Info::value(self.devices.len() as u32),
            CL_CONTEXT_DEVICES => Info::handles(device::handles(&self.devices).into_iter()),
            CL_CONTEXT_PROPERTIES => Info::list(&self.properties),
            // CL_INVALID_VALUE if param_name is not one of the supported values.
            _ => return Err(ClError::INVALID_VALUE),
        })
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        self.connection.release(self.id);
    }
}
