//! A guest that does its worst: what `cargo xtask bench sharing` sets beside honest ones. Where its device is taken from it, it
//! opens it again. Prints one line of JSON that tells what it achieved.
//!
//! - `doorbells`: many threads with tiny calls that block and, with a direct connection, kicks of the virtqueue without end;
//! - `endless`: kernels that never end;
//! - `allocations`: as much device memory as there is, and as many objects;
//! - `builds`: programs that compilers do not survive.

mod common;

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use opencl3::command_queue::CommandQueue;
use opencl3::error_codes::ClError;
use opencl3::event::Event;
use opencl3::kernel::{ExecuteKernel, Kernel};
use opencl3::memory::Buffer;
use paragpu_opencl::transport;
use paragpu_opencl::transport::direct::{Direct, Options};
use paragpu_protocol::control::{Doorbell, StartRing};
use paragpu_protocol::limits::MIN_RING_BYTES;
use zerocopy::IntoBytes as _;

use common::Gpu;

const THREADS: usize = 8;
/// Connections that kick.
const KICKERS: usize = 2;
const GIB: usize = 1 << 30;

const ENDLESS: &str = "kernel void endless(volatile global uint *x) {
    while (x[0] != 1) x[1] += 1;
}";

/// What was achieved.
#[derive(Default)]
struct Achieved {
    /// Calls, kernels, allocations or builds that were taken.
    done: AtomicU64,
    /// Those that were refused.
    refused: AtomicU64,
    /// Kicks.
    kicks: AtomicU64,
    /// How often the device was lost.
    lost: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// What one thread does on a device that it has just opened, until an error or the end.
type Attack = fn(&Gpu, usize, &Achieved, Instant) -> Result<()>;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [mode, seconds] = arguments.as_slice() else { bail!("usage: hostile_load MODE SECONDS") };
    let attack: Attack = match mode.as_str() {
        "doorbells" => call,
        "endless" => never_end,
        "allocations" => allocate,
        "builds" => build,
        _ => bail!("unknown mode {mode}: doorbells, endless, allocations or builds"),
    };
    let end = Instant::now() + Duration::from_secs_f64(seconds.parse()?);
    let achieved = Achieved::default();
    thread::scope(|scope| {
        for number in 0..THREADS {
            let achieved = &achieved;
            scope.spawn(move || repeat(attack, number, achieved, end));
        }
        if mode == "doorbells" {
            for _ in 0..KICKERS {
                scope.spawn(|| kick_again(&achieved, end));
            }
        }
    });
    let [done, refused, kicks, lost] = [&achieved.done, &achieved.refused, &achieved.kicks, &achieved.lost]
        .map(|counter| counter.load(Ordering::Relaxed));
    println!(r#"{{"done":{done},"refused":{refused},"kicks":{kicks},"lost":{lost}}}"#);
    // Threads may wait for what never ends.
    std::process::exit(0);
}

/// Opens the device again and again.
fn repeat(attack: Attack, number: usize, achieved: &Achieved, end: Instant) {
    while Instant::now() < end {
        let Ok(gpu) = Gpu::open("paragpu") else {
            count(&achieved.refused);
            thread::sleep(Duration::from_millis(10));
            continue;
        };
        // It ends with an error if the device is lost.
        if attack(&gpu, number, achieved, end).is_err() {
            count(&achieved.lost);
        }
    }
}

/// Tiny calls that block.
fn call(gpu: &Gpu, _: usize, achieved: &Achieved, end: Instant) -> Result<()> {
    let queue = CommandQueue::create_default_with_properties(&gpu.context, 0, 0)?;
    let buffer = gpu.upload(&[1_u32])?;
    while Instant::now() < end {
        gpu.download(&buffer, 1)?;
        queue.finish()?;
        count(&achieved.done);
    }
    Ok(())
}

/// Kicks, over connections of their own.
fn kick_again(achieved: &Achieved, end: Instant) {
    let Some(socket) = std::env::var_os("PARAGPU_SOCKET") else { return };
    while Instant::now() < end {
        if kick(socket.as_ref(), achieved, end).is_err() {
            count(&achieved.refused);
            thread::sleep(Duration::from_millis(10));
        }
    }
}

fn kick(socket: &std::path::Path, achieved: &Achieved, end: Instant) -> Result<()> {
    let door: Box<dyn transport::Transport> = Box::new(Direct::open(socket, &Options::default())?);
    let ring = door.create_region(u64::from(4096 + MIN_RING_BYTES))?;
    door.submit(StartRing::new(ring.id, MIN_RING_BYTES).as_bytes())?;
    while Instant::now() < end {
        door.submit(Doorbell::new().as_bytes())?;
        count(&achieved.kicks);
    }
    Ok(())
}

/// Kernels that never end.
fn never_end(gpu: &Gpu, _: usize, achieved: &Achieved, end: Instant) -> Result<()> {
    let program = gpu.program(ENDLESS, "")?;
    let kernel = Kernel::create(&program, "endless")?;
    let numbers = gpu.upload(&[0_u32; 2])?;
    let mut flying: Vec<Event> = Vec::new();
    for _ in 0..4 {
        // SAFETY: the kernel has one argument, a buffer, in which it uses two elements.
        let event = unsafe {
            ExecuteKernel::new(&kernel)
                .set_arg(&numbers)
                .set_global_work_size(64)
                .enqueue_nd_range(&gpu.queue)
        };
        flying.push(event.context("cannot launch")?);
    }
    gpu.queue.flush()?;
    count(&achieved.done);
    while Instant::now() < end {
        for event in &flying {
            if event.command_execution_status()?.0 < 0 {
                bail!("the device is lost");
            }
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Buffers, large ones filled so that they take memory, and then as many objects as there may be.
fn allocate(gpu: &Gpu, number: usize, achieved: &Achieved, end: Instant) -> Result<()> {
    let (mut large, mut small): (Vec<Buffer<u8>>, Vec<Buffer<u8>>) = (Vec::new(), Vec::new());
    let mut size = GIB >> (number % 4 * 3);
    while Instant::now() < end {
        let filled = gpu.buffer::<u8>(size).and_then(|mut buffer| {
            // SAFETY: the pattern is copied by the call, and the range is the buffer's.
            unsafe { gpu.queue.enqueue_fill_buffer(&mut buffer, &[0xA5_u8], 0, size, &[]) }?.wait()?;
            Ok(buffer)
        });
        match filled {
            Ok(buffer) => {
                count(&achieved.done);
                large.push(buffer);
            }
            Err(error) => {
                count(&achieved.refused);
                if is_lost(&error) {
                    bail!("the device is lost");
                }
                size /= 2;
            }
        }
        if size < 4096 {
            small.extend((0..1000).map_while(|_| gpu.buffer::<u8>(1).ok()));
            // What was taken is given back, so that it starts anew.
            if small.len() > 20_000 || small.len() % 1000 != 0 || large.len() > 100 {
                (large, small) = (Vec::new(), Vec::new());
                size = GIB;
            }
        }
    }
    Ok(())
}

/// Programs that take for ever, and all memory.
fn build(gpu: &Gpu, number: usize, achieved: &Achieved, end: Instant) -> Result<()> {
    let mut round = 0_u64;
    while Instant::now() < end {
        round += 1;
        // Each is another program, so that nothing is known of it.
        match gpu.program(&bomb(number, round), "") {
            Ok(_) => count(&achieved.done),
            Err(_) => count(&achieved.refused),
        }
        // Whether the device is there, a build's error does not tell.
        gpu.queue.finish()?;
    }
    Ok(())
}

/// Nested macros: 2^30 statements.
fn bomb(number: usize, round: u64) -> String {
    let mut text = format!("#define X0 a[i] += i + {number} + {round};\n");
    for level in 1..=30 {
        let _infallible = writeln!(text, "#define X{level} X{0} X{0}", level - 1);
    }
    text + "kernel void k(global int *a) { int i = get_global_id(0); X30 }\n"
}

fn is_lost(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<ClError>().is_some_and(|error| error.0 == -2) // CL_DEVICE_NOT_AVAILABLE
    })
}
