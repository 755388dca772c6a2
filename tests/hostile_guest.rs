//! What a guest can do to the daemon from its side of the rings: nothing.
//!
//! The guest here is this test, on the direct transport: the same socket, virtqueue and shared memory that a VM
//! has, with a ring that it fills as it likes.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use paragpu_opencl::transport::direct::{Direct, Options};
use paragpu_opencl::transport::{Shared, Transport};
use paragpu_protocol::command::{
    Body, CreateBuffer, CreateContext, CreateQueue, EnqueueKernel, Finish, ReadBuffer, Release,
};
use paragpu_protocol::control::{Doorbell, StartRing};
use paragpu_protocol::fault::Fault;
use paragpu_protocol::frame::write_frame;
use paragpu_protocol::limits::MIN_RING_BYTES;
use paragpu_protocol::ring::{Producer, RingMemory, Status, Word};
use paragpu_protocol::types::{Create, Enqueue, SlotRef, Span};
use zerocopy::IntoBytes;

use common::{Daemon, example, kill, succeeds, wait_until};

/// A guest that writes its ring by hand.
struct Guest {
    transport: Direct,
    ring: Shared,
    producer: Producer,
}

impl Guest {
    fn connect(daemon: &Daemon) -> Guest {
        let transport = Direct::open(&daemon.socket(), &Options::default()).unwrap();
        let start = StartRing::new(0, MIN_RING_BYTES);
        let ring = Shared::new(transport.create_region(start.region_bytes()).unwrap());
        transport.submit(StartRing::new(ring.id(), MIN_RING_BYTES).as_bytes()).unwrap();
        let guest = Guest { transport, ring, producer: Producer::new(MIN_RING_BYTES) };
        wait_until("the ring to run", || guest.status() == Some(Status::Running));
        guest
    }

    fn status(&self) -> Option<Status> {
        Status::from_word(self.ring.load(Word::Status))
    }

    fn send<B: Body>(&mut self, body: &B, data: &[u8]) {
        let mut frame = vec![0; 65536];
        let len = body.encode(&mut frame, &[], data).unwrap();
        self.push(&frame[..len]);
    }

    fn push(&mut self, frame: &[u8]) {
        self.producer.push(&self.ring, frame);
        self.kick();
    }

    fn kick(&self) {
        self.transport.submit(Doorbell::new().as_bytes()).unwrap();
    }

    /// A context, a queue and a buffer of 4096 bytes, with ids 1, 2 and 3.
    fn create_objects(&mut self) {
        let create =
            |id: u32, parent: u32| Create { id: id.into(), parent: parent.into(), reply: SlotRef::NONE };
        self.send(&CreateContext { create: create(1, 0) }, &0_u32.to_le_bytes());
        self.send(&CreateQueue { create: create(2, 1), ..CreateQueue::default() }, &[]);
        let buffer =
            CreateBuffer { create: create(3, 1), flags: 1.into(), size: 4096.into(), init: Span::NONE };
        self.send(&buffer, &[]);
    }

    #[track_caller]
    fn must_fail(&self, fault: Fault) {
        wait_until("the context to fail", || self.status() == Some(Status::Failed));
        assert_eq!(Fault::from_code(self.ring.load(Word::Reason)), Some(fault));
    }
}

/// Everybody else goes on: a whole check, on another connection, of everything that a program does.
#[track_caller]
fn others_go_on(daemon: &mut Daemon) {
    assert!(daemon.is_running(), "the daemon has ended");
    succeeds(&mut daemon.run(&example("vgpu_check")));
}

