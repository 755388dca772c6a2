//! Command queues, and what every enqueued command has in common.

mod at_once;
mod native;

use std::ffi::CString;
use std::sync::{Arc, Mutex, MutexGuard};

use opencl_sys::{
    CL_QUEUE_CONTEXT, CL_QUEUE_DEVICE, CL_QUEUE_DEVICE_DEFAULT, CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE,
    CL_QUEUE_PROFILING_ENABLE, CL_QUEUE_PROPERTIES, CL_QUEUE_PROPERTIES_ARRAY, CL_QUEUE_REFERENCE_COUNT,
};
use paragpu_protocol::command::{Barrier, Body, CreateQueue, Finish, Marker};
use paragpu_protocol::limits::MAX_WAIT_EVENTS;
use paragpu_protocol::types::{Enqueue, SlotRef};

use crate::boundary::object::{Kind, Object};
use crate::core::completion::Completion;
use crate::core::connection::Connection;
use crate::core::context::{self, Context};
use crate::core::copies::{Copies, CopyLog, Destination};
use crate::core::device::Device;
use crate::core::error::{ClError, ClResult};
use crate::core::event::Event;
use crate::core::flights::Flights;
use crate::core::info::Info;
use crate::core::lock;
use crate::core::staging::Staging;

pub(crate) use native::Argument;

/// A command queue.
#[derive(Debug)]
pub(crate) struct Queue {
    context: Arc<Object<Context>>,
    device: Arc<Object<Device>>,
    id: u32,
    properties: u64,
    /// As the application gave them to `clCreateCommandQueueWithProperties`.
    property_list: Vec<u64>,
    state: Mutex<State>,
    posting: Mutex<()>,
    flights: Flights,
    progress: at_once::Progress,
    /// The native kernels of an in-order queue.
    natives: Arc<native::Runner>,
}

/// What a command that is enqueued next depends on. Locked while a command is posted, so that the order of copies
/// is the order of commands.
#[derive(Debug, Default)]
struct State {
    /// Commands so far.
    posted: u64,
    /// In-order: all copies of the commands so far. Out-of-order: those before the last barrier.
    before: Copies,
    /// In-order: the log of all its copies.
    log: Arc<CopyLog>,
    /// Out-of-order: the copies since the last barrier.
    loose: Copies,
}

impl Kind for Queue {
    const TAG: u32 = u32::from_le_bytes(*b"queu");
    const INVALID: ClError = ClError::INVALID_COMMAND_QUEUE;
}

/// How far a command reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// It waits for its wait list, and in an in-order queue for what was before it.
    Command,
    /// Without a wait list, it waits for everything before it.
    Marker,
    /// As a marker, and everything after it waits for it.
    Barrier,
}

/// Staging memory of a command.
#[derive(Debug)]
pub(crate) enum Payload {
    /// None.
    None,
    /// None here, but the completion is wanted: somebody else keeps the staging memory, or waits for the end.
    Elsewhere,
    /// The command reads from it.
    Source(Staging),
    /// The command writes to it; then the bytes are copied.
    Sink(Staging, Destination),
}

impl Payload {
    /// Bytes of staging memory that the command keeps until it is complete.
    fn staged(&self) -> usize {
        match self {
            Payload::None | Payload::Elsewhere => 0,
            Payload::Source(staging) | Payload::Sink(staging, _) => staging.len(),
        }
    }
}

/// What the application asked for around a command.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    /// `CL_COMMAND_…`.
    pub(crate) command: u32,
    pub(crate) wait: &'a [Arc<Object<Event>>],
    pub(crate) wants_event: bool,
    /// Return only when the command is complete.
    pub(crate) is_blocking: bool,
    pub(crate) reach: Reach,
    /// One of several that are posted together, by whoever holds [`Queue::post_alone`].
    pub(crate) is_part: bool,
}

impl<'a> Request<'a> {
    /// A command that does not block.
    pub(crate) fn new(command: u32, wait: &'a [Arc<Object<Event>>], wants_event: bool) -> Request<'a> {
        Request { command, wait, wants_event, is_blocking: false, reach: Reach::Command, is_part: false }
    }

    /// The same, blocking if the application says so.
    pub(crate) fn blocking(self, blocking: u32) -> Request<'a> {
        Request { is_blocking: blocking != 0, ..self }
    }
}

/// What is left of a command for this side to hold. Of a command without event, payload and wait: nothing.
#[derive(Debug, Default)]
pub(crate) struct Posted {
    pub(crate) event: Option<Arc<Object<Event>>>,
    pub(crate) completion: Option<Arc<Completion>>,
}

/// A command that the queue has taken.
#[derive(Debug)]
struct Taken {
    completion: Option<Arc<Completion>>,
    event_id: u32,
    /// What must be performed before the command is complete.
    copies: Copies,
    staged: usize,
}

