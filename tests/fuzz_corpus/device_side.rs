//! Frames about pipes and queues on the device, for the seed with every command.

use paragpu_protocol::command::{
    BuildProgram, CreateDeviceQueue, CreateKernel, CreatePipe, CreateProgram, SetArgObject, SetDefaultQueue,
};
use paragpu_protocol::types::Span;

use super::{CONTEXT, Frames, create, slot};

const PIPE: u32 = 150;
const DEVICE_QUEUE: u32 = 151;
const SOURCE: u32 = 152;
const KERNEL: u32 = 153;

/// Makes one of each, and a kernel that has both.
pub(super) fn add(frames: &mut Frames) {
    let pipe = CreatePipe { create: create(PIPE, CONTEXT), packet_size: 4.into(), max_packets: 64.into() };
    frames.add(&pipe, &[], &[]);
    let queue = CreateDeviceQueue {
        create: create(DEVICE_QUEUE, CONTEXT),
        size: 4096.into(),
        properties: 0b1101.into(),
        ..CreateDeviceQueue::default()
    };
    frames.add(&queue, &[], &[]);
    frames.add(&SetDefaultQueue { queue: DEVICE_QUEUE.into(), ..SetDefaultQueue::default() }, &[], &[]);
    let program = CreateProgram { create: create(SOURCE, CONTEXT), source: Span::NONE };
    frames.add(&program, &[], b"kernel void g(read_only pipe int a, queue_t b) {}");
    frames.add(
        &BuildProgram { program: SOURCE.into(), reply: slot(150), ..BuildProgram::default() },
        &[],
        b"",
    );
    frames.add(&CreateKernel { create: create(KERNEL, SOURCE), info: Span::NONE }, &[], b"g");
    for (index, object) in [(0_u32, PIPE), (1, DEVICE_QUEUE)] {
        let kernel = KERNEL.into();
        let set =
            SetArgObject { kernel, index: index.into(), object: object.into(), ..SetArgObject::default() };
        frames.add(&set, &[], &[]);
    }
}
