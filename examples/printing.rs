//! Launches a kernel that prints, several times, waits for all of them, and prints `end`.
//!
//!     paragpu run -- target/debug/examples/printing --launches 2 --items 3

mod common;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum};
use opencl3::kernel::{ExecuteKernel, Kernel};

use common::Gpu;

const SOURCE: &str = r#"
kernel void k(int launch) { printf("%d: item %d of %d\n", launch, (int)get_global_id(0), (int)get_global_size(0)); }
"#;

/// Prints from a kernel.
#[derive(Parser)]
struct Arguments {
    /// Name of the OpenCL platform.
    #[arg(long, default_value = "paragpu")]
    platform: String,
    /// A program with a kernel `k(int launch)`, instead of the example's own.
    #[arg(long)]
    source: Option<PathBuf>,
    /// Build options.
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    options: String,
    /// Work-items of each launch.
    #[arg(long, default_value_t = 4)]
    items: usize,
    /// Launches.
    #[arg(long, default_value_t = 1)]
    launches: i32,
    /// How to wait.
    #[arg(long, value_enum, default_value_t = Wait::Finish)]
    wait: Wait,
}

/// What a program may do until its kernels have run.
#[derive(Clone, Copy, ValueEnum)]
enum Wait {
    /// Finish the queue.
    Finish,
    /// Wait for the last kernel's event.
    Event,
    /// Ask for the status of the last kernel's event.
    Status,
    /// Read from a buffer, blocking.
    Read,
    /// Nothing of OpenCL: it sleeps, and a driver prints when a kernel has run.
    Sleep,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let gpu = Gpu::open(&arguments.platform)?;
    let source = match &arguments.source {
        Some(path) => fs::read_to_string(path).with_context(|| path.display().to_string())?,
        None => SOURCE.to_owned(),
    };
    let program = gpu.program(&source, &arguments.options)?;
    let kernel = Kernel::create(&program, "k").context("no kernel k")?;
    let buffer = gpu.upload(&[0_u8; 64])?;
    let mut last = None;
    for launch in 0..arguments.launches {
        let mut call = ExecuteKernel::new(&kernel);
        // SAFETY: the kernel has one argument, an `int`.
        unsafe { call.set_arg(&launch) };
        call.set_global_work_size(arguments.items);
        // SAFETY: all arguments are set; there are no buffers.
        last = Some(unsafe { call.enqueue_nd_range(&gpu.queue) }.context("cannot enqueue the kernel")?);
    }
    let last = last.context("no launches")?;
    match arguments.wait {
        Wait::Finish => gpu.queue.finish().context("the kernels failed")?,
        Wait::Event => last.wait().context("the kernel failed")?,
        Wait::Status => while last.command_execution_status()?.0 > 0 {},
        Wait::Read => drop(gpu.download(&buffer, 64)?),
        // Long enough for the first launch to compile the kernel, on any machine.
        Wait::Sleep => std::thread::sleep(std::time::Duration::from_secs(10)),
    }
    println!("end");
    Ok(())
}
