//! Guests that build programs, on a vGPU with limits: the real session in this process, its executor and compilers in their
//! own, and a ring for each guest process.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Once};
use std::time::Instant;

use paragpu::executor::supervisor::{ProcessLauncher, SharedBuilds};
use paragpu::limits::{BuildLimits, Limits};
use paragpu::sys::map::{FilePart, Mapping};
use paragpu_protocol::command::{
    Body, BuildProgram, CompileProgram, CreateContext, CreateKernel, CreateProgram, CreateQueue, Finish,
    GetInfo, LinkProgram,
};
use paragpu_protocol::control::{Doorbell, StartRing};
use paragpu_protocol::info::InfoKind;
use paragpu_protocol::limits::{MAX_FRAME_BYTES, MIN_RING_BYTES};
use paragpu_protocol::ring::{self, Producer, Pushed, RingMemory, RingPages, Status, Word};
use paragpu_protocol::slot::{DONE, STATE, Slot};
use paragpu_protocol::types::{Create, SlotRef, Span};
use paragpu_protocol::virtio_gpu::{
    CtxCreate, MemEntry, Request, ResourceAttachBacking, ResourceCreate3d, ResourceRef, Submit3d,
};
use zerocopy::{FromBytes, IntoBytes};

use crate::common::{PATIENCE, children_of, wait_until};
use crate::fake_driver::{FREE, Guest, RAM_BYTES, request};

const REGION_BYTES: u32 = 384 << 10;
const SLOTS: u32 = 4096 + MIN_RING_BYTES;
const ANSWER: u32 = SLOTS + (64 << 10);
const ANSWER_BYTES: u32 = 64 << 10;

const CONTEXT: u32 = 1;
const QUEUE: u32 = 2;

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Log;

impl log::Log for Log {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Info
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            LINES.lock().unwrap().push(format!("{} {}", record.level(), record.args()));
        }
    }

    fn flush(&self) {}
}

/// A vGPU.
pub struct VGpu {
    name: &'static str,
    driver: Guest,
    ram: Arc<Mapping>,
    memory_bytes: u64,
    /// Has the executors' program.
    _directory: tempfile::TempDir,
}

/// One guest process: its ring and its objects.
pub struct Process {
    id: u32,
    producer: Producer,
    ring: Ring,
    slots: u32,
    ids: u32,
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

impl VGpu {
    /// With this environment for its executor. The limit of memory is how a test knows its compilers from others'.
    pub fn new(name: &'static str, environment: &str, limits: BuildLimits) -> VGpu {
        VGpu::sharing(name, environment, limits, None)
    }

    /// One whose executors find there what earlier ones have built.
    pub fn sharing(
        name: &'static str,
        environment: &str,
        limits: BuildLimits,
        shared: Option<&Arc<SharedBuilds>>,
    ) -> VGpu {
        static LOG: Once = Once::new();
        LOG.call_once(|| {
            log::set_logger(&Log).unwrap();
            log::set_max_level(log::LevelFilter::Info);
        });
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("paragpud");
        let script = format!("#!/bin/sh\n{environment} exec {} \"$@\"\n", env!("CARGO_BIN_EXE_paragpud"));
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
        let launcher = ProcessLauncher::new(program).sharing(shared.cloned());
        let driver = Guest::connect_within(name, launcher, Limits { builds: limits, ..Limits::default() });
        let part = FilePart { file: driver.ram_file.as_fd(), offset: 0, len: RAM_BYTES };
        let ram = Arc::new(Mapping::of_files(&[part]).unwrap());
        VGpu { name, driver, ram, memory_bytes: limits.memory_bytes, _directory: directory }
    }

