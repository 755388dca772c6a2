//! Where workloads run: a device, with what all of them need.

use std::ptr;

use anyhow::{Context as _, Result, anyhow};
use opencl3::command_queue::CommandQueue;
use opencl3::context::Context;
use opencl3::device::{CL_DEVICE_TYPE_ALL, Device};
use opencl3::kernel::Kernel;
use opencl3::memory::{Buffer, CL_MEM_READ_WRITE};
use opencl3::platform::get_platforms;
use opencl3::program::Program;
use opencl3::types::{CL_TRUE, cl_mem_flags};

use crate::common::Number;
use crate::direct::Direct;

/// The kernels of latency and throughput.
const SOURCE: &str = "
kernel void empty(void) {}
kernel void tick(global uint *count) { count[0] += 1; }
kernel void keep(global uint *out, uint value) { out[0] = value; }
";

/// A device, a context, and a queue that neither profiles nor reorders, as most programs make it.
pub(crate) struct Place {
    pub(crate) context: Context,
    pub(crate) queue: CommandQueue,
    pub(crate) direct: Direct,
    program: Program,
}

impl Place {
    /// The first device of the platform whose name has this in it. No other is taken in its place.
    pub(crate) fn open(platform: &str) -> Result<Place> {
        let platforms = get_platforms().context("no OpenCL platform")?;
        let names: Vec<String> = platforms.iter().map(|found| found.name().unwrap_or_default()).collect();
        let index = names.iter().position(|name| name.contains(platform));
        let index = index.ok_or_else(|| anyhow!("no platform named {platform:?}, only {names:?}"))?;
        let ids = platforms[index].get_devices(CL_DEVICE_TYPE_ALL).context("the platform has no device")?;
        let device = Device::new(*ids.first().context("the platform has no device")?);
        let context = Context::from_device(&device).context("cannot create a context")?;
        let program = Program::create_and_build_from_source(&context, SOURCE, "");
        let program = program.map_err(|log| anyhow!("the program does not build:\n{log}"))?;
        let queue = new_queue(&context)?;
        Ok(Place { context, queue, direct: Direct::load()?, program })
    }

    /// Another queue.
    pub(crate) fn another_queue(&self) -> Result<CommandQueue> {
        new_queue(&self.context)
    }

    /// One of the small kernels.
    pub(crate) fn kernel(&self, name: &str) -> Result<Kernel> {
        Kernel::create(&self.program, name).with_context(|| format!("no kernel {name}"))
    }

    /// Builds a program; the error holds the build log.
    pub(crate) fn program(&self, source: &str) -> Result<Program> {
        Program::create_and_build_from_source(&self.context, source, "")
            .map_err(|log| anyhow!("the program does not build:\n{log}"))
    }

    /// A buffer in memory of the driver's choice.
    pub(crate) fn buffer<T: Number>(&self, len: usize) -> Result<Buffer<T>> {
        self.buffer_with(CL_MEM_READ_WRITE, len)
    }

    /// A buffer without memory of the program's.
    pub(crate) fn buffer_with<T: Number>(&self, flags: cl_mem_flags, len: usize) -> Result<Buffer<T>> {
        // SAFETY: no host pointer is given.
        let buffer = unsafe { Buffer::create(&self.context, flags, len, ptr::null_mut()) };
        buffer.with_context(|| format!("cannot create a buffer of {len} elements"))
    }

    /// Writes elements to the beginning of a buffer, and waits for it.
    pub(crate) fn write<T: Number>(&self, buffer: &mut Buffer<T>, data: &[T]) -> Result<()> {
        // SAFETY: the write is blocking, and its callers' buffers are as long as what they write.
        unsafe { self.queue.enqueue_write_buffer(buffer, CL_TRUE, 0, data, &[]) }.context("cannot write")?;
        Ok(())
    }

    /// Reads elements from the beginning of a buffer.
    pub(crate) fn read<T: Number>(&self, buffer: &Buffer<T>, data: &mut [T]) -> Result<()> {
        // SAFETY: the read is blocking, and its callers' buffers are as long as what they read.
        unsafe { self.queue.enqueue_read_buffer(buffer, CL_TRUE, 0, data, &[]) }.context("cannot read")?;
        Ok(())
    }
}

fn new_queue(context: &Context) -> Result<CommandQueue> {
    CommandQueue::create_default_with_properties(context, 0, 0).context("cannot create a queue")
}
