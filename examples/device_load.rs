//! Keeps a device busy with kernels of a chosen length, and tells what came of it: the load of `cargo xtask bench sharing`.
//!
//! Each kernel iterates a generator of random numbers, which cannot be shortened; what it must arrive at is known by
//! another way of computing it. Prints one line of JSON.

mod common;

use std::collections::VecDeque;
use std::ptr;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, anyhow, bail};
use opencl3::event::Event;
use opencl3::kernel::{ExecuteKernel, Kernel};
use opencl3::memory::{Buffer, CL_MEM_READ_WRITE};
use opencl3::types::CL_TRUE;

use common::Gpu;

const SOURCE: &str = "kernel void spin(global uint *out, uint start, uint iterations) {
    uint x = start + get_global_id(0);
    for (uint i = 0; i < iterations; i++) x = x * 1664525u + 1013904223u;
    out[get_global_id(0)] = x;
}";

/// Work-items: enough groups for every core, few enough that a kernel's length is its iterations'.
const ITEMS: usize = 64;
const GROUP: usize = 8;

struct Options {
    platform: String,
    /// Iterations of each kernel.
    iterations: u32,
    /// How long, from `start`.
    seconds: f64,
    /// When to begin, in milliseconds since 1970; at once if 0.
    start_ms: u64,
    /// One kernel so often, and its latency is told; 0 for as many as go.
    every_ms: f64,
    /// Kernels in flight at once.
    depth: usize,
    /// So many kernels, whatever the time; 0 for as many as go in that.
    kernels: u64,
}

fn options() -> Result<Options> {
    let mut options = Options {
        platform: "paragpu".to_owned(),
        iterations: 100_000,
        seconds: 1.0,
        start_ms: 0,
        every_ms: 0.0,
        depth: 4,
        kernels: 0,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or_else(|| anyhow!("{name} needs a value"))?;
        match name.as_str() {
            "--platform" => options.platform = value,
            "--iterations" => options.iterations = value.parse()?,
            "--seconds" => options.seconds = value.parse()?,
            "--start-ms" => options.start_ms = value.parse()?,
            "--every-ms" => options.every_ms = value.parse()?,
            "--depth" => options.depth = value.parse()?,
            "--kernels" => options.kernels = value.parse()?,
            _ => bail!("unknown option {name}"),
        }
    }
    Ok(options)
}

/// What `iterations` steps make of `x`: the step composed with itself, by squaring.
fn expected(x: u32, iterations: u32) -> u32 {
    let (mut factor, mut summand) = (1_u32, 0_u32);
    let (mut a, mut c) = (1_664_525_u32, 1_013_904_223_u32);
    let mut left = iterations;
    while left != 0 {
        if left & 1 == 1 {
            (factor, summand) = (factor.wrapping_mul(a), summand.wrapping_mul(a).wrapping_add(c));
        }
        (a, c) = (a.wrapping_mul(a), c.wrapping_mul(a).wrapping_add(c));
        left >>= 1;
    }
    factor.wrapping_mul(x).wrapping_add(summand)
}

struct Load {
    gpu: Gpu,
    kernel: Kernel,
    buffers: Vec<Buffer<u32>>,
    iterations: u32,
    launched: u32,
    wrong: u64,
}

impl Load {
    /// Launches a kernel; returns its event and the number that it started from.
    fn launch(&mut self) -> Result<(Event, u32)> {
        self.launched = self.launched.wrapping_add(1);
        let start = self.launched.wrapping_mul(2_654_435_761);
        let buffer = &self.buffers[self.launched as usize % self.buffers.len()];
        let event = unsafe {
            // SAFETY: the arguments are those of the kernel, and the buffer has an element for each work-item.
            ExecuteKernel::new(&self.kernel)
                .set_arg(buffer)
                .set_arg(&start)
                .set_arg(&self.iterations)
                .set_global_work_size(ITEMS)
                .set_local_work_size(GROUP)
                .enqueue_nd_range(&self.gpu.queue)
        };
        let event = event.context("cannot launch")?;
        self.gpu.queue.flush()?;
        Ok((event, start))
    }

