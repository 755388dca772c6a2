//! Does an executor compute what OpenCL says, on the host's real OpenCL? Without one these tests fail.

mod executor_guest;

use executor_guest::session::{ADD, Session, dim};
use paragpu_protocol::command::{
    CopyBuffer, CopyBufferRect, CreateBuffer, CreateKernel, CreateSubBuffer, CreateUserEvent, FillBuffer,
    GetInfo, Marker, ReadBufferRect, Release, SetArgLocal, SetArgValue, WriteBuffer, WriteBufferRect,
};
use paragpu_protocol::info::{DEVICE_COUNT, InfoKind};
use paragpu_protocol::kernel::{ArgInfo, ArgKind, KernelInfo};
use paragpu_protocol::types::{Create, Enqueue, SlotRef, Span};
use zerocopy::FromBytes;
use zerocopy::little_endian::U32;

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
}

fn bytes(floats: &[f32]) -> Vec<u8> {
    floats.iter().flat_map(|float| float.to_le_bytes()).collect()
}

#[test]
fn a_vector_sum_is_what_the_cpu_makes_of_it() {
    let mut it = Session::new(0);
    let kernel = it.kernel(ADD, "add");
    const COUNT: usize = 10_000;
    let a: Vec<f32> = (0..COUNT).map(|i| i as f32).collect();
    let b: Vec<f32> = (0..COUNT).map(|i| (i % 17) as f32).collect();
    let size = 4 * COUNT as u64;
    let buffers = [it.buffer(size), it.buffer(size), it.buffer(size)];
    it.write(buffers[0], &bytes(&a));
    it.write(buffers[1], &bytes(&b));
    for (index, buffer) in buffers.into_iter().enumerate() {
        it.set_buffer(kernel, index as u32, buffer);
    }
    let reply = it.guest.slot();
    let body = SetArgValue { kernel: kernel.into(), index: 3.into(), reply };
    it.guest.send(&body, &[], &2.0_f32.to_le_bytes());
    it.launch(kernel, COUNT as u64, Enqueue { queue: it.queue.into(), ..Enqueue::default() }, &[]);
    assert_eq!(it.finish(), 0);
    let sum = floats(&it.read(buffers[2], 0, size));
    let expected: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + 2.0 * b).collect();
    assert_eq!(sum, expected);
    assert_eq!(it.destroy(), 1);
}

#[test]
fn fresh_buffers_are_zero_and_fills_copies_and_rectangles_land_where_they_should() {
    let mut it = Session::new(0);
    let (a, b) = (it.buffer(256), it.buffer(256));
    assert_eq!(it.read(a, 0, 256), vec![0; 256]);
    let enqueue = Enqueue { queue: it.queue.into(), ..Enqueue::default() };
    let fill =
        FillBuffer { enqueue, buffer: a.into(), offset: 16.into(), size: 8.into(), ..FillBuffer::default() };
    it.guest.send(&fill, &[], &[1, 2, 3, 4]);
    let copy = CopyBuffer {
        enqueue,
        src: a.into(),
        dst: b.into(),
        src_offset: 16.into(),
        dst_offset: 100.into(),
        size: 8.into(),
    };
    it.guest.send(&copy, &[], &[]);
    assert_eq!(it.read(b, 100, 8), [1, 2, 3, 4, 1, 2, 3, 4]);

    // Two rows of three bytes, at (5, 1) of rows of 16.
    it.guest.write(0, b"abcdef");
    let place = |enqueue, buffer: u32, src| WriteBufferRect {
        enqueue,
        buffer: buffer.into(),
        origin: dim([5, 1, 0]),
        extent: dim([3, 2, 1]),
        row_pitch: 16.into(),
        slice_pitch: 256.into(),
        src,
        ..WriteBufferRect::default()
    };
    let (slot, src) = (it.guest.enqueue(it.queue, 0), it.guest.span(0, 6));
    it.guest.send(&place(slot, a, src), &[], &[]);
    it.guest.done(slot.slot);
    assert_eq!(it.read(a, 21, 3), b"abc");
    assert_eq!(it.read(a, 37, 3), b"def");
    let copy = CopyBufferRect {
        enqueue,
        src: a.into(),
        dst: b.into(),
        src_origin: dim([5, 1, 0]),
        dst_origin: dim([1, 0, 0]),
        extent: dim([3, 2, 1]),
        src_row_pitch: 16.into(),
        src_slice_pitch: 256.into(),
        dst_row_pitch: 8.into(),
        dst_slice_pitch: 256.into(),
    };
    it.guest.send(&copy, &[], &[]);
    let (slot, dst) = (it.guest.enqueue(it.queue, 0), it.guest.span(64, 6));
    let read = ReadBufferRect {
        enqueue: slot,
        buffer: b.into(),
        origin: dim([1, 0, 0]),
        extent: dim([3, 2, 1]),
        row_pitch: 8.into(),
        slice_pitch: 256.into(),
        dst,
        ..ReadBufferRect::default()
    };
    it.guest.send(&read, &[], &[]);
    it.guest.done(slot.slot);
    assert_eq!(it.guest.read(64, 6), b"abcdef");
    it.destroy();
}

