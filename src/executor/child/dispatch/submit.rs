//! What all commands that go into a queue have in common.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use paragpu_protocol::command::Opcode;
use paragpu_protocol::fault::Fault;
use paragpu_protocol::types::Enqueue;
use zerocopy::little_endian::U32;

use super::super::backend::{Backend, ClError, Done, HostBytes, ImageWork, Order, Outcome, Work, WorkOf};
use super::super::completion::{Completion, Reply};
use super::super::context::Context;
use super::super::newest::Newest;
use super::super::objects::{
    BufferObject, Common, ContextObject, EventObject, EventState, Gates, ImageObject, Object, QueueObject,
    SharedMemory, handle,
};
use super::super::pace::{Estimate, Flight, WORTH_WATCHING};
use super::super::print::Launch;
use super::super::record::QueueRecord;
use super::objects::{OUT_OF_ORDER, PROFILING};
use super::same_context;

/// More open user events than this are not followed: such a command counts as one that may move at any time.
const MAX_GATES: usize = 64;

/// A command whose queue, event, slot and wait list are known; what it does comes next.
pub(super) struct Plan<B: Backend> {
    pub(super) queue: Arc<QueueObject<B>>,
    event: Option<(u32, Common)>,
    reply: Reply,
    wait: Vec<Arc<EventObject<B>>>,
    /// What a kernel's launch will take.
    pub(super) estimate: Option<Estimate>,
    /// Of a kernel that may print.
    pub(super) launch: Option<Launch>,
    /// Memory of the guest's that the command touches, kept until it is complete.
    pub(super) keep: Vec<Arc<SharedMemory>>,
    /// The command may touch such memory without naming it.
    pub(super) may_reach: bool,
}

impl<B: Backend> Plan<B> {
    /// Notes a buffer that the command touches.
    pub(super) fn touch(&mut self, buffer: &BufferObject<B>) {
        self.keep.extend(buffer.shared());
    }

    /// Notes an image that the command touches.
    pub(super) fn touch_image(&mut self, image: &ImageObject<B>) {
        self.keep.extend(image.shared());
    }
}

impl<B: Backend> Context<B> {
    pub(super) fn plan(&mut self, enqueue: &Enqueue, wait: &[U32]) -> Result<Plan<B>, Fault> {
        let queue = self.objects.queue(enqueue.queue.get())?;
        let wait = wait.iter().map(|id| self.objects.event(id.get())).collect::<Result<_, _>>()?;
        let reply = self.reply(&enqueue.slot)?;
        let event = match enqueue.event.get() {
            0 => None,
            id => Some((id, self.objects.admit(id)?)),
        };
        Ok(Plan {
            queue,
            event,
            reply,
            wait,
            estimate: None,
            launch: None,
            keep: Vec::new(),
            may_reach: false,
        })
    }

    /// Gives the command to the device. Its error, if it has one already, goes where its outcome would have.
    /// True if the device took it.
    pub(super) fn submit(
        &mut self,
        opcode: Opcode,
        plan: Plan<B>,
        contexts: &[&ContextObject<B>],
        work: Result<WorkOf<'_, B>, ClError>,
    ) -> bool {
        let Plan { queue, event, reply, wait, estimate, launch, keep, may_reach } = plan;
        let estimate = match &work {
            Ok(work) if opcode.occupies_device() => {
                Some(estimate.unwrap_or_else(|| Estimate::bytes(opcode.name(), work_bytes(work))))
            }
            _ => None,
        };
        let gates = gates(&queue, opcode, &wait);
        let event = event.map(|(id, common)| {
            let serial = queue.common.serial;
            let state = Arc::new(EventState::of_command(serial, opcode as u16, gates.clone()));
            (id, common, state)
        });
        // A command behind a user event may be failed along with it, and PoCL 3.1 uses the events of such
        // commands after it has released them, unless somebody else holds them. One that touches the guest's
        // memory must have landed before anybody is told that nothing does. Of the others, enough for a bound on
        // what is in flight.
        // Whether one that may print is over must be known, so that others may.
        let inline = work.as_ref().map_or(0, inline_bytes);
        let watched = event.is_some()
            || reply.is_wanted()
            || launch.is_some()
            || !gates.is_empty()
            || inline != 0
            || !keep.is_empty()
            || may_reach
            || work.as_ref().is_ok_and(touches_guest_memory)
            // The guest may be about to wait for it.
            || self.is_last
            || self.is_worth_watching(&queue, estimate.as_ref())
            || queue.unwatched.fetch_add(1, Ordering::Relaxed) >= most_unwatched(&queue.record);
        let flight = if watched {
            self.take_off(&queue, estimate, &gates)
        } else {
            self.trail(&queue, estimate);
            None
        };
        // What nobody is told of is in nobody's way.
        let turn = (event.is_some() || reply.is_wanted()).then(|| {
            let sync = matches!(opcode, Opcode::Marker | Opcode::Barrier) && wait.is_empty();
            queue.landing.join(sync || queue.record.properties & OUT_OF_ORDER == 0)
        });
        let watched = watched.then(|| {
            queue.unwatched.store(0, Ordering::Relaxed);
            if let Some(launch) = &launch {
                launch.held_by(&gates);
            }
            let event = event.as_ref().map(|(_, _, state)| state.clone());
            reply.later(event, gates, inline).printing(launch).paced(flight).in_turn(turn)
        });
        let known = wait.iter().map(|event| &*event.context).chain(contexts.iter().copied());
        let foreign = known.into_iter().any(|context| !same_context(context, &queue.context));
        let work = if foreign { Err(ClError::INVALID_CONTEXT) } else { work };
        let silent = event.is_none() && !watched.as_ref().is_some_and(Completion::has_slot);
        let in_order = queue.record.properties & OUT_OF_ORDER == 0;
        let newest = (in_order && watched.is_some()).then(Newest::new);
        let host = self.enqueue(&queue, &wait, work, event.is_some(), (watched, newest.clone(), keep));
        queue.state().newest = newest.filter(|_| host.is_ok());
        if let Err(error) = host
            && silent
        {
            queue.state().deferred.get_or_insert(error);
        }
        let taken = host.is_ok();
        if let Some((id, common, state)) = event {
            let host = host.and_then(|event| event.ok_or(ClError::OUT_OF_HOST_MEMORY));
            let object = EventObject { common, context: queue.context.clone(), state, host };
            self.objects.insert(id, Object::Event(Arc::new(object)));
        }
        if taken && !queue.unflushed.swap(true, Ordering::Relaxed) {
            self.unflushed.push(queue);
        }
        taken
    }

