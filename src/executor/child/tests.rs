//! Contexts on the null backend: what a guest may do, and one test for each way in which it may not.

use paragpu_protocol::command::{
    BuildProgram, CopyBuffer, CopyBufferRect, CreateBuffer, CreateContext, CreateQueue, CreateSubBuffer,
    CreateUserEvent, EnqueueKernel, FillBuffer, Finish, GetInfo, Marker, ReadBuffer, ReadBufferRect, Release,
    SetArgValue, SetUserEvent, WriteBuffer, WriteBufferRect,
};
use paragpu_protocol::fault::Fault;
use paragpu_protocol::info::InfoKind;
use paragpu_protocol::types::{Create, Enqueue, SlotRef, Span};
use zerocopy::little_endian::U32;

use super::record::ArgRecord;
use super::rig::{
    BUFFER, CONTEXT, DEVICE_QUEUE, EVENT, IMAGE, KERNEL, PIPE, PROGRAM, QUEUE, REGION, Rig, SAMPLER, SIZE,
    create, dim, fault, launch, local, object, silent, span,
};

mod kept;
pub(super) mod programs;

#[test]
fn data_survives_the_way_through_a_buffer() {
    let mut rig = Rig::new();
    let write =
        WriteBuffer { enqueue: silent(), buffer: BUFFER.into(), offset: 10.into(), ..WriteBuffer::default() };
    rig.run(&write, &[], b"hello").unwrap();
    let enqueue = rig.enqueue();
    let read = ReadBuffer {
        enqueue,
        buffer: BUFFER.into(),
        offset: 8.into(),
        dst: span(9),
        ..ReadBuffer::default()
    };
    rig.run(&read, &[], &[]).unwrap();
    assert_eq!(rig.status(enqueue.slot), 0);
    let mut bytes = [0xff; 9];
    assert!(rig.memory.read(32768, &mut bytes));
    assert_eq!(&bytes, b"\0\0hello\0\0");
    assert_eq!((rig.context.usage().bytes_written, rig.context.usage().bytes_read), (5, 9));
    // What came in the command was copied out of the ring, kept, and written; what was read went straight to the guest.
    assert_eq!((rig.context.usage().copies, rig.context.usage().bytes_copied), (3 + 1, 3 * 5 + 9));
}

#[test]
fn ids_that_are_zero_taken_or_unknown_are_faults() {
    for id in [0, CONTEXT, KERNEL] {
        let body = CreateUserEvent { create: create(id, CONTEXT) };
        assert_eq!(fault(&body, &[], &[]), Some(Fault::IdInUse));
    }
    let marker = |event: u32| Marker { enqueue: Enqueue { event: event.into(), ..silent() } };
    assert_eq!(fault(&marker(BUFFER), &[], &[]), Some(Fault::IdInUse));
    assert_eq!(fault(&marker(99), &[EVENT], &[]), None);
    for id in [0, 99] {
        assert_eq!(
            fault(&Release { id: id.into(), reserved: U32::ZERO }, &[], &[]),
            Some(Fault::UnknownObject)
        );
        assert_eq!(fault(&marker(0), &[id], &[]), Some(Fault::UnknownObject));
    }
}

#[test]
fn objects_of_another_kind_are_unknown() {
    let unknown = Some(Fault::UnknownObject);
    assert_eq!(fault(&CreateUserEvent { create: create(99, QUEUE) }, &[], &[]), unknown);
    assert_eq!(fault(&Marker { enqueue: Enqueue { queue: BUFFER.into(), ..silent() } }, &[], &[]), unknown);
    assert_eq!(fault(&Marker { enqueue: silent() }, &[KERNEL], &[]), unknown);
    assert_eq!(fault(&object(2, PROGRAM), &[], &[]), unknown);
    let read = ReadBuffer { enqueue: silent(), buffer: QUEUE.into(), dst: span(1), ..ReadBuffer::default() };
    assert_eq!(fault(&read, &[], &[]), unknown);
    assert_eq!(fault(&EnqueueKernel { kernel: PROGRAM.into(), ..launch(silent()) }, &[], &[]), unknown);
}

