//! A context on the null backend with one object of each kind, for the tests of what a guest may do.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use paragpu_protocol::command::{
    Body, BuildProgram, CreateBuffer, CreateContext, CreateDeviceQueue, CreateImage, CreateKernel,
    CreatePipe, CreateProgram, CreateQueue, CreateSampler, CreateUserEvent, EnqueueKernel, Release,
    SetArgLocal, SetArgObject, SetArgValue,
};
use paragpu_protocol::fault::Fault;
use paragpu_protocol::image::{ImageFormat, ImageShape, ImageType};
use paragpu_protocol::limits::MAX_FRAME_BYTES;
use paragpu_protocol::slot::{DONE, Slot};
use paragpu_protocol::types::{Create, Dim3, Enqueue, SlotRef, Span};
use zerocopy::FromBytes;
use zerocopy::little_endian::U32;

use super::backend::null::{KERNEL_NAME, Null};
use super::builds::Builds;
use super::context::Context;
use super::region::Regions;
use crate::sys::map::Mapping;

pub(super) const REGION: u32 = 5;
pub(super) const CONTEXT: u32 = 1;
pub(super) const QUEUE: u32 = 2;
pub(super) const BUFFER: u32 = 3;
pub(super) const PROGRAM: u32 = 4;
pub(super) const KERNEL: u32 = 6;
pub(super) const EVENT: u32 = 7;
pub(super) const IMAGE: u32 = 8;
pub(super) const SAMPLER: u32 = 9;
pub(super) const PIPE: u32 = 10;
pub(super) const DEVICE_QUEUE: u32 = 11;
pub(super) const SIZE: u64 = 256;

pub(super) struct Rig {
    pub(super) context: Context<Null>,
    pub(super) memory: Arc<Mapping>,
    next_slot: AtomicU32,
}

pub(super) fn span(len: u64) -> Span {
    Span::new(REGION, 32768, len)
}

pub(super) fn create(id: u32, parent: u32) -> Create {
    Create { id: id.into(), parent: parent.into(), reply: SlotRef::NONE }
}

pub(super) fn dim(numbers: [u64; 3]) -> Dim3 {
    numbers.map(Into::into)
}

/// A 2D image of four by three elements of four bytes, with memory of its own.
pub(super) fn image(id: u32) -> CreateImage {
    CreateImage {
        create: create(id, CONTEXT),
        flags: 1.into(),
        format: ImageFormat::new(0x10b5, 0x10d2),
        kind: (ImageType::Image2d as u32).into(),
        shape: ImageShape { width: 4.into(), height: 3.into(), ..ImageShape::default() },
        ..CreateImage::default()
    }
}

pub(super) fn sampler(id: u32) -> CreateSampler {
    CreateSampler {
        create: create(id, CONTEXT),
        addressing: 0x1131.into(),
        filter: 0x1140.into(),
        ..CreateSampler::default()
    }
}

pub(super) fn pipe(id: u32) -> CreatePipe {
    CreatePipe { create: create(id, CONTEXT), packet_size: 4.into(), max_packets: 16.into() }
}

/// On the first device, and not its default.
pub(super) fn device_queue(id: u32) -> CreateDeviceQueue {
    CreateDeviceQueue {
        create: create(id, CONTEXT),
        properties: 0b101.into(),
        ..CreateDeviceQueue::default()
    }
}

impl Rig {
    pub(super) fn empty(builds: Builds) -> Rig {
        let memory = Arc::new(Mapping::anonymous(65536).unwrap());
        let regions = Arc::new(Regions::default());
        regions.add(REGION, memory.clone());
        Rig {
            context: Context::new(Arc::new(Null::new(2)), regions, builds),
            memory,
            next_slot: AtomicU32::new(0),
        }
    }

    /// One object of each kind.
    pub(super) fn new() -> Rig {
        let mut rig = Rig::empty(Builds::inline());
        rig.prepare();
        rig.run(&BuildProgram { program: PROGRAM.into(), ..BuildProgram::default() }, &[], b"").unwrap();
        let kernel = CreateKernel { create: create(KERNEL, PROGRAM), info: Span::NONE };
        rig.run(&kernel, &[], KERNEL_NAME.as_bytes()).unwrap();
        rig
    }

