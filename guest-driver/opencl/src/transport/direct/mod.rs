//! The driver as its own vhost-user front end: no VM and no kernel between it and `paragpud`.
//!
//! The process brings a memfd as its "guest memory" and speaks virtio-gpu's control queue itself, so that the
//! daemon cannot tell it from a VM with one context.

mod exchange;
mod handshake;
mod memory;
mod pages;
mod requests;
mod session;
#[cfg(test)]
mod tests;
mod virtqueue;

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use paragpu_protocol::capset::{CAPSET_ID, CAPSET_VERSION, Capset};
use paragpu_protocol::limits::{MAX_CONTROL_BYTES, MAX_REGION_BYTES};
use paragpu_protocol::virtio_gpu::{CapsetInfo, GetCapset, GetCapsetInfo, Request, Response};
use zerocopy::{FromBytes, IntoBytes};

use self::memory::Memory;
use self::pages::{PAGE, Pages};
use self::session::Session;
use super::{Region, RegionOwner, Transport, TransportError, View};
use crate::sys::mapping::Mapping;

/// What can be chosen about a direct connection.
#[derive(Clone, Debug)]
pub struct Options {
    /// Size of the shared memory, most of which is never touched: the sum of all regions that are live at once.
    pub memory_bytes: u64,
    /// How long the daemon may take for one answer.
    pub patience: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options { memory_bytes: 16 << 30, patience: Duration::from_secs(10) }
    }
}

/// A connection to `paragpud`.
#[derive(Debug)]
pub struct Direct {
    capset: Capset,
    device: Arc<Device>,
}

/// What regions need after the connection's owner has dropped it.
#[derive(Debug)]
struct Device {
    session: Session,
    pages: Mutex<Pages>,
    last_id: AtomicU32,
}

impl Direct {
    /// Connects to the daemon that listens on `socket`.
    pub fn open(socket: &Path, options: &Options) -> Result<Direct, TransportError> {
        let stream = handshake::dial(socket, options.patience)?;
        let memory = Memory::new(options.memory_bytes)?;
        let (link, event_idx) = handshake::set_up(stream, &memory, options.patience)?;
        let pages = Mutex::new(Pages::new(memory.regions()));
        let session = Session::new(link, memory, event_idx, options.patience)?;
        let capset = read_capset(&session)?;
        let header = requests::header(Request::CtxCreate);
        let body = requests::context_body();
        session.order("making a context", &[header.as_bytes(), body.as_bytes()])?;
        let device = Arc::new(Device { session, pages, last_id: AtomicU32::new(0) });
        Ok(Direct { capset, device })
    }
}

/// Asks for the capset as a kernel driver does when it starts: first which one there is, then what it says.
fn read_capset(session: &Session) -> Result<Capset, TransportError> {
    let not_paragpu =
        |why: &str| TransportError::Unusable(format!("what listens on the socket is not a paragpu: {why}"));
    let header = requests::header(Request::GetCapsetInfo);
    let body = GetCapsetInfo::default();
    let answer = session.request("asking for the capset", &[header.as_bytes(), body.as_bytes()])?;
    let info = answer.expect(Response::OkCapsetInfo).map_err(|answer| not_paragpu(&answer))?;
    let (info, _) = CapsetInfo::read_from_prefix(info)
        .map_err(|_short| not_paragpu("its capset information is short"))?;
    if info.capset_id.get() != CAPSET_ID {
        return Err(not_paragpu(&format!("its capset is number {}", info.capset_id)));
    }
    let header = requests::header(Request::GetCapset);
    let body = GetCapset { capset_id: CAPSET_ID.into(), capset_version: CAPSET_VERSION.into() };
    let answer = session.request("reading the capset", &[header.as_bytes(), body.as_bytes()])?;
    let bytes = answer.expect(Response::OkCapset).map_err(|answer| not_paragpu(&answer))?;
    Capset::read(bytes).map_err(|error| TransportError::Unusable(error.to_string()))
}

impl Transport for Direct {
    fn capset(&self) -> &Capset {
        &self.capset
    }

    fn create_region(&self, bytes: u64) -> Result<Region, TransportError> {
        let most = MAX_REGION_BYTES.min(self.capset.max_region_bytes.get());
        let bytes = super::region_bytes(bytes, PAGE, most)?;
        self.device.create_region(bytes)
    }

    fn is_local(&self) -> bool {
        true
    }