#[test]
fn an_argument_is_set_only_to_what_it_is() {
    let value = |index: u32| SetArgValue { kernel: KERNEL.into(), index: index.into(), reply: SlotRef::NONE };
    assert_eq!(fault(&value(0), &[], &[0; 4]), None);
    assert_eq!(fault(&value(1), &[], &[0; 100]), None);
    // Bytes for a buffer would be a pointer of the guest's choice.
    for index in [2, 3, 4, 5, 6, 7, 8, u32::MAX] {
        assert_eq!(fault(&value(index), &[], &[0x41; 8]), Some(Fault::BadValue), "{index}");
    }
    for len in [0, 3, 8] {
        assert_eq!(fault(&value(0), &[], &vec![0; len]), Some(Fault::BadValue), "{len}");
    }
    assert_eq!(fault(&object(2, 0), &[], &[]), None);
    for index in [0, 1, 3, 99] {
        assert_eq!(fault(&object(index, BUFFER), &[], &[]), Some(Fault::BadValue), "{index}");
    }
    assert_eq!(fault(&object(4, IMAGE), &[], &[]), None);
    assert_eq!(fault(&object(5, SAMPLER), &[], &[]), None);
    assert_eq!(fault(&object(6, PIPE), &[], &[]), None);
    assert_eq!(fault(&object(7, DEVICE_QUEUE), &[], &[]), None);
    // Each only with an object of its kind, and only a buffer may be none.
    let others = [(2, PIPE), (6, BUFFER), (6, 0), (7, QUEUE), (7, 0)];
    for (index, id) in
        [(2, IMAGE), (4, BUFFER), (4, SAMPLER), (4, 0), (5, IMAGE), (5, 0)].into_iter().chain(others)
    {
        assert_eq!(fault(&object(index, id), &[], &[]), Some(Fault::UnknownObject), "{index}: {id}");
    }
    for index in [0, 2, 4, 99] {
        assert_eq!(fault(&local(index), &[], &[]), Some(Fault::BadValue), "{index}");
    }
}

#[test]
fn a_kernel_with_unset_arguments_does_not_reach_the_device() {
    let mut rig = Rig::new();
    let enqueue = rig.enqueue();
    rig.run(&launch(enqueue), &[], &[]).unwrap();
    assert_eq!(rig.status(enqueue.slot), -52);
    rig.set_all_args();
    let args = rig.context.objects.kernel(KERNEL).unwrap().state().record.args.clone();
    assert!(matches!(args[2], ArgRecord::Buffer(Some(_))));
    assert_eq!(args[3], ArgRecord::Local(64));
    assert!(matches!((&args[4], &args[5]), (ArgRecord::Image(_), ArgRecord::Sampler(_))));
    assert!(matches!((&args[6], &args[7]), (ArgRecord::Pipe(_), ArgRecord::Queue(_))));
}

#[test]
fn spans_and_slots_outside_of_their_region_are_faults() {
    let read =
        |dst: Span| ReadBuffer { enqueue: silent(), buffer: BUFFER.into(), dst, ..ReadBuffer::default() };
    assert_eq!(fault(&read(Span::new(REGION, 65536 - 10, 10)), &[], &[]), None);
    assert_eq!(fault(&read(Span::new(REGION, 65536 - 9, 10)), &[], &[]), Some(Fault::OutOfRegion));
    assert_eq!(fault(&read(Span::new(REGION, u64::MAX, 10)), &[], &[]), Some(Fault::OutOfRegion));
    assert_eq!(fault(&read(Span::new(9, 0, 10)), &[], &[]), Some(Fault::UnknownRegion));
    assert_eq!(fault(&read(Span::NONE), &[], &[]), Some(Fault::UnknownRegion));
    assert_eq!(fault(&read(Span { reserved: 1.into(), ..span(1) }), &[], &[]), Some(Fault::Reserved));
    for offset in [1, 65536, !63] {
        let slot = SlotRef::new(REGION, offset);
        let finish = Finish { queue: QUEUE.into(), reserved: U32::ZERO, reply: slot };
        assert_eq!(fault(&finish, &[], &[]), Some(Fault::OutOfRegion));
    }
}

