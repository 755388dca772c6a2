//! Does an executor's process speak with its broker as agreed, over the real socket, on the host's real OpenCL?

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::thread::{self, JoinHandle};

use paragpu::executor::channel::Channel;
use paragpu::executor::child;
use paragpu::executor::message::{Extent, MemoryRegion, ToBroker, ToExecutor};
use paragpu::limits::Limits;
use paragpu_protocol::fault::Fault;
use paragpu_protocol::limits::MIN_RING_BYTES;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

const RAM: u64 = 1 << 20;

struct Broker {
    channel: Channel,
    executor: JoinHandle<ExitCode>,
}

fn event() -> OwnedFd {
    eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).unwrap()
}

impl Broker {
    fn new() -> Broker {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let broker = Broker { channel: Channel::new(ours), executor: thread::spawn(|| child::run(theirs)) };
        let wake = event();
        broker.tell_with(
            ToExecutor::Hello { vgpu: "test".to_owned(), limits: Limits::untried(), devices: Vec::new() },
            &[&wake],
        );
        let ToBroker::Ready { devices } = broker.hear() else { panic!("no OpenCL on this host") };
        assert!(!devices.is_empty() && devices.iter().all(|name| !name.is_empty()));
        let file = memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, RAM).unwrap();
        let regions = vec![MemoryRegion { guest_addr: 0, len: RAM, file_offset: 0 }];
        broker.tell_with(ToExecutor::Memory { regions }, &[&file]);
        broker.tell_with(
            ToExecutor::CreateContext { context: 1, name: "test".to_owned(), place: None },
            &[&event()],
        );
        broker
    }

    fn tell(&self, message: ToExecutor) {
        self.tell_with(message, &[]);
    }

    fn tell_with(&self, message: ToExecutor, fds: &[&OwnedFd]) {
        let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
        self.channel.send(&message, &fds).unwrap();
    }

    fn hear(&self) -> ToBroker {
        self.channel.recv().unwrap().expect("a message").0
    }

    fn add_region(&self, region: u32, extent: Extent) {
        self.tell(ToExecutor::AddRegion { context: 1, region, extents: vec![extent] });
    }

    fn hang_up(self) {
        drop(self.channel);
        assert_eq!(self.executor.join().unwrap(), ExitCode::SUCCESS);
    }
}

#[test]
fn contexts_come_and_go_and_the_process_ends_with_its_socket() {
    let broker = Broker::new();
    broker.add_region(7, Extent { guest_addr: 4096, len: 8192 });
    broker.tell(ToExecutor::RemoveRegion { context: 1, region: 7 });
    assert_eq!(broker.hear(), ToBroker::RegionRemoved { context: 1, region: 7 });
    broker.tell(ToExecutor::RemoveRegion { context: 1, region: 8 });
    assert_eq!(broker.hear(), ToBroker::RegionRemoved { context: 1, region: 8 });
    broker.tell(ToExecutor::Quiesce);
    assert_eq!(broker.hear(), ToBroker::Quiesced);
    broker.tell(ToExecutor::Resume);
    for context in [1, 2] {
        broker.tell(ToExecutor::DestroyContext { context });
        assert!(
            matches!(broker.hear(), ToBroker::ContextDestroyed { context: ended, .. } if ended == context)
        );
    }
    broker.tell(ToExecutor::Quiesce);
    assert_eq!(broker.hear(), ToBroker::Quiesced);
    broker.hang_up();
}

#[test]
fn a_region_outside_of_guest_memory_fails_its_context_and_no_other() {
    let broker = Broker::new();
    broker.add_region(7, Extent { guest_addr: RAM, len: 4096 });
    let ToBroker::ContextFailed { context: 1, reason } = broker.hear() else { panic!() };
    assert!(reason.contains("outside of guest memory"), "{reason}");
    broker.tell_with(
        ToExecutor::CreateContext { context: 2, name: "other".to_owned(), place: None },
        &[&event()],
    );
    broker.tell(ToExecutor::DestroyContext { context: 2 });
    assert!(matches!(broker.hear(), ToBroker::ContextDestroyed { context: 2, .. }));
    broker.hang_up();
}

#[test]
fn a_ring_that_does_not_fit_its_region_fails_its_context() {
    let broker = Broker::new();
    broker.add_region(7, Extent { guest_addr: 0, len: u64::from(MIN_RING_BYTES) });
    broker.tell(ToExecutor::StartRing { context: 1, region: 7, data_bytes: MIN_RING_BYTES });
    let ToBroker::ContextFailed { context: 1, reason } = broker.hear() else { panic!() };
    assert!(reason.contains("ring"), "{reason} ({})", Fault::BadRing);
    broker.hang_up();
}

#[test]
fn a_message_without_its_file_descriptor_ends_the_process() {
    let broker = Broker::new();
    broker.tell(ToExecutor::CreateContext { context: 2, name: "test".to_owned(), place: None });
    assert_eq!(broker.executor.join().unwrap(), ExitCode::FAILURE);
}
