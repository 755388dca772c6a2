//! What a vGPU's limits leave of its device, from a program's point of view.
//!
//!     paragpu run -- target/debug/examples/limits_check facts
//!
//! `facts` tells what the device says of itself. `memory` takes all of it, piece by piece, and checks that every kind of
//! piece counts, and that what is given back can be had again. `hold N` takes N bytes, says so, and waits until standard
//! input ends. `buffers N` makes N small buffers. `send N` writes N bytes in one piece. `endless` runs a kernel that never
//! ends. Prints what came of it; fails only if something is wrong.

mod common;

use std::io::{Read, Write};
use std::ptr;

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Parser, Subcommand};
use opencl3::error_codes::{CL_MEM_OBJECT_ALLOCATION_FAILURE, ClError};
use opencl3::kernel::{ExecuteKernel, Kernel};
use opencl3::memory::{
    Buffer, CL_MEM_HOST_NO_ACCESS, CL_MEM_OBJECT_IMAGE2D, CL_MEM_READ_WRITE, CL_RGBA, CL_UNSIGNED_INT8,
    Image, Pipe, cl_image_desc, cl_image_format,
};
use opencl3::types::CL_TRUE;

use common::Gpu;

/// Tells what a vGPU's limits leave of its device.
#[derive(Parser)]
struct Arguments {
    /// Name of the OpenCL platform.
    #[arg(long, default_value = "paragpu")]
    platform: String,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    Facts,
    Memory,
    Hold { bytes: usize },
    Buffers { count: usize },
    Send { bytes: usize },
    Endless,
}

const ENDLESS: &str = "kernel void endless(volatile global int* words) {
    while (words[0] == 0) {}
    words[1] = 1;
}";

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let gpu = Gpu::open(&arguments.platform)?;
    match arguments.what {
        What::Facts => {
            println!("compute units {}", gpu.device.max_compute_units()?);
            println!("global memory {}", gpu.device.global_mem_size()?);
            println!("largest allocation {}", gpu.device.max_mem_alloc_size()?);
        }
        What::Memory => memory(&gpu)?,
        What::Hold { bytes } => {
            let _held = buffer(&gpu, bytes)?;
            println!("held");
            std::io::stdout().flush()?;
            std::io::stdin().read_to_end(&mut Vec::new())?;
        }
        What::Buffers { count } => told("buffers", buffers(&gpu, count)),
        What::Send { bytes } => told("send", send(&gpu, bytes)),
        What::Endless => told("endless", endless(&gpu)),
    }
    Ok(())
}

/// Prints the error that it ended with, if any.
fn told(what: &str, outcome: Result<(), ClError>) {
    match outcome {
        Ok(()) => println!("{what}: ok"),
        Err(error) => println!("{what}: {} {error}", error.0),
    }
}

fn buffer(gpu: &Gpu, bytes: usize) -> Result<Buffer<u8>, ClError> {
    // SAFETY: no host pointer is given.
    unsafe { Buffer::create(&gpu.context, CL_MEM_READ_WRITE, bytes, ptr::null_mut()) }
}

/// That there is no memory for this.
fn refused<T>(outcome: Result<T, ClError>, what: &str) -> Result<()> {
    match outcome {
        Err(ClError(CL_MEM_OBJECT_ALLOCATION_FAILURE)) => Ok(()),
        Err(error) => bail!("{what}: {error}"),
        Ok(_) => bail!("{what} can be had, though all memory is taken"),
    }
}

/// Buffers of a quarter each, until there is no memory for one more.
fn fill(gpu: &Gpu, quarter: usize) -> Result<Vec<Buffer<u8>>> {
    let mut held = Vec::new();
    loop {
        match buffer(gpu, quarter) {
            Ok(piece) => held.push(piece),
            Err(ClError(CL_MEM_OBJECT_ALLOCATION_FAILURE)) => return Ok(held),
            Err(error) => bail!("buffer {}: {error}", held.len()),
        }
        ensure!(held.len() <= 4, "more than four quarters");
    }
}

/// An RGBA image of 64 KiB in each row.
fn image(gpu: &Gpu, bytes: usize) -> Result<Image, ClError> {
    let format = cl_image_format { image_channel_order: CL_RGBA, image_channel_data_type: CL_UNSIGNED_INT8 };
    // SAFETY: plain numbers and null pointers; zeroes are right for what is not set.
    let mut desc: cl_image_desc = unsafe { std::mem::zeroed() };
    desc.image_type = CL_MEM_OBJECT_IMAGE2D;
    (desc.image_width, desc.image_height) = (4096, bytes / 4 / 4096);
    // SAFETY: no host pointer is given, and both descriptions live until the call returns.
    unsafe { Image::create(&gpu.context, CL_MEM_READ_WRITE, &format, &desc, ptr::null_mut()) }
}

