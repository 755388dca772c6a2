//! What kernels alone use: pipes, and the queues in which they enqueue.

use std::sync::{Arc, Mutex, PoisonError};

use super::super::backend::Backend;
use super::super::quota::Charge;
use super::super::record::{DeviceQueueRecord, DeviceRecord, PipeRecord, Serial};
use super::{Common, ContextObject, DeviceObject, Host};

#[derive(Debug)]
pub(crate) struct PipeObject<B: Backend> {
    pub(crate) common: Common,
    pub(crate) context: Arc<ContextObject<B>>,
    pub(crate) record: PipeRecord,
    /// The device memory that it has.
    pub(crate) _charge: Option<Charge>,
    pub(crate) host: Host<B::Pipe>,
}

/// A queue on a device: kernels enqueue there, and no command of the guest's.
#[derive(Debug)]
pub(crate) struct DeviceQueueObject<B: Backend> {
    pub(crate) common: Common,
    pub(crate) context: Arc<ContextObject<B>>,
    pub(crate) device: Arc<DeviceObject<B>>,
    pub(crate) record: DeviceQueueRecord,
    pub(crate) host: Host<B::DeviceQueue>,
}

/// The queues that kernels on a context's devices find as the default.
#[derive(Debug)]
pub(super) struct DefaultQueues<B: Backend>(Mutex<Vec<DefaultQueue<B>>>);

#[derive(Debug)]
pub(crate) struct DefaultQueue<B: Backend> {
    device: DeviceRecord,
    serial: Serial,
    /// Kernels may use it after the guest has released it.
    _host: B::DeviceQueue,
}

// Derived, this would ask the same of the backend.
impl<B: Backend> Default for DefaultQueues<B> {
    fn default() -> Self {
        DefaultQueues(Mutex::default())
    }
}

impl<B: Backend> DefaultQueues<B> {
    /// The devices that have one, and its serial.
    pub(super) fn records(&self) -> Vec<(DeviceRecord, Serial)> {
        let queues = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        queues.iter().map(|queue| (queue.device, queue.serial)).collect()
    }
}

impl<B: Backend> ContextObject<B> {
    /// Notes that kernels find this queue as the default of its device.
    pub(crate) fn set_default_queue(&self, queue: &DeviceQueueObject<B>, host: &B::DeviceQueue) {
        let (device, serial) = (queue.record.device, queue.common.serial);
        let mut queues = self.default_queues.0.lock().unwrap_or_else(PoisonError::into_inner);
        queues.retain(|default| default.device != device);
        queues.push(DefaultQueue { device, serial, _host: host.clone() });
    }
}
