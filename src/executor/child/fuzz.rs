//! The body of the fuzz target for everything behind the ring.

use std::sync::Arc;

use paragpu_protocol::command::{Command, Opcode};
use paragpu_protocol::fault::Fault;
use paragpu_protocol::frame::{Frame, FrameHeader, HEADER_BYTES};
use paragpu_protocol::limits::MAX_FRAME_BYTES;
use zerocopy::FromBytes;

use super::backend::null::Null;
use super::builds::Builds;
use super::context::Context;
use super::region::Regions;
use crate::sys::map::Mapping;

/// Regions that a fuzzed context has: ids 1 to this, as small as those of a recorded session.
const REGIONS: u32 = 8;

/// Their length in bytes: the longest that a recorded session has. Pages that nobody touches cost nothing.
const REGION_BYTES: usize = 16 << 20;

/// Most bytes of the input that also lie in the first region.
const SEED_BYTES: usize = 4096;

/// What came of an input.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replay {
    /// The commands that were executed, in order.
    pub executed: Vec<Opcode>,
    /// The mistake that ended it.
    pub fault: Option<Fault>,
}

/// Gives `data` to a context as frames, each as long as its header says, and the rest as one more.
///
/// # Panics
/// If a fault does not stop the context, if objects are lost count of, if the records do not agree with that, or
/// if a frame that was understood does not mean the same when it is written again.
pub fn fuzz_frames(data: &[u8]) -> Replay {
    let regions = Arc::new(Regions::default());
    let mut replay = Replay::default();
    for id in 1..=REGIONS {
        // For want of memory of the fuzzer's own.
        let Ok(mapping) = Mapping::anonymous(REGION_BYTES) else { return replay };
        if id == 1 {
            assert!(mapping.write(0, &data[..data.len().min(SEED_BYTES)]));
        }
        regions.add(id, Arc::new(mapping));
    }
    let mut context = Context::new(Arc::new(Null::new(2)), regions, Builds::inline());
    let mut again = vec![0; MAX_FRAME_BYTES as usize];
    let mut rest = data;
    while !rest.is_empty() {
        let len = FrameHeader::read_from_prefix(rest).ok().map(|(header, _)| header.len.get());
        let len = len.unwrap_or(HEADER_BYTES).max(HEADER_BYTES) as usize;
        let (frame, after) = rest.split_at(len.min(rest.len()));
        rest = after;
        let opcode = round_trip(frame, &mut again);
        let most = context.live_objects() + most_objects(frame);
        match context.execute(frame) {
            Ok(()) => {
                assert!(context.live_objects() <= most, "a command makes no more objects than it names");
                replay.executed.push(opcode.expect("what is executed was understood"));
            }
            Err(fault) => {
                assert_eq!(context.fault(), Some(fault));
                let records = context.records();
                assert_eq!(context.execute(frame), Err(fault), "a fault is for good");
                assert_eq!(context.records(), records, "and nothing moves after it");
                replay.fault = Some(fault);
                break;
            }
        }
    }
    context.flush();
    let records = context.records();
    assert!(records.len() <= context.live_objects(), "every record is a live object");
    assert!(records.iter().all(|record| record.id != Some(0)));
    context.tear_down();
    assert_eq!(context.live_objects(), 0, "nothing outlives its context");
    replay
}

/// How many objects the command may make.
fn most_objects(frame: &[u8]) -> usize {
    match Frame::parse(frame).and_then(|frame| Command::parse(&frame)) {
        Ok(Command::CreateSubDevices(body, _)) => body.count.get() as usize,
        _ => 1,
    }
}

/// Writes the command again, if it is one. `again` is as long as a frame can be.
fn round_trip(bytes: &[u8], again: &mut [u8]) -> Option<Opcode> {
    let frame = Frame::parse(bytes).ok()?;
    let command = Command::parse(&frame).ok()?;
    let len = command.encode(again).expect("no longer than it was");
    assert!(len <= bytes.len());
    let frame = Frame::parse(&again[..len]).expect("a frame");
    assert_eq!(Command::parse(&frame), Ok(command));
    Some(command.opcode())
}

#[cfg(test)]
mod tests {
    use paragpu_protocol::command::{
        Body, CreateBuffer, CreateContext, CreateImage, CreateProgram, CreateQueue, CreateUserEvent,
        ReadBuffer, ReadImage,
    };
    use paragpu_protocol::image::{ImageFormat, ImageShape, ImageType};
    use paragpu_protocol::limits::MAX_FRAME_BYTES;
    use paragpu_protocol::types::{Create, Enqueue, SlotRef, Span};

    use super::fuzz_frames;

    fn create(id: u32, parent: u32) -> Create {
        Create { id: id.into(), parent: parent.into(), reply: SlotRef::NONE }
    }

    fn frame<C: Body>(body: &C, wait: &[u32], data: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; MAX_FRAME_BYTES as usize];
        let len = body.encode(&mut frame, wait, data).unwrap();
        frame.truncate(len);
        frame
    }

    /// What a fuzzer does, for a moment: a valid session with bytes of it changed.
    #[test]
    fn garbage_and_damaged_sessions_never_panic() {
        let mut session = Vec::new();
        let mut add = |frame: Vec<u8>| session.extend(frame);
        let inside = Span::new(1, 65536, 64);
        add(frame(&CreateContext { create: create(1, 0) }, &[], &[0; 4]));
        add(frame(&CreateQueue { create: create(2, 1), ..CreateQueue::default() }, &[], &[]));
        let buffer = CreateBuffer { create: create(3, 1), flags: 1.into(), size: 64.into(), init: inside };
        add(frame(&buffer, &[], &[]));
        add(frame(&CreateUserEvent { create: create(7, 1) }, &[], &[]));
        let read = ReadBuffer {
            enqueue: Enqueue { queue: 2.into(), ..Enqueue::default() },
            buffer: 3.into(),
            dst: inside,
            ..ReadBuffer::default()
        };
        add(frame(&read, &[7], &[]));
        let image = CreateImage {
            create: create(10, 1),
            flags: 1.into(),
            format: ImageFormat::new(0x10b5, 0x10d2),
            kind: (ImageType::Image2d as u32).into(),
            memory: 3.into(),
            shape: ImageShape { width: 4.into(), height: 2.into(), ..ImageShape::default() },
            row_pitch: 32.into(),
            ..CreateImage::default()
        };
        add(frame(&image, &[], &[]));
        let read = ReadImage {
            enqueue: read.enqueue,
            image: 10.into(),
            extent: [4, 2, 1].map(Into::into),
            dst: Span::new(1, 65536, 32),
            ..ReadImage::default()
        };
        add(frame(&read, &[], &[]));
        add(frame(&CreateProgram { create: create(4, 1), source: inside }, &[], b"source"));
        add(frame(&CreateProgram { create: create(9, 1), source: Span::NONE }, &[], b"source"));
        fuzz_frames(&session);
        fuzz_frames(&[]);
        let mut state = 1_u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize
        };
        for _ in 0..2000 {
            let mut damaged = session.clone();
            for _ in 0..random() % 4 {
                let at = random() % damaged.len();
                damaged[at] = random() as u8;
            }
            damaged.truncate(damaged.len() - random() % 40);
            fuzz_frames(&damaged);
        }
    }
}
