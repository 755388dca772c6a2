//! Contexts.

use std::ffi::c_void;
use std::sync::Arc;

use opencl_sys::{CL_CONTEXT_INTEROP_USER_SYNC, CL_CONTEXT_PLATFORM};

use crate::boundary::arguments;
use crate::boundary::callback::{Callback, HandleFn, NotifyFn, UserData};
use crate::boundary::object::{Handle, Object, RawHandle};
use crate::boundary::pointer::In;
use crate::core::context::Context;
use crate::core::device::Device;
use crate::core::error::{ClError, ClResult, refuse_if};
use crate::core::info::Info;
use crate::core::platform;

/// Checks a context's properties, and returns them as `CL_CONTEXT_PROPERTIES` does: with the 0 at the end, or
/// nothing for NULL.
fn properties(list: In<isize>) -> ClResult<Vec<isize>> {
    let Some(mut properties) = list.properties() else {
        return Ok(Vec::new());
    };
    check_properties(&properties, platform::found()?.platform.handle())?;
    properties.push(0);
    Ok(properties)
}

fn check_properties(properties: &[isize], platform: RawHandle) -> ClResult<()> {
    let mut seen = Vec::new();
    for pair in properties.chunks_exact(2) {
        let (name, value) = (pair[0], pair[1]);
        // CL_INVALID_PROPERTY if the same property name is specified more than once.
        refuse_if(seen.contains(&name), ClError::INVALID_PROPERTY)?;
        seen.push(name);
        match name {
            // CL_INVALID_PLATFORM if platform value specified in properties is not a valid platform.
            CL_CONTEXT_PLATFORM => refuse_if(value as usize != platform.bits(), ClError::INVALID_PLATFORM)?,
            // CL_INVALID_PROPERTY if the value specified for a supported property name is not valid.
            CL_CONTEXT_INTEROP_USER_SYNC => refuse_if(!matches!(value, 0 | 1), ClError::INVALID_PROPERTY)?,
            // CL_INVALID_PROPERTY if context property name in properties is not a supported property name.
            _ => return Err(ClError::INVALID_PROPERTY),
        }
    }
    Ok(())
}

fn notify(function: Option<NotifyFn>, user_data: UserData) -> ClResult<Option<Callback<NotifyFn>>> {
    // CL_INVALID_VALUE if pfn_notify is NULL but user_data is not NULL.
    refuse_if(function.is_none() && !user_data.is_null(), ClError::INVALID_VALUE)?;
    Ok(Callback::new(function, user_data))
}

/// `clCreateContext`.
pub(super) fn create(
    properties: In<isize>,
    num_devices: u32,
    devices: In<*mut c_void>,
    pfn_notify: Option<NotifyFn>,
    user_data: UserData,
) -> ClResult<RawHandle> {
    let properties = self::properties(properties)?;
    // CL_INVALID_VALUE if devices is NULL, or if num_devices is equal to zero.
    // CL_INVALID_DEVICE if devices contains an invalid device.
    let all: Vec<Arc<Object<Device>>> = arguments::non_empty(num_devices, devices)?;
    let notify = notify(pfn_notify, user_data)?;
    // "Duplicate devices specified in devices are ignored."
    let mut devices: Vec<Arc<Object<Device>>> = Vec::new();
    for device in all {
        if !devices.iter().any(|known| known.handle() == device.handle()) {
            devices.push(device);
        }
    }
    Ok(Context::new(devices, properties, notify)?.hand_out())
}

/// `clCreateContextFromType`.
pub(super) fn create_from_type(
    properties: In<isize>,
    device_type: u64,
    pfn_notify: Option<NotifyFn>,
    user_data: UserData,
) -> ClResult<RawHandle> {
    let properties = self::properties(properties)?;
    let notify = notify(pfn_notify, user_data)?;
    let devices = platform::devices_of_type(device_type)?;
    Ok(Context::new(devices, properties, notify)?.hand_out())
}

/// `clRetainContext`.
pub(super) fn retain(context: Handle<Context>) -> ClResult<()> {
    context.get().map(Object::retain)
}

/// `clReleaseContext`.
pub(super) fn release(context: Handle<Context>) -> ClResult<()> {
    context.get()?.release()
}

/// `clGetContextInfo`.
pub(super) fn info(context: Handle<Context>, param_name: u32) -> ClResult<Info> {
    context.get()?.info(param_name)
}

/// `clSetContextDestructorCallback`.
pub(super) fn set_destructor(
    context: Handle<Context>,
    pfn_notify: Option<HandleFn>,
    user_data: UserData,
) -> ClResult<()> {
    let context = context.get()?;
    // CL_INVALID_VALUE if pfn_notify is NULL.
    context.on_destruction(Callback::new(pfn_notify, user_data).ok_or(ClError::INVALID_VALUE)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_are_known_once_and_name_this_platform() {
        let platform = RawHandle::NULL;
        let sync = CL_CONTEXT_INTEROP_USER_SYNC;
        assert_eq!(check_properties(&[CL_CONTEXT_PLATFORM, 0, sync, 1], platform), Ok(()));
        assert_eq!(check_properties(&[CL_CONTEXT_PLATFORM, 8], platform), Err(ClError::INVALID_PLATFORM));
        assert_eq!(check_properties(&[sync, 0, sync, 0], platform), Err(ClError::INVALID_PROPERTY));
        assert_eq!(check_properties(&[sync, 2], platform), Err(ClError::INVALID_PROPERTY));
        assert_eq!(check_properties(&[0x1234, 2], platform), Err(ClError::INVALID_PROPERTY));
    }
}
