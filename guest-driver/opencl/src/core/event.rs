//! Events: of commands, and the application's own.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

use opencl_sys::{
    CL_COMMAND_USER, CL_COMPLETE, CL_EVENT_COMMAND_EXECUTION_STATUS, CL_EVENT_COMMAND_QUEUE,
    CL_EVENT_COMMAND_TYPE, CL_EVENT_CONTEXT, CL_EVENT_REFERENCE_COUNT, CL_PROFILING_COMMAND_COMPLETE,
    CL_PROFILING_COMMAND_END, CL_PROFILING_COMMAND_QUEUED, CL_PROFILING_COMMAND_START,
    CL_PROFILING_COMMAND_SUBMIT, CL_SUBMITTED,
};
use paragpu_protocol::command::{CreateUserEvent, SetUserEvent};

use crate::boundary::callback::{Callback, EventFn};
use crate::boundary::object::{Kind, Object, RawHandle};
use crate::core::completion::Completion;
use crate::core::context::{self, Context};
use crate::core::copies::Copies;
use crate::core::error::{ClError, ClResult};
use crate::core::info::Info;
use crate::core::lock;
use crate::core::queue::Queue;

/// An event.
#[derive(Debug)]
pub(crate) struct Event {
    context: Arc<Object<Context>>,
    queue: Option<Arc<Object<Queue>>>,
    id: u32,
    command: u32,
    source: Source,
    watchers: Mutex<Vec<Watcher>>,
}

/// What completes the event.
#[derive(Debug)]
enum Source {
    /// The host, and then the copies that belong to it.
    Command(Arc<Completion>, Copies),
    /// The application.
    User(Mutex<i32>, Condvar),
}

#[derive(Debug)]
struct Watcher {
    trigger: i32,
    callback: Callback<EventFn>,
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
        Object::new(Event {
            context: queue.context().clone(),
            queue: Some(queue),
            id,
            command,
            source: Source::Command(completion, copies),
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

    /// `CL_EVENT_COMMAND_EXECUTION_STATUS`.
    pub(crate) fn status(&self) -> i32 {
        match self.signal() {
            // Commands are posted when they are enqueued; when they start to run, only the host knows.
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

    fn make_copies(&self) {
        if let Source::Command(completion, copies) = &self.source {
            copies.perform();
            // What is left was written from, or belonged to a mapping that is gone.
            completion.take_staging();
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
        let [queued, submit, start, end] = outcome.profile;
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
        lock(&self.watchers).push(Watcher { trigger, callback });
        if !self.is_user() && !self.is_signalled() {
            self.context.notifier().watch(self.arc());
        }
        if self.is_signalled() {
            self.settle();
        }
    }

    /// Calls the callbacks of an event that is signalled. Holds no lock meanwhile.
    pub(crate) fn settle(&self) {
        let status = self.status();
        let mut watchers = std::mem::take(&mut *lock(&self.watchers));
        // A command is submitted, then running, then complete: higher numbers come first.
        watchers.sort_by_key(|watcher| -watcher.trigger);
        for Watcher { trigger, callback } in watchers {
            callback.call(self.handle(), if status < 0 { status } else { trigger });
        }
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        self.context.connection().release(self.id);
    }
}
