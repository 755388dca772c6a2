//! A daemon of a few lines: a real vhost-user back end that says yes.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

use paragpu_protocol::capset::{CAPSET_ID, Capset};
use paragpu_protocol::control::Control;
use paragpu_protocol::virtio_gpu::{
    CapsetInfo, F_VIRGL, Header, MemEntry, Request, ResourceAttachBacking, ResourceCreate3d, ResourceRef,
    Response, Submit3d,
};
use vhost::vhost_user::Listener;
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost_user_backend::{ShutdownHandle, VhostUserBackendMut, VhostUserDaemon, VringMutex, VringT};
use virtio_queue::{QueueOwnedT, QueueT};
use vm_memory::{
    Bytes, GuestAddress, GuestAddressSpace, GuestMemoryAtomic, GuestMemoryLoadGuard, GuestMemoryMmap,
};
use vmm_sys_util::epoll::EventSet;
use zerocopy::{FromBytes, IntoBytes};

pub(super) type Vring = VringMutex<GuestMemoryAtomic<GuestMemoryMmap>>;

/// What the daemon does, and what it has seen.
pub(super) struct Fake {
    /// `VIRTIO_F_EVENT_IDX` is offered.
    pub(super) event_idx: bool,
    /// No request is answered.
    pub(super) mute: bool,
    /// Waits are answered by [`Daemon::release`] only.
    pub(super) hold_waits: bool,
    /// Requests of this kind are answered with `ErrOutOfMemory`.
    pub(super) refuse: Option<Request>,
    /// Requests in the order in which they came.
    pub(super) seen: Vec<Request>,
    /// Live regions: guest address and length.
    pub(super) regions: HashMap<u32, (u64, u32)>,
    /// Name in CTX_CREATE.
    pub(super) name: String,
    /// Held waits: the head, and where the answer goes.
    pub(super) held: Vec<(u16, u64)>,
    /// The control queue, once it was kicked.
    pub(super) vring: Option<Vring>,
    /// The front end's memory.
    pub(super) memory: GuestMemoryAtomic<GuestMemoryMmap>,
}

impl Fake {
    pub(super) fn new() -> Fake {
        Fake {
            event_idx: true,
            mute: false,
            hold_waits: false,
            refuse: None,
            seen: Vec::new(),
            regions: HashMap::new(),
            name: String::new(),
            held: Vec::new(),
            vring: None,
            memory: GuestMemoryAtomic::new(GuestMemoryMmap::new()),
        }
    }

    fn drain(&mut self, vring: &Vring) {
        let memory = self.memory.memory();
        let mut used = false;
        while let Some((head, request, (address, room))) = next_chain(vring, &memory) {
            let Some(response) = self.respond(head, &request, address) else { continue };
            assert!(response.len() <= room as usize);
            memory.write_slice(&response, GuestAddress(address)).unwrap();
            vring.add_used(head, response.len() as u32).unwrap();
            used = true;
        }
        if used && vring.needs_notification().unwrap() {
            vring.signal_used_queue().unwrap();
        }
    }

    fn respond(&mut self, head: u16, request: &[u8], address: u64) -> Option<Vec<u8>> {
        let (header, body) = Header::read_from_prefix(request).unwrap();
        let kind = Request::from_wire(header.kind.get()).unwrap();
        self.seen.push(kind);
        if self.mute {
            return None;
        }
        if self.refuse == Some(kind) {
            return Some(response(Response::ErrOutOfMemory, &[]));
        }
        match kind {
            Request::GetCapsetInfo => {
                let info = CapsetInfo { capset_id: CAPSET_ID.into(), ..CapsetInfo::default() };
                return Some(response(Response::OkCapsetInfo, info.as_bytes()));
            }
            Request::GetCapset => return Some(response(Response::OkCapset, Capset::current().as_bytes())),
            Request::CtxCreate => {
                let body = paragpu_protocol::virtio_gpu::CtxCreate::read_from_bytes(body).unwrap();
                let name = &body.debug_name.as_flattened()[..body.nlen.get() as usize];
                self.name = String::from_utf8(name.to_vec()).unwrap();
            }
            Request::ResourceCreate3d => {
                let body = ResourceCreate3d::read_from_bytes(body).unwrap();
                let old = self.regions.insert(body.resource_id.get(), (0, body.width.get()));
                assert_eq!(old, None);
            }
            Request::ResourceAttachBacking => {
                let (body, entries) = ResourceAttachBacking::read_from_prefix(body).unwrap();
                let entry = MemEntry::read_from_bytes(entries).unwrap();
                let region = self.regions.get_mut(&body.resource_id.get()).unwrap();
                assert_eq!(region.1, entry.length.get());
                region.0 = entry.addr.get();
            }
            Request::ResourceUnref => {
                let id = ResourceRef::read_from_bytes(body).unwrap().resource_id.get();
                if self.regions.remove(&id).is_none() {
                    return Some(response(Response::ErrInvalidResourceId, &[]));
                }
            }
            Request::Submit3d => {
                let (body, payload) = Submit3d::read_from_prefix(body).unwrap();
                assert_eq!(body.size.get() as usize, payload.len());
                if matches!(Control::parse(payload), Ok(Control::Wait(_))) && self.hold_waits {
                    self.held.push((head, address));
                    return None;
                }
            }
            _ => {}
        }
        Some(response(Response::OkNodata, &[]))
    }
}

