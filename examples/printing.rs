//! Launches a kernel that prints, several times, and waits for all of them at the end.
//!
//!     paragpu run -- target/debug/examples/printing --launches 2 --items 3

mod common;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Parser;
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
    /// Do not wait, but sleep for this many milliseconds: a driver prints when a kernel has run.
    #[arg(long)]
    sleep: Option<u64>,
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
    for launch in 0..arguments.launches {
        let mut call = ExecuteKernel::new(&kernel);
        // SAFETY: the kernel has one argument, an `int`.
        unsafe { call.set_arg(&launch) };
        call.set_global_work_size(arguments.items);
        // SAFETY: all arguments are set; there are no buffers.
        unsafe { call.enqueue_nd_range(&gpu.queue) }.context("cannot enqueue the kernel")?;
    }
    match arguments.sleep {
        Some(milliseconds) => std::thread::sleep(std::time::Duration::from_millis(milliseconds)),
        None => gpu.queue.finish().context("the kernels failed")?,
    }
    Ok(())
}
