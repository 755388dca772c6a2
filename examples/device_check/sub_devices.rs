//! Sub-devices.

use anyhow::{Result, ensure};
use cl3::device::{create_sub_devices, release_device, retain_device};
use opencl3::command_queue::CommandQueue;
use opencl3::context::Context;
use opencl3::device::{
    CL_DEVICE_PARTITION_BY_AFFINITY_DOMAIN, CL_DEVICE_PARTITION_BY_COUNTS, CL_DEVICE_PARTITION_EQUALLY,
    Device, SubDevice,
};
use opencl3::error_codes::{CL_INVALID_DEVICE_PARTITION_COUNT, CL_INVALID_VALUE};
use opencl3::kernel::{ExecuteKernel, Kernel};
use opencl3::memory::{Buffer, CL_MEM_COPY_HOST_PTR, CL_MEM_READ_WRITE};
use opencl3::program::Program;
use opencl3::types::CL_TRUE;

use super::{Bench, SOURCE};

/// Of the device's ways to be divided, whether this is one.
fn can_divide(device: &Device, name: isize) -> Result<bool> {
    Ok(device.partition_properties()?.contains(&name) && device.max_compute_units()? >= 2)
}

/// Runs a kernel on each of these devices, in a context of them all and after a build for all.
fn compute_on(devices: &[SubDevice]) -> Result<()> {
    let ids: Vec<_> = devices.iter().map(SubDevice::id).collect();
    let context = Context::from_devices(&ids, &[], None, std::ptr::null_mut())?;
    let program = Program::create_and_build_from_source(&context, SOURCE, "").map_err(anyhow::Error::msg)?;
    let kernel = Kernel::create(&program, "bump")?;
    let mut numbers = [7_u32; 64];
    let flags = CL_MEM_READ_WRITE | CL_MEM_COPY_HOST_PTR;
    // SAFETY: `numbers` is as long as the buffer, and copied during the call.
    let buffer =
        unsafe { Buffer::<u32>::create(&context, flags, numbers.len(), numbers.as_mut_ptr().cast())? };
    for (round, id) in ids.iter().enumerate() {
        // SAFETY: a device of this context.
        let queue = unsafe { CommandQueue::create_with_properties(&context, *id, 0, 0) }?;
        // SAFETY: a buffer of one uint per work-item; the read is blocking, and as long as `numbers`.
        unsafe {
            ExecuteKernel::new(&kernel).set_arg(&buffer).set_global_work_size(64).enqueue_nd_range(&queue)?;
            queue.enqueue_read_buffer(&buffer, CL_TRUE, 0, &mut numbers, &[])?;
        }
        ensure!(numbers == [8 + round as u32; 64], "sub-device {round} computed something else");
    }
    Ok(())
}

pub(super) fn equally(bench: &Bench) -> Result<()> {
    let device = &bench.gpu.device;
    if !can_divide(device, CL_DEVICE_PARTITION_EQUALLY)? {
        return Ok(());
    }
    let units = device.max_compute_units()?;
    let parts = device.create_sub_devices(&[CL_DEVICE_PARTITION_EQUALLY, 1, 0])?;
    ensure!(parts.len() == units as usize, "{units} compute units, {} sub-devices", parts.len());
    for part in &parts {
        let part = Device::new(part.id());
        ensure!(part.max_compute_units()? == 1, "a sub-device of another size");
        ensure!(part.parent_device()? == device.id(), "a sub-device of another device");
        ensure!(
            part.partition_type()?.starts_with(&[CL_DEVICE_PARTITION_EQUALLY, 1]),
            "of another partition"
        );
        ensure!(part.name()? == device.name()?, "of another name");
    }
    compute_on(&parts[..2])
}

pub(super) fn by_counts(bench: &Bench) -> Result<()> {
    let device = &bench.gpu.device;
    ensure!(device.parent_device()?.is_null(), "a root device has a parent");
    ensure!(device.reference_count()? == 1, "a root device is counted");
    // SAFETY: a device.
    unsafe { retain_device(device.id()) }.map_err(anyhow::Error::msg)?;
    ensure!(device.reference_count()? == 1, "a root device is counted");
    if !can_divide(device, CL_DEVICE_PARTITION_BY_COUNTS)? {
        return Ok(());
    }
    let properties = [CL_DEVICE_PARTITION_BY_COUNTS, 1, 1, 0, 0];
    let mut parts = device.create_sub_devices(&properties)?;
    ensure!(parts.len() == 2, "{} sub-devices", parts.len());
    let first = Device::new(parts[0].id());
    ensure!(first.reference_count()? == 1, "a new sub-device is counted {}", first.reference_count()?);
    // SAFETY: a device.
    unsafe { retain_device(first.id()) }.map_err(anyhow::Error::msg)?;
    ensure!(first.reference_count()? == 2, "a retained one {}", first.reference_count()?);
    // SAFETY: it was retained above.
    unsafe { release_device(first.id()) }.map_err(anyhow::Error::msg)?;
    ensure!(first.reference_count()? == 1, "and released {}", first.reference_count()?);
    compute_on(&parts)?;
    // A context keeps its devices.
    let context = Context::from_device(&first)?;
    drop(parts.remove(0));
    ensure!(
        context.devices() == [first.id()] && first.max_compute_units()? == 1,
        "the context's device is gone"
    );
    Ok(())
}

pub(super) fn mistakes(bench: &Bench) -> Result<()> {
    let device = &bench.gpu.device;
    let status = |properties: &[isize]| create_sub_devices(device.id(), properties).err();
    ensure!(status(&[0]) == Some(CL_INVALID_VALUE), "no partition: {:?}", status(&[0]));
    ensure!(status(&[77, 1, 0]) == Some(CL_INVALID_VALUE), "an unknown one");
    let by_domain = [CL_DEVICE_PARTITION_BY_AFFINITY_DOMAIN, 1 << 20, 0];
    ensure!(status(&by_domain) == Some(CL_INVALID_VALUE), "an unknown domain: {:?}", status(&by_domain));
    if can_divide(device, CL_DEVICE_PARTITION_BY_COUNTS)? {
        let units = device.max_compute_units()? as isize;
        let many = [CL_DEVICE_PARTITION_BY_COUNTS, units, 1, 0, 0];
        let invalid = Some(CL_INVALID_DEVICE_PARTITION_COUNT);
        ensure!(status(&many) == invalid, "more than there are: {:?}", status(&many));
    }
    if can_divide(device, CL_DEVICE_PARTITION_EQUALLY)? {
        let none = [CL_DEVICE_PARTITION_EQUALLY, 0, 0];
        ensure!(status(&none) == Some(CL_INVALID_VALUE), "parts of nothing: {:?}", status(&none));
    }
    Ok(())
}