#[test]
fn transfers_outside_of_a_buffer_are_faults() {
    let bad = Some(Fault::BadValue);
    for (offset, len) in [(0, SIZE + 1), (SIZE, 1), (u64::MAX, 1)] {
        let (enqueue, buffer, offset) = (silent(), BUFFER.into(), offset.into());
        let read = ReadBuffer { enqueue, buffer, offset, dst: span(len), ..ReadBuffer::default() };
        assert_eq!(fault(&read, &[], &[]), bad);
        let write = WriteBuffer { enqueue, buffer, offset, src: span(len), ..WriteBuffer::default() };
        assert_eq!(fault(&write, &[], &[]), bad);
        let fill = FillBuffer { enqueue, buffer, offset, size: len.into(), ..FillBuffer::default() };
        assert_eq!(fault(&fill, &[], &[1]), bad);
        for (src_offset, dst_offset) in [(offset, 0.into()), (0.into(), offset)] {
            let copy =
                CopyBuffer { enqueue, src: buffer, dst: buffer, src_offset, dst_offset, size: len.into() };
            assert_eq!(fault(&copy, &[], &[]), bad);
        }
        let sub =
            CreateSubBuffer { create: create(99, BUFFER), flags: 1.into(), origin: offset, size: len.into() };
        assert_eq!(fault(&sub, &[], &[]), bad);
    }
}

#[test]
fn rectangles_outside_of_a_buffer_or_of_another_size_are_faults() {
    let rect = |origin: [u64; 3], extent: [u64; 3], pitches: (u64, u64), len: u64| WriteBufferRect {
        enqueue: silent(),
        buffer: BUFFER.into(),
        origin: dim(origin),
        extent: dim(extent),
        row_pitch: pitches.0.into(),
        slice_pitch: pitches.1.into(),
        src: span(len),
        ..WriteBufferRect::default()
    };
    assert_eq!(fault(&rect([4, 2, 1], [8, 4, 2], (16, 64), 64), &[], &[]), None);
    for bad in [
        rect([4, 2, 1], [8, 4, 2], (16, 64), 63),
        rect([4, 2, 3], [8, 4, 2], (16, 64), 64),
        rect([0, 0, 0], [0, 1, 1], (16, 64), 0),
        rect([0, 0, 0], [17, 1, 1], (16, 64), 17),
        rect([u64::MAX, 0, 0], [1, 1, 1], (16, 64), 1),
        rect([0, 0, 0], [1, 1, u64::MAX], (16, u64::MAX - 15), 1),
        rect([0, 0, 0], [1, 1, 1], (0, 0), 1),
    ] {
        assert_eq!(fault(&bad, &[], &[]), Some(Fault::BadValue), "{bad:?}");
        let read = ReadBufferRect {
            enqueue: bad.enqueue,
            buffer: bad.buffer,
            origin: bad.origin,
            extent: bad.extent,
            row_pitch: bad.row_pitch,
            slice_pitch: bad.slice_pitch,
            dst: bad.src,
            ..ReadBufferRect::default()
        };
        assert_eq!(fault(&read, &[], &[]), Some(Fault::BadValue), "{read:?}");
    }
    let copy = CopyBufferRect {
        enqueue: silent(),
        src: BUFFER.into(),
        dst: BUFFER.into(),
        extent: dim([16, 16, 1]),
        src_row_pitch: 16.into(),
        src_slice_pitch: 256.into(),
        dst_row_pitch: 17.into(),
        dst_slice_pitch: 272.into(),
        ..CopyBufferRect::default()
    };
    assert_eq!(fault(&copy, &[], &[]), Some(Fault::BadValue), "the last rows leave the target");
}

