//! A virtio-gpu driver without a kernel, and executors without a device.

#![allow(dead_code, unreachable_pub, missing_docs)] // Each test file uses a part of it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use paragpu::executor::channel::Channel;
use paragpu::executor::message::{ContextUsage, ToBroker, ToExecutor};
use paragpu::executor::supervisor::{Launcher, Running};
use paragpu::limits::Limits;
use paragpu::vhost::event_loop;
use paragpu::vhost::orders::Assignment;
use paragpu_protocol::virtio_gpu::{Header, Request, Response};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use vhost::vhost_user::message::{VhostUserInflight, VhostUserProtocolFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use zerocopy::{FromBytes, IntoBytes};

pub const TIMEOUT: Duration = Duration::from_secs(10);

pub const RAM_BYTES: usize = 4 << 20;
pub const QUEUE_SIZE: u16 = 64;
const DESCRIPTORS: u64 = 0x1000;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x3000;
const REQUEST: u64 = 0x1_0000;
const RESPONSE: u64 = 0x8_0000;
/// Guest-physical address from which tests may take pages for regions.
pub const FREE: u64 = 0x10_0000;
/// The front end's own addresses, as far as the back end may know.
const USER: u64 = 0x7000_0000_0000;

pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;

/// How an executor of the tests behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manners {
    /// Answers everything.
    Obedient,
    /// Reads, and never answers.
    Silent,
    /// Says that it is quiet when nobody asked, and nothing when somebody does.
    Hasty,
    /// Sends bytes that are no message.
    Garbage,
    /// Ends at the first context.
    Dies,
}

#[derive(Debug)]
pub struct ThreadLauncher(pub Manners);

#[derive(Debug)]
struct ThreadRunning(UnixStream, Option<JoinHandle<()>>);

impl Launcher for ThreadLauncher {
    fn launch(&self, _vgpu: &str, socket: UnixStream) -> io::Result<Box<dyn Running>> {
        let ours = socket.try_clone()?;
        let manners = self.0;
        let thread = std::thread::spawn(move || executor(socket, manners));
        Ok(Box::new(ThreadRunning(ours, Some(thread))))
    }
}

impl Running for ThreadRunning {
    fn kill(&mut self) -> String {
        let _ = self.0.shutdown(std::net::Shutdown::Both);
        if let Some(thread) = self.1.take() {
            thread.join().unwrap();
        }
        "thread ended".into()
    }
}

fn executor(socket: UnixStream, manners: Manners) {
    let channel = Channel::new(socket);
    let mut wake: Option<OwnedFd> = None;
    let mut quiet = false;
    while let Ok(Some((message, fds))) = channel.recv::<ToExecutor>() {
        let answer = match message {
            ToExecutor::Hello { .. } => {
                wake = fds.into_iter().next();
                ToBroker::Ready { devices: vec!["none".into()] }
            }
            ToExecutor::CreateContext { .. } if manners == Manners::Garbage => {
                rustix::io::write(&channel, &[0xff; 64]).unwrap();
                continue;
            }
            ToExecutor::CreateContext { .. } if manners == Manners::Dies => {
                let _ = rustix::net::shutdown(&channel, rustix::net::Shutdown::Both);
                return;
            }
            ToExecutor::CreateContext { .. } if manners == Manners::Hasty => ToBroker::Quiesced,
            ToExecutor::Quiesce if manners == Manners::Hasty => continue,
            ToExecutor::CreateContext { .. } => {
                // Every doorbell wakes the guest.
                let doorbell = fds.into_iter().next().unwrap();
                let wake = wake.as_ref().unwrap().try_clone().unwrap();
                std::thread::spawn(move || {
                    let mut polled = [PollFd::new(&doorbell, PollFlags::IN)];
                    let limit = Timespec::try_from(TIMEOUT).unwrap();
                    if poll(&mut polled, Some(&limit)).is_ok_and(|ready| ready > 0) {
                        let _ = rustix::io::write(&wake, &1_u64.to_ne_bytes());
                    }
                });
                continue;
            }
            ToExecutor::RemoveRegion { context, region } => ToBroker::RegionRemoved { context, region },
            ToExecutor::DestroyContext { context } => {
                let usage = ContextUsage { commands: 3, ..ContextUsage::default() };
                ToBroker::ContextDestroyed { context, usage }
            }
            ToExecutor::Quiesce => {
                assert!(!quiet, "told to be quiet twice");
                quiet = true;
                ToBroker::Quiesced
            }
            ToExecutor::Resume => {
                assert!(quiet, "resumed without having been quiet");
                quiet = false;
                continue;
            }
            _ => continue,
        };
        if manners != Manners::Silent && channel.send(&answer, &[]).is_err() {
            return;
        }
    }
}