    fn buffer_room(&self) -> usize {
        self.device.session.memory().mapping().len() / 2
    }

    fn submit(&self, command: &[u8]) -> Result<(), TransportError> {
        if command.len() > MAX_CONTROL_BYTES as usize {
            return Err(TransportError::Unusable("a control command is longer than the host takes".into()));
        }
        let header = requests::header(Request::Submit3d);
        let body = requests::submit_body(command);
        self.device.session.send(&[header.as_bytes(), body.as_bytes(), command])
    }

    fn wait(&self, seen: u32, timeout: Duration) -> Result<(), TransportError> {
        self.device.session.wait(seen, timeout)
    }
}

impl Drop for Direct {
    fn drop(&mut self) {
        // Regions may keep the connection open, so say that the context ends. If the daemon does not answer it
        // is gone or will see the connection end; there is nobody to tell.
        let header = requests::header(Request::CtxDestroy);
        let _ = self.device.session.order("ending the context", &[header.as_bytes()]);
    }
}

impl Device {
    fn create_region(self: &Arc<Self>, bytes: u32) -> Result<Region, TransportError> {
        let id = self.last_id.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |id| id.checked_add(1));
        let id = 1 + id.map_err(|_last| TransportError::Unusable("out of resource ids".into()))?;
        // From here on the drop of `pages` cleans up, however far this gets.
        let pages = self.allocate(id, bytes)?;
        let ptr = self
            .session
            .memory()
            .mapping()
            .ptr_at(pages.range.start as usize..pages.range.end as usize)
            .ok_or_else(|| TransportError::Unusable("the allocator left the shared memory".into()))?;

        let header = requests::header(Request::ResourceCreate3d);
        let body = requests::region_body(id, bytes);
        self.session.order("making a region", &[header.as_bytes(), body.as_bytes()])?;
        let header = requests::header(Request::ResourceAttachBacking);
        let (body, entry) = requests::backing_body(id, pages.range.start, bytes);
        let request = [header.as_bytes(), body.as_bytes(), entry.as_bytes()];
        self.session.order("giving a region its pages", &request)?;
        let header = requests::header(Request::CtxAttachResource);
        let body = requests::resource_body(id);
        self.session.order("attaching a region", &[header.as_bytes(), body.as_bytes()])?;
        Ok(Region { id, ptr, len: bytes as usize, owner: Box::new(pages) })
    }

    fn allocate(self: &Arc<Self>, id: u32, bytes: u32) -> Result<RegionPages, TransportError> {
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        let range = pages.allocate(u64::from(bytes)).ok_or_else(|| {
            let free = pages.available() >> 20;
            TransportError::Unusable(format!(
                "no room for {bytes} bytes of shared memory in one piece ({free} MiB are free); \
                 PARAGPU_MEMORY_MIB sets how much there is"
            ))
        })?;
        drop(pages);
        Ok(RegionPages { device: Arc::clone(self), id, range })
    }
}

/// A region's pages, and its resource on the host as soon as that exists.
#[derive(Debug)]
struct RegionPages {
    device: Arc<Device>,
    id: u32,
    range: Range<u64>,
}

impl RegionOwner for RegionPages {
    fn map_at(&self, address: usize) -> std::io::Result<Box<dyn View>> {
        let len = (self.range.end - self.range.start) as usize;
        let file = self.device.session.memory().file();
        Ok(Box::new(Mapping::shared_at(file, self.range.start, len, address)?))
    }
}

impl Drop for RegionPages {
    fn drop(&mut self) {
        let session = &self.device.session;
        let header = requests::header(Request::ResourceUnref);
        let body = requests::resource_body(self.id);
        // The answer means that nothing on the host touches the pages any more. "No such resource" means that
        // as well: the region was never made.
        let let_go = session.request("giving up a region", &[header.as_bytes(), body.as_bytes()]).is_ok_and(
            |answer| {
                [Response::OkNodata, Response::ErrInvalidResourceId]
                    .iter()
                    .any(|ok| answer.kind == *ok as u32)
            },
        );
        // Pages that the host may still use, or that could not be zeroed, must not be handed out again.
        if let_go && session.memory().punch_out(&self.range).is_ok() {
            let mut pages = self.device.pages.lock().unwrap_or_else(PoisonError::into_inner);
            let freed = pages.free(self.range.clone());
            debug_assert!(freed, "a region's pages are its own");
        }
    }
}
