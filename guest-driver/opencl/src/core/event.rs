//! Events: of commands, and the application's own.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};

use opencl_sys::{
    CL_COMMAND_USER, CL_COMPLETE, CL_EVENT_COMMAND_EXECUTION_STATUS, CL_EVENT_COMMAND_QUEUE,
    CL_EVENT_COMMAND_TYPE, CL_EVENT_CONTEXT, CL_EVENT_REFERENCE_COUNT, CL_PROFILING_COMMAND_COMPLETE,
    CL_PROFILING_COMMAND_END, CL_PROFILING_COMMAND_QUEUED, CL_PROFILING_COMMAND_START,
    CL_PROFILING_COMMAND_SUBMIT, CL_RUNNING, CL_SUBMITTED,
};
use paragpu_protocol::command::{CreateUserEvent, SetUserEvent, WatchEvent};

use crate::boundary::callback::{Callback, EventFn};
use crate::boundary::object::{Kind, Object, RawHandle};
use crate::core::completion::Completion;
use crate::core::context::{self, Context};
use crate::core::copies::Copies;
use crate::core::error::{ClError, ClResult};
use crate::core::info::Info;
use crate::core::lock;
use crate::core::queue::Queue;
use crate::core::slots::Slot;

/// An event.
#[derive(Debug)]
pub(crate) struct Event {
    context: Arc<Object<Context>>,
    queue: Option<Arc<Object<Queue>>>,
    id: u32,
    command: u32,
    source: Source,
    /// The first of several commands that the event stands for.
    first: OnceLock<Arc<Object<Event>>>,
    start: Start,
    watchers: Mutex<Vec<Watcher>>,
}

/// The id of an event that the host does not know.
const NOWHERE: u32 = 0;

/// How it is known that the command has started.
#[derive(Debug)]
enum Start {
    /// The host says so, from when it is first asked on. Nothing if it could not be asked.
    OnHost(OnceLock<Option<Slot>>),
    /// This driver says so of a native kernel, which began when another command ended.
    Here(AtomicBool, Option<Arc<Completion>>),
    /// It is the application's own event.
    Never,
}

/// What completes the event.
#[derive(Debug)]
enum Source {
    /// The host, and then the copies that belong to it.
    Command(Arc<Completion>, Copies),
    /// The application.
    User(Mutex<i32>, Condvar),
}

struct Watcher {
    trigger: i32,
    action: Action,
}

/// What a watcher does.
enum Action {
    /// Calls the application.
    Call(Callback<EventFn>),
    /// Something of this driver's, with the event's status.
    Run(Work),
}

/// What this driver does when an event is complete.
pub(crate) type Work = Box<dyn FnOnce(i32) + Send>;

impl std::fmt::Debug for Watcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Watcher({})", self.trigger)
    }
}

impl Kind for Event {
    const TAG: u32 = u32::from_le_bytes(*b"even");
    const INVALID: ClError = ClError::INVALID_EVENT;
}

impl Event {
    /// The event of a command that has been posted with this event id.
    pub(crate) fn of_command(
        queue: Arc<Object<Queue>>,
        id: u32,
        command: u32,
        completion: Arc<Completion>,
        copies: Copies,
    ) -> Arc<Object<Event>> {
        Event::with_start(queue, id, command, (completion, copies), Start::OnHost(OnceLock::new()))
    }

    /// The event of a command that was performed here and is over. The host does not know it.
    pub(crate) fn of_past(queue: Arc<Object<Queue>>, command: u32) -> Arc<Object<Event>> {
        let completion = Completion::of_past(queue.connection());
        Event::of_command(queue, NOWHERE, command, completion, Copies::default())
    }

    /// The event of a native kernel that begins after one command and is over with another.
    pub(crate) fn of_call(
        queue: Arc<Object<Queue>>,
        id: u32,
        command: u32,
        (before, completion): (Option<Arc<Completion>>, Arc<Completion>),
        copies: Copies,
    ) -> Arc<Object<Event>> {
        Event::with_start(
            queue,
            id,
            command,
            (completion, copies),
            Start::Here(AtomicBool::new(false), before),
        )
    }

    fn with_start(
        queue: Arc<Object<Queue>>,
        id: u32,
        command: u32,
        (completion, copies): (Arc<Completion>, Copies),
        start: Start,
    ) -> Arc<Object<Event>> {
        Object::new(Event {
            context: queue.context().clone(),
            queue: Some(queue),
            id,
            command,
            source: Source::Command(completion, copies),
            first: OnceLock::new(),
            start,
            watchers: Mutex::default(),
        })
    }

