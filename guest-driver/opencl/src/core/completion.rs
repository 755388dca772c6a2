//! A posted command that somebody will ask about, or whose staging memory must outlive it.

use std::sync::{Arc, Mutex};

use paragpu_protocol::types::SlotRef;

use crate::core::connection::{Connection, Outcome};
use crate::core::error::ClResult;
use crate::core::lock;
use crate::core::slots::Slot;
use crate::core::staging::Staging;

/// See the module's documentation. Shared by the event, the pending copy and the mapping of one command.
#[derive(Debug)]
pub(crate) struct Completion {
    connection: Arc<Connection>,
    /// The command's number in its queue, from 1 on.
    position: u64,
    // Taken only in `drop`. Nothing if the command was over when it was enqueued.
    slot: Option<Slot>,
    staging: Mutex<Option<Staging>>,
}

impl Completion {
    /// A fresh slot, and the staging memory that the command will use.
    pub(crate) fn new(
        connection: &Arc<Connection>,
        staging: Option<Staging>,
        position: u64,
    ) -> ClResult<Arc<Completion>> {
        let slot = connection.slot()?;
        Ok(Arc::new(Completion {
            connection: connection.clone(),
            position,
            slot: Some(slot),
            staging: Mutex::new(staging),
        }))
    }

    /// Of a command that was performed here and is over.
    pub(crate) fn of_past(connection: &Arc<Connection>) -> Arc<Completion> {
        Arc::new(Completion {
            connection: connection.clone(),
            position: 0,
            slot: None,
            staging: Mutex::default(),
        })
    }

    /// The command's number in its queue. 0 for one that was never posted.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// How the command names the slot.
    pub(crate) fn to_ref(&self) -> SlotRef {
        self.slot.as_ref().map_or(SlotRef::NONE, Slot::to_ref)
    }

    /// What the host said, if it has.
    pub(crate) fn poll(&self) -> Option<Outcome> {
        match &self.slot {
            Some(slot) => self.connection.poll(slot),
            None => Some(Outcome::default()),
        }
    }

    /// Sleeps until the command is complete.
    pub(crate) fn wait(&self) -> Outcome {
        self.slot.as_ref().map_or_else(Outcome::default, |slot| self.connection.wait(slot))
    }

    /// Takes the staging memory away: the command is complete, or was never posted.
    pub(crate) fn take_staging(&self) -> Option<Staging> {
        lock(&self.staging).take()
    }

    /// True while the staging memory has not been taken away.
    pub(crate) fn has_staging(&self) -> bool {
        lock(&self.staging).is_some()
    }

    /// Leaves staging memory that the command may still use; it is freed when both are over.
    pub(crate) fn leave_staging(&self, staging: Staging) {
        *lock(&self.staging) = Some(staging);
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            self.connection.retire(slot, self.take_staging());
        }
    }
}
