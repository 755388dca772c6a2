//! Seeds for what recorded programs do not do.

use paragpu::device::step::Step;
use paragpu::executor::message::{ContextUsage, ToBroker};
use paragpu_protocol::capset::{CAPSET_ID, CAPSET_VERSION};
use paragpu_protocol::command::{
    Barrier, Body, BuildProgram, CopyBuffer, CopyBufferRect, CopyBufferToImage, CopyImage, CopyImageToBuffer,
    CreateBuffer, CreateCoarseBuffer, CreateContext, CreateImage, CreateKernel, CreatePlacedBuffer,
    CreateProgram, CreateQueue, CreateSampler, CreateSharedBuffer, CreateSubBuffer, CreateSubDevices,
    CreateUserEvent, EnqueueKernel, FillBuffer, FillImage, Finish, GetImageFormats, GetInfo, Marker, Nop,
    ReadBuffer, ReadBufferRect, ReadImage, ReadPrint, Release, ReleaseShared, SetArgLocal, SetArgObject,
    SetArgSvm, SetArgValue, SetExecInfo, SetUserEvent, WatchEvent, WriteBuffer, WriteBufferRect, WriteImage,
};
use paragpu_protocol::control::{Doorbell, StartRing, Wait};
use paragpu_protocol::image::{ImageFormat, ImageShape, ImageType};
use paragpu_protocol::info::InfoKind;
use paragpu_protocol::limits::{MAX_FRAME_BYTES, MIN_RING_BYTES};
use paragpu_protocol::types::{Create, Dim3, Enqueue, SlotRef, Span};
use paragpu_protocol::virtio_gpu::{
    CtxCreate, FLAG_FENCE, GetCapset, Header, MemEntry, Request, ResourceAttachBacking, ResourceCreate2d,
    ResourceCreate3d, ResourceRef, Submit3d,
};
use zerocopy::{Immutable, IntoBytes};

#[path = "device_side.rs"]
mod device_side;
#[path = "programs.rs"]
mod programs;

/// Target, name and contents of each seed.
pub(crate) fn all() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    vec![
        ("ring_commands", "handmade-every-command", every_command()),
        ("ring_commands", "handmade-images", images()),
        ("control_queue", "handmade-every-request", every_request()),
        ("control_queue", "handmade-hostile-executor", hostile_executor()),
        ("executor_messages", "handmade-every-message", every_message()),
    ]
}

const CONTEXT: u32 = 1;
const QUEUE: u32 = 2;
const BUFFER: u32 = 3;
const PROGRAM: u32 = 4;
const SUB_BUFFER: u32 = 5;
const KERNEL: u32 = 6;
const USER_EVENT: u32 = 7;
const SHARED: u32 = 8;
const COARSE: u32 = 40;
const SUB_DEVICE: u32 = 30;
const BUFFER_BYTES: u64 = 4096;

#[derive(Default)]
struct Frames(Vec<u8>);

impl Frames {
    fn add<C: Body>(&mut self, body: &C, wait: &[u32], data: &[u8]) {
        let mut frame = vec![0; MAX_FRAME_BYTES as usize];
        let len = body.encode(&mut frame, wait, data).unwrap();
        self.0.extend(&frame[..len]);
    }
}

fn create(id: u32, parent: u32) -> Create {
    Create { id: id.into(), parent: parent.into(), reply: slot(id) }
}

fn slot(number: u32) -> SlotRef {
    SlotRef::new(1, number * 64)
}

fn enqueue(event: u32) -> Enqueue {
    Enqueue { queue: QUEUE.into(), event: event.into(), slot: slot(event) }
}

fn dim(numbers: [u64; 3]) -> Dim3 {
    numbers.map(Into::into)
}

