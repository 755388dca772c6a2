//! Memory that kernels and the application share: checks that both see the same bytes at the same addresses. Exit status 0
//! only if everything agrees; devices without shared memory are told of, and checked no further.
//!
//!     paragpu run -- target/debug/examples/vgpu_memory

mod common;

use std::ffi::c_void;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicI32, Ordering};

use anyhow::{Context as _, Result, ensure};
use cl3::command_queue as calls;
use clap::Parser;
use opencl3::device::{
    CL_DEVICE_SVM_ATOMICS, CL_DEVICE_SVM_COARSE_GRAIN_BUFFER, CL_DEVICE_SVM_FINE_GRAIN_BUFFER,
};
use opencl3::event::Event;
use opencl3::kernel::{ExecuteKernel, Kernel};
use opencl3::memory::{
    Buffer, CL_MAP_READ, CL_MAP_WRITE, CL_MEM_READ_WRITE, CL_MEM_SVM_FINE_GRAIN_BUFFER, CL_MEM_USE_HOST_PTR,
};
use opencl3::program::Program;
use opencl3::types::CL_TRUE;

use common::Gpu;
use common::checks::{Check, Choice};

/// Checks memory that kernels and the application share.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    choice: Choice,
}

const SOURCE: &str = "
    struct node { global struct node* next; int number; };
    kernel void walk(global struct node* node, global int* sum) {
        *sum = 0;
        for (; node; node = node->next) { *sum += node->number; node->number = -node->number; }
    }
    kernel void add(global int* to, int number) { to[get_global_id(0)] += number; }
    kernel void wait_for(global int* from, global int* to) {
        while (atomic_or((volatile global int*) from, 0) == 0) {}
        atomic_xchg((volatile global int*) to, 1);
    }";

struct Bench {
    gpu: Gpu,
    program: Program,
    capabilities: u64,
}

const CHECKS: &[Check<Bench>] = &[
    ("a list built here is walked by a kernel", list),
    ("filled and copied by commands", commands),
    ("a buffer of shared memory is that memory", buffer_of_shared),
    ("memory that a kernel still has can be freed", freed_while_set),
    ("much memory, many times", many),
    ("a kernel that runs sees what is written meanwhile", fine_grain),
    ("unified shared memory", unified),
];

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let gpu = arguments.choice.open()?;
    let capabilities = gpu.device.svm_mem_capability();
    println!("shared virtual memory: {capabilities:#x}");
    if capabilities & CL_DEVICE_SVM_COARSE_GRAIN_BUFFER == 0 {
        println!("skipped: the device shares no memory");
        return Ok(());
    }
    let program = gpu.program(SOURCE, "-cl-std=CL1.2")?;
    let bench = Bench { gpu, program, capabilities };
    arguments.choice.make(CHECKS, &bench)
}

/// Shared ints, freed when dropped.
struct Shared {
    context: *mut c_void,
    at: NonNull<i32>,
    len: usize,
}

impl Shared {
    fn new(bench: &Bench, flags: u64, len: usize) -> Result<Shared> {
        let context = bench.gpu.context.get();
        // SAFETY: a live context; the flags are checked by the driver.
        let at = unsafe { cl3::memory::svm_alloc(context, CL_MEM_READ_WRITE | flags, 4 * len, 0) };
        let at = at.map_err(|_null| anyhow::anyhow!("clSVMAlloc of {len} ints failed"))?;
        Ok(Shared { context, at: NonNull::new(at.cast()).context("NULL")?, len })
    }

    /// What `look` makes of the ints, which are mapped meanwhile: on a device with memory of its own they are not here
    /// otherwise. No kernel may be using them.
    fn with<R>(&mut self, bench: &Bench, look: impl FnOnce(&mut [i32]) -> R) -> Result<R> {
        let (queue, flags, none) = (bench.gpu.queue.get(), CL_MAP_READ | CL_MAP_WRITE, ptr::null());
        // SAFETY: a live queue, and the whole allocation.
        bench.done(unsafe {
            calls::enqueue_svm_map(queue, CL_TRUE, flags, self.pointer(), 4 * self.len, 0, none)
        })?;
        // SAFETY: the allocation has that many ints, and the callers have waited for the kernels that use it.
        let result = look(unsafe { std::slice::from_raw_parts_mut(self.at.as_ptr(), self.len) });
        // SAFETY: mapped above.
        bench.done(unsafe { calls::enqueue_svm_unmap(queue, self.pointer(), 0, none) })?;
        Ok(result)
    }

