//! The ring: one direction, guest to host, one producer and one consumer.
//!
//! It lies in a region: a header of one page, then a data area whose length is a power of two. The header's
//! words each have a cache line of their own:
//!
//! | offset | word | written by | meaning |
//! |---|---|---|---|
//! | 0x000 | `tail` | guest | bytes produced, modulo 2^32 |
//! | 0x040 | `head` | host | bytes consumed, modulo 2^32 |
//! | 0x080 | `kick_wanted` | host sets, guest clears | the host sleeps: ring the doorbell |
//! | 0x0c0 | `waiters` | guest | guest threads that sleep or are about to |
//! | 0x100 | `wake_seq` | host | changes when something happened while `waiters` or `sleepers` was not zero |
//! | 0x140 | `status` | host | see [`Status`] |
//! | 0x144 | `reason` | host | number of a [`Fault`], or 0 |
//! | 0x180 | `sleepers` | guest | threads of the host's own kernel that sleep on `wake_seq` (a futex), or are about to |
//! | 0x1c0 | `copies` | guest | how often the guest's driver copied bytes of a transfer, modulo 2^32; only for statistics |
//! | 0x1c4 | `copied_low` | guest | how many bytes these were, modulo 2^32 |
//! | 0x1c8 | `copied_high` | guest | how often `copied_low` has wrapped around |
//!
//! **Sleeping without lost wake-ups.** Both directions use the same argument: the sleeper announces itself,
//! then looks once more; the other side publishes, then looks for sleepers; a sequentially consistent fence
//! stands between the two steps on both sides, so at least one of them sees the other.
//! The rules are written over [`RingMemory`], so that the very code which runs on shared pages is model-checked
//! (`tests/ring_model.rs`).

use core::sync::atomic::{AtomicU32, Ordering, fence};

use crate::fault::Fault;
use crate::frame::{self, FRAME_ALIGN, FrameHeader};
use crate::limits::MAX_FRAME_BYTES;
use zerocopy::FromBytes;

/// Length of the ring's header in bytes; the data area follows it.
pub const HEADER_BYTES: u32 = 4096;

/// A word of the ring's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Word {
    /// Bytes produced, modulo 2^32.
    Tail,
    /// Bytes consumed, modulo 2^32.
    Head,
    /// 1 if the host sleeps and wants the doorbell.
    KickWanted,
    /// Number of guest threads that sleep or are about to.
    Waiters,
    /// Changes when something happened while `Waiters` or `Sleepers` was not zero.
    WakeSeq,
    /// See [`Status`].
    Status,
    /// Number of a [`Fault`], or 0.
    Reason,
    /// Number of threads under the host's own kernel that sleep on `WakeSeq` as a futex, or are about to.
    Sleepers,
    /// How often the guest's driver copied bytes of a transfer, modulo 2^32. Nothing depends on it.
    Copies,
    /// How many bytes these were, modulo 2^32.
    CopiedLow,
    /// How often `CopiedLow` has wrapped around.
    CopiedHigh,
}

impl Word {
    /// Byte offset in the ring's region.
    pub const fn offset(self) -> usize {
        match self {
            Word::Tail => 0x000,
            Word::Head => 0x040,
            Word::KickWanted => 0x080,
            Word::Waiters => 0x0c0,
            Word::WakeSeq => 0x100,
            Word::Status => 0x140,
            Word::Reason => 0x144,
            Word::Sleepers => 0x180,
            Word::Copies => 0x1c0,
            Word::CopiedLow => 0x1c4,
            Word::CopiedHigh => 0x1c8,
        }
    }
}

/// How a context is, as the host writes it to the ring's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Status {
    /// The host has not looked at the ring yet.
    Starting = 0,
    /// Commands are consumed.
    Running = 1,
    /// The guest made a mistake (see `reason`); nothing more is consumed or completed.
    Failed = 2,
    /// The host lost the context: its executor ended. A new context will work.
    Lost = 3,
}

impl Status {
    /// The status with this number; a number that is none means that the header is not to be trusted.
    pub fn from_word(word: u32) -> Option<Status> {
        [Status::Starting, Status::Running, Status::Failed, Status::Lost]
            .into_iter()
            .find(|status| *status as u32 == word)
    }
}