    /// A guest process with a context and a queue.
    pub fn process(&mut self, id: u32) -> Process {
        let start = FREE + u64::from((id - 1) * REGION_BYTES);
        assert!(start + u64::from(REGION_BYTES) <= RAM_BYTES as u64);
        let driver = &mut self.driver;
        driver.ok(&request(Request::CtxCreate, id, 0, CtxCreate::default().as_bytes()));
        let resource = ResourceRef { resource_id: id.into(), padding: 0.into() };
        let create = ResourceCreate3d {
            resource_id: id.into(),
            width: REGION_BYTES.into(),
            ..ResourceCreate3d::default()
        };
        driver.ok(&request(Request::ResourceCreate3d, 0, 0, create.as_bytes()));
        let attach = ResourceAttachBacking { resource_id: id.into(), nr_entries: 1.into() };
        let entry = MemEntry { addr: start.into(), length: REGION_BYTES.into(), padding: 0.into() };
        let body = [attach.as_bytes(), entry.as_bytes()].concat();
        driver.ok(&request(Request::ResourceAttachBacking, 0, 0, &body));
        driver.ok(&request(Request::CtxAttachResource, id, 0, resource.as_bytes()));
        self.submit(id, StartRing::new(id, MIN_RING_BYTES).as_bytes());
        let ring = Ring { ram: self.ram.clone(), start: start as usize };
        let mut process = Process { id, producer: Producer::new(MIN_RING_BYTES), ring, slots: 0, ids: QUEUE };
        wait_until("the ring to run", || process.ring_status() == Some(Status::Running));
        let create = process.create(CONTEXT, 0);
        self.ask(&mut process, &CreateContext { create }, create.reply, &[0; 4]);
        let create = process.create(QUEUE, CONTEXT);
        self.ask(&mut process, &CreateQueue { create, ..CreateQueue::default() }, create.reply, &[]);
        process
    }

    fn submit(&mut self, context: u32, control: &[u8]) {
        let submit = Submit3d { size: (control.len() as u32).into(), padding: 0.into() };
        let body = [submit.as_bytes(), control].concat();
        self.driver.ok(&request(Request::Submit3d, context, 0, &body));
    }

    fn send<C: Body>(&mut self, process: &mut Process, body: &C, data: &[u8]) {
        let mut frame = vec![0; MAX_FRAME_BYTES as usize];
        let len = body.encode(&mut frame, &[], data).unwrap();
        while process.producer.push(&process.ring, &frame[..len]) == Pushed::Full {}
        self.submit(process.id, Doorbell::new().as_bytes());
    }

    fn ask<C: Body>(&mut self, process: &mut Process, body: &C, reply: SlotRef, data: &[u8]) -> Slot {
        self.send(process, body, data);
        process.wait(reply)
    }

    /// A program of this text.
    pub fn source(&mut self, process: &mut Process, text: &str) -> u32 {
        let id = process.id();
        let create = process.create(id, CONTEXT);
        let made = CreateProgram { create, source: Span::NONE };
        assert_eq!(self.ask(process, &made, create.reply, text.as_bytes()).status.get(), 0);
        id
    }

    /// Begins a build. The slot has its outcome.
    pub fn begin(&mut self, process: &mut Process, program: u32) -> SlotRef {
        let reply = process.slot();
        let build = BuildProgram { program: program.into(), device_count: 0.into(), reply };
        self.send(process, &build, b"");
        reply
    }

    /// Builds a text: the program, and the outcome.
    pub fn build(&mut self, process: &mut Process, text: &str) -> (u32, i32) {
        let program = self.source(process, text);
        let slot = self.begin(process, program);
        (program, process.status(slot))
    }

    /// Compiles a text: the program, and the outcome.
    pub fn compile(&mut self, process: &mut Process, text: &str) -> (u32, i32) {
        let program = self.source(process, text);
        let reply = process.slot();
        let body = CompileProgram { program: program.into(), reply, ..CompileProgram::default() };
        (program, self.ask(process, &body, reply, b"").status.get())
    }

    /// Links a program: the linked one, and the outcome.
    pub fn link(&mut self, process: &mut Process, program: u32) -> (u32, i32) {
        let id = process.id();
        let create = process.create(id, CONTEXT);
        let body = LinkProgram { create, input_count: 1.into(), ..LinkProgram::default() };
        (id, self.ask(process, &body, create.reply, &program.to_le_bytes()).status.get())
    }

    /// The build log of a program.
    pub fn build_log(&mut self, process: &mut Process, program: u32) -> String {
        const BUILD_LOG: u32 = 0x1183;
        let (dst, reply) = (Span::new(process.id, ANSWER.into(), ANSWER_BYTES.into()), process.slot());
        let kind = (InfoKind::ProgramBuild as u32).into();
        let (object, param) = (program.into(), BUILD_LOG.into());
        let info = GetInfo { kind, object, param, dst, reply, ..GetInfo::default() };
        let slot = self.ask(process, &info, reply, &[]);
        assert_eq!(slot.status.get(), 0);
        let mut log = vec![0; slot.len.get() as usize];
        assert!(self.ram.read(process.at(ANSWER), &mut log));
        String::from_utf8(log).unwrap().trim_end_matches('\0').to_owned()
    }

