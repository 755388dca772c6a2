//! In a VM: the render node of Linux's own virtio-gpu driver.
//!
//! The kernel owns the queue and the resources; each open file of the node is one context on the host, made
//! with the first resource and ended with the file.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use paragpu_protocol::capset::{CAPSET_ID, CAPSET_VERSION, Capset};
use paragpu_protocol::control::Wait;
use paragpu_protocol::limits::MAX_REGION_BYTES;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use zerocopy::IntoBytes;

use super::waits::Waits;
use super::{Node, Region, RegionOwner, Transport, TransportError, View};
use crate::sys::drm::{self, Resource};
use crate::sys::mapping::Mapping;

/// Name of the kernel driver.
const DRIVER: &str = "virtio_gpu";
/// Render nodes have the minor numbers 128 to 191.
const RENDER_MINORS: std::ops::RangeInclusive<u32> = 128..=191;

/// An open render node.
#[derive(Debug)]
pub(super) struct Drm {
    capset: Capset,
    node: Arc<Node>,
    /// Each fence becomes readable with the host's answer.
    waits: Waits<OwnedFd>,
}

impl Drm {
    /// Opens `only` or, without it, the first render node that is a paragpu.
    pub(super) fn open(only: Option<&Path>) -> Result<Drm, TransportError> {
        let candidates = match only {
            Some(path) => vec![path.to_owned()],
            None => render_nodes(Path::new("/dev/dri")),
        };
        if candidates.is_empty() {
            return Err(TransportError::NoDevice(
                "no render node in /dev/dri: is virtio_gpu loaded in this guest? (The module is missing in \
                 some distributions' cloud kernels.)"
                    .into(),
            ));
        }
        let mut reasons = Vec::new();
        for path in &candidates {
            match Self::try_node(path) {
                Ok(drm) => return Ok(drm),
                Err(Shut::Other(why)) => reasons.push(format!("{}: {why}", path.display())),
                // It is the device; another one would not be better.
                Err(Shut::Paragpu(error)) => return Err(error),
            }
        }
        Err(TransportError::NoDevice(reasons.join("; ")))
    }

    fn try_node(path: &Path) -> Result<Drm, Shut> {
        let node = OpenOptions::new().read(true).write(true).open(path).map_err(|error| {
            Shut::Other(match error.kind() {
                ErrorKind::PermissionDenied => {
                    "this user may not open it; add the user to the group `render`".into()
                }
                ErrorKind::NotFound => "there is no such file: is virtio_gpu loaded in this guest?".into(),
                _ => error.to_string(),
            })
        })?;
        let driver =
            drm::driver_name(&node).map_err(|error| Shut::Other(format!("not a render node ({error})")))?;
        if driver != DRIVER {
            return Err(Shut::Other(format!("it belongs to the driver {driver}, not {DRIVER}")));
        }
        let mut bytes = [0; size_of::<Capset>()];
        drm::get_caps(&node, CAPSET_ID, CAPSET_VERSION, &mut bytes).map_err(|error| {
            Shut::Other(format!("a virtio-gpu, but not a paragpu (no capset {CAPSET_ID}: {error})"))
        })?;
        let capset = Capset::read(&bytes).map_err(|error| match error {
            paragpu_protocol::capset::CapsetError::NotParagpu => Shut::Other(error.to_string()),
            version => Shut::Paragpu(TransportError::Unusable(version.to_string())),
        })?;
        Ok(Drm { capset, node: Arc::new(Node::new(node)), waits: Waits::new() })
    }
}

/// Why a node is of no use.
enum Shut {
    /// It is not a paragpu.
    Other(String),
    /// It is one, and this is what is wrong with it.
    Paragpu(TransportError),
}

/// The render nodes in a directory, in the order of their numbers.
fn render_nodes(dir: &Path) -> Vec<PathBuf> {
    RENDER_MINORS.map(|minor| dir.join(format!("renderD{minor}"))).filter(|path| path.exists()).collect()
}

impl Transport for Drm {
    fn capset(&self) -> &Capset {
        &self.capset
    }

