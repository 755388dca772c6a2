//! Does a vhost-user session serve a driver, and survive one that means harm? With the real queue code and a
//! real front end over a socket pair; only the executor is a thread of the test.

mod fake_driver;

use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fake_driver::{
    FREE, Guest, INDIRECT, Manners, NEXT, QUEUE_SIZE, RAM_BYTES, ThreadLauncher, WRITE, request,
};
use paragpu::executor::supervisor::{Launcher, ProcessLauncher, Running};
use paragpu::limits::{Limits, Rate};
use paragpu::vhost::orders::{Assignment, Order};
use paragpu_protocol::capset::{CAPSET_ID, CAPSET_VERSION, Capset};
use paragpu_protocol::control::{Doorbell, StartRing, Wait};
use paragpu_protocol::limits::MIN_RING_BYTES;
use paragpu_protocol::ring::{Status, Word};
use paragpu_protocol::virtio_gpu::{
    Config, CtxCreate, FLAG_FENCE, GetCapset, GetCapsetInfo, MemEntry, Request, ResourceAttachBacking,
    ResourceCreate3d, ResourceRef, Response, Submit3d,
};
use vhost::VhostBackend;
use vhost::vhost_user::VhostUserFrontend;
use vhost::vhost_user::message::VhostUserConfigFlags;
use vm_memory::{Bytes, GuestAddress};
use zerocopy::IntoBytes;

const CONTEXT: u32 = 1;
const REGION: u32 = 2;

fn obedient() -> Guest {
    Guest::connect(ThreadLauncher(Manners::Obedient))
}

fn named(resource: u32) -> ResourceRef {
    ResourceRef { resource_id: resource.into(), padding: 0.into() }
}

fn submit(control: &[u8], flags: u32) -> Vec<u8> {
    let submit = Submit3d { size: (control.len() as u32).into(), padding: 0.into() };
    request(Request::Submit3d, CONTEXT, flags, &[submit.as_bytes(), control].concat())
}

fn create_context(guest: &mut Guest) {
    guest.ok(&request(Request::CtxCreate, CONTEXT, 0, CtxCreate::default().as_bytes()));
}

/// A context with a ring.
fn start_ring(guest: &mut Guest) {
    create_context(guest);
    let bytes = 4096 + MIN_RING_BYTES;
    let create =
        ResourceCreate3d { resource_id: REGION.into(), width: bytes.into(), ..ResourceCreate3d::default() };
    guest.ok(&request(Request::ResourceCreate3d, 0, 0, create.as_bytes()));
    let attach = ResourceAttachBacking { resource_id: REGION.into(), nr_entries: 1.into() };
    let entry = MemEntry { addr: FREE.into(), length: bytes.into(), padding: 0.into() };
    let body = [attach.as_bytes(), entry.as_bytes()].concat();
    guest.ok(&request(Request::ResourceAttachBacking, 0, 0, &body));
    guest.ok(&request(Request::CtxAttachResource, CONTEXT, 0, named(REGION).as_bytes()));
    guest.ok(&submit(StartRing::new(REGION, MIN_RING_BYTES).as_bytes(), 0));
}

/// A region of one page, of which the executor must say that it has let go.
fn add_and_remove_region(guest: &mut Guest, id: u32) {
    let create =
        ResourceCreate3d { resource_id: id.into(), width: 4096.into(), ..ResourceCreate3d::default() };
    guest.ok(&request(Request::ResourceCreate3d, 0, 0, create.as_bytes()));
    let attach = ResourceAttachBacking { resource_id: id.into(), nr_entries: 1.into() };
    let entry = MemEntry { addr: FREE.into(), length: 4096.into(), padding: 0.into() };
    let body = [attach.as_bytes(), entry.as_bytes()].concat();
    guest.ok(&request(Request::ResourceAttachBacking, 0, 0, &body));
    guest.ok(&request(Request::CtxAttachResource, CONTEXT, 0, named(id).as_bytes()));
    guest.ok(&request(Request::CtxDetachResource, CONTEXT, 0, named(id).as_bytes()));
}

