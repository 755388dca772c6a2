//! The driver's side of a split virtqueue (virtio 1.2, section 2.7).
//!
//! Every request here is one buffer for the device to read and one for it to write. So the descriptor table is
//! fixed: slot *i* owns the descriptors 2*i* and 2*i* + 1, chained, and a slot's number is all that there is to
//! allocate. Indirect descriptors would save nothing.
//!
//! The device's words are taken as claims: the used index may only move over what is outstanding, and an
//! element must name a slot that is.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, fence};

use crate::sys::mapping::{Mapping, Words};

const NEXT: u16 = 1;
const WRITE: u16 = 2;

/// `VIRTQ_AVAIL_F_NO_INTERRUPT`.
const NO_INTERRUPT: u16 = 1;
/// `VIRTQ_USED_F_NO_NOTIFY`.
const NO_NOTIFY: u16 = 1;

/// Positions of `flags` and `idx` at the start of both rings; the elements follow.
const FLAGS: usize = 0;
const IDX: usize = 1;
const ELEMENTS: usize = 2;

/// Where a queue lies in the shared memory, as byte offsets, and its number of descriptors.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub(super) size: u16,
    pub(super) descriptors: usize,
    pub(super) available: usize,
    pub(super) used: usize,
}

/// The two buffers of a slot: guest addresses and lengths.
#[derive(Clone, Copy, Debug)]
pub(super) struct Buffers {
    pub(super) request: (u64, u32),
    pub(super) response: (u64, u32),
}

/// What a device may get wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum QueueError {
    #[error("the used index moved over more requests than are outstanding")]
    Index,
    #[error("a used element names no outstanding request")]
    Element,
    #[error("a response is longer than its buffer")]
    Length,
}

/// A request that the device has answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Used {
    pub(super) slot: u16,
    /// Bytes that the device says it has written.
    pub(super) written: u32,
}

/// A virtqueue with `size / 2` slots.
#[derive(Debug)]
pub(super) struct Virtqueue {
    size: u16,
    event_idx: bool,
    /// Two words per descriptor: the address, then length, flags and next.
    descriptors: Words<AtomicU64>,
    /// `flags`, `idx`, the elements, `used_event`.
    available: Words<AtomicU16>,
    /// `flags`, `idx`.
    used_head: Words<AtomicU16>,
    /// Two words per element: id and length.
    used_elements: Words<AtomicU32>,
    /// `avail_event`.
    used_tail: Words<AtomicU16>,
    /// Our own copies, never read back from shared memory.
    next_available: u16,
    next_used: u16,
    outstanding: Vec<Option<Buffers>>,
    outstanding_count: u16,
}

impl Virtqueue {
    /// A new queue in zeroed memory; `None` if it does not fit there or its size is no power of two.
    pub(super) fn new(memory: &Arc<Mapping>, layout: Layout, event_idx: bool) -> Option<Virtqueue> {
        let size = usize::from(layout.size);
        if !layout.size.is_power_of_two() || layout.size < 2 {
            return None;
        }
        let used_elements = layout.used + 2 * ELEMENTS;
        let queue = Virtqueue {
            size: layout.size,
            event_idx,
            descriptors: Words::new(memory, layout.descriptors, 2 * size)?,
            available: Words::new(memory, layout.available, ELEMENTS + size + 1)?,
            used_head: Words::new(memory, layout.used, ELEMENTS)?,
            used_elements: Words::new(memory, used_elements, 2 * size)?,
            used_tail: Words::new(memory, used_elements + 8 * size, 1)?,
            next_available: 0,
            next_used: 0,
            outstanding: vec![None; size / 2],
            outstanding_count: 0,
        };
        // No interrupts until somebody sleeps. With event_idx, used_event just has to be behind.
        let quiet = if event_idx { 0 } else { NO_INTERRUPT };
        queue.available[FLAGS].store(quiet.to_le(), Relaxed);
        queue.available[ELEMENTS + size].store(u16::MAX.to_le(), Relaxed);
        Some(queue)
    }

    /// Number of slots.
    #[cfg(test)]
    pub(super) fn slots(&self) -> u16 {
        self.size / 2
    }

