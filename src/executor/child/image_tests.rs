//! Images on the null backend: what a guest may do with them, and one test for each way in which it may not.

use paragpu_protocol::command::{
    CopyBufferToImage, CopyImage, CopyImageToBuffer, CreateBuffer, CreateContext, CreateImage, CreateSampler,
    CreateSharedBuffer, FillImage, GetImageFormats, GetInfo, ReadImage, Release, ReleaseShared, WriteImage,
};
use paragpu_protocol::fault::Fault;
use paragpu_protocol::image::{ImageFormat, ImageShape, ImageType};
use paragpu_protocol::info::InfoKind;
use paragpu_protocol::limits::MAX_IMAGE_DEPTH;
use paragpu_protocol::types::Span;

use super::record::{ImageRecord, Record};
use super::rig::{
    BUFFER, CONTEXT, IMAGE, QUEUE, REGION, Rig, SIZE, create, dim, fault, image, object, sampler, silent,
    span,
};

const BAD: Option<Fault> = Some(Fault::BadValue);

fn shape(sizes: [u64; 4]) -> ImageShape {
    let [width, height, depth, array_size] = sizes.map(Into::into);
    ImageShape { width, height, depth, array_size }
}

fn of_kind(kind: ImageType, sizes: [u64; 4]) -> CreateImage {
    CreateImage { kind: (kind as u32).into(), shape: shape(sizes), ..image(20) }
}

fn read(origin: [u64; 3], extent: [u64; 3], dst: Span) -> ReadImage {
    ReadImage {
        enqueue: silent(),
        image: IMAGE.into(),
        origin: dim(origin),
        extent: dim(extent),
        dst,
        ..ReadImage::default()
    }
}

fn write(origin: [u64; 3], extent: [u64; 3], src: Span) -> WriteImage {
    let ReadImage { enqueue, image, reserved, origin, extent, .. } = read(origin, extent, src);
    WriteImage { enqueue, image, reserved, origin, extent, src }
}

fn bytes(rig: &Rig, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    assert!(rig.memory.read(32768, &mut bytes));
    bytes
}

#[test]
fn boxes_land_where_they_should_and_the_rest_is_zero() {
    let mut rig = Rig::new();
    // Two elements of two rows.
    let data: Vec<u8> = (1..=16).collect();
    rig.run(&write([1, 1, 0], [2, 2, 1], Span::NONE), &[], &data).unwrap();
    rig.run(&read([0, 0, 0], [4, 3, 1], span(48)), &[], &[]).unwrap();
    let mut expected = [0; 48];
    expected[20..28].copy_from_slice(&data[..8]);
    expected[36..44].copy_from_slice(&data[8..]);
    assert_eq!(bytes(&rig, 48), expected);
    let fill = FillImage {
        enqueue: silent(),
        image: IMAGE.into(),
        origin: dim([3, 0, 0]),
        extent: dim([1, 3, 1]),
        ..FillImage::default()
    };
    rig.run(&fill, &[], &[9; 16]).unwrap();
    let to_buffer = CopyImageToBuffer {
        enqueue: silent(),
        image: IMAGE.into(),
        buffer: BUFFER.into(),
        origin: dim([2, 1, 0]),
        extent: dim([2, 1, 1]),
        offset: (SIZE - 8).into(),
    };
    rig.run(&to_buffer, &[], &[]).unwrap();
    let to_image = CopyBufferToImage {
        enqueue: silent(),
        image: IMAGE.into(),
        buffer: BUFFER.into(),
        origin: dim([0, 0, 0]),
        extent: dim([1, 2, 1]),
        offset: (SIZE - 8).into(),
    };
    rig.run(&to_image, &[], &[]).unwrap();
    rig.run(&read([0, 0, 0], [1, 3, 1], span(12)), &[], &[]).unwrap();
    assert_eq!(bytes(&rig, 12), [5, 6, 7, 8, 9, 9, 9, 9, 0, 0, 0, 0]);
    assert_eq!((rig.context.usage().bytes_written, rig.context.usage().bytes_read), (16, 60));
}

