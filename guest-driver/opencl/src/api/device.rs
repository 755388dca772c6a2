//! Devices.

use std::ffi::c_void;

use crate::boundary::arguments;
use crate::boundary::object::Handle;
use crate::boundary::pointer::{In, Out};
use crate::core::device::{self, Device};
use crate::core::error::{ClError, ClResult, refuse_if};
use crate::core::info::Info;
use crate::core::platform::{self, Platform};

/// `clGetDeviceIDs`.
pub(super) fn ids(
    platform: Handle<Platform>,
    device_type: u64,
    num_entries: u32,
    devices: Out<*mut c_void>,
    num_devices: Out<u32>,
) -> ClResult<()> {
    arguments::optional(&platform)?;
    let handles = device::handles(&platform::devices_of_type(device_type)?);
    arguments::give_list(&handles, num_entries, devices, num_devices)
}

/// `clGetDeviceInfo`.
pub(super) fn info(device: Handle<Device>, param_name: u32) -> ClResult<Info> {
    device.get()?.info(param_name)
}

/// `clRetainDevice`, `clReleaseDevice`: "if device is a root-level device, the reference count is not changed".
pub(super) fn keep(device: Handle<Device>) -> ClResult<()> {
    device.get().map(|_| ())
}

/// `clCreateSubDevices`.
pub(super) fn create_sub_devices(
    in_device: Handle<Device>,
    _properties: In<isize>,
    _num_devices: u32,
    _out_devices: Out<*mut c_void>,
    _num_devices_ret: Out<u32>,
) -> ClResult<()> {
    in_device.get()?;
    // CL_INVALID_VALUE if values specified in properties are not supported by the device. None are.
    Err(ClError::INVALID_VALUE)
}

/// `clGetDeviceAndHostTimer`.
pub(super) fn timers(device: Handle<Device>, device_time: Out<u64>, host_time: Out<u64>) -> ClResult<()> {
    device.get()?;
    // CL_INVALID_VALUE if host_timestamp or device_timestamp is NULL.
    refuse_if(device_time.is_null() || host_time.is_null(), ClError::INVALID_VALUE)?;
    // CL_INVALID_OPERATION if the platform associated with device does not support device and host timer
    // synchronization.
    Err(ClError::INVALID_OPERATION)
}

/// `clGetHostTimer`.
pub(super) fn host_timer(device: Handle<Device>, host_time: Out<u64>) -> ClResult<()> {
    device.get()?;
    refuse_if(host_time.is_null(), ClError::INVALID_VALUE)?;
    // As for clGetDeviceAndHostTimer.
    Err(ClError::INVALID_OPERATION)
}