fn read_capset(guest: &mut Guest) {
    let info = request(Request::GetCapsetInfo, 0, 0, GetCapsetInfo::default().as_bytes());
    assert_eq!(guest.ask(&info).0, Response::OkCapsetInfo);
    let get = GetCapset { capset_id: CAPSET_ID.into(), capset_version: CAPSET_VERSION.into() };
    let (response, body) = guest.ask(&request(Request::GetCapset, 0, 0, get.as_bytes()));
    assert_eq!(response, Response::OkCapset);
    Capset::read(&body).unwrap();
}

fn status(guest: &Guest) -> u32 {
    guest.ram.read_obj(GuestAddress(FREE + Word::Status.offset() as u64)).unwrap()
}

#[test]
fn a_driver_reads_config_space_and_capset() {
    let mut guest = obedient();
    let whole = [0; 256];
    let (_, bytes) = guest.front_end.get_config(0, 256, VhostUserConfigFlags::empty(), &whole).unwrap();
    let config = Config { num_scanouts: 1.into(), num_capsets: 1.into(), ..Config::default() };
    assert_eq!(bytes[..16], *config.as_bytes());
    let (_, bytes) = guest.front_end.get_config(4093, 3, VhostUserConfigFlags::empty(), &whole[..3]).unwrap();
    assert_eq!(bytes, [0; 3]);
    read_capset(&mut guest);
    guest.hang_up();
}

#[test]
fn a_wait_ends_when_the_executor_wakes_the_guest() {
    let mut guest = obedient();
    start_ring(&mut guest);
    let before = Instant::now();
    guest.post(1, &submit(Wait::new(0).as_bytes(), FLAG_FENCE), 64);
    assert_eq!(guest.take_used(Duration::from_millis(100)), None, "held");
    guest.ok(&submit(Doorbell::new().as_bytes(), 0));
    assert_eq!(guest.take_used(fake_driver::TIMEOUT), Some((2, 24)));
    assert!(before.elapsed() < Duration::from_millis(900), "woken, not timed out");
    guest.hang_up();
}

#[test]
fn a_pause_answers_everything_and_a_resume_goes_on() {
    let mut guest = obedient();
    start_ring(&mut guest);
    guest.post(1, &submit(Wait::new(0).as_bytes(), FLAG_FENCE), 64);
    assert_eq!(guest.take_used(Duration::from_millis(50)), None);
    let base = guest.stop();
    assert_eq!(guest.take_used(Duration::ZERO), Some((2, 24)), "in the used ring before the answer");
    guest.start(base);
    guest.ok(&submit(Doorbell::new().as_bytes(), 0));
    assert_eq!(status(&guest), 0);
    guest.ok(&request(Request::CtxDestroy, CONTEXT, 0, &[]));
    guest.hang_up();
}

#[test]
fn a_driver_that_starts_anew_finds_an_empty_device() {
    let mut guest = obedient();
    start_ring(&mut guest);
    guest.stop();
    guest.forget_queue();
    guest.start(0);
    let (response, _) = guest.ask(&request(Request::ResourceUnref, 0, 0, named(REGION).as_bytes()));
    assert_eq!(response, Response::ErrInvalidResourceId);
    assert_eq!(status(&guest), 0, "the new driver's pages are not written to");
    read_capset(&mut guest);
    start_ring(&mut guest);
    guest.hang_up();
}

#[test]
fn an_executor_that_is_not_quiet_in_time_is_killed_and_its_contexts_are_lost() {
    let mut guest = Guest::connect(ThreadLauncher(Manners::Silent));
    start_ring(&mut guest);
    guest.post(1, &request(Request::ResourceUnref, 0, 0, named(REGION).as_bytes()), 64);
    assert_eq!(guest.take_used(Duration::from_millis(100)), None, "the executor has not let go");
    let before = Instant::now();
    let base = guest.stop();
    assert!((1..4).contains(&before.elapsed().as_secs()));
    assert_eq!(guest.take_used(Duration::ZERO), Some((2, 24)));
    assert_eq!(status(&guest), Status::Lost as u32);
    guest.start(base);
    guest.ok(&request(Request::CtxDestroy, CONTEXT, 0, &[]));
    guest.end();
}

