//! Keeps a device busy with kernels of a chosen length, and tells what came of it: the load of `cargo xtask bench sharing`.
//!
//! Each kernel iterates a generator of random numbers, which cannot be shortened; what it must arrive at is known by
//! another way of computing it. It goes on from what the one before left in its buffer, so that the last results are right
//! only if every kernel ran, once, and was right. Prints one line of JSON, and one before if it waits for a start.

mod common;

use std::collections::VecDeque;
use std::io::Read as _;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, anyhow, bail};
use opencl3::event::Event;
use opencl3::kernel::{ExecuteKernel, Kernel};
use opencl3::memory::Buffer;

use common::Gpu;

const SOURCE: &str = "kernel void spin(global uint *out, uint start, uint iterations) {
    uint x = out[get_global_id(0)] + start + get_global_id(0);
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
    /// When to begin.
    start: Start,
    /// One kernel so often, and its latency is told; 0 for as many as go.
    every_ms: f64,
    /// Kernels in flight at once.
    depth: usize,
    /// So many kernels, whatever the time; 0 for as many as go in that.
    kernels: u64,
    /// No kernels: only a context, for so many seconds or until the standard input ends.
    hold: Option<f64>,
}

enum Start {
    Now,
    /// In milliseconds since 1970.
    At(u64),
    /// At a time that comes from the standard input, when everything is ready.
    Told,
}

fn options() -> Result<Options> {
    let mut options = Options {
        platform: "paragpu".to_owned(),
        iterations: 100_000,
        seconds: 1.0,
        start: Start::Now,
        every_ms: 0.0,
        depth: 4,
        kernels: 0,
        hold: None,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or_else(|| anyhow!("{name} needs a value"))?;
        match name.as_str() {
            "--platform" => options.platform = value,
            "--iterations" => options.iterations = value.parse()?,
            "--seconds" => options.seconds = value.parse()?,
            "--start-ms" if value == "-" => options.start = Start::Told,
            "--start-ms" => options.start = Start::At(value.parse()?),
            "--every-ms" => options.every_ms = value.parse()?,
            "--depth" => options.depth = value.parse()?,
            "--kernels" => options.kernels = value.parse()?,
            "--hold" => options.hold = Some(value.parse()?),
            _ => bail!("unknown option {name}"),
        }
    }
    Ok(options)
}

/// What `iterations` steps make of any number, as a factor and a summand: the step composed with itself, by squaring.
fn composed(iterations: u32) -> (u32, u32) {
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
    (factor, summand)
}

struct Load {
    gpu: Gpu,
    kernel: Kernel,
    /// Each with what must be in it when all is done.
    buffers: Vec<(Buffer<u32>, [u32; ITEMS])>,
    iterations: u32,
    composed: (u32, u32),
    launched: u32,
}

impl Load {
    fn new(gpu: Gpu, iterations: u32, depth: usize) -> Result<Load> {
        let program = gpu.program(SOURCE, "")?;
        let kernel = Kernel::create(&program, "spin")?;
        let nothing = [0_u32; ITEMS];
        let buffers = (0..depth.max(1) + 1).map(|_| Ok((gpu.upload(&nothing)?, nothing)));
        let buffers = buffers.collect::<Result<Vec<_>>>()?;
        Ok(Load { gpu, kernel, buffers, iterations, composed: composed(iterations), launched: 0 })
    }

    fn launch(&mut self) -> Result<Event> {
        self.launched = self.launched.wrapping_add(1);
        let start = self.launched.wrapping_mul(2_654_435_761);
        let index = self.launched as usize % self.buffers.len();
        let (buffer, expected) = &mut self.buffers[index];
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
        let (factor, summand) = self.composed;
        for (item, x) in (0..).zip(expected) {
            *x = factor.wrapping_mul(x.wrapping_add(start).wrapping_add(item)).wrapping_add(summand);
        }
        Ok(event)
    }

    /// How many of the results of all kernels are wrong.
    fn wrong(&self) -> Result<usize> {
        let mut wrong = 0;
        for (buffer, expected) in &self.buffers {
            let found = self.gpu.download(buffer, ITEMS)?;
            wrong += found.iter().zip(expected).filter(|(found, expected)| found != expected).count();
        }
        Ok(wrong)
    }
}

/// Waits for the start, if there is one.
fn wait(start: &Start) -> Result<()> {
    let at = match start {
        Start::Now => return Ok(()),
        Start::At(at) => *at,
        Start::Told => {
            let mut line = String::new();
            std::io::stdin().read_line(&mut line)?;
            line.trim().parse().context("no start was told")?
        }
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as u64;
    match at.checked_sub(now) {
        Some(left) => thread::sleep(Duration::from_millis(left)),
        None => bail!("ready {} ms after the start", now - at),
    }
    Ok(())
}

/// Lives for so many seconds, or until the standard input ends.
fn hold(seconds: f64) {
    let (sender, ended) = mpsc::channel();
    thread::spawn(move || {
        let _unreadable = std::io::stdin().read_to_end(&mut Vec::new());
        let _late = sender.send(());
    });
    let _over = ended.recv_timeout(Duration::from_secs_f64(seconds));
}

fn main() -> Result<()> {
    let options = options()?;
    let opening = Instant::now();
    let gpu = Gpu::open(&options.platform)?;
    // Whatever was put off until now.
    gpu.queue.finish()?;
    let opened = opening.elapsed().as_secs_f64() * 1000.0;
    if let Some(seconds) = options.hold {
        println!(r#"{{"ready":true,"opened_ms":{opened:.3}}}"#);
        hold(seconds);
        return Ok(());
    }
    let mut load = Load::new(gpu, options.iterations, options.depth)?;
    load.launch()?.wait()?;
    if let Start::Told = options.start {
        println!(r#"{{"ready":true,"opened_ms":{opened:.3}}}"#);
    }
    wait(&options.start)?;
    let begin = Instant::now();
    let end = begin + Duration::from_secs_f64(options.seconds);
    let (mut done, mut latencies) = (0_u64, Vec::new());
    if options.every_ms > 0.0 {
        let mut next = begin;
        while next < end {
            thread::sleep(next.saturating_duration_since(Instant::now()));
            let submitted = Instant::now();
            load.launch()?.wait()?;
            latencies.push(submitted.elapsed().as_secs_f64() * 1000.0);
            done += 1;
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
            let Some(event) = flying.pop_front() else { break };
            event.wait()?;
            // What is complete after the end was done in somebody else's time.
            done += u64::from(options.kernels != 0 || Instant::now() < end);
        }
    }
    let took = begin.elapsed().as_secs_f64();
    let wrong = load.wrong()?;
    let list: Vec<String> = latencies.iter().map(|latency| format!("{latency:.3}")).collect();
    latencies.sort_by(f64::total_cmp);
    let percentile =
        |part: f64| latencies.get((latencies.len() as f64 * part) as usize).copied().unwrap_or(0.0);
    println!(
        r#"{{"kernels":{done},"iterations":{},"seconds":{took:.6},"wrong":{wrong},"latency_ms":{{"median":{:.3},"p99":{:.3},"max":{:.3}}},"latencies_ms":[{}]}}"#,
        options.iterations,
        percentile(0.5),
        percentile(0.99),
        latencies.last().copied().unwrap_or(0.0),
        list.join(","),
    );
    if wrong != 0 {
        bail!("{wrong} results are wrong");
    }
    Ok(())
}