#[test]
fn values_that_no_driver_of_ours_sends_are_faults() {
    let bad = Some(Fault::BadValue);
    for flags in [1 << 3, 1 << 4, 1 << 5, 0b11, 0b11 << 7, 1 << 40] {
        let buffer = CreateBuffer {
            create: create(99, CONTEXT),
            flags: flags.into(),
            size: 1.into(),
            init: Span::NONE,
        };
        assert_eq!(fault(&buffer, &[], &[]), bad, "{flags:#x}");
    }
    let queue = CreateQueue { create: create(99, CONTEXT), ..CreateQueue::default() };
    assert_eq!(fault(&CreateQueue { properties: 4.into(), ..queue }, &[], &[]), bad);
    assert_eq!(fault(&CreateQueue { device: 1.into(), ..queue }, &[], &[]), bad);
    for hints in [0x0003, 0x0301, 0x0008, 0x0001_0000] {
        assert_eq!(fault(&CreateQueue { hints: U32::new(hints), ..queue }, &[], &[]), bad, "{hints:#x}");
    }
    assert_eq!(fault(&CreateQueue { hints: 0x0401.into(), ..queue }, &[], &[]), None);
    for devices in [&[][..], &[9, 0, 0, 0], &[0, 0, 0, 0, 0, 0, 0, 0], &[0, 0, 0]] {
        assert_eq!(fault(&CreateContext { create: create(99, 0) }, &[], devices), bad, "{devices:?}");
    }
    let fill =
        FillBuffer { enqueue: silent(), buffer: BUFFER.into(), size: 12.into(), ..FillBuffer::default() };
    for pattern in [&[0; 0][..], &[0; 3], &[0; 8]] {
        assert_eq!(fault(&fill, &[], pattern), bad, "{pattern:?}");
    }
    let good = launch(silent());
    for kernel in [
        EnqueueKernel { dims: 0.into(), ..good },
        EnqueueKernel { dims: 4.into(), ..good },
        EnqueueKernel { global: dim([64, 2, 1]), ..good },
        EnqueueKernel { offset: dim([0, 0, 1]), ..good },
        EnqueueKernel { local: dim([8, 0, 0]), ..good },
    ] {
        assert_eq!(fault(&kernel, &[], &[]), bad, "{kernel:?}");
    }
    let build = BuildProgram { program: PROGRAM.into(), ..BuildProgram::default() };
    assert_eq!(fault(&build, &[], b"-D\0X"), bad);
    assert_eq!(fault(&BuildProgram { device_count: u32::MAX.into(), ..build }, &[], b""), bad);
    let set = SetUserEvent { event: EVENT.into(), status: 1.into() };
    assert_eq!(fault(&set, &[], &[]), bad);
}

#[test]
fn more_objects_than_allowed_are_a_fault_and_hidden_ones_count() {
    let mut rig = Rig::new();
    rig.buffer(20, 16);
    rig.run(&object(2, 20), &[], &[]).unwrap();
    let live = rig.context.live_objects();
    // The kernel's argument keeps it.
    rig.run(&Release { id: 20.into(), reserved: U32::ZERO }, &[], &[]).unwrap();
    assert_eq!(rig.context.live_objects(), live);
    let hidden = rig.context.records().into_iter().filter(|record| record.id.is_none()).count();
    assert_eq!(hidden, 1);
    rig.run(&object(2, 0), &[], &[]).unwrap();
    assert_eq!(rig.context.live_objects(), live - 1);
    rig.context.objects.limit(live);
    rig.buffer(21, 16);
    let another = CreateUserEvent { create: create(22, CONTEXT) };
    assert_eq!(rig.run(&another, &[], &[]), Err(Fault::Limit));
}

#[test]
fn open_user_events_count_though_their_ids_are_given_up() {
    let mut rig = Rig::new();
    rig.context.objects.limit(rig.context.live_objects() + 8);
    let mut make = || {
        rig.run(&CreateUserEvent { create: create(50, CONTEXT) }, &[], &[])?;
        rig.run(&Release { id: 50.into(), reserved: U32::ZERO }, &[], &[])
    };
    assert!((0..8).all(|_| make().is_ok()));
    assert_eq!(make(), Err(Fault::Limit));
}

#[test]
fn a_creation_that_failed_poisons_what_uses_it() {
    let mut rig = Rig::new();
    rig.buffer(20, 1 << 40);
    let sub = CreateSubBuffer {
        create: Create { reply: rig.slot(), ..create(21, 20) },
        flags: 1.into(),
        origin: 0.into(),
        size: 16.into(),
    };
    rig.run(&sub, &[], &[]).unwrap();
    assert_eq!(rig.status(sub.create.reply), -61);
    let enqueue = Enqueue { event: 22.into(), ..rig.enqueue() };
    let read = ReadBuffer { enqueue, buffer: 21.into(), dst: span(16), ..ReadBuffer::default() };
    rig.run(&read, &[], &[]).unwrap();
    assert_eq!(rig.status(enqueue.slot), -61);
    // What waits for it fails in turn.
    let marker = Marker { enqueue: rig.enqueue() };
    rig.run(&marker, &[22], &[]).unwrap();
    assert_eq!(rig.status(marker.enqueue.slot), -14);
    let poisoned = rig.context.records().into_iter().find(|record| record.id == Some(20)).unwrap();
    assert_eq!(poisoned.poisoned, Some(-61));
}

