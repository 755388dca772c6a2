//! Buffers' bytes in memory that the host's devices use as it is.
//!
//! Where a device shares memory with the host, an ordinary buffer lies in a shared region: kernels use its bytes there, and
//! this driver reaches them without a command whenever the queue has nothing left to do (see `Queue::at_once`). The
//! application is told no address but that of a mapped range.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use paragpu_protocol::types::Span;

use crate::boundary::pointer::AppMemory;
use crate::core::staging::Staging;

/// How much of buffers may lie in shared regions. What goes beyond is memory of the host's, as on any other device, so that
/// regions are left for transfers.
#[derive(Debug)]
pub(crate) struct Room {
    free: AtomicUsize,
}

impl Room {
    pub(crate) fn new(bytes: usize) -> Arc<Room> {
        Arc::new(Room { free: AtomicUsize::new(bytes) })
    }

    /// Takes `bytes`, until what is returned is dropped.
    pub(crate) fn take(self: &Arc<Room>, bytes: usize) -> Option<Share> {
        let less = |free: usize| free.checked_sub(bytes);
        self.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).ok()?;
        Some(Share { room: self.clone(), bytes })
    }
}

/// A part of the room.
#[derive(Debug)]
pub(crate) struct Share {
    room: Arc<Room>,
    bytes: usize,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.room.free.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

/// The bytes of a buffer. They stay while the host may use them: see `Connection::release_placed`.
#[derive(Debug)]
pub(crate) struct Place {
    memory: Staging,
    _share: Share,
}

impl Place {
    pub(crate) fn new(memory: Staging, share: Share) -> Arc<Place> {
        Arc::new(Place { memory, _share: share })
    }

    /// How commands name the bytes.
    pub(crate) fn span(&self) -> Span {
        self.memory.span()
    }
}

/// The bytes of a buffer or of a part of one.
#[derive(Clone, Debug)]
pub(crate) struct PlacedBytes {
    place: Arc<Place>,
    offset: usize,
}

impl PlacedBytes {
    pub(crate) fn new(place: Arc<Place>) -> PlacedBytes {
        PlacedBytes { place, offset: 0 }
    }

    /// The bytes from `offset` on.
    pub(crate) fn part(&self, offset: usize) -> PlacedBytes {
        PlacedBytes { place: self.place.clone(), offset: self.offset + offset }
    }

    /// Where this process sees them.
    pub(crate) fn memory(&self) -> AppMemory {
        AppMemory::at(self.place.memory.as_ptr()).offset(self.offset)
    }

    /// What must stay until the host says that nothing uses it.
    pub(crate) fn place(&self) -> Arc<Place> {
        self.place.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::Room;

    #[test]
    fn room_that_is_given_back_can_be_taken_again_and_no_more_than_there_is() {
        let room = Room::new(100);
        let share = room.take(60).unwrap();
        assert!(room.take(41).is_none());
        let other = room.take(40).unwrap();
        drop(share);
        assert!(room.take(61).is_none());
        drop(other);
        assert!(room.take(100).is_some());
    }
}
