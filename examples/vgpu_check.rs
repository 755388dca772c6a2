//! Computes on the vGPU and on this CPU, and compares. Exit status 0 only if everything agrees.
//!
//!     paragpu run -- target/debug/examples/vgpu_check

mod common;

use std::ffi::c_void;
use std::ptr;

use anyhow::{Result, ensure};
use cl3::kernel::CL_KERNEL_MAX_SUB_GROUP_SIZE_FOR_NDRANGE;
use clap::Parser;
use opencl3::command_queue::CommandQueue;
use opencl3::error_codes::{CL_INVALID_KERNEL_NAME, CL_INVALID_VALUE, CL_MEM_COPY_OVERLAP};
use opencl3::event::{Event, create_user_event, set_user_event_status};
use opencl3::kernel::{ExecuteKernel, Kernel};
use opencl3::memory::{Buffer, CL_MAP_READ, CL_MAP_WRITE, CL_MEM_COPY_HOST_PTR, CL_MEM_READ_WRITE, ClMem};
use opencl3::program::Program;
use opencl3::types::{CL_FALSE, CL_TRUE};

use common::Gpu;
use common::checks::{Check, Choice, numbers};

/// Compares what the vGPU computes with what this CPU computes.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    choice: Choice,
}

struct Bench {
    gpu: Gpu,
    program: Program,
}

const CHECKS: &[Check<Bench>] = &[
    ("vector addition", vector_addition),
    ("matrix multiplication", matrix_multiplication),
    ("reduction through local memory", reduction),
    ("argument structure by value", structure_argument),
    ("two-dimensional range with offset", range_with_offset),
    ("ten thousand kernels in order", many_kernels),
    ("eight queues from eight threads", many_threads),
    ("copy, fill and sub-buffer", copy_fill_sub_buffer),
    ("rectangles", rectangles),
    ("map and unmap", map_and_unmap),
    ("non-blocking read, seen through a later event", non_blocking_read),
    ("user event holds a kernel back", user_event),
    ("a wait list of three hundred events", long_wait_list),
    ("profiling times in order", profiling),
    ("contents given at creation", initial_contents),
    ("large transfer both ways", large_transfer),
    ("a program that does not compile", failing_build),
    ("a program that includes files", included_files),
    ("a program from its own binary", own_binary),
    ("a build does not hold up another queue", build_beside_kernels),
    ("mistakes are errors and cost the context nothing", mistakes),
];

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let gpu = arguments.choice.open()?;
    let program = gpu.program(include_str!("vgpu_check.cl"), "-cl-std=CL1.2")?;
    let bench = Bench { gpu, program };
    arguments.choice.make(CHECKS, &bench)
}

fn vector_addition(bench: &Bench) -> Result<()> {
    let a: Vec<i32> = numbers(100_000).into_iter().map(|x| x as i32).collect();
    let b: Vec<i32> = a.iter().rev().copied().collect();
    let (da, db, dc) = (bench.gpu.upload(&a)?, bench.gpu.upload(&b)?, bench.gpu.buffer::<i32>(a.len())?);
    // SAFETY: three buffers of one int per work-item, as the kernel declares.
    bench.gpu.run(&bench.program, "add", &[a.len()], &[], |call| unsafe {
        call.set_arg(&da).set_arg(&db).set_arg(&dc);
    })?;
    let expected: Vec<i32> = a.iter().zip(&b).map(|(a, b)| a.wrapping_add(*b)).collect();
    ensure!(bench.gpu.download(&dc, a.len())? == expected, "sums differ");
    Ok(())
}

fn matrix_multiplication(bench: &Bench) -> Result<()> {
    let n = 96_usize;
    let a: Vec<f32> = numbers(n * n).into_iter().map(|x| (x % 17) as f32).collect();
    let b: Vec<f32> = numbers(n * n).into_iter().map(|x| (x % 13) as f32).collect();
    let (da, db, dc) = (bench.gpu.upload(&a)?, bench.gpu.upload(&b)?, bench.gpu.buffer::<f32>(n * n)?);
    // SAFETY: three buffers of n * n floats and an int, as the kernel declares.
    bench.gpu.run(&bench.program, "multiply", &[n, n], &[8, 8], |call| unsafe {
        call.set_arg(&da).set_arg(&db).set_arg(&dc).set_arg(&(n as i32));
    })?;
    let c = bench.gpu.download(&dc, n * n)?;
    for row in 0..n {
        for column in 0..n {
            let expected: f32 = (0..n).map(|k| a[row * n + k] * b[k * n + column]).sum();
            ensure!(c[row * n + column] == expected, "element {row}, {column} differs");
        }
    }
    Ok(())
}

