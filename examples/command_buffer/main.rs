//! Records command buffers on the vGPU, and compares what they do with what this CPU computes.
//!
//!     paragpu run -- target/debug/examples/command_buffer
//!
//! The functions' arguments differ between versions of `cl_khr_command_buffer`; which are there, the device says.

#[path = "../common/mod.rs"]
mod common;
mod images;
mod mutable;
mod reach;
mod recorder;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use opencl3::command_queue::{
    CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE, CL_QUEUE_PROFILING_ENABLE, CommandQueue,
};
use opencl3::error_codes::ClError;
use opencl3::event::{create_user_event, set_user_event_status};
use opencl3::kernel::Kernel;
use opencl3::memory::{Buffer, ClMem};
use opencl3::program::Program;

use common::Gpu;
use common::checks::Choice;
use recorder::{CommandBuffer, Functions};

const SIMULTANEOUS_USE: u64 = 1;
const FLAGS: u64 = 0x1293;
const STATE: u32 = 0x1297;
const CAPABILITIES: u32 = 0x12a9;
const INVALID_OPERATION: i32 = -59;
const INVALID_SYNC_POINT_WAIT_LIST: i32 = -1139;

const SOURCE: &str = "
    kernel void advance(global uint *x, uint a) { size_t i = get_global_id(0); x[i] = x[i] * a + i; }
    kernel void advance_there(global const ulong *where, uint a) {
        global uint *x = (global uint *)where[0];
        size_t i = get_global_id(0);
        x[i] = x[i] * a + i;
    }";
const LEN: usize = 4096;

/// Compares command buffers with this CPU.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    choice: Choice,
}

struct Bench {
    gpu: Gpu,
    program: Program,
    functions: Functions,
}

/// What one step makes of the numbers.
fn step(numbers: &mut [u32], a: u32) {
    for (i, x) in numbers.iter_mut().enumerate() {
        *x = x.wrapping_mul(a).wrapping_add(i as u32);
    }
}

impl Bench {
    /// The kernel on a buffer, with a factor.
    fn step(&self, buffer: &Buffer<u32>, a: u32) -> Result<Kernel> {
        let kernel = Kernel::create(&self.program, "advance")?;
        set(&kernel, buffer, a)?;
        Ok(kernel)
    }

    fn has(&self, need: Need) -> Result<bool> {
        let (device, is_mutable) = (&self.gpu.device, self.functions.mutable.is_some());
        let has_svm = device.svm_mem_capability() != 0;
        Ok(match need {
            Need::Nothing => true,
            Need::Images => device.image_support()?,
            Need::SharedMemory => has_svm,
            Need::MutableCommands => is_mutable,
            Need::MutableSharedMemory => is_mutable && has_svm,
            Need::SimultaneousChanges => is_mutable && self.capabilities()? & 1 << 2 != 0,
        })
    }

    fn capabilities(&self) -> Result<u64> {
        let answer = self.gpu.device.get_data(CAPABILITIES)?;
        Ok(u64::from_ne_bytes(answer.as_slice().try_into().context("capabilities of another size")?))
    }
}

fn set(kernel: &Kernel, buffer: &Buffer<u32>, a: u32) -> Result<()> {
    // SAFETY: a buffer of one uint per work-item, and a uint, as the kernel declares.
    unsafe {
        kernel.set_arg(0, &buffer.get())?;
        kernel.set_arg(1, &a)?;
    }
    Ok(())
}

type Check = fn(&Bench) -> Result<()>;

/// What a device may lack.
#[derive(Clone, Copy, Debug)]
enum Need {
    Nothing,
    Images,
    SharedMemory,
    MutableCommands,
    MutableSharedMemory,
    SimultaneousChanges,
}