#[test]
fn finish_reports_what_nothing_else_did_once() {
    let mut rig = Rig::new();
    rig.run(&launch(silent()), &[], &[]).unwrap();
    for expected in [-52, 0] {
        let reply = rig.slot();
        rig.run(&Finish { queue: QUEUE.into(), reserved: U32::ZERO, reply }, &[], &[]).unwrap();
        assert_eq!(rig.status(reply), expected);
    }
}

#[test]
fn launches_are_checked_against_the_device() {
    let mut rig = Rig::new();
    rig.set_all_args();
    let mut status = |change: &dyn Fn(&mut EnqueueKernel)| {
        let mut body = launch(rig.enqueue());
        change(&mut body);
        rig.run(&body, &[], &[]).unwrap();
        rig.status(body.enqueue.slot)
    };
    assert_eq!(status(&|_| {}), 0);
    assert_eq!(status(&|body| body.local = dim([2048, 1, 1])), -55);
    assert_eq!(
        status(&|body| {
            body.dims = 2.into();
            body.local = dim([64, 64, 1]);
        }),
        -54
    );
    assert_eq!(status(&|body| body.offset = dim([u64::MAX, 0, 0])), -56);
    assert_eq!(
        status(&|body| {
            body.dims = 3.into();
            body.global = dim([1 << 40, 1 << 40, 1]);
        }),
        -63
    );
}

#[test]
fn copies_that_overlap_are_refused_also_through_sub_buffers() {
    let mut rig = Rig::new();
    let sub =
        CreateSubBuffer { create: create(20, BUFFER), flags: 1.into(), origin: 128.into(), size: 128.into() };
    rig.run(&sub, &[], &[]).unwrap();
    let mut copy = |src: u32, from: u64, dst: u32, to: u64, size: u64| {
        let enqueue = rig.enqueue();
        let body = CopyBuffer {
            enqueue,
            src: src.into(),
            dst: dst.into(),
            src_offset: from.into(),
            dst_offset: to.into(),
            size: size.into(),
        };
        rig.run(&body, &[], &[]).unwrap();
        rig.status(enqueue.slot)
    };
    assert_eq!(copy(BUFFER, 0, BUFFER, 16, 16), 0);
    assert_eq!(copy(BUFFER, 0, BUFFER, 15, 16), -8);
    assert_eq!(copy(BUFFER, 120, 20, 0, 9), -8);
    assert_eq!(copy(BUFFER, 120, 20, 0, 8), 0);
}

#[test]
fn answers_are_cut_to_the_room_and_say_how_long_they_are() {
    let mut rig = Rig::new();
    assert!(rig.memory.write(32768, &[0xee; 16]));
    let ask = GetInfo {
        kind: (InfoKind::Device as u32).into(),
        param: 0x102b.into(),
        dst: span(4),
        reply: rig.slot(),
        ..GetInfo::default()
    };
    rig.run(&ask, &[], &[]).unwrap();
    assert_eq!(rig.peek(ask.reply).unwrap().len.get() as usize, "null 0x102b\0".len());
    let mut bytes = [0; 6];
    assert!(rig.memory.read(32768, &mut bytes));
    assert_eq!(&bytes, b"null\xee\xee");
    for (kind, param) in [(2, 0x1031), (99, 0), (5, 0x1193)] {
        let body = GetInfo { kind: U32::new(kind), param: U32::new(param), reply: rig.slot(), ..ask };
        rig.run(&body, &[], &[]).unwrap();
        assert_eq!(rig.status(body.reply), -30);
    }
}

#[test]
fn records_survive_being_written_down() {
    let mut rig = Rig::new();
    rig.set_all_args();
    let records = rig.context.records();
    let bytes = postcard::to_allocvec(&records).unwrap();
    assert_eq!(postcard::from_bytes::<Vec<super::record::ObjectRecord>>(&bytes).unwrap(), records);
    assert_eq!(records.len(), 10);
}

#[test]
fn a_context_that_is_torn_down_leaves_nothing() {
    let mut rig = Rig::new();
    rig.set_all_args();
    rig.context.tear_down();
    assert_eq!(rig.context.live_objects(), 0);
}
