//! From a socket path to running queues: the vhost-user front end's side of the set-up.

use std::io::ErrorKind;
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use paragpu_protocol::virtio_gpu::{F_VIRGL, QUEUES};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use vhost::vhost_user::message::{VhostUserHeaderFlag, VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::memory::{CONTROL, CURSOR, Memory};
use super::virtqueue::Layout;
use crate::transport::TransportError;

/// `VIRTIO_F_VERSION_1`.
const F_VERSION_1: u64 = 1 << 32;
/// `VIRTIO_F_EVENT_IDX`.
const F_EVENT_IDX: u64 = 1 << 29;

/// Connects to the daemon's socket.
pub(super) fn dial(path: &Path, patience: Duration) -> Result<UnixStream, TransportError> {
    let shown = path.display();
    let failed = |source: rustix::io::Errno| {
        let source = std::io::Error::from(source);
        TransportError::NoDevice(match source.kind() {
            ErrorKind::NotFound => format!(
                "there is no socket {shown}: is paragpud running? It makes it when started with \
                 --socket-path {shown}"
            ),
            ErrorKind::ConnectionRefused => {
                format!("nobody listens on {shown}: is paragpud running? Start it with --socket-path {shown}")
            }
            ErrorKind::PermissionDenied => {
                format!("this user may not connect to {shown}: join the group that the socket belongs to")
            }
            ErrorKind::WouldBlock => format!("paragpud does not accept connections on {shown}"),
            _ => format!("cannot connect to {shown}: {source}"),
        })
    };
    let socket =
        socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).map_err(failed)?;
    // A daemon that listens and never accepts would block connect() for ever once its queue is full.
    set_socket_timeout(&socket, Timeout::Send, Some(patience)).map_err(failed)?;
    let address = SocketAddrUnix::new(path).map_err(failed)?;
    connect(&socket, &address).map_err(failed)?;
    Ok(UnixStream::from(socket))
}

/// A device whose queues run.
pub(super) struct Link {
    /// Keeps the connection: the daemon sees it end when this and `socket` are dropped.
    _frontend: Frontend,
    /// The same socket, to see the daemon hang up.
    pub(super) socket: UnixStream,
    /// Tells the device of new requests.
    pub(super) kick: EventFd,
    /// Tells us of answers.
    pub(super) call: EventFd,
    /// The cursor queue's two, which nobody uses.
    _cursor: Option<(EventFd, EventFd)>,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("socket", &self.socket).finish_non_exhaustive()
    }
}

/// Sets the device up; `event_idx` in the result says whether the queues use `VIRTIO_F_EVENT_IDX`.
/// A daemon that does not answer within `patience` is hung up on.
pub(super) fn set_up(
    socket: UnixStream,
    memory: &Memory,
    patience: Duration,
) -> Result<(Link, bool), TransportError> {
    let io = |what| move |source| TransportError::Io { what, source };
    let watched = socket.try_clone().map_err(io("duplicating the daemon's socket"))?;
    let ours = socket.try_clone().map_err(io("duplicating the daemon's socket"))?;
    // `vhost` waits without limit and repeats a read that a socket time-out ends, so the limit is a shutdown
    // from another thread.
    let (done, expiry) = channel::<()>();
    let watch = std::thread::Builder::new()
        .name("paragpu-connect".into())
        .spawn(move || {
            let late = expiry.recv_timeout(patience) == Err(RecvTimeoutError::Timeout);
            if late {
                // The socket may be gone already; then there is nothing to end.
                let _ = watched.shutdown(Shutdown::Both);
            }
            late
        })
        .map_err(io("starting a thread"))?;
    let result = negotiate(socket, ours, memory);
    drop(done);
    if watch.join().unwrap_or(false) && result.is_err() {
        return Err(TransportError::Unusable(format!(
            "paragpud did not answer the vhost-user set-up within {} s",
            patience.as_secs_f32()
        )));
    }
    result
}

