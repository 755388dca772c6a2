//! Buffers that the driver may read, write and map itself: checks that they hold what they must in every order of commands.
//! Exit status 0 only if all do. Passes on the host's own OpenCL, too (`--platform`).
//!
//!     paragpu run -- target/debug/examples/vgpu_buffers

mod common;

use std::ffi::c_void;
use std::ptr;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use opencl3::command_queue::{CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE, CommandQueue};
use opencl3::event::{Event, create_user_event, set_user_event_status};
use opencl3::kernel::{ExecuteKernel, Kernel};
use opencl3::memory::{
    Buffer, CL_MAP_READ, CL_MAP_WRITE, CL_MEM_COPY_HOST_PTR, CL_MEM_READ_WRITE, CL_MEM_USE_HOST_PTR, ClMem,
};
use opencl3::program::Program;
use opencl3::types::{CL_FALSE, CL_TRUE, cl_event};

use common::Gpu;
use common::checks::{Check, Choice};

/// Checks buffers in every order of commands.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    choice: Choice,
}

const SOURCE: &str = "
    kernel void add(global int* to, int number) { to[get_global_id(0)] += number; }
    kernel void slowly(global int* to, int number) {
        int sum = 0;
        for (int i = 0; i < 20000000; i++) sum += (i ^ sum) & 1;
        to[get_global_id(0)] = number + (sum == 12345678);
    }";

const LEN: usize = 3000;

struct Bench {
    gpu: Gpu,
    program: Program,
    /// In order, and without a clock: what needs no host need not go there.
    queue: CommandQueue,
}

const CHECKS: &[Check<Bench>] = &[
    ("reads and writes behind kernels", behind_kernels),
    ("reads and writes between kernels that nobody waits for", between_kernels),
    ("a buffer that is released while a kernel writes to it", released_in_use),
    ("a queue that is out of order", out_of_order),
    ("what waits for another queue", other_queue),
    ("parts and rectangles", parts),
    ("mapped, with and without memory of the application's", mapped),
    ("arguments that change often", arguments),
    ("threads on one queue", threads),
];

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let gpu = arguments.choice.open()?;
    let program = gpu.program(SOURCE, "")?;
    let queue = CommandQueue::create_default_with_properties(&gpu.context, 0, 0)?;
    arguments.choice.make(CHECKS, &Bench { gpu, program, queue })
}

impl Bench {
    fn kernel(&self, name: &str) -> Result<Kernel> {
        Kernel::create(&self.program, name).with_context(|| format!("no kernel {name}"))
    }

    /// Launches a kernel over the first `len` elements of a buffer.
    fn launch(
        &self,
        queue: &CommandQueue,
        kernel: &Kernel,
        (to, number): (&Buffer<i32>, i32),
        len: usize,
    ) -> Result<Event> {
        // SAFETY: a buffer of at least so many ints, and an int, as the kernels declare.
        Ok(unsafe {
            ExecuteKernel::new(kernel)
                .set_arg(to)
                .set_arg(&number)
                .set_global_work_size(len)
                .enqueue_nd_range(queue)?
        })
    }

    fn fresh(&self, ints: &[i32]) -> Result<Buffer<i32>> {
        let flags = CL_MEM_READ_WRITE | CL_MEM_COPY_HOST_PTR;
        // SAFETY: the ints are copied before the call returns.
        Ok(unsafe { Buffer::create(&self.gpu.context, flags, ints.len(), ints.as_ptr().cast_mut().cast())? })
    }

    fn empty(&self, len: usize) -> Result<Buffer<i32>> {
        // SAFETY: no host pointer is given.
        Ok(unsafe { Buffer::create(&self.gpu.context, CL_MEM_READ_WRITE, len, ptr::null_mut())? })
    }
}

fn read(queue: &CommandQueue, buffer: &Buffer<i32>, len: usize, wait: &[cl_event]) -> Result<Vec<i32>> {
    let mut ints = vec![-1; len];
    // SAFETY: the read blocks, and the buffer is as long.
    unsafe { queue.enqueue_read_buffer(buffer, CL_TRUE, 0, &mut ints, wait)? };
    Ok(ints)
}

fn write(queue: &CommandQueue, buffer: &mut Buffer<i32>, ints: &[i32]) -> Result<()> {
    // SAFETY: the write blocks, and the buffer is as long.
    unsafe { queue.enqueue_write_buffer(buffer, CL_TRUE, 0, ints, &[])? };
    Ok(())
}

