//! A context's objects: records with host handles beside them, by the guest's ids.

mod contexts;
mod device_side;
mod devices;
mod events;

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::fast::RandomState;
use paragpu_protocol::device::DeviceRef;
use paragpu_protocol::fault::Fault;
use paragpu_protocol::limits::MAX_OBJECTS;

use super::backend::{Arg, ArgValue, ArgValueOf, Backend, ClError, HostDevice, ImageLayout};
use super::completion::Reply;
use super::landing::Landing;
use super::newest::Newest;
use super::pace::Cost;
use super::quota::Charge;
use super::record::{
    ArgRecord, BufferRecord, ContextRecord, EventRecord, ImageRecord, KernelRecord, ObjectRecord,
    QueueRecord, Record, SamplerRecord, Serial,
};

pub(crate) use super::programs::ProgramObject;
pub(crate) use contexts::ContextObject;
pub(crate) use device_side::{DeviceQueueObject, PipeObject};
pub(crate) use devices::{DeviceObject, Part, Place, handles, names};
pub(crate) use events::{EventState, Gates};

/// A host handle, or the error with which the object's creation failed: every use of it fails with that.
pub(crate) type Host<T> = Result<T, ClError>;

/// The handle, for what uses it.
pub(crate) fn handle<T>(host: &Host<T>) -> Result<&T, ClError> {
    host.as_ref().map_err(|error| *error)
}

/// How the creation went, for whoever waits for it.
pub(crate) fn creation<T>(host: &Host<T>) -> Result<(), ClError> {
    handle(host).map(|_| ())
}

/// Counts an object for as long as it lives, be it by its id or by others that need it.
#[derive(Debug)]
pub(crate) struct Live(Arc<AtomicUsize>);

impl Drop for Live {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What every object has.
#[derive(Debug)]
pub(crate) struct Common {
    pub(crate) serial: Serial,
    _live: Live,
}

#[derive(Debug)]
pub(crate) struct QueueObject<B: Backend> {
    pub(crate) common: Common,
    pub(crate) context: Arc<ContextObject<B>>,
    pub(crate) device: Arc<DeviceObject<B>>,
    pub(crate) record: QueueRecord,
    pub(crate) host: Host<B::Queue>,
    /// True while commands wait for a flush.
    pub(crate) unflushed: AtomicBool,
    /// Commands since the last one whose end is waited for.
    pub(crate) unwatched: AtomicU32,
    /// Nanoseconds that these will take, by estimate.
    pub(crate) unwatched_load: AtomicU64,
    /// Its commands whose ends the guest is told.
    pub(crate) landing: Arc<Landing>,
    pub(crate) state: Mutex<QueueState>,
}

/// What a queue remembers from command to command.
#[derive(Debug, Default)]
pub(crate) struct QueueState {
    /// First error that nothing else has reported.
    pub(crate) deferred: Option<ClError>,
    /// Open user events that commands in the queue wait for.
    pub(crate) gates: Gates,
    /// Those that everything enqueued from now on waits for too (a barrier's).
    pub(crate) barrier: Gates,
    /// Its newest command, if it is in order and the driver tells when that is over.
    pub(crate) newest: Option<Arc<Newest>>,
}

#[derive(Debug)]
pub(crate) struct BufferObject<B: Backend> {
    pub(crate) common: Common,
    pub(crate) context: Arc<ContextObject<B>>,
    pub(crate) parent: Option<Arc<BufferObject<B>>>,
    pub(crate) record: BufferRecord,
    /// The bytes of a buffer with an address.
    pub(crate) shared: Option<Arc<SharedMemory>>,
    /// The same, if the device's driver has allocated them.
    pub(crate) coarse: Option<B::Coarse>,
    /// The guest's bytes of a buffer without an address.
    pub(crate) placed: Option<Arc<SharedMemory>>,
    /// The device memory that it has.
    pub(crate) _charge: Option<Charge>,
    pub(crate) host: Host<B::Buffer>,
}

impl<B: Backend> BufferObject<B> {
    /// A buffer with memory of its own that is charged to nobody.
    pub(crate) fn new(
        common: Common,
        context: Arc<ContextObject<B>>,
        record: BufferRecord,
        host: Host<B::Buffer>,
    ) -> BufferObject<B> {
        BufferObject {
            common,
            context,
            parent: None,
            record,
            shared: None,
            coarse: None,
            placed: None,
            _charge: None,
            host,
        }
    }
}

/// Memory of the guest's or of a driver's that is a buffer's, and whom to tell when the last thing that uses it is gone.
/// Dropping it calls no OpenCL, so that commands may hold it to their end.
#[derive(Debug)]
pub(crate) struct SharedMemory {
    _memory: Box<dyn Any + Send + Sync>,
    gone: Mutex<Option<Reply>>,
    /// Counts it among those of its context that kernels reach by their addresses.
    _token: Option<Arc<()>>,
}

impl SharedMemory {
    /// Memory that kernels reach by its address.
    pub(crate) fn new(memory: impl Any + Send + Sync, token: &Arc<()>) -> SharedMemory {
        SharedMemory { _memory: Box::new(memory), gone: Mutex::default(), _token: Some(Arc::clone(token)) }
    }