impl Queue {
    /// Creates a queue with properties and hints that the device has.
    pub(crate) fn new(
        context: &Object<Context>,
        device: &Object<Device>,
        properties: u64,
        hints: u32,
        property_list: Vec<u64>,
    ) -> ClResult<Arc<Object<Queue>>> {
        let id = context.connection().new_id();
        let body = CreateQueue {
            create: context::create(id, context.id()),
            device: context.reference(device)?.into(),
            hints: hints.into(),
            properties: properties.into(),
        };
        context.connection().send(&body, &[], &[])?;
        let queue = Object::new(Queue {
            context: context.arc(),
            device: device.arc(),
            id,
            properties,
            property_list,
            state: Mutex::default(),
            posting: Mutex::default(),
            flights: Flights::default(),
            progress: Default::default(),
            natives: Arc::default(),
        });
        context.add_queue(&queue);
        Ok(queue)
    }

    /// What the host calls the queue.
    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// The queue's context.
    pub(crate) fn context(&self) -> &Arc<Object<Context>> {
        &self.context
    }

    /// The queue's device.
    pub(crate) fn device(&self) -> &Arc<Object<Device>> {
        &self.device
    }

    /// The connection that the queue lives in.
    pub(crate) fn connection(&self) -> &Arc<Connection> {
        self.context.connection()
    }

    /// Staging memory for a transfer in this queue.
    pub(crate) fn staging(&self, len: usize) -> ClResult<Staging> {
        self.flights.make_room(self.connection(), len);
        self.connection().staging(len)
    }

    /// True if commands are executed one after the other.
    pub(crate) fn is_in_order(&self) -> bool {
        self.properties & CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE == 0
    }

    /// While this is held, only commands that are [parts](Request::is_part) are posted.
    pub(crate) fn post_alone(&self) -> MutexGuard<'_, ()> {
        lock(&self.posting)
    }

    /// `CL_QUEUE_PROPERTIES`.
    pub(crate) fn properties(&self) -> u64 {
        self.properties
    }

    /// True if commands are timed.
    pub(crate) fn is_profiling(&self) -> bool {
        self.properties & CL_QUEUE_PROFILING_ENABLE != 0
    }

    /// `clFinish`.
    pub(crate) fn finish(&self) -> ClResult<()> {
        let connection = self.connection();
        let (posted, copies) = {
            let state = lock(&self.state);
            let mut copies = state.before.clone();
            copies.add(&state.loose);
            (state.posted, copies)
        };
        if self.progress.is_at(posted) && !connection.is_lost() {
            return Ok(());
        }
        let slot = connection.slot()?;
        let body = Finish { queue: self.id.into(), reserved: 0.into(), reply: slot.to_ref() };
        let sent = connection.send(&body, &[], &[]);
        let outcome = sent.and_then(|()| connection.wait(&slot).ok());
        self.context.tell_if_lost();
        copies.perform();
        connection.print();
        if !connection.is_lost() {
            self.progress.reached(posted);
        }
        outcome.map(|_| ()).inspect_err(|ClError(code)| {
            // It is that of a command which had no event to report it.
            if !connection.is_lost()
                && let Ok(message) =
                    CString::new(format!("paragpu: a command failed with OpenCL error {code}"))
            {
                self.context.tell(&message);
            }
        })
    }

    /// The host's names of the events that still have to be waited for.
    fn wait_ids(&self, wait: &[Arc<Object<Event>>]) -> ClResult<(Vec<u32>, Vec<u32>)> {
        let mut ids: Vec<u32> =
            wait.iter().filter(|event| !event.has_succeeded()).map(|event| event.id()).collect();
        // A longer list than a frame may have is gathered by markers.
        let most = usize::from(MAX_WAIT_EVENTS);
        let mut gathered = Vec::new();
        while ids.len() > most {
            let event = self.connection().new_id();
            let enqueue = Enqueue { queue: self.id.into(), event: event.into(), slot: SlotRef::NONE };
            let first: Vec<u32> = ids.drain(..most).collect();
            self.connection().send(&Marker { enqueue }, &first, &[])?;
            gathered.push(event);
            ids.push(event);
        }
        Ok((ids, gathered))
    }
}

impl Object<Queue> {
    /// `clGetCommandQueueInfo`.
    pub(crate) fn info(&self, param: u32) -> ClResult<Info> {
        Ok(match param {
            CL_QUEUE_CONTEXT => Info::handle(self.context.handle()),
            CL_QUEUE_DEVICE => Info::handle(self.device.handle()),
            CL_QUEUE_REFERENCE_COUNT => Info::value(self.reference_count()),
            CL_QUEUE_PROPERTIES => Info::value(self.properties),
            CL_QUEUE_PROPERTIES_ARRAY => Info::list(&self.property_list),
            CL_QUEUE_DEVICE_DEFAULT => self.context.default_queues().info(&self.device),
            // CL_INVALID_VALUE if param_name is not one of the supported values. CL_QUEUE_SIZE is for queues on the
            // device: "CL_INVALID_COMMAND_QUEUE if command_queue is not a valid command-queue for param_name".
            opencl_sys::CL_QUEUE_SIZE => return Err(ClError::INVALID_COMMAND_QUEUE),
            _ => return Err(ClError::INVALID_VALUE),
        })
    }