#[test]
fn an_executor_that_is_quiet_before_it_is_asked_is_not_believed() {
    let mut guest = Guest::connect(ThreadLauncher(Manners::Hasty));
    start_ring(&mut guest);
    // What the executor says of a region comes after what it says too early.
    add_and_remove_region(&mut guest, REGION + 1);
    guest.stop();
    assert_eq!(
        status(&guest),
        Status::Lost as u32,
        "it was killed, so that it leaves the guest's memory alone"
    );
    guest.end();
}

#[test]
fn an_executor_that_dies_or_talks_nonsense_costs_its_contexts_only() {
    for manners in [Manners::Dies, Manners::Garbage] {
        let mut guest = Guest::connect(ThreadLauncher(manners));
        create_context(&mut guest);
        let wait = submit(Wait::new(0).as_bytes(), FLAG_FENCE);
        guest.ok(&wait);
        guest.ok(&request(Request::CtxDestroy, CONTEXT, 0, &[]));
        create_context(&mut guest);
        read_capset(&mut guest);
        guest.hang_up();
    }
}

#[test]
fn an_executor_that_cannot_be_started_costs_its_contexts_only() {
    let mut guest = Guest::connect(ProcessLauncher::new(PathBuf::from("/nonexistent")));
    start_ring(&mut guest);
    assert_eq!(status(&guest), Status::Lost as u32);
    guest.ok(&request(Request::CtxDestroy, CONTEXT, 0, &[]));
    guest.hang_up();
}

#[test]
fn the_real_executor_process_starts_and_ends_with_its_session() {
    let mut guest = Guest::connect(ProcessLauncher::new(env!("CARGO_BIN_EXE_paragpud").into()));
    create_context(&mut guest);
    guest.ok(&request(Request::CtxDestroy, CONTEXT, 0, &[]));
    guest.hang_up();
}

