//! In a VM: paragpu's own kernel module, for kernels without DRM and front ends without virtio-gpu.
//!
//! As with DRM, each open file is one context on the host, made with the first region and ended with the file.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use paragpu_protocol::capset::{Capset, CapsetError};
use paragpu_protocol::control::Wait;
use paragpu_protocol::limits::MAX_REGION_BYTES;
use zerocopy::IntoBytes;

use super::waits::Waits;
use super::{Node, Region, RegionOwner, Transport, TransportError, View};
use crate::sys::mapping::Mapping;
use crate::sys::module::{self, Names};
use crate::sys::region::Memory;

/// How many nodes are looked for; a VM has one.
const MOST_NODES: u32 = 64;

/// An open node of the module.
#[derive(Debug)]
pub(super) struct Module {
    capset: Capset,
    node: Arc<Node>,
    waits: Waits<u64>,
}

impl Module {
    /// Opens `only` or, without it, the first node that opens.
    pub(super) fn open(only: Option<&Path>) -> Result<Module, TransportError> {
        let candidates = match only {
            Some(path) => vec![path.to_owned()],
            None => nodes(Path::new("/dev")),
        };
        if candidates.is_empty() {
            return Err(TransportError::NoDevice(
                "no /dev/paragpu0: paragpu's kernel module is not loaded in this guest, or has no device"
                    .into(),
            ));
        }
        let mut reasons = Vec::new();
        for path in &candidates {
            match Self::try_node(path) {
                Ok(module) => return Ok(module),
                Err(TransportError::NoDevice(why)) => reasons.push(format!("{}: {why}", path.display())),
                // Another one would not be better.
                Err(error) => return Err(error),
            }
        }
        Err(TransportError::NoDevice(reasons.join("; ")))
    }

    fn try_node(path: &Path) -> Result<Module, TransportError> {
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(|error| {
            TransportError::NoDevice(match error.kind() {
                ErrorKind::PermissionDenied => {
                    "this user may not open it; add the user to the group `render`".into()
                }
                ErrorKind::NotFound => "there is no such file: is paragpu's kernel module loaded?".into(),
                _ => error.to_string(),
            })
        })?;
        let mut bytes = [0; size_of::<Capset>()];
        let length = module::capset(&file, &mut bytes)
            .map_err(|error| TransportError::NoDevice(format!("not a node of paragpu's module ({error})")))?;
        let capset = Capset::read(&bytes[..length.min(bytes.len())]).map_err(|error| match error {
            CapsetError::NotParagpu => TransportError::NoDevice(error.to_string()),
            version => TransportError::Unusable(version.to_string()),
        })?;
        Ok(Module { capset, node: Arc::new(Node::new(file)), waits: Waits::new() })
    }

    fn most_bytes(&self) -> u64 {
        MAX_REGION_BYTES.min(self.capset.max_region_bytes.get())
    }
}

/// The module's nodes in a directory, in the order of their numbers.
fn nodes(dir: &Path) -> Vec<PathBuf> {
    (0..MOST_NODES).map(|number| dir.join(format!("paragpu{number}"))).filter(|path| path.exists()).collect()
}

impl Transport for Module {
    fn capset(&self) -> &Capset {
        &self.capset
    }

    fn create_region(&self, bytes: u64) -> Result<Region, TransportError> {
        let io = |what| move |source| TransportError::Io { what, source };
        let bytes = super::region_bytes(bytes, rustix::param::page_size() as u64, self.most_bytes())?;
        let node = self.node.file()?;
        let (names, offset) = module::region_create(node, bytes.into()).map_err(io("making a region"))?;
        // From here on its drop cleans up.
        let mut owner = Shared { node: Arc::clone(&self.node), names, offset: Some(offset), mapping: None };
        let mapping = Mapping::shared(node, offset, bytes as usize).map_err(io("mapping a region"))?;
        let (ptr, len) = (mapping.ptr(), mapping.len());
        owner.mapping = Some(mapping);
        Ok(Region { id: names.id, ptr, len, owner: Box::new(owner) })
    }

    fn pin(&self, memory: Memory) -> Result<Region, TransportError> {
        let mapping = memory.into_mapping();
        let names = module::region_pin(self.node.file()?, &mapping)
            .map_err(|source| TransportError::Io { what: "pinning memory", source })?;
        let (ptr, len) = (mapping.ptr(), mapping.len());
        let owner = Shared { node: Arc::clone(&self.node), names, offset: None, mapping: Some(mapping) };
        Ok(Region { id: names.id, ptr, len, owner: Box::new(owner) })
    }

    fn buffer_room(&self) -> usize {
        super::part_of_system_memory()
    }

    fn submit(&self, command: &[u8]) -> Result<(), TransportError> {
        module::submit(self.node.file()?, command, false)
            .map(|_no_fence| ())
            .map_err(|source| TransportError::Io { what: "submitting a control command", source })
    }

    fn wait(&self, seen: u32, timeout: Duration) -> Result<(), TransportError> {
        let io = |source| TransportError::Io { what: "waiting for the host", source };
        let node = self.node.file()?;
        let submit = || module::submit(node, Wait::new(seen).as_bytes(), true);
        let waiting = self.waits.join(seen, submit).map_err(io)?;
        let is_answered = module::wait(node, *waiting.fence, timeout).map_err(io)?;
        self.waits.looked(&waiting, is_answered)
    }
}

/// A region and our mapping of it.
#[derive(Debug)]
struct Shared {
    node: Arc<Node>,
    names: Names,
    /// Where the node is to be mapped; `None` for memory that was this process's before.
    offset: Option<u64>,
    mapping: Option<Mapping>,
}

impl RegionOwner for Shared {
    fn map_at(&self, address: usize) -> io::Result<Box<dyn View>> {
        let node = self.node.file().map_err(io::Error::other)?;
        let offset = self.offset.ok_or(ErrorKind::Unsupported)?;
        let len = self.mapping.as_ref().map_or(0, Mapping::len);
        Ok(Box::new(Mapping::shared_at(node, offset, len, address)?))
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // A forked child shares the file, and must leave its parent's regions alone.
        if let Ok(node) = self.node.file() {
            // Fails only for a handle that is not ours, and then there is nothing to close.
            let closed = module::region_close(node, self.names.handle);
            debug_assert!(closed.is_ok(), "{closed:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_not_the_modules_is_named_with_the_reason() {
        let error = Module::open(Some(Path::new("/dev/null"))).unwrap_err().to_string();
        assert!(error.contains("/dev/null: not a node of paragpu's module"), "{error}");
        let error = Module::open(Some(Path::new("/nonexistent/paragpu0"))).unwrap_err().to_string();
        assert!(error.contains("kernel module loaded"), "{error}");
    }

    #[test]
    fn only_the_modules_nodes_are_candidates() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["paragpu3", "paragpu0", "paragpud", "paragpu"] {
            std::fs::File::create(dir.path().join(name)).unwrap();
        }
        assert_eq!(nodes(dir.path()), [dir.path().join("paragpu0"), dir.path().join("paragpu3")]);
    }
}
