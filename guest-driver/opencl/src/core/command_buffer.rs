//! Command buffers (`cl_khr_command_buffer`): recorded here, and posted command by command each time one is enqueued.
//!
//! What each command waits for is known when it is recorded: its sync points, the barrier before it, and in an in-order
//! queue the command before it. When the buffer is enqueued, the order of an in-order queue does what it can, and events
//! the rest.

use std::fmt;
use std::sync::{Arc, Mutex};

use opencl_sys::{
    CL_COMMAND_BUFFER_NUM_QUEUES_KHR, CL_COMMAND_BUFFER_PROPERTIES_ARRAY_KHR, CL_COMMAND_BUFFER_QUEUES_KHR,
    CL_COMMAND_BUFFER_REFERENCE_COUNT_KHR, CL_COMMAND_BUFFER_STATE_EXECUTABLE_KHR,
    CL_COMMAND_BUFFER_STATE_KHR, CL_COMMAND_BUFFER_STATE_RECORDING_KHR, CL_COMMAND_MARKER,
};

use crate::boundary::object::{Kind, Object};
use crate::core::context::Context;
use crate::core::error::{ClError, ClResult, refuse_if};
use crate::core::event::Event;
use crate::core::extensions::{CommandBufferVersion, MutableDispatchVersion};
use crate::core::info::Info;
use crate::core::lock;
use crate::core::mutable_command::{MutableCommand, Update};
use crate::core::queue::{Queue, Request};
use crate::core::transfer::Enqueued;

/// `CL_COMMAND_COMMAND_BUFFER_KHR`.
pub(crate) const COMMAND: u32 = 0x12a8;
/// `CL_COMMAND_BUFFER_CONTEXT_KHR`, since version 0.9.2.
const CONTEXT: u32 = 0x1299;
/// `CL_COMMAND_BUFFER_STATE_PENDING_KHR`, before version 0.9.8.
const PENDING: u32 = 2;
/// `CL_COMMAND_BUFFER_STATE_FINALIZED_KHR`, since version 0.9.5 of `cl_khr_command_buffer_mutable_dispatch`.
const FINALIZED: u32 = 2;

