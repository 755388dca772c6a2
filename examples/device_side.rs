//! Checks what kernels alone use: pipes, and queues in which kernels enqueue. Where the device has none, checks that making
//! one is the error that the specification asks for.
//!
//!     paragpu run -- target/debug/examples/device_side

#[path = "common/mod.rs"]
mod common;

use std::ffi::c_void;
use std::ptr;

use anyhow::{Context as _, Result, ensure};
use cl3::command_queue::{
    CL_QUEUE_DEVICE_DEFAULT, CL_QUEUE_ON_DEVICE, CL_QUEUE_ON_DEVICE_DEFAULT,
    CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE, CL_QUEUE_PROPERTIES, CL_QUEUE_SIZE,
    create_command_queue_with_properties, finish, get_command_queue_info, release_command_queue,
};
use cl3::memory::{
    CL_MEM_HOST_READ_ONLY, CL_MEM_OBJECT_PIPE, CL_MEM_TYPE, CL_PIPE_MAX_PACKETS, CL_PIPE_PACKET_SIZE,
    create_pipe, get_mem_object_info, get_pipe_info, release_mem_object,
};
use clap::Parser;
use common::Gpu;
use opencl3::kernel::{ExecuteKernel, Kernel};

/// Checks pipes and queues on the device.
#[derive(Parser)]
struct Arguments {
    /// Name of the OpenCL platform.
    #[arg(long, default_value = "paragpu")]
    platform: String,
}

const COUNT: u32 = 256;

const INVALID_VALUE: i32 = -30;
const INVALID_QUEUE_PROPERTIES: i32 = -35;
const INVALID_COMMAND_QUEUE: i32 = -36;
const INVALID_MEM_OBJECT: i32 = -38;
const INVALID_OPERATION: i32 = -59;
const INVALID_PIPE_SIZE: i32 = -69;
const INVALID_DEVICE_QUEUE: i32 = -70;

/// `fill` puts a number for each work-item into a pipe, `drain` takes one for each.
const PIPES: &str = "
    kernel void fill(write_only pipe uint to) {
        uint number = 3 * get_global_id(0) + 1;
        write_pipe(to, &number);
    }
    kernel void drain(read_only pipe uint from, global uint *numbers) {
        uint number;
        if (read_pipe(from, &number) == 0) numbers[get_global_id(0)] = number;
    }";

/// Both have a kernel enqueued that squares: in the default queue, or in the one that is passed.
const QUEUES: &str = "
    void enqueue(queue_t queue, global uint *numbers, uint count) {
        enqueue_kernel(queue, CLK_ENQUEUE_FLAGS_WAIT_KERNEL, ndrange_1D(count),
            ^{ uint i = get_global_id(0); numbers[i] = i * i; });
    }
    kernel void by_default(global uint *numbers, uint count) {
        enqueue(get_default_queue(), numbers, count);
    }
    kernel void as_passed(queue_t queue, global uint *numbers, uint count) {
        enqueue(queue, numbers, count);
    }";

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let gpu = Gpu::open(&arguments.platform)?;
    pipes(&gpu).context("pipes")?;
    queues(&gpu).context("queues on the device")
}

/// Memory of a kind of its own, released when dropped.
struct Pipe(*mut c_void);

impl Pipe {
    fn new(gpu: &Gpu, flags: u64, packet_size: u32, packets: u32) -> Result<Pipe, i32> {
        // SAFETY: a live context, and no properties.
        unsafe { create_pipe(gpu.context.get(), flags, packet_size, packets) }.map(Pipe)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        // SAFETY: created by `new`, and released once.
        let _ = unsafe { release_mem_object(self.0) };
    }
}

fn pipes(gpu: &Gpu) -> Result<()> {
    if !gpu.device.pipe_support().unwrap_or(false) {
        ensure!(Pipe::new(gpu, 0, 4, COUNT).err() == Some(INVALID_OPERATION), "a pipe without support");
        println!("skipped: the device has no pipes");
        return Ok(());
    }
    let pipe = Pipe::new(gpu, 0, 4, COUNT).map_err(|code| anyhow::anyhow!("clCreatePipe: {code}"))?;
    let says = |param| get_pipe_info(pipe.0, param).map(u32::from).ok();
    ensure!(says(CL_PIPE_PACKET_SIZE) == Some(4) && says(CL_PIPE_MAX_PACKETS) == Some(COUNT), "what it says");
    let kind = get_mem_object_info(pipe.0, CL_MEM_TYPE).map(u32::from);
    ensure!(kind == Ok(CL_MEM_OBJECT_PIPE), "it is of type {kind:?}");

    let program = gpu.program(PIPES, "-cl-std=CL3.0")?;
    let numbers = gpu.upload(&[0_u32; COUNT as usize])?;
    let count = [COUNT as usize];
    // SAFETY: the kernels' arguments, in order.
    gpu.run(&program, "fill", &count, &[], |call| unsafe {
        call.set_arg(&pipe.0);
    })?;
    // SAFETY: as above.
    gpu.run(&program, "drain", &count, &[], |call| unsafe {
        call.set_arg(&pipe.0).set_arg(&numbers);
    })?;
    let mut found = gpu.download(&numbers, COUNT as usize)?;
    found.sort_unstable();
    ensure!(found.iter().copied().eq((0..COUNT).map(|i| 3 * i + 1)), "what came through: {found:?}");

    for (flags, packet_size, packets, code) in [
        (0, 0, 1, INVALID_PIPE_SIZE),
        (0, 4, 0, INVALID_PIPE_SIZE),
        (0, u32::MAX, 1, INVALID_PIPE_SIZE),
        (CL_MEM_HOST_READ_ONLY, 4, 1, INVALID_VALUE),
    ] {
        let made = Pipe::new(gpu, flags, packet_size, packets).err();
        ensure!(made == Some(code), "flags {flags}, {packets} packets of {packet_size}: {made:?}");
    }
    let kernel = Kernel::create(&program, "drain")?;
    for (index, object) in [(0, numbers_of(&numbers)), (1, pipe.0)] {
        // SAFETY: a live memory object, of the wrong kind.
        let set = unsafe {
            cl3::kernel::set_kernel_arg(
                kernel.get(),
                index,
                size_of::<*mut c_void>(),
                ptr::from_ref(&object).cast(),
            )
        };
        ensure!(set == Err(INVALID_MEM_OBJECT), "argument {index}: {set:?}");
    }
    println!("ok    pipes");
    Ok(())
}

