//! The body of the fuzz target for everything behind the ring.

use std::sync::Arc;

use paragpu_protocol::frame::{FrameHeader, HEADER_BYTES};
use zerocopy::FromBytes;

use super::backend::null::Null;
use super::builds::Builds;
use super::context::Context;
use super::region::Regions;
use crate::sys::map::Mapping;

/// Regions that a fuzzed context has: ids 1 to this, as small as those of a recorded session.
const REGIONS: u32 = 4;

/// Their length in bytes.
const REGION_BYTES: usize = 1 << 20;

/// Most bytes of the input that also lie in each region.
const SEED_BYTES: usize = 4096;

/// Gives `data` to a context as frames, each as long as its header says, and the rest as one more.
///
/// # Panics
/// If a fault does not stop the context, if objects are lost count of, or if the records do not agree with that.
pub fn fuzz_frames(data: &[u8]) {
    let regions = Arc::new(Regions::default());
    for id in 1..=REGIONS {
        let Ok(mapping) = Mapping::anonymous(REGION_BYTES) else { return };
        assert!(mapping.write(0, &data[..data.len().min(SEED_BYTES)]));
        regions.add(id, Arc::new(mapping));
    }
    let mut context = Context::new(Arc::new(Null::new(2)), regions, Builds::inline());
    let mut rest = data;
    while !rest.is_empty() {
        let len = FrameHeader::read_from_prefix(rest).ok().map(|(header, _)| header.len.get());
        let len = len.unwrap_or(HEADER_BYTES).max(HEADER_BYTES) as usize;
        let (frame, after) = rest.split_at(len.min(rest.len()));
        rest = after;
        let before = context.live_objects();
        match context.execute(frame) {
            Ok(()) => assert!(context.live_objects() <= before + 1, "a command makes one object at most"),
            Err(fault) => {
                assert_eq!(context.fault(), Some(fault));
                let records = context.records();
                assert_eq!(context.execute(frame), Err(fault), "a fault is for good");
                assert_eq!(context.records(), records, "and nothing moves after it");
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
}
