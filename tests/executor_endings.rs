//! Does an executor end, pause and fail when it should, with commands still running? On the host's real OpenCL.

mod executor_guest;

use executor_guest::session::{ADD, Session};
use executor_guest::{CONTEXT, RING};
use paragpu::executor::message::{ToBroker, ToExecutor};
use paragpu_protocol::command::{Finish, Marker, ReadBuffer, Release, SetArgValue, WriteBuffer};
use paragpu_protocol::fault::Fault;
use paragpu_protocol::limits::MAX_IN_FLIGHT;
use paragpu_protocol::ring::{RingMemory, Status, Word};
use paragpu_protocol::types::{Enqueue, SlotRef};
use zerocopy::little_endian::U32;

/// A kernel with its arguments, whose launches take a while: up to 2^18 work-items.
fn busy_kernel(it: &mut Session) -> u32 {
    let kernel = it.kernel(ADD, "add");
    let buffer = it.buffer(1 << 20);
    for index in 0..3 {
        it.set_buffer(kernel, index, buffer);
    }
    let reply = SlotRef::NONE;
    it.guest.send(&SetArgValue { kernel: kernel.into(), index: 3.into(), reply }, &[], &[0; 4]);
    kernel
}

#[test]
fn a_context_ends_with_commands_in_flight_and_a_user_event_open() {
    let mut it = Session::new(0);
    let kernel = busy_kernel(&mut it);
    let gate = it.user_event();
    for _ in 0..20 {
        let enqueue = it.guest.enqueue(it.queue, 0);
        it.launch(kernel, 1 << 18, enqueue, &[]);
    }
    let gated = it.guest.enqueue(it.queue, 0);
    it.launch(kernel, 1 << 18, gated, &[gate]);
    // The event's id may be gone, and the regions may go before the context.
    it.guest.send(&Release { id: gate.into(), reserved: U32::ZERO }, &[], &[]);
    let marker = it.guest.slot();
    it.guest.send(&Finish { queue: it.queue.into(), reserved: U32::ZERO, reply: marker }, &[], &[]);
    it.guest.until("all frames taken", |guest| guest.ring.load(Word::Head) == guest.ring.load(Word::Tail));
    it.guest.tell(ToExecutor::RemoveRegion { context: CONTEXT, region: RING });
    assert!(matches!(it.guest.message(), ToBroker::RegionRemoved { region: RING, .. }));
    it.guest.tell(ToExecutor::DestroyContext { context: CONTEXT });
    assert!(matches!(it.guest.message(), ToBroker::ContextDestroyed { context: CONTEXT, .. }));
    assert!(!it.guest.is_done(marker), "nothing is completed after the end");
}

#[test]
fn quiescing_waits_for_what_runs_but_not_for_what_waits_for_the_guest() {
    let mut it = Session::new(0);
    let kernel = busy_kernel(&mut it);
    let running: Vec<SlotRef> = (0..10)
        .map(|_| {
            let enqueue = it.guest.enqueue(it.queue, 0);
            it.launch(kernel, 1 << 18, enqueue, &[]);
            enqueue.slot
        })
        .collect();
    let gate = it.user_event();
    let gated = it.guest.enqueue(it.queue, 0);
    it.guest.send(&Marker { enqueue: gated }, &[gate], &[]);
    let behind = it.guest.enqueue(it.queue, 0);
    it.guest.send(&Marker { enqueue: behind }, &[], &[]);
    it.guest.until("all frames taken", |guest| guest.ring.load(Word::Head) == guest.ring.load(Word::Tail));
    it.guest.tell(ToExecutor::Quiesce);
    assert_eq!(it.guest.message(), ToBroker::Quiesced);
    assert!(running.iter().all(|slot| it.guest.is_done(*slot)));
    it.set_event(gate, 0);
    std::thread::sleep(std::time::Duration::from_millis(30));
    assert!(!it.guest.is_done(gated.slot), "the ring is not read while paused");
    it.guest.tell(ToExecutor::Resume);
    it.guest.done(gated.slot);
    it.guest.done(behind.slot);
    it.destroy();
}

