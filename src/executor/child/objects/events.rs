//! What becomes of events.

use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::executor::child::backend::{Outcome, StartWatch};
use crate::executor::child::completion::Completion;
use crate::executor::child::record::Serial;

/// Status of a command that has not started (`CL_QUEUED`), or of an open user event (`CL_SUBMITTED` would be as
/// good: all that counts is that it is positive).
const QUEUED: i32 = 3;

/// What becomes of an event; shared with the command's completion.
#[derive(Debug)]
pub(crate) struct EventState {
    command: Option<(Serial, u16)>,
    status: AtomicI32,
    profile: OnceLock<[u64; 4]>,
    /// Open user events that the command waits for, as of when it was enqueued.
    pub(crate) gates: Gates,
    start: Mutex<Start>,
}

/// Whether a command has started, and who wants to know.
#[derive(Debug, Default)]
struct Start {
    has_started: bool,
    watch: Option<StartWatch>,
    waiting: Vec<Completion>,
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
            start: Mutex::default(),
        }
    }

    pub(crate) fn of_command(queue: Serial, opcode: u16, gates: Gates) -> EventState {
        EventState { command: Some((queue, opcode)), gates, ..EventState::user() }
    }

    /// Queue and opcode; none for a user event.
    pub(crate) fn command(&self) -> Option<(Serial, u16)> {
        self.command
    }

    /// 0 when complete, negative when failed, positive before.
    pub(crate) fn status(&self) -> i32 {
        self.status.load(Ordering::Acquire)
    }

    /// Times of the command, if its queue profiles and it is complete.
    pub(crate) fn profile(&self) -> Option<[u64; 4]> {
        self.profile.get().copied()
    }

    pub(crate) fn is_user(&self) -> bool {
        self.command.is_none()
    }

    pub(crate) fn is_open(&self) -> bool {
        self.status() > 0
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.status() < 0
    }

    pub(crate) fn complete(&self, outcome: Outcome) {
        if let Some(profile) = outcome.profile {
            // Set once: a command completes once.
            let _ = self.profile.set(profile);
        }
        self.status.store(outcome.status, Ordering::Release);
        self.start();
    }

    /// Tells those who wait for it that the command has started.
    pub(crate) fn start(&self) {
        let mut start = self.start.lock().unwrap_or_else(PoisonError::into_inner);
        start.has_started = true;
        let (watch, waiting) = (start.watch.take(), std::mem::take(&mut start.waiting));
        // Outside of the lock: both call elsewhere.
        drop(start);
        drop(watch);
        waiting.into_iter().for_each(|waiting| waiting.complete(Outcome::SUCCESS));
    }

    /// Adds one who waits for the command to start. True if nobody waited before.
    pub(crate) fn await_start(&self, waiting: Completion) -> bool {
        let mut start = self.start.lock().unwrap_or_else(PoisonError::into_inner);
        if start.has_started {
            drop(start);
            waiting.complete(Outcome::SUCCESS);
            return false;
        }
        let is_first = start.waiting.is_empty() && start.watch.is_none();
        start.waiting.push(waiting);
        is_first
    }

    /// Keeps what was set up for that.
    pub(crate) fn keep_watch(&self, watch: StartWatch) {
        let mut start = self.start.lock().unwrap_or_else(PoisonError::into_inner);
        let unused = if start.has_started { Some(watch) } else { start.watch.replace(watch) };
        drop(start);
        drop(unused);
    }
}