    /// Makes a slot's buffers available to the device. True if the device wants to be notified.
    /// The slot must not be outstanding.
    pub(super) fn post(&mut self, slot: u16, buffers: Buffers) -> bool {
        let entry = &mut self.outstanding[usize::from(slot)];
        debug_assert!(entry.is_none(), "slot {slot} is posted twice");
        *entry = Some(buffers);
        self.outstanding_count += 1;

        let head = 2 * slot;
        self.describe(head, buffers.request, NEXT, head + 1);
        self.describe(head + 1, buffers.response, WRITE, 0);
        let old = self.next_available;
        let element = ELEMENTS + usize::from(old % self.size);
        self.available[element].store(head.to_le(), Relaxed);
        self.next_available = old.wrapping_add(1);
        // Release: the device that sees the index must see the element, the descriptors and the request.
        self.available[IDX].store(self.next_available.to_le(), Release);
        // The device asks for a notification and then looks at the index once more; we write the index and
        // then look whether it asks. Of two such pairs at least one sees the other's word, if neither side's
        // load can pass its own store.
        fence(SeqCst);
        if self.event_idx {
            let event = u16::from_le(self.used_tail[0].load(Relaxed));
            crossed(event, self.next_available, old)
        } else {
            u16::from_le(self.used_head[FLAGS].load(Relaxed)) & NO_NOTIFY == 0
        }
    }

    fn describe(&self, index: u16, (address, len): (u64, u32), flags: u16, next: u16) {
        let at = 2 * usize::from(index);
        let rest = u64::from(len) | u64::from(flags) << 32 | u64::from(next) << 48;
        self.descriptors[at].store(address.to_le(), Relaxed);
        self.descriptors[at + 1].store(rest.to_le(), Relaxed);
    }

    /// Takes the next answered request, if there is one. After an error the queue is of no more use.
    pub(super) fn pop(&mut self) -> Result<Option<Used>, QueueError> {
        // Acquire: with the index we must see the element and the response.
        let index = u16::from_le(self.used_head[IDX].load(Acquire));
        let new = index.wrapping_sub(self.next_used);
        if new == 0 {
            return Ok(None);
        }
        if new > self.outstanding_count {
            return Err(QueueError::Index);
        }
        let at = 2 * usize::from(self.next_used % self.size);
        let head = u32::from_le(self.used_elements[at].load(Relaxed));
        let written = u32::from_le(self.used_elements[at + 1].load(Relaxed));

        let slot = u16::try_from(head).ok().filter(|head| head % 2 == 0).map(|head| head / 2);
        let slot = slot.ok_or(QueueError::Element)?;
        let entry = self.outstanding.get_mut(usize::from(slot)).ok_or(QueueError::Element)?;
        let buffers = entry.take().ok_or(QueueError::Element)?;
        self.outstanding_count -= 1;
        self.next_used = self.next_used.wrapping_add(1);
        if written > buffers.response.1 {
            return Err(QueueError::Length);
        }
        Ok(Some(Used { slot, written }))
    }

    /// Asks for an interrupt at the next answer. False if one came in the meantime: do not sleep then.
    pub(super) fn ask_for_interrupt(&self) -> bool {
        if self.event_idx {
            self.available[ELEMENTS + usize::from(self.size)].store(self.next_used.to_le(), Relaxed);
        } else {
            self.available[FLAGS].store(0, Relaxed);
        }
        // The same pair of words and looks as in `post`, with the roles exchanged.
        fence(SeqCst);
        u16::from_le(self.used_head[IDX].load(Relaxed)) == self.next_used
    }

    /// Nobody sleeps any more. With event_idx there is nothing to do: the event stays behind.
    pub(super) fn no_interrupt(&self) {
        if !self.event_idx {
            self.available[FLAGS].store(NO_INTERRUPT.to_le(), Relaxed);
        }
    }
}