#[test]
fn first_contents_inline_data_and_sub_buffers() {
    let mut it = Session::new(0);
    it.guest.write(0, &[7; 4096]);
    let (buffer, create) = it.guest.create(it.context);
    let init = it.guest.span(0, 4096);
    it.guest.send(&CreateBuffer { create, flags: 1.into(), size: 4096.into(), init }, &[], &[]);
    it.guest.done(create.reply);
    let (sub, create) = it.guest.create(buffer);
    let body = CreateSubBuffer { create, flags: 1.into(), origin: 2048.into(), size: 1024.into() };
    it.guest.send(&body, &[], &[]);
    it.guest.done(create.reply);
    let enqueue = Enqueue { queue: it.queue.into(), ..Enqueue::default() };
    let write = WriteBuffer { enqueue, buffer: sub.into(), offset: 10.into(), ..WriteBuffer::default() };
    it.guest.send(&write, &[], b"inline");
    assert_eq!(it.read(buffer, 2057, 8), b"\x07inline\x07");
    it.destroy();
}

#[test]
fn a_profiling_queue_reports_times_in_order() {
    let mut it = Session::new(1 << 1);
    let kernel = it.kernel(ADD, "add");
    let buffer = it.buffer(4096);
    for index in 0..3 {
        it.set_buffer(kernel, index, buffer);
    }
    let reply = SlotRef::NONE;
    it.guest.send(&SetArgValue { kernel: kernel.into(), index: 3.into(), reply }, &[], &[0; 4]);
    let enqueue = it.guest.enqueue(it.queue, 0);
    it.launch(kernel, 1024, enqueue, &[]);
    let times = it.guest.done(enqueue.slot).profile.map(|time| time.get());
    assert!(times.is_sorted() && times[0] != 0 && times[3] > times[2], "{times:?}");
    it.destroy();
}

#[test]
fn a_command_waits_for_its_user_event() {
    let mut it = Session::new(0);
    let buffer = it.buffer(16);
    let gate = it.user_event();
    let second = it.guest.id();
    let enqueue = it.guest.enqueue(it.queue, second);
    let body = WriteBuffer { enqueue, buffer: buffer.into(), ..WriteBuffer::default() };
    it.guest.send(&body, &[gate], b"through the gate");
    std::thread::sleep(std::time::Duration::from_millis(30));
    assert!(!it.guest.is_done(enqueue.slot));
    it.set_event(gate, 0);
    it.guest.done(enqueue.slot);
    assert_eq!(it.read(buffer, 0, 16), b"through the gate");
    // An event that is complete holds nothing back, and an id that is released can be used again.
    it.guest.send(&Release { id: gate.into(), reserved: U32::ZERO }, &[], &[]);
    let create = Create { id: gate.into(), parent: it.context.into(), reply: it.guest.slot() };
    it.guest.send(&CreateUserEvent { create }, &[], &[]);
    it.guest.done(create.reply);
    let marker = it.guest.enqueue(it.queue, 0);
    it.guest.send(&Marker { enqueue: marker }, &[second], &[]);
    it.guest.done(marker.slot);
    it.destroy();
}

#[test]
fn a_user_event_that_fails_takes_its_waiters_along() {
    let mut it = Session::new(0);
    let gate = it.user_event();
    let enqueue = it.guest.enqueue(it.queue, 0);
    it.guest.send(&Marker { enqueue }, &[gate], &[]);
    it.set_event(gate, -5);
    assert!(it.guest.wait(enqueue.slot).status.get() < 0);
    it.destroy();
}

#[test]
fn a_program_that_does_not_build_says_why() {
    let mut it = Session::new(0);
    let (program, status) = it.program("kernel void k(global int *a) { *a = undeclared_thing; }");
    assert_eq!(status, -11, "CL_BUILD_PROGRAM_FAILURE");
    let reply = it.guest.slot();
    let mut ask = GetInfo {
        kind: (InfoKind::ProgramBuild as u32).into(),
        object: program.into(),
        param: 0x1183.into(),
        index: 0.into(),
        dst: it.guest.span(0, 4096),
        reply,
    };
    it.guest.send(&ask, &[], &[]);
    let len = it.guest.done(reply).len.get() as usize;
    let log = it.guest.read(0, len.min(4096));
    assert!(String::from_utf8_lossy(&log).contains("undeclared_thing"), "{log:?}");
    // The options are the guest's own.
    ask.param = 0x1182.into();
    ask.reply = it.guest.slot();
    it.guest.send(&ask, &[], &[]);
    assert_eq!(it.guest.done(ask.reply).len.get(), 12);
    assert_eq!(it.guest.read(0, 12), b"-DBY_TEST=1\0");
    // A kernel of it is poisoned, and so is its launch.
    let (kernel, create) = it.guest.create(program);
    it.guest.send(&CreateKernel { create, info: Span::NONE }, &[], b"k");
    let error = it.guest.wait(create.reply).status.get();
    assert!(error < 0);
    let enqueue = it.guest.enqueue(it.queue, 0);
    it.launch(kernel, 1, enqueue, &[]);
    assert_eq!(it.guest.wait(enqueue.slot).status.get(), error);
    it.destroy();
}

