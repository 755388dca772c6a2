//! Lives a hard life on a vGPU: forks, loads and unloads OpenCL, ends with commands running, has many threads, objects and
//! gigabytes. Exit status 0 only if everything computes what it should.
//!
//!     paragpu run -- target/debug/examples/life_check fork

mod common;

use std::ffi::{CStr, c_void};
use std::ptr;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use clap::{Parser, ValueEnum};
use opencl3::command_queue::CommandQueue;
use opencl3::context::Context;
use opencl3::event::{CL_COMPLETE, create_user_event, set_event_callback};
use opencl3::kernel::{ExecuteKernel, Kernel};
use opencl3::memory::{Buffer, CL_MEM_READ_WRITE};
use opencl3::types::{CL_FALSE, CL_TRUE, cl_event};

use common::Gpu;

/// What to live through.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Life {
    /// Both sides of a fork compute.
    Fork,
    /// The OpenCL loader, and the driver itself, are loaded and unloaded.
    Unload,
    /// The process ends with commands and callbacks under way.
    Exit,
    /// It ends in the same state, without running what runs at an exit.
    QuickExit,
    /// It ends while other threads wait.
    ExitInThread,
    /// Three hundred threads compute at once.
    Threads,
    /// Tens of thousands of objects live at once.
    Objects,
    /// Gigabytes of buffers.
    Gigabytes,
}

/// Lives a hard life on a vGPU.
#[derive(Parser)]
struct Arguments {
    life: Life,
    /// Name of the OpenCL platform.
    #[arg(long, default_value = "paragpu")]
    platform: String,
}

const SOURCE: &str = "
    kernel void bump(global uint *x) { x[get_global_id(0)] += 1; }
    kernel void spin(global uint *x, uint rounds) {
        uint y = x[0];
        for (uint i = 0; i < rounds; ++i) y = y * 1664525u + 1013904223u;
        x[0] = y;
    }";

fn main() -> Result<()> {
    let Arguments { life, platform } = Arguments::parse();
    if matches!(life, Life::Unload) {
        return unload();
    }
    let gpu = Gpu::open(&platform)?;
    match life {
        Life::Fork => fork(&gpu, &platform),
        Life::Exit => {
            leave_running(&gpu)?;
            println!("leaving");
            std::process::exit(0)
        }
        Life::QuickExit => {
            leave_running(&gpu)?;
            println!("leaving");
            // SAFETY: ends the process.
            unsafe { libc::_exit(0) }
        }
        Life::ExitInThread => exit_in_thread(gpu),
        Life::Threads => threads(&gpu),
        Life::Objects => objects(&gpu),
        Life::Gigabytes => gigabytes(&gpu),
        Life::Unload => unreachable!("done above"),
    }
}

/// Adds 1 to some numbers, in a queue and a buffer of its own.
fn compute(gpu: &Gpu, seed: u32) -> Result<()> {
    let program = gpu.program(SOURCE, "")?;
    let kernel = Kernel::create(&program, "bump")?;
    compute_with(gpu, &kernel, seed)
}

fn compute_with(gpu: &Gpu, kernel: &Kernel, seed: u32) -> Result<()> {
    let queue = CommandQueue::create_default_with_properties(&gpu.context, 0, 0)?;
    let mut numbers: Vec<u32> = (0..1000).map(|index| seed.wrapping_add(index)).collect();
    let expected: Vec<u32> = numbers.iter().map(|number| number.wrapping_add(3)).collect();
    let mut buffer = gpu.buffer::<u32>(numbers.len())?;
    // SAFETY: blocking transfers as long as the buffer; a buffer of one uint per work-item.
    unsafe {
        queue.enqueue_write_buffer(&mut buffer, CL_TRUE, 0, &numbers, &[])?;
        for _ in 0..3 {
            ExecuteKernel::new(kernel)
                .set_arg(&buffer)
                .set_global_work_size(1000)
                .enqueue_nd_range(&queue)?;
        }
        queue.enqueue_read_buffer(&buffer, CL_TRUE, 0, &mut numbers, &[])?;
    }
    ensure!(numbers == expected, "sums differ");
    Ok(())
}

