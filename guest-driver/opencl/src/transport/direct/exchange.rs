//! Requests and responses on the control queue: buffers, and what becomes of each answer.

use std::sync::Arc;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::Relaxed;

use paragpu_protocol::virtio_gpu::{Header, Response};
use zerocopy::FromBytes;

use super::memory::{BUFFER_STRIDE, BUFFERS, CONTROL, REQUEST_BYTES, RESPONSE_BYTES, SLOTS};
use super::virtqueue::{Buffers, QueueError, Virtqueue};
use crate::sys::mapping::{Mapping, Words};

/// What becomes of a request's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is kept until [`Exchange::take`].
    Keep,
    /// Nobody waits; a refusal is remembered.
    Discard,
    /// It ends the wait with this `seen`; a refusal is remembered.
    Wake {
        /// `wake_seq` in the wait.
        seen: u32,
        /// This wait's own number.
        serial: u64,
    },
}

/// A device's answer: a private copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// `VIRTIO_GPU_RESP_…`, or 0 if the answer is too short to have a header.
    pub(super) kind: u32,
    /// What follows the header.
    pub(super) body: Vec<u8>,
}

impl Answer {
    /// The body if the answer is of this kind; else what it is, for people.
    pub(super) fn expect(&self, kind: Response) -> Result<&[u8], String> {
        if self.kind == kind as u32 { Ok(&self.body) } else { Err(kind_name(self.kind)) }
    }

    fn is_refusal(&self) -> bool {
        self.kind != Response::OkNodata as u32
    }
}

/// A response's name, for messages.
pub(super) fn kind_name(kind: u32) -> String {
    match Response::from_wire(kind) {
        Some(response) => format!("{response:?}"),
        None => format!("an unknown answer ({kind:#x})"),
    }
}

/// A place on the queue, held by whoever waits for its answer.
#[derive(Debug)]
pub(super) struct Slot(u16);

/// The control queue with its buffers.
#[derive(Debug)]
pub(super) struct Exchange {
    queue: Virtqueue,
    buffers: Words<AtomicU8>,
    free: Vec<u16>,
    fates: Vec<Option<Fate>>,
    answers: Vec<Option<Answer>>,
    refusal: Option<u32>,
    next_serial: u64,
}

impl Exchange {
    /// Starts a queue in zeroed memory; `None` if the memory is too small.
    pub(super) fn new(memory: &Arc<Mapping>, event_idx: bool) -> Option<Exchange> {
        Some(Exchange {
            queue: Virtqueue::new(memory, CONTROL, event_idx)?,
            buffers: Words::new(memory, BUFFERS, SLOTS * BUFFER_STRIDE)?,
            free: (0..SLOTS as u16).rev().collect(),
            fates: vec![None; SLOTS],
            answers: vec![None; SLOTS],
            refusal: None,
            next_serial: 1,
        })
    }

    /// True if a request can be posted.
    pub(super) fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// A number for a wait or a fence.
    pub(super) fn serial(&mut self) -> u64 {
        self.next_serial += 1;
        self.next_serial
    }

    /// Posts a request, given in pieces. Returns its place and whether the device wants a kick; `None` if there
    /// is no room or the request is too long.
    pub(super) fn post(&mut self, request: &[&[u8]], fate: Fate) -> Option<(Slot, bool)> {
        let len: usize = request.iter().map(|piece| piece.len()).sum();
        if len > REQUEST_BYTES {
            return None;
        }
        let slot = self.free.pop()?;
        let base = usize::from(slot) * BUFFER_STRIDE;
        let to = &self.buffers[base..base + len];
        for (to, from) in to.iter().zip(request.iter().copied().flatten()) {
            to.store(*from, Relaxed);
        }
        let address = (BUFFERS + base) as u64;
        let buffers = Buffers {
            request: (address, len as u32),
            response: (address + REQUEST_BYTES as u64, RESPONSE_BYTES as u32),
        };
        self.fates[usize::from(slot)] = Some(fate);
        let kick = self.queue.post(slot, buffers);
        Some((Slot(slot), kick))
    }

    /// Takes in all answers that are there. True if there were any.
    pub(super) fn reap(&mut self) -> Result<bool, QueueError> {
        let mut any = false;
        while let Some(used) = self.queue.pop()? {
            any = true;
            let answer = self.read(used.slot, used.written as usize);
            let index = usize::from(used.slot);
            match self.fates[index].take() {
                Some(Fate::Keep) => self.answers[index] = Some(answer),
                Some(Fate::Discard | Fate::Wake { .. }) | None => {
                    if answer.is_refusal() {
                        self.refusal.get_or_insert(answer.kind);
                    }
                    self.free.push(used.slot);
                }
            }
        }
        Ok(any)
    }

    /// `written` bytes of the slot's response, which the queue has checked against the buffer's size.
    fn read(&self, slot: u16, written: usize) -> Answer {
        let base = usize::from(slot) * BUFFER_STRIDE + REQUEST_BYTES;
        let bytes: Vec<u8> =
            self.buffers[base..base + written].iter().map(|byte| byte.load(Relaxed)).collect();
        match Header::read_from_prefix(&bytes) {
            Ok((header, body)) => Answer { kind: header.kind.get(), body: body.to_vec() },
            Err(_too_short) => Answer { kind: 0, body: Vec::new() },
        }
    }

    /// The answer to a request that was posted with [`Fate::Keep`], once it is there; frees its place.
    pub(super) fn take(&mut self, slot: &Slot) -> Option<Answer> {
        let answer = self.answers[usize::from(slot.0)].take()?;
        self.free.push(slot.0);
        Some(answer)
    }

    /// The outstanding wait with this `seen`, if there is one: whoever waits for the same can wait along.
    pub(super) fn find_wait(&self, wanted: u32) -> Option<u64> {
        self.fates.iter().find_map(|fate| match fate {
            Some(Fate::Wake { seen, serial }) if *seen == wanted => Some(*serial),
            _ => None,
        })
    }

    /// True while this wait is unanswered.
    pub(super) fn is_waiting(&self, wanted: u64) -> bool {
        self.fates.iter().any(|fate| matches!(fate, Some(Fate::Wake { serial, .. }) if *serial == wanted))
    }

    /// The first request of nobody's that the device has refused, if any.
    pub(super) fn refusal(&self) -> Option<u32> {
        self.refusal
    }

    /// See [`Virtqueue::ask_for_interrupt`].
    pub(super) fn ask_for_interrupt(&self) -> bool {
        self.queue.ask_for_interrupt()
    }

    /// See [`Virtqueue::no_interrupt`].
    pub(super) fn no_interrupt(&self) {
        self.queue.no_interrupt();
    }
}
