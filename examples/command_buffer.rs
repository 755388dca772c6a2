//! Records command buffers on the vGPU, and compares what they do with what this CPU computes.
//!
//!     paragpu run -- target/debug/examples/command_buffer
//!
//! The functions' arguments differ between versions of `cl_khr_command_buffer`; which are there, the device says.

mod common;

use std::ffi::{CStr, c_void};
use std::ptr;

use anyhow::{Context as _, Result, anyhow, ensure};
use clap::Parser;
use opencl3::command_queue::{
    CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE, CL_QUEUE_PROFILING_ENABLE, CommandQueue,
};
use opencl3::error_codes::ClError;
use opencl3::event::{Event, create_user_event, set_user_event_status};
use opencl3::kernel::Kernel;
use opencl3::memory::{Buffer, ClMem};
use opencl3::program::Program;
use opencl3::types::{cl_event, cl_int, cl_uint};

use common::Gpu;

type Handle = *mut c_void;
type Create = unsafe extern "C" fn(cl_uint, *const Handle, *const u64, *mut cl_int) -> Handle;
type OfBuffer = unsafe extern "C" fn(Handle) -> cl_int;
type Enqueue =
    unsafe extern "C" fn(cl_uint, *mut Handle, Handle, cl_uint, *const cl_event, *mut cl_event) -> cl_int;
type Info = unsafe extern "C" fn(Handle, cl_uint, usize, *mut c_void, *mut usize) -> cl_int;
type Launch = unsafe extern "C" fn(
    Handle,
    Handle,
    *const u64,
    Handle,
    cl_uint,
    *const usize,
    *const usize,
    *const usize,
    cl_uint,
    *const cl_uint,
    *mut cl_uint,
    *mut Handle,
) -> cl_int;
type Fill = unsafe extern "C" fn(
    Handle,
    Handle,
    *const u64,
    Handle,
    *const c_void,
    usize,
    usize,
    usize,
    cl_uint,
    *const cl_uint,
    *mut cl_uint,
    *mut Handle,
) -> cl_int;
type OldFill = unsafe extern "C" fn(
    Handle,
    Handle,
    Handle,
    *const c_void,
    usize,
    usize,
    usize,
    cl_uint,
    *const cl_uint,
    *mut cl_uint,
    *mut Handle,
) -> cl_int;

const SIMULTANEOUS_USE: u64 = 1;
const FLAGS: u64 = 0x1293;
const STATE: u32 = 0x1297;
const CAPABILITIES: u32 = 0x12a9;
const INVALID_OPERATION: i32 = -59;
const INVALID_SYNC_POINT_WAIT_LIST: i32 = -1139;

const SOURCE: &str =
    "kernel void advance(global uint *x, uint a) { size_t i = get_global_id(0); x[i] = x[i] * a + i; }";
const LEN: usize = 4096;

/// Compares command buffers with this CPU.
#[derive(Parser)]
struct Arguments {
    /// Name of the OpenCL platform.
    #[arg(long, default_value = "paragpu")]
    platform: String,
}

struct Bench {
    gpu: Gpu,
    program: Program,
    functions: Functions,
}

struct Functions {
    create: Create,
    finalize: OfBuffer,
    release: OfBuffer,
    enqueue: Enqueue,
    info: Info,
    launch: Launch,
    fill: *mut c_void,
    has_properties: bool,
}

/// A function of an extension, as this type.
///
/// # Safety
/// The type is that of the function.
unsafe fn function<T: Copy>(gpu: &Gpu, name: &CStr) -> Result<T> {
    let platform = gpu.device.platform()?;
    let library = cl3::load_library().as_ref().map_err(|error| anyhow!("no OpenCL: {error}"))?;
    let address = library
        .clGetExtensionFunctionAddressForPlatform(platform, name.as_ptr())
        .context("an OpenCL before 1.2")?;
    ensure!(!address.is_null(), "no function {name:?}");
    // SAFETY: a pointer to a function of this type, as the caller says.
    Ok(unsafe { std::mem::transmute_copy(&address) })
}

impl Functions {
    fn find(gpu: &Gpu) -> Result<Functions> {
        let extensions = gpu.device.extensions_with_version().unwrap_or_default();
        let version = extensions
            .iter()
            .find(|extension| {
                // SAFETY: the name ends with a NUL.
                let name = unsafe { CStr::from_ptr(extension.name.as_ptr().cast()) };
                name == c"cl_khr_command_buffer"
            })
            .map(|extension| extension.version)
            .context("the device has no cl_khr_command_buffer")?;
        println!("cl_khr_command_buffer {}.{}.{}", version >> 22, version >> 12 & 0x3ff, version & 0xfff);
        // SAFETY: the types are the functions', as the headers have them; that of the fill is told apart below.
        unsafe {
            Ok(Functions {
                create: function(gpu, c"clCreateCommandBufferKHR")?,
                finalize: function(gpu, c"clFinalizeCommandBufferKHR")?,
                release: function(gpu, c"clReleaseCommandBufferKHR")?,
                enqueue: function(gpu, c"clEnqueueCommandBufferKHR")?,
                info: function(gpu, c"clGetCommandBufferInfoKHR")?,
                launch: function(gpu, c"clCommandNDRangeKernelKHR")?,
                fill: function(gpu, c"clCommandFillBufferKHR")?,
                has_properties: version >= (9 << 12 | 5),
            })
        }
    }
}