fn numbers_of(buffer: &opencl3::memory::Buffer<u32>) -> *mut c_void {
    use opencl3::memory::ClMem as _;
    buffer.get()
}

/// A queue on the device, released when dropped.
struct DeviceQueue(*mut c_void);

impl DeviceQueue {
    fn new(gpu: &Gpu, properties: u64, size: Option<u32>) -> Result<DeviceQueue, i32> {
        let mut list = vec![u64::from(CL_QUEUE_PROPERTIES), properties];
        list.extend(size.into_iter().flat_map(|size| [u64::from(CL_QUEUE_SIZE), size.into()]));
        list.push(0);
        let (context, device) = (gpu.context.get(), gpu.device.id());
        // SAFETY: live handles, and a list that ends with 0.
        unsafe { create_command_queue_with_properties(context, device, list.as_ptr()) }.map(DeviceQueue)
    }

    fn default(&self) -> Option<usize> {
        get_command_queue_info(self.0, CL_QUEUE_DEVICE_DEFAULT)
            .map(isize::from)
            .ok()
            .map(|handle| handle as usize)
    }
}

impl Drop for DeviceQueue {
    fn drop(&mut self) {
        // SAFETY: created by `new`, and released once.
        let _ = unsafe { release_command_queue(self.0) };
    }
}

const ON_DEVICE: u64 = CL_QUEUE_ON_DEVICE | CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE;

fn queues(gpu: &Gpu) -> Result<()> {
    let properties = gpu.device.queue_on_device_properties().unwrap_or_default();
    if properties.iter().all(|bits| *bits == 0) {
        let made = DeviceQueue::new(gpu, ON_DEVICE, None).err();
        ensure!(made == Some(INVALID_QUEUE_PROPERTIES), "a queue without support: {made:?}");
        println!("skipped: the device has no queues of its own");
        return Ok(());
    }
    let made = |properties, size| {
        DeviceQueue::new(gpu, properties, size).map_err(|code| anyhow::anyhow!("creating a queue: {code}"))
    };
    let default = made(ON_DEVICE | CL_QUEUE_ON_DEVICE_DEFAULT, Some(16384))?;
    let again = made(ON_DEVICE | CL_QUEUE_ON_DEVICE_DEFAULT, None)?;
    ensure!(default.0 == again.0 && default.default() == Some(default.0 as usize), "one default queue");
    let other = made(ON_DEVICE, None)?;
    ensure!(other.default() == Some(default.0 as usize), "the other's default");

    let program = gpu.program(QUEUES, "-cl-std=CL3.0")?;
    for (name, queue) in [("by_default", None), ("as_passed", Some(&other)), ("as_passed", Some(&default))] {
        let numbers = gpu.upload(&[0_u32; COUNT as usize])?;
        gpu.run(&program, name, &[1], &[1], |call: &mut ExecuteKernel<'_>| {
            // SAFETY: the kernels' arguments, in order.
            unsafe {
                if let Some(queue) = queue {
                    call.set_arg(&queue.0);
                }
                call.set_arg(&numbers).set_arg(&COUNT);
            }
        })?;
        let found = gpu.download(&numbers, COUNT as usize)?;
        ensure!(found.iter().copied().eq((0..COUNT).map(|i| i * i)), "{name}: {found:?}");
    }

    for (properties, code) in [
        (CL_QUEUE_ON_DEVICE, INVALID_VALUE),
        (CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE | CL_QUEUE_ON_DEVICE_DEFAULT, INVALID_VALUE),
    ] {
        let made = DeviceQueue::new(gpu, properties, None).err();
        ensure!(made == Some(code), "properties {properties:#x}: {made:?}");
    }
    let finished = finish(default.0);
    ensure!(finished == Err(INVALID_COMMAND_QUEUE), "clFinish: {finished:?}");
    let kernel = Kernel::create(&program, "as_passed")?;
    let queue = gpu.queue.get();
    // SAFETY: a live queue, of the wrong kind.
    let set = unsafe {
        cl3::kernel::set_kernel_arg(kernel.get(), 0, size_of::<*mut c_void>(), ptr::from_ref(&queue).cast())
    };
    ensure!(set == Err(INVALID_DEVICE_QUEUE), "a queue of the host's as the argument: {set:?}");
    println!("ok    queues on the device");
    Ok(())
}
