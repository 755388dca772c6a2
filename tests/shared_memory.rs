//! Buffers in the guest's own pages, on the host's real OpenCL. Where its device shares no memory, these tests say so and
//! end.

mod executor_guest;

use std::sync::Arc;

use executor_guest::session::backend;
use executor_guest::{CONTEXT, Guest};
use paragpu::executor::child::backend::Backend;
use paragpu::executor::child::backend::opencl::OpenCl;
use paragpu::executor::message::{ToBroker, ToExecutor};
use paragpu_protocol::command::{
    BuildProgram, CreateBuffer, CreateContext, CreateKernel, CreatePlacedBuffer, CreateProgram, CreateQueue,
    CreateSharedBuffer, EnqueueKernel, ReleaseShared, SetArgObject, SetArgSvm, SetExecInfo,
};
use paragpu_protocol::fault::Fault;
use paragpu_protocol::ring::{RingMemory, Status, Word};
use paragpu_protocol::svm::{MemoryModel, SharedInfo};
use paragpu_protocol::types::Span;
use zerocopy::FromBytes;

/// A list in shared memory: each node is the address of the next one and a number, which the kernel doubles.
const SOURCE: &str = "
    struct node { global struct node* next; ulong number; };
    kernel void walk(global struct node* node, global ulong* sum) {
        *sum = 0;
        for (; node; node = node->next) { *sum += node->number; node->number *= 2; }
    }";

fn sharing_backend() -> Option<Arc<OpenCl>> {
    let backend = backend();
    if backend.devices()[0].limits.memory != MemoryModel::Shared {
        println!("skipped: {} shares no memory with the host", backend.devices()[0].limits.name);
        return None;
    }
    Some(backend)
}

struct Session {
    guest: Guest<OpenCl>,
    context: u32,
    queue: u32,
    kernel: u32,
}

/// A region beside those of every guest, over its last pages.
const REGION: u32 = 9;
const REGION_START: u64 = 8 << 20;
const REGION_LEN: u64 = 64 << 10;
/// The same pages as the guest knows them from its staging area.
const STAGED: u64 = REGION_START - (2 << 20);

impl Session {
    fn new() -> Option<Session> {
        let mut guest = Guest::new(sharing_backend()?);
        guest.add_region(REGION, REGION_START, REGION_LEN);
        let (context, create) = guest.create(0);
        guest.send(&CreateContext { create }, &[], &0_u32.to_le_bytes());
        guest.done(create.reply);
        let (queue, create) = guest.create(context);
        guest.send(&CreateQueue { create, ..CreateQueue::default() }, &[], &[]);
        guest.done(create.reply);
        let (program, create) = guest.create(context);
        guest.send(&CreateProgram { create, source: Span::NONE }, &[], SOURCE.as_bytes());
        guest.done(create.reply);
        let reply = guest.slot();
        guest.send(&BuildProgram { program: program.into(), device_count: 0.into(), reply }, &[], b"");
        guest.done(reply);
        let (kernel, create) = guest.create(program);
        guest.send(&CreateKernel { create, info: Span::NONE }, &[], b"walk");
        guest.done(create.reply);
        Some(Session { guest, context, queue, kernel })
    }

    /// A shared buffer of the whole region, and its address.
    fn shared(&mut self) -> (u32, u64) {
        let (id, create) = self.guest.create(self.context);
        let memory = Span::new(REGION, 0, REGION_LEN);
        let info = self.guest.span(0, size_of::<SharedInfo>() as u64);
        self.guest.send(&CreateSharedBuffer { create, flags: 1.into(), memory, info }, &[], &[]);
        let answer = self.guest.done(create.reply);
        assert_eq!(answer.len.get() as usize, size_of::<SharedInfo>());
        let info = SharedInfo::read_from_bytes(&self.guest.read(0, size_of::<SharedInfo>())).unwrap();
        (id, info.address.get())
    }

    /// A placed buffer of the region's first `len` bytes.
    fn placed(&mut self, len: u64) -> u32 {
        let (id, create) = self.guest.create(self.context);
        let body = CreatePlacedBuffer { create, flags: 1.into(), memory: Span::new(REGION, 0, len) };
        self.guest.send(&body, &[], &[]);
        id
    }

    fn set_object(&mut self, index: u32, object: u32) {
        let (kernel, index) = (self.kernel.into(), index.into());
        let body = SetArgObject { kernel, index, object: object.into(), ..SetArgObject::default() };
        self.guest.send(&body, &[], &[]);
    }

    fn set(&mut self, index: u32, object: u32, offset: u64) {
        let (kernel, index) = (self.kernel.into(), index.into());
        let body =
            SetArgSvm { kernel, index, object: object.into(), offset: offset.into(), ..SetArgSvm::default() };
        self.guest.send(&body, &[], &[]);
    }

    fn launch(&mut self) {
        let enqueue = self.guest.enqueue(self.queue, 0);
        let one = [1, 1, 1].map(u64::into);
        let body = EnqueueKernel {
            enqueue,
            kernel: self.kernel.into(),
            dims: 1.into(),
            global: one,
            ..EnqueueKernel::default()
        };
        self.guest.send(&body, &[], &[]);
        self.guest.done(enqueue.slot);
    }

    fn fails_with(&self, fault: Fault) {
        self.guest.until("failed", |guest| guest.status() == Some(Status::Failed));
        assert_eq!(self.guest.ring.load(Word::Reason), fault.code());
    }
}