/// What a recorded command does when its time comes.
pub(crate) type Post = Box<dyn Fn(&Object<Queue>, &Request<'_>) -> Enqueued + Send + Sync>;

/// A command buffer.
#[derive(Debug)]
pub(crate) struct CommandBuffer {
    queues: Vec<Arc<Object<Queue>>>,
    version: CommandBufferVersion,
    terms: Terms,
    state: Mutex<State>,
}

/// What the application wants of a command buffer.
#[derive(Debug, Default)]
pub(crate) struct Terms {
    /// The properties, as it gave them.
    pub(crate) property_list: Vec<u64>,
    /// May be enqueued while it is still executing.
    pub(crate) is_simultaneous: bool,
    /// The version of `cl_khr_command_buffer_mutable_dispatch` that there is for it.
    pub(crate) mutable_dispatch: Option<MutableDispatchVersion>,
    /// What is recorded may be changed.
    pub(crate) is_mutable: bool,
    /// No launch will have more work-groups than when it was recorded.
    pub(crate) limits_groups: bool,
}

#[derive(Debug, Default)]
struct State {
    is_final: bool,
    commands: Vec<Command>,
    orders: Vec<Order>,
    /// Launches that were recorded before all of their arguments were set.
    incomplete: Vec<Arc<Object<MutableCommand>>>,
    /// Executions that may still be going on.
    pending: Vec<Arc<Object<Event>>>,
}

struct Command {
    queue: usize,
    after: Vec<usize>,
    post: Post,
}

/// What the next command of a queue waits for.
#[derive(Clone, Debug, Default)]
struct Order {
    /// In-order: the last command.
    last: Option<usize>,
    /// Out-of-order: the last barrier, and the commands since then.
    barrier: Option<usize>,
    loose: Vec<usize>,
}

impl Kind for CommandBuffer {
    const TAG: u32 = u32::from_le_bytes(*b"cmdb");
    const INVALID: ClError = ClError(opencl_sys::CL_INVALID_COMMAND_BUFFER_KHR);
}

impl CommandBuffer {
    /// A command buffer for queues of one context.
    pub(crate) fn new(
        queues: Vec<Arc<Object<Queue>>>,
        version: CommandBufferVersion,
        terms: Terms,
    ) -> Arc<Object<CommandBuffer>> {
        let state = State { orders: vec![Order::default(); queues.len()], ..State::default() };
        Object::new(CommandBuffer { queues, version, terms, state: Mutex::new(state) })
    }

    /// The queues that commands are recorded for.
    pub(crate) fn queues(&self) -> &[Arc<Object<Queue>>] {
        &self.queues
    }

    /// The context.
    pub(crate) fn context(&self) -> &Arc<Object<Context>> {
        self.queues[0].context()
    }

    /// The version of the extension by whose rules it was made.
    pub(crate) fn version(&self) -> CommandBufferVersion {
        self.version
    }

    /// The version of `cl_khr_command_buffer_mutable_dispatch` that there is for it.
    pub(crate) fn mutable_dispatch(&self) -> Option<MutableDispatchVersion> {
        self.terms.mutable_dispatch
    }

    /// True if what is recorded may be changed.
    pub(crate) fn is_mutable(&self) -> bool {
        self.terms.is_mutable
    }

    /// True if no launch will have more work-groups than when it was recorded.
    pub(crate) fn limits_groups(&self) -> bool {
        self.terms.limits_groups
    }

    /// True once nothing can be recorded any more.
    pub(crate) fn is_final(&self) -> bool {
        lock(&self.state).is_final
    }

    /// `clFinalizeCommandBufferKHR`.
    pub(crate) fn finalize(&self) -> ClResult<()> {
        let mut state = lock(&self.state);
        // CL_INVALID_OPERATION if command_buffer is not in the Recording state.
        refuse_if(state.is_final, ClError::INVALID_OPERATION)?;
        state.is_final = true;
        Ok(())
    }

    /// The number of sync points so far: 1 to this are valid.
    pub(crate) fn sync_points(&self) -> u32 {
        lock(&self.state).commands.len() as u32
    }

    /// Adds a command for the queue with this index. Returns its sync point.
    pub(crate) fn record(
        &self,
        queue: usize,
        sync_points: &[u32],
        is_barrier: bool,
        post: Post,
    ) -> ClResult<u32> {
        self.record_in(&mut lock(&self.state), queue, sync_points, is_barrier, post)
    }

    fn record_in(
        &self,
        state: &mut State,
        queue: usize,
        sync_points: &[u32],
        is_barrier: bool,
        post: Post,
    ) -> ClResult<u32> {
        refuse_if(state.is_final, ClError::INVALID_OPERATION)?;
        let number = state.commands.len();
        let points = sync_points.iter().map(|point| *point as usize - 1);
        let in_order = self.queues[queue].is_in_order();
        let after = state.orders[queue].next(number, points.collect(), in_order, is_barrier);
        state.commands.push(Command { queue, after, post });
        Ok(number as u32 + 1)
    }

    /// Adds a launch for the queue with this index. Returns its sync point.
    pub(crate) fn record_launch(
        &self,
        queue: usize,
        sync_points: &[u32],
        launch: Arc<Object<MutableCommand>>,
    ) -> ClResult<u32> {
        let mut state = lock(&self.state);
        let incomplete = (!launch.has_all_args()).then(|| launch.clone());
        let post: Post = Box::new(move |queue, request| launch.post(queue, request));
        let point = self.record_in(&mut state, queue, sync_points, false, post)?;
        state.incomplete.extend(incomplete);
        Ok(point)
    }

    /// `clUpdateMutableCommandsKHR`: makes the changes if none is refused, with nothing enqueued meanwhile.
    pub(crate) fn update(&self, change: impl FnOnce(&mut Update) -> ClResult<()>) -> ClResult<()> {
        let mut state = lock(&self.state);
        let mut update = Update::default();
        change(&mut update)?;
        update.apply();
        state.incomplete.retain(|launch| !launch.has_all_args());
        Ok(())
    }

    /// `CL_COMMAND_BUFFER_STATE_KHR`.
    fn state(&self) -> u32 {
        let mut state = lock(&self.state);
        if !state.is_final {
            CL_COMMAND_BUFFER_STATE_RECORDING_KHR
        } else if self.version.has_pending_state() && CommandBuffer::is_pending(&mut state) {
            PENDING
        } else if !state.incomplete.is_empty() {
            FINALIZED
        } else {
            CL_COMMAND_BUFFER_STATE_EXECUTABLE_KHR
        }
    }

    fn is_pending(state: &mut State) -> bool {
        state.pending.retain(|event| !event.is_signalled());
        !state.pending.is_empty()
    }

    /// `clEnqueueCommandBufferKHR`, in these queues in place of its own.
    pub(crate) fn enqueue(
        &self,
        queues: &[Arc<Object<Queue>>],
        wait: &[Arc<Object<Event>>],
        wants_event: bool,
    ) -> ClResult<Option<Arc<Object<Event>>>> {
        let mut state = lock(&self.state);
        // CL_INVALID_OPERATION if command_buffer has not been finalized, or not all the arguments of its commands are set.
        refuse_if(!state.is_final || !state.incomplete.is_empty(), ClError::INVALID_OPERATION)?;
        // CL_INVALID_OPERATION if command_buffer was not created with the CL_COMMAND_BUFFER_SIMULTANEOUS_USE_KHR flag and
        // is in the Pending state. Since version 0.9.8 that is the application's business.
        let keeps_count = self.version.has_pending_state();
        let is_refused = keeps_count && !self.terms.is_simultaneous && CommandBuffer::is_pending(&mut state);
        refuse_if(is_refused, ClError::INVALID_OPERATION)?;
        let event = post_all(&state.commands, queues, wait, wants_event || keeps_count)?;
        if keeps_count {
            state.pending.extend(event.clone());
        }
        Ok(event.filter(|_| wants_event))
    }
}

impl Object<CommandBuffer> {
    /// `clGetCommandBufferInfoKHR`.
    pub(crate) fn info(&self, param: u32) -> ClResult<Info> {
        Ok(match param {
            CL_COMMAND_BUFFER_NUM_QUEUES_KHR => Info::value(self.queues.len() as u32),
            CL_COMMAND_BUFFER_QUEUES_KHR => Info::handles(self.queues.iter().map(|queue| queue.handle())),
            CL_COMMAND_BUFFER_REFERENCE_COUNT_KHR => Info::value(self.reference_count()),
            CL_COMMAND_BUFFER_STATE_KHR => Info::value(self.state()),
            CL_COMMAND_BUFFER_PROPERTIES_ARRAY_KHR => Info::list(&self.terms.property_list),
            CONTEXT if self.version.has_context_query() => Info::handle(self.context().handle()),
            // CL_INVALID_VALUE if param_name is not one of the supported values.
            _ => return Err(ClError::INVALID_VALUE),
        })
    }
}

impl Order {
    /// Notes the command with this number. Returns the commands that it waits for.
    fn next(&mut self, number: usize, mut after: Vec<usize>, in_order: bool, is_barrier: bool) -> Vec<usize> {
        if in_order {
            after.extend(self.last.replace(number));
        } else {
            // A barrier without sync points waits for everything before it.
            if is_barrier && after.is_empty() {
                after.append(&mut self.loose);
            }
            after.extend(self.barrier);
            if is_barrier {
                self.barrier = Some(number);
            } else {
                self.loose.push(number);
            }
        }
        after.sort_unstable();
        after.dedup();
        after
    }
}

/// How a command is posted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Step {
    /// The commands whose events it waits for.
    wait: Vec<usize>,
    /// Nothing in the buffer comes before it, so it waits for what the buffer waits for.
    is_first: bool,
    /// Others wait for its event.
    is_awaited: bool,
}

