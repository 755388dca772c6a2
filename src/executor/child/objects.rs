//! A context's objects: records with host handles beside them, by the guest's ids.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use paragpu_protocol::fault::Fault;
use paragpu_protocol::limits::MAX_OBJECTS;

use super::backend::{Arg, Backend, ClError, Outcome};
use super::record::{
    BufferRecord, ContextRecord, EventRecord, KernelRecord, ObjectRecord, QueueRecord, Record, Serial,
};

pub(crate) use super::programs::ProgramObject;

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

/// Status of a command that has not started (`CL_QUEUED`), or of an open user event (`CL_SUBMITTED` would be as
/// good: all that counts is that it is positive).
const QUEUED: i32 = 3;

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
pub(crate) struct ContextObject<B: Backend> {
    pub(crate) common: Common,
    pub(crate) record: ContextRecord,
    pub(crate) host: Host<B::Context>,
}

#[derive(Debug)]
pub(crate) struct QueueObject<B: Backend> {
    pub(crate) common: Common,
    pub(crate) context: Arc<ContextObject<B>>,
    pub(crate) record: QueueRecord,
    pub(crate) host: Host<B::Queue>,
    /// True while commands wait for a flush.
    pub(crate) unflushed: AtomicBool,
    /// Commands since the last one whose end is waited for.
    pub(crate) unwatched: AtomicU32,
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
}

#[derive(Debug)]
pub(crate) struct BufferObject<B: Backend> {
    pub(crate) common: Common,
    pub(crate) context: Arc<ContextObject<B>>,
    pub(crate) parent: Option<Arc<BufferObject<B>>>,
    pub(crate) record: BufferRecord,
    pub(crate) host: Host<B::Buffer>,
}

#[derive(Debug)]
pub(crate) struct KernelObject<B: Backend> {
    pub(crate) common: Common,
    pub(crate) program: Arc<ProgramObject<B>>,
    pub(crate) args: Vec<Arg>,
    pub(crate) state: Mutex<KernelState<B>>,
}

#[derive(Debug)]
pub(crate) struct KernelState<B: Backend> {
    pub(crate) record: KernelRecord,
    /// The buffers in the record's arguments: a guest may release one that is still set.
    pub(crate) buffers: HashMap<u32, Arc<BufferObject<B>>>,
    pub(crate) host: Host<B::Kernel>,
}

#[derive(Debug)]
pub(crate) struct EventObject<B: Backend> {
    pub(crate) common: Common,
    pub(crate) context: Arc<ContextObject<B>>,
    pub(crate) state: Arc<EventState>,
    pub(crate) host: Host<B::Event>,
}

/// What becomes of an event; shared with the command's completion.
#[derive(Debug)]
pub(crate) struct EventState {
    /// Queue and opcode; none for a user event.
    command: Option<(Serial, u16)>,
    status: AtomicI32,
    profile: OnceLock<[u64; 4]>,
    /// Open user events that the command waits for, as of when it was enqueued.
    pub(crate) gates: Gates,
}

/// Open user events that hold back a command.
pub(crate) type Gates = Vec<Arc<EventState>>;

impl EventState {
    pub(crate) fn user() -> EventState {
        EventState {
            command: None,
            status: AtomicI32::new(QUEUED),
            profile: OnceLock::new(),
            gates: Vec::new(),
        }
    }

    pub(crate) fn of_command(queue: Serial, opcode: u16, gates: Gates) -> EventState {
        EventState { command: Some((queue, opcode)), gates, ..EventState::user() }
    }

    pub(crate) fn is_user(&self) -> bool {
        self.command.is_none()
    }

    pub(crate) fn is_open(&self) -> bool {
        self.status.load(Ordering::Acquire) > 0
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.status.load(Ordering::Acquire) < 0
    }

    pub(crate) fn complete(&self, outcome: Outcome) {
        if let Some(profile) = outcome.profile {
            // Set once: a command completes once.
            let _ = self.profile.set(profile);
        }
        self.status.store(outcome.status, Ordering::Release);
    }
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

impl<B: Backend> BufferObject<B> {
    /// The buffer that this is a part of (or is itself), and where in it.
    pub(crate) fn root(&self) -> (Serial, u64) {
        match (&self.parent, self.record.parent) {
            (Some(parent), Some((_, origin))) => (parent.common.serial, origin),
            _ => (self.common.serial, 0),
        }
    }
}

/// An object of any kind.
#[derive(Debug)]
pub(crate) enum Object<B: Backend> {
    Context(Arc<ContextObject<B>>),
    Queue(Arc<QueueObject<B>>),
    Buffer(Arc<BufferObject<B>>),
    Program(Arc<ProgramObject<B>>),
    Kernel(Arc<KernelObject<B>>),
    Event(Arc<EventObject<B>>),
}

/// The objects of a context, by id.
#[derive(Debug)]
pub(crate) struct Table<B: Backend> {
    objects: HashMap<u32, Object<B>>,
    live: Arc<AtomicUsize>,
    limit: usize,
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
    pub(crate) fn new() -> Table<B> {
        Table { objects: HashMap::new(), live: Arc::default(), limit: MAX_OBJECTS, next: 1 }
    }

    #[cfg(test)]
    pub(crate) fn limit(&mut self, limit: usize) {
        self.limit = limit;
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

    getters! {
        context, Context, ContextObject;
        queue, Queue, QueueObject;
        buffer, Buffer, BufferObject;
        program, Program, ProgramObject;
        kernel, Kernel, KernelObject;
        event, Event, EventObject;
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
            Object::Buffer(_) => 3,
            Object::Queue(_) => 4,
            Object::Context(_) => 5,
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
        Object::Context(it) => {
            add(&it.common, it.host.as_ref().err().copied(), Record::Context(it.record.clone()));
        }
        Object::Queue(it) => {
            let deferred = it.state().deferred.map(ClError::code);
            let record = QueueRecord { deferred, ..it.record.clone() };
            add(&it.common, it.host.as_ref().err().copied(), Record::Queue(record));
            collect(&Object::Context(it.context.clone()), None, found);
        }
        Object::Buffer(it) => {
            add(&it.common, it.host.as_ref().err().copied(), Record::Buffer(it.record.clone()));
            collect(&Object::Context(it.context.clone()), None, found);
            if let Some(parent) = &it.parent {
                collect(&Object::Buffer(parent.clone()), None, found);
            }
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
            for buffer in state.buffers.values() {
                collect(&Object::Buffer(buffer.clone()), None, found);
            }
        }
        Object::Event(it) => {
            let record = EventRecord {
                context: it.context.common.serial,
                command: it.state.command,
                status: it.state.status.load(Ordering::Acquire),
                profile: it.state.profile.get().copied(),
            };
            add(&it.common, it.host.as_ref().err().copied(), Record::Event(record));
            collect(&Object::Context(it.context.clone()), None, found);
        }
    }
}