fn behind_kernels(bench: &Bench) -> Result<()> {
    let kernel = bench.kernel("add")?;
    let mut buffer = bench.empty(LEN)?;
    for round in 0..50 {
        write(&bench.queue, &mut buffer, &vec![round; LEN])?;
        bench.launch(&bench.queue, &kernel, (&buffer, 1000), LEN)?;
        ensure!(read(&bench.queue, &buffer, LEN, &[])? == vec![round + 1000; LEN], "round {round}");
    }
    Ok(())
}

fn between_kernels(bench: &Bench) -> Result<()> {
    let kernel = bench.kernel("add")?;
    let mut buffer = bench.fresh(&vec![0; LEN])?;
    let (mut seen, mut ints) = (vec![vec![-1; LEN]; 20], vec![0; LEN]);
    for (round, seen) in seen.iter_mut().enumerate() {
        bench.launch(&bench.queue, &kernel, (&buffer, 7), LEN)?;
        // SAFETY: `seen` stays as it is until the queue is finished; `ints` is written from before the call returns
        // or not changed until then.
        unsafe { bench.queue.enqueue_read_buffer(&buffer, CL_FALSE, 0, seen, &[])? };
        ints.fill(100 * round as i32);
        write(&bench.queue, &mut buffer, &ints)?;
    }
    bench.queue.finish()?;
    for (round, seen) in seen.iter().enumerate() {
        let before = if round == 0 { 0 } else { 100 * (round as i32 - 1) };
        ensure!(seen.iter().all(|int| *int == before + 7), "round {round}: {}", seen[0]);
    }
    Ok(())
}

fn released_in_use(bench: &Bench) -> Result<()> {
    let kernel = bench.kernel("slowly")?;
    for round in 0..5 {
        let buffer = bench.empty(LEN)?;
        bench.launch(&bench.queue, &kernel, (&buffer, 5), 4)?;
        // Others of that size must not lie where the kernel is about to write. The kernel object lets go of it, too.
        drop(buffer);
        let spare = bench.empty(LEN)?;
        // SAFETY: an argument of the type that the kernel declares.
        unsafe { kernel.set_arg(0, &spare.get())? };
        let other = CommandQueue::create_default_with_properties(&bench.gpu.context, 0, 0)?;
        let mut held = Vec::new();
        for index in 0..20 {
            let mut buffer = bench.empty(LEN)?;
            write(&other, &mut buffer, &[index; LEN])?;
            held.push(buffer);
        }
        bench.queue.finish()?;
        for (index, buffer) in held.iter().enumerate() {
            ensure!(read(&other, buffer, LEN, &[])? == vec![index as i32; LEN], "round {round}: {index}");
        }
    }
    Ok(())
}

fn out_of_order(bench: &Bench) -> Result<()> {
    let properties = CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE;
    let queue = CommandQueue::create_default_with_properties(&bench.gpu.context, properties, 0)?;
    let kernel = bench.kernel("add")?;
    let mut buffer = bench.fresh(&vec![1; LEN])?;
    let gate =
        Event::new(create_user_event(bench.gpu.context.get()).map_err(|code| anyhow::anyhow!("{code}"))?);
    // SAFETY: a buffer and an int as the kernel declares.
    let gated = unsafe {
        ExecuteKernel::new(&kernel)
            .set_arg(&buffer)
            .set_arg(&10)
            .set_global_work_size(LEN)
            .set_wait_event(&gate)
            .enqueue_nd_range(&queue)?
    };
    set_user_event_status(gate.get(), 0).map_err(|code| anyhow::anyhow!("{code}"))?;
    ensure!(read(&queue, &buffer, LEN, &[gated.get()])? == vec![11; LEN], "behind the kernel");
    queue.finish()?;
    write(&queue, &mut buffer, &vec![2; LEN])?;
    ensure!(read(&queue, &buffer, LEN, &[])? == vec![2; LEN], "when all is over");
    Ok(())
}

fn other_queue(bench: &Bench) -> Result<()> {
    let other = CommandQueue::create_default_with_properties(&bench.gpu.context, 0, 0)?;
    let kernel = bench.kernel("slowly")?;
    let buffer = bench.fresh(&vec![1; LEN])?;
    for number in 3..6 {
        let event = bench.launch(&bench.queue, &kernel, (&buffer, number), 4)?;
        bench.queue.flush()?;
        let ints = read(&other, &buffer, 5, &[event.get()])?;
        ensure!(ints == [number, number, number, number, 1], "{ints:?}");
    }
    Ok(())
}

