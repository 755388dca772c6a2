//! Commands that this driver performs itself, without the host.
//!
//! Where the bytes of a buffer are visible here (see `Memory::visible`), reading and writing them is a copy. It may be made
//! when everything that the command comes after is over; then there is nobody to ask and nobody to wake. That the queue has
//! nothing left to do is known from what this driver has waited for anyway.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Queue, Request, State};
use crate::boundary::object::Object;
use crate::boundary::pointer::AppMemory;
use crate::core::copies::Copies;
use crate::core::error::{ClError, ClResult};
use crate::core::event::Event;
use crate::core::lock;

/// How often a blocking command waits for the queue to have nothing left to do, while other threads give it more.
const ATTEMPTS: usize = 3;

/// How far a queue is known to have come.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// This many of the first commands are over, with the copies that belong to them.
    over: AtomicU64,
}

impl Progress {
    pub(super) fn reached(&self, position: u64) {
        self.over.fetch_max(position, Ordering::AcqRel);
    }

    pub(super) fn is_at(&self, position: u64) -> bool {
        self.over.load(Ordering::Acquire) == position
    }
}

impl Queue {
    /// Says that the command at this position is over, with its copies. In an in-order queue so are those before it.
    pub(crate) fn is_over(&self, position: u64) {
        if self.is_in_order() {
            self.progress.reached(position);
        }
    }

    fn is_idle(&self, state: &State) -> bool {
        self.progress.is_at(state.posted)
    }
}

impl Object<Queue> {
    /// Copies bytes of a transfer from one place to another, and counts that.
    pub(crate) fn copy(&self, (from, to): (AppMemory, AppMemory), len: usize) {
        from.copy_to(to, len);
        self.connection().copied(1, len);
    }

    /// Performs a command here if everything before it is over, or can be waited for because the command blocks. Returns its
    /// event, if one is wanted; nothing if the host must perform it.
    pub(crate) fn at_once(
        &self,
        request: &Request<'_>,
        perform: impl FnOnce(),
    ) -> ClResult<Option<Option<Arc<Object<Event>>>>> {
        // The host's clock would be needed; and what is posted together stays together.
        if request.is_part || request.wants_event && self.is_profiling() {
            return Ok(None);
        }
        let mut attempts = if request.is_blocking && self.is_in_order() { ATTEMPTS } else { 0 };
        loop {
            if self.connection().is_lost() {
                self.context.tell_if_lost();
                return Err(ClError::DEVICE_NOT_AVAILABLE);
            }
            if request.wait.iter().all(|event| event.has_succeeded()) {
                request.wait.iter().filter_map(|event| event.copies()).for_each(Copies::perform);
                let _alone = self.post_alone();
                // What is posted meanwhile comes after this command.
                let state = lock(&self.state);
                if self.is_idle(&state) {
                    perform();
                    break;
                }
            }
            if attempts == 0 {
                return Ok(None);
            }
            attempts -= 1;
            let waiting = Request { wants_event: false, is_blocking: true, ..*request };
            self.enqueue_nothing(&waiting)?;
        }
        Ok(Some(request.wants_event.then(|| Event::of_past(self.arc(), request.command))))
    }
}