/// How the commands (queue, and what they wait for) are posted to queues that are in order or not, and which of them must
/// be complete for all to be.
fn plan<'a>(
    commands: impl Iterator<Item = (usize, &'a [usize])>,
    in_order: &[bool],
) -> (Vec<Step>, Vec<usize>) {
    let mut steps: Vec<Step> = Vec::new();
    let mut queues = Vec::new();
    let mut ends: Vec<usize> = Vec::new();
    let mut last = vec![None; in_order.len()];
    for (number, (queue, after)) in commands.enumerate() {
        let ordered = in_order[queue];
        let wait: Vec<usize> =
            after.iter().copied().filter(|before| !ordered || queues[*before] != queue).collect();
        for before in &wait {
            steps[*before].is_awaited = true;
        }
        let implied = if ordered { last[queue].replace(number) } else { None };
        ends.retain(|end| !after.contains(end) && Some(*end) != implied);
        ends.push(number);
        queues.push(queue);
        let is_first = after.is_empty() && implied.is_none();
        steps.push(Step { wait, is_first, is_awaited: false });
    }
    (steps, ends)
}

fn part(command: u32, wait: &[Arc<Object<Event>>], wants_event: bool) -> Request<'_> {
    Request { is_part: true, ..Request::new(command, wait, wants_event) }
}