#[test]
fn errors_that_nobody_waits_for_are_reported_by_finish_once() {
    let mut it = Session::new(0);
    let kernel = it.kernel(ADD, "add");
    let silent = Enqueue { queue: it.queue.into(), ..Enqueue::default() };
    it.launch(kernel, 16, silent, &[]);
    assert_eq!(it.finish(), -52, "CL_INVALID_KERNEL_ARGS");
    assert_eq!(it.finish(), 0);
    // With a slot, the slot has it and Finish has not.
    let enqueue = it.guest.enqueue(it.queue, 0);
    it.launch(kernel, 16, enqueue, &[]);
    assert_eq!(it.guest.wait(enqueue.slot).status.get(), -52);
    assert_eq!(it.finish(), 0);
    it.destroy();
}

#[test]
fn a_kernel_says_what_its_arguments_are() {
    let mut it = Session::new(0);
    let source = "typedef struct { int a, b; } pair;
        kernel void k(global int *a, constant float *b, local int *c, int d, float3 e, pair f) {
            c[0] = d; a[0] = (int)(b[0] + e.x) + f.a + f.b + c[0];
        }";
    let (program, status) = it.program(source);
    assert_eq!(status, 0);
    let (kernel, create) = it.guest.create(program);
    let info = it.guest.span(0, 1024);
    it.guest.send(&CreateKernel { create, info }, &[], b"k");
    let len = it.guest.done(create.reply).len.get() as usize;
    let answer = it.guest.read(0, len);
    let (info, args) = KernelInfo::read_from_prefix(&answer).unwrap();
    assert_eq!(info.num_args.get(), 6);
    let args: Vec<(Option<ArgKind>, u32)> = args
        .chunks_exact(size_of::<ArgInfo>())
        .map(|arg| ArgInfo::read_from_bytes(arg).unwrap())
        .map(|arg| (ArgKind::from_wire(arg.kind), arg.size.get()))
        .collect();
    let expected = [
        (Some(ArgKind::Buffer), 0),
        (Some(ArgKind::Buffer), 0),
        (Some(ArgKind::Local), 0),
        (Some(ArgKind::Value), 4),
        (Some(ArgKind::Value), 16),
        (Some(ArgKind::Value), 0),
    ];
    assert_eq!(args, expected);

    let (a, b) = (it.buffer(16), it.buffer(16));
    it.write(b, &bytes(&[10.0, 0.0, 0.0, 0.0]));
    it.set_buffer(kernel, 0, a);
    it.set_buffer(kernel, 1, b);
    it.guest.send(&SetArgLocal { kernel: kernel.into(), index: 2.into(), size: 64.into() }, &[], &[]);
    let mut value = |index: u32, bytes: &[u8]| {
        let reply = it.guest.slot();
        it.guest.send(&SetArgValue { kernel: kernel.into(), index: index.into(), reply }, &[], bytes);
        it.guest.done(reply);
    };
    value(3, &1_i32.to_le_bytes());
    value(4, &bytes(&[2.0; 4]));
    value(5, &[3, 0, 0, 0, 4, 0, 0, 0]);
    // A buffer that is released is used on by the kernel that it is set for.
    it.guest.send(&Release { id: b.into(), reserved: U32::ZERO }, &[], &[]);
    let enqueue = it.guest.enqueue(it.queue, 0);
    it.launch(kernel, 1, enqueue, &[]);
    it.guest.done(enqueue.slot);
    assert_eq!(it.read(a, 0, 4), 20_i32.to_le_bytes());
    it.destroy();
}

#[test]
fn the_host_answers_questions_about_itself_but_gives_no_handles_out() {
    let mut it = Session::new(0);
    let mut ask = |kind: InfoKind, param: u32| {
        let reply = it.guest.slot();
        let dst = it.guest.span(0, 4096);
        let body =
            GetInfo { kind: (kind as u32).into(), param: param.into(), dst, reply, ..GetInfo::default() };
        it.guest.send(&body, &[], &[]);
        let slot = it.guest.wait(reply);
        (slot.status.get(), it.guest.read(0, slot.len.get() as usize))
    };
    let (status, count) = ask(InfoKind::Device, DEVICE_COUNT);
    assert_eq!(status, 0);
    assert!(count[0] >= 1);
    let (status, name) = ask(InfoKind::Device, 0x102b);
    assert_eq!(status, 0);
    assert!(name.len() > 1 && name.ends_with(&[0]));
    assert_eq!(ask(InfoKind::Device, 0x1031).0, -30, "CL_DEVICE_PLATFORM");
    assert_eq!(ask(InfoKind::Device, 0xffff_ffff).0, -30);
    it.destroy();
}