#[test]
fn every_kind_of_garbage_fails_its_context_with_one_clear_line() {
    let mut daemon = Daemon::start();
    let enqueue = Enqueue { queue: 2.into(), ..Enqueue::default() };
    let read = |buffer: u32, offset: u64, dst: Span| ReadBuffer {
        enqueue,
        buffer: buffer.into(),
        offset: offset.into(),
        dst,
        ..ReadBuffer::default()
    };
    type Attack<'a> = Box<dyn Fn(&mut Guest) + 'a>;
    let attacks: Vec<(Fault, Attack<'_>)> = vec![
        (
            Fault::RingIndex,
            Box::new(|guest| {
                guest.ring.store(Word::Tail, 0x7fff_fff0);
                guest.kick();
            }),
        ),
        (
            Fault::BadFrame,
            Box::new(|guest| {
                let mut frame = [0xff; 32];
                frame[4..8].copy_from_slice(&48_u32.to_le_bytes());
                guest.push(&frame);
            }),
        ),
        (
            Fault::UnknownOpcode,
            Box::new(|guest| {
                let mut frame = [0; 64];
                let len = write_frame(&mut frame, 0x7777, &[], &[], &[]).unwrap();
                guest.push(&frame[..len]);
            }),
        ),
        (
            Fault::UnknownObject,
            Box::new(|guest| guest.send(&Release { id: 99.into(), ..Release::default() }, &[])),
        ),
        (
            Fault::UnknownObject,
            Box::new(|guest| {
                // A buffer is no kernel.
                guest.create_objects();
                guest.send(
                    &EnqueueKernel { enqueue, kernel: 3.into(), dims: 1.into(), ..EnqueueKernel::default() },
                    &[],
                );
            }),
        ),
        (
            Fault::IdInUse,
            Box::new(|guest| {
                guest.create_objects();
                guest.create_objects();
            }),
        ),
        (
            Fault::UnknownRegion,
            Box::new(move |guest| {
                guest.create_objects();
                guest.send(&read(3, 0, Span::new(77, 0, 64)), &[]);
            }),
        ),
        (
            Fault::OutOfRegion,
            Box::new(move |guest| {
                guest.create_objects();
                let ring = guest.ring.id();
                guest.send(&read(3, 0, Span::new(ring, u64::MAX - 8, 64)), &[]);
            }),
        ),
        (
            Fault::OutOfRegion,
            Box::new(|guest| {
                guest.create_objects();
                let ring = guest.ring.id();
                let reply = SlotRef::new(ring, 4096 + MIN_RING_BYTES);
                guest.send(&Finish { queue: 2.into(), reply, ..Finish::default() }, &[]);
            }),
        ),
    ];
    for (fault, attack) in attacks {
        let mut guest = Guest::connect(&daemon);
        attack(&mut guest);
        guest.must_fail(fault);
        wait_until("a log line that gives the reason", || daemon.log().contains(&fault.to_string()));
    }
    for line in daemon.log().lines().filter(|line| line.contains("ring index jumped")) {
        assert!(line.contains("vgpu"), "the line does not name the vGPU: {line}");
    }
    others_go_on(&mut daemon);
}

#[test]
fn commands_that_change_while_they_are_read_harm_nobody() {
    let mut daemon = Daemon::start();
    for round in 0..4 {
        let mut guest = Guest::connect(&daemon);
        guest.create_objects();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (ring, stop) = (&guest.ring, &stop);
            scope.spawn(move || {
                let mut noise = 0x9e37_79b9_u32 ^ round;
                while !stop.load(Ordering::Relaxed) {
                    noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    ring.write_data(noise % (MIN_RING_BYTES - 4), &noise.to_le_bytes());
                }
            });
            let finish = Finish { queue: 2.into(), ..Finish::default() };
            for _ in 0..20_000 {
                let mut frame = [0; 64];
                let len = finish.encode(&mut frame, &[], &[]).unwrap();
                guest.producer.push(&guest.ring, &frame[..len]);
            }
            guest.transport.submit(Doorbell::new().as_bytes()).unwrap();
            std::thread::sleep(Duration::from_millis(100));
            stop.store(true, Ordering::Relaxed);
        });
    }
    others_go_on(&mut daemon);
}

#[test]
fn guests_that_are_killed_leave_nothing_behind() {
    let mut daemon = Daemon::start();
    others_go_on(&mut daemon);
    wait_until("the first guest's executor to end", || daemon.executors().is_empty());
    let files = daemon.open_files();
    for round in 0..6 {
        let mut guest =
            daemon.run(&example("vgpu_check")).stdout(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(50 + 150 * round));
        for child in common::children_of(guest.id()) {
            kill(child);
        }
        let _ = guest.kill();
        guest.wait().unwrap();
    }
    wait_until("all executors to end", || daemon.executors().is_empty());
    wait_until("all files to be closed", || daemon.open_files() <= files);
    others_go_on(&mut daemon);
}

#[test]
fn a_killed_executor_costs_its_own_contexts_and_nothing_else() {
    let mut daemon = Daemon::start();
    let guest = Guest::connect(&daemon);
    let bystander = Guest::connect(&daemon);
    let executors = daemon.executors();
    assert_eq!(executors.len(), 2, "each connection has an executor of its own");
    let oldest = *executors.iter().min().unwrap();
    kill(oldest);
    wait_until("one of the contexts to be lost", || {
        [&guest, &bystander].iter().any(|guest| guest.status() == Some(Status::Lost))
    });
    let running = [&guest, &bystander].iter().filter(|guest| guest.status() == Some(Status::Running)).count();
    assert_eq!(running, 1, "the other vGPU's context must go on");
    others_go_on(&mut daemon);
}
