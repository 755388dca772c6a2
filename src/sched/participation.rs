//! What an executor is given to take part in scheduling.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::scheduler::{Evicted, Scheduler, Shared, VgpuId};
use super::service::Service;
use super::state::{Client, cpu_time};
use crate::lease::LeasePage;

/// What an executor is given to take part; it leaves when this is dropped.
#[derive(Debug)]
pub struct Participation {
    pub(super) shared: Weak<Shared>,
    pub(super) id: u64,
    pub(super) page: LeasePage,
    pub(super) file: OwnedFd,
    pub(super) ring: OwnedFd,
    pub(super) grant: OwnedFd,
    pub(super) memory: Arc<(LeasePage, OwnedFd)>,
}

/// A vGPU's place with the scheduler, for whoever starts its executors.
#[derive(Clone, Debug)]
pub struct Seat {
    scheduler: Arc<Scheduler>,
    vgpu: VgpuId,
    service: Option<Arc<Service>>,
}

impl Seat {
    /// A vGPU's.
    pub fn new(scheduler: Arc<Scheduler>, vgpu: VgpuId) -> Seat {
        let service = scheduler.service(vgpu);
        Seat { scheduler, vgpu, service }
    }

    /// As [`Scheduler::join`].
    pub fn join(&self, evict: impl Fn(Evicted) + Send + 'static) -> io::Result<Participation> {
        self.scheduler.join(self.vgpu, evict)
    }

    /// So much processor time went into what the vGPU asked of the broker.
    pub fn spend(&self, used: Duration, now: Instant) {
        if let Some(service) = &self.service {
            service.spend(used, now);
        }
    }

    /// How long its requests are to wait: they have taken more time than they may while another vGPU has the device.
    pub fn must_wait(&self, now: Instant) -> Option<Duration> {
        let owed = self.service.as_ref()?.owed(now)?;
        self.scheduler.others_hold(self.vgpu).then_some(owed)
    }
}

impl Participation {
    /// What the executor is given: the page, the eventfd by which it rings, the one by which it is rung, and the page in
    /// which its vGPU's memory is counted.
    pub fn descriptors(&self) -> [BorrowedFd<'_>; 4] {
        [self.file.as_fd(), self.ring.as_fd(), self.grant.as_fd(), self.memory.1.as_fd()]
    }

    /// The executor's process, for its processor time.
    pub fn set_process(&self, process: Option<u32>) {
        self.with_client(|client| client.process = process);
    }

    /// A place in the page for a context, as long as there is one.
    pub fn add_context(&self, context: u32, name: &str) -> Option<usize> {
        let mut free = None;
        self.with_client(|client| {
            let most = paragpu_protocol::limits::MAX_CONTEXTS;
            free = (0..most).find(|place| !client.contexts.contains_key(place));
            if let Some(place) = free {
                client.page.clear_context(place);
                client.contexts.insert(place, (context, name.to_owned()));
            }
        });
        free
    }

    /// A context is gone.
    pub fn remove_context(&self, context: u32) {
        self.with_client(|client| client.contexts.retain(|_, (id, _)| *id != context));
    }

    /// The executor is about to be ended: its processor time is read while it can be.
    pub fn note_end(&self) {
        self.with_client(|client| client.cpu_ns = client.process.take().and_then(cpu_time).unwrap_or(0));
    }

    /// The page, as the executor sees it.
    pub fn page(&self) -> &LeasePage {
        &self.page
    }

    fn with_client(&self, what: impl FnOnce(&mut Client)) {
        if let Some(shared) = self.shared.upgrade()
            && let Some(client) = shared.lock().clients.get_mut(&self.id)
        {
            what(client);
        }
    }
}

impl Drop for Participation {
    fn drop(&mut self) {
        let Some(shared) = self.shared.upgrade() else { return };
        shared.change(|state, now| state.remove_client(self.id, now));
    }
}
