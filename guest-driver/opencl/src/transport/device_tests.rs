//! Against a real device, through whichever door the environment opens: the same for all of them.
//!
//! Run in a VM with a vGPU, or with `PARAGPU_SOCKET` set:
//! `cargo test -p paragpu-opencl device_tests -- --ignored`.

use std::sync::atomic::Ordering::Acquire;
use std::time::{Duration, Instant};

use paragpu_protocol::control::{Doorbell, MAX_WAIT_MILLIS, StartRing};
use paragpu_protocol::limits::MIN_RING_BYTES;
use paragpu_protocol::ring::{HEADER_BYTES, Status, Word};
use zerocopy::IntoBytes;

use super::{Memory, Region, Transport, open};
use crate::sys::mapping::bytes_of;

fn word(region: &Region, word: Word) -> u32 {
    let bytes = &bytes_of(region)[word.offset()..][..4];
    u32::from_le_bytes(std::array::from_fn(|index| bytes[index].load(Acquire)))
}

/// Makes a ring and waits until the host consumes it.
fn start_ring(transport: &dyn Transport) -> Region {
    start_ring_in(transport, transport.create_region(u64::from(HEADER_BYTES + MIN_RING_BYTES)).unwrap())
}

fn start_ring_in(transport: &dyn Transport, ring: Region) -> Region {
    assert!(bytes_of(&ring).iter().all(|byte| byte.load(Acquire) == 0), "a region starts as zeroes");
    transport.submit(StartRing::new(ring.id, MIN_RING_BYTES).as_bytes()).unwrap();
    let start = Instant::now();
    while word(&ring, Word::Status) != Status::Running as u32 {
        assert!(start.elapsed() < Duration::from_secs(20), "the host does not start the ring");
        transport.wait(word(&ring, Word::WakeSeq), Duration::from_millis(10)).unwrap();
    }
    ring
}

#[test]
#[ignore = "needs a paragpu"]
fn a_ring_starts_and_many_threads_can_wait() {
    for _ in 0..3 {
        let transport = open().unwrap();
        let ring = start_ring(&*transport);
        // A wait that nothing ends comes back when the host's own limit is over, long before this one.
        let long = Duration::from_secs(60);
        let start = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| transport.wait(word(&ring, Word::WakeSeq), long).unwrap());
            }
        });
        assert!(start.elapsed() < Duration::from_millis(10 * MAX_WAIT_MILLIS));
        // And one that something has ended already comes back at once.
        let start = Instant::now();
        transport.wait(word(&ring, Word::WakeSeq).wrapping_sub(1), long).unwrap();
        assert!(start.elapsed() < Duration::from_millis(MAX_WAIT_MILLIS / 2), "{:?}", start.elapsed());
        transport.submit(Doorbell::new().as_bytes()).unwrap();
    }
}

#[test]
#[ignore = "needs a paragpu"]
fn contexts_and_regions_come_and_go() {
    let first = open().unwrap();
    let second = open().unwrap();
    let rings = [start_ring(&*first), start_ring(&*second)];
    for bytes in [1, 1 << 20, 9 << 20] {
        let regions = [first.create_region(bytes).unwrap(), second.create_region(bytes).unwrap()];
        for (region, value) in regions.iter().zip(1..) {
            assert!(region.len as u64 >= bytes);
            assert!(bytes_of(region).iter().all(|byte| byte.load(Acquire) == 0));
            bytes_of(region).iter().for_each(|byte| byte.store(value, std::sync::atomic::Ordering::Release));
        }
        for (region, value) in regions.iter().zip(1..) {
            assert!(bytes_of(region).iter().all(|byte| byte.load(Acquire) == value));
        }
    }
    drop(first);
    second.submit(Doorbell::new().as_bytes()).unwrap();
    assert_eq!(word(&rings[1], Word::Status), Status::Running as u32);
}

#[test]
#[ignore = "needs a paragpu"]
fn the_host_reaches_memory_that_was_there_before() {
    let transport = open().unwrap();
    let memory = || Memory::zeroed((HEADER_BYTES + MIN_RING_BYTES) as usize).unwrap();
    match transport.pin(memory()) {
        // The host reads the ring's header there and writes its status.
        Ok(region) => drop(start_ring_in(&*transport, region)),
        Err(error) => println!("skipped: {error}"),
    }
}

#[test]
#[ignore = "needs a paragpu"]
fn round_trips_take_this_long() {
    let transport = open().unwrap();
    let ring = start_ring(&*transport);
    let time = |count: u32, what: &dyn Fn()| {
        let start = Instant::now();
        (0..count).for_each(|_| what());
        start.elapsed() / count
    };
    let seen = word(&ring, Word::WakeSeq).wrapping_sub(1);
    let wait = time(200, &|| transport.wait(seen, Duration::from_secs(5)).unwrap());
    let bell = time(200, &|| transport.submit(Doorbell::new().as_bytes()).unwrap());
    let region = time(20, &|| drop(transport.create_region(1 << 20).unwrap()));
    println!("wait {wait:?}, doorbell {bell:?}, region of 1 MiB made and dropped {region:?}");
}
