//! Is every request answered once when the back end ends and the front end connects to another one? The sessions are real, and
//! so are front end, queues and the area in which requests in flight are written down.

mod fake_driver;

use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use fake_driver::{FREE, Guest, Manners, QUEUE_SIZE, TIMEOUT, ThreadLauncher, request};
use paragpu_protocol::virtio_gpu::{
    CtxCreate, MemEntry, Request, ResourceAttachBacking, ResourceCreate3d, ResourceRef, Response,
};
use rustix::process::{Pid, Signal, kill_process};
use vhost::VhostBackend;
use vhost::vhost_user::message::VhostUserInflight;
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use zerocopy::IntoBytes;

const CONTEXT: u32 = 1;

/// How long nothing must come.
const QUIET: Duration = Duration::from_millis(100);

fn named(resource: u32) -> Vec<u8> {
    ResourceRef { resource_id: resource.into(), padding: 0.into() }.as_bytes().to_vec()
}

/// A guest whose executor never says that it has let go of a region.
fn guest_with_regions(count: u32) -> Guest {
    let mut guest = Guest::connect(ThreadLauncher(Manners::Silent));
    guest.keep_in_flight();
    guest.ok(&request(Request::CtxCreate, CONTEXT, 0, CtxCreate::default().as_bytes()));
    for id in 1..=count {
        let create =
            ResourceCreate3d { resource_id: id.into(), width: 4096.into(), ..ResourceCreate3d::default() };
        guest.ok(&request(Request::ResourceCreate3d, 0, 0, create.as_bytes()));
        let attach = ResourceAttachBacking { resource_id: id.into(), nr_entries: 1.into() };
        let entry = MemEntry { addr: FREE.into(), length: 4096.into(), padding: 0.into() };
        let body = [attach.as_bytes(), entry.as_bytes()].concat();
        guest.ok(&request(Request::ResourceAttachBacking, 0, 0, &body));
        guest.ok(&request(Request::CtxAttachResource, CONTEXT, 0, &named(id)));
    }
    guest
}

/// Posts requests that wait for the executor, in the slots 1 to `count`, and sees that they wait.
fn post_held(guest: &mut Guest, count: u16) {
    for slot in 1..=count {
        guest.post(slot, &request(Request::CtxDetachResource, CONTEXT, 0, &named(slot.into())), 64);
    }
    assert_eq!(guest.take_used(QUIET), None, "held");
}

fn works(guest: &mut Guest) {
    for _ in 0..2 * QUEUE_SIZE {
        assert_eq!(guest.ask(&request(Request::GetDisplayInfo, 0, 0, &[])).0, Response::OkDisplayInfo);
    }
}

#[test]
fn what_was_in_flight_is_answered_once_and_in_order_by_the_next_back_end() {
    let mut guest = guest_with_regions(3);
    post_held(&mut guest, 3);
    guest.reconnect(ThreadLauncher(Manners::Obedient));
    for slot in 1..=3 {
        assert_eq!(guest.take_used(TIMEOUT), Some((slot * 2, 24)), "in the order in which they were taken");
        let (header, _) = guest.response(slot, 24);
        assert_ne!(header.kind.get(), Response::OkNodata as u32, "there is no such context any more");
    }
    assert_eq!(guest.take_used(QUIET), None, "no answer comes twice");
    works(&mut guest);
    guest.ok(&request(Request::CtxCreate, CONTEXT, 0, CtxCreate::default().as_bytes()));
    guest.hang_up();
}

#[test]
fn back_ends_may_end_again_and_again() {
    let mut guest = guest_with_regions(2);
    post_held(&mut guest, 2);
    guest.reconnect(ThreadLauncher(Manners::Obedient));
    assert_eq!(guest.take_used(TIMEOUT), Some((2, 24)));
    assert_eq!(guest.take_used(TIMEOUT), Some((4, 24)));
    for _ in 0..3 {
        works(&mut guest);
        guest.reconnect(ThreadLauncher(Manners::Obedient));
        assert_eq!(guest.take_used(QUIET), None, "nothing was in flight");
    }
    works(&mut guest);
    guest.hang_up();
}

#[test]
fn requests_that_came_while_there_was_no_back_end_are_taken() {
    let mut guest = guest_with_regions(1);
    post_held(&mut guest, 1);
    guest.post(2, &request(Request::GetDisplayInfo, 0, 0, &[]), 1024);
    guest.reconnect(ThreadLauncher(Manners::Obedient));
    assert_eq!(guest.take_used(TIMEOUT).map(|(head, _)| head), Some(2));
    assert_eq!(guest.take_used(TIMEOUT).map(|(head, _)| head), Some(4));
    assert_eq!(guest.take_used(QUIET), None);
    guest.hang_up();
}

#[test]
fn a_pause_leaves_nothing_in_flight() {
    let mut guest = guest_with_regions(1);
    post_held(&mut guest, 1);
    let base = guest.stop();
    assert_eq!(guest.take_used(Duration::ZERO), Some((2, 24)), "answered before the rings stop");
    guest.start(base);
    works(&mut guest);
    guest.reconnect(ThreadLauncher(Manners::Obedient));
    assert_eq!(guest.take_used(QUIET), None);
    works(&mut guest);
    guest.hang_up();
}

#[test]
fn an_area_full_of_nonsense_harms_nobody() {
    for byte in [1, 0xff] {
        let mut guest = guest_with_regions(1);
        let header = 16;
        let nonsense = vec![byte; 16 * usize::from(QUEUE_SIZE)];
        guest.in_flight_file().write_all_at(&nonsense, header).unwrap();
        guest.reconnect(ThreadLauncher(Manners::Obedient));
        assert_eq!(guest.take_used(QUIET), None, "more than the driver has out");
        works(&mut guest);
        guest.in_flight_file().set_len(0).unwrap();
        works(&mut guest);
        guest.reconnect(ThreadLauncher(Manners::Obedient));
        works(&mut guest);
        guest.hang_up();
    }
}

#[test]
fn areas_of_other_shapes_are_refused() {
    let areas = [
        (0, 0, 2, QUEUE_SIZE),
        (1 << 20, u64::MAX - 4095, 2, QUEUE_SIZE),
        (1 << 20, 0, 3, 8),
        (1 << 20, 0, 2, 4096),
    ];
    for (mmap_size, mmap_offset, num_queues, queue_size) in areas {
        let mut guest = Guest::connect(ThreadLauncher(Manners::Obedient));
        guest.keep_in_flight();
        guest.stop();
        let file = guest.in_flight_file().as_raw_fd();
        let area = VhostUserInflight { mmap_size, mmap_offset, num_queues, queue_size };
        assert!(guest.front_end.set_inflight_fd(&area, file).is_err(), "{mmap_size} {num_queues}");
        guest.hang_up();
    }
}

#[test]
fn whoever_loses_its_connection_to_a_daemon_finds_nobody_listening() {
    for signal in [Signal::KILL, Signal::TERM] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("paragpud.sock");
        let mut daemon = Command::new(env!("CARGO_BIN_EXE_paragpud"));
        let mut daemon = daemon.arg("--socket-path").arg(&path).stderr(Stdio::null()).spawn().unwrap();
        let mut connection = loop {
            match UnixStream::connect(&path) {
                Ok(connection) => break connection,
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        // So that it is not only in the queue of connections.
        Frontend::from_stream(connection.try_clone().unwrap(), 2).get_features().unwrap();
        kill_process(Pid::from_child(&daemon), signal).unwrap();
        let _ = connection.read(&mut [0]);
        assert!(UnixStream::connect(&path).is_err(), "{signal:?}");
        daemon.wait().unwrap();
    }
}
