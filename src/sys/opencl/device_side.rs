//! What kernels alone use: pipes, and the queues in which they enqueue.

use std::ptr;

use cl3::command_queue::{CL_QUEUE_PROPERTIES, CL_QUEUE_SIZE};

use super::handle::{Context, DeviceQueue, Pipe};
use super::query::{Device, Platform};
use super::{checked, cl};
use crate::sys::compute::ClError;

/// Since this version drivers have what is here. Loaders call through the driver's table without looking, and older tables
/// end before these entries.
const SINCE: (u32, u32) = (2, 0);

impl Pipe {
    /// A pipe for that many packets of so many bytes.
    pub fn new(
        platform: Platform,
        context: &Context,
        packet_size: u32,
        max_packets: u32,
    ) -> Result<Pipe, ClError> {
        if platform.version() < SINCE {
            return Err(ClError::INVALID_OPERATION);
        }
        // No flags: the specification leaves one choice. No properties: there are none.
        let mut status = 0;
        // SAFETY: a live context of a driver that has the function.
        let raw = unsafe {
            cl!(clCreatePipe(context.raw(), 0, packet_size, max_packets, ptr::null(), &mut status))
        };
        Pipe::created(raw, status)
    }
}

impl DeviceQueue {
    /// A queue on a device with these `cl_command_queue_properties`, of `size` bytes, or as large as the device prefers.
    pub fn new(
        context: &Context,
        device: &Device,
        properties: u64,
        size: Option<u32>,
    ) -> Result<DeviceQueue, ClError> {
        if device.version() < SINCE {
            return Err(ClError::INVALID_OPERATION);
        }
        let mut list = vec![u64::from(CL_QUEUE_PROPERTIES), properties];
        if let Some(size) = size {
            list.extend([u64::from(CL_QUEUE_SIZE), size.into()]);
        }
        list.push(0);
        let mut status = 0;
        // SAFETY: live handles, and a list that ends with 0 and lives during the call.
        let raw = unsafe {
            cl!(clCreateCommandQueueWithProperties(context.raw(), device.raw(), list.as_ptr(), &mut status))
        };
        DeviceQueue::created(raw, status)
    }

    /// Makes it the default of its device.
    pub fn make_default(&self, context: &Context, device: &Device) -> Result<(), ClError> {
        if device.version() < (2, 1) {
            return Err(ClError::INVALID_OPERATION);
        }
        // SAFETY: live handles of a driver that has the function.
        checked(unsafe { cl!(clSetDefaultDeviceCommandQueue(context.raw(), device.raw(), self.raw())) })
    }
}