/// The ring's shared memory. Implementations only move bytes and words; every rule is in this module.
pub trait RingMemory {
    /// Loads a word with acquire order.
    fn load(&self, word: Word) -> u32;
    /// Stores a word with release order.
    fn store(&self, word: Word, value: u32);
    /// Exchanges a word, sequentially consistent.
    fn swap(&self, word: Word, value: u32) -> u32;
    /// Adds to a word (wrapping), sequentially consistent; returns the word before.
    fn add(&self, word: Word, value: u32) -> u32;
    /// A sequentially consistent fence.
    fn fence(&self);
    /// Copies bytes out of the data area; `offset + to.len()` is within it.
    fn read_data(&self, offset: u32, to: &mut [u8]);
    /// Copies bytes into the data area; `offset + from.len()` is within it.
    fn write_data(&self, offset: u32, from: &[u8]);
}

/// A ring in real shared memory: where its words and its data are. [`RingMemory`] follows.
pub trait RingPages {
    /// A word of the header.
    fn word(&self, word: Word) -> &AtomicU32;
    /// As [`RingMemory::read_data`].
    fn read(&self, offset: u32, to: &mut [u8]);
    /// As [`RingMemory::write_data`].
    fn write(&self, offset: u32, from: &[u8]);
}

impl<P: RingPages> RingMemory for P {
    fn load(&self, word: Word) -> u32 {
        self.word(word).load(Ordering::Acquire)
    }

    fn store(&self, word: Word, value: u32) {
        self.word(word).store(value, Ordering::Release);
    }

    fn swap(&self, word: Word, value: u32) -> u32 {
        self.word(word).swap(value, Ordering::SeqCst)
    }

    fn add(&self, word: Word, value: u32) -> u32 {
        self.word(word).fetch_add(value, Ordering::SeqCst)
    }

    fn fence(&self) {
        fence(Ordering::SeqCst);
    }

    fn read_data(&self, offset: u32, to: &mut [u8]) {
        self.read(offset, to);
    }

    fn write_data(&self, offset: u32, from: &[u8]) {
        self.write(offset, from);
    }
}

/// The guest's account of the bytes that it copies for transfers, which the host tells in its statistics. Nothing depends on
/// it, so it needs no order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// How often, modulo 2^32.
    pub copies: u32,
    /// How many bytes.
    pub bytes: u64,
}

impl Copied {
    /// Adds so many copies of `bytes` bytes each, and may be called by several threads at once.
    pub fn add(memory: &impl RingMemory, copies: u32, bytes: usize) {
        memory.add(Word::Copies, copies);
        let all = (bytes as u64).wrapping_mul(copies.into());
        let before = memory.add(Word::CopiedLow, all as u32);
        let wraps = (all >> 32) as u32 + u32::from(before.checked_add(all as u32).is_none());
        if wraps != 0 {
            memory.add(Word::CopiedHigh, wraps);
        }
    }

    /// What the guest says.
    pub fn read(memory: &impl RingMemory) -> Copied {
        let bytes = u64::from(memory.load(Word::CopiedHigh)) << 32 | u64::from(memory.load(Word::CopiedLow));
        Copied { copies: memory.load(Word::Copies), bytes }
    }
}

/// The guest's end: appends frames. The index is private; the shared `tail` is only ever written.
#[derive(Debug)]
pub struct Producer {
    tail: u32,
    data_bytes: u32,
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It is in the ring; the host is awake.
    Sent,
    /// It is in the ring; the host sleeps and wants the doorbell.
    SentKick,
    /// There is no room now.
    Full,
}

impl Producer {
    /// A producer on an empty ring with `data_bytes` (a power of two) of data area.
    pub fn new(data_bytes: u32) -> Producer {
        Producer { tail: 0, data_bytes }
    }

    /// Appends one frame, whose length is a multiple of [`FRAME_ALIGN`], and says whether to ring the doorbell.
    pub fn push(&mut self, memory: &impl RingMemory, frame: &[u8]) -> Pushed {
        debug_assert!(frame.len().is_multiple_of(FRAME_ALIGN as usize));
        let len = frame.len() as u32;
        let at = self.tail & (self.data_bytes - 1);
        let to_end = self.data_bytes - at;
        let padding = if len > to_end { to_end } else { 0 };
        // A head that the host made nonsense of reads as a full ring; the context's status tells why.
        let used = self.tail.wrapping_sub(memory.load(Word::Head)).min(self.data_bytes);
        if padding + len > self.data_bytes - used {
            return Pushed::Full;
        }
        if padding != 0 {
            let mut nop = [0; frame::HEADER_BYTES as usize];
            let header = FrameHeader { len: padding.into(), ..FrameHeader::default() };
            nop.copy_from_slice(zerocopy::IntoBytes::as_bytes(&header));
            memory.write_data(at, &nop);
        }
        memory.write_data(if padding == 0 { at } else { 0 }, frame);
        self.tail = self.tail.wrapping_add(padding + len);
        memory.store(Word::Tail, self.tail);
        // Published before looking whether the host sleeps; `Consumer::prepare_sleep` has the mirror image.
        memory.fence();
        if memory.load(Word::KickWanted) != 0 && memory.swap(Word::KickWanted, 0) != 0 {
            Pushed::SentKick
        } else {
            Pushed::Sent
        }
    }
}

