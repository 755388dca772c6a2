//! OpenCL contexts.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::super::backend::Backend;
use super::super::kept::{Kept, KeptRoom};
use super::device_side::DefaultQueues;
use super::{Common, DeviceObject, Host};

#[derive(Debug)]
pub(crate) struct ContextObject<B: Backend> {
    pub(crate) common: Common,
    pub(crate) devices: Vec<Arc<DeviceObject<B>>>,
    pub(crate) host: Host<B::Context>,
    pub(super) default_queues: DefaultQueues<B>,
    kept: Mutex<Kept<B::Program>>,
    /// Whether buffers can be placed in the guest's memory, once it has been tried.
    pub(crate) places: OnceLock<bool>,
}

impl<B: Backend> ContextObject<B> {
    pub(crate) fn new(
        common: Common,
        devices: Vec<Arc<DeviceObject<B>>>,
        host: Host<B::Context>,
        kept: KeptRoom,
    ) -> ContextObject<B> {
        let kept = Mutex::new(Kept::new(kept));
        ContextObject {
            common,
            devices,
            host,
            default_queues: DefaultQueues::default(),
            kept,
            places: OnceLock::new(),
        }
    }

    pub(crate) fn has_device(&self, device: &Arc<DeviceObject<B>>) -> bool {
        self.devices.iter().any(|own| Arc::ptr_eq(own, device))
    }

    /// The largest memory object that any of its devices takes, in bytes.
    pub(crate) fn max_alloc(&self) -> u64 {
        let devices = self.devices.iter().filter_map(|device| device.host.as_ref().ok());
        devices.map(|device| device.limits.max_alloc).max().unwrap_or(0)
    }

    /// The built programs that it keeps.
    pub(crate) fn kept(&self) -> MutexGuard<'_, Kept<B::Program>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