fn reduction(bench: &Bench) -> Result<()> {
    let (groups, local) = (64_usize, 64_usize);
    let input = numbers(groups * local);
    let (din, dout) = (bench.gpu.upload(&input)?, bench.gpu.buffer::<u32>(groups)?);
    // SAFETY: one uint per work-item in, one per group out, one per work-item of a group in local memory.
    bench.gpu.run(&bench.program, "reduce", &[groups * local], &[local], |call| unsafe {
        call.set_arg(&din).set_arg(&dout).set_arg_local_buffer(4 * local);
    })?;
    let expected: Vec<u32> =
        input.chunks(local).map(|group| group.iter().fold(0, |sum: u32, x| sum.wrapping_add(*x))).collect();
    ensure!(bench.gpu.download(&dout, groups)? == expected, "sums differ");
    Ok(())
}

fn structure_argument(bench: &Bench) -> Result<()> {
    #[repr(C)]
    struct Pair(i32, f32, i8);
    let out = bench.gpu.buffer::<f32>(3)?;
    // SAFETY: a buffer of three floats, and a structure laid out as the kernel's.
    bench.gpu.run(&bench.program, "unpack", &[1], &[], |call| unsafe {
        call.set_arg(&out).set_arg(&Pair(-7, 2.5, 42));
    })?;
    ensure!(bench.gpu.download(&out, 3)? == [-7.0, 2.5, 42.0], "members differ");
    Ok(())
}

fn range_with_offset(bench: &Bench) -> Result<()> {
    let (width, height) = (33_usize, 7_usize);
    let out = bench.gpu.buffer::<u32>(width * height)?;
    let kernel = Kernel::create(&bench.program, "where")?;
    let mut call = ExecuteKernel::new(&kernel);
    // SAFETY: a buffer of one uint per work-item, and a uint, as the kernel declares.
    unsafe {
        call.set_arg(&out)
            .set_arg(&(width as u32))
            .set_global_work_offsets(&[5, 9])
            .set_global_work_sizes(&[width, height])
            .enqueue_nd_range(&bench.gpu.queue)?
    };
    let got = bench.gpu.download(&out, width * height)?;
    for y in 0..height {
        for x in 0..width {
            let expected = ((x + 5) * 1000 + y + 9) as u32;
            ensure!(got[y * width + x] == expected, "work-item {x}, {y} differs");
        }
    }
    Ok(())
}

fn many_kernels(bench: &Bench) -> Result<()> {
    let counters = bench.gpu.upload(&[0_u32; 64])?;
    let kernel = Kernel::create(&bench.program, "bump")?;
    let mut call = ExecuteKernel::new(&kernel);
    for _ in 0..10_000 {
        // SAFETY: a buffer of one uint per work-item, as the kernel declares.
        unsafe { call.set_arg(&counters).set_global_work_size(64).enqueue_nd_range(&bench.gpu.queue)? };
    }
    ensure!(bench.gpu.download(&counters, 64)? == [10_000; 64], "counts differ");
    Ok(())
}

fn many_threads(bench: &Bench) -> Result<()> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8_u32)
            .map(|index| {
                scope.spawn(move || -> Result<()> {
                    let queue = CommandQueue::create_default_with_properties(&bench.gpu.context, 0, 0)?;
                    let kernel = Kernel::create(&bench.program, "bump")?;
                    let counters = bench.gpu.upload(&[index; 256])?;
                    for _ in 0..200 {
                        // SAFETY: a buffer of one uint per work-item, as the kernel declares.
                        unsafe {
                            ExecuteKernel::new(&kernel)
                                .set_arg(&counters)
                                .set_global_work_size(256)
                                .enqueue_nd_range(&queue)?
                        };
                    }
                    let mut got = [0_u32; 256];
                    // SAFETY: blocking, and `got` is as long as what is read.
                    unsafe { queue.enqueue_read_buffer(&counters, CL_TRUE, 0, &mut got, &[])? };
                    ensure!(got == [index + 200; 256], "counts of thread {index} differ");
                    Ok(())
                })
            })
            .collect();
        threads.into_iter().try_for_each(|thread| {
            thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a thread panicked")))
        })
    })
}

