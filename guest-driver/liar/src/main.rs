//! A device that lies, for the guest's kernel module: a vhost-user back end without a GPU that answers wrongly, or not at
//! all. Serves one front end at a socket; each time a driver is loaded, the next lie of the list is told.
//!
//!     target/debug/paragpu-liar /tmp/liar.sock none short-capset silent-unref
//!
//! `cargo xtask module` has the guest's part (examples/module_check/lies.rs).

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result, anyhow};
use clap::{Parser, ValueEnum};
use paragpu_protocol::capset::{CAPSET_ID, Capset};
use paragpu_protocol::virtio_gpu::{CapsetInfo, Config, Header, Request, Response};
use vhost::vhost_user::message::VhostUserProtocolFeatures;
use vhost::vhost_user::{GpuBackend, Listener};
use vhost_user_backend::{VhostUserBackendMut, VhostUserDaemon, VringMutex, VringT};
use virtio_queue::{QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use zerocopy::{FromBytes, IntoBytes};

/// Serves a device that lies.
#[derive(Parser)]
struct Arguments {
    /// Where to listen.
    socket: PathBuf,
    /// The lies, one for each time a driver is loaded; then the truth.
    lies: Vec<Lie>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Lie {
    /// Everything is as it should be, but that there is no GPU.
    None,
    /// The answer to the first question ends after its header.
    ShortInfo,
    /// The first capset is somebody else's.
    OtherCapset,
    /// The capset ends early.
    ShortCapset,
    /// There is no capset.
    NoCapset,
    /// The first question is not answered.
    SilentInfo,
    /// The answer to a new context ends within its header.
    ShortContext,
    /// The answer to a new resource is said to be longer than there was room for.
    LongResource,
    /// No resource is made.
    NoResource,
    /// A new resource is not answered.
    SilentResource,
    /// A resource's end is refused.
    NoUnref,
    /// A resource's end is not answered.
    SilentUnref,
    /// Submissions are not answered.
    SilentSubmit,
    /// A request is answered that was not made.
    UnknownAnswer,
    /// A request is answered twice.
    DoubleAnswer,
}

/// An answer, and how long it is said to be.
type Answer = (Vec<u8>, u32);

fn plain(kind: Response, body: &[u8]) -> Answer {
    let header = Header { kind: (kind as u32).into(), ..Header::default() };
    let bytes = [header.as_bytes(), body].concat();
    let length = bytes.len() as u32;
    (bytes, length)
}

impl Lie {
    /// What is answered; nothing for no answer.
    fn answer(self, request: Option<Request>) -> Option<Answer> {
        let capset = Capset::current();
        let (bytes, length) = match request {
            Some(Request::GetCapsetInfo) => {
                let id = if self == Lie::OtherCapset { 2 } else { CAPSET_ID };
                let size = size_of::<Capset>() as u32;
                let info = CapsetInfo {
                    capset_id: id.into(),
                    capset_max_size: size.into(),
                    ..CapsetInfo::default()
                };
                plain(Response::OkCapsetInfo, info.as_bytes())
            }
            Some(Request::GetCapset) => plain(Response::OkCapset, capset.as_bytes()),
            _ => plain(Response::OkNodata, &[]),
        };
        match (self, request) {
            (Lie::ShortInfo, Some(Request::GetCapsetInfo)) => Some((bytes, 24)),
            (Lie::ShortCapset, Some(Request::GetCapset)) => Some((bytes, 24 + 12)),
            (Lie::NoCapset, Some(Request::GetCapset)) => Some(plain(Response::ErrInvalidParameter, &[])),
            (Lie::ShortContext, Some(Request::CtxCreate)) => Some((bytes, 8)),
            (Lie::LongResource, Some(Request::ResourceCreate3d)) => Some((bytes, 1 << 20)),
            (Lie::NoResource, Some(Request::ResourceCreate3d)) => Some(plain(Response::ErrOutOfMemory, &[])),
            (Lie::NoResource, Some(Request::ResourceAttachBacking | Request::CtxAttachResource)) => {
                Some(plain(Response::ErrInvalidResourceId, &[]))
            }
            (Lie::NoUnref, Some(Request::ResourceUnref)) => Some(plain(Response::ErrUnspec, &[])),
            (Lie::SilentInfo, Some(Request::GetCapsetInfo))
            | (Lie::SilentResource, Some(Request::ResourceCreate3d))
            | (Lie::SilentUnref, Some(Request::ResourceUnref))
            | (Lie::SilentSubmit, Some(Request::Submit3d)) => None,
            _ => Some((bytes, length)),
        }
    }
}

type Vring = VringMutex<GuestMemoryAtomic<GuestMemoryMmap>>;

struct Liar {
    lies: VecDeque<Lie>,
    lie: Lie,
    memory: GuestMemoryAtomic<GuestMemoryMmap>,
    /// QEMU complains if nobody has the other end.
    display: Option<GpuBackend>,
}

impl Liar {
    fn serve(&mut self, vring: &Vring) -> Result<()> {
        let memory = self.memory.memory();
        loop {
            let chain = vring.get_mut().get_queue_mut().iter(memory.clone())?.next();
            let Some(chain) = chain else {
                if vring.get_mut().get_queue_mut().enable_notification(&*memory)? {
                    continue;
                }
                break;
            };
            let head = chain.head_index();
            let (mut request, mut room) = (vec![0; size_of::<Header>()], None);
            for (index, descriptor) in chain.enumerate() {
                if index == 0 {
                    memory.read_slice(&mut request, descriptor.addr())?;
                } else if descriptor.is_write_only() {
                    room = Some((descriptor.addr().0, descriptor.len() as usize));
                }
            }
            let (header, _) = Header::read_from_prefix(&request).ok().context("no header")?;
            let request = Request::from_wire(header.kind.get());
            if request == Some(Request::GetCapsetInfo) {
                self.lie = self.lies.pop_front().unwrap_or(Lie::None);
                println!("{:?}", self.lie);
            }
            let Some((bytes, length)) = self.lie.answer(request) else { continue };
            let (address, room) = room.context("no room for an answer")?;
            memory.write_slice(&bytes[..bytes.len().min(room)], GuestAddress(address))?;
            let is_resource = request == Some(Request::ResourceCreate3d);
            if self.lie == Lie::UnknownAnswer && is_resource {
                vring.add_used(head ^ 0x80, 24)?;
            }
            vring.add_used(head, length)?;
            if self.lie == Lie::DoubleAnswer && is_resource {
                vring.add_used(head, length)?;
            }
        }
        vring.signal_used_queue()?;
        Ok(())
    }
}

impl VhostUserBackendMut for Liar {
    type Bitmap = ();
    type Vring = Vring;

    fn num_queues(&self) -> usize {
        2
    }

    fn max_queue_size(&self) -> usize {
        1024
    }

    fn features(&self) -> u64 {
        // QEMU acks the transport's bits whether they are offered or not: VERSION_1, INDIRECT_DESC, NOTIFY_ON_EMPTY,
        // ANY_LAYOUT, RING_RESET, EVENT_IDX, and vhost-user's own; and virtio-gpu's first two.
        [0, 1, 24, 27, 28, 29, 30, 32, 40].into_iter().map(|bit| 1 << bit).sum()
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
    }

    fn set_event_idx(&mut self, _enabled: bool) {}

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        let config = Config { num_scanouts: 1.into(), num_capsets: 1.into(), ..Config::default() };
        let space = config.as_bytes().iter().copied().chain(std::iter::repeat(0));
        space.skip(offset as usize).take(size as usize).collect()
    }

    fn set_config(&mut self, _offset: u32, _bytes: &[u8]) -> std::io::Result<()> {
        Ok(())
    }

    fn set_gpu_socket(&mut self, display: GpuBackend) -> std::io::Result<()> {
        self.display = Some(display);
        Ok(())
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
        if event == 0 { self.serve(&vrings[0]).map_err(std::io::Error::other) } else { Ok(()) }
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
    let liar = Liar { lies: arguments.lies.into(), lie: Lie::None, memory: memory.clone(), display: None };
    let mut listener = Listener::new(&arguments.socket, true)?;
    let daemon = VhostUserDaemon::new("liar".into(), Arc::new(Mutex::new(liar)), memory);
    let mut daemon = daemon.map_err(|error| anyhow!("no daemon: {error:?}"))?;
    daemon.start(&mut listener).map_err(|error| anyhow!("no front end: {error:?}"))?;
    daemon.wait().map_err(|error| anyhow!("{error:?}"))
}