#[test]
fn an_image_in_a_buffer_is_the_buffers_bytes_and_keeps_it() {
    let mut rig = Rig::new();
    // Rows of two elements, 20 bytes apart.
    let body = CreateImage {
        memory: BUFFER.into(),
        row_pitch: 20.into(),
        ..of_kind(ImageType::Image2d, [2, 3, 0, 0])
    };
    rig.run(&body, &[], &[]).unwrap();
    rig.run(&Release { id: BUFFER.into(), ..Release::default() }, &[], &[]).unwrap();
    let data: Vec<u8> = (1..=24).collect();
    let write = WriteImage { image: 20.into(), ..write([0; 3], [2, 3, 1], Span::NONE) };
    rig.run(&write, &[], &data).unwrap();
    let read = ReadImage { image: 20.into(), ..read([0, 2, 0], [2, 1, 1], span(8)) };
    rig.run(&read, &[], &[]).unwrap();
    assert_eq!(bytes(&rig, 8), data[16..]);
    let records = rig.context.records();
    let buffer = records.iter().find(|record| matches!(record.record, Record::Buffer(_))).unwrap();
    let image = records.iter().find(|record| record.id == Some(20)).unwrap();
    let Record::Image(record) = &image.record else { panic!("{image:?}") };
    assert_eq!(buffer.id, None, "released, and still there");
    let expected = ImageRecord {
        flags: 1,
        format: (0x10b5, 0x10d2),
        kind: ImageType::Image2d as u32,
        shape: [2, 3, 0, 0],
        row_pitch: 20,
        parent: Some(buffer.serial),
        ..record.clone()
    };
    assert_eq!(*record, expected);
}

#[test]
fn images_that_do_not_fit_their_buffer_are_faults() {
    let in_buffer = |kind, sizes, row_pitch: u64| CreateImage {
        memory: BUFFER.into(),
        row_pitch: row_pitch.into(),
        ..of_kind(kind, sizes)
    };
    assert_eq!(fault(&in_buffer(ImageType::Image1dBuffer, [64, 0, 0, 0], 0), &[], &[]), None);
    assert_eq!(fault(&in_buffer(ImageType::Image2d, [4, 8, 0, 0], 32), &[], &[]), None);
    for bad in [
        in_buffer(ImageType::Image1dBuffer, [65, 0, 0, 0], 0),
        in_buffer(ImageType::Image1dBuffer, [4, 0, 0, 0], 16),
        in_buffer(ImageType::Image2d, [4, 8, 0, 0], 33),
        in_buffer(ImageType::Image2d, [4, 8, 0, 0], 15),
        in_buffer(ImageType::Image2d, [4, 8, 0, 0], u64::MAX),
        in_buffer(ImageType::Image1d, [4, 0, 0, 0], 0),
        in_buffer(ImageType::Image3d, [1, 1, 1, 0], 0),
        // Contents would be written to memory that has some.
        CreateImage { init: span(256), ..in_buffer(ImageType::Image1dBuffer, [64, 0, 0, 0], 0) },
        of_kind(ImageType::Image1dBuffer, [64, 0, 0, 0]),
        CreateImage { row_pitch: 64.into(), ..image(20) },
    ] {
        assert_eq!(fault(&bad, &[], &[]), BAD, "{bad:?}");
    }
    let nothing = CreateImage { memory: QUEUE.into(), ..image(20) };
    assert_eq!(fault(&nothing, &[], &[]), Some(Fault::UnknownObject));
}

#[test]
fn an_image_shows_another_of_the_same_size_only_and_not_without_end() {
    let mut rig = Rig::new();
    let shows = |id: u32, other: u32| CreateImage { memory: other.into(), ..image(id) };
    rig.run(&shows(100, IMAGE), &[], &[]).unwrap();
    rig.run(&WriteImage { image: 100.into(), ..write([0; 3], [1; 3], Span::NONE) }, &[], &[7; 4]).unwrap();
    rig.run(&read([0; 3], [1; 3], span(4)), &[], &[]).unwrap();
    assert_eq!(bytes(&rig, 4), [7; 4]);
    let last = 100 + MAX_IMAGE_DEPTH as u32;
    for id in 101..=last {
        rig.run(&shows(id, id - 1), &[], &[]).unwrap();
    }
    let records = rig.context.records();
    let poisoned = |id| records.iter().find(|record| record.id == Some(id)).unwrap().poisoned;
    assert_eq!((poisoned(last - 2), poisoned(last - 1), poisoned(last)), (None, Some(-5), Some(-5)));
    let smaller = CreateImage { shape: shape([4, 2, 0, 0]), ..shows(100, IMAGE) };
    assert_eq!(fault(&smaller, &[], &[]), BAD);
    assert_eq!(fault(&CreateImage { row_pitch: 16.into(), ..shows(100, IMAGE) }, &[], &[]), BAD);
}