fn every_command() -> Vec<u8> {
    let mut frames = Frames::default();
    let span = Span::new(2, 4096, 64);
    frames.add(&Nop {}, &[], &[]);
    let info =
        GetInfo { kind: (InfoKind::Device as u32).into(), dst: span, reply: slot(0), ..GetInfo::default() };
    frames.add(&info, &[], &[]);
    frames.add(&ReadPrint { dst: span, reply: slot(1) }, &[], &[]);
    let parts = CreateSubDevices {
        parent: 1.into(),
        partition: 0x1087.into(),
        count: 2.into(),
        reply: slot(22),
        ..CreateSubDevices::default()
    };
    let data: Vec<u8> = [SUB_DEVICE, SUB_DEVICE + 1, 3, 5].into_iter().flat_map(u32::to_le_bytes).collect();
    frames.add(&parts, &[], &data);
    let devices: Vec<u8> = [0, 0x8000_0000 | SUB_DEVICE].into_iter().flat_map(u32::to_le_bytes).collect();
    frames.add(&CreateContext { create: create(CONTEXT, 0) }, &[], &devices);
    let queue =
        CreateQueue { create: create(QUEUE, CONTEXT), properties: 3.into(), ..CreateQueue::default() };
    frames.add(&queue, &[], &[]);
    let size = BUFFER_BYTES.into();
    let init = Span::new(2, 0, BUFFER_BYTES);
    frames.add(&CreateBuffer { create: create(BUFFER, CONTEXT), flags: 1.into(), size, init }, &[], &[]);
    let part = CreateSubBuffer {
        create: create(SUB_BUFFER, BUFFER),
        flags: 1.into(),
        origin: 1024.into(),
        size: 512.into(),
    };
    frames.add(&part, &[], &[]);
    let program = CreateProgram { create: create(PROGRAM, CONTEXT), source: Span::NONE };
    frames.add(&program, &[], b"kernel void f(global int* a, int b, local int* c) { printf(\"\"); }");
    let build = BuildProgram { program: PROGRAM.into(), device_count: 1.into(), reply: slot(8) };
    frames.add(&build, &[], b"\0\0\0\0-DA=1");
    frames.add(&CreateKernel { create: create(KERNEL, PROGRAM), info: span }, &[], b"f");
    let kernel = KERNEL.into();
    let object = |object: u32| SetArgObject { kernel, object: object.into(), ..SetArgObject::default() };
    frames.add(&object(0), &[], &[]);
    frames.add(&object(SUB_BUFFER), &[], &[]);
    frames.add(&SetArgValue { kernel, index: 1.into(), reply: slot(9) }, &[], &[1, 0, 0, 0]);
    frames.add(&SetArgLocal { kernel, index: 2.into(), size: 64.into() }, &[], &[]);
    programs::add(&mut frames);
    device_side::add(&mut frames);
    frames.add(&CreateUserEvent { create: create(USER_EVENT, CONTEXT) }, &[], &[]);
    let launch = EnqueueKernel {
        enqueue: enqueue(10),
        kernel,
        dims: 2.into(),
        offset: dim([8, 0, 0]),
        global: dim([64, 4, 1]),
        local: dim([8, 2, 1]),
    };
    frames.add(&launch, &[USER_EVENT], &[]);
    let buffer = BUFFER.into();
    let read = ReadBuffer { enqueue: enqueue(11), buffer, dst: span, ..ReadBuffer::default() };
    frames.add(&read, &[10, USER_EVENT], &[]);
    let write = WriteBuffer { enqueue: enqueue(12), buffer, offset: 5.into(), ..WriteBuffer::default() };
    frames.add(&write, &[], b"inline");
    frames.add(&WriteBuffer { enqueue: enqueue(13), src: span, ..write }, &[12], &[]);
    let copy = CopyBuffer {
        enqueue: enqueue(14),
        src: buffer,
        dst: buffer,
        dst_offset: 2048.into(),
        size: 128.into(),
        ..CopyBuffer::default()
    };
    frames.add(&copy, &[], &[]);
    let copy_linear = copy;
    let fill = FillBuffer { enqueue: enqueue(15), buffer, size: 64.into(), ..FillBuffer::default() };
    frames.add(&fill, &[], &[1, 2, 3, 4]);
    let read = ReadBufferRect {
        enqueue: enqueue(16),
        buffer,
        origin: dim([4, 1, 0]),
        extent: dim([4, 4, 4]),
        row_pitch: 16.into(),
        slice_pitch: 256.into(),
        dst: span,
        ..ReadBufferRect::default()
    };
    frames.add(&read, &[], &[]);
    let write = WriteBufferRect {
        enqueue: enqueue(17),
        buffer,
        extent: read.extent,
        row_pitch: read.row_pitch,
        slice_pitch: read.slice_pitch,
        src: span,
        ..WriteBufferRect::default()
    };
    frames.add(&write, &[16], &[]);
    let copy = CopyBufferRect {
        enqueue: enqueue(18),
        src: buffer,
        dst: SUB_BUFFER.into(),
        extent: dim([4, 4, 2]),
        src_row_pitch: 16.into(),
        src_slice_pitch: 256.into(),
        dst_row_pitch: 8.into(),
        dst_slice_pitch: 64.into(),
        ..CopyBufferRect::default()
    };
    frames.add(&copy, &[], &[]);
    frames.add(&WatchEvent { event: 18.into(), reserved: 0.into(), reply: slot(23) }, &[], &[]);
    frames.add(&SetUserEvent { event: USER_EVENT.into(), status: 0.into() }, &[], &[]);
    frames.add(&Marker { enqueue: enqueue(19) }, &[], &[]);
    frames.add(&Barrier { enqueue: enqueue(20) }, &[18, 19], &[]);
    frames.add(&Finish { queue: QUEUE.into(), reply: slot(21), ..Finish::default() }, &[], &[]);
    let memory = Span::new(3, 0, BUFFER_BYTES);
    let shared = CreateSharedBuffer { create: create(SHARED, CONTEXT), flags: 1.into(), memory, info: span };
    frames.add(&shared, &[], &[]);
    let pointer = SetArgSvm { kernel, object: SHARED.into(), offset: 64.into(), ..SetArgSvm::default() };
    frames.add(&pointer, &[], &[]);
    frames.add(&SetExecInfo { kernel, ..SetExecInfo::default() }, &[], &SHARED.to_le_bytes());
    frames.add(&EnqueueKernel { enqueue: enqueue(22), ..launch }, &[], &[]);
    frames.add(&CopyBuffer { enqueue: enqueue(23), dst: SHARED.into(), ..copy_linear }, &[], &[]);
    let coarse = CreateCoarseBuffer {
        create: create(COARSE, CONTEXT),
        flags: 1.into(),
        size: BUFFER_BYTES.into(),
        info: span,
        ..CreateCoarseBuffer::default()
    };
    frames.add(&coarse, &[], &[]);
    let inside = CreateCoarseBuffer {
        create: create(COARSE + 1, CONTEXT),
        size: 64.into(),
        of: COARSE.into(),
        offset: 64.into(),
        ..coarse
    };
    frames.add(&inside, &[], &[]);
    let reachable = [COARSE.to_le_bytes(), SHARED.to_le_bytes()].concat();
    frames.add(&SetExecInfo { kernel, ..SetExecInfo::default() }, &[], &reachable);
    let release = ReleaseShared { id: SHARED.into(), reply: slot(24), ..ReleaseShared::default() };
    frames.add(&release, &[], &[]);
    let placed = CreatePlacedBuffer { create: create(SHARED, CONTEXT), flags: 1.into(), memory };
    frames.add(&placed, &[], &[]);
    frames.add(&CopyBuffer { enqueue: enqueue(25), dst: SHARED.into(), ..copy_linear }, &[], &[]);
    let release = ReleaseShared { id: SHARED.into(), reply: slot(26), ..ReleaseShared::default() };
    frames.add(&release, &[], &[]);
    for id in [CONTEXT, BUFFER, 20, KERNEL, PROGRAM, QUEUE, SUB_DEVICE] {
        frames.add(&Release { id: id.into(), ..Release::default() }, &[], &[]);
    }
    frames.0
}