const CHECKS: [(&str, Need, Check); 13] = [
    ("commands in order, twice, with the arguments of when they were recorded", Need::Nothing, in_order),
    ("sync points in a queue that is out of order", Need::Nothing, out_of_order),
    ("an event of the whole, behind a user event", Need::Nothing, behind_user_event),
    ("times of the whole", Need::Nothing, times),
    ("states and mistakes", Need::Nothing, mistakes),
    ("images are filled and copied", Need::Images, images::commands),
    ("mistakes with images", Need::Images, images::mistakes),
    ("kernels reach what they reached when they were recorded", Need::SharedMemory, reach::pointers),
    ("launches change between executions", Need::MutableCommands, mutable::changes),
    ("launches change while an execution waits", Need::SimultaneousChanges, mutable::behind_user_event),
    ("shared memory of launches changes", Need::MutableSharedMemory, mutable::shared_memory),
    ("queries of recorded launches", Need::MutableCommands, mutable::queries),
    ("mistakes with changes, of which nothing stays", Need::MutableCommands, mutable::mistakes),
];

fn in_order(bench: &Bench) -> Result<()> {
    let x = bench.gpu.buffer::<u32>(LEN)?;
    let buffer = CommandBuffer::new(bench, &bench.gpu.queue, 0)?;
    buffer.fill(&x, 7)?;
    let kernel = bench.step(&x, 3)?;
    buffer.launch(&kernel, &[])?;
    set(&kernel, &x, 5)?;
    buffer.launch(&kernel, &[])?;
    buffer.finalize()?;
    set(&kernel, &x, 1000)?;
    let mut expected = vec![7; LEN];
    step(&mut expected, 3);
    step(&mut expected, 5);
    for _ in 0..2 {
        buffer.enqueue(&[])?;
        ensure!(bench.gpu.download(&x, LEN)? == expected, "numbers differ");
    }
    Ok(())
}

fn out_of_order(bench: &Bench) -> Result<()> {
    let properties = CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE;
    let queue = CommandQueue::create_default_with_properties(&bench.gpu.context, properties, 0)?;
    let (x, y) = (bench.gpu.buffer::<u32>(LEN)?, bench.gpu.buffer::<u32>(LEN)?);
    let buffer = CommandBuffer::new(bench, &queue, 0)?;
    let (first, second) = (buffer.fill(&x, 1)?, buffer.fill(&y, 2)?);
    let mut last = [first, second];
    for a in 2..20 {
        last[0] = buffer.launch(&bench.step(&x, a)?, &last)?;
        last[1] = buffer.launch(&bench.step(&y, a + 1)?, &[last[1]])?;
    }
    buffer.finalize()?;
    let (mut expected_x, mut expected_y) = (vec![1; LEN], vec![2; LEN]);
    for a in 2..20 {
        step(&mut expected_x, a);
        step(&mut expected_y, a + 1);
    }
    for _ in 0..3 {
        buffer.enqueue(&[])?.wait()?;
        ensure!(bench.gpu.download(&x, LEN)? == expected_x, "numbers of the first differ");
        ensure!(bench.gpu.download(&y, LEN)? == expected_y, "numbers of the second differ");
    }
    Ok(())
}

fn behind_user_event(bench: &Bench) -> Result<()> {
    let x = bench.gpu.upload(&[1_u32; LEN])?;
    let buffer = CommandBuffer::new(bench, &bench.gpu.queue, 0)?;
    buffer.launch(&bench.step(&x, 2)?, &[])?;
    buffer.launch(&bench.step(&x, 3)?, &[])?;
    buffer.finalize()?;
    let gate = create_user_event(bench.gpu.context.get()).map_err(ClError)?;
    let event = buffer.enqueue(&[gate])?;
    ensure!(event.command_execution_status()?.0 > 0, "it did not wait");
    set_user_event_status(gate, 0).map_err(ClError)?;
    event.wait()?;
    // SAFETY: nobody uses it any more.
    unsafe { cl3::event::release_event(gate).map_err(ClError)? };
    let mut expected = vec![1; LEN];
    step(&mut expected, 2);
    step(&mut expected, 3);
    ensure!(bench.gpu.download(&x, LEN)? == expected, "numbers differ");
    Ok(())
}