    /// True if all ints are this one.
    fn are_all(&mut self, bench: &Bench, int: i32) -> Result<bool> {
        self.with(bench, |ints| ints.iter().all(|found| *found == int))
    }

    /// One of them, for when a kernel is using it.
    fn atomic(&self, index: usize) -> &AtomicI32 {
        assert!(index < self.len);
        // SAFETY: in the allocation, aligned, and only used atomically by both sides.
        unsafe { AtomicI32::from_ptr(self.at.as_ptr().add(index)) }
    }

    fn pointer(&self) -> *mut c_void {
        self.at.as_ptr().cast()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: allocated by `new`, and freed once.
        let _ = unsafe { cl3::memory::svm_free(self.context, self.pointer()) };
    }
}

impl Bench {
    fn kernel(&self, name: &str) -> Result<Kernel> {
        Kernel::create(&self.program, name).with_context(|| format!("no kernel {name}"))
    }

    /// Adds a number to ints at a pointer, and waits.
    fn add(&self, kernel: &Kernel, to: *mut c_void, number: i32, len: usize) -> Result<()> {
        let mut call = ExecuteKernel::new(kernel);
        // SAFETY: a pointer to as many shared ints as there are work-items, and an int, as the kernel declares.
        let event = unsafe {
            call.set_arg_svm(to).set_arg(&number).set_global_work_size(len).enqueue_nd_range(&self.gpu.queue)
        };
        event.context("cannot enqueue")?.wait().context("the kernel failed")?;
        Ok(())
    }

    /// Waits for a command that a call has enqueued.
    fn done(&self, event: Result<*mut c_void, i32>) -> Result<()> {
        let event = event.map_err(|code| anyhow::anyhow!("OpenCL error {code}"))?;
        Event::new(event).wait().context("the command failed")?;
        Ok(())
    }
}

#[repr(C)]
struct Node {
    next: *mut Node,
    number: i32,
}

fn list(bench: &Bench) -> Result<()> {
    let count = 1000;
    let mut nodes = Shared::new(bench, 0, count * size_of::<Node>() / 4)?;
    let mut sum = Shared::new(bench, 0, 1)?;
    let first: *mut Node = nodes.at.as_ptr().cast();
    nodes.with(bench, |_mapped| {
        for index in 0..count {
            // Each points to the one before it, the first to nothing.
            let next = if index == 0 { ptr::null_mut() } else { first.wrapping_add(index - 1) };
            // SAFETY: in the allocation, which no kernel uses yet.
            unsafe { first.add(index).write(Node { next, number: index as i32 }) };
        }
    })?;
    let kernel = bench.kernel("walk")?;
    let mut call = ExecuteKernel::new(&kernel);
    let last = first.wrapping_add(count - 1);
    // SAFETY: a pointer to a node and to an int, both shared.
    let event = unsafe {
        call.set_arg_svm(last.cast::<c_void>())
            .set_arg_svm(sum.pointer())
            .set_global_work_size(1)
            .enqueue_nd_range(&bench.gpu.queue)
    };
    event?.wait()?;
    let sum = sum.with(bench, |ints| ints[0])?;
    ensure!(sum == (0..count as i32).sum::<i32>(), "the sum is {sum}");
    let words = size_of::<Node>() / 4;
    let numbers: Vec<i32> = nodes.with(bench, |ints| ints.chunks(words).map(|node| node[2]).collect())?;
    ensure!(numbers.into_iter().eq((0..count as i32).map(|number| -number)), "the nodes differ");
    Ok(())
}

