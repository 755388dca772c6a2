//! Devices: the host's, and the parts that the guest has made of them.

use std::sync::Arc;

use super::{Common, Host, handle};
use crate::executor::child::backend::{Backend, ClError, HostDevice};
use crate::executor::child::record::{DeviceRecord, SubDeviceRecord};
use crate::executor::child::region::Taken;

/// A device: the host's, or a part of one.
#[derive(Debug)]
pub(crate) struct DeviceObject<B: Backend> {
    pub(crate) place: Place<B>,
    pub(crate) host: Host<HostDevice<B::Device>>,
}

/// Where a device comes from.
#[derive(Debug)]
pub(crate) enum Place<B: Backend> {
    /// The host has it, at this index.
    Root(usize),
    /// The guest has made it.
    Part(Part<B>),
}

/// A sub-device.
#[derive(Debug)]
pub(crate) struct Part<B: Backend> {
    pub(crate) common: Common,
    pub(crate) parent: Arc<DeviceObject<B>>,
    pub(crate) record: SubDeviceRecord,
    pub(crate) _room: Option<Taken>,
}

impl<B: Backend> DeviceObject<B> {
    /// The index of the host's device that it is, or a part of.
    pub(crate) fn root(&self) -> usize {
        match &self.place {
            Place::Root(index) => *index,
            Place::Part(part) => part.parent.root(),
        }
    }

    /// How records name it.
    pub(crate) fn name(&self) -> DeviceRecord {
        match &self.place {
            Place::Root(index) => DeviceRecord::Root(*index),
            Place::Part(part) => DeviceRecord::Sub(part.common.serial),
        }
    }
}

/// How records name devices.
pub(crate) fn names<B: Backend>(devices: &[Arc<DeviceObject<B>>]) -> Vec<DeviceRecord> {
    devices.iter().map(|device| device.name()).collect()
}

/// The handles of devices, or the error of one that could not be made.
pub(crate) fn handles<B: Backend>(devices: &[Arc<DeviceObject<B>>]) -> Result<Vec<&B::Device>, ClError> {
    devices.iter().map(|device| handle(&device.host).map(|device| &device.handle)).collect()
}