fn times(bench: &Bench) -> Result<()> {
    let queue =
        CommandQueue::create_default_with_properties(&bench.gpu.context, CL_QUEUE_PROFILING_ENABLE, 0)?;
    let x = bench.gpu.upload(&[1_u32; LEN])?;
    let buffer = CommandBuffer::new(bench, &queue, 0)?;
    for a in 0..50 {
        buffer.launch(&bench.step(&x, a)?, &[])?;
    }
    buffer.finalize()?;
    let event = buffer.enqueue(&[])?;
    event.wait()?;
    let [queued, submit, start, end] = [
        event.profiling_command_queued()?,
        event.profiling_command_submit()?,
        event.profiling_command_start()?,
        event.profiling_command_end()?,
    ];
    ensure!(queued <= submit && submit <= start && start < end, "{queued} {submit} {start} {end}");
    Ok(())
}

fn mistakes(bench: &Bench) -> Result<()> {
    let x = bench.gpu.upload(&[1_u32; LEN])?;
    let kernel = bench.step(&x, 2)?;
    let buffer = CommandBuffer::new(bench, &bench.gpu.queue, 0)?;
    ensure!(buffer.state()? == 0, "not recording");
    ensure!(buffer.try_enqueue(&[]).err() == Some(INVALID_OPERATION), "enqueued while recording");
    let point = buffer.launch(&kernel, &[])?;
    let unknown = buffer.try_launch(&kernel, LEN, &[point + 1]);
    ensure!(unknown == Err(INVALID_SYNC_POINT_WAIT_LIST), "an unknown sync point: {unknown:?}");
    buffer.finalize()?;
    ensure!(buffer.state()? == 1, "not executable");
    let late = buffer.try_launch(&kernel, LEN, &[]);
    ensure!(late == Err(INVALID_OPERATION), "recorded too late: {late:?}");
    // SAFETY: a live command buffer.
    let again = unsafe { (bench.functions.finalize)(buffer.raw) };
    ensure!(again == INVALID_OPERATION, "finalized twice: {again}");
    if bench.capabilities()? & 1 << 2 != 0 && !bench.functions.has_properties {
        simultaneous(bench, &kernel)?;
    }
    Ok(())
}

/// Before version 0.9.8, one that is executing is enqueued again only if that was agreed.
fn simultaneous(bench: &Bench, kernel: &Kernel) -> Result<()> {
    for (flags, expected) in [(0, Some(INVALID_OPERATION)), (SIMULTANEOUS_USE, None)] {
        let buffer = CommandBuffer::new(bench, &bench.gpu.queue, flags)?;
        buffer.launch(kernel, &[])?;
        buffer.finalize()?;
        let gate = create_user_event(bench.gpu.context.get()).map_err(ClError)?;
        let first = buffer.enqueue(&[gate])?;
        ensure!(buffer.state()? == 2, "not pending");
        let second = buffer.try_enqueue(&[]);
        set_user_event_status(gate, 0).map_err(ClError)?;
        first.wait()?;
        bench.gpu.queue.finish()?;
        // SAFETY: nobody uses it any more.
        unsafe { cl3::event::release_event(gate).map_err(ClError)? };
        ensure!(second.as_ref().err() == expected.as_ref(), "a second time: {:?}", second.err());
        ensure!(buffer.state()? == 1, "still pending");
    }
    Ok(())
}

fn main() -> Result<()> {
    let Arguments { choice } = Arguments::parse();
    let gpu = choice.open()?;
    let program = gpu.program(SOURCE, "")?;
    let functions = Functions::find(&gpu)?;
    let bench = Bench { gpu, program, functions };
    let checks = CHECKS.map(|(name, need, check)| {
        let if_possible = move |bench: &Bench| match bench.has(need)? {
            true => check(bench).map(|()| None),
            false => Ok(Some(format!("the device lacks {need:?}"))),
        };
        (name, if_possible)
    });
    choice.make(&checks, &bench)
}