fn response(kind: Response, body: &[u8]) -> Vec<u8> {
    let header = Header { kind: (kind as u32).into(), ..Header::default() };
    [header.as_bytes(), body].concat()
}

/// The next request: its head, its bytes, and where the answer goes.
fn next_chain(
    vring: &Vring,
    memory: &GuestMemoryLoadGuard<GuestMemoryMmap>,
) -> Option<(u16, Vec<u8>, (u64, u32))> {
    let mut state = vring.get_mut();
    let queue = state.get_queue_mut();
    loop {
        let chain = queue.iter(memory.clone()).unwrap().next();
        if let Some(mut chain) = chain {
            let head = chain.head_index();
            let request = chain.next().unwrap();
            let answer = chain.next().unwrap();
            assert!(!request.is_write_only() && answer.is_write_only() && chain.next().is_none());
            let mut bytes = vec![0; request.len() as usize];
            memory.read_slice(&mut bytes, request.addr()).unwrap();
            return Some((head, bytes, (answer.addr().0, answer.len())));
        }
        if !queue.enable_notification(&**memory).unwrap() {
            return None;
        }
    }
}

impl VhostUserBackendMut for Fake {
    type Bitmap = ();
    type Vring = Vring;

    fn num_queues(&self) -> usize {
        2
    }

    fn max_queue_size(&self) -> usize {
        256
    }

    fn features(&self) -> u64 {
        let event_idx = if self.event_idx { 1 << 29 } else { 0 };
        1 << 32 | event_idx | F_VIRGL | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
    }

    fn set_event_idx(&mut self, enabled: bool) {
        assert_eq!(enabled, self.event_idx);
    }

    fn update_memory(&mut self, memory: GuestMemoryAtomic<GuestMemoryMmap>) -> std::io::Result<()> {
        self.memory = memory;
        Ok(())
    }

    fn handle_event(
        &mut self,
        event: u16,
        _set: EventSet,
        vrings: &[Vring],
        _thread: usize,
    ) -> std::io::Result<()> {
        if event == 0 {
            self.vring = Some(vrings[0].clone());
            self.drain(&vrings[0]);
        }
        Ok(())
    }
}

/// The fake behind a socket, for one connection.
pub(super) struct Daemon {
    pub(super) socket: PathBuf,
    pub(super) fake: Arc<Mutex<Fake>>,
    connected: Receiver<ShutdownHandle>,
}

impl Daemon {
    pub(super) fn start(fake: Fake) -> Daemon {
        let socket = socket_path();
        let mut listener = Listener::new(&socket, true).unwrap();
        let memory = fake.memory.clone();
        let fake = Arc::new(Mutex::new(fake));
        let backend = Arc::clone(&fake);
        let (tell, connected) = channel();
        std::thread::spawn(move || {
            let mut daemon = VhostUserDaemon::new("fake".into(), backend, memory).unwrap();
            daemon.start(&mut listener).unwrap();
            let _ = tell.send(daemon.shutdown_handle().unwrap());
            let _ = daemon.wait();
        });
        Daemon { socket, fake, connected }
    }

    /// Answers all held waits.
    pub(super) fn release(&self) -> usize {
        let mut fake = self.fake.lock().unwrap();
        let held = std::mem::take(&mut fake.held);
        let vring = fake.vring.clone().unwrap();
        let memory = fake.memory.memory();
        for (head, address) in &held {
            let answer = response(Response::OkNodata, &[]);
            memory.write_slice(&answer, GuestAddress(*address)).unwrap();
            vring.add_used(*head, answer.len() as u32).unwrap();
        }
        if vring.needs_notification().unwrap() {
            vring.signal_used_queue().unwrap();
        }
        held.len()
    }

    /// Number of waits that are held.
    pub(super) fn held(&self) -> usize {
        self.fake.lock().unwrap().held.len()
    }

    /// Ends the connection.
    pub(super) fn hang_up(&self) {
        self.connected.recv().unwrap().shutdown();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// A path that no other test uses.
pub(super) fn socket_path() -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("paragpu-direct-{}-{count}.sock", std::process::id());
    Path::new(&std::env::temp_dir()).join(name)
}
