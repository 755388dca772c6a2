//! Devices.

use std::ffi::c_void;

use opencl_sys::{
    CL_DEVICE_AFFINITY_DOMAIN_NEXT_PARTITIONABLE, CL_DEVICE_PARTITION_BY_AFFINITY_DOMAIN,
    CL_DEVICE_PARTITION_BY_COUNTS, CL_DEVICE_PARTITION_EQUALLY,
};

use crate::boundary::arguments;
use crate::boundary::object::{Handle, Object};
use crate::boundary::pointer::{In, Out};
use crate::core::device::{self, Device};
use crate::core::error::{ClError, ClResult, refuse_if};
use crate::core::info::Info;
use crate::core::partition::{Partition, Scheme};
use crate::core::platform::{self, Platform};
use crate::core::timers;

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

/// `clRetainDevice`: "increments the device reference count if device is a valid sub-device … if device is a root-level
/// device, the device reference count remains unchanged".
pub(super) fn retain(device: Handle<Device>) -> ClResult<()> {
    let device = device.get()?;
    if device.parent().is_some() {
        device.retain();
    }
    Ok(())
}

/// `clReleaseDevice`.
pub(super) fn release(device: Handle<Device>) -> ClResult<()> {
    let device = device.get()?;
    if device.parent().is_some() { device.release() } else { Ok(()) }
}

/// `clCreateSubDevices`.
pub(super) fn create_sub_devices(
    in_device: Handle<Device>,
    properties: In<isize>,
    num_devices: u32,
    out_devices: Out<*mut c_void>,
    num_devices_ret: Out<u32>,
) -> ClResult<()> {
    let device = in_device.get()?;
    let partition = Partition::new(device, scheme(device, properties)?)?;
    if !out_devices.is_null() {
        // CL_INVALID_VALUE if out_devices is not NULL and num_devices is less than the number of sub-devices created by
        // the partition scheme.
        refuse_if((num_devices as usize) < partition.count(), ClError::INVALID_VALUE)?;
        let parts = Partition::make(partition.clone())?;
        out_devices.fill_handles(&parts.into_iter().map(Object::hand_out).collect::<Vec<_>>());
    }
    num_devices_ret.set(partition.count() as u32);
    Ok(())
}

/// How the application wants the device divided, as far as that can be checked here.
fn scheme(device: &Device, properties: In<isize>) -> ClResult<Scheme> {
    // CL_INVALID_VALUE if values specified in properties are not valid or if values specified in properties are valid but
    // not supported by the device.
    let name = properties.value().ok_or(ClError::INVALID_VALUE)?;
    refuse_if(name == 0 || !device.partition_names().contains(&(name as u64)), ClError::INVALID_VALUE)?;
    let values = properties.terminated().unwrap_or_default().split_off(1);
    let values = match name {
        CL_DEVICE_PARTITION_EQUALLY => one_value(&values, |_| true)?,
        CL_DEVICE_PARTITION_BY_AFFINITY_DOMAIN => {
            let known = CL_DEVICE_AFFINITY_DOMAIN_NEXT_PARTITIONABLE << 1;
            let domains = device.affinity_domains() & (known - 1);
            one_value(&values, |domain| domain.is_power_of_two() && u64::from(domain) & domains != 0)?
        }
        CL_DEVICE_PARTITION_BY_COUNTS => counts(&values, device.max_sub_devices(), device.compute_units())?,
        _ => return Err(ClError::INVALID_VALUE),
    };
    Ok(Scheme { name: name as u32, values })
}

fn one_value(values: &[isize], is_valid: impl Fn(u32) -> bool) -> ClResult<Vec<u32>> {
    match values {
        [value] => {
            let value = u32::try_from(*value).or(Err(ClError::INVALID_VALUE))?;
            refuse_if(value == 0 || !is_valid(value), ClError::INVALID_VALUE)?;
            Ok(vec![value])
        }
        _ => Err(ClError::INVALID_VALUE),
    }
}

/// The compute units of each sub-device.
fn counts(values: &[isize], max_sub_devices: u32, compute_units: u32) -> ClResult<Vec<u32>> {
    refuse_if(values.is_empty(), ClError::INVALID_VALUE)?;
    // CL_INVALID_DEVICE_PARTITION_COUNT if the partition name specified in properties is
    // CL_DEVICE_PARTITION_BY_COUNTS and the number of sub-devices requested exceeds CL_DEVICE_PARTITION_MAX_SUB_DEVICES
    // or the total number of compute units requested exceeds CL_DEVICE_MAX_COMPUTE_UNITS for in_device, or the number of
    // compute units requested for one or more sub-devices is less than zero.
    let invalid = ClError::INVALID_DEVICE_PARTITION_COUNT;
    let counts: Vec<u32> =
        values.iter().map(|count| u32::try_from(*count).or(Err(invalid))).collect::<ClResult<_>>()?;
    let total: u64 = counts.iter().map(|count| u64::from(*count)).sum();
    refuse_if(counts.len() > max_sub_devices as usize || total > u64::from(compute_units), invalid)?;
    Ok(counts)
}

/// `clGetDeviceAndHostTimer`.
pub(super) fn timers(device: Handle<Device>, device_time: Out<u64>, host_time: Out<u64>) -> ClResult<()> {
    let device = device.get()?;
    // CL_INVALID_OPERATION if the platform associated with device does not support device and host timer
    // synchronization.
    refuse_if(timers::resolution() == 0, ClError::INVALID_OPERATION)?;
    // CL_INVALID_VALUE if host_timestamp or device_timestamp is NULL.
    refuse_if(device_time.is_null() || host_time.is_null(), ClError::INVALID_VALUE)?;
    let (of_device, of_host) = timers::read_both(device)?;
    device_time.set(of_device);
    host_time.set(of_host);
    Ok(())
}

/// `clGetHostTimer`.
pub(super) fn host_timer(device: Handle<Device>, host_time: Out<u64>) -> ClResult<()> {
    device.get()?;
    // CL_INVALID_OPERATION as above.
    refuse_if(timers::resolution() == 0, ClError::INVALID_OPERATION)?;
    // CL_INVALID_VALUE if host_timestamp is NULL.
    refuse_if(host_time.is_null(), ClError::INVALID_VALUE)?;
    host_time.set(timers::now());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_that_the_device_does_not_have_are_refused() {
        let invalid = Err(ClError::INVALID_DEVICE_PARTITION_COUNT);
        assert_eq!(counts(&[1, 3], 4, 4), Ok(vec![1, 3]));
        assert_eq!(counts(&[1, 4], 4, 4), invalid, "more compute units than there are");
        assert_eq!(counts(&[1, 1, 1], 2, 4), invalid, "more sub-devices than there can be");
        assert_eq!(counts(&[2, -1], 4, 4), invalid);
        assert_eq!(counts(&[isize::MAX], 4, 4), invalid);
        assert_eq!(counts(&[], 4, 4), Err(ClError::INVALID_VALUE));
    }

    #[test]
    fn one_value_is_one_number_that_the_device_takes() {
        assert_eq!(one_value(&[4], |value| value == 4), Ok(vec![4]));
        for bad in [&[][..], &[0], &[-4], &[1 << 40], &[4, 4], &[5]] {
            assert_eq!(one_value(bad, |value| value == 4), Err(ClError::INVALID_VALUE), "{bad:?}");
        }
    }
}