    /// `clCreateUserEvent`.
    pub(crate) fn user(context: &Object<Context>) -> ClResult<Arc<Object<Event>>> {
        let id = context.connection().new_id();
        let body = CreateUserEvent { create: context::create(id, context.id()) };
        context.connection().send(&body, &[], &[])?;
        Ok(Object::new(Event {
            context: context.arc(),
            queue: None,
            id,
            command: CL_COMMAND_USER,
            // "The execution status of the user event object created is set to CL_SUBMITTED."
            source: Source::User(Mutex::new(CL_SUBMITTED), Condvar::new()),
            first: OnceLock::new(),
            start: Start::Never,
            watchers: Mutex::default(),
        }))
    }

    /// The event's context.
    pub(crate) fn context(&self) -> &Arc<Object<Context>> {
        &self.context
    }

    /// What the host calls the event.
    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// True if it is the application's own.
    pub(crate) fn is_user(&self) -> bool {
        matches!(self.source, Source::User(..))
    }

    /// The copies that must be performed before the event is complete for the application.
    pub(crate) fn copies(&self) -> Option<&Copies> {
        match &self.source {
            Source::Command(_, copies) => Some(copies),
            Source::User(..) => None,
        }
    }

    fn signal(&self) -> Option<i32> {
        match &self.source {
            Source::Command(completion, _) => {
                completion.poll().map(|outcome| outcome.status.min(CL_COMPLETE))
            }
            Source::User(status, _) => Some(*lock(status)).filter(|status| *status <= CL_COMPLETE),
        }
    }

    /// True if the host, or the application, has completed the event. Copies may still be to be made.
    pub(crate) fn is_signalled(&self) -> bool {
        self.signal().is_some()
    }

    /// True if waiting for the event changes nothing any more: it has succeeded on the host.
    pub(crate) fn has_succeeded(&self) -> bool {
        self.signal() == Some(CL_COMPLETE)
    }

    /// True if the command is known to have started, or to be over. Asks the host, and does not wait for an answer: the
    /// first time it is no.
    fn has_started(&self) -> bool {
        match &self.start {
            Start::OnHost(asked) => match asked.get_or_init(|| self.ask_for_start()) {
                Some(slot) => slot.poll().is_some(),
                None => false,
            },
            Start::Here(has_started, _) => has_started.load(Ordering::Acquire),
            Start::Never => false,
        }
    }

    fn ask_for_start(&self) -> Option<Slot> {
        let connection = self.context.connection();
        let slot = connection.slot().ok()?;
        let body = WatchEvent { event: self.id.into(), reserved: 0.into(), reply: slot.to_ref() };
        connection.send(&body, &[], &[]).ok().map(|()| slot)
    }

    /// True if there is a callback whose time has come.
    pub(crate) fn is_due(&self) -> bool {
        let wants_start = || lock(&self.watchers).iter().any(|watcher| watcher.trigger == CL_RUNNING);
        self.is_signalled() || (wants_start() && self.has_started())
    }

    /// `CL_EVENT_COMMAND_EXECUTION_STATUS`.
    pub(crate) fn status(&self) -> i32 {
        match self.signal() {
            // Commands are posted when they are enqueued; when they start to run, only the host knows.
            None if self.has_started() => CL_RUNNING,
            None => CL_SUBMITTED,
            Some(status) => {
                self.make_copies();
                status
            }
        }
    }

    /// Waits until the event is complete, and returns 0 or the error.
    pub(crate) fn wait(&self) -> i32 {
        match &self.source {
            Source::Command(completion, _) => {
                completion.wait();
            }
            Source::User(status, changed) => {
                let _ended = changed
                    .wait_while(lock(status), |status| *status > CL_COMPLETE)
                    .unwrap_or_else(PoisonError::into_inner);
            }
        }
        self.status()
    }

    /// Makes complete what the application may look for once it knows that the command is.
    fn make_copies(&self) {
        if let Source::Command(completion, copies) = &self.source {
            copies.perform();
            // What is left was written from, or belonged to a mapping that is gone.
            completion.take_staging();
            self.context.connection().print();
            if let Some(queue) = &self.queue
                && self.has_succeeded()
            {
                queue.is_over(completion.position());
            }
        }
    }

    /// Says that the event stands for several commands, of which this one is the first.
    pub(crate) fn began_with(&self, first: &Arc<Object<Event>>) {
        if !std::ptr::eq(self, &***first) {
            // Set once, when the event is made.
            let _ = self.first.set(first.clone());
        }
    }

