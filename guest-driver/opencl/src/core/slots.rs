//! Slots: where the host says that a command is complete.

use std::sync::{Arc, Mutex};

use paragpu_protocol::slot::SLOT_BYTES;
use paragpu_protocol::types::SlotRef;

use crate::core::connection::Outcome;
use crate::core::error::{ClError, ClResult};
use crate::core::lock;
use crate::sys::shared::Shared;
use crate::transport::Transport;

/// Bytes of shared memory that are made into slots at a time.
const PAGE_BYTES: u64 = 64 * 1024;

/// A slot in shared memory. Dropping one whose command is still running is safe: it is used again only after
/// the host has completed it.
#[derive(Debug)]
pub(crate) struct Slot {
    // Taken only in `drop`.
    place: Option<Place>,
    pool: Arc<SlotPool>,
}

#[derive(Debug)]
struct Place {
    page: Arc<Shared>,
    offset: u32,
}

impl Place {
    fn is_done(&self) -> bool {
        self.page.read_slot(self.offset as usize).is_some()
    }
}

impl Slot {
    fn place(&self) -> &Place {
        self.place.as_ref().expect("only drop takes the place")
    }

    /// How commands name the slot.
    pub(crate) fn to_ref(&self) -> SlotRef {
        SlotRef::new(self.place().page.id(), self.place().offset)
    }

    /// What the host said, if it has. Does not know of lost contexts: see `Connection::poll`.
    pub(crate) fn poll(&self) -> Option<Outcome> {
        let place = self.place();
        let slot = place.page.read_slot(place.offset as usize)?;
        Some(Outcome {
            status: slot.status.get(),
            len: slot.len.get(),
            profile: slot.profile.map(|time| time.get()),
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            let mut state = lock(&self.pool.state);
            if place.is_done() { state.free.push(place) } else { state.abandoned.push(place) }
        }
    }
}

/// All slots of a connection.
#[derive(Debug)]
pub(crate) struct SlotPool {
    state: Mutex<State>,
    transport: Arc<dyn Transport>,
}

#[derive(Debug, Default)]
struct State {
    free: Vec<Place>,
    /// Dropped while their command was still running.
    abandoned: Vec<Place>,
}

impl SlotPool {
    pub(crate) fn new(transport: Arc<dyn Transport>) -> SlotPool {
        SlotPool { state: Mutex::default(), transport }
    }

    /// A slot that is pending.
    pub(crate) fn take(self: &Arc<Self>) -> ClResult<Slot> {
        let mut state = lock(&self.state);
        if state.free.is_empty() {
            let (done, running) = std::mem::take(&mut state.abandoned).into_iter().partition(Place::is_done);
            *state = State { free: done, abandoned: running };
        }
        if state.free.is_empty() {
            let region = self.transport.create_region(PAGE_BYTES).map_err(|error| {
                crate::debug::debug!("no memory for slots: {error}");
                ClError::OUT_OF_RESOURCES
            })?;
            let page = Arc::new(Shared::new(region));
            let offsets = (0..page.len() as u32).step_by(SLOT_BYTES as usize).rev();
            state.free.extend(offsets.map(|offset| Place { page: page.clone(), offset }));
        }
        let place = state.free.pop().ok_or(ClError::OUT_OF_RESOURCES)?;
        place.page.clear_slot(place.offset as usize);
        Ok(Slot { place: Some(place), pool: self.clone() })
    }
}
