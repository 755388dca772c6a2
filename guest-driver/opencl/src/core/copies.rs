//! The second half of a read: from staging memory to where the application wants the bytes.
//!
//! The host completes a read when the bytes are in staging memory. No thread of this driver runs all the time, so
//! whoever observes that a command is complete (waits for an event, asks for its status, finishes the queue) first
//! performs the copies which that command's completion implies. [`Copies`] says which these are: its own, those of
//! the events it waited for, and in an in-order queue those of all commands before it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use crate::boundary::pointer::AppMemory;
use crate::core::completion::Completion;
use crate::core::lock;
use crate::core::rect::Rect;
use crate::core::staging::Staging;

/// Where the bytes of a read go; and where those of a write are.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Destination {
    /// In one piece.
    Linear(AppMemory, usize),
    /// Row by row.
    Rect(AppMemory, Rect),
}

impl Destination {
    fn copy_from(&self, staging: &Staging) {
        match self {
            Destination::Linear(memory, len) => staging.read(0, memory.bytes_mut(*len)),
            Destination::Rect(memory, rect) => {
                for (from, to) in rect.rows().enumerate() {
                    staging.read(from * rect.row_len(), memory.offset(to).bytes_mut(rect.row_len()));
                }
            }
        }
    }

    /// The bytes that are there, without gaps.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        match self {
            Destination::Linear(memory, len) => memory.bytes(*len).to_vec(),
            Destination::Rect(memory, rect) => {
                let row = |from| memory.offset(from).bytes(rect.row_len()).to_vec();
                rect.rows().flat_map(row).collect()
            }
        }
    }

    /// Copies the bytes that are there to staging memory, without gaps.
    pub(crate) fn copy_to(&self, staging: &mut Staging) {
        match self {
            Destination::Linear(memory, len) => staging.write(0, memory.bytes(*len)),
            Destination::Rect(memory, rect) => {
                for (to, from) in rect.rows().enumerate() {
                    staging.write(to * rect.row_len(), memory.offset(from).bytes(rect.row_len()));
                }
            }
        }
    }
}

/// One read whose bytes are not where they belong yet.
#[derive(Debug)]
struct PendingCopy {
    read: Arc<Completion>,
    to: Destination,
    is_done: Mutex<bool>,
}

impl PendingCopy {
    /// Waits for the read, and copies. Whoever else wants the copy waits meanwhile.
    fn perform(&self) {
        let mut is_done = lock(&self.is_done);
        if !*is_done {
            let succeeded = self.read.wait().status >= 0;
            if let Some(staging) = self.read.take_staging()
                && succeeded
            {
                self.to.copy_from(&staging);
            }
            *is_done = true;
        }
    }
}

/// Copies that are performed in order: those of an in-order queue, or a single one.
#[derive(Debug, Default)]
pub(crate) struct CopyLog {
    entries: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    performed: u64,
    pending: VecDeque<Arc<PendingCopy>>,
}

impl CopyLog {
    /// Adds the copy that follows `read`, and says which position it has.
    pub(crate) fn push(self: &Arc<Self>, read: Arc<Completion>, to: Destination) -> Copies {
        let mut entries = lock(&self.entries);
        entries.pending.push_back(Arc::new(PendingCopy { read, to, is_done: Mutex::new(false) }));
        let through = entries.performed + entries.pending.len() as u64;
        Copies(vec![(self.clone(), through)])
    }

    fn next(&self, through: u64) -> Option<Arc<PendingCopy>> {
        let entries = lock(&self.entries);
        if entries.performed < through { entries.pending.front().cloned() } else { None }
    }

    fn perform(&self, through: u64) {
        // The log is not locked while waiting: others go on adding, among them perhaps what the wait depends on.
        while let Some(copy) = self.next(through) {
            copy.perform();
            let mut entries = lock(&self.entries);
            if entries.pending.front().is_some_and(|front| Arc::ptr_eq(front, &copy)) {
                entries.pending.pop_front();
                entries.performed += 1;
            }
        }
    }
}

/// Copies that must be performed before a command is complete for the application: positions in logs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Copies(Vec<(Arc<CopyLog>, u64)>);

impl Copies {
    /// Adds those of `others` that are not performed yet.
    pub(crate) fn add(&mut self, others: &Copies) {
        for (log, through) in &others.0 {
            if log.next(*through).is_none() {
                continue;
            }
            match self.0.iter_mut().find(|(own, _)| Arc::ptr_eq(own, log)) {
                Some((_, own)) => *own = (*own).max(*through),
                None => self.0.push((log.clone(), *through)),
            }
        }
    }

    /// Forgets those that have been performed.
    pub(crate) fn prune(&mut self) {
        self.0.retain(|(log, through)| log.next(*through).is_some());
    }

    /// Performs them all.
    pub(crate) fn perform(&self) {
        for (log, through) in &self.0 {
            log.perform(*through);
        }
    }
}
