//! A guest without a VM: a memfd for its memory, the producer's end of a ring, and an executor in this process.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]

pub mod session;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use paragpu::executor::child::backend::Backend;
use paragpu::executor::child::{EventSink, Executor};
use paragpu::executor::message::{Extent, MemoryRegion, ToBroker, ToExecutor};
use paragpu::limits::Limits;
use paragpu::sys::map::{FilePart, Mapping};
use paragpu_protocol::command::Body;
use paragpu_protocol::limits::{MAX_FRAME_BYTES, MIN_RING_BYTES};
use paragpu_protocol::ring::{self, Producer, Pushed, RingMemory, RingPages, Sleep, Status, Word};
use paragpu_protocol::slot::{DONE, STATE, Slot};
use paragpu_protocol::types::{Create, Enqueue, SlotRef, Span};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use zerocopy::FromBytes;

pub const CONTEXT: u32 = 1;
pub const RING: u32 = 1;
pub const DATA: u32 = 2;

const RAM: u64 = 16 << 20;
const RAM_ADDR: u64 = 0x1_0000_0000;
const DATA_START: u64 = 1 << 20;
const SLOT_AREA: u32 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(60);

struct Sink(Mutex<Sender<ToBroker>>);

impl EventSink for Sink {
    fn send(&self, message: ToBroker) {
        let _ = self.0.lock().unwrap().send(message);
    }
}

pub struct GuestRing(Arc<Mapping>);

impl RingPages for GuestRing {
    fn word(&self, word: Word) -> &AtomicU32 {
        self.0.word(word.offset()).unwrap()
    }
    fn read(&self, offset: u32, to: &mut [u8]) {
        assert!(self.0.read((ring::HEADER_BYTES + offset) as usize, to));
    }
    fn write(&self, offset: u32, from: &[u8]) {
        assert!(self.0.write((ring::HEADER_BYTES + offset) as usize, from));
    }
}

pub struct Guest<B: Backend> {
    pub executor: Executor<B>,
    pub ring: GuestRing,
    messages: Receiver<ToBroker>,
    producer: Producer,
    ram: Arc<Mapping>,
    doorbell: OwnedFd,
    wake: OwnedFd,
    next_slot: u32,
    next_id: u32,
}

fn event() -> OwnedFd {
    eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).unwrap()
}