fn copy_fill_sub_buffer(bench: &Bench) -> Result<()> {
    let queue = &bench.gpu.queue;
    let data = numbers(4096);
    let source = bench.gpu.upload(&data)?;
    let mut target = bench.gpu.buffer::<u32>(4096)?;
    // SAFETY: all ranges are within both buffers; the queue is in-order.
    unsafe {
        queue.enqueue_fill_buffer(&mut target, &[0xdead_beef_u32], 0, 4 * 4096, &[])?;
        queue.enqueue_copy_buffer(&source, &mut target, 4 * 100, 4 * 1000, 4 * 500, &[])?;
    }
    let align = bench.gpu.device.mem_base_addr_align()? as usize / 32;
    // SAFETY: the origin is aligned as the device asks, and the sub-buffer within its parent.
    let mut part = unsafe { target.create_sub_buffer(CL_MEM_READ_WRITE, align, 64)? };
    // SAFETY: the range is within the sub-buffer.
    unsafe { queue.enqueue_fill_buffer(&mut part, &[7_u32], 0, 4 * 32, &[])? };
    let mut expected = vec![0xdead_beef; 4096];
    expected[1000..1500].copy_from_slice(&data[100..600]);
    expected[align..align + 32].fill(7);
    ensure!(bench.gpu.download(&target, 4096)? == expected, "contents differ");
    ensure!(bench.gpu.download(&part, 64)? == expected[align..align + 64], "the sub-buffer differs");
    Ok(())
}

fn rectangles(bench: &Bench) -> Result<()> {
    let queue = &bench.gpu.queue;
    let (pitch, rows) = (64_usize, 32_usize);
    let mut device = bench.gpu.upload(&vec![1_u8; pitch * rows])?;
    let host: Vec<u8> = (0..=255).collect();
    let (origin, host_origin, region) = ([5, 3, 0], [2, 1, 0], [10, 6, 1]);
    let mut back = vec![0_u8; 256];
    // SAFETY: the rectangles are within the buffer (64 x 32) and the host memory (16 x 16); blocking.
    unsafe {
        queue.enqueue_write_buffer_rect(
            &mut device,
            CL_TRUE,
            origin.as_ptr(),
            host_origin.as_ptr(),
            region.as_ptr(),
            pitch,
            0,
            16,
            0,
            host.as_ptr().cast_mut().cast(),
            &[],
        )?;
        queue.enqueue_read_buffer_rect(
            &device,
            CL_TRUE,
            origin.as_ptr(),
            host_origin.as_ptr(),
            region.as_ptr(),
            pitch,
            0,
            16,
            0,
            back.as_mut_ptr().cast(),
            &[],
        )?;
    }
    let mut expected = vec![1_u8; pitch * rows];
    let mut expected_back = vec![0_u8; 256];
    for y in 0..6 {
        for x in 0..10 {
            let byte = host[(y + 1) * 16 + x + 2];
            expected[(y + 3) * pitch + x + 5] = byte;
            expected_back[(y + 1) * 16 + x + 2] = byte;
        }
    }
    ensure!(bench.gpu.download(&device, pitch * rows)? == expected, "the written rectangle differs");
    ensure!(back == expected_back, "the read rectangle differs");
    let mut copy = bench.gpu.upload(&vec![9_u8; pitch * rows])?;
    // SAFETY: the rectangles are within both buffers.
    unsafe {
        queue.enqueue_copy_buffer_rect(
            &device,
            &mut copy,
            origin.as_ptr(),
            [0, 0, 0].as_ptr(),
            region.as_ptr(),
            pitch,
            0,
            32,
            0,
            &[],
        )?;
    }
    let copied = bench.gpu.download(&copy, pitch * rows)?;
    for y in 0..6 {
        let from = (y + 3) * pitch + 5;
        ensure!(copied[y * 32..y * 32 + 10] == expected[from..from + 10], "row {y} of the copy differs");
        ensure!(copied[y * 32 + 10] == 9, "the copy overruns in row {y}");
    }
    Ok(())
}