fn fork(gpu: &Gpu, platform: &str) -> Result<()> {
    let program = gpu.program(SOURCE, "")?;
    let kernel = Kernel::create(&program, "bump")?;
    for round in 0..3 {
        compute_with(gpu, &kernel, round)?;
        // SAFETY: the child uses OpenCL, which this driver allows after a fork, and ends with _exit.
        let child = unsafe { libc::fork() };
        ensure!(child >= 0, "cannot fork");
        if child == 0 {
            let result = after_fork(gpu, platform);
            if let Err(error) = &result {
                println!("child: {error:#}");
            }
            // SAFETY: ends the child.
            unsafe { libc::_exit(i32::from(result.is_err())) }
        }
        for step in 0..50 {
            compute_with(gpu, &kernel, 100 * round + step)?;
        }
        let mut status = 0;
        // SAFETY: waits for the child.
        ensure!(unsafe { libc::waitpid(child, &mut status, 0) } == child, "the child is gone");
        ensure!(status == 0, "the child ended with {status:#x}");
    }
    compute_with(gpu, &kernel, 7)?;
    println!("parent and children computed");
    Ok(())
}

/// What was made before the fork is the parent's; a new context is the child's own.
fn after_fork(parents: &Gpu, platform: &str) -> Result<()> {
    ensure!(compute(parents, 5).is_err(), "the parent's context works in the child");
    compute(&Gpu::open(platform)?, 1)
}

fn unload() -> Result<()> {
    let driver = driver()?;
    for name in [c"libOpenCL.so.1", &driver] {
        for _ in 0..3 {
            use_library(name)?;
        }
        println!("{} was loaded and unloaded", name.to_string_lossy());
    }
    // The driver's threads may be anywhere in it.
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    ensure!(maps.contains(&*driver.to_string_lossy()), "the driver's code is gone while its threads run");
    Ok(())
}

/// The driver that the vendor file names, if there is one.
fn driver() -> Result<std::ffi::CString> {
    let vendors = std::env::var_os("OCL_ICD_VENDORS").unwrap_or_else(|| "/etc/OpenCL/vendors".into());
    let file = std::path::Path::new(&vendors).join("paragpu.icd");
    Ok(std::ffi::CString::new(std::fs::read_to_string(file)?.trim())?)
}

extern "C" fn ignore(_event: cl_event, _status: i32, _data: *mut c_void) {}

/// Loads a library with OpenCL in it, makes a context with a callback thread, and unloads it with all of that alive.
fn use_library(name: &CStr) -> Result<()> {
    type Ids = unsafe extern "C" fn(u32, *mut *mut c_void, *mut u32) -> i32;
    // SAFETY: loads a library whose initialisers may run at any time.
    let library = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    ensure!(!library.is_null(), "cannot load {name:?}");
    let symbol = |symbol: &CStr| {
        // SAFETY: a loaded library and a terminated string.
        unsafe { libc::dlsym(library, symbol.as_ptr()) }
    };
    let ids = [c"clGetPlatformIDs", c"clIcdGetPlatformIDsKHR"].map(symbol);
    let Some(&ids) = ids.iter().find(|address| !address.is_null()) else {
        bail!("{name:?} has no platforms");
    };
    // SAFETY: both functions have this type.
    let ids = unsafe { std::mem::transmute::<*mut c_void, Ids>(ids) };
    let (mut platform, mut count) = (ptr::null_mut(), 0);
    // SAFETY: room for one platform.
    ensure!(unsafe { ids(1, &mut platform, &mut count) } == 0 && count == 1, "no platform in {name:?}");
    // The handle leads to the driver's functions, as the loader would go.
    // SAFETY: a platform's first word points to the table of entry points, of which this program takes a few.
    unsafe {
        let table = &**platform.cast::<*const Table>();
        let mut device = ptr::null_mut();
        ensure!((table.device_ids)(platform, 0xffff_ffff, 1, &mut device, &mut count) == 0, "no device");
        let mut error = 0;
        let context = (table.create_context)(ptr::null(), 1, &device, None, ptr::null_mut(), &mut error);
        ensure!(!context.is_null(), "no context: {error}");
        // Left alive, like the context: libraries are unloaded by those who do not know what is in them.
    }
    // SAFETY: nothing of the library is called after this, except by its own threads.
    ensure!(unsafe { libc::dlclose(library) } == 0, "cannot unload {name:?}");
    std::thread::sleep(Duration::from_millis(50));
    Ok(())
}

