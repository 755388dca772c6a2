//! The scheduler of all devices (interface; the inside comes from another branch).

use std::sync::Mutex;

use super::policy::{Sharing, Terms};
use super::usage::{DeviceUsage, VgpuUsage};

/// What the scheduler calls a vGPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VgpuId(pub u64);

/// Shares the devices between vGPUs.
#[derive(Debug, Default)]
pub struct Scheduler {
    vgpus: Mutex<Vec<(VgpuId, String, Terms)>>,
}

impl Scheduler {
    /// Starts its thread. `devices` are the names and the sharing of what there is; with partitions each is one.
    pub fn start(devices: Vec<(String, Sharing)>) -> std::io::Result<Scheduler> {
        let _devices = devices;
        Ok(Scheduler::default())
    }

    /// A vGPU that may use these devices (numbers of the list given to [`start`](Scheduler::start)).
    pub fn add(&self, name: &str, terms: Terms, devices: &[usize]) -> VgpuId {
        let _devices = devices;
        let mut vgpus = self.vgpus.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let id = VgpuId(vgpus.last().map_or(0, |(id, ..)| id.0 + 1));
        vgpus.push((id, name.to_owned(), terms));
        id
    }

    /// Forgets a vGPU. Its connections have ended.
    pub fn remove(&self, _id: VgpuId) {}

    /// Changes its terms, from now on.
    pub fn set_terms(&self, _id: VgpuId, _terms: Terms) {}

    /// Keeps a vGPU from the device, or lets it have it again; what runs is waited for. Resuming forgets evictions.
    pub fn set_paused(&self, _id: VgpuId, _paused: bool) {}

    /// What a vGPU has used.
    pub fn usage(&self, _id: VgpuId) -> Option<VgpuUsage> {
        Some(VgpuUsage::default())
    }

    /// What is known of each device.
    pub fn devices(&self) -> Vec<DeviceUsage> {
        Vec::new()
    }
}