fn commands(bench: &Bench) -> Result<()> {
    let len = 100_000;
    let (mut a, mut b) = (Shared::new(bench, 0, len)?, Shared::new(bench, 0, len)?);
    ensure!(a.are_all(bench, 0)?, "fresh memory is not zero");
    let queue = bench.gpu.queue.get();
    let pattern = [1, -2];
    let bytes = 4 * len;
    let own: Vec<i32> = (0..len as i32).collect();
    let mut back = vec![0; len];
    let none = ptr::null();
    // SAFETY: live queue; all ranges lie in their allocations or vectors, which live until the last, blocking copy.
    unsafe {
        let pattern: *const c_void = pattern.as_ptr().cast();
        bench.done(calls::enqueue_svm_mem_fill(queue, a.pointer(), pattern, 8, bytes, 0, none))?;
        bench.done(calls::enqueue_svm_mem_cpy(queue, CL_TRUE, b.pointer(), a.pointer(), bytes, 0, none))?;
        let own: *const c_void = own.as_ptr().cast();
        bench.done(calls::enqueue_svm_mem_cpy(queue, CL_TRUE, a.pointer(), own, bytes, 0, none))?;
        let back: *mut c_void = back.as_mut_ptr().cast();
        bench.done(calls::enqueue_svm_mem_cpy(queue, CL_TRUE, back, a.pointer(), bytes, 0, none))?;
    }
    let filled = b.with(bench, |ints| ints.chunks(2).all(|pair| pair == pattern))?;
    ensure!(filled, "the fill or its copy differs");
    let same = a.with(bench, |ints| ints == own)?;
    ensure!(same && back == own, "copies from and to other memory differ");
    Ok(())
}

fn buffer_of_shared(bench: &Bench) -> Result<()> {
    let len = 4096;
    let mut shared = Shared::new(bench, 0, len)?;
    // SAFETY: the shared memory is as long as the buffer, and outlives it.
    let buffer: Buffer<i32> = unsafe {
        Buffer::create(&bench.gpu.context, CL_MEM_READ_WRITE | CL_MEM_USE_HOST_PTR, len, shared.pointer())?
    };
    let kernel = bench.kernel("add")?;
    let mut call = ExecuteKernel::new(&kernel);
    // SAFETY: a buffer of one int per work-item, and an int.
    unsafe {
        call.set_arg(&buffer).set_arg(&5_i32).set_global_work_size(len).enqueue_nd_range(&bench.gpu.queue)
    }?
    .wait()?;
    ensure!(shared.are_all(bench, 5)?, "the memory does not show what the buffer has");
    shared.with(bench, |ints| ints.fill(7))?;
    ensure!(
        bench.gpu.download(&buffer, len)? == vec![7; len],
        "the buffer does not show what the memory has"
    );
    Ok(())
}

fn freed_while_set(bench: &Bench) -> Result<()> {
    let kernel = bench.kernel("add")?;
    for _ in 0..20 {
        let mut shared = Shared::new(bench, 0, 1 << 16)?;
        ensure!(shared.are_all(bench, 0)?, "memory that was used before is not zero");
        bench.add(&kernel, shared.pointer(), 3, 1 << 16)?;
        ensure!(shared.are_all(bench, 3)?, "sums differ");
        // The kernel's argument still points to it.
        drop(shared);
    }
    Ok(())
}

fn many(bench: &Bench) -> Result<()> {
    let kernel = bench.kernel("add")?;
    let mut all = (0..300).map(|_| Shared::new(bench, 0, 1000)).collect::<Result<Vec<_>>>()?;
    for (index, shared) in all.iter().enumerate() {
        bench.add(&kernel, shared.pointer(), index as i32, 1000)?;
    }
    for (index, shared) in all.iter_mut().enumerate() {
        ensure!(shared.are_all(bench, index as i32)?, "allocation {index} differs");
    }
    drop(all);
    let mut large = Shared::new(bench, 0, 8 << 20)?;
    bench.add(&kernel, large.pointer(), 1, 8 << 20)?;
    ensure!(large.are_all(bench, 1)?, "the large allocation differs");
    Ok(())
}