    fn create_region(&self, bytes: u64) -> Result<Region, TransportError> {
        let io = |what| move |source| TransportError::Io { what, source };
        let most = MAX_REGION_BYTES.min(self.capset.max_region_bytes.get());
        let bytes = super::region_bytes(bytes, rustix::param::page_size() as u64, most)?;
        let node = self.node.file()?;
        let resource = drm::resource_create(node, bytes)
            .map_err(io("making a region (RESOURCE_CREATE of virtio_gpu)"))?;
        // From here on its drop cleans up.
        let mut owner = Buffer { node: Arc::clone(&self.node), resource, mapping: None };
        let offset =
            drm::map_offset(node, resource.bo_handle).map_err(io("mapping a region (MAP of virtio_gpu)"))?;
        let mapping = Mapping::shared(node, offset, bytes as usize).map_err(io("mapping a region"))?;
        let (ptr, len) = (mapping.ptr(), mapping.len());
        owner.mapping = Some(mapping);
        Ok(Region { id: resource.id, ptr, len, owner: Box::new(owner) })
    }

    /// Regions are pages from everywhere, of which the host maps so many and no more.
    fn buffer_room(&self) -> usize {
        const MOST: usize = 32 << 20;
        super::part_of_system_memory().min(MOST)
    }

    fn submit(&self, command: &[u8]) -> Result<(), TransportError> {
        drm::execbuffer(self.node.file()?, command, false)
            .map(|_no_fence| ())
            .map_err(|source| TransportError::Io { what: "submitting a control command", source })
    }

    fn wait(&self, seen: u32, timeout: Duration) -> Result<(), TransportError> {
        let io = |source| TransportError::Io { what: "waiting for the host", source };
        let node = self.node.file()?;
        let submit =
            || drm::execbuffer(node, Wait::new(seen).as_bytes(), true)?.ok_or(ErrorKind::InvalidData.into());
        let waiting = self.waits.join(seen, submit).map_err(io)?;
        let is_answered = readable_within(&waiting.fence, timeout).map_err(io)?;
        self.waits.looked(&waiting, is_answered)
    }
}

/// Waits for a file to become readable; false if it did not within `timeout`.
fn readable_within(file: &OwnedFd, timeout: Duration) -> io::Result<bool> {
    let start = Instant::now();
    loop {
        let left = timeout.saturating_sub(start.elapsed());
        let mut fds = [PollFd::new(file, PollFlags::IN)];
        match poll(&mut fds, Timespec::try_from(left).ok().as_ref()) {
            Err(rustix::io::Errno::INTR) => {}
            result => return Ok(result? > 0),
        }
    }
}

/// A resource and our mapping of it.
#[derive(Debug)]
struct Buffer {
    node: Arc<Node>,
    resource: Resource,
    mapping: Option<Mapping>,
}

impl RegionOwner for Buffer {
    fn map_at(&self, address: usize) -> io::Result<Box<dyn View>> {
        let node = self.node.file().map_err(io::Error::other)?;
        let len = self.mapping.as_ref().map_or(0, Mapping::len);
        let offset = drm::map_offset(node, self.resource.bo_handle)?;
        Ok(Box::new(Mapping::shared_at(node, offset, len, address)?))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.mapping = None;
        // A forked child shares the file, and must leave its parent's resources alone.
        if let Ok(node) = self.node.file() {
            // Fails only for a handle that is not ours, and then there is nothing to close.
            let closed = drm::gem_close(node, self.resource.bo_handle);
            debug_assert!(closed.is_ok(), "{closed:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_not_a_render_node_is_named_with_the_reason() {
        let error = Drm::open(Some(Path::new("/dev/null"))).unwrap_err().to_string();
        assert!(error.contains("/dev/null: not a render node"), "{error}");
        let error = Drm::open(Some(Path::new("/nonexistent/renderD128"))).unwrap_err().to_string();
        assert!(error.contains("is virtio_gpu loaded"), "{error}");
    }

    #[test]
    fn only_render_nodes_are_candidates() {
        assert_eq!(render_nodes(Path::new("/nonexistent")), Vec::<PathBuf>::new());
    }

    #[test]
    fn polling_ends_with_the_time_or_with_the_event() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        assert!(!readable_within(&read, Duration::from_millis(5)).unwrap());
        rustix::io::write(&write, b"x").unwrap();
        assert!(readable_within(&read, Duration::from_secs(600)).unwrap());
    }
}