/// Images in memory of their own, in a buffer and in each other, and a kernel that filters one.
fn images() -> Vec<u8> {
    const OWN: u32 = 10;
    const IN_BUFFER: u32 = 11;
    const ARRAY: u32 = 12;
    const SHOWN: u32 = 13;
    const SAMPLER: u32 = 14;
    let mut frames = Frames::default();
    let span = Span::new(2, 4096, 64);
    frames.add(&CreateContext { create: create(CONTEXT, 0) }, &[], &[0; 4]);
    frames.add(&CreateQueue { create: create(QUEUE, CONTEXT), ..CreateQueue::default() }, &[], &[]);
    let kind = (ImageType::Image2d as u32).into();
    let formats =
        GetImageFormats { context: CONTEXT.into(), kind, flags: 1.into(), dst: span, reply: slot(0) };
    frames.add(&formats, &[], &[]);
    let (size, init) = (BUFFER_BYTES.into(), Span::NONE);
    frames.add(&CreateBuffer { create: create(BUFFER, CONTEXT), flags: 1.into(), size, init }, &[], &[]);
    let image = CreateImage {
        create: create(OWN, CONTEXT),
        flags: 1.into(),
        format: ImageFormat::new(0x10b5, 0x10d2),
        kind,
        shape: ImageShape { width: 4.into(), height: 4.into(), ..ImageShape::default() },
        init: span,
        ..CreateImage::default()
    };
    frames.add(&image, &[], &[]);
    let in_buffer = CreateImage {
        create: create(IN_BUFFER, CONTEXT),
        memory: BUFFER.into(),
        row_pitch: 64.into(),
        init,
        ..image
    };
    frames.add(&in_buffer, &[], &[]);
    let array = CreateImage {
        create: create(ARRAY, CONTEXT),
        kind: (ImageType::Image1dArray as u32).into(),
        shape: ImageShape { width: 8.into(), array_size: 3.into(), ..ImageShape::default() },
        init,
        ..image
    };
    frames.add(&array, &[], &[]);
    frames.add(&CreateImage { create: create(SHOWN, CONTEXT), memory: OWN.into(), init, ..image }, &[], &[]);
    let info = GetInfo {
        kind: (InfoKind::Image as u32).into(),
        object: OWN.into(),
        param: 0x1102.into(),
        dst: span,
        reply: slot(1),
        ..GetInfo::default()
    };
    frames.add(&info, &[], &[]);
    let sampler = CreateSampler {
        create: create(SAMPLER, CONTEXT),
        addressing: 0x1131.into(),
        filter: 0x1141.into(),
        ..CreateSampler::default()
    };
    frames.add(&sampler, &[], &[]);
    let program = CreateProgram { create: create(PROGRAM, CONTEXT), source: Span::NONE };
    frames.add(
        &program,
        &[],
        b"kernel void f(read_only image2d_t a, write_only image2d_t b, sampler_t c) {}",
    );
    frames.add(&BuildProgram { program: PROGRAM.into(), ..BuildProgram::default() }, &[], b"");
    frames.add(&CreateKernel { create: create(KERNEL, PROGRAM), info: span }, &[], b"f");
    let kernel = KERNEL.into();
    for (index, object) in [(0_u32, OWN), (1, IN_BUFFER), (2, SAMPLER)] {
        let body =
            SetArgObject { kernel, index: index.into(), object: object.into(), ..SetArgObject::default() };
        frames.add(&body, &[], &[]);
    }
    let launch = EnqueueKernel {
        enqueue: enqueue(20),
        kernel,
        dims: 2.into(),
        global: dim([4, 4, 1]),
        ..EnqueueKernel::default()
    };
    frames.add(&launch, &[], &[]);
    let (origin, extent) = (dim([1, 1, 0]), dim([2, 2, 1]));
    let dst = Span::new(2, 8192, 16);
    let read =
        ReadImage { enqueue: enqueue(21), image: OWN.into(), origin, extent, dst, ..ReadImage::default() };
    frames.add(&read, &[20], &[]);
    let write = WriteImage {
        enqueue: enqueue(22),
        image: ARRAY.into(),
        origin,
        extent,
        src: dst,
        ..WriteImage::default()
    };
    frames.add(&write, &[21], &[]);
    frames.add(
        &WriteImage { enqueue: enqueue(23), image: SHOWN.into(), src: Span::NONE, ..write },
        &[],
        &[7; 16],
    );
    let copy = CopyImage {
        enqueue: enqueue(24),
        src: OWN.into(),
        dst: IN_BUFFER.into(),
        src_origin: origin,
        dst_origin: dim([0, 2, 0]),
        extent,
    };
    frames.add(&copy, &[], &[]);
    let fill =
        FillImage { enqueue: enqueue(25), image: ARRAY.into(), origin, extent, ..FillImage::default() };
    frames.add(&fill, &[], &[1; 16]);
    let (image, buffer, offset) = (OWN.into(), BUFFER.into(), 100.into());
    frames.add(
        &CopyImageToBuffer { enqueue: enqueue(26), image, buffer, origin, extent, offset },
        &[24],
        &[],
    );
    frames.add(&CopyBufferToImage { enqueue: enqueue(27), image, buffer, origin, extent, offset }, &[], &[]);
    frames.add(&Finish { queue: QUEUE.into(), reply: slot(28), ..Finish::default() }, &[], &[]);
    for id in [BUFFER, OWN, SAMPLER, SHOWN] {
        frames.add(&Release { id: id.into(), ..Release::default() }, &[], &[]);
    }
    frames.0
}