fn fine_grain(bench: &Bench) -> Result<()> {
    if bench.capabilities & CL_DEVICE_SVM_FINE_GRAIN_BUFFER == 0
        || bench.capabilities & CL_DEVICE_SVM_ATOMICS == 0
    {
        println!("      (skipped: no fine-grain sharing)");
        return Ok(());
    }
    let shared = Shared::new(bench, CL_MEM_SVM_FINE_GRAIN_BUFFER, 2)?;
    let kernel = bench.kernel("wait_for")?;
    let mut call = ExecuteKernel::new(&kernel);
    let second = shared.at.as_ptr().wrapping_add(1).cast::<c_void>();
    // SAFETY: two pointers to shared ints.
    let event = unsafe {
        call.set_arg_svm(shared.pointer())
            .set_arg_svm(second)
            .set_global_work_size(1)
            .enqueue_nd_range(&bench.gpu.queue)
    }?;
    bench.gpu.queue.flush()?;
    shared.atomic(0).store(1, Ordering::SeqCst);
    event.wait()?;
    ensure!(shared.atomic(1).load(Ordering::SeqCst) == 1, "the kernel's answer did not arrive");
    Ok(())
}

type Alloc = unsafe extern "C" fn(*mut c_void, *mut c_void, *const u64, usize, u32, *mut i32) -> *mut c_void;
type Free = unsafe extern "C" fn(*mut c_void, *mut c_void) -> i32;
type SetArg = unsafe extern "C" fn(*mut c_void, u32, *const c_void) -> i32;
type AllocInfo = unsafe extern "C" fn(*mut c_void, *const c_void, u32, usize, *mut c_void, *mut usize) -> i32;

/// `CL_MEM_ALLOC_TYPE_INTEL`, `CL_MEM_TYPE_SHARED_INTEL`.
const ALLOC_TYPE: u32 = 0x419a;
const TYPE_SHARED: u32 = 0x4199;

fn unified(bench: &Bench) -> Result<()> {
    if !bench.gpu.device.extensions()?.contains("cl_intel_unified_shared_memory") {
        println!("      (skipped: the device has no cl_intel_unified_shared_memory)");
        return Ok(());
    }
    let platform = bench.gpu.device.platform()?;
    let find = |name: &std::ffi::CStr| -> Result<*mut c_void> {
        let library = cl3::load_library().as_ref().ok().context("no OpenCL library")?;
        // The name lives during the call.
        let function = library.clGetExtensionFunctionAddressForPlatform(platform, name.as_ptr());
        function.filter(|at| !at.is_null()).with_context(|| format!("no {name:?}"))
    };
    // SAFETY: the functions that the extension gives these names, with the signatures that it gives them.
    let (alloc, free, set_arg, info) = unsafe {
        (
            std::mem::transmute::<*mut c_void, Alloc>(find(c"clSharedMemAllocINTEL")?),
            std::mem::transmute::<*mut c_void, Free>(find(c"clMemBlockingFreeINTEL")?),
            std::mem::transmute::<*mut c_void, SetArg>(find(c"clSetKernelArgMemPointerINTEL")?),
            std::mem::transmute::<*mut c_void, AllocInfo>(find(c"clGetMemAllocInfoINTEL")?),
        )
    };
    let (context, device) = (bench.gpu.context.get(), bench.gpu.device.id());
    let kernel = bench.kernel("add")?;
    let len = 1024_usize;
    let (mut status, mut kind) = (0, 0_u32);
    // SAFETY: live objects; the memory has `len` ints, of which the kernel adds to all but the first; it is freed once.
    unsafe {
        let memory = alloc(context, device, ptr::null(), 4 * len, 0, &raw mut status).cast::<i32>();
        ensure!(status == 0 && !memory.is_null(), "clSharedMemAllocINTEL: {status}");
        let inner = memory.add(1).cast::<c_void>();
        let to = ptr::from_mut(&mut kind).cast();
        ensure!(info(context, inner, ALLOC_TYPE, 4, to, ptr::null_mut()) == 0 && kind == TYPE_SHARED);
        ensure!(set_arg(kernel.get(), 0, inner) == 0, "clSetKernelArgMemPointerINTEL");
        kernel.set_arg(1, &9_i32)?;
        let (queue, size) = (bench.gpu.queue.get(), len - 1);
        let event = calls::enqueue_nd_range_kernel(
            queue,
            kernel.get(),
            1,
            ptr::null(),
            &raw const size,
            ptr::null(),
            0,
            ptr::null(),
        );
        bench.done(event)?;
        let ints = std::slice::from_raw_parts(memory, len);
        ensure!(ints[0] == 0 && ints[1..].iter().all(|int| *int == 9), "sums differ");
        ensure!(free(context, memory.cast()) == 0, "clMemBlockingFreeINTEL");
    }
    Ok(())
}