    /// `clGetEventProfilingInfo`.
    pub(crate) fn profiling_info(&self, param: u32) -> ClResult<Info> {
        // CL_PROFILING_INFO_NOT_AVAILABLE if the CL_QUEUE_PROFILING_ENABLE flag is not set for the command-queue, if
        // the execution status of the command identified by event is not CL_COMPLETE, or if event is a user event.
        let not_available = ClError::PROFILING_INFO_NOT_AVAILABLE;
        let Source::Command(completion, _) = &self.source else {
            return Err(not_available);
        };
        if !self.queue.as_ref().is_some_and(|queue| queue.is_profiling()) {
            return Err(not_available);
        }
        let outcome =
            completion.poll().filter(|outcome| outcome.status >= CL_COMPLETE).ok_or(not_available)?;
        let [queued, submit, mut start, end] = outcome.profile;
        if let Some(first) = self.first.get()
            && matches!(
                param,
                CL_PROFILING_COMMAND_QUEUED | CL_PROFILING_COMMAND_SUBMIT | CL_PROFILING_COMMAND_START
            )
        {
            return first.profiling_info(param);
        }
        if let Start::Here(_, Some(before)) = &self.start
            && let Some(before) = before.poll()
        {
            start = before.profile[3].clamp(submit, end);
        }
        Ok(Info::value(match param {
            CL_PROFILING_COMMAND_QUEUED => queued,
            CL_PROFILING_COMMAND_SUBMIT => submit,
            CL_PROFILING_COMMAND_START => start,
            // Nothing enqueues kernels from kernels, so the two are one.
            CL_PROFILING_COMMAND_END | CL_PROFILING_COMMAND_COMPLETE => end,
            // CL_INVALID_VALUE if param_name is not valid.
            _ => return Err(ClError::INVALID_VALUE),
        }))
    }
}

impl Object<Event> {
    /// `clGetEventInfo`.
    pub(crate) fn info(&self, param: u32) -> ClResult<Info> {
        Ok(match param {
            CL_EVENT_COMMAND_QUEUE => {
                Info::handle(self.queue.as_ref().map_or(RawHandle::NULL, |queue| queue.handle()))
            }
            CL_EVENT_CONTEXT => Info::handle(self.context.handle()),
            CL_EVENT_COMMAND_TYPE => Info::value(self.command),
            CL_EVENT_COMMAND_EXECUTION_STATUS => Info::value(self.status()),
            CL_EVENT_REFERENCE_COUNT => Info::value(self.reference_count()),
            // CL_INVALID_VALUE if param_name is not one of the supported values.
            _ => return Err(ClError::INVALID_VALUE),
        })
    }

    /// `clSetUserEventStatus`. Calls the event's callbacks.
    pub(crate) fn set_user_status(&self, new: i32) -> ClResult<()> {
        let Source::User(status, changed) = &self.source else {
            return Err(ClError::INVALID_EVENT);
        };
        // Who waits for it may release it as soon as it is complete: the host must hear of that afterwards.
        let _alive = self.arc();
        {
            let mut status = lock(status);
            // CL_INVALID_OPERATION if the execution_status for event has already been changed by a previous call.
            if *status <= CL_COMPLETE {
                return Err(ClError::INVALID_OPERATION);
            }
            *status = new;
        }
        changed.notify_all();
        let body = SetUserEvent { event: self.id.into(), status: new.into() };
        let sent = self.context.connection().send(&body, &[], &[]);
        // On a lost connection too: it is this side that the event has ended for, and nothing else calls them.
        self.settle();
        sent
    }

    /// `clSetEventCallback`. May call the callback at once.
    pub(crate) fn on_status(&self, trigger: i32, callback: Callback<EventFn>) {
        if trigger == CL_SUBMITTED && !self.is_signalled() {
            // Submitted it is already.
            return callback.call(self.handle(), CL_SUBMITTED);
        }
        self.watch(Watcher { trigger, action: Action::Call(callback) });
    }

    /// Runs `work` when the event is complete, perhaps at once.
    pub(crate) fn when_complete(&self, work: Work) {
        self.watch(Watcher { trigger: CL_COMPLETE, action: Action::Run(work) });
    }

    fn watch(&self, watcher: Watcher) {
        lock(&self.watchers).push(watcher);
        if !self.is_user() && !self.is_signalled() {
            self.context.notifier().watch(self.arc());
        }
        if self.is_due() {
            self.settle();
        }
    }

    /// Says that the native kernel starts, and calls the callbacks that wait for that.
    pub(crate) fn begin(&self) {
        if let Start::Here(has_started, _) = &self.start {
            has_started.store(true, Ordering::Release);
            self.settle();
        }
    }

    /// Calls the callbacks whose time has come. Holds no lock meanwhile.
    pub(crate) fn settle(&self) {
        let status = self.status();
        let mut watchers: Vec<Watcher> =
            lock(&self.watchers).extract_if(.., |watcher| watcher.trigger >= status).collect();
        // A command is submitted, then running, then complete: higher numbers come first.
        watchers.sort_by_key(|watcher| -watcher.trigger);
        for Watcher { trigger, action } in watchers {
            match action {
                Action::Call(callback) => {
                    callback.call(self.handle(), if status < 0 { status } else { trigger });
                }
                Action::Run(work) => work(status),
            }
        }
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if self.id != NOWHERE {
            self.context.connection().release(self.id);
        }
    }
}