    /// Reads what the last kernel has left, and compares it.
    fn check(&mut self, start: u32) -> Result<()> {
        let buffer = &self.buffers[self.launched as usize % self.buffers.len()];
        let mut found = [0_u32; ITEMS];
        unsafe {
            // SAFETY: the call blocks, and the slice is as long as the buffer.
            self.gpu.queue.enqueue_read_buffer(buffer, CL_TRUE, 0, &mut found, &[])
        }
        .context("cannot read")?;
        let right = (0..ITEMS as u32)
            .all(|item| found[item as usize] == expected(start.wrapping_add(item), self.iterations));
        self.wrong += u64::from(!right);
        Ok(())
    }
}

fn main() -> Result<()> {
    let options = options()?;
    let gpu = Gpu::open(&options.platform)?;
    let program = gpu.program(SOURCE, "")?;
    let kernel = Kernel::create(&program, "spin")?;
    let buffer = || unsafe {
        // SAFETY: no host memory is given.
        Buffer::<u32>::create(&gpu.context, CL_MEM_READ_WRITE, ITEMS, ptr::null_mut())
    };
    let buffers = (0..options.depth.max(1) + 1).map(|_| buffer()).collect::<Result<Vec<_>, _>>()?;
    let mut load = Load { gpu, kernel, buffers, iterations: options.iterations, launched: 0, wrong: 0 };
    let (warm, start) = load.launch()?;
    warm.wait()?;
    load.check(start)?;

    if options.start_ms != 0 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as u64;
        match options.start_ms.checked_sub(now) {
            Some(left) => thread::sleep(Duration::from_millis(left)),
            None => bail!("ready {} ms after the start", now - options.start_ms),
        }
    }
    let begin = Instant::now();
    let end = begin + Duration::from_secs_f64(options.seconds);
    let (mut done, mut latencies) = (0_u64, Vec::new());
    let mut last = 0;
    if options.every_ms > 0.0 {
        let mut next = begin;
        while next < end {
            thread::sleep(next.saturating_duration_since(Instant::now()));
            let submitted = Instant::now();
            let (event, start) = load.launch()?;
            event.wait()?;
            latencies.push(submitted.elapsed().as_secs_f64() * 1000.0);
            (done, last) = (done + 1, start);
            // One that was late does not make the next ones come in a heap.
            next = (next + Duration::from_secs_f64(options.every_ms / 1000.0)).max(Instant::now());
        }
    } else {
        let mut flying = VecDeque::new();
        let more = |done: u64, flying: usize| {
            if options.kernels != 0 { done + (flying as u64) < options.kernels } else { Instant::now() < end }
        };
        loop {
            while flying.len() < options.depth && more(done, flying.len()) {
                flying.push_back(load.launch()?);
            }
            let Some((event, start)) = flying.pop_front() else { break };
            event.wait()?;
            last = start;
            // What is complete after the end was done in somebody else's time.
            done += u64::from(options.kernels != 0 || Instant::now() < end);
        }
    }
    let took = begin.elapsed().as_secs_f64();
    load.check(last)?;
    latencies.sort_by(f64::total_cmp);
    let percentile =
        |part: f64| latencies.get((latencies.len() as f64 * part) as usize).copied().unwrap_or(0.0);
    println!(
        r#"{{"kernels":{done},"iterations":{},"seconds":{took:.6},"wrong":{},"latency_ms":{{"median":{:.3},"p99":{:.3},"max":{:.3}}}}}"#,
        options.iterations,
        load.wrong,
        percentile(0.5),
        percentile(0.99),
        latencies.last().copied().unwrap_or(0.0),
    );
    if load.wrong != 0 {
        bail!("{} results are wrong", load.wrong);
    }
    Ok(())
}