    /// Memory that only commands use which have its buffer: the driver knows when it is done with it.
    pub(crate) fn of_buffer(memory: impl Any + Send + Sync) -> SharedMemory {
        SharedMemory { _memory: Box::new(memory), gone: Mutex::default(), _token: None }
    }

    pub(crate) fn tell_when_gone(&self, reply: Reply) {
        *self.gone.lock().unwrap_or_else(PoisonError::into_inner) = Some(reply);
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        if let Some(reply) = self.gone.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            reply.status(Ok(()));
        }
    }
}

#[derive(Debug)]
pub(crate) struct ImageObject<B: Backend> {
    pub(crate) common: Common,
    pub(crate) context: Arc<ContextObject<B>>,
    /// The memory that it has no own of.
    pub(crate) parent: Option<ImageParent<B>>,
    pub(crate) record: ImageRecord,
    pub(crate) layout: ImageLayout,
    /// The device memory that it has.
    pub(crate) _charge: Option<Charge>,
    pub(crate) host: Host<B::Image>,
}

/// What another image's memory is.
#[derive(Clone, Debug)]
pub(crate) enum ImageParent<B: Backend> {
    Buffer(Arc<BufferObject<B>>),
    Image(Arc<ImageObject<B>>),
}

#[derive(Debug)]
pub(crate) struct SamplerObject<B: Backend> {
    pub(crate) common: Common,
    pub(crate) context: Arc<ContextObject<B>>,
    pub(crate) record: SamplerRecord,
    pub(crate) host: Host<B::Sampler>,
}

#[derive(Debug)]
pub(crate) struct KernelObject<B: Backend> {
    pub(crate) common: Common,
    pub(crate) program: Arc<ProgramObject<B>>,
    pub(crate) args: Vec<Arg>,
    pub(crate) may_print: bool,
    /// What its launches take.
    pub(crate) cost: Arc<Cost>,
    pub(crate) state: Mutex<KernelState<B>>,
}

#[derive(Debug)]
pub(crate) struct KernelState<B: Backend> {
    pub(crate) record: KernelRecord,
    /// The objects in the record's arguments: a guest may release one that is still set.
    pub(crate) objects: BTreeMap<u32, ArgObject<B>>,
    /// Shared buffers that it reaches otherwise.
    pub(crate) reaches: Vec<Arc<BufferObject<B>>>,
    pub(crate) host: Host<B::Kernel>,
}

/// An object that a kernel's argument is set to.
#[derive(Debug)]
pub(crate) enum ArgObject<B: Backend> {
    Buffer(Arc<BufferObject<B>>),
    Image(Arc<ImageObject<B>>),
    Sampler(Arc<SamplerObject<B>>),
    Pipe(Arc<PipeObject<B>>),
    Queue(Arc<DeviceQueueObject<B>>),
}