type CreateContext = unsafe extern "C" fn(
    *const isize,
    u32,
    *const *mut c_void,
    Option<unsafe extern "C" fn()>,
    *mut c_void,
    *mut i32,
) -> *mut c_void;

/// The first entries of the table that every handle points to.
#[repr(C)]
struct Table {
    _platform_ids: *const c_void,
    _platform_info: *const c_void,
    device_ids: unsafe extern "C" fn(*mut c_void, u64, u32, *mut *mut c_void, *mut u32) -> i32,
    _device_info: *const c_void,
    create_context: CreateContext,
}

/// Enqueues a kernel that takes some time, others behind it and behind a user event that never ends, and callbacks.
fn leave_running(gpu: &Gpu) -> Result<()> {
    let program = gpu.program(SOURCE, "")?;
    let kernel = Kernel::create(&program, "spin")?;
    let buffer = gpu.upload(&[1_u32; 1 << 20])?;
    let gate = create_user_event(gpu.context.get()).map_err(anyhow::Error::msg)?;
    let mut got = vec![0_u32; 1 << 20];
    // SAFETY: a buffer of a uint, and a uint; `got` is leaked, so that it outlives the read.
    unsafe {
        let running = ExecuteKernel::new(&kernel)
            .set_arg(&buffer)
            .set_arg(&400_000_000_u32)
            .set_global_work_size(1)
            .enqueue_nd_range(&gpu.queue)?;
        let read = gpu.queue.enqueue_read_buffer(&buffer, CL_FALSE, 0, &mut got, &[])?;
        let held = gpu.queue.enqueue_marker_with_wait_list(&[gate])?;
        gpu.queue.flush()?;
        for event in [&running, &read, &held] {
            set_event_callback(event.get(), CL_COMPLETE, ignore, ptr::null_mut())
                .map_err(anyhow::Error::msg)?;
        }
        std::mem::forget((running, read, held, buffer, kernel, program, got));
    }
    Ok(())
}

fn exit_in_thread(gpu: Gpu) -> Result<()> {
    leave_running(&gpu)?;
    let gpu: &'static Gpu = Box::leak(Box::new(gpu));
    for _ in 0..4 {
        std::thread::spawn(|| gpu.queue.finish());
    }
    std::thread::sleep(Duration::from_millis(20));
    println!("leaving");
    std::thread::spawn(|| std::process::exit(0)).join().ok();
    bail!("the process goes on")
}

fn threads(gpu: &Gpu) -> Result<()> {
    let program = gpu.program(SOURCE, "")?;
    let (program, device) = (&program, &gpu.device);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..300_u32)
            .map(|index| {
                scope.spawn(move || -> Result<()> {
                    if index.is_multiple_of(50) {
                        // Some have a context of their own.
                        return compute(&Gpu::on(device)?, index);
                    }
                    let kernel = Kernel::create(program, "bump")?;
                    (0..5).try_for_each(|step| compute_with(gpu, &kernel, 1000 * index + step))
                })
            })
            .collect();
        threads.into_iter().try_for_each(|thread| {
            thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a thread panicked")))
        })
    })?;
    println!("300 threads computed");
    Ok(())
}