#[test]
fn a_kernel_walks_a_list_in_the_guests_memory_and_the_guest_sees_what_it_wrote() {
    let Some(mut session) = Session::new() else { return };
    let (shared, address) = session.shared();
    let nodes = 100_u64;
    for node in 0..nodes {
        let next = if node + 1 < nodes { address + 16 * (node + 1) } else { 0 };
        session.guest.write(STAGED + 16 * node, &[next.to_le_bytes(), node.to_le_bytes()].concat());
    }
    session.set(0, shared, 0);
    session.set(1, shared, 32768);
    session.guest.send(
        &SetExecInfo { kernel: session.kernel.into(), ..SetExecInfo::default() },
        &[],
        &shared.to_le_bytes(),
    );
    session.launch();
    let number = |at: u64| u64::from_le_bytes(session.guest.read(at, 8).try_into().unwrap());
    assert_eq!(number(STAGED + 32768), nodes * (nodes - 1) / 2);
    for node in 0..nodes {
        assert_eq!(number(STAGED + 16 * node + 8), 2 * node);
    }
}

#[test]
fn a_released_shared_buffer_is_gone_only_when_no_kernel_has_it_any_more() {
    let Some(mut session) = Session::new() else { return };
    let (shared, _) = session.shared();
    session.set(0, shared, 0);
    session.set(1, shared, 32768);
    let reply = session.guest.slot();
    let release = ReleaseShared { id: shared.into(), reply, ..ReleaseShared::default() };
    session.guest.send(&release, &[], &[]);
    // The kernel still has it, and may run with it.
    session.launch();
    assert!(!session.guest.is_done(reply));
    session.guest.tell(ToExecutor::RemoveRegion { context: CONTEXT, region: REGION });
    assert!(session.guest.no_message(), "the pages are in use");
    let (buffer, create) = session.guest.create(session.context);
    let body = CreateBuffer { create, flags: 1.into(), size: 64.into(), init: Span::NONE };
    session.guest.send(&body, &[], &[]);
    session.set_object(0, buffer);
    session.set_object(1, buffer);
    session.guest.done(reply);
    let removed = ToBroker::RegionRemoved { context: CONTEXT, region: REGION };
    assert_eq!(session.guest.message(), removed);
}

#[test]
fn a_kernel_computes_in_a_placed_buffer_which_is_gone_only_when_nothing_has_it() {
    let Some(mut session) = Session::new() else { return };
    let placed = session.placed(4096);
    session.guest.write(STAGED, &[0xff; 16]);
    session.set_object(0, 0);
    session.set_object(1, placed);
    session.launch();
    // The sum of an empty list, and nothing beside it.
    assert_eq!(session.guest.read(STAGED, 16), [[0; 8], [0xff; 8]].concat());
    let reply = session.guest.slot();
    let release = ReleaseShared { id: placed.into(), reply, ..ReleaseShared::default() };
    session.guest.send(&release, &[], &[]);
    session.guest.write(STAGED, &[0xff; 8]);
    session.launch();
    assert_eq!(session.guest.read(STAGED, 8), [0; 8]);
    assert!(!session.guest.is_done(reply), "the kernel has it");
    session.guest.tell(ToExecutor::RemoveRegion { context: CONTEXT, region: REGION });
    assert!(session.guest.no_message(), "the pages are in use");
    session.set_object(1, 0);
    session.guest.done(reply);
    let removed = ToBroker::RegionRemoved { context: CONTEXT, region: REGION };
    assert_eq!(session.guest.message(), removed);
}

#[test]
fn a_placed_buffer_has_no_address() {
    let Some(mut session) = Session::new() else { return };
    let placed = session.placed(4096);
    session.set(0, placed, 0);
    session.fails_with(Fault::UnknownObject);
}

#[test]
fn pointers_that_no_driver_sends_are_faults() {
    type Mistake = fn(&mut Session);
    let cases: [(&str, Mistake); 5] = [
        ("a region that is too short for a placed buffer", |session| {
            session.placed(REGION_LEN + 1);
        }),
        ("past the end", |session| {
            let (shared, _) = session.shared();
            session.set(0, shared, REGION_LEN + 1);
        }),
        ("null with an offset", |session| session.set(0, 0, 8)),
        ("no such argument", |session| session.set(2, 0, 0)),
        ("a region that is too short", |session| {
            let (_, create) = session.guest.create(session.context);
            let memory = Span::new(REGION, 0, REGION_LEN + 4096);
            let body = CreateSharedBuffer { create, flags: 1.into(), memory, info: Span::NONE };
            session.guest.send(&body, &[], &[]);
        }),
    ];
    for (name, mistake) in cases {
        let Some(mut session) = Session::new() else { return };
        mistake(&mut session);
        let fault = if name.starts_with("a region") { Fault::OutOfRegion } else { Fault::BadValue };
        session.fails_with(fault);
    }
}

#[test]
fn a_buffer_of_the_devices_own_is_nothing_to_point_to() {
    let Some(mut session) = Session::new() else { return };
    let (buffer, create) = session.guest.create(session.context);
    let body = CreateBuffer { create, flags: 1.into(), size: 64.into(), init: Span::NONE };
    session.guest.send(&body, &[], &[]);
    session.set(0, buffer, 0);
    session.fails_with(Fault::UnknownObject);
}