fn map_and_unmap(bench: &Bench) -> Result<()> {
    let queue = &bench.gpu.queue;
    let data = numbers(10_000);
    let buffer = bench.gpu.upload(&data)?;
    let mut mapped: *mut c_void = ptr::null_mut();
    // SAFETY: the range is within the buffer; the pointer is used for 4 * 1000 bytes, until the unmap.
    unsafe {
        let flags = CL_MAP_READ | CL_MAP_WRITE;
        queue.enqueue_map_buffer(&buffer, CL_TRUE, flags, 4 * 500, 4 * 1000, &mut mapped, &[])?;
        let words = std::slice::from_raw_parts_mut(mapped.cast::<u32>(), 1000);
        ensure!(words == &data[500..1500], "what is mapped differs");
        words.iter_mut().for_each(|word| *word = word.wrapping_mul(3));
        queue.enqueue_unmap_mem_object(buffer.get(), mapped, &[])?;
    }
    let mut expected = data;
    expected[500..1500].iter_mut().for_each(|word| *word = word.wrapping_mul(3));
    ensure!(bench.gpu.download(&buffer, 10_000)? == expected, "what was written while mapped differs");
    Ok(())
}

fn non_blocking_read(bench: &Bench) -> Result<()> {
    let data = numbers(50_000);
    let mut got = vec![0_u32; data.len()];
    let buffer = bench.gpu.upload(&data)?;
    // SAFETY: `got` lives until the marker behind the read in the in-order queue is complete.
    unsafe {
        drop(bench.gpu.queue.enqueue_read_buffer(&buffer, CL_FALSE, 0, &mut got, &[])?);
        bench.gpu.queue.enqueue_marker_with_wait_list(&[])?.wait()?;
    }
    ensure!(got == data, "what was read differs");
    Ok(())
}

fn user_event(bench: &Bench) -> Result<()> {
    let gate = Event::new(create_user_event(bench.gpu.context.get()).map_err(anyhow::Error::msg)?);
    let counters = bench.gpu.upload(&[0_u32; 16])?;
    let queue = CommandQueue::create_default_with_properties(&bench.gpu.context, 0, 0)?;
    let kernel = Kernel::create(&bench.program, "bump")?;
    // SAFETY: a buffer of one uint per work-item, as the kernel declares.
    let event = unsafe {
        ExecuteKernel::new(&kernel)
            .set_arg(&counters)
            .set_global_work_size(16)
            .set_wait_event(&gate)
            .enqueue_nd_range(&queue)?
    };
    queue.flush()?;
    ensure!(bench.gpu.download(&counters, 16)? == [0; 16], "the kernel ran before its event");
    ensure!(event.command_execution_status()?.0 > 0, "the kernel is reported complete before its event");
    set_user_event_status(gate.get(), 0).map_err(anyhow::Error::msg)?;
    event.wait()?;
    ensure!(bench.gpu.download(&counters, 16)? == [1; 16], "the kernel did not run after its event");
    Ok(())
}

fn profiling(bench: &Bench) -> Result<()> {
    let data = bench.gpu.upload(&vec![1.0_f32; 100_000])?;
    let kernel = Kernel::create(&bench.program, "scale")?;
    let mut last_end = 0;
    for _ in 0..3 {
        // SAFETY: a buffer of one float per work-item, and a float, as the kernel declares.
        let event = unsafe {
            ExecuteKernel::new(&kernel)
                .set_arg(&data)
                .set_arg(&2.0_f32)
                .set_global_work_size(100_000)
                .enqueue_nd_range(&bench.gpu.queue)?
        };
        event.wait()?;
        let times = [
            event.profiling_command_queued()?,
            event.profiling_command_submit()?,
            event.profiling_command_start()?,
            event.profiling_command_end()?,
        ];
        ensure!(times.is_sorted() && times[2] < times[3], "times are not in order: {times:?}");
        ensure!(times[2] >= last_end, "a kernel started before the one before it ended");
        last_end = times[3];
    }
    ensure!(bench.gpu.download(&data, 100_000)?.iter().all(|x| *x == 8.0), "results differ");
    Ok(())
}