    pub(super) fn prepare(&mut self) {
        self.run(&CreateContext { create: create(CONTEXT, 0) }, &[], &[0; 4]).unwrap();
        self.run(&CreateQueue { create: create(QUEUE, CONTEXT), ..CreateQueue::default() }, &[], &[])
            .unwrap();
        self.buffer(BUFFER, SIZE);
        let program = CreateProgram { create: create(PROGRAM, CONTEXT), source: Span::NONE };
        self.run(&program, &[], b"source").unwrap();
        self.run(&CreateUserEvent { create: create(EVENT, CONTEXT) }, &[], &[]).unwrap();
        self.run(&image(IMAGE), &[], &[]).unwrap();
        self.run(&sampler(SAMPLER), &[], &[]).unwrap();
        self.run(&pipe(PIPE), &[], &[]).unwrap();
        self.run(&device_queue(DEVICE_QUEUE), &[], &[]).unwrap();
    }

    pub(super) fn buffer(&mut self, id: u32, size: u64) {
        let body = CreateBuffer {
            create: create(id, CONTEXT),
            flags: 1.into(),
            size: size.into(),
            init: Span::NONE,
        };
        self.run(&body, &[], &[]).unwrap();
    }

    pub(super) fn run<C: Body>(&mut self, body: &C, wait: &[u32], data: &[u8]) -> Result<(), Fault> {
        let mut frame = vec![0; MAX_FRAME_BYTES as usize];
        let len = body.encode(&mut frame, wait, data).unwrap();
        self.context.execute(&frame[..len])
    }

    pub(super) fn slot(&self) -> SlotRef {
        SlotRef::new(REGION, self.next_slot.fetch_add(64, Ordering::Relaxed))
    }

    pub(super) fn enqueue(&self) -> Enqueue {
        Enqueue { queue: QUEUE.into(), event: U32::ZERO, slot: self.slot() }
    }

    pub(super) fn peek(&self, slot: SlotRef) -> Option<Slot> {
        let mut bytes = [0; 64];
        assert!(self.memory.read(slot.offset.get() as usize, &mut bytes));
        let slot = Slot::read_from_bytes(&bytes).unwrap();
        (slot.state.get() == DONE).then_some(slot)
    }

    pub(super) fn status(&self, slot: SlotRef) -> i32 {
        self.peek(slot).expect("a slot that is done").status.get()
    }

    pub(super) fn set_all_args(&mut self) {
        let value =
            |index: u32| SetArgValue { kernel: KERNEL.into(), index: index.into(), reply: SlotRef::NONE };
        self.run(&value(0), &[], &[0; 4]).unwrap();
        self.run(&value(1), &[], &[0; 24]).unwrap();
        self.run(&object(2, BUFFER), &[], &[]).unwrap();
        self.run(&local(3), &[], &[]).unwrap();
        self.run(&object(4, IMAGE), &[], &[]).unwrap();
        self.run(&object(5, SAMPLER), &[], &[]).unwrap();
        self.run(&object(6, PIPE), &[], &[]).unwrap();
        self.run(&object(7, DEVICE_QUEUE), &[], &[]).unwrap();
    }
}

pub(super) fn object(index: u32, object: u32) -> SetArgObject {
    SetArgObject { kernel: KERNEL.into(), index: index.into(), object: object.into(), reserved: U32::ZERO }
}

pub(super) fn local(index: u32) -> SetArgLocal {
    SetArgLocal { kernel: KERNEL.into(), index: index.into(), size: 64.into() }
}

pub(super) fn launch(enqueue: Enqueue) -> EnqueueKernel {
    EnqueueKernel {
        enqueue,
        kernel: KERNEL.into(),
        dims: 1.into(),
        global: dim([64, 1, 1]),
        ..EnqueueKernel::default()
    }
}

/// Runs one command on a fresh rig.
pub(super) fn fault<C: Body>(body: &C, wait: &[u32], data: &[u8]) -> Option<Fault> {
    let mut rig = Rig::new();
    let fault = rig.run(body, wait, data).err();
    assert_eq!(rig.context.fault(), fault);
    if fault.is_some() {
        assert_eq!(rig.run(&Release { id: EVENT.into(), reserved: U32::ZERO }, &[], &[]).err(), fault);
    }
    fault
}

pub(super) fn silent() -> Enqueue {
    Enqueue { queue: QUEUE.into(), ..Enqueue::default() }
}