fn parts(bench: &Bench) -> Result<()> {
    let ints: Vec<i32> = (0..LEN as i32).collect();
    let buffer = bench.fresh(&ints)?;
    // A page's beginning is aligned for any device.
    // SAFETY: the part lies in the buffer.
    let mut part = unsafe { buffer.create_sub_buffer(CL_MEM_READ_WRITE, 1024, 500)? };
    ensure!(read(&bench.queue, &part, 500, &[])? == ints[1024..1524], "the part");
    write(&bench.queue, &mut part, &[-7; 500])?;
    let kernel = bench.kernel("add")?;
    bench.launch(&bench.queue, &kernel, (&part, 1), 500)?;
    let mut expected = ints.clone();
    expected[1024..1524].fill(-6);
    ensure!(read(&bench.queue, &buffer, LEN, &[])? == expected, "the whole");
    let mut rows = vec![0; 6];
    // Two rows of three ints, ten ints apart in the buffer and without a gap here.
    let (from, to, region) = ([8, 2, 0], [0, 0, 0], [12, 2, 1]);
    // SAFETY: the read blocks, and both rectangles lie where they must.
    unsafe {
        bench.queue.enqueue_read_buffer_rect(
            &buffer,
            CL_TRUE,
            from.as_ptr(),
            to.as_ptr(),
            region.as_ptr(),
            40,
            0,
            12,
            0,
            rows.as_mut_ptr().cast::<c_void>(),
            &[],
        )?
    };
    ensure!(rows == [22, 23, 24, 32, 33, 34], "{rows:?}");
    Ok(())
}

fn mapped(bench: &Bench) -> Result<()> {
    let kernel = bench.kernel("add")?;
    let mut memory = vec![3; LEN];
    // SAFETY: the memory outlives the buffer.
    let uses = unsafe {
        let flags = CL_MEM_READ_WRITE | CL_MEM_USE_HOST_PTR;
        Buffer::create(&bench.gpu.context, flags, LEN, memory.as_mut_ptr().cast())?
    };
    let place = memory.as_ptr() as usize;
    for (buffer, is_there) in [(uses, true), (bench.fresh(&[3; LEN])?, false)] {
        for round in 0..3 {
            bench.launch(&bench.queue, &kernel, (&buffer, 1), LEN)?;
            let mut at: *mut c_void = ptr::null_mut();
            let flags = CL_MAP_READ | CL_MAP_WRITE;
            // SAFETY: the whole buffer, until it is unmapped.
            unsafe { bench.queue.enqueue_map_buffer(&buffer, CL_TRUE, flags, 0, 4 * LEN, &mut at, &[])? };
            ensure!(!is_there || at as usize == place, "mapped elsewhere");
            // SAFETY: mapped, and nobody else writes meanwhile.
            let ints = unsafe { std::slice::from_raw_parts_mut(at.cast::<i32>(), LEN) };
            ensure!(ints.iter().all(|int| *int == 4 + 11 * round), "round {round}: {}", ints[0]);
            ints.iter_mut().for_each(|int| *int += 10);
            // SAFETY: mapped above.
            unsafe { bench.queue.enqueue_unmap_mem_object(buffer.get(), at, &[])? };
        }
        ensure!(read(&bench.queue, &buffer, LEN, &[])? == vec![36; LEN], "in the end");
    }
    Ok(())
}

fn arguments(bench: &Bench) -> Result<()> {
    let kernel = bench.kernel("add")?;
    let buffer = bench.fresh(&[0; 4])?;
    let mut sum = 0;
    for number in 0..200 {
        // Only the last of these is what the launch sees.
        for other in [number + 1, -number, number] {
            // SAFETY: an int, as the kernel declares.
            unsafe { kernel.set_arg(1, &other)? };
        }
        bench.launch(&bench.queue, &kernel, (&buffer, number), 4)?;
        sum += number;
    }
    let seen = read(&bench.queue, &buffer, 4, &[])?;
    ensure!(seen == [sum; 4], "{seen:?} instead of {sum}");
    Ok(())
}

fn threads(bench: &Bench) -> Result<()> {
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|worker| {
                scope.spawn(move || -> Result<()> {
                    let kernel = bench.kernel("add")?;
                    let mut buffer = bench.empty(LEN)?;
                    for round in 0..100 {
                        write(&bench.queue, &mut buffer, &[worker; LEN])?;
                        bench.launch(&bench.queue, &kernel, (&buffer, round), LEN)?;
                        let seen = read(&bench.queue, &buffer, LEN, &[])?;
                        ensure!(seen == vec![worker + round; LEN], "worker {worker}, round {round}");
                    }
                    Ok(())
                })
            })
            .collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("no worker panics"))
    })
}