#[test]
fn hostile_chains_are_answered_or_ignored_and_nothing_breaks() {
    let mut guest = obedient();
    let bytes = request(Request::GetDisplayInfo, 0, 0, &[]);
    guest.ram.write_slice(&bytes, GuestAddress(FREE)).unwrap();
    let end = RAM_BYTES as u64;
    let whole = bytes.len() as u32;

    // A request that ends early.
    guest.descriptor(10, FREE, 7, NEXT, 11);
    guest.descriptor(11, FREE + 4096, 64, WRITE, 0);
    guest.offer(10);
    assert_eq!(guest.take_used(fake_driver::TIMEOUT), Some((10, 24)));
    // No room for a response; room for a part of it; room outside of memory.
    guest.descriptor(12, FREE, whole, 0, 0);
    guest.offer(12);
    assert_eq!(guest.take_used(fake_driver::TIMEOUT), Some((12, 0)));
    guest.descriptor(12, FREE, whole, NEXT, 13);
    guest.descriptor(13, FREE + 4096, 5, WRITE, 0);
    guest.offer(12);
    assert_eq!(guest.take_used(fake_driver::TIMEOUT), Some((12, 5)));
    guest.descriptor(13, end - 4, 64, WRITE, 0);
    guest.offer(12);
    assert_eq!(guest.take_used(fake_driver::TIMEOUT), Some((12, 0)));
    // A request outside of memory, one that wraps around, one without bytes.
    for (addr, len) in [(end - 8, 64), (u64::MAX - 8, 64), (end * 2, u32::MAX - 4096), (FREE, 0)] {
        guest.descriptor(14, addr, len, NEXT, 15);
        guest.descriptor(15, FREE + 4096, 64, WRITE, 0);
        guest.offer(14);
        assert_eq!(guest.take_used(fake_driver::TIMEOUT), Some((14, 24)), "{addr:#x} {len:#x}");
    }
    // Loops, direct and indirect; an indirect table in a table; one that is not there; next out of range.
    guest.descriptor(16, FREE, whole, NEXT, 17);
    guest.descriptor(17, FREE, whole, NEXT, 16);
    guest.offer(16);
    assert_eq!(guest.take_used(fake_driver::TIMEOUT), Some((16, 0)));
    guest.descriptor_at(FREE + 8192, 0, FREE, 4096, NEXT, 0);
    guest.descriptor(18, FREE + 8192, 16, INDIRECT, 0);
    guest.offer(18);
    assert_eq!(guest.take_used(fake_driver::TIMEOUT), Some((18, 0)));
    guest.descriptor_at(FREE + 8192, 0, FREE + 8192, 16, INDIRECT, 0);
    guest.offer(18);
    assert_eq!(guest.take_used(fake_driver::TIMEOUT), Some((18, 0)));
    guest.descriptor(18, end, 16 * 65535, INDIRECT, 0);
    guest.offer(18);
    assert_eq!(guest.take_used(fake_driver::TIMEOUT), Some((18, 0)));
    guest.descriptor(19, FREE, whole, NEXT, QUEUE_SIZE);
    guest.offer(19);
    assert_eq!(guest.take_used(fake_driver::TIMEOUT), Some((19, 0)));
    // A request of all of memory, many times over: read up to the cap.
    for index in 20..40 {
        guest.descriptor(index, 0, RAM_BYTES as u32, NEXT, index + 1);
    }
    guest.descriptor(40, FREE + 4096, 64, WRITE, 0);
    guest.offer(20);
    assert_eq!(guest.take_used(fake_driver::TIMEOUT), Some((20, 24)));
    // A head that is no descriptor gives nothing back.
    guest.offer(QUEUE_SIZE + 1);
    assert_eq!(guest.take_used(Duration::from_millis(50)), None);

    read_capset(&mut guest);
    guest.hang_up();
}

#[test]
fn an_index_that_jumps_stops_the_queue_and_a_reset_mends_it() {
    let mut guest = obedient();
    start_ring(&mut guest);
    guest.set_available(40_000);
    guest.post(0, &request(Request::GetDisplayInfo, 0, 0, &[]), 1024);
    guest.set_available(40_000);
    let _ = guest.take_used(Duration::from_millis(50));
    guest.stop();
    guest.forget_queue();
    guest.start(0);
    read_capset(&mut guest);
    guest.hang_up();
}

#[test]
fn descriptors_that_are_given_twice_do_not_pile_up() {
    let mut guest = Guest::connect(ThreadLauncher(Manners::Silent));
    start_ring(&mut guest);
    // Its response waits for the executor, which says nothing.
    guest.post(1, &request(Request::CtxDetachResource, CONTEXT, 0, named(REGION).as_bytes()), 64);
    let offer = |guest: &mut Guest, times: u16| {
        (0..times).for_each(|_| guest.offer(2));
        std::thread::sleep(Duration::from_millis(100));
    };
    offer(&mut guest, QUEUE_SIZE / 2);
    offer(&mut guest, QUEUE_SIZE / 2 - 1);
    // As many as there are descriptors may be out.
    guest.kick();
    assert_eq!(guest.take_used(Duration::from_millis(50)), None);
    offer(&mut guest, 1);
    guest.post(0, &request(Request::GetDisplayInfo, 0, 0, &[]), 1024);
    assert_eq!(guest.take_used(Duration::from_millis(200)), None, "the queue is stopped");
    guest.stop();
    guest.forget_queue();
    guest.start(0);
    read_capset(&mut guest);
    guest.hang_up();
}

#[test]
fn a_front_end_that_asks_for_nonsense_is_refused() {
    let guest = obedient();
    assert!(guest.front_end.get_vring_base(7).is_err());
    guest.hang_up();
    let mut guest = obedient();
    // Past the configuration space: an answer of no bytes, which the front end's own check refuses.
    assert!(guest.front_end.get_config(4090, 10, VhostUserConfigFlags::empty(), &[0; 10]).is_err());
    guest.hang_up();
}

