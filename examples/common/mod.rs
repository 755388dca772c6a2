//! A little of OpenCL made comfortable, for the examples: one device, one queue, typed buffers.

// Each example uses its part of this file.
#![allow(dead_code)]

pub(crate) mod checks;

use std::ptr;

use anyhow::{Context as _, Result, anyhow};
use opencl3::command_queue::{CL_QUEUE_PROFILING_ENABLE, CommandQueue};
use opencl3::context::Context;
use opencl3::device::{CL_DEVICE_TYPE_ALL, Device};
use opencl3::kernel::{ExecuteKernel, Kernel};
use opencl3::memory::{Buffer, CL_MEM_READ_WRITE};
use opencl3::platform::get_platforms;
use opencl3::program::Program;
use opencl3::types::CL_TRUE;

/// A device with a queue that profiles.
pub(crate) struct Gpu {
    pub(crate) device: Device,
    pub(crate) context: Context,
    pub(crate) queue: CommandQueue,
}

/// Plain numbers, which may be copied to a device and back as bytes.
pub(crate) trait Number: Copy + Default {}
impl Number for u8 {}
impl Number for i32 {}
impl Number for u32 {}
impl Number for f32 {}

impl Gpu {
    /// The first device of the platform with this name. No other platform is taken in its place: a check that
    /// silently ran on the guest's own CPU would prove nothing.
    pub(crate) fn open(platform: &str) -> Result<Gpu> {
        let platforms =
            get_platforms().context("no OpenCL platform: is the vendor file in /etc/OpenCL/vendors?")?;
        let names: Vec<String> = platforms.iter().map(|found| found.name().unwrap_or_default()).collect();
        let index = names.iter().position(|name| name == platform).ok_or_else(|| {
            anyhow!("no platform named {platform:?}, only {names:?}; `paragpu doctor` tells what is missing")
        })?;
        let ids = platforms[index].get_devices(CL_DEVICE_TYPE_ALL).context("the platform has no device")?;
        Gpu::on(&Device::new(*ids.first().context("the platform has no device")?))
    }

    /// Another context and queue on a device.
    pub(crate) fn on(device: &Device) -> Result<Gpu> {
        let device = Device::new(device.id());
        let context = Context::from_device(&device).context("cannot create a context")?;
        let queue = CommandQueue::create_default_with_properties(&context, CL_QUEUE_PROFILING_ENABLE, 0)
            .context("cannot create a queue")?;
        Ok(Gpu { device, context, queue })
    }

    /// Builds a program; the error holds the build log.
    pub(crate) fn program(&self, source: &str, options: &str) -> Result<Program> {
        Program::create_and_build_from_source(&self.context, source, options)
            .map_err(|log| anyhow!("the program does not build:\n{log}"))
    }

    /// An uninitialised buffer of `len` elements.
    pub(crate) fn buffer<T: Number>(&self, len: usize) -> Result<Buffer<T>> {
        // SAFETY: no host pointer is given.
        let buffer = unsafe { Buffer::create(&self.context, CL_MEM_READ_WRITE, len, ptr::null_mut()) };
        buffer.with_context(|| format!("cannot create a buffer of {len} elements"))
    }

    /// A buffer with these elements.
    pub(crate) fn upload<T: Number>(&self, data: &[T]) -> Result<Buffer<T>> {
        let mut buffer = self.buffer(data.len())?;
        // SAFETY: the write is blocking, so `data` outlives it, and both have the same length.
        unsafe { self.queue.enqueue_write_buffer(&mut buffer, CL_TRUE, 0, data, &[]) }
            .context("cannot write")?;
        Ok(buffer)
    }

    /// The first `len` elements of a buffer.
    pub(crate) fn download<T: Number>(&self, buffer: &Buffer<T>, len: usize) -> Result<Vec<T>> {
        let mut data = vec![T::default(); len];
        // SAFETY: the read is blocking, so `data` outlives it, and it is as long as what is read.
        unsafe { self.queue.enqueue_read_buffer(buffer, CL_TRUE, 0, &mut data, &[]) }
            .context("cannot read")?;
        Ok(data)
    }

    /// Runs a kernel and waits for it. `set` sets its arguments, in order.
    pub(crate) fn run(
        &self,
        program: &Program,
        kernel: &str,
        global: &[usize],
        local: &[usize],
        set: impl FnOnce(&mut ExecuteKernel<'_>),
    ) -> Result<()> {
        let kernel = Kernel::create(program, kernel).with_context(|| format!("no kernel {kernel}"))?;
        let mut call = ExecuteKernel::new(&kernel);
        set(&mut call);
        call.set_global_work_sizes(global);
        if !local.is_empty() {
            call.set_local_work_sizes(local);
        }
        // SAFETY: the callers set every argument with the type that the kernel declares, and buffers that are
        // large enough for the range.
        let event = unsafe { call.enqueue_nd_range(&self.queue) }.context("cannot enqueue the kernel")?;
        event.wait().context("the kernel failed")?;
        Ok(())
    }
}