#[test]
fn images_of_impossible_kinds_sizes_and_contents_are_faults() {
    for bad in [
        CreateImage { kind: 0x10f0.into(), ..image(20) },
        CreateImage { kind: 0.into(), ..image(20) },
        CreateImage { format: ImageFormat::new(0x10b5, 0x1234), ..image(20) },
        CreateImage { format: ImageFormat::new(0, 0x10d2), ..image(20) },
        CreateImage { flags: 0b11.into(), ..image(20) },
        CreateImage { flags: (1 << 5).into(), ..image(20) },
        CreateImage { flags: (1 << 12).into(), ..image(20) },
        CreateImage { init: span(47), ..image(20) },
        CreateImage { init: span(49), ..image(20) },
        of_kind(ImageType::Image2d, [4, 0, 0, 0]),
        of_kind(ImageType::Image2d, [4, 3, 1, 0]),
        of_kind(ImageType::Image3d, [4, 3, 0, 0]),
        of_kind(ImageType::Image2dArray, [u64::MAX, u64::MAX, 0, 2]),
    ] {
        assert_eq!(fault(&bad, &[], &[]), BAD, "{bad:?}");
    }
    assert_eq!(fault(&CreateImage { init: span(48), ..image(20) }, &[], &[]), None);
    assert_eq!(fault(&image(IMAGE), &[], &[]), Some(Fault::IdInUse));
}

#[test]
fn images_that_the_device_does_not_take_are_poisoned() {
    let mut rig = Rig::new();
    for (kind, sizes, error) in [
        (ImageType::Image2d, [513, 1, 0, 0], -40),
        (ImageType::Image3d, [1, 1, 65, 0], -40),
        (ImageType::Image1dArray, [1, 0, 0, 65], -40),
        (ImageType::Image2d, [512, 512, 0, 0], 0),
        // More than an object may be long.
        (ImageType::Image2dArray, [512, 512, 0, 2], -4),
    ] {
        let reply = rig.slot();
        let mut body = of_kind(kind, sizes);
        body.create.reply = reply;
        rig.run(&body, &[], &[]).unwrap();
        assert_eq!(rig.status(reply), error, "{kind:?} {sizes:?}");
        let enqueue = rig.enqueue();
        let read = ReadImage { image: 20.into(), enqueue, ..read([0; 3], [1; 3], span(4)) };
        rig.run(&read, &[], &[]).unwrap();
        assert_eq!(rig.status(enqueue.slot), error);
        rig.run(&Release { id: 20.into(), ..Release::default() }, &[], &[]).unwrap();
    }
}