/// The host's end: takes frames. Indices are private; what the guest says is checked and copied once.
#[derive(Debug)]
pub struct Consumer {
    head: u32,
    data_bytes: u32,
    /// The longest frame.
    longest: u32,
    /// `head` when the guest was last told of room.
    told: u32,
}

impl Consumer {
    /// A consumer on a ring from its start, with `data_bytes` as checked by
    /// [`StartRing::checked_data_bytes`](crate::control::StartRing::checked_data_bytes).
    pub fn new(data_bytes: u32) -> Consumer {
        Consumer::of_frames(data_bytes, MAX_FRAME_BYTES)
    }

    /// The same where no frame is longer than `longest`.
    pub fn of_frames(data_bytes: u32, longest: u32) -> Consumer {
        Consumer { head: 0, data_bytes, longest, told: 0 }
    }

    /// Copies the next frame into `frame` and gives its room back to the guest. Returns its length, or `None`
    /// if the ring is empty.
    pub fn pop(
        &mut self,
        memory: &impl RingMemory,
        frame: &mut [u8; MAX_FRAME_BYTES as usize],
    ) -> Result<Option<usize>, Fault> {
        // An honest producer pads at most once before a frame; a hostile one must not keep the host here.
        for padded in [false, true] {
            let used = memory.load(Word::Tail).wrapping_sub(self.head);
            if used == 0 {
                return Ok(None);
            }
            if used > self.data_bytes || !used.is_multiple_of(FRAME_ALIGN) {
                return Err(Fault::RingIndex);
            }
            let at = self.head & (self.data_bytes - 1);
            let to_end = self.data_bytes - at;
            let (head, rest) = frame.split_at_mut(frame::HEADER_BYTES as usize);
            memory.read_data(at, head);
            let header = FrameHeader::read_from_bytes(head).map_err(|_size| Fault::BadFrame)?;
            // Padding alone may be longer than a command: it reaches to the end of the ring.
            if !padded && header.opcode.get() == 0 && header.len.get() == to_end && to_end <= used {
                self.advance(memory, to_end);
                continue;
            }
            let len = header.checked_len()?;
            if len > used || len > to_end {
                return Err(Fault::BadFrame);
            }
            // The header is the copy that was checked; it is not read again.
            memory.read_data(at + frame::HEADER_BYTES, &mut rest[..(len - frame::HEADER_BYTES) as usize]);
            self.advance(memory, len);
            return Ok(Some(len as usize));
        }
        Err(Fault::BadFrame)
    }

    fn advance(&mut self, memory: &impl RingMemory, len: u32) {
        self.head = self.head.wrapping_add(len);
        memory.store(Word::Head, self.head);
    }

    /// Frames were taken: who sleeps and must be woken, because there is room again. Nobody, if the ring was so empty that
    /// none can have been missing: a thread that waits for something else is not woken for nothing.
    ///
    /// A producer that found no room looks once more after its fence. Either it sees `head` as it is now, or the load here
    /// sees what it had produced, which was more than fits beside the longest frame and its padding.
    pub fn made_room(&mut self, memory: &impl RingMemory) -> Asleep {
        let before = core::mem::replace(&mut self.told, self.head);
        if before == self.head {
            return Asleep::default();
        }
        memory.fence();
        let used = memory.load(Word::Tail).wrapping_sub(before);
        if u64::from(used) + 2 * u64::from(self.longest) <= u64::from(self.data_bytes) {
            return Asleep::default();
        }
        published(memory)
    }

    /// Announces that the host is about to sleep. True if the ring is still empty, so that it may.
    pub fn prepare_sleep(&self, memory: &impl RingMemory) -> bool {
        memory.swap(Word::KickWanted, 1);
        memory.fence();
        let empty = memory.load(Word::Tail) == self.head;
        if !empty {
            memory.swap(Word::KickWanted, 0);
        }
        empty
    }

    /// True if the ring has nothing for the host.
    pub fn is_empty(&self, memory: &impl RingMemory) -> bool {
        self.unread(memory) == 0
    }