    /// Posts a command. `body` is made with the queue, event and slot that it names.
    pub(crate) fn enqueue<B: Body>(
        &self,
        request: &Request<'_>,
        payload: Payload,
        data: &[u8],
        body: impl FnOnce(Enqueue) -> B,
    ) -> ClResult<Posted> {
        // The lock is let go before anybody is told of a failure: the application's callback may use this queue.
        let taken = {
            let _alone = (!request.is_part).then(|| self.post_alone());
            self.take(&mut lock(&self.state), request, payload, data, body)
        };
        let taken = taken.inspect_err(|_| {
            if !request.is_part {
                self.context.tell_if_lost();
            }
        })?;
        let mut posted = Posted { event: None, completion: taken.completion };
        if let Some(completion) = &posted.completion {
            if !request.is_blocking {
                self.flights.add(completion, &taken.copies, taken.staged);
            } else {
                let outcome = completion.wait();
                taken.copies.perform();
                completion.take_staging();
                self.connection().print();
                self.context.tell_if_lost();
                if outcome.ok().is_ok() {
                    self.is_over(completion.position());
                }
                if let Err(error) = outcome.ok() {
                    if taken.event_id != 0 {
                        self.connection().release(taken.event_id);
                    }
                    return Err(error);
                }
            }
            if taken.event_id != 0 {
                posted.event = Some(Event::of_command(
                    self.arc(),
                    taken.event_id,
                    request.command,
                    completion.clone(),
                    taken.copies,
                ));
            }
        }
        Ok(posted)
    }

    /// Posts a command while the queue is locked, and waits for nothing.
    fn take<B: Body>(
        &self,
        state: &mut State,
        request: &Request<'_>,
        payload: Payload,
        data: &[u8],
        body: impl FnOnce(Enqueue) -> B,
    ) -> ClResult<Taken> {
        let connection = self.connection();
        let is_tracked = request.wants_event || request.is_blocking || !matches!(payload, Payload::None);
        let staged = payload.staged();
        let (staging, destination) = match payload {
            Payload::None | Payload::Elsewhere => (None, None),
            Payload::Source(staging) => (Some(staging), None),
            Payload::Sink(staging, destination) => (Some(staging), Some(destination)),
        };
        let position = state.posted + 1;
        let completion = is_tracked.then(|| Completion::new(connection, staging, position)).transpose()?;
        let event_id = if request.wants_event { connection.new_id() } else { 0 };
        let enqueue = Enqueue {
            queue: self.id.into(),
            event: event_id.into(),
            slot: completion.as_ref().map_or(SlotRef::NONE, |completion| completion.to_ref()),
        };
        let sent = self.wait_ids(request.wait).and_then(|(wait, gathered)| {
            connection.send(&body(enqueue), &wait, data)?;
            gathered.into_iter().for_each(|id| connection.release(id));
            Ok(())
        });
        if let Err(error) = sent {
            // Never posted, so nothing uses the memory.
            completion.and_then(|completion| completion.take_staging());
            return Err(error);
        }
        state.posted = position;
        let copies = state.note(self.is_in_order(), request, completion.as_ref().zip(destination));
        Ok(Taken { completion, event_id, copies, staged })
    }

    /// A marker or barrier that stands for a command of kind `request.command` which has nothing to do on the host.
    pub(crate) fn enqueue_nothing(&self, request: &Request<'_>) -> ClResult<Posted> {
        match request.reach {
            Reach::Barrier => self.enqueue(request, Payload::None, &[], |enqueue| Barrier { enqueue }),
            Reach::Marker | Reach::Command => {
                self.enqueue(request, Payload::None, &[], |enqueue| Marker { enqueue })
            }
        }
    }
}

impl State {
    /// Notes a command that has been posted, with its read if it is one. Returns the copies that must be performed
    /// before the command is complete.
    fn note(
        &mut self,
        is_in_order: bool,
        request: &Request<'_>,
        read: Option<(&Arc<Completion>, Destination)>,
    ) -> Copies {
        let mut copies = Copies::default();
        for event in request.wait {
            if let Some(others) = event.copies() {
                copies.add(others);
            }
        }
        self.before.prune();
        self.loose.prune();
        if is_in_order {
            self.before.add(&copies);
            if let Some((completion, destination)) = read {
                self.before.add(&self.log.push(completion.clone(), destination));
            }
            return self.before.clone();
        }
        if request.reach != Reach::Command && request.wait.is_empty() {
            copies.add(&self.loose);
        }
        copies.add(&self.before);
        if let Some((completion, destination)) = read {
            copies.add(&Arc::<CopyLog>::default().push(completion.clone(), destination));
        }
        self.loose.add(&copies);
        if request.reach == Reach::Barrier {
            self.before.add(&copies);
        }
        copies
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.connection().release(self.id);
    }
}
