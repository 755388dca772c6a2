//! Command queues.

use opencl_sys::{
    CL_QUEUE_ON_DEVICE, CL_QUEUE_ON_DEVICE_DEFAULT, CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE,
    CL_QUEUE_PRIORITY_HIGH_KHR, CL_QUEUE_PRIORITY_KHR, CL_QUEUE_PRIORITY_LOW_KHR, CL_QUEUE_PRIORITY_MED_KHR,
    CL_QUEUE_PROFILING_ENABLE, CL_QUEUE_PROPERTIES, CL_QUEUE_SIZE, CL_QUEUE_THROTTLE_KHR,
};

use crate::boundary::object::{Handle, Object, RawHandle};
use crate::boundary::pointer::{In, Out};
use crate::core::context::Context;
use crate::core::device::Device;
use crate::core::device_queue::DeviceQueue;
use crate::core::error::{ClError, ClResult, refuse_if};
use crate::core::info::Info;
use crate::core::queue::Queue;

const ON_HOST: u64 = CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE | CL_QUEUE_PROFILING_ENABLE;
const ON_DEVICE: u64 = CL_QUEUE_ON_DEVICE | CL_QUEUE_ON_DEVICE_DEFAULT;

fn create_checked(
    context: &Object<Context>,
    device: &Object<Device>,
    Wanted { flags: properties, hints, size }: Wanted,
    list: Vec<u64>,
) -> ClResult<RawHandle> {
    // CL_INVALID_DEVICE if device is not a valid device or is not associated with context.
    refuse_if(!context.has_device(device), ClError::INVALID_DEVICE)?;
    // CL_INVALID_VALUE if values specified in properties are not valid.
    refuse_if(properties & !(ON_HOST | ON_DEVICE) != 0, ClError::INVALID_VALUE)?;
    // CL_INVALID_QUEUE_PROPERTIES if values specified in properties are valid but are not supported by the device.
    if properties & ON_DEVICE == 0 {
        refuse_if(properties & !device.queue_properties() != 0, ClError::INVALID_QUEUE_PROPERTIES)?;
        return Ok(Queue::new(context, device, properties, hints, list)?.hand_out());
    }
    let supported = device.device_queue_properties();
    let unsupported = supported == 0 || properties & ON_HOST & !supported != 0;
    refuse_if(unsupported, ClError::INVALID_QUEUE_PROPERTIES)?;
    // "If CL_QUEUE_ON_DEVICE is set, CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE must also be set"; CL_QUEUE_ON_DEVICE_DEFAULT
    // "can only be used with CL_QUEUE_ON_DEVICE"; the size "must be a value <= CL_DEVICE_QUEUE_ON_DEVICE_MAX_SIZE".
    let needed = CL_QUEUE_ON_DEVICE | CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE;
    refuse_if(properties & needed != needed, ClError::INVALID_VALUE)?;
    let fits = size.is_none_or(|size| (1..=device.max_device_queue_size()).contains(&size));
    refuse_if(!fits, ClError::INVALID_QUEUE_PROPERTIES)?;
    Ok(DeviceQueue::new(context, device, (properties, size), list)?.hand_out())
}

/// What a property list says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Wanted {
    /// `cl_command_queue_properties`.
    flags: u64,
    /// As `CreateQueue` has them.
    hints: u32,
    /// `CL_QUEUE_SIZE`, if it is there.
    size: Option<u32>,
}

/// `clCreateCommandQueue`.
pub(super) fn create(
    context: Handle<Context>,
    device: Handle<Device>,
    properties: u64,
) -> ClResult<RawHandle> {
    let (context, device) = (context.get()?, device.get()?);
    refuse_if(properties & !ON_HOST != 0, ClError::INVALID_VALUE)?;
    create_checked(context, device, Wanted { flags: properties, ..Wanted::default() }, Vec::new())
}

/// `clCreateCommandQueueWithProperties`, and `clCreateCommandQueueWithPropertiesKHR` of `cl_khr_create_command_queue`.
pub(super) fn create_with_properties(
    context: Handle<Context>,
    device: Handle<Device>,
    properties: In<u64>,
) -> ClResult<RawHandle> {
    let (context, device) = (context.get()?, device.get()?);
    let mut list = properties.properties().unwrap_or_default();
    let wanted = wanted(&list, |extension| device.has_extension(extension))?;
    if !properties.is_null() {
        list.push(0);
    }
    create_checked(context, device, wanted, list)
}