#[test]
fn a_fault_fails_the_context_where_the_guest_can_see_it() {
    let mut it = Session::new(0);
    it.guest.send(&Release { id: 9999.into(), reserved: U32::ZERO }, &[], &[]);
    it.guest.until("failed", |guest| guest.status() == Some(Status::Failed));
    assert_eq!(it.guest.ring.load(Word::Reason), Fault::UnknownObject.code());
    assert!(matches!(it.guest.message(), ToBroker::ContextFailed { context: CONTEXT, .. }));
    it.destroy();
}

/// Long enough that everything else of a test happens before it ends.
const SLOW: &str = "kernel void slow(global uint *x) {
    uint v = x[0] + 1;
    for (uint i = 0; i < 400000000; i++) v = v * 1664525 + i;
    x[0] = v | 1;
}";

/// A slow kernel, then a read of its result that has neither event nor slot, and nothing left to name them by.
fn read_silently(it: &mut Session) {
    let kernel = it.kernel(SLOW, "slow");
    let buffer = it.buffer(64);
    it.set_buffer(kernel, 0, buffer);
    it.guest.write(0, &[0; 4]);
    let enqueue = Enqueue { queue: it.queue.into(), ..Enqueue::default() };
    it.launch(kernel, 1, enqueue, &[]);
    let dst = it.guest.span(0, 4);
    it.guest.send(&ReadBuffer { enqueue, buffer: buffer.into(), dst, ..ReadBuffer::default() }, &[], &[]);
    it.guest.send(&Release { id: it.queue.into(), reserved: U32::ZERO }, &[], &[]);
    it.guest.until("all frames taken", |guest| guest.ring.load(Word::Head) == guest.ring.load(Word::Tail));
    assert_eq!(it.guest.read(0, 4), [0; 4], "the kernel is too fast for this test");
}

#[test]
fn a_context_has_ended_only_when_silent_transfers_have_too() {
    let mut it = Session::new(0);
    read_silently(&mut it);
    it.destroy();
    // From here on the guest's kernel gives the pages to somebody else.
    assert_ne!(it.guest.read(0, 4), [0; 4]);
}

#[test]
fn quiescing_waits_for_silent_transfers() {
    let mut it = Session::new(0);
    read_silently(&mut it);
    it.guest.tell(ToExecutor::Quiesce);
    assert_eq!(it.guest.message(), ToBroker::Quiesced);
    assert_ne!(it.guest.read(0, 4), [0; 4]);
    it.destroy();
}

#[test]
fn more_in_flight_than_allowed_waits_for_the_device() {
    let mut it = Session::new(0);
    let kernel = it.kernel(SLOW, "slow");
    let buffer = it.buffer(1 << 20);
    it.set_buffer(kernel, 0, buffer);
    let silent = Enqueue { queue: it.queue.into(), ..Enqueue::default() };
    it.launch(kernel, 1, silent, &[]);
    let write = WriteBuffer { enqueue: silent, buffer: buffer.into(), ..WriteBuffer::default() };
    // Three times as much as may be kept.
    for _ in 0..3 * MAX_IN_FLIGHT / 32 {
        it.guest.send(&write, &[], &[7; 32 * 1024]);
    }
    assert_eq!(it.finish(), 0);
    assert_eq!(it.read(buffer, 32 * 1024 - 4, 8), [7, 7, 7, 7, 0, 0, 0, 0]);
    it.destroy();
}

#[test]
fn a_guest_cannot_pile_up_commands_behind_a_user_event() {
    let mut it = Session::new(0);
    let buffer = it.buffer(1 << 20);
    let gate = it.user_event();
    let enqueue = Enqueue { queue: it.queue.into(), ..Enqueue::default() };
    let write = WriteBuffer { enqueue, buffer: buffer.into(), ..WriteBuffer::default() };
    for _ in 0..2 * MAX_IN_FLIGHT / 32 {
        it.guest.send(&write, &[gate], &[7; 32 * 1024]);
    }
    it.guest.until("the context to fail", |guest| guest.status() == Some(Status::Failed));
    assert_eq!(Fault::from_code(it.guest.ring.load(Word::Reason)), Some(Fault::Limit));
}