fn post_all(
    commands: &[Command],
    queues: &[Arc<Object<Queue>>],
    wait: &[Arc<Object<Event>>],
    wants_event: bool,
) -> ClResult<Option<Arc<Object<Event>>>> {
    let in_order: Vec<bool> = queues.iter().map(|queue| queue.is_in_order()).collect();
    let (steps, ends) =
        plan(commands.iter().map(|command| (command.queue, command.after.as_slice())), &in_order);
    // Commands that others enqueue at the same time come before all of these, or after them.
    let mut alone: Vec<_> = queues.iter().collect();
    alone.sort_by_key(|queue| queue.handle().bits());
    alone.dedup_by_key(|queue| queue.handle().bits());
    let _alone: Vec<_> = alone.into_iter().map(|queue| queue.post_alone()).collect();

    let queue = &queues[0];
    // Where one command fails because of what it waits for, so must those behind it in the queue: they wait too.
    let gate = match wait {
        [_, _, ..] if commands.len() > 1 => {
            queue.enqueue_nothing(&part(CL_COMMAND_MARKER, wait, true))?.event.map(|gate| vec![gate])
        }
        _ => None,
    };
    let wait = gate.as_deref().unwrap_or(wait);
    // The last command tells of the end if all others are before it.
    let last = match ends.as_slice() {
        [end] if *end + 1 == commands.len() => Some(*end),
        _ => None,
    };
    let timed = wants_event && queue.is_profiling();
    let mut events: Vec<Option<Arc<Object<Event>>>> = Vec::new();
    for (number, (command, step)) in commands.iter().zip(&steps).enumerate() {
        let is_last = last == Some(number);
        let mut all: Vec<_> = step.wait.iter().filter_map(|before| events[*before].clone()).collect();
        if step.is_first || in_order[command.queue] {
            all.extend(wait.iter().cloned());
        }
        let must_tell = step.is_awaited || ends.contains(&number) || (timed && number == 0);
        let wants = if is_last { wants_event } else { must_tell };
        let kind = if is_last { COMMAND } else { CL_COMMAND_MARKER };
        events.push((command.post)(&queues[command.queue], &part(kind, &all, wants))?);
    }
    let event = match last {
        Some(last) => events[last].clone(),
        None => {
            let mut all: Vec<_> = ends.iter().filter_map(|end| events[*end].clone()).collect();
            if all.is_empty() {
                all.extend(wait.iter().cloned());
            }
            queue.enqueue_nothing(&part(COMMAND, &all, wants_event))?.event
        }
    };
    if timed && let (Some(event), Some(Some(first))) = (&event, events.first()) {
        event.began_with(first);
    }
    Ok(event)
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Command").field("queue", &self.queue).field("after", &self.after).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the commands (queue, sync points, barrier) wait for.
    fn recorded(in_order: &[bool], commands: &[(usize, &[usize], bool)]) -> Vec<(usize, Vec<usize>)> {
        let mut orders = vec![Order::default(); in_order.len()];
        let all = commands.iter().enumerate().map(|(number, (queue, points, is_barrier))| {
            let after = orders[*queue].next(number, points.to_vec(), in_order[*queue], *is_barrier);
            (*queue, after)
        });
        all.collect()
    }

    fn planned(commands: &[(usize, Vec<usize>)], in_order: &[bool]) -> (Vec<Step>, Vec<usize>) {
        plan(commands.iter().map(|(queue, after)| (*queue, after.as_slice())), in_order)
    }

    #[test]
    fn an_in_order_queue_needs_no_events() {
        let commands = recorded(&[true], &[(0, &[], false), (0, &[0], false), (0, &[], true)]);
        let (steps, ends) = planned(&commands, &[true]);
        assert!(steps.iter().all(|step| step.wait.is_empty() && !step.is_awaited));
        assert_eq!(steps.iter().map(|step| step.is_first).collect::<Vec<_>>(), [true, false, false]);
        assert_eq!(ends, [2]);
    }

    #[test]
    fn what_was_recorded_in_order_stays_so_in_a_queue_that_is_not() {
        let commands = recorded(&[true], &[(0, &[], false), (0, &[], false), (0, &[], false)]);
        let (steps, ends) = planned(&commands, &[false]);
        assert_eq!(steps[1].wait, [0]);
        assert_eq!(steps[2].wait, [1]);
        assert!(steps[0].is_awaited && steps[1].is_awaited && !steps[2].is_awaited);
        assert_eq!(ends, [2]);
    }

    #[test]
    fn out_of_order_commands_wait_for_their_sync_points_and_for_barriers() {
        let commands = recorded(
            &[false],
            &[(0, &[], false), (0, &[], false), (0, &[0, 1, 1], false), (0, &[], true), (0, &[], false)],
        );
        let after: Vec<_> = commands.iter().map(|(_, after)| after.clone()).collect();
        assert_eq!(after, [vec![], vec![], vec![0, 1], vec![0, 1, 2], vec![3]]);
        let (steps, ends) = planned(&commands, &[false]);
        assert_eq!(ends, [4]);
        assert_eq!(
            steps.iter().map(|step| step.is_first).collect::<Vec<_>>(),
            [true, true, false, false, false]
        );
        // In an in-order queue the same needs nothing.
        let (steps, ends) = planned(&commands, &[true]);
        assert!(steps.iter().all(|step| step.wait.is_empty()));
        assert_eq!(ends, [4]);
    }

    #[test]
    fn a_barrier_with_sync_points_holds_back_what_follows_and_waits_for_no_more() {
        let commands = recorded(
            &[false],
            &[(0, &[], false), (0, &[], false), (0, &[0], true), (0, &[], false), (0, &[], true)],
        );
        let after: Vec<_> = commands.iter().map(|(_, after)| after.clone()).collect();
        assert_eq!(after, [vec![], vec![], vec![0], vec![2], vec![0, 1, 2, 3]]);
    }

    #[test]
    fn loose_ends_are_all_waited_for() {
        let commands = recorded(&[false], &[(0, &[], false), (0, &[], false), (0, &[0], false)]);
        let (_, ends) = planned(&commands, &[false]);
        assert_eq!(ends, [1, 2]);
        assert_eq!(planned(&[], &[false]), (Vec::new(), Vec::new()));
    }

    #[test]
    fn queues_wait_for_each_other_by_events() {
        let commands =
            recorded(&[true, true], &[(0, &[], false), (1, &[0], false), (0, &[], false), (1, &[], false)]);
        let (steps, ends) = planned(&commands, &[true, true]);
        assert_eq!(steps[1].wait, [0]);
        assert!(steps[0].is_awaited);
        assert_eq!(steps[3].wait, Vec::<usize>::new());
        assert_eq!(ends, [2, 3]);
    }
}