/// A served connection with a guest's memory and control queue.
pub struct Guest {
    pub front_end: Frontend,
    pub ram: GuestMemoryMmap,
    pub ram_file: File,
    pub kick: EventFd,
    pub call: EventFd,
    available: u16,
    used: u16,
    exit: Arc<OwnedFd>,
    session: Option<JoinHandle<()>>,
    in_flight: Option<(VhostUserInflight, File)>,
}

impl Guest {
    /// Connects and sets everything up, as a front end does.
    pub fn connect(launcher: impl Launcher + 'static) -> Guest {
        Guest::connect_within("test", launcher, Limits::default())
    }

    /// The same to a vGPU with a name and limits.
    pub fn connect_within(name: &str, launcher: impl Launcher + 'static, limits: Limits) -> Guest {
        Guest::connect_as(Assignment { limits, ..Assignment::alone(name).unwrap() }, launcher)
    }

    /// The same as a connection to which the daemon may say something.
    pub fn connect_as(assignment: Assignment, launcher: impl Launcher + 'static) -> Guest {
        let mut guest = Guest::connect_only(assignment, launcher);
        guest.set_up();
        guest.start(0);
        guest
    }

    /// Connects, and says nothing yet.
    pub fn connect_only(assignment: Assignment, launcher: impl Launcher + 'static) -> Guest {
        let (ours, exit, session) = serve(assignment, launcher);
        let file = rustix::fs::memfd_create("ram", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let file = File::from(file);
        file.set_len(RAM_BYTES as u64).unwrap();
        let range = (GuestAddress(0), RAM_BYTES, Some(FileOffset::new(file.try_clone().unwrap(), 0)));
        Guest {
            front_end: Frontend::from_stream(ours, 2),
            ram: GuestMemoryMmap::from_ranges_with_files([range]).unwrap(),
            ram_file: file,
            kick: EventFd::new(0).unwrap(),
            call: EventFd::new(EFD_NONBLOCK).unwrap(),
            available: 0,
            used: 0,
            exit,
            session: Some(session),
            in_flight: None,
        }
    }

    /// Stops, and starts with the requests that are in flight written down.
    pub fn keep_in_flight(&mut self) {
        let wanted =
            VhostUserInflight { num_queues: 2, queue_size: QUEUE_SIZE, ..VhostUserInflight::default() };
        let base = self.stop();
        let (area, file) = self.front_end.get_inflight_fd(&wanted).unwrap();
        self.front_end.set_inflight_fd(&area, file.as_raw_fd()).unwrap();
        self.in_flight = Some((area, file));
        self.start(base);
    }

    /// The file in which they are.
    pub fn in_flight_file(&self) -> &File {
        &self.in_flight.as_ref().unwrap().1
    }

    /// The back end ends without a word, and the front end connects to another one with the rings as they are.
    pub fn reconnect(&mut self, launcher: impl Launcher + 'static) {
        rustix::io::write(&*self.exit, &1_u64.to_ne_bytes()).unwrap();
        self.session.take().unwrap().join().unwrap();
        let (ours, exit, session) = serve(Assignment::alone("test").unwrap(), launcher);
        (self.front_end, self.exit, self.session) = (Frontend::from_stream(ours, 2), exit, Some(session));
        self.set_up();
        if let Some((area, file)) = &self.in_flight {
            self.front_end.set_inflight_fd(area, file.as_raw_fd()).unwrap();
        }
        // As cloud-hypervisor does: where the driver is, not where the back end was.
        self.start(self.available);
    }

    fn set_up(&mut self) {
        let front_end = &mut self.front_end;
        front_end.set_owner().unwrap();
        let features = front_end.get_features().unwrap();
        // As QEMU does, with bits that were never offered. Without event-idx, to be told of everything.
        front_end.set_features((features | 1 << 60) & !(1 << 29)).unwrap();
        let protocol = front_end.get_protocol_features().unwrap();
        front_end.set_protocol_features(protocol & !VhostUserProtocolFeatures::BACKEND_REQ).unwrap();
        front_end.set_hdr_flags(vhost::vhost_user::message::VhostUserHeaderFlag::NEED_REPLY);
        self.share_memory();
    }

    /// Lets the back end have the guest's memory.
    pub fn share_memory(&self) {
        self.front_end.set_mem_table(&[self.ram_region()]).unwrap();
    }

    /// All of it, as the front end tells of it.
    pub fn ram_region(&self) -> VhostUserMemoryRegionInfo {
        VhostUserMemoryRegionInfo {
            guest_phys_addr: 0,
            memory_size: RAM_BYTES as u64,
            userspace_addr: USER,
            mmap_offset: 0,
            mmap_handle: self.ram_file.as_raw_fd(),
        }
    }

    /// Starts the control queue at `base`.
    pub fn start(&mut self, base: u16) {
        let front_end = &mut self.front_end;
        front_end.set_vring_num(0, QUEUE_SIZE).unwrap();
        front_end.set_vring_addr(0, &addresses(0)).unwrap();
        front_end.set_vring_base(0, base).unwrap();
        front_end.set_vring_call(0, &self.call).unwrap();
        front_end.set_vring_kick(0, &self.kick).unwrap();
        front_end.set_vring_enable(0, true).unwrap();
    }

    /// Stops the control queue, as a pause or a reset does. Returns where it was.
    pub fn stop(&mut self) -> u16 {
        self.front_end.get_vring_base(0).unwrap() as u16
    }

    /// Empties the rings, as a driver does that starts anew.
    pub fn forget_queue(&mut self) {
        self.ram.write_slice(&[0; 0x3000], GuestAddress(DESCRIPTORS)).unwrap();
        (self.available, self.used) = (0, 0);
    }

    pub fn descriptor(&self, index: u16, addr: u64, len: u32, flags: u16, next: u16) {
        self.descriptor_at(DESCRIPTORS, index, addr, len, flags, next);
    }

    pub fn descriptor_at(&self, table: u64, index: u16, addr: u64, len: u32, flags: u16, next: u16) {
        let mut bytes = addr.to_le_bytes().to_vec();
        bytes.extend(len.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        self.ram.write_slice(&bytes, GuestAddress(table + u64::from(index) * 16)).unwrap();
    }

    /// Makes a chain available.
    pub fn offer(&mut self, head: u16) {
        let slot = AVAILABLE + 4 + u64::from(self.available % QUEUE_SIZE) * 2;
        self.ram.write_obj(head.to_le(), GuestAddress(slot)).unwrap();
        self.available = self.available.wrapping_add(1);
        self.set_available(self.available);
    }

    pub fn set_available(&self, index: u16) {
        self.ram.store(index.to_le(), GuestAddress(AVAILABLE + 2), Ordering::Release).unwrap();
        self.kick();
    }

    pub fn kick(&self) {
        self.kick.write(1).unwrap();
    }

    /// Takes the next used chain: its head, and the bytes written. `None` if none comes in time.
    pub fn take_used(&mut self, timeout: Duration) -> Option<(u16, u32)> {
        let until = Instant::now() + timeout;
        loop {
            let index: u16 = self.ram.load(GuestAddress(USED + 2), Ordering::Acquire).unwrap();
            if index != self.used {
                let slot = USED + 4 + u64::from(self.used % QUEUE_SIZE) * 8;
                let head: u32 = self.ram.read_obj(GuestAddress(slot)).unwrap();
                let len: u32 = self.ram.read_obj(GuestAddress(slot + 4)).unwrap();
                self.used = self.used.wrapping_add(1);
                return Some((head as u16, len));
            }
            if Instant::now() >= until {
                return None;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Puts a request and room for its response into the queue, on descriptors of its own.
    pub fn post(&mut self, slot: u16, request: &[u8], response_bytes: u32) {
        let offset = u64::from(slot) * 0x1000;
        self.ram.write_slice(request, GuestAddress(REQUEST + offset)).unwrap();
        self.descriptor(slot * 2, REQUEST + offset, request.len() as u32, NEXT, slot * 2 + 1);
        self.descriptor(slot * 2 + 1, RESPONSE + offset, response_bytes, WRITE, 0);
        self.offer(slot * 2);
    }

    /// The response in a slot.
    pub fn response(&self, slot: u16, len: u32) -> (Header, Vec<u8>) {
        let mut bytes = vec![0; len as usize];
        self.ram.read_slice(&mut bytes, GuestAddress(RESPONSE + u64::from(slot) * 0x1000)).unwrap();
        let (header, body) = Header::read_from_prefix(&bytes).expect("a whole header");
        (header, body.to_vec())
    }

    /// Sends one request and waits for its response.
    pub fn ask(&mut self, request: &[u8]) -> (Response, Vec<u8>) {
        self.post(0, request, 2048);
        let (head, len) = self.take_used(TIMEOUT).expect("an answer");
        assert_eq!(head, 0);
        let (header, body) = self.response(0, len);
        (Response::from_wire(header.kind.get()).expect("a response"), body)
    }

    /// Sends one request that must succeed.
    pub fn ok(&mut self, request: &[u8]) {
        assert_eq!(self.ask(request).0, Response::OkNodata);
    }

    /// Tells the session to end, as the daemon does, and waits for it.
    pub fn end(mut self) {
        rustix::io::write(&*self.exit, &1_u64.to_ne_bytes()).unwrap();
        self.session.take().unwrap().join().unwrap();
    }

    /// Hangs up, and waits for the session to end.
    pub fn hang_up(self) {
        let Guest { front_end, mut session, .. } = self;
        drop(front_end);
        session.take().unwrap().join().unwrap();
    }
}

fn serve(
    assignment: Assignment,
    launcher: impl Launcher + 'static,
) -> (UnixStream, Arc<OwnedFd>, JoinHandle<()>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let exit = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).unwrap());
    let session_exit = exit.clone();
    let session = std::thread::spawn(move || {
        event_loop::serve(&assignment, theirs, Arc::new(launcher), session_exit.as_fd());
    });
    (ours, exit, session)
}

/// Where the parts of a queue are: those of the control queue, and behind them those of others, which tests leave empty.
pub fn addresses(queue: u64) -> VringConfigData {
    let part = |at: u64| USER + at + queue * 0x4000;
    VringConfigData {
        queue_max_size: QUEUE_SIZE,
        queue_size: QUEUE_SIZE,
        flags: 0,
        desc_table_addr: part(DESCRIPTORS),
        used_ring_addr: part(USED),
        avail_ring_addr: part(AVAILABLE),
        log_addr: None,
    }
}

/// A request's bytes.
pub fn request(kind: Request, context: u32, flags: u32, body: &[u8]) -> Vec<u8> {
    let header = Header {
        kind: (kind as u32).into(),
        flags: flags.into(),
        ctx_id: context.into(),
        ..Header::default()
    };
    [header.as_bytes(), body].concat()
}