/// True if moving an index from `old` to `new` passes `event` (virtio 1.2, section 2.7.10.1).
fn crossed(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    use super::*;

    const LAYOUT: Layout = Layout { size: 8, descriptors: 0, available: 128, used: 256 };
    const BUFFERS: Buffers = Buffers { request: (4096, 24), response: (8192, 64) };

    fn memory() -> Arc<Mapping> {
        let file = memfd_create("queue", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, 4096).unwrap();
        Arc::new(Mapping::shared(&file, 0, 4096).unwrap())
    }

    /// A device that answers whatever the test says.
    struct Device {
        words: Words<AtomicU16>,
        elements: Words<AtomicU32>,
    }

    impl Device {
        fn new(memory: &Arc<Mapping>) -> Device {
            Device {
                words: Words::new(memory, 0, 2048).unwrap(),
                elements: Words::new(memory, LAYOUT.used + 4, 16).unwrap(),
            }
        }

        fn available(&self) -> (u16, u16) {
            let index = self.words[LAYOUT.available / 2 + 1].load(Acquire);
            let element = usize::from(index.wrapping_sub(1) % LAYOUT.size);
            (index, self.words[LAYOUT.available / 2 + 2 + element].load(Relaxed))
        }

        fn used_index(&self) -> &AtomicU16 {
            &self.words[LAYOUT.used / 2 + 1]
        }

        fn answer(&self, head: u32, written: u32) {
            let index = self.used_index().load(Relaxed);
            let at = 2 * usize::from(index % LAYOUT.size);
            self.elements[at].store(head, Relaxed);
            self.elements[at + 1].store(written, Relaxed);
            self.used_index().store(index.wrapping_add(1), Release);
        }
    }

    #[test]
    fn requests_come_back_in_any_order_and_indices_wrap() {
        let memory = memory();
        let device = Device::new(&memory);
        let mut queue = Virtqueue::new(&memory, LAYOUT, false).unwrap();
        assert_eq!(queue.slots(), 4);
        for round in 0..40_000u32 {
            queue.post(2, BUFFERS);
            queue.post(0, BUFFERS);
            let (index, head) = device.available();
            assert_eq!((index, head), ((2 * round + 2) as u16, 0));
            device.answer(0, 24);
            device.answer(4, 64);
            assert_eq!(queue.pop(), Ok(Some(Used { slot: 0, written: 24 })));
            assert_eq!(queue.pop(), Ok(Some(Used { slot: 2, written: 64 })));
            assert_eq!(queue.pop(), Ok(None));
        }
    }

    #[test]
    fn a_device_that_lies_is_an_error() {
        for (head, written, error) in [
            (2, 24, QueueError::Element),
            (1, 24, QueueError::Element),
            (8, 24, QueueError::Element),
            (u32::MAX, 24, QueueError::Element),
            (0x1_0000, 24, QueueError::Element),
            (0, 65, QueueError::Length),
        ] {
            let memory = memory();
            let device = Device::new(&memory);
            let mut queue = Virtqueue::new(&memory, LAYOUT, false).unwrap();
            queue.post(0, BUFFERS);
            device.answer(head, written);
            assert_eq!(queue.pop(), Err(error), "{head} {written}");
        }
        let memory = memory();
        let device = Device::new(&memory);
        let mut queue = Virtqueue::new(&memory, LAYOUT, false).unwrap();
        queue.post(0, BUFFERS);
        device.used_index().store(2, Release);
        assert_eq!(queue.pop(), Err(QueueError::Index));
    }

    #[test]
    fn interrupts_are_asked_for_only_by_sleepers() {
        let memory = memory();
        let device = Device::new(&memory);
        let flags = &device.words[LAYOUT.available / 2];
        let mut queue = Virtqueue::new(&memory, LAYOUT, false).unwrap();
        assert_eq!(flags.load(Relaxed), NO_INTERRUPT);
        queue.post(0, BUFFERS);
        assert!(queue.ask_for_interrupt());
        assert_eq!(flags.load(Relaxed), 0);
        device.answer(0, 24);
        assert!(!queue.ask_for_interrupt(), "the answer is there already");
        queue.no_interrupt();
        assert_eq!(flags.load(Relaxed), NO_INTERRUPT);
    }

    #[test]
    fn with_event_idx_the_device_is_notified_when_its_event_is_passed() {
        let memory = memory();
        let device = Device::new(&memory);
        let avail_event = &device.words[(LAYOUT.used + 4 + 64) / 2];
        let used_event = &device.words[(LAYOUT.available + 4 + 16) / 2];
        let mut queue = Virtqueue::new(&memory, LAYOUT, true).unwrap();
        assert!(queue.post(0, BUFFERS), "event 0 is passed by the first request");
        assert!(!queue.post(1, BUFFERS), "and only by that");
        avail_event.store(2, Relaxed);
        assert!(queue.post(2, BUFFERS));
        assert!(queue.ask_for_interrupt());
        device.answer(0, 24);
        assert!(queue.pop().unwrap().is_some());
        assert!(queue.ask_for_interrupt());
        assert_eq!(used_event.load(Relaxed), 1);
    }

    proptest! {
        #[test]
        fn an_event_is_crossed_when_it_lies_between(old: u16, step in 1u16..1000, event: u16) {
            let new = old.wrapping_add(step);
            let between = event.wrapping_sub(old) < step;
            prop_assert_eq!(crossed(event, new, old), between);
        }

        #[test]
        fn no_bytes_in_the_rings_break_the_driver(bytes in prop::collection::vec(any::<u16>(), 2048)) {
            let memory = memory();
            let words = Words::<AtomicU16>::new(&memory, 0, 2048).unwrap();
            let mut queue = Virtqueue::new(&memory, LAYOUT, true).unwrap();
            for slot in 0..queue.slots() {
                queue.post(slot, BUFFERS);
            }
            for (word, value) in words.iter().zip(bytes) {
                word.store(value, Relaxed);
            }
            let mut answers = 0;
            while let Ok(Some(_)) = queue.pop() {
                answers += 1;
            }
            prop_assert!(answers <= queue.slots());
            queue.ask_for_interrupt();
        }
    }
}
