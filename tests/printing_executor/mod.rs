//! An executor in a process of its own, whose standard output is not the test's, with guests without a VM.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use paragpu::executor::channel::Channel;
use paragpu::executor::message::{Extent, MemoryRegion, ToBroker, ToExecutor};
use paragpu::limits::Limits;
use paragpu::sys::map::{FilePart, Mapping};
use paragpu_protocol::command::{
    Body, BuildProgram, CreateContext, CreateKernel, CreateProgram, CreateQueue, EnqueueKernel, ReadPrint,
};
use paragpu_protocol::kernel::{KernelInfo, MAY_PRINT};
use paragpu_protocol::limits::{MAX_FRAME_BYTES, MIN_RING_BYTES};
use paragpu_protocol::ring::{self, Producer, Pushed, RingPages, Word};
use paragpu_protocol::slot::{DONE, STATE, Slot};
use paragpu_protocol::types::{Create, Enqueue, SlotRef, Span};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use zerocopy::FromBytes;

use crate::common::PATIENCE;

const GUEST_BYTES: u64 = 1 << 20;
const GUESTS: u64 = 4;
/// Places in a guest's memory, behind its ring: a slot for what is waited for at once, more for launches, a text.
const SLOTS: usize = 512 << 10;
const TEXT: usize = 768 << 10;
const TEXT_BYTES: u64 = 128 << 10;

const CONTEXT: u32 = 1;
const QUEUE: u32 = 2;
const PROGRAM: u32 = 3;

pub(crate) struct PrintingExecutor {
    process: Child,
    channel: Mutex<Channel>,
    ram: Arc<Mapping>,
    _directory: tempfile::TempDir,
}

pub(crate) struct Guest {
    ring: Ring,
    producer: Producer,
    doorbell: OwnedFd,
    slots: usize,
    kernels: u32,
}

struct Ring {
    ram: Arc<Mapping>,
    start: usize,
}

impl RingPages for Ring {
    fn word(&self, word: Word) -> &AtomicU32 {
        self.ram.word(self.start + word.offset()).unwrap()
    }
    fn read(&self, offset: u32, to: &mut [u8]) {
        assert!(self.ram.read(self.start + (ring::HEADER_BYTES + offset) as usize, to));
    }
    fn write(&self, offset: u32, from: &[u8]) {
        assert!(self.ram.write(self.start + (ring::HEADER_BYTES + offset) as usize, from));
    }
}

fn event() -> OwnedFd {
    eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).unwrap()
}

impl PrintingExecutor {
    pub(crate) fn start() -> PrintingExecutor {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_paragpud"))
            .arg("executor")
            .envs(["TMPDIR", "HOME", "POCL_CACHE_DIR"].map(|name| (name, directory.path())))
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let channel = Channel::new(ours);
        channel
            .send(
                &ToExecutor::Hello {
                    vgpu: "test".to_owned(),
                    limits: Limits::untried(),
                    devices: Vec::new(),
                },
                &[event().as_fd()],
            )
            .unwrap();
        let (ready, _) = channel.recv().unwrap().unwrap();
        assert!(matches!(ready, ToBroker::Ready { .. }), "no OpenCL on this host: {ready:?}");
        let len = GUESTS * GUEST_BYTES;
        let file = memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, len).unwrap();
        let part = FilePart { file: file.as_fd(), offset: 0, len: len as usize };
        let ram = Arc::new(Mapping::of_files(&[part]).unwrap());
        let regions = vec![MemoryRegion { guest_addr: 0, len, file_offset: 0 }];
        channel.send(&ToExecutor::Memory { regions }, &[file.as_fd()]).unwrap();
        PrintingExecutor { process, channel: Mutex::new(channel), ram, _directory: directory }
    }

    /// A guest process with a queue.
    pub(crate) fn guest(&self, context: u32) -> Guest {
        let doorbell = event();
        let start = u64::from(context) * GUEST_BYTES;
        assert!(context != 0 && start < GUESTS * GUEST_BYTES);
        let channel = self.channel.lock().unwrap();
        let create = ToExecutor::CreateContext { context, name: "test".to_owned(), place: None };
        channel.send(&create, &[doorbell.as_fd()]).unwrap();
        let extents = vec![Extent { guest_addr: start, len: GUEST_BYTES }];
        channel.send(&ToExecutor::AddRegion { context, region: 1, extents }, &[]).unwrap();
        let start_ring = ToExecutor::StartRing { context, region: 1, data_bytes: MIN_RING_BYTES };
        channel.send(&start_ring, &[]).unwrap();
        drop(channel);
        let ring = Ring { ram: self.ram.clone(), start: start as usize };
        let mut guest =
            Guest { ring, producer: Producer::new(MIN_RING_BYTES), doorbell, slots: 0, kernels: 0 };
        let create = guest.create(CONTEXT, 0);
        guest.ask(&CreateContext { create }, create.reply, &[0; 4]);
        let create = guest.create(QUEUE, CONTEXT);
        guest.ask(&CreateQueue { create, ..CreateQueue::default() }, create.reply, &[]);
        guest
    }

    /// Ends a guest process, as its kernel does.
    pub(crate) fn end_context(&self, context: u32) {
        let channel = self.channel.lock().unwrap();
        channel.send(&ToExecutor::DestroyContext { context }, &[]).unwrap();
        let (ended, _) = channel.recv().unwrap().unwrap();
        assert!(matches!(ended, ToBroker::ContextDestroyed { .. }), "{ended:?}");
    }
}