    /// What comes of making a kernel.
    pub fn kernel(&mut self, process: &mut Process, program: u32) -> i32 {
        let id = process.id();
        let create = process.create(id, program);
        self.ask(process, &CreateKernel { create, info: Span::NONE }, create.reply, b"k").status.get()
    }

    /// Waits until what is in its queue is done.
    pub fn finish(&mut self, process: &mut Process) {
        let reply = process.slot();
        let finish = Finish { queue: QUEUE.into(), reply, ..Finish::default() };
        assert_eq!(self.ask(process, &finish, reply, &[]).status.get(), 0);
    }

    /// Ends a guest process, as its kernel does. Returns when nothing of it is left on the host.
    pub fn end(&mut self, process: &Process) {
        self.driver.ok(&request(Request::CtxDestroy, process.id, 0, &[]));
    }

    /// The guest's front end hangs up.
    pub fn hang_up(self) {
        self.driver.hang_up();
    }

    /// Stops the control queue as a pause does, and goes on.
    pub fn pause(&mut self) {
        let base = self.driver.stop();
        self.driver.start(base);
    }

    /// Process ids of this vGPU's compilers.
    pub fn compilers(&self) -> Vec<u32> {
        compilers_of(std::process::id(), self.memory_bytes)
    }

    /// Lines of this vGPU's in the log that have this in them.
    pub fn logged(&self, what: &str) -> Vec<String> {
        let (lines, prefix) = (LINES.lock().unwrap(), format!(" {}: ", self.name));
        lines.iter().filter(|line| line.contains(&prefix) && line.contains(what)).cloned().collect()
    }
}

/// The compilers with this limit of memory that a broker has started.
pub fn compilers_of(broker: u32, memory_bytes: u64) -> Vec<u32> {
    let role = format!("\0compiler\0{memory_bytes}\0");
    let has_role =
        |pid: &u32| fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains(&role));
    children_of(broker).into_iter().filter(has_role).collect()
}

/// The private directory of an executor or a compiler.
pub fn directory_of(pid: u32) -> PathBuf {
    let environment = fs::read_to_string(format!("/proc/{pid}/environ")).unwrap();
    environment.split('\0').find_map(|pair| pair.strip_prefix("TMPDIR=")).unwrap().into()
}

impl Process {
    fn at(&self, offset: u32) -> usize {
        self.ring.start + offset as usize
    }

    fn id(&mut self) -> u32 {
        self.ids += 1;
        self.ids
    }

    fn create(&mut self, id: u32, parent: u32) -> Create {
        Create { id: id.into(), parent: parent.into(), reply: self.slot() }
    }

    /// A cleared slot.
    fn slot(&mut self) -> SlotRef {
        let offset = SLOTS + self.slots % 1024 * 64;
        self.slots += 1;
        assert!(self.ring.ram.write(self.at(offset), &[0; 64]));
        SlotRef::new(self.id, offset)
    }

    pub fn is_done(&self, slot: SlotRef) -> bool {
        let state = self.ring.ram.word(self.at(slot.offset.get()) + STATE).unwrap();
        state.load(Ordering::Acquire) == DONE
    }

    fn wait(&self, slot: SlotRef) -> Slot {
        let until = Instant::now() + PATIENCE;
        while !self.is_done(slot) {
            assert!(Instant::now() < until, "the slot is not done in time");
            assert_eq!(self.ring_status(), Some(Status::Running));
            std::thread::sleep(std::time::Duration::from_micros(200));
        }
        let mut bytes = [0; 64];
        assert!(self.ring.ram.read(self.at(slot.offset.get()), &mut bytes));
        Slot::read_from_bytes(&bytes).unwrap()
    }

    pub fn status(&self, slot: SlotRef) -> i32 {
        self.wait(slot).status.get()
    }

    pub fn ring_status(&self) -> Option<Status> {
        Status::from_word(self.ring.load(Word::Status))
    }
}