fn objects(gpu: &Gpu) -> Result<()> {
    let program = gpu.program(SOURCE, "")?;
    let first = Kernel::create(&program, "bump")?;
    let mut buffers: Vec<Buffer<u32>> = Vec::new();
    let mut events = Vec::new();
    for index in 0..20_000_u32 {
        let mut buffer = gpu.buffer::<u32>(16)?;
        // SAFETY: blocking, or copied during the call as it is short; as long as the buffer.
        events.push(unsafe { gpu.queue.enqueue_write_buffer(&mut buffer, CL_FALSE, 0, &[index; 16], &[])? });
        // SAFETY: a buffer of one uint per work-item.
        events.push(unsafe {
            ExecuteKernel::new(&first)
                .set_arg(&buffer)
                .set_global_work_size(16)
                .enqueue_nd_range(&gpu.queue)?
        });
        buffers.push(buffer);
    }
    let kernels: Vec<Kernel> =
        (0..2000).map(|_| Kernel::create(&program, "bump")).collect::<Result<_, _>>()?;
    let queues: Vec<CommandQueue> = (0..200)
        .map(|_| CommandQueue::create_default_with_properties(&gpu.context, 0, 0))
        .collect::<Result<_, _>>()?;
    let contexts: Vec<Context> =
        (0..50).map(|_| Context::from_device(&gpu.device)).collect::<Result<_, _>>()?;
    for (index, kernel) in kernels.iter().enumerate() {
        let (buffer, queue) = (&buffers[10 * index], &queues[index % queues.len()]);
        gpu.queue.finish()?;
        // SAFETY: a buffer of one uint per work-item.
        unsafe {
            ExecuteKernel::new(kernel).set_arg(buffer).set_global_work_size(16).enqueue_nd_range(queue)?;
        }
        queue.finish()?;
    }
    events.iter().try_for_each(|event| event.wait())?;
    for (index, buffer) in buffers.iter().enumerate().step_by(37) {
        let twice = index.is_multiple_of(10) && index / 10 < kernels.len();
        let expected = index as u32 + if twice { 2 } else { 1 };
        ensure!(gpu.download(buffer, 16)? == [expected; 16], "buffer {index} differs");
    }
    drop((events, buffers, kernels, queues, contexts));
    compute(gpu, 3)?;
    println!("objects lived and died");
    Ok(())
}

fn gigabytes(gpu: &Gpu) -> Result<()> {
    const GIB: usize = 1 << 30;
    let most = gpu.device.max_mem_alloc_size()? as usize;
    let total = (gpu.device.global_mem_size()? as usize / 4).min(3 * GIB);
    let each = most.min(total / 6) / 4096 * 4096;
    let count = total / each;
    let words = each / 4;
    let mut buffers: Vec<Buffer<u32>> = Vec::new();
    for index in 0..count as u32 {
        // SAFETY: no host pointer is given.
        let mut buffer =
            unsafe { Buffer::<u32>::create(&gpu.context, CL_MEM_READ_WRITE, words, ptr::null_mut())? };
        // SAFETY: as long as the buffer.
        unsafe { gpu.queue.enqueue_fill_buffer(&mut buffer, &[index + 1], 0, each, &[])? };
        buffers.push(buffer);
    }
    // One is written and read as a whole.
    let whole: Vec<u32> = (0..words as u32).map(|word| word.wrapping_mul(2_654_435_761)).collect();
    let mut got = vec![0_u32; words];
    // SAFETY: both block, and are as long as the buffer.
    unsafe {
        gpu.queue.enqueue_write_buffer(&mut buffers[0], CL_TRUE, 0, &whole, &[])?;
        gpu.queue.enqueue_read_buffer(&buffers[0], CL_TRUE, 0, &mut got, &[])?;
    }
    ensure!(got == whole, "{each} bytes come back different");
    for (index, buffer) in buffers.iter().enumerate().skip(1) {
        let mut last = [0_u32; 4];
        // SAFETY: blocking, and the last 16 bytes.
        unsafe { gpu.queue.enqueue_read_buffer(buffer, CL_TRUE, each - 16, &mut last, &[])? };
        ensure!(last == [index as u32 + 1; 4], "the end of buffer {index} differs");
    }
    println!("{count} buffers of {each} bytes");
    Ok(())
}
