//! Command queues.

use opencl_sys::{
    CL_QUEUE_ON_DEVICE, CL_QUEUE_ON_DEVICE_DEFAULT, CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE,
    CL_QUEUE_PROFILING_ENABLE, CL_QUEUE_PROPERTIES, CL_QUEUE_SIZE,
};

use crate::boundary::object::{Handle, Object, RawHandle};
use crate::boundary::pointer::{In, Out};
use crate::core::context::Context;
use crate::core::device::Device;
use crate::core::error::{ClError, ClResult, refuse_if};
use crate::core::info::Info;
use crate::core::queue::Queue;

const ON_HOST: u64 = CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE | CL_QUEUE_PROFILING_ENABLE;
const ON_DEVICE: u64 = CL_QUEUE_ON_DEVICE | CL_QUEUE_ON_DEVICE_DEFAULT;

fn create_checked(
    context: &Object<Context>,
    device: &Object<Device>,
    properties: u64,
    list: Vec<u64>,
) -> ClResult<RawHandle> {
    // CL_INVALID_DEVICE if device is not a valid device or is not associated with context.
    refuse_if(!context.has_device(device), ClError::INVALID_DEVICE)?;
    // CL_INVALID_VALUE if values specified in properties are not valid.
    refuse_if(properties & !(ON_HOST | ON_DEVICE) != 0, ClError::INVALID_VALUE)?;
    // CL_INVALID_QUEUE_PROPERTIES if values specified in properties are valid but are not supported by the device.
    let unsupported = properties & !device.queue_properties() != 0 || properties & ON_DEVICE != 0;
    refuse_if(unsupported, ClError::INVALID_QUEUE_PROPERTIES)?;
    Ok(Queue::new(context, device, properties, list)?.hand_out())
}

/// `clCreateCommandQueue`.
pub(super) fn create(
    context: Handle<Context>,
    device: Handle<Device>,
    properties: u64,
) -> ClResult<RawHandle> {
    let (context, device) = (context.get()?, device.get()?);
    refuse_if(properties & !ON_HOST != 0, ClError::INVALID_VALUE)?;
    create_checked(context, device, properties, Vec::new())
}

/// `clCreateCommandQueueWithProperties`.
pub(super) fn create_with_properties(
    context: Handle<Context>,
    device: Handle<Device>,
    properties: In<u64>,
) -> ClResult<RawHandle> {
    let (context, device) = (context.get()?, device.get()?);
    let mut list = properties.properties().unwrap_or_default();
    let flags = queue_flags(&list)?;
    if !properties.is_null() {
        list.push(0);
    }
    create_checked(context, device, flags, list)
}

fn queue_flags(list: &[u64]) -> ClResult<u64> {
    let mut flags = None;
    for pair in list.chunks_exact(2) {
        const PROPERTIES: u64 = CL_QUEUE_PROPERTIES as u64;
        const SIZE: u64 = CL_QUEUE_SIZE as u64;
        match pair[0] {
            PROPERTIES if flags.is_none() => flags = Some(pair[1]),
            // A queue on the device; its flag says so too, and is refused for that.
            SIZE => {}
            // CL_INVALID_VALUE if values specified in properties are not valid.
            _ => return Err(ClError::INVALID_VALUE),
        }
    }
    let flags = flags.unwrap_or(0);
    // CL_QUEUE_SIZE "can only be specified if CL_QUEUE_ON_DEVICE is set in CL_QUEUE_PROPERTIES".
    let has_size = list.chunks_exact(2).any(|pair| pair[0] == u64::from(CL_QUEUE_SIZE));
    refuse_if(has_size && flags & CL_QUEUE_ON_DEVICE == 0, ClError::INVALID_VALUE)?;
    Ok(flags)
}

/// `clRetainCommandQueue`.
pub(super) fn retain(queue: Handle<Queue>) -> ClResult<()> {
    queue.get().map(Object::retain)
}

/// `clReleaseCommandQueue`.
pub(super) fn release(queue: Handle<Queue>) -> ClResult<()> {
    queue.get()?.release()
}

/// `clGetCommandQueueInfo`.
pub(super) fn info(queue: Handle<Queue>, param_name: u32) -> ClResult<Info> {
    queue.get()?.info(param_name)
}

/// `clFlush`: commands are with the host as soon as they are enqueued.
pub(super) fn flush(queue: Handle<Queue>) -> ClResult<()> {
    queue.get().map(|_| ())
}

/// `clFinish`.
pub(super) fn finish(queue: Handle<Queue>) -> ClResult<()> {
    queue.get()?.finish()
}

/// `clSetCommandQueueProperty`.
pub(super) fn set_property(
    queue: Handle<Queue>,
    _properties: u64,
    _enable: u32,
    _old: Out<u64>,
) -> ClResult<()> {
    queue.get()?;
    // "CL_INVALID_OPERATION if no devices in the context associated with command_queue support modifying the
    // properties of a command-queue."
    Err(ClError::INVALID_OPERATION)
}

/// `clSetDefaultDeviceCommandQueue`.
pub(super) fn set_default(
    context: Handle<Context>,
    device: Handle<Device>,
    _queue: Handle<Queue>,
) -> ClResult<()> {
    let (context, device) = (context.get()?, device.get()?);
    refuse_if(!context.has_device(device), ClError::INVALID_DEVICE)?;
    // CL_INVALID_OPERATION if device does not support a replaceable default on-device queue.
    Err(ClError::INVALID_OPERATION)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queue_properties_are_parsed() {
        let properties = u64::from(CL_QUEUE_PROPERTIES);
        let size = u64::from(CL_QUEUE_SIZE);
        assert_eq!(queue_flags(&[]), Ok(0));
        assert_eq!(queue_flags(&[properties, CL_QUEUE_PROFILING_ENABLE]), Ok(CL_QUEUE_PROFILING_ENABLE));
        assert_eq!(queue_flags(&[size, 4096]), Err(ClError::INVALID_VALUE));
        assert_eq!(queue_flags(&[properties, 1, properties, 2]), Err(ClError::INVALID_VALUE));
        assert_eq!(queue_flags(&[7, 1]), Err(ClError::INVALID_VALUE));
        assert_eq!(queue_flags(&[properties, ON_DEVICE, size, 64]), Ok(ON_DEVICE));
    }
}