fn wanted(list: &[u64], has_extension: impl Fn(&str) -> bool) -> ClResult<Wanted> {
    const PROPERTIES: u64 = CL_QUEUE_PROPERTIES as u64;
    const SIZE: u64 = CL_QUEUE_SIZE as u64;
    let (mut wanted, mut seen) = (Wanted::default(), Vec::new());
    for pair in list.chunks_exact(2) {
        let (name, value) = (pair[0], pair[1]);
        // CL_INVALID_VALUE if values specified in properties are not valid.
        refuse_if(seen.contains(&name), ClError::INVALID_VALUE)?;
        seen.push(name);
        match name {
            PROPERTIES => wanted.flags = value,
            SIZE => wanted.size = Some(u32::try_from(value).or(Err(ClError::INVALID_VALUE))?),
            CL_QUEUE_PRIORITY_KHR if has_extension("cl_khr_priority_hints") => wanted.hints |= hint(value)?,
            CL_QUEUE_THROTTLE_KHR if has_extension("cl_khr_throttle_hints") => {
                wanted.hints |= hint(value)? << 8;
            }
            _ => return Err(ClError::INVALID_VALUE),
        }
    }
    // CL_QUEUE_SIZE "can only be specified if CL_QUEUE_ON_DEVICE is set in CL_QUEUE_PROPERTIES".
    refuse_if(seen.contains(&SIZE) && wanted.flags & CL_QUEUE_ON_DEVICE == 0, ClError::INVALID_VALUE)?;
    // CL_INVALID_QUEUE_PROPERTIES if a hint is given and the queue is a CL_QUEUE_ON_DEVICE.
    let excluded = wanted.hints != 0 && wanted.flags & CL_QUEUE_ON_DEVICE != 0;
    refuse_if(excluded, ClError::INVALID_QUEUE_PROPERTIES)?;
    Ok(wanted)
}

/// A priority or a throttle: high, medium or low, which have the same numbers.
fn hint(value: u64) -> ClResult<u32> {
    let known = [CL_QUEUE_PRIORITY_HIGH_KHR, CL_QUEUE_PRIORITY_MED_KHR, CL_QUEUE_PRIORITY_LOW_KHR];
    refuse_if(!known.map(u64::from).contains(&value), ClError::INVALID_VALUE)?;
    Ok(value as u32)
}

/// A queue of either kind.
fn on_device(queue: &Handle<Queue>) -> Option<Handle<DeviceQueue>> {
    let on_device = queue.as_kind::<DeviceQueue>();
    on_device.get().is_ok().then_some(on_device)
}

/// `clRetainCommandQueue`.
pub(super) fn retain(queue: Handle<Queue>) -> ClResult<()> {
    match on_device(&queue) {
        Some(queue) => queue.get().map(Object::retain),
        None => queue.get().map(Object::retain),
    }
}

/// `clReleaseCommandQueue`.
pub(super) fn release(queue: Handle<Queue>) -> ClResult<()> {
    match on_device(&queue) {
        Some(queue) => queue.get()?.release(),
        None => queue.get()?.release(),
    }
}

/// `clGetCommandQueueInfo`.
pub(super) fn info(queue: Handle<Queue>, param_name: u32) -> ClResult<Info> {
    match on_device(&queue) {
        Some(queue) => queue.get()?.info(param_name),
        None => queue.get()?.info(param_name),
    }
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
    queue: Handle<DeviceQueue>,
) -> ClResult<()> {
    let (context, device) = (context.get()?, device.get()?);
    refuse_if(!context.has_device(device), ClError::INVALID_DEVICE)?;
    // CL_INVALID_OPERATION if device does not support a replaceable default on-device queue.
    refuse_if(!device.has_replaceable_default_queue(), ClError::INVALID_OPERATION)?;
    // CL_INVALID_COMMAND_QUEUE if command_queue is not a valid command-queue for device.
    let queue = queue.get()?;
    let is_own = queue.context().handle() == context.handle() && queue.device().handle() == device.handle();
    refuse_if(!is_own, ClError::INVALID_COMMAND_QUEUE)?;
    queue.make_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queue_properties_are_parsed() {
        let properties = u64::from(CL_QUEUE_PROPERTIES);
        let size = u64::from(CL_QUEUE_SIZE);
        let flags = |list: &[u64]| wanted(list, |_| false).map(|wanted| wanted.flags);
        assert_eq!(flags(&[]), Ok(0));
        assert_eq!(flags(&[properties, CL_QUEUE_PROFILING_ENABLE]), Ok(CL_QUEUE_PROFILING_ENABLE));
        assert_eq!(flags(&[size, 4096]), Err(ClError::INVALID_VALUE));
        assert_eq!(flags(&[properties, 1, properties, 2]), Err(ClError::INVALID_VALUE));
        assert_eq!(flags(&[7, 1]), Err(ClError::INVALID_VALUE));
        assert_eq!(flags(&[properties, ON_DEVICE, size, 64]), Ok(ON_DEVICE));
    }

    #[test]
    fn hints_are_taken_where_the_extension_is_offered() {
        let list = [CL_QUEUE_THROTTLE_KHR, 4, CL_QUEUE_PRIORITY_KHR, 1];
        assert_eq!(wanted(&list, |_| true), Ok(Wanted { hints: 0x0401, ..Wanted::default() }));
        let only_priority = |name: &str| name == "cl_khr_priority_hints";
        assert_eq!(wanted(&list, only_priority), Err(ClError::INVALID_VALUE));
        for bad in [0, 3, 8, 1 << 32 | 1] {
            let list = [CL_QUEUE_PRIORITY_KHR, bad];
            assert_eq!(wanted(&list, |_| true), Err(ClError::INVALID_VALUE), "{bad}");
        }
        let on_device = [u64::from(CL_QUEUE_PROPERTIES), ON_DEVICE, CL_QUEUE_PRIORITY_KHR, 1];
        assert_eq!(wanted(&on_device, |_| true), Err(ClError::INVALID_QUEUE_PROPERTIES));
    }
}