    /// Bytes that the guest says are there for the host: a hint, of which nothing has been checked.
    pub fn unread(&self, memory: &impl RingMemory) -> u32 {
        memory.load(Word::Tail).wrapping_sub(self.head)
    }
}

/// Who sleeps and must be woken.
#[must_use]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asleep {
    /// A guest thread, whose `Wait` the broker is to answer.
    pub waiters: bool,
    /// A thread of the host's own kernel, which sleeps on `wake_seq`.
    pub sleepers: bool,
}

/// The host published something that a guest thread may sleep for (a slot, room in the ring, the status).
pub fn published(memory: &impl RingMemory) -> Asleep {
    memory.fence();
    let asleep =
        Asleep { waiters: memory.load(Word::Waiters) != 0, sleepers: memory.load(Word::Sleepers) != 0 };
    if asleep != Asleep::default() {
        memory.add(Word::WakeSeq, 1);
    }
    asleep
}

/// How a guest thread sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sleep {
    /// By a `Wait` on the virtqueue.
    Wait,
    /// On `wake_seq` as a futex: it and the host are under one kernel.
    Futex,
}

impl Sleep {
    fn word(self) -> Word {
        match self {
            Sleep::Wait => Word::Waiters,
            Sleep::Futex => Word::Sleepers,
        }
    }
}

/// A guest thread announces that it is about to sleep. Returns the `wake_seq` to sleep on; the thread must
/// look for what it waits for between this call and sleeping, and call [`woken`] afterwards in any case.
#[must_use]
pub fn about_to_sleep(memory: &impl RingMemory, how: Sleep) -> u32 {
    memory.add(how.word(), 1);
    memory.fence();
    memory.load(Word::WakeSeq)
}