/// Where the pages of resources lie.
const PAGES: u64 = 0x10_0000;
const REGION_BYTES: u32 = 4096 + MIN_RING_BYTES;

#[derive(Default)]
struct Steps {
    bytes: Vec<u8>,
    fence: u64,
}

impl Steps {
    fn step(&mut self, step: &Step<'_>) {
        self.bytes.extend(step.encode().unwrap());
    }

    fn message(&mut self, message: &ToBroker) {
        self.step(&Step::message(message).unwrap());
    }

    fn request(&mut self, request: Request, body: &[u8]) {
        self.fence += 1;
        let header = Header {
            kind: (request as u32).into(),
            flags: FLAG_FENCE.into(),
            fence_id: self.fence.into(),
            ctx_id: 1.into(),
            ..Header::default()
        };
        self.step(&Step::Request(&[header.as_bytes(), body].concat()));
    }

    fn submit<T: IntoBytes + Immutable>(&mut self, control: &T) {
        let submit = Submit3d { size: (size_of::<T>() as u32).into(), padding: 0.into() };
        self.request(Request::Submit3d, &[submit.as_bytes(), control.as_bytes()].concat());
    }

    /// A context with a region attached, in two extents.
    fn context_and_region(&mut self, region: u32) {
        self.request(Request::CtxCreate, CtxCreate::default().as_bytes());
        let create = ResourceCreate3d {
            resource_id: region.into(),
            width: REGION_BYTES.into(),
            ..ResourceCreate3d::default()
        };
        self.request(Request::ResourceCreate3d, create.as_bytes());
        let attach = ResourceAttachBacking { resource_id: region.into(), nr_entries: 2.into() };
        let first = MemEntry { addr: PAGES.into(), length: 4096.into(), padding: 0.into() };
        let second = MemEntry { addr: (2 * PAGES).into(), length: MIN_RING_BYTES.into(), padding: 0.into() };
        let body = [attach.as_bytes(), first.as_bytes(), second.as_bytes()].concat();
        self.request(Request::ResourceAttachBacking, &body);
        self.request(Request::CtxAttachResource, named(region).as_bytes());
    }
}