fn checked(status: cl_int, what: &str) -> Result<()> {
    ensure!(status == 0, "{what}: {status}");
    Ok(())
}

/// A command buffer, released when dropped.
struct CommandBuffer<'a> {
    functions: &'a Functions,
    raw: Handle,
}

impl Drop for CommandBuffer<'_> {
    fn drop(&mut self) {
        // SAFETY: live until here.
        unsafe { (self.functions.release)(self.raw) };
    }
}

impl<'a> CommandBuffer<'a> {
    fn new(bench: &'a Bench, queue: &CommandQueue, flags: u64) -> Result<CommandBuffer<'a>> {
        let functions = &bench.functions;
        let (queues, properties) = ([queue.get()], [FLAGS, flags, 0]);
        let mut status = 0;
        // SAFETY: one queue, and a list that ends with 0.
        let raw = unsafe {
            let properties = if flags == 0 { ptr::null() } else { properties.as_ptr() };
            (functions.create)(1, queues.as_ptr(), properties, &mut status)
        };
        checked(status, "create")?;
        Ok(CommandBuffer { functions, raw })
    }

    fn try_launch(&self, kernel: &Kernel, len: usize, after: &[u32]) -> Result<u32, cl_int> {
        let mut point = 0;
        let list = if after.is_empty() { ptr::null() } else { after.as_ptr() };
        // SAFETY: one dimension, with one size; as many sync points as are said.
        let status = unsafe {
            (self.functions.launch)(
                self.raw,
                ptr::null_mut(),
                ptr::null(),
                kernel.get(),
                1,
                ptr::null(),
                &len,
                ptr::null(),
                after.len() as u32,
                list,
                &mut point,
                ptr::null_mut(),
            )
        };
        if status == 0 { Ok(point) } else { Err(status) }
    }

    fn launch(&self, kernel: &Kernel, after: &[u32]) -> Result<u32> {
        self.try_launch(kernel, LEN, after).map_err(|status| anyhow!("launch: {status}"))
    }

    fn fill(&self, buffer: &Buffer<u32>, pattern: u32) -> Result<u32> {
        let (mut point, size) = (0, 4 * LEN);
        let (buffer, pattern, none) = (buffer.get(), ptr::from_ref(&pattern).cast(), ptr::null_mut());
        // SAFETY: the function's type is that of the version that the device has; the pattern has four bytes, and the
        // buffer as many as are filled.
        let status = unsafe {
            if self.functions.has_properties {
                let fill: Fill = std::mem::transmute(self.functions.fill);
                fill(
                    self.raw,
                    none,
                    ptr::null(),
                    buffer,
                    pattern,
                    4,
                    0,
                    size,
                    0,
                    ptr::null(),
                    &mut point,
                    ptr::null_mut(),
                )
            } else {
                let fill: OldFill = std::mem::transmute(self.functions.fill);
                fill(self.raw, none, buffer, pattern, 4, 0, size, 0, ptr::null(), &mut point, ptr::null_mut())
            }
        };
        checked(status, "fill")?;
        Ok(point)
    }

    fn finalize(&self) -> Result<()> {
        // SAFETY: a live command buffer.
        checked(unsafe { (self.functions.finalize)(self.raw) }, "finalize")
    }

    fn try_enqueue(&self, wait: &[cl_event]) -> Result<Event, cl_int> {
        let mut event = ptr::null_mut();
        let list = if wait.is_empty() { ptr::null() } else { wait.as_ptr() };
        // SAFETY: as many live events as are said.
        let status = unsafe {
            (self.functions.enqueue)(0, ptr::null_mut(), self.raw, wait.len() as u32, list, &mut event)
        };
        if status == 0 { Ok(Event::new(event)) } else { Err(status) }
    }

    fn enqueue(&self, wait: &[cl_event]) -> Result<Event> {
        self.try_enqueue(wait).map_err(|status| anyhow!("enqueue: {status}"))
    }

    fn state(&self) -> Result<u32> {
        let mut state = 0_u32;
        // SAFETY: room for the four bytes of a state.
        let status = unsafe {
            (self.functions.info)(self.raw, STATE, 4, ptr::from_mut(&mut state).cast(), ptr::null_mut())
        };
        checked(status, "state")?;
        Ok(state)
    }
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

const CHECKS: &[(&str, Check)] = &[
    ("commands in order, twice, with the arguments of when they were recorded", in_order),
    ("sync points in a queue that is out of order", out_of_order),
    ("an event of the whole, behind a user event", behind_user_event),
    ("times of the whole", times),
    ("states and mistakes", mistakes),
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
    let arguments = Arguments::parse();
    let gpu = Gpu::open(&arguments.platform)?;
    let program = gpu.program(SOURCE, "")?;
    let functions = Functions::find(&gpu)?;
    let bench = Bench { gpu, program, functions };
    let mut failed = 0;
    for (name, check) in CHECKS {
        match check(&bench) {
            Ok(()) => println!("ok    {name}"),
            Err(error) => {
                failed += 1;
                println!("FAIL  {name}: {error:#}");
            }
        }
    }
    println!("{} passed, {failed} failed", CHECKS.len() - failed);
    ensure!(failed == 0, "{failed} checks failed");
    Ok(())
}