fn initial_contents(bench: &Bench) -> Result<()> {
    let mut data = numbers(3000);
    // SAFETY: `data` has as many elements as the buffer, and is copied during the call.
    let buffer = unsafe {
        Buffer::<u32>::create(
            &bench.gpu.context,
            CL_MEM_READ_WRITE | CL_MEM_COPY_HOST_PTR,
            data.len(),
            data.as_mut_ptr().cast(),
        )?
    };
    let expected = data.clone();
    data.fill(0);
    ensure!(bench.gpu.download(&buffer, 3000)? == expected, "contents differ");
    Ok(())
}

fn large_transfer(bench: &Bench) -> Result<()> {
    let data = numbers(6 << 20);
    let buffer = bench.gpu.upload(&data)?;
    ensure!(bench.gpu.download(&buffer, data.len())? == data, "24 MiB come back different");
    Ok(())
}

fn failing_build(bench: &Bench) -> Result<()> {
    let source = "kernel void broken(global int *x) { x[0] = no_such_name; }";
    let Err(error) = bench.gpu.program(source, "") else {
        anyhow::bail!("the build succeeded");
    };
    ensure!(error.to_string().contains("no_such_name"), "the build log does not name the mistake: {error}");
    Ok(())
}

/// Each of these is for the driver to refuse: what got through would be a fault to the host, and end the context.
fn mistakes(bench: &Bench) -> Result<()> {
    const INPUT_BYTES: usize = 5;
    let kernel = Kernel::create(&bench.program, "add")?;
    let library = match cl3::load_library() {
        Ok(library) => library,
        Err(error) => anyhow::bail!("{error}"),
    };
    let input = [0_u8; INPUT_BYTES];
    let status = library.clGetKernelSubGroupInfo(
        kernel.get(),
        bench.gpu.device.id(),
        CL_KERNEL_MAX_SUB_GROUP_SIZE_FOR_NDRANGE,
        INPUT_BYTES,
        input.as_ptr().cast(),
        0,
        ptr::null_mut(),
        ptr::null_mut(),
    );
    ensure!(status == Some(CL_INVALID_VALUE), "an input of five bytes: {status:?}");

    let Err(error) = Kernel::create(&bench.program, "no_such_kernel") else {
        anyhow::bail!("a kernel that there is not was created");
    };
    ensure!(error.0 == CL_INVALID_KERNEL_NAME, "a kernel that there is not: {error}");

    let align = bench.gpu.device.mem_base_addr_align()? as usize / 8;
    let whole = bench.gpu.buffer::<u8>(4 * align)?;
    // SAFETY: both origins are aligned as the device asks, and both sub-buffers within their parent.
    let (low, mut high) = unsafe {
        let low = whole.create_sub_buffer(CL_MEM_READ_WRITE, 0, 2 * align)?;
        (low, whole.create_sub_buffer(CL_MEM_READ_WRITE, align, 2 * align)?)
    };
    // Of rows of 16 bytes the columns 0 to 3, and 2 to 5, in the half that the sub-buffers share.
    // SAFETY: the rectangles are within both sub-buffers.
    let copied = unsafe {
        bench.gpu.queue.enqueue_copy_buffer_rect(
            &low,
            &mut high,
            [align, 0, 0].as_ptr(),
            [2, 0, 0].as_ptr(),
            [4, 2, 1].as_ptr(),
            16,
            0,
            16,
            0,
            &[],
        )
    };
    let status = copied.err().map(|error| error.0);
    ensure!(status == Some(CL_MEM_COPY_OVERLAP), "rectangles that overlap through sub-buffers: {status:?}");

    vector_addition(bench)
}