    /// True for a command that takes so long, with those before it, that a callback costs little beside it.
    fn is_worth_watching(&self, queue: &QueueObject<B>, estimate: Option<&Estimate>) -> bool {
        let nanos = estimate.map_or(0, |estimate| estimate.nanos);
        self.pacer.is_some()
            && queue.unwatched_load.load(Ordering::Relaxed).saturating_add(nanos) >= WORTH_WATCHING
    }

    /// Counts a command that is not watched: the next that is stands for it.
    fn trail(&mut self, queue: &Arc<QueueObject<B>>, estimate: Option<Estimate>) {
        let (Some(pacer), Some(estimate)) = (&self.pacer, estimate) else { return };
        pacer.load(queue.device.root(), estimate.nanos);
        if queue.unwatched_load.fetch_add(estimate.nanos, Ordering::Relaxed) == 0 {
            self.tails.push(Arc::clone(queue));
        }
    }

    /// Counts a command that is watched, with those before it that are not.
    pub(super) fn take_off(
        &mut self,
        queue: &Arc<QueueObject<B>>,
        estimate: Option<Estimate>,
        gates: &Gates,
    ) -> Option<Flight> {
        let pacer = self.pacer.as_ref()?;
        let before = queue.unwatched_load.swap(0, Ordering::Relaxed);
        if before != 0 {
            self.tails.retain(|tail| !Arc::ptr_eq(tail, queue));
        }
        // What only keeps order occupies nothing.
        if before == 0 && estimate.is_none() {
            return None;
        }
        pacer.take_off(queue.device.root(), before, estimate.unwrap_or_default(), gates)
    }

    /// Has everything that is in flight watched, so that it is known when nothing is.
    pub(crate) fn mark_tails(&mut self) {
        for queue in std::mem::take(&mut self.tails) {
            let gates = gates(&queue, Opcode::Marker, &[]);
            let flight = self.take_off(&queue, None, &gates);
            queue.unwatched.store(0, Ordering::Relaxed);
            let completion = Reply::new(None, &self.notifier).later(None, gates, 0).paced(flight);
            // Where it cannot be enqueued, it is complete at once.
            let _lost =
                self.enqueue(&queue, &[], Ok(Work::Marker), false, (Some(completion), None, Vec::new()));
            if !queue.unflushed.swap(true, Ordering::Relaxed) {
                self.unflushed.push(queue);
            }
        }
    }