fn memory(gpu: &Gpu) -> Result<()> {
    let all = usize::try_from(gpu.device.global_mem_size()?)?;
    let quarter = all / 4;
    let whole = buffer(gpu, all).context("all of it in one piece")?;
    // A small one is not waited for: it fails when it is used.
    let mut small = buffer(gpu, 4).context("a small buffer")?;
    // SAFETY: the write blocks, and is within the buffer.
    let used = unsafe { gpu.queue.enqueue_write_buffer(&mut small, CL_TRUE, 0, &[0_u8; 4], &[]) };
    refused(used, "a small buffer beside that")?;
    drop((whole, small));
    for round in 0..3 {
        let mut held = fill(gpu, quarter)?;
        ensure!(held.len() == 4, "round {round}: {} quarters", held.len());
        refused(image(gpu, quarter), "an image")?;
        held.pop();
        // What was given back can be had again, as anything.
        let taken = image(gpu, quarter).context("an image of the last quarter")?;
        refused(buffer(gpu, quarter), "a buffer beside the image")?;
        drop(taken);
        held.push(buffer(gpu, quarter).context("a buffer of the last quarter, after the image")?);
        use_all(gpu, &mut held, quarter)?;
    }
    println!("memory: ok");
    if !gpu.device.pipe_support().unwrap_or(false) {
        println!("pipes: the device has none");
        return Ok(());
    }
    // SAFETY: a pipe has no host memory.
    let pipe = || unsafe {
        let flags = CL_MEM_READ_WRITE | CL_MEM_HOST_NO_ACCESS;
        Pipe::create(&gpu.context, flags, 1024, (quarter / 1024) as u32)
    };
    let mut held = fill(gpu, quarter)?;
    refused(pipe(), "a pipe")?;
    held.pop();
    let taken = pipe().context("a pipe of the last quarter")?;
    refused(buffer(gpu, quarter), "a buffer beside the pipe")?;
    drop(taken);
    println!("pipes: ok");
    Ok(())
}

/// Each piece keeps what is written to it.
fn use_all(gpu: &Gpu, held: &mut [Buffer<u8>], bytes: usize) -> Result<()> {
    for (index, piece) in held.iter_mut().enumerate() {
        // SAFETY: the write blocks, and is within the buffer.
        unsafe {
            gpu.queue.enqueue_write_buffer(piece, CL_TRUE, bytes - 4, &[index as u8; 4], &[])?;
        }
    }
    for (index, piece) in held.iter().enumerate() {
        let mut found = [0_u8; 4];
        // SAFETY: the read blocks, and is within the buffer.
        unsafe {
            gpu.queue.enqueue_read_buffer(piece, CL_TRUE, bytes - 4, &mut found, &[])?;
        }
        ensure!(found == [index as u8; 4], "piece {index} holds {found:?}");
    }
    Ok(())
}

fn buffers(gpu: &Gpu, count: usize) -> Result<(), ClError> {
    let mut held = Vec::new();
    for _ in 0..count {
        let mut buffer = buffer(gpu, 4096)?;
        // Whoever only creates buffers need not have them yet.
        // SAFETY: the fill stays in the buffer, which stays until the queue is finished.
        unsafe { gpu.queue.enqueue_fill_buffer(&mut buffer, &[0_u8], 0, 4096, &[])? };
        held.push(buffer);
    }
    // SAFETY: no events are waited for.
    unsafe { gpu.queue.enqueue_marker_with_wait_list(&[])? };
    // What was posted without an answer has been done by then, or failed.
    gpu.queue.finish()?;
    Ok(())
}

fn send(gpu: &Gpu, bytes: usize) -> Result<(), ClError> {
    let mut to = buffer(gpu, bytes)?;
    let data = vec![7_u8; bytes];
    // SAFETY: the write blocks, and the buffer is as long as the data.
    unsafe { gpu.queue.enqueue_write_buffer(&mut to, CL_TRUE, 0, &data, &[])? };
    let mut back = vec![0_u8; bytes];
    // SAFETY: the read blocks, and the buffer is as long as what is read.
    unsafe { gpu.queue.enqueue_read_buffer(&to, CL_TRUE, 0, &mut back, &[])? };
    assert!(data == back, "what comes back is what was sent");
    Ok(())
}

fn endless(gpu: &Gpu) -> Result<(), ClError> {
    let program = gpu.program(ENDLESS, "").expect("it builds, unless the device is lost");
    let kernel = Kernel::create(&program, "endless")?;
    let words = gpu.upload(&[0_i32; 2]).expect("there is memory, unless the device is lost");
    println!("launches");
    // The one who reads this is told at once.
    let _shown = std::io::stdout().flush();
    let mut launch = ExecuteKernel::new(&kernel);
    // SAFETY: the kernel's argument, a buffer of the two words that it uses.
    unsafe { launch.set_arg(&words).set_global_work_size(1).enqueue_nd_range(&gpu.queue)? };
    gpu.queue.finish()
}
