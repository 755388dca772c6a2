//! A small OpenCL program, for `paragpu doctor`: what platforms there are, and whether one computes.

use std::ptr;

use opencl3::command_queue::CommandQueue;
use opencl3::context::Context;
use opencl3::device::{CL_DEVICE_TYPE_ALL, Device};
use opencl3::error_codes::ClError;
use opencl3::kernel::{ExecuteKernel, Kernel};
use opencl3::memory::{Buffer, CL_MEM_READ_WRITE};
use opencl3::platform::get_platforms;
use opencl3::program::Program;
use opencl3::types::CL_TRUE;

/// Why nothing was computed.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// libOpenCL.so.1 is not there, or has no platform.
    #[error("no OpenCL platform: {0}")]
    NoPlatforms(ClError),
    /// There are platforms, but not this one.
    #[error("no OpenCL platform named {wanted:?} (there are: {there})")]
    NoSuchPlatform {
        /// The platform that was asked for.
        wanted: String,
        /// The platforms that are there.
        there: String,
    },
    /// A call failed.
    #[error("{call}: {error}")]
    Call {
        /// The OpenCL function.
        call: &'static str,
        /// Its error.
        error: ClError,
    },
    /// The test program does not build.
    #[error("the test program does not build: {0}")]
    Build(String),
    /// The device computed something else than this CPU.
    #[error("the device computes wrong results")]
    Wrong,
}

/// The platforms, each with the names of its devices.
pub fn platforms() -> Result<Vec<(String, Vec<String>)>, ProbeError> {
    let platforms = get_platforms().map_err(ProbeError::NoPlatforms)?;
    let described = platforms.into_iter().map(|platform| {
        let devices = platform.get_devices(CL_DEVICE_TYPE_ALL).unwrap_or_default();
        let names = devices.into_iter().filter_map(|id| Device::new(id).name().ok()).collect();
        (platform.name().unwrap_or_default(), names)
    });
    Ok(described.collect())
}

const SOURCE: &str = "kernel void probe(global uint *x) { uint i = get_global_id(0); x[i] = x[i] * 3 + i; }";

/// Computes something on the first device of the platform with this name, compares it with what this CPU computes,
/// and returns the device's name.
pub fn run(platform: &str) -> Result<String, ProbeError> {
    let call = |call| move |error| ProbeError::Call { call, error };
    let platforms = get_platforms().map_err(ProbeError::NoPlatforms)?;
    let named = |wanted: &str| platforms.iter().find(|found| found.name().is_ok_and(|name| name == wanted));
    let Some(found) = named(platform) else {
        let there: Vec<String> = platforms.iter().filter_map(|found| found.name().ok()).collect();
        return Err(ProbeError::NoSuchPlatform { wanted: platform.to_owned(), there: there.join(", ") });
    };
    let devices = found.get_devices(CL_DEVICE_TYPE_ALL).map_err(call("clGetDeviceIDs"))?;
    let Some(&id) = devices.first() else {
        return Err(ProbeError::Call { call: "clGetDeviceIDs", error: ClError(-1) });
    };
    let device = Device::new(id);
    let context = Context::from_device(&device).map_err(call("clCreateContext"))?;
    let queue =
        CommandQueue::create_default_with_properties(&context, 0, 0).map_err(call("clCreateCommandQueue"))?;
    let program = Program::create_and_build_from_source(&context, SOURCE, "").map_err(ProbeError::Build)?;
    let kernel = Kernel::create(&program, "probe").map_err(call("clCreateKernel"))?;
    let input: Vec<u32> = (0..1000).map(|i| i * 7 + 1).collect();
    let mut output = vec![0; input.len()];
    // SAFETY: no host pointer is given.
    let buffer = unsafe { Buffer::create(&context, CL_MEM_READ_WRITE, input.len(), ptr::null_mut()) };
    let mut buffer: Buffer<u32> = buffer.map_err(call("clCreateBuffer"))?;
    // SAFETY: `input` is as long as the buffer, and outlives the blocking write.
    unsafe { queue.enqueue_write_buffer(&mut buffer, CL_TRUE, 0, &input, &[]) }
        .map_err(call("clEnqueueWriteBuffer"))?;
    // SAFETY: the kernel takes one buffer of a uint per work-item.
    unsafe {
        ExecuteKernel::new(&kernel)
            .set_arg(&buffer)
            .set_global_work_size(input.len())
            .enqueue_nd_range(&queue)
    }
    .map_err(call("clEnqueueNDRangeKernel"))?;
    // SAFETY: `output` is as long as the buffer, and outlives the blocking read.
    unsafe { queue.enqueue_read_buffer(&buffer, CL_TRUE, 0, &mut output, &[]) }
        .map_err(call("clEnqueueReadBuffer"))?;
    let right = input.iter().zip(0..).map(|(x, i)| x * 3 + i).eq(output);
    if right { device.name().map_err(call("clGetDeviceInfo")) } else { Err(ProbeError::Wrong) }
}