impl<B: Backend> Guest<B> {
    /// A guest with a running ring.
    pub fn new(backend: Arc<B>) -> Guest<B> {
        let file = memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, RAM).unwrap();
        let part = FilePart { file: file.as_fd(), offset: 0, len: RAM as usize };
        let ram = Arc::new(Mapping::of_files(&[part]).unwrap());
        let (tell, messages) = channel();
        let mut executor = Executor::new(backend, Arc::new(Sink(Mutex::new(tell))));
        let (wake, doorbell) = (event(), event());
        let hello =
            ToExecutor::Hello { vgpu: "test".to_owned(), limits: Limits::untried(), devices: Vec::new() };
        executor.handle(hello, vec![wake.try_clone().unwrap()]).unwrap();
        let regions = vec![MemoryRegion { guest_addr: RAM_ADDR, len: RAM, file_offset: 0 }];
        executor.handle(ToExecutor::Memory { regions }, vec![file]).unwrap();
        let create = ToExecutor::CreateContext { context: CONTEXT, name: "test".to_owned(), place: None };
        executor.handle(create, vec![doorbell.try_clone().unwrap()]).unwrap();
        let mut guest = Guest {
            executor,
            ring: GuestRing(ram.clone()),
            messages,
            producer: Producer::new(MIN_RING_BYTES),
            ram,
            doorbell,
            wake,
            next_slot: 0,
            next_id: 100,
        };
        guest.add_region(RING, 0, DATA_START);
        guest.add_region(DATA, DATA_START, RAM - DATA_START);
        guest.tell(ToExecutor::StartRing { context: CONTEXT, region: RING, data_bytes: MIN_RING_BYTES });
        guest.until("running", |guest| guest.status() == Some(Status::Running));
        guest
    }

    pub fn tell(&mut self, message: ToExecutor) {
        self.executor.handle(message, Vec::new()).unwrap();
    }

    pub fn add_region(&mut self, region: u32, start: u64, len: u64) {
        let extents = vec![Extent { guest_addr: RAM_ADDR + start, len }];
        self.tell(ToExecutor::AddRegion { context: CONTEXT, region, extents });
    }

    pub fn status(&self) -> Option<Status> {
        Status::from_word(self.ring.load(Word::Status))
    }

    pub fn until(&self, what: &str, done: impl Fn(&Self) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(Instant::now() < until, "not in time: {what}");
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    pub fn message(&self) -> ToBroker {
        self.messages.recv_timeout(PATIENCE).expect("a message from the executor")
    }

    pub fn no_message(&self) -> bool {
        self.messages.recv_timeout(Duration::from_millis(50)).is_err()
    }

    /// An id that no object has had.
    pub fn id(&mut self) -> u32 {
        self.next_id += 1;
        self.next_id
    }

    /// A cleared slot.
    pub fn slot(&mut self) -> SlotRef {
        let offset = self.next_slot;
        self.next_slot += 64;
        assert!(self.next_slot <= SLOT_AREA);
        assert!(self.ram.write((DATA_START as u32 + offset) as usize, &[0; 64]));
        SlotRef::new(DATA, offset)
    }

    pub fn create(&mut self, parent: u32) -> (u32, Create) {
        let (id, reply) = (self.id(), self.slot());
        (id, Create { id: id.into(), parent: parent.into(), reply })
    }

    pub fn enqueue(&mut self, queue: u32, event: u32) -> Enqueue {
        Enqueue { queue: queue.into(), event: event.into(), slot: self.slot() }
    }

    /// Staging bytes, behind the slots.
    pub fn span(&self, offset: u64, len: u64) -> Span {
        Span::new(DATA, u64::from(SLOT_AREA) + offset, len)
    }

    pub fn write(&self, offset: u64, bytes: &[u8]) {
        assert!(self.ram.write((DATA_START + u64::from(SLOT_AREA) + offset) as usize, bytes));
    }

    pub fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        assert!(self.ram.read((DATA_START + u64::from(SLOT_AREA) + offset) as usize, &mut bytes));
        bytes
    }

    pub fn send<C: Body>(&mut self, body: &C, wait: &[u32], data: &[u8]) {
        let mut frame = vec![0; MAX_FRAME_BYTES as usize];
        let len = body.encode(&mut frame, wait, data).expect("a frame");
        self.send_bytes(&frame[..len]);
    }

    pub fn send_bytes(&mut self, frame: &[u8]) {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.producer.push(&self.ring, frame) {
                Pushed::Sent => return,
                Pushed::SentKick => {
                    rustix::io::write(&self.doorbell, &1_u64.to_ne_bytes()).unwrap();
                    return;
                }
                Pushed::Full if self.status() == Some(Status::Failed) => return,
                Pushed::Full => assert!(Instant::now() < until, "the ring stays full"),
            }
        }
    }

    fn peek(&self, slot: SlotRef) -> Option<Slot> {
        let at = (DATA_START as u32 + slot.offset.get()) as usize;
        let state = self.ram.word(at + STATE).unwrap().load(Ordering::Acquire);
        let mut bytes = [0; 64];
        assert!(self.ram.read(at, &mut bytes));
        (state == DONE).then(|| Slot::read_from_bytes(&bytes).unwrap())
    }

    pub fn is_done(&self, slot: SlotRef) -> bool {
        self.peek(slot).is_some()
    }

    /// Sleeps on the wake eventfd until the slot is done, as a guest's driver does.
    pub fn wait(&self, slot: SlotRef) -> Slot {
        let until = Instant::now() + PATIENCE;
        loop {
            let _seen = ring::about_to_sleep(&self.ring, Sleep::Wait);
            let done = self.peek(slot);
            if done.is_none() {
                let timeout = rustix::event::Timespec { tv_sec: 5, tv_nsec: 0 };
                let woken = poll(&mut [PollFd::new(&self.wake, PollFlags::IN)], Some(&timeout)).unwrap();
                let _ = rustix::io::read(&self.wake, &mut [0_u8; 8]);
                let lost = woken == 0 && self.is_done(slot);
                assert!(!lost, "a wake-up was lost");
            }
            ring::woken(&self.ring, Sleep::Wait);
            if let Some(slot) = done {
                return slot;
            }
            assert_ne!(self.status(), Some(Status::Failed), "{:?}", self.ring.load(Word::Reason));
            assert!(Instant::now() < until, "the slot is not done in time");
        }
    }

    /// Waits for success.
    pub fn done(&self, slot: SlotRef) -> Slot {
        let slot = self.wait(slot);
        assert_eq!(slot.status.get(), 0);
        slot
    }
}