/// A guest thread that called [`about_to_sleep`] no longer sleeps.
pub fn woken(memory: &impl RingMemory, how: Sleep) {
    memory.add(how.word(), u32::MAX);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::write_frame;
    use crate::limits::MIN_RING_BYTES;
    use std::cell::{Cell, RefCell};
    use std::vec;
    use std::vec::Vec;

    /// One thread's ring: enough for the index rules. The ordering rules have tests/ring_model.rs.
    struct Plain {
        words: RefCell<[u32; 0x200]>,
        data: RefCell<Vec<u8>>,
        reads: Cell<usize>,
    }

    impl Plain {
        fn new() -> Plain {
            Plain {
                words: RefCell::new([0; 0x200]),
                data: RefCell::new(vec![0; MIN_RING_BYTES as usize]),
                reads: Cell::new(0),
            }
        }
    }

    impl RingMemory for Plain {
        fn load(&self, word: Word) -> u32 {
            self.words.borrow()[word.offset()]
        }
        fn store(&self, word: Word, value: u32) {
            self.words.borrow_mut()[word.offset()] = value;
        }
        fn swap(&self, word: Word, value: u32) -> u32 {
            core::mem::replace(&mut self.words.borrow_mut()[word.offset()], value)
        }
        fn add(&self, word: Word, value: u32) -> u32 {
            let old = self.load(word);
            self.store(word, old.wrapping_add(value));
            old
        }
        fn fence(&self) {}
        fn read_data(&self, offset: u32, to: &mut [u8]) {
            self.reads.set(self.reads.get() + to.len());
            to.copy_from_slice(&self.data.borrow()[offset as usize..][..to.len()]);
        }
        fn write_data(&self, offset: u32, from: &[u8]) {
            self.data.borrow_mut()[offset as usize..][..from.len()].copy_from_slice(from);
        }
    }

    fn frame_of(data: &[u8]) -> Vec<u8> {
        let mut out = vec![0; MAX_FRAME_BYTES as usize];
        let len = write_frame(&mut out, 1, &[], &[], data).unwrap();
        out.truncate(len);
        out
    }

    #[test]
    fn frames_come_out_as_they_went_in_over_many_laps() {
        let memory = Plain::new();
        let (mut producer, mut consumer) = (Producer::new(MIN_RING_BYTES), Consumer::new(MIN_RING_BYTES));
        let mut buffer = std::boxed::Box::new([0; MAX_FRAME_BYTES as usize]);
        for round in 0..500_usize {
            let frame = frame_of(&vec![round as u8; (round * 977) % 30_000]);
            assert_ne!(producer.push(&memory, &frame), Pushed::Full);
            let len = consumer.pop(&memory, &mut buffer).unwrap().unwrap();
            assert_eq!(&buffer[..len], &frame[..], "round {round}");
            assert_eq!(consumer.pop(&memory, &mut buffer), Ok(None));
        }
    }

    #[test]
    fn a_full_ring_refuses_and_recovers() {
        let memory = Plain::new();
        let (mut producer, mut consumer) = (Producer::new(MIN_RING_BYTES), Consumer::new(MIN_RING_BYTES));
        let mut buffer = std::boxed::Box::new([0; MAX_FRAME_BYTES as usize]);
        let frame = frame_of(&[7; 1000]);
        let mut sent = 0;
        while producer.push(&memory, &frame) != Pushed::Full {
            sent += 1;
        }
        assert!(sent * frame.len() <= MIN_RING_BYTES as usize);
        assert!((sent + 1) * frame.len() > MIN_RING_BYTES as usize - frame.len());
        while consumer.pop(&memory, &mut buffer).unwrap().is_some() {
            sent -= 1;
        }
        assert_eq!(sent, 0);
        assert_ne!(producer.push(&memory, &frame), Pushed::Full);
    }

    #[test]
    fn a_sleeping_consumer_is_kicked_exactly_once() {
        let memory = Plain::new();
        let (mut producer, consumer) = (Producer::new(MIN_RING_BYTES), Consumer::new(MIN_RING_BYTES));
        let frame = frame_of(b"x");
        assert_eq!(producer.push(&memory, &frame), Pushed::Sent);
        assert!(!consumer.prepare_sleep(&memory), "the ring is not empty");
        let mut consumer = consumer;
        let mut buffer = std::boxed::Box::new([0; MAX_FRAME_BYTES as usize]);
        consumer.pop(&memory, &mut buffer).unwrap();
        assert!(consumer.prepare_sleep(&memory));
        assert_eq!(producer.push(&memory, &frame), Pushed::SentKick);
        assert_eq!(producer.push(&memory, &frame), Pushed::Sent);
    }

    #[test]
    fn jumping_indices_and_false_lengths_are_faults() {
        let mut buffer = std::boxed::Box::new([0; MAX_FRAME_BYTES as usize]);
        for tail in [1, 8, MIN_RING_BYTES + 16, u32::MAX, u32::MAX - 15] {
            let memory = Plain::new();
            memory.store(Word::Tail, tail);
            let fault = Consumer::new(MIN_RING_BYTES).pop(&memory, &mut buffer);
            assert_eq!(fault, Err(Fault::RingIndex), "tail {tail}");
        }
        for len in [0, 1, 15, 17, 32, MAX_FRAME_BYTES + 16, u32::MAX] {
            let memory = Plain::new();
            let header = FrameHeader { opcode: 1.into(), len: len.into(), ..FrameHeader::default() };
            memory.write_data(0, zerocopy::IntoBytes::as_bytes(&header));
            memory.store(Word::Tail, 16);
            let fault = Consumer::new(MIN_RING_BYTES).pop(&memory, &mut buffer);
            assert_eq!(fault, Err(Fault::BadFrame), "len {len}");
        }
    }

    #[test]
    fn each_byte_of_a_frame_is_read_once() {
        let memory = Plain::new();
        let mut buffer = std::boxed::Box::new([0; MAX_FRAME_BYTES as usize]);
        let frame = frame_of(&[1; 100]);
        Producer::new(MIN_RING_BYTES).push(&memory, &frame);
        Consumer::new(MIN_RING_BYTES).pop(&memory, &mut buffer).unwrap();
        assert_eq!(memory.reads.get(), frame.len());
    }

    #[test]
    fn copies_are_counted_beyond_32_bits_of_bytes() {
        let memory = Plain::new();
        Copied::add(&memory, 1, 5);
        Copied::add(&memory, 2, u32::MAX as usize);
        assert_eq!(Copied::read(&memory), Copied { copies: 3, bytes: 5 + 2 * u64::from(u32::MAX) });
        Copied::add(&memory, 1, 3 << 32);
        assert_eq!(
            Copied::read(&memory),
            Copied { copies: 4, bytes: 5 + 2 * u64::from(u32::MAX) + (3 << 32) }
        );
    }

    #[test]
    fn waking_is_asked_for_only_while_somebody_waits() {
        let memory = Plain::new();
        for how in [Sleep::Wait, Sleep::Futex] {
            assert_eq!(published(&memory), Asleep::default());
            let seen = about_to_sleep(&memory, how);
            let asleep = Asleep { waiters: how == Sleep::Wait, sleepers: how == Sleep::Futex };
            assert_eq!(published(&memory), asleep);
            assert_ne!(memory.load(Word::WakeSeq), seen);
            woken(&memory, how);
            assert_eq!(published(&memory), Asleep::default());
        }
    }
}