fn build_beside_kernels(bench: &Bench) -> Result<()> {
    // A program that takes a compiler some time, and that no cache has seen.
    let unique = std::process::id();
    let functions: String = (0..120)
        .map(|i| format!("kernel void f{i}_{unique}(global float *x) {{ x[{i}] = sin(x[{i}]) * cos(x[0]) + {unique}; }}\n"))
        .collect();
    let counters = bench.gpu.upload(&[0_u32; 16])?;
    let kernel = Kernel::create(&bench.program, "bump")?;
    let launch = || -> Result<()> {
        // SAFETY: a buffer of one uint per work-item, as the kernel declares.
        unsafe {
            ExecuteKernel::new(&kernel)
                .set_arg(&counters)
                .set_global_work_size(16)
                .enqueue_nd_range(&bench.gpu.queue)?
        };
        Ok(bench.gpu.queue.finish()?)
    };
    launch()?;
    let mut launches = 1_u32;
    std::thread::scope(|scope| -> Result<()> {
        let build = scope.spawn(|| bench.gpu.program(&functions, "").map(drop));
        while !build.is_finished() {
            launch()?;
            launches += 1;
        }
        build.join().unwrap_or_else(|_| Err(anyhow::anyhow!("the building thread panicked")))
    })?;
    ensure!(bench.gpu.download(&counters, 16)? == [launches; 16], "counts differ");
    ensure!(launches > 10, "only {launches} kernels ran while a program was built");
    Ok(())
}

fn long_wait_list(bench: &Bench) -> Result<()> {
    let counters = bench.gpu.upload(&[0_u32; 16])?;
    let queue = CommandQueue::create_default_with_properties(&bench.gpu.context, 0, 0)?;
    let kernel = Kernel::create(&bench.program, "bump")?;
    let events: Vec<Event> = (0..300)
        .map(|_| {
            // SAFETY: a buffer of one uint per work-item, as the kernel declares.
            let event = unsafe {
                ExecuteKernel::new(&kernel)
                    .set_arg(&counters)
                    .set_global_work_size(16)
                    .enqueue_nd_range(&queue)
            };
            Ok(event?)
        })
        .collect::<Result<_>>()?;
    let list: Vec<_> = events.iter().map(Event::get).collect();
    let mut got = [0_u32; 16];
    // SAFETY: blocking, and `got` is as long as what is read.
    unsafe { bench.gpu.queue.enqueue_read_buffer(&counters, CL_TRUE, 0, &mut got, &list)? };
    ensure!(got == [300; 16], "counts differ");
    Ok(())
}

fn included_files(bench: &Bench) -> Result<()> {
    // The compiler is on another machine than the files.
    let directory = std::env::temp_dir().join(format!("vgpu_check-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    let header = directory.join("factor.h");
    std::fs::write(&header, "#pragma once\n#define FACTOR 5\n")?;
    let source = "#include \"factor.h\"\n#include <factor.h>\nkernel void f(global int *x) { x[get_global_id(0)] *= FACTOR; }";
    let program = bench.gpu.program(source, &format!("-I {}", directory.display()));
    std::fs::remove_dir_all(&directory)?;
    let data = bench.gpu.upload(&[1, 2, 3_i32])?;
    // SAFETY: a buffer of one int per work-item, as the kernel declares.
    bench.gpu.run(&program?, "f", &[3], &[], |call| unsafe {
        call.set_arg(&data);
    })?;
    ensure!(bench.gpu.download(&data, 3)? == [5, 10, 15], "products differ");
    Ok(())
}

fn own_binary(bench: &Bench) -> Result<()> {
    let source = "kernel void f(global int *x) { x[get_global_id(0)] += AMOUNT; }";
    let binaries = bench.gpu.program(source, "-DAMOUNT=3")?.get_binaries()?;
    let binaries: Vec<&[u8]> = binaries.iter().map(Vec::as_slice).collect();
    ensure!(binaries.iter().all(|binary| !binary.is_empty()), "a program that was built has no binary");
    let program = Program::create_and_build_from_binary(&bench.gpu.context, &binaries, "")?;
    let data = bench.gpu.upload(&[1, 2, 3_i32])?;
    // SAFETY: a buffer of one int per work-item, as the kernel declares.
    bench.gpu.run(&program, "f", &[3], &[], |call| unsafe {
        call.set_arg(&data);
    })?;
    ensure!(bench.gpu.download(&data, 3)? == [4, 5, 6], "sums differ");
    let damaged = Program::create_and_build_from_binary(&bench.gpu.context, &[&binaries[0][1..]], "");
    ensure!(damaged.is_err(), "a damaged binary is accepted");
    Ok(())
}