#[test]
fn memory_that_is_taken_away_harms_only_its_own_guest() {
    let mut other = obedient();
    let mut guest = obedient();
    start_ring(&mut guest);
    guest.ram_file.set_len(0).unwrap();
    guest.kick();
    guest.hang_up();
    read_capset(&mut other);
    other.hang_up();
}

/// Counts the executors that it starts, and those that have not ended.
#[derive(Debug, Default)]
struct Counted {
    started: Arc<AtomicUsize>,
    running: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct CountedRunning(Box<dyn Running>, Arc<AtomicUsize>);

impl Launcher for Counted {
    fn launch(&self, vgpu: &str, socket: UnixStream) -> io::Result<Box<dyn Running>> {
        self.started.fetch_add(1, Ordering::SeqCst);
        self.running.fetch_add(1, Ordering::SeqCst);
        let running = ThreadLauncher(Manners::Obedient).launch(vgpu, socket)?;
        Ok(Box::new(CountedRunning(running, self.running.clone())))
    }
}

impl Running for CountedRunning {
    fn kill(&mut self) -> String {
        self.1.fetch_sub(1, Ordering::SeqCst);
        self.0.kill()
    }
}

#[test]
fn an_executor_without_contexts_ends_after_a_while_and_comes_back_unseen() {
    let launcher = Counted::default();
    let (started, running) = (launcher.started.clone(), launcher.running.clone());
    let limits = Limits { executor_idle_seconds: Some(1), ..Limits::default() };
    let mut guest = Guest::connect_within("idle", launcher, limits);
    start_ring(&mut guest);
    // One that is used is not idle, whatever its guest does.
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(running.load(Ordering::SeqCst), 1);
    guest.ok(&request(Request::CtxDestroy, CONTEXT, 0, &[]));
    assert_eq!(running.load(Ordering::SeqCst), 1, "it may be wanted again at once");
    create_context(&mut guest);
    assert_eq!(started.load(Ordering::SeqCst), 1, "as here");
    guest.ok(&request(Request::CtxDestroy, CONTEXT, 0, &[]));
    eventually("the executor to end", || running.load(Ordering::SeqCst) == 0);
    create_context(&mut guest);
    assert_eq!((started.load(Ordering::SeqCst), running.load(Ordering::SeqCst)), (2, 1));
    guest.ok(&request(Request::CtxDestroy, CONTEXT, 0, &[]));
}

#[test]
fn the_daemon_can_have_the_executor_killed_and_the_session_ended() {
    let assignment = Assignment::alone("test").unwrap();
    let orders = assignment.orders.clone();
    let mut guest = Guest::connect_as(assignment, ThreadLauncher(Manners::Obedient));
    start_ring(&mut guest);
    assert_ne!(status(&guest), Status::Lost as u32);
    orders.give(Order::KillExecutor("an operator wants it".to_owned()));
    eventually("the context is lost", || status(&guest) == Status::Lost as u32);
    // The session goes on, with another executor for the next context.
    guest.ok(&request(Request::CtxCreate, CONTEXT + 1, 0, CtxCreate::default().as_bytes()));
    orders.give(Order::End);
    eventually("the session ends", || guest.front_end.get_features().is_err());
    guest.hang_up();
}

fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn who_asks_too_often_is_answered_later_even_if_nothing_else_happens() {
    let requests = Some(Rate { per_second: 10, burst: 1 });
    let limits = Limits { requests, executor_idle_seconds: None, ..Limits::default() };
    let mut guest = Guest::connect_within("often", ThreadLauncher(Manners::Obedient), limits);
    let start = Instant::now();
    for _ in 0..5 {
        // One after the other: the queue is empty when its kicks are not listened to.
        read_capset(&mut guest);
    }
    assert!(start.elapsed() > Duration::from_millis(300), "{:?}", start.elapsed());
    guest.hang_up();
}