impl Drop for PrintingExecutor {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Guest {
    fn at(&self, offset: usize) -> usize {
        self.ring.start + offset
    }

    /// A cleared slot.
    fn slot(&mut self) -> SlotRef {
        let offset = SLOTS + self.slots % 1024 * 64;
        self.slots += 1;
        assert!(self.ring.ram.write(self.at(offset), &[0; 64]));
        SlotRef::new(1, offset as u32)
    }

    fn create(&mut self, id: u32, parent: u32) -> Create {
        Create { id: id.into(), parent: parent.into(), reply: self.slot() }
    }

    fn send<C: Body>(&mut self, body: &C, data: &[u8]) {
        let mut frame = vec![0; MAX_FRAME_BYTES as usize];
        let len = body.encode(&mut frame, &[], data).unwrap();
        while self.producer.push(&self.ring, &frame[..len]) == Pushed::Full {}
        rustix::io::write(&self.doorbell, &1_u64.to_ne_bytes()).unwrap();
    }

    /// Waits for success.
    pub(crate) fn done(&self, slot: SlotRef) -> Slot {
        let at = self.at(slot.offset.get() as usize);
        let state = self.ring.ram.word(at + STATE).unwrap();
        let until = Instant::now() + PATIENCE;
        while state.load(Ordering::Acquire) != DONE {
            assert!(Instant::now() < until, "the slot is not done in time");
            std::thread::sleep(std::time::Duration::from_micros(100));
        }
        let mut bytes = [0; 64];
        assert!(self.ring.ram.read(at, &mut bytes));
        let slot = Slot::read_from_bytes(&bytes).unwrap();
        assert_eq!(slot.status.get(), 0);
        slot
    }

    fn ask<C: Body>(&mut self, body: &C, reply: SlotRef, data: &[u8]) -> Slot {
        self.send(body, data);
        self.done(reply)
    }

    fn text(&self) -> Span {
        Span::new(1, TEXT as u64, TEXT_BYTES)
    }

    /// The kernel `k`, which may print, of a program.
    pub(crate) fn kernel(&mut self, source: &str) -> u32 {
        self.kernels += 2;
        let (program, kernel) = (PROGRAM + self.kernels, PROGRAM + self.kernels + 1);
        let create = self.create(program, CONTEXT);
        self.ask(&CreateProgram { create, source: Span::NONE }, create.reply, source.as_bytes());
        let reply = self.slot();
        let build = BuildProgram { program: program.into(), device_count: 0.into(), reply };
        self.ask(&build, reply, b"");
        let (create, info) = (self.create(kernel, program), self.text());
        self.ask(&CreateKernel { create, info }, create.reply, b"k");
        let mut bytes = [0; size_of::<KernelInfo>()];
        assert!(self.ring.ram.read(self.at(TEXT), &mut bytes));
        assert_eq!(KernelInfo::read_from_bytes(&bytes).unwrap().flags.get(), MAY_PRINT);
        kernel
    }

    pub(crate) fn launch(&mut self, kernel: u32, items: u64) -> SlotRef {
        let slot = self.slot();
        let body = EnqueueKernel {
            enqueue: Enqueue { queue: QUEUE.into(), event: 0.into(), slot },
            kernel: kernel.into(),
            dims: 1.into(),
            global: [items.into(), 1.into(), 1.into()],
            ..EnqueueKernel::default()
        };
        self.send(&body, &[]);
        slot
    }

    /// Everything that has been printed.
    pub(crate) fn printed(&mut self) -> String {
        let mut text = Vec::new();
        loop {
            let (dst, reply) = (self.text(), self.slot());
            let len = self.ask(&ReadPrint { dst, reply }, reply, &[]).len.get() as usize;
            let mut bytes = vec![0; len];
            assert!(self.ring.ram.read(self.at(TEXT), &mut bytes));
            text.extend(bytes);
            if (len as u64) < TEXT_BYTES {
                return String::from_utf8(text).unwrap();
            }
        }
    }
}