#[test]
fn boxes_outside_of_an_image_or_of_another_size_are_faults() {
    assert_eq!(fault(&read([1, 1, 0], [3, 2, 1], span(24)), &[], &[]), None);
    for (origin, extent, len) in [
        ([2, 1, 0], [3, 2, 1], 24),
        ([1, 2, 0], [3, 2, 1], 24),
        ([1, 1, 1], [3, 2, 1], 24),
        ([1, 1, 0], [3, 2, 2], 48),
        ([1, 1, 0], [3, 0, 1], 0),
        ([u64::MAX, 1, 0], [2, 2, 1], 16),
        ([0, 0, 0], [u64::MAX, 2, 1], 16),
        ([1, 1, 0], [3, 2, 1], 23),
        ([1, 1, 0], [3, 2, 1], 25),
    ] {
        let dst = span(len);
        assert_eq!(fault(&read(origin, extent, dst), &[], &[]), BAD, "{origin:?} {extent:?} {len}");
        assert_eq!(fault(&write(origin, extent, dst), &[], &[]), BAD, "{origin:?} {extent:?} {len}");
    }
    assert_eq!(fault(&write([0; 3], [1; 3], Span::NONE), &[], &[0; 3]), BAD);
    assert_eq!(fault(&write([0; 3], [1; 3], span(4)), &[], &[0; 4]), BAD);
    let elsewhere = read([0; 3], [1; 3], Span::new(5, 65536 - 3, 4));
    assert_eq!(fault(&elsewhere, &[], &[]), Some(Fault::OutOfRegion));
    let fill =
        FillImage { enqueue: silent(), image: IMAGE.into(), extent: dim([4, 3, 1]), ..FillImage::default() };
    assert_eq!(fault(&fill, &[], &[0; 16]), None);
    assert_eq!(fault(&fill, &[], &[0; 15]), BAD);
    assert_eq!(fault(&FillImage { extent: dim([4, 4, 1]), ..fill }, &[], &[0; 16]), BAD);
    let copy = CopyImage {
        enqueue: silent(),
        src: IMAGE.into(),
        dst: IMAGE.into(),
        src_origin: dim([2, 0, 0]),
        dst_origin: dim([0, 0, 0]),
        extent: dim([2, 3, 1]),
    };
    assert_eq!(fault(&copy, &[], &[]), None);
    assert_eq!(fault(&CopyImage { src_origin: dim([3, 0, 0]), ..copy }, &[], &[]), BAD);
    assert_eq!(fault(&CopyImage { dst_origin: dim([0, 1, 0]), ..copy }, &[], &[]), BAD);
    let to_buffer = CopyImageToBuffer {
        enqueue: silent(),
        image: IMAGE.into(),
        buffer: BUFFER.into(),
        extent: dim([4, 3, 1]),
        offset: (SIZE - 48).into(),
        ..CopyImageToBuffer::default()
    };
    assert_eq!(fault(&to_buffer, &[], &[]), None);
    for (extent, offset) in [([4, 3, 1], SIZE - 47), ([4, 3, 1], u64::MAX), ([5, 3, 1], 0)] {
        let (extent, offset) = (dim(extent), offset.into());
        let bad = CopyImageToBuffer { extent, offset, ..to_buffer };
        assert_eq!(fault(&bad, &[], &[]), BAD, "{bad:?}");
        let CopyImageToBuffer { enqueue, image, buffer, origin, .. } = to_buffer;
        let bad = CopyBufferToImage { enqueue, image, buffer, origin, extent, offset };
        assert_eq!(fault(&bad, &[], &[]), BAD, "{bad:?}");
    }
}

#[test]
fn copies_between_formats_and_onto_themselves_are_errors() {
    let mut rig = Rig::new();
    // RG of 16 bits: as long, and not the same.
    rig.run(&CreateImage { format: ImageFormat::new(0x10b2, 0x10d3), ..image(20) }, &[], &[]).unwrap();
    let mut copy = |dst: u32, origin: [u64; 3]| {
        let enqueue = rig.enqueue();
        let body = CopyImage {
            enqueue,
            src: IMAGE.into(),
            dst: dst.into(),
            dst_origin: dim(origin),
            extent: dim([2, 2, 1]),
            ..CopyImage::default()
        };
        rig.run(&body, &[], &[]).unwrap();
        rig.status(enqueue.slot)
    };
    assert_eq!(copy(20, [0; 3]), -9);
    assert_eq!(copy(IMAGE, [1, 1, 0]), -8);
    assert_eq!(copy(IMAGE, [2, 1, 0]), 0);
}

#[test]
fn samplers_have_modes_that_there_are() {
    assert_eq!(fault(&CreateSampler { normalized: 1.into(), ..sampler(20) }, &[], &[]), None);
    for bad in [
        CreateSampler { normalized: 2.into(), ..sampler(20) },
        CreateSampler { addressing: 0x1135.into(), ..sampler(20) },
        CreateSampler { filter: 0x1142.into(), ..sampler(20) },
    ] {
        assert_eq!(fault(&bad, &[], &[]), BAD, "{bad:?}");
    }
    let reserved = CreateSampler { reserved: 1.into(), ..sampler(20) };
    assert_eq!(fault(&reserved, &[], &[]), Some(Fault::Reserved));
}

#[test]
fn formats_are_listed_and_cut_to_the_room() {
    let mut rig = Rig::new();
    let ask = GetImageFormats {
        context: CONTEXT.into(),
        kind: (ImageType::Image3d as u32).into(),
        flags: 1.into(),
        dst: span(12),
        reply: rig.slot(),
    };
    rig.run(&ask, &[], &[]).unwrap();
    assert_eq!(rig.peek(ask.reply).unwrap().len.get(), 16);
    assert_eq!(bytes(&rig, 16), [0xb5, 0x10, 0, 0, 0xd2, 0x10, 0, 0, 0xb0, 0x10, 0, 0, 0, 0, 0, 0]);
    assert_eq!(fault(&GetImageFormats { kind: 7.into(), ..ask }, &[], &[]), BAD);
    assert_eq!(fault(&GetImageFormats { flags: 3.into(), ..ask }, &[], &[]), BAD);
    assert_eq!(fault(&GetImageFormats { flags: (1 << 3).into(), ..ask }, &[], &[]), BAD);
    assert_eq!(fault(&GetImageFormats { flags: (1 << 12).into(), ..ask }, &[], &[]), None);
}