/// Names the step in an error.
fn step<T>(name: &str, result: vhost::Result<T>) -> Result<T, TransportError> {
    result.map_err(|error| {
        TransportError::Unusable(format!(
            "paragpud did not take the vhost-user request {name}: {error}; its log says more"
        ))
    })
}

fn negotiate(socket: UnixStream, ours: UnixStream, memory: &Memory) -> Result<(Link, bool), TransportError> {
    let mut frontend = Frontend::from_stream(socket, QUEUES as u64);
    step("SET_OWNER", frontend.set_owner())?;
    let offered = step("GET_FEATURES", frontend.get_features())?;
    let protocol = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
    let needed = F_VERSION_1 | F_VIRGL | protocol;
    if offered & needed != needed {
        return Err(TransportError::Unusable(format!(
            "what listens on the socket is not a paragpu: it offers the features {offered:#x}, of which \
             {needed:#x} are needed"
        )));
    }
    let protocol_offered = step("GET_PROTOCOL_FEATURES", frontend.get_protocol_features())?;
    let protocol_wanted = VhostUserProtocolFeatures::CONFIG
        | VhostUserProtocolFeatures::MQ
        | VhostUserProtocolFeatures::REPLY_ACK
        | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS;
    let protocol_acked = protocol_offered & protocol_wanted;
    step("SET_PROTOCOL_FEATURES", frontend.set_protocol_features(protocol_acked))?;
    // From here every request is acknowledged, so that a refusal is seen at the request that it is about.
    if protocol_acked.contains(VhostUserProtocolFeatures::REPLY_ACK) {
        frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
    }
    let queues = if protocol_acked.contains(VhostUserProtocolFeatures::MQ) {
        step("GET_QUEUE_NUM", frontend.get_queue_num())?
    } else {
        QUEUES as u64
    };
    let features = offered & (needed | F_EVENT_IDX);
    step("SET_FEATURES", frontend.set_features(features))?;
    step("SET_MEM_TABLE", frontend.set_mem_table(&[table_entry(memory)]).map(|_bases| ()))?;

    let (kick, call) = start_queue(&mut frontend, 0, CONTROL, memory)?;
    let cursor = if queues > 1 { Some(start_queue(&mut frontend, 1, CURSOR, memory)?) } else { None };
    Ok((Link { _frontend: frontend, socket: ours, kick, call, _cursor: cursor }, features & F_EVENT_IDX != 0))
}

/// All of the memory at guest address 0.
fn table_entry(memory: &Memory) -> VhostUserMemoryRegionInfo {
    VhostUserMemoryRegionInfo {
        guest_phys_addr: 0,
        memory_size: memory.mapping().len() as u64,
        userspace_addr: memory.mapping().ptr().as_ptr() as u64,
        mmap_offset: 0,
        mmap_handle: memory.file().as_raw_fd(),
    }
}

fn start_queue(
    frontend: &mut Frontend,
    index: usize,
    layout: Layout,
    memory: &Memory,
) -> Result<(EventFd, EventFd), TransportError> {
    let eventfd = || {
        EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)
            .map_err(|source| TransportError::Io { what: "making an eventfd", source })
    };
    let (kick, call) = (eventfd()?, eventfd()?);
    // vhost-user names the rings by the front end's own addresses.
    let base = memory.mapping().ptr().as_ptr() as u64;
    let config = VringConfigData {
        queue_max_size: layout.size,
        queue_size: layout.size,
        flags: 0,
        desc_table_addr: base + layout.descriptors as u64,
        avail_ring_addr: base + layout.available as u64,
        used_ring_addr: base + layout.used as u64,
        log_addr: None,
    };
    step("SET_VRING_NUM", frontend.set_vring_num(index, layout.size))?;
    step("SET_VRING_BASE", frontend.set_vring_base(index, 0))?;
    step("SET_VRING_ADDR", frontend.set_vring_addr(index, &config))?;
    step("SET_VRING_CALL", frontend.set_vring_call(index, &call))?;
    step("SET_VRING_KICK", frontend.set_vring_kick(index, &kick))?;
    step("SET_VRING_ENABLE", frontend.set_vring_enable(index, true))?;
    Ok((kick, call))
}
