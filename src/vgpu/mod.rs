//! The control block of a vGPU: what its guest has made and used, as plain values.
//!
//! No handle, descriptor or clock is in here: whatever the broker decides on can be written out and read back.
//! The objects that commands in the ring make are the executor's to record.

use std::collections::BTreeMap;
use std::fmt;

use paragpu_protocol::limits::MAX_MAPPINGS;
use serde::{Deserialize, Serialize};

use crate::executor::message::{ContextUsage, Extent};
use crate::limits::Limits;

/// Everything that the broker knows about a vGPU.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vgpu {
    /// Its name in logs.
    pub name: String,
    /// What it may have.
    pub limits: Limits,
    /// What its executor is doing.
    pub lifecycle: Lifecycle,
    /// What the guest calls its contexts, and their ids on the host. A driver gives an id to a new context at once
    /// after it has asked for the old one's end, which may take a while.
    pub context_ids: BTreeMap<u32, u32>,
    /// Contexts by id on the host.
    pub contexts: BTreeMap<u32, Context>,
    /// Resources by virtio-gpu id.
    pub resources: BTreeMap<u32, Resource>,
    /// Totals since the session began.
    pub counters: Counters,
}

/// What a vGPU's executor is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Lifecycle {
    /// There is no executor.
    #[default]
    Idle,
    /// An executor runs, and may touch guest memory.
    Active,
    /// An executor runs, and has said that it does not touch guest memory.
    Quiesced,
}

/// A virtio-gpu context: one guest process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Context {
    /// The guest's name for it, printable.
    pub name: String,
    /// Its ring, once started.
    pub ring: Option<Ring>,
    /// How it is.
    pub state: ContextState,
    /// The executor knows it, and may touch its regions.
    pub on_executor: bool,
}

/// How a context is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContextState {
    /// Usable.
    Live,
    /// The guest made a mistake in it.
    Failed(String),
    /// Its executor ended.
    Lost,
    /// The guest destroys it.
    Ending,
}

/// A context's ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ring {
    /// Resource id of its region.
    pub region: u32,
    /// Length of its data area in bytes.
    pub data_bytes: u32,
}

/// A virtio-gpu resource: a shared region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resource {
    /// Its size as created.
    pub bytes: u64,
    /// The guest pages behind it, in order, checked.
    pub extents: Option<Vec<Extent>>,
    /// The contexts that may use it.
    pub contexts: BTreeMap<u32, Attachment>,
    /// The guest ends it; its id is taken until nothing on the host can touch its pages.
    pub ending: bool,
}

/// How a resource is attached to a context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Attachment {
    /// The executor does not know, or has confirmed that it forgot.
    Attached,
    /// The executor may touch the pages.
    Mapped,
    /// The executor has been told to let go of the pages, and may still touch them.
    Leaving,
}

impl Resource {
    /// True if nothing on the host can touch its pages.
    pub fn is_free(&self) -> bool {
        self.contexts.values().all(|attachment| *attachment == Attachment::Attached)
    }
}

/// Totals since a session began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// What the contexts that ended did, as their executors said.
    pub ring: ContextUsage,
    /// Requests on the control and cursor queues.
    pub requests: u64,
    /// Doorbells among them.
    pub doorbells: u64,
    /// Waits among them.
    pub waits: u64,
    /// Interrupts sent to the guest.
    pub interrupts: u64,
    /// Notifications of queues by the guest, as often as it wrote them.
    pub kicks: u64,
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counters { ring, requests, doorbells, waits, interrupts, kicks } = self;
        write!(
            f,
            "commands: {} by ring, {requests} by virtqueue, {doorbells} doorbells, {waits} waits, \
             {interrupts} interrupts, {kicks} kicks, {} guest copies, {} bytes copied by the guest, \
             {} host copies, {} bytes copied by the host",
            ring.commands, ring.guest_copies, ring.guest_bytes_copied, ring.copies, ring.bytes_copied
        )
    }
}

impl Counters {
    /// Adds what a context did. Executors are not trusted, so sums saturate.
    pub fn add_usage(&mut self, usage: ContextUsage) {
        let ring = &mut self.ring;
        ring.commands = ring.commands.saturating_add(usage.commands);
        ring.kernels = ring.kernels.saturating_add(usage.kernels);
        ring.bytes_written = ring.bytes_written.saturating_add(usage.bytes_written);
        ring.bytes_read = ring.bytes_read.saturating_add(usage.bytes_read);
        ring.copies = ring.copies.saturating_add(usage.copies);
        ring.bytes_copied = ring.bytes_copied.saturating_add(usage.bytes_copied);
        ring.guest_copies = ring.guest_copies.saturating_add(usage.guest_copies);
        ring.guest_bytes_copied = ring.guest_bytes_copied.saturating_add(usage.guest_bytes_copied);
    }
}

impl Vgpu {
    /// An empty vGPU.
    pub fn new(name: String, limits: Limits) -> Vgpu {
        Vgpu { name, limits, ..Vgpu::default() }
    }

    /// True if `more` further bytes of shared regions are within what it may have.
    pub fn has_room_for_staging(&self, more: u64) -> bool {
        let taken = self.resources.values().fold(0, |sum: u64, resource| sum.saturating_add(resource.bytes));
        self.limits.staging_bytes.is_none_or(|limit| taken.saturating_add(more) <= limit)
    }

    /// True if `more` further mappings are within what one vGPU may take. Each context that a resource is
    /// attached to maps all of its extents; extents that nobody maps cost memory all the same.
    pub fn has_room_for_mappings(&self, more: usize) -> bool {
        let of = |resource: &Resource| {
            resource.extents.as_ref().map_or(0, Vec::len).saturating_mul(resource.contexts.len().max(1))
        };
        let taken: usize = self.resources.values().map(of).sum();
        taken.saturating_add(more) <= MAX_MAPPINGS
    }

    /// An id for a context that the guest calls `name`: the same, if no context has it.
    pub fn free_context_id(&self, name: u32) -> Option<u32> {
        let candidates = std::iter::once(name).chain((1..=u32::MAX).rev());
        candidates.into_iter().find(|id| !self.contexts.contains_key(id))
    }

    /// Guest-physical address of a context's ring header, while the guest has not taken its pages back.
    pub fn ring_header(&self, context: u32) -> Option<u64> {
        let ring = self.contexts.get(&context)?.ring?;
        self.region_start(context, ring.region)
    }

    /// Guest-physical address of the first page of a region attached to a context.
    pub fn region_start(&self, context: u32, region: u32) -> Option<u64> {
        let resource = self.resources.get(&region)?;
        resource.contexts.get(&context)?;
        Some(resource.extents.as_ref()?.first()?.guest_addr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_control_block_survives_being_written_out() {
        let mut vgpu = Vgpu::new("vgpu7".into(), Limits::default());
        let ring = Some(Ring { region: 3, data_bytes: 1 << 20 });
        let context = Context { name: "clinfo".into(), ring, state: ContextState::Live, on_executor: true };
        vgpu.contexts.insert(1, context);
        let resource = Resource {
            bytes: 4096,
            extents: Some(vec![Extent { guest_addr: 0x1000, len: 4096 }]),
            contexts: [(1, Attachment::Mapped)].into(),
            ending: false,
        };
        vgpu.resources.insert(3, resource);
        let bytes = postcard::to_stdvec(&vgpu).unwrap();
        assert_eq!(postcard::from_bytes::<Vgpu>(&bytes).unwrap(), vgpu);
        assert_eq!(vgpu.ring_header(1), Some(0x1000));
    }
}