#[test]
fn what_the_host_says_of_an_image_is_told() {
    let mut rig = Rig::new();
    let ask = GetInfo {
        kind: (InfoKind::Image as u32).into(),
        object: IMAGE.into(),
        // CL_MEM_SIZE
        param: 0x1102.into(),
        dst: span(8),
        reply: rig.slot(),
        ..GetInfo::default()
    };
    rig.run(&ask, &[], &[]).unwrap();
    assert_eq!(rig.status(ask.reply), 0);
    assert_eq!(bytes(&rig, 8), 48_u64.to_le_bytes());
    assert_eq!(fault(&GetInfo { object: BUFFER.into(), ..ask }, &[], &[]), Some(Fault::UnknownObject));
}

#[test]
fn objects_of_another_context_are_faults() {
    let two_contexts = || {
        let mut rig = Rig::new();
        rig.run(&CreateContext { create: create(30, 0) }, &[], &[0; 4]).unwrap();
        let size = SIZE.into();
        let buffer = CreateBuffer { create: create(31, 30), flags: 1.into(), size, init: Span::NONE };
        rig.run(&buffer, &[], &[]).unwrap();
        rig.run(&CreateImage { create: create(32, 30), ..image(32) }, &[], &[]).unwrap();
        rig.run(&CreateSampler { create: create(33, 30), ..sampler(33) }, &[], &[]).unwrap();
        rig
    };
    for (index, id) in [(2, 31), (4, 32), (5, 33)] {
        assert_eq!(two_contexts().run(&object(index, id), &[], &[]), Err(Fault::BadValue), "{id}");
    }
    for (kind, sizes, memory) in
        [(ImageType::Image1dBuffer, [4, 0, 0, 0], 31), (ImageType::Image2d, [4, 3, 0, 0], 32)]
    {
        let body = CreateImage { memory: memory.into(), ..of_kind(kind, sizes) };
        assert_eq!(two_contexts().run(&body, &[], &[]), Err(Fault::BadValue), "{memory}");
    }
    // A command on it is an error of the command.
    let mut rig = two_contexts();
    let enqueue = rig.enqueue();
    let read = ReadImage { enqueue, image: 32.into(), ..read([0; 3], [1; 3], span(4)) };
    rig.run(&read, &[], &[]).unwrap();
    assert_eq!(rig.status(enqueue.slot), -34);
}

#[test]
fn an_image_in_shared_memory_is_the_guests_memory_and_keeps_it() {
    let mut rig = Rig::new();
    let shared = CreateSharedBuffer {
        create: create(20, CONTEXT),
        flags: 1.into(),
        memory: Span::new(REGION, 40960, 4096),
        info: Span::NONE,
    };
    rig.run(&shared, &[], &[]).unwrap();
    let body = CreateImage {
        create: create(21, CONTEXT),
        memory: 20.into(),
        ..of_kind(ImageType::Image1dBuffer, [8, 0, 0, 0])
    };
    rig.run(&body, &[], &[]).unwrap();
    rig.run(&object(4, 21), &[], &[]).unwrap();
    let write = WriteImage { image: 21.into(), ..write([1, 0, 0], [1, 1, 1], Span::NONE) };
    rig.run(&write, &[], b"abcd").unwrap();
    let mut seen = [0; 12];
    assert!(rig.memory.read(40960, &mut seen));
    assert_eq!(&seen, b"\0\0\0\0abcd\0\0\0\0");
    let reply = rig.slot();
    rig.run(&ReleaseShared { id: 20.into(), reserved: 0.into(), reply }, &[], &[]).unwrap();
    assert!(rig.peek(reply).is_none(), "the image lies in it");
    rig.run(&Release { id: 21.into(), ..Release::default() }, &[], &[]).unwrap();
    assert!(rig.peek(reply).is_none(), "the kernel has the image set");
    rig.run(&object(4, IMAGE), &[], &[]).unwrap();
    assert_eq!(rig.status(reply), 0);
}