    fn enqueue(
        &self,
        queue: &QueueObject<B>,
        wait: &[Arc<EventObject<B>>],
        work: Result<WorkOf<'_, B>, ClError>,
        event: bool,
        (watched, newest, keep): (Option<Completion>, Option<Arc<Newest>>, Vec<Arc<SharedMemory>>),
    ) -> Result<Option<B::Event>, ClError> {
        let ready = work.and_then(|work| {
            let host = handle(&queue.host)?;
            // Some drivers take an event that has failed already for one that is complete.
            if wait.iter().any(|event| event.state.has_failed()) {
                return Err(ClError::WAIT_LIST_FAILED);
            }
            let wait: Result<Vec<&B::Event>, _> = wait.iter().map(|event| event.host.as_ref()).collect();
            Ok((host, work, wait.map_err(|_failed| ClError::WAIT_LIST_FAILED)?))
        });
        match ready {
            Ok((host, work, wait)) => {
                let done = watched.map(|watched| -> Done {
                    Box::new(move |outcome| {
                        drop(keep);
                        watched.complete(outcome);
                        if let Some(newest) = newest {
                            newest.over(outcome.status);
                        }
                    })
                });
                let profile = queue.record.properties & PROFILING != 0;
                self.backend.enqueue(host, without_bytes(work), Order { wait: &wait, event, profile, done })
            }
            Err(error) => {
                if let Some(watched) = watched {
                    watched.complete(Outcome::failed(error));
                }
                Err(error)
            }
        }
    }
}

/// Commands between two that are watched. A queue in order is done with what came before a command that is
/// complete; another is not.
fn most_unwatched(queue: &QueueRecord) -> u32 {
    if queue.properties & OUT_OF_ORDER == 0 { 16 } else { 0 }
}

fn inline_bytes<Buf, Img, Ker>(work: &Work<'_, Buf, Img, Ker>) -> usize {
    match work {
        Work::Write { from: HostBytes::Heap(bytes), .. }
        | Work::Image(ImageWork::Write { from: HostBytes::Heap(bytes), .. }) => bytes.len(),
        _ => 0,
    }
}

/// Bytes that a command moves.
fn work_bytes<Buf, Img, Ker>(work: &Work<'_, Buf, Img, Ker>) -> u64 {
    let bytes = match work {
        Work::Read { to, .. } | Work::ReadRect { to, .. } => to.len(),
        Work::Write { from, .. } | Work::WriteRect { from, .. } => from.len(),
        Work::Copy { size, .. } | Work::Fill { size, .. } => *size,
        Work::CopyRect { extent, .. } => {
            extent.iter().fold(1, |bytes: usize, size| bytes.saturating_mul(*size))
        }
        Work::Image(ImageWork::Read { to, .. }) => to.len(),
        Work::Image(ImageWork::Write { from, .. }) => from.len(),
        // Of those that stay on the device it is learnt from the load before them.
        Work::Image(_) => 64 * 1024,
        Work::Launch { .. } | Work::Marker | Work::Barrier => 0,
    };
    bytes as u64
}

fn touches_guest_memory<Buf, Img, Ker>(work: &Work<'_, Buf, Img, Ker>) -> bool {
    match work {
        Work::Read { .. } | Work::ReadRect { .. } | Work::Image(ImageWork::Read { .. }) => true,
        Work::Write { from, .. }
        | Work::WriteRect { from, .. }
        | Work::Image(ImageWork::Write { from, .. }) => matches!(from, HostBytes::Window(_)),
        _ => false,
    }
}

/// A transfer of nothing keeps its place in the queue; drivers differ about whether they take one.
fn without_bytes<'a, Buf, Img, Ker>(work: Work<'a, Buf, Img, Ker>) -> Work<'a, Buf, Img, Ker> {
    let empty = match &work {
        Work::Read { to, .. } => to.is_empty(),
        Work::Write { from, .. } => HostBytes::is_empty(from),
        Work::Copy { size, .. } | Work::Fill { size, .. } => *size == 0,
        _ => false,
    };
    if empty { Work::Marker } else { work }
}

/// The open user events that a command will wait for, through its wait list or its queue.
///
/// Too few is safe (the command counts as moving), too many is not.
pub(super) fn gates<B: Backend>(
    queue: &QueueObject<B>,
    opcode: Opcode,
    wait: &[Arc<EventObject<B>>],
) -> Gates {
    let mut gates = Gates::new();
    let mut add = |gate: &Arc<EventState>| {
        let known = gates.iter().any(|known: &Arc<EventState>| Arc::ptr_eq(known, gate));
        if gate.is_open() && !known && gates.len() < MAX_GATES {
            gates.push(Arc::clone(gate));
        }
    };
    for event in wait {
        if event.state.is_user() {
            add(&event.state);
        }
        event.state.gates.iter().for_each(&mut add);
    }
    let mut state = queue.state();
    let in_order = queue.record.properties & OUT_OF_ORDER == 0;
    let sync = matches!(opcode, Opcode::Marker | Opcode::Barrier | Opcode::Finish) && wait.is_empty();
    let before = if in_order || sync { &state.gates } else { &state.barrier };
    before.iter().for_each(&mut add);
    state.gates.retain(|gate| gate.is_open());
    for gate in &gates {
        let known = state.gates.iter().any(|known| Arc::ptr_eq(known, gate));
        if !known && state.gates.len() < MAX_GATES {
            state.gates.push(Arc::clone(gate));
        }
    }
    if opcode == Opcode::Barrier {
        state.barrier = gates.clone();
    }
    gates
}