// Derived, this would ask the same of the backend.
impl<B: Backend> Clone for ArgObject<B> {
    fn clone(&self) -> Self {
        match self {
            ArgObject::Buffer(buffer) => ArgObject::Buffer(buffer.clone()),
            ArgObject::Image(image) => ArgObject::Image(image.clone()),
            ArgObject::Sampler(sampler) => ArgObject::Sampler(sampler.clone()),
            ArgObject::Pipe(pipe) => ArgObject::Pipe(pipe.clone()),
            ArgObject::Queue(queue) => ArgObject::Queue(queue.clone()),
        }
    }
}

#[derive(Debug)]
pub(crate) struct EventObject<B: Backend> {
    pub(crate) common: Common,
    pub(crate) context: Arc<ContextObject<B>>,
    pub(crate) state: Arc<EventState>,
    pub(crate) host: Host<B::Event>,
}

impl<B: Backend> KernelObject<B> {
    pub(crate) fn state(&self) -> MutexGuard<'_, KernelState<B>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B: Backend> Drop for KernelObject<B> {
    fn drop(&mut self) {
        self.program.kernels.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<B: Backend> QueueObject<B> {
    pub(crate) fn state(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B: Backend> KernelState<B> {
    /// The shared memory that a launch may touch.
    pub(crate) fn shared(&self) -> Vec<Arc<SharedMemory>> {
        let set = self.objects.values().filter_map(ArgObject::shared);
        set.chain(self.reaches.iter().filter_map(|buffer| buffer.shared())).collect()
    }
}

impl<B: Backend> BufferObject<B> {
    /// Its bytes if the guest sees them too: commands that touch them touch the guest's memory.
    pub(crate) fn shared(&self) -> Option<Arc<SharedMemory>> {
        self.shared.clone().or_else(|| self.parent.as_ref()?.shared.clone())
    }

    /// The buffer that this is a part of (or is itself), and where in it.
    pub(crate) fn root(&self) -> (Serial, u64) {
        match (&self.parent, self.record.parent) {
            (Some(parent), Some((_, origin))) => (parent.common.serial, origin),
            _ => (self.common.serial, 0),
        }
    }
}

impl<B: Backend> ArgObject<B> {
    pub(crate) fn context(&self) -> &ContextObject<B> {
        match self {
            ArgObject::Buffer(buffer) => &buffer.context,
            ArgObject::Image(image) => &image.context,
            ArgObject::Sampler(sampler) => &sampler.context,
            ArgObject::Pipe(pipe) => &pipe.context,
            ArgObject::Queue(queue) => &queue.context,
        }
    }

    /// What the device's driver is given.
    pub(crate) fn value(&self) -> Result<ArgValueOf<'_, B>, ClError> {
        match self {
            ArgObject::Buffer(buffer) => handle(&buffer.host).map(Some).map(ArgValue::Buffer),
            ArgObject::Image(image) => handle(&image.host).map(ArgValue::Image),
            ArgObject::Sampler(sampler) => handle(&sampler.host).map(ArgValue::Sampler),
            ArgObject::Pipe(pipe) => handle(&pipe.host).map(ArgValue::Pipe),
            ArgObject::Queue(queue) => handle(&queue.host).map(ArgValue::Queue),
        }
    }

    pub(crate) fn record(&self) -> ArgRecord {
        match self {
            ArgObject::Buffer(buffer) => ArgRecord::Buffer(Some(buffer.common.serial)),
            ArgObject::Image(image) => ArgRecord::Image(image.common.serial),
            ArgObject::Sampler(sampler) => ArgRecord::Sampler(sampler.common.serial),
            ArgObject::Pipe(pipe) => ArgRecord::Pipe(pipe.common.serial),
            ArgObject::Queue(queue) => ArgRecord::Queue(queue.common.serial),
        }
    }

    fn shared(&self) -> Option<Arc<SharedMemory>> {
        match self {
            ArgObject::Buffer(buffer) => buffer.shared(),
            ArgObject::Image(image) => image.shared(),
            ArgObject::Sampler(_) | ArgObject::Pipe(_) | ArgObject::Queue(_) => None,
        }
    }

    fn object(&self) -> Object<B> {
        match self {
            ArgObject::Buffer(buffer) => Object::Buffer(buffer.clone()),
            ArgObject::Image(image) => Object::Image(image.clone()),
            ArgObject::Sampler(sampler) => Object::Sampler(sampler.clone()),
            ArgObject::Pipe(pipe) => Object::Pipe(pipe.clone()),
            ArgObject::Queue(queue) => Object::DeviceQueue(queue.clone()),
        }
    }
}

impl<B: Backend> ImageParent<B> {
    pub(crate) fn serial(&self) -> Serial {
        match self {
            ImageParent::Buffer(buffer) => buffer.common.serial,
            ImageParent::Image(image) => image.common.serial,
        }
    }
}

impl<B: Backend> ImageObject<B> {
    /// Its elements if the guest sees them too.
    pub(crate) fn shared(&self) -> Option<Arc<SharedMemory>> {
        match self.parent.as_ref()? {
            ImageParent::Buffer(buffer) => buffer.shared(),
            ImageParent::Image(image) => image.shared(),
        }
    }

    /// How many images show an image that shows an image …, this one included.
    pub(crate) fn depth(&self) -> usize {
        match &self.parent {
            Some(ImageParent::Image(image)) => 1 + image.depth(),
            _ => 1,
        }
    }
}

/// An object of any kind.
#[derive(Debug)]
pub(crate) enum Object<B: Backend> {
    SubDevice(Arc<DeviceObject<B>>),
    Context(Arc<ContextObject<B>>),
    Queue(Arc<QueueObject<B>>),
    Buffer(Arc<BufferObject<B>>),
    Image(Arc<ImageObject<B>>),
    Sampler(Arc<SamplerObject<B>>),
    Pipe(Arc<PipeObject<B>>),
    DeviceQueue(Arc<DeviceQueueObject<B>>),
    Program(Arc<ProgramObject<B>>),
    Kernel(Arc<KernelObject<B>>),
    Event(Arc<EventObject<B>>),
}

/// The objects of a context, by id.
#[derive(Debug)]
pub(crate) struct Table<B: Backend> {
    roots: Vec<Arc<DeviceObject<B>>>,
    /// The ids are the guest's. Hashed quickly, for every command looks some up: a guest that chose ids which collide would be
    /// slow itself, and nobody else.
    objects: HashMap<u32, Object<B>, RandomState>,
    live: Arc<AtomicUsize>,
    pub(super) limit: usize,
    next: Serial,
}

macro_rules! getters {
    ($($name:ident, $kind:ident, $object:ident;)*) => { $(
        pub(crate) fn $name(&self, id: u32) -> Result<Arc<$object<B>>, Fault> {
            match self.objects.get(&id) {
                Some(Object::$kind(object)) => Ok(Arc::clone(object)),
                _ => Err(Fault::UnknownObject),
            }
        }
    )* };
}

impl<B: Backend> Table<B> {
    pub(crate) fn new(roots: &[HostDevice<B::Device>]) -> Table<B> {
        let root = |(index, device): (usize, &HostDevice<B::Device>)| {
            Arc::new(DeviceObject { place: Place::Root(index), host: Ok(device.clone()) })
        };
        Table {
            roots: roots.iter().enumerate().map(root).collect(),
            objects: HashMap::default(),
            live: Arc::default(),
            limit: MAX_OBJECTS,
            next: 1,
        }
    }

    /// Sets how many objects may live, where that is less than what it is anyway.
    pub(crate) fn limit(&mut self, limit: usize) {
        self.limit = limit.min(MAX_OBJECTS);
    }

    /// Objects that live, with an id or without.
    pub(crate) fn live(&self) -> usize {
        self.live.load(Ordering::Relaxed)
    }

    /// Makes room for an object with this id.
    pub(crate) fn admit(&mut self, id: u32) -> Result<Common, Fault> {
        if id == 0 || self.objects.contains_key(&id) {
            return Err(Fault::IdInUse);
        }
        if self.live() >= self.limit {
            return Err(Fault::Limit);
        }
        self.live.fetch_add(1, Ordering::Relaxed);
        self.next += 1;
        Ok(Common { serial: self.next, _live: Live(Arc::clone(&self.live)) })
    }

    pub(crate) fn insert(&mut self, id: u32, object: Object<B>) {
        self.objects.insert(id, object);
    }

    pub(crate) fn remove(&mut self, id: u32) -> Result<Object<B>, Fault> {
        self.objects.remove(&id).ok_or(Fault::UnknownObject)
    }

    /// The device that a command names.
    pub(crate) fn device(&self, reference: u32) -> Result<Arc<DeviceObject<B>>, Fault> {
        match DeviceRef::from_wire(reference).ok_or(Fault::BadValue)? {
            DeviceRef::Root(index) => self.roots.get(index as usize).cloned().ok_or(Fault::BadValue),
            DeviceRef::Sub(id) => self.sub_device(id),
        }
    }

    getters! {
        sub_device, SubDevice, DeviceObject;
        context, Context, ContextObject;
        queue, Queue, QueueObject;
        buffer, Buffer, BufferObject;
        image, Image, ImageObject;
        sampler, Sampler, SamplerObject;
        pipe, Pipe, PipeObject;
        device_queue, DeviceQueue, DeviceQueueObject;
        program, Program, ProgramObject;
        kernel, Kernel, KernelObject;
        event, Event, EventObject;
    }

    /// The host's device on which this queue's commands go, if it is a queue.
    pub(crate) fn device_of(&self, queue: u32) -> Option<usize> {
        match self.objects.get(&queue) {
            Some(Object::Queue(queue)) => Some(queue.device.root()),
            _ => None,
        }
    }

    pub(crate) fn queues(&self) -> Vec<Arc<QueueObject<B>>> {
        let queue = |object: &Object<B>| match object {
            Object::Queue(queue) => Some(Arc::clone(queue)),
            _ => None,
        };
        self.objects.values().filter_map(queue).collect()
    }

    /// Gives all ids up, users before what they use.
    pub(crate) fn clear(&mut self) {
        let rank = |object: &Object<B>| match object {
            Object::Event(_) => 0,
            Object::Kernel(_) => 1,
            Object::Program(_) => 2,
            Object::Image(_) | Object::Sampler(_) | Object::Pipe(_) => 3,
            Object::Buffer(_) => 4,
            Object::Queue(_) | Object::DeviceQueue(_) => 5,
            Object::Context(_) => 6,
            Object::SubDevice(_) => 7,
        };
        let mut objects: Vec<_> = self.objects.drain().map(|(_, object)| object).collect();
        objects.sort_by_key(rank);
        // One by one, from the front: a vector drops its elements in order.
        drop(objects);
    }

    /// The records of all objects that can be reached, by serial.
    pub(crate) fn records(&self) -> Vec<ObjectRecord> {
        let mut found = HashMap::new();
        for (id, object) in &self.objects {
            collect(object, Some(*id), &mut found);
        }
        let mut records: Vec<_> = found.into_values().collect();
        records.sort_by_key(|record| record.serial);
        records
    }
}

fn collect<B: Backend>(object: &Object<B>, id: Option<u32>, found: &mut HashMap<Serial, ObjectRecord>) {
    let mut add = |common: &Common, poisoned: Option<ClError>, record: Record| {
        let serial = common.serial;
        let poisoned = poisoned.map(ClError::code);
        // What others reach without an id may be reached by its own later, or before.
        let entry = found.entry(serial).or_insert(ObjectRecord { serial, id, poisoned, record });
        entry.id = entry.id.or(id);
    };
    match object {
        Object::SubDevice(it) => {
            let Place::Part(part) = &it.place else { return };
            add(&part.common, it.host.as_ref().err().copied(), Record::SubDevice(part.record.clone()));
            collect(&Object::SubDevice(part.parent.clone()), None, found);
        }
        Object::Context(it) => {
            let record =
                ContextRecord { devices: names(&it.devices), default_queues: it.default_queues.records() };
            add(&it.common, it.host.as_ref().err().copied(), Record::Context(record));
            for device in &it.devices {
                collect(&Object::SubDevice(device.clone()), None, found);
            }
        }
        Object::Queue(it) => {
            let deferred = it.state().deferred.map(ClError::code);
            let record = QueueRecord { deferred, ..it.record.clone() };
            add(&it.common, it.host.as_ref().err().copied(), Record::Queue(record));
            // Its device is one of the context's.
            collect(&Object::Context(it.context.clone()), None, found);
        }
        Object::Buffer(it) => {
            add(&it.common, it.host.as_ref().err().copied(), Record::Buffer(it.record.clone()));
            collect(&Object::Context(it.context.clone()), None, found);
            if let Some(parent) = &it.parent {
                collect(&Object::Buffer(parent.clone()), None, found);
            }
        }
        Object::Image(it) => {
            add(&it.common, it.host.as_ref().err().copied(), Record::Image(it.record.clone()));
            collect(&Object::Context(it.context.clone()), None, found);
            match &it.parent {
                Some(ImageParent::Buffer(buffer)) => collect(&Object::Buffer(buffer.clone()), None, found),
                Some(ImageParent::Image(image)) => collect(&Object::Image(image.clone()), None, found),
                None => {}
            }
        }
        Object::Sampler(it) => {
            add(&it.common, it.host.as_ref().err().copied(), Record::Sampler(it.record.clone()));
            collect(&Object::Context(it.context.clone()), None, found);
        }
        Object::Pipe(it) => {
            add(&it.common, it.host.as_ref().err().copied(), Record::Pipe(it.record.clone()));
            collect(&Object::Context(it.context.clone()), None, found);
        }
        Object::DeviceQueue(it) => {
            add(&it.common, it.host.as_ref().err().copied(), Record::DeviceQueue(it.record.clone()));
            // Its device is one of the context's.
            collect(&Object::Context(it.context.clone()), None, found);
        }
        Object::Program(it) => {
            let known = found.contains_key(&it.common.serial);
            let mut add = |record| {
                let entry = found.entry(it.common.serial).or_insert(record);
                entry.id = entry.id.or(id);
            };
            let poisoned = it.host().err().map(ClError::code);
            let record = Record::Program(it.record());
            add(ObjectRecord { serial: it.common.serial, id, poisoned, record });
            // Programs are linked of programs that share others: each is followed once.
            if !known {
                collect(&Object::Context(it.context.clone()), None, found);
                it.parts().into_iter().for_each(|part| collect(&Object::Program(part), None, found));
            }
        }
        Object::Kernel(it) => {
            let state = it.state();
            add(&it.common, state.host.as_ref().err().copied(), Record::Kernel(state.record.clone()));
            collect(&Object::Program(it.program.clone()), None, found);
            for object in state.objects.values() {
                collect(&object.object(), None, found);
            }
            for buffer in &state.reaches {
                collect(&Object::Buffer(buffer.clone()), None, found);
            }
        }
        Object::Event(it) => {
            let record = EventRecord {
                context: it.context.common.serial,
                command: it.state.command(),
                status: it.state.status(),
                profile: it.state.profile(),
            };
            add(&it.common, it.host.as_ref().err().copied(), Record::Event(record));
            collect(&Object::Context(it.context.clone()), None, found);
        }
    }
}