fn named(resource: u32) -> ResourceRef {
    ResourceRef { resource_id: resource.into(), padding: 0.into() }
}

fn every_request() -> Vec<u8> {
    let mut steps = Steps::default();
    steps.step(&Step::NewDriver);
    steps.request(Request::GetCapsetInfo, &[0; 8]);
    let capset = GetCapset { capset_id: CAPSET_ID.into(), capset_version: CAPSET_VERSION.into() };
    steps.request(Request::GetCapset, capset.as_bytes());
    steps.context_and_region(9);
    steps.submit(&StartRing::new(9, MIN_RING_BYTES));
    steps.submit(&Wait::new(0));
    steps.step(&Step::Wake);
    steps.submit(&Wait::new(0));
    steps.submit(&Doorbell::new());
    steps.submit(&Wait::new(0));
    steps.step(&Step::Tick(1000));
    steps.step(&Step::Store { addr: PAGES + 0x100, value: 7 });
    steps.submit(&Wait::new(0));
    steps.submit(&Wait::new(7));
    let create =
        ResourceCreate2d { resource_id: 2.into(), format: 2.into(), width: 64.into(), height: 16.into() };
    steps.request(Request::ResourceCreate2d, create.as_bytes());
    // Display requests, and those that are refused.
    let done = [
        Request::GetCapsetInfo,
        Request::GetCapset,
        Request::CtxCreate,
        Request::ResourceCreate3d,
        Request::ResourceAttachBacking,
        Request::CtxAttachResource,
        Request::Submit3d,
        Request::ResourceCreate2d,
        Request::CtxDetachResource,
        Request::ResourceDetachBacking,
        Request::ResourceUnref,
        Request::CtxDestroy,
    ];
    for request in Request::ALL.iter().filter(|request| !done.contains(request)) {
        steps.request(*request, &[0; 64]);
    }
    steps.request(Request::CtxDetachResource, named(9).as_bytes());
    steps.message(&ToBroker::RegionRemoved { context: 1, region: 9 });
    steps.request(Request::CtxAttachResource, named(9).as_bytes());
    steps.request(Request::ResourceDetachBacking, named(9).as_bytes());
    steps.message(&ToBroker::RegionRemoved { context: 1, region: 9 });
    steps.request(Request::ResourceUnref, named(9).as_bytes());
    steps.request(Request::ResourceUnref, named(2).as_bytes());
    steps.request(Request::CtxDestroy, &[]);
    steps.message(&ToBroker::ContextDestroyed { context: 1, usage: ContextUsage::default() });
    steps.bytes
}

fn hostile_executor() -> Vec<u8> {
    let mut steps = Steps::default();
    let removed = ToBroker::RegionRemoved { context: 1, region: 3 };
    let destroyed = ToBroker::ContextDestroyed { context: 1, usage: ContextUsage::default() };
    steps.context_and_region(3);
    steps.message(&removed);
    steps.message(&destroyed);
    steps.message(&ToBroker::ContextFailed { context: 1, reason: "no\nreason".into() });
    steps.request(Request::ResourceUnref, named(3).as_bytes());
    steps.request(Request::CtxDestroy, &[]);
    // It lets go of nothing: after 30 s it is killed.
    steps.step(&Step::Tick(29_999));
    steps.step(&Step::Tick(1));
    steps.context_and_region(3);
    steps.request(Request::CtxDestroy, &[]);
    steps.message(&destroyed);
    steps.message(&destroyed);
    steps.message(&removed);
    // Bytes that are no message.
    steps.step(&Step::Message([0xff; 9][..].into()));
    steps.bytes
}

fn every_message() -> Vec<u8> {
    let messages = [
        ToBroker::Ready { devices: vec!["a device".into(), String::new()] },
        ToBroker::NoDevice { reason: "none".into() },
        ToBroker::ContextFailed { context: 1, reason: "malformed frame".into() },
        ToBroker::RegionRemoved { context: 1, region: 300 },
        ToBroker::ContextDestroyed {
            context: 1,
            usage: ContextUsage { commands: u64::MAX, ..Default::default() },
        },
        ToBroker::Quiesced,
    ];
    let mut bytes = Vec::new();
    for message in &messages {
        let message = postcard::to_stdvec(message).unwrap();
        bytes.extend((message.len() as u32).to_le_bytes());
        bytes.extend(message);
    }
    bytes
}
