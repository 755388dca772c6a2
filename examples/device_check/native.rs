//! Native kernels: functions of this process in a queue.

use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, bail, ensure};
use cl3::command_queue::enqueue_native_kernel;
use opencl3::command_queue::{
    CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE, CL_QUEUE_PROFILING_ENABLE, CommandQueue,
};
use opencl3::device::CL_EXEC_NATIVE_KERNEL;
use opencl3::error_codes::{
    CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST, CL_INVALID_OPERATION, CL_INVALID_VALUE,
};
use opencl3::event::{CL_COMMAND_NATIVE_KERNEL, Event, create_user_event, set_user_event_status};
use opencl3::kernel::{ExecuteKernel, Kernel};
use opencl3::memory::{Buffer, CL_MEM_READ_WRITE, ClMem};
use opencl3::types::{CL_FALSE, CL_TRUE, cl_event};

use super::{Bench, SOURCE};

const LEN: usize = 1000;

/// What the functions get: memory, how much of it, and what to add.
#[repr(C)]
struct Arguments {
    numbers: *mut u32,
    more: *mut u32,
    count: usize,
    amount: u32,
}

/// Adds to each number; what is behind `more` counts the calls.
unsafe extern "C" fn add(args: *mut c_void) {
    // SAFETY: the commands below are enqueued with these arguments; `numbers` and `more` are buffers of that many.
    unsafe {
        let args = &*args.cast::<Arguments>();
        for number in std::slice::from_raw_parts_mut(args.numbers, args.count) {
            *number = number.wrapping_add(args.amount);
        }
        if !args.more.is_null() {
            *args.more += 1;
        }
    }
}

static CALLS: AtomicU32 = AtomicU32::new(0);

unsafe extern "C" fn count(args: *mut c_void) {
    let step = if args.is_null() { 1 } else { 1000 };
    CALLS.fetch_add(step, Ordering::SeqCst);
}

/// True where there are no native kernels, which the queue then says itself.
fn there_are_none(bench: &Bench) -> Result<bool> {
    if bench.gpu.device.execution_capabilities()? & CL_EXEC_NATIVE_KERNEL != 0 {
        return Ok(false);
    }
    let error = call(&bench.gpu.queue, &mut []).err();
    ensure!(error == Some(CL_INVALID_OPERATION), "a device without native kernels says {error:?}");
    Ok(true)
}

/// Enqueues `count`.
fn call(queue: &CommandQueue, wait: &mut [cl_event]) -> Result<Event, i32> {
    let list = if wait.is_empty() { ptr::null() } else { wait.as_ptr() };
    // SAFETY: the function takes no arguments; live events.
    let event = unsafe {
        enqueue_native_kernel(
            queue.get(),
            Some(count),
            ptr::null_mut(),
            0,
            0,
            ptr::null(),
            ptr::null(),
            wait.len() as u32,
            list,
        )
    };
    event.map(Event::new)
}

/// Enqueues `add` on buffers of `LEN` numbers.
fn call_add(
    queue: &CommandQueue,
    numbers: &Buffer<u32>,
    more: Option<&Buffer<u32>>,
    amount: u32,
    wait: &[cl_event],
) -> Result<Event> {
    let arguments = Arguments { numbers: numbers.get().cast(), more: ptr::null_mut(), count: LEN, amount };
    let places: [*const c_void; 2] =
        [(&raw const arguments.numbers).cast(), (&raw const arguments.more).cast()];
    let memory = [numbers.get(), more.map_or(ptr::null_mut(), |more| more.get())];
    let count = if more.is_some() { 2 } else { 1 };
    let list = if wait.is_empty() { ptr::null() } else { wait.as_ptr() };
    // SAFETY: the arguments are what the function takes; the places are where the two buffers go; live events.
    let event = unsafe {
        enqueue_native_kernel(
            queue.get(),
            Some(add),
            (&raw const arguments).cast_mut().cast(),
            size_of::<Arguments>(),
            count,
            memory.as_ptr(),
            places.as_ptr(),
            wait.len() as u32,
            list,
        )
    };
    Ok(Event::new(event.map_err(|error| anyhow::anyhow!("clEnqueueNativeKernel: {error}"))?))
}

pub(super) fn takes_its_turn(bench: &Bench) -> Result<()> {
    if there_are_none(bench)? {
        return Ok(());
    }
    let gpu = &bench.gpu;
    let program = gpu.program(SOURCE, "")?;
    let kernel = Kernel::create(&program, "bump")?;
    let queue = CommandQueue::create_default_with_properties(&gpu.context, CL_QUEUE_PROFILING_ENABLE, 0)?;
    let mut numbers = gpu.buffer::<u32>(LEN)?;
    let mut got = vec![0_u32; LEN];
    let memory = numbers.get();
    let bump = || -> Result<Event> {
        // SAFETY: a buffer of one uint per work-item.
        Ok(unsafe {
            ExecuteKernel::new(&kernel).set_arg(&memory).set_global_work_size(LEN).enqueue_nd_range(&queue)
        }?)
    };
    // SAFETY: the fill is as long as the buffer; the read blocks, and is as long as `got`.
    unsafe { queue.enqueue_fill_buffer(&mut numbers, &[5_u32], 0, 4 * LEN, &[])? };
    let before = bump()?;
    let native = call_add(&queue, &numbers, None, 100, &[])?;
    let after = bump()?;
    ensure!(native.command_type()?.0 == CL_COMMAND_NATIVE_KERNEL, "another command type");
    // SAFETY: as above.
    unsafe { queue.enqueue_read_buffer(&numbers, CL_TRUE, 0, &mut got, &[])? };
    ensure!(got == [107; LEN], "a native kernel is out of order: {}", got[0]);
    ensure!(native.command_execution_status()?.0 == 0, "its event is not complete");
    let times = [
        before.profiling_command_end()?,
        native.profiling_command_start()?,
        native.profiling_command_end()?,
        after.profiling_command_start()?,
    ];
    ensure!(times.is_sorted(), "times are out of order: {times:?}");
    ensure!(native.profiling_command_queued()? <= times[1], "it began before it was queued");
    Ok(())
}

pub(super) fn waits_and_fails_with_what_it_waits_for(bench: &Bench) -> Result<()> {
    if there_are_none(bench)? {
        return Ok(());
    }
    let context = bench.gpu.context.get();
    for properties in [0, CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE] {
        if bench.gpu.device.queue_on_host_properties()? & properties != properties {
            continue;
        }
        let queue = CommandQueue::create_default_with_properties(&bench.gpu.context, properties, 0)?;
        for (status, calls) in [(0, 1), (-5, 0)] {
            let gate = Event::new(create_user_event(context).map_err(anyhow::Error::msg)?);
            let counted = CALLS.load(Ordering::SeqCst);
            let native = call(&queue, &mut [gate.get()]).map_err(anyhow::Error::msg)?;
            queue.flush()?;
            std::thread::sleep(std::time::Duration::from_millis(20));
            ensure!(CALLS.load(Ordering::SeqCst) == counted, "it ran before its event");
            ensure!(native.command_execution_status()?.0 > 0, "it is complete before its event");
            set_user_event_status(gate.get(), status).map_err(anyhow::Error::msg)?;
            let waited = native.wait();
            ensure!(CALLS.load(Ordering::SeqCst) == counted + calls, "it was called another number of times");
            if status == 0 {
                waited.context("waiting for it")?;
            } else {
                let error = waited.err().map(|error| error.0);
                let expected = Some(CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST);
                ensure!(error == expected, "its event failed, and waiting for it says {error:?}");
                ensure!(native.command_execution_status()?.0 < 0, "it has not failed");
            }
        }
    }
    Ok(())
}

pub(super) fn shares_memory(bench: &Bench) -> Result<()> {
    if there_are_none(bench)? {
        return Ok(());
    }
    let queue = &bench.gpu.queue;
    let whole = bench.gpu.upload(&vec![1_u32; LEN])?;
    // The counter is the first number of the same buffer, seen through a sub-buffer.
    // SAFETY: an origin of 0 is aligned, and the sub-buffer within its parent.
    let part = unsafe { whole.create_sub_buffer(CL_MEM_READ_WRITE, 0, 1)? };
    for _ in 0..50 {
        call_add(queue, &whole, Some(&part), 10, &[])?;
    }
    let got = bench.gpu.download(&whole, LEN)?;
    ensure!(
        got[0] == 1 + 50 * 11 && got[1..].iter().all(|number| *number == 501),
        "memory is not shared: {}",
        got[0]
    );
    // The whole twice.
    let got_before = got;
    call_add(queue, &whole, Some(&whole), 10, &[])?;
    let got = bench.gpu.download(&whole, LEN)?;
    ensure!(got[0] == got_before[0] + 11 && got[1] == got_before[1] + 10, "one buffer is two");
    Ok(())
}

pub(super) fn sees_what_was_read_before(bench: &Bench) -> Result<()> {
    static SEEN: AtomicU32 = AtomicU32::new(0);

    /// Takes the address of a number.
    unsafe extern "C" fn look(args: *mut c_void) {
        // SAFETY: the number below, which lives until the queue is finished.
        SEEN.store(unsafe { **args.cast::<*const u32>() }, Ordering::SeqCst);
    }

    if there_are_none(bench)? {
        return Ok(());
    }
    let queue = &bench.gpu.queue;
    let numbers = bench.gpu.upload(&vec![77_u32; 50_000])?;
    let mut got = vec![0_u32; 50_000];
    let address: *const u32 = &raw const got[49_999];
    // SAFETY: `got` lives until the queue is finished, and is as long as what is read; the function takes an address.
    unsafe {
        queue.enqueue_read_buffer(&numbers, CL_FALSE, 0, &mut got, &[])?;
        let native = enqueue_native_kernel(
            queue.get(),
            Some(look),
            (&raw const address).cast_mut().cast(),
            size_of::<*const u32>(),
            0,
            ptr::null(),
            ptr::null(),
            0,
            ptr::null(),
        );
        Event::new(native.map_err(anyhow::Error::msg)?).wait()?;
        queue.finish()?;
    }
    ensure!(SEEN.load(Ordering::SeqCst) == 77, "the function saw {}", SEEN.load(Ordering::SeqCst));
    Ok(())
}

pub(super) fn many_from_many_threads(bench: &Bench) -> Result<()> {
    if there_are_none(bench)? {
        return Ok(());
    }
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..6)
            .map(|index| {
                scope.spawn(move || -> Result<()> {
                    let out_of_order = index % 2 == 1;
                    let properties = if out_of_order { CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE } else { 0 };
                    let queue =
                        CommandQueue::create_default_with_properties(&bench.gpu.context, properties, 0)?;
                    let numbers = bench.gpu.upload(&vec![0_u32; LEN])?;
                    let mut last: Option<Event> = None;
                    for amount in 1..=40 {
                        let wait: Vec<_> =
                            last.iter().filter(|_| out_of_order).map(|event| event.get()).collect();
                        last = Some(call_add(&queue, &numbers, None, amount, &wait)?);
                    }
                    queue.finish()?;
                    let got = bench.gpu.download(&numbers, LEN)?;
                    if got != [820; LEN] {
                        bail!("queue {index} has {}", got[0]);
                    }
                    Ok(())
                })
            })
            .collect();
        threads.into_iter().try_for_each(|thread| {
            thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a thread panicked")))
        })
    })
}

pub(super) fn mistakes(bench: &Bench) -> Result<()> {
    if there_are_none(bench)? {
        return Ok(());
    }
    let queue = bench.gpu.queue.get();
    let numbers = bench.gpu.upload(&[0_u32; 4])?;
    let mut args = [numbers.get(); 2];
    let (memory, inside) = ([numbers.get()], [args.as_ptr().cast::<c_void>()]);
    let outside: [*const c_void; 1] = [args.as_ptr().wrapping_add(2).cast()];
    let args = args.as_mut_ptr().cast::<c_void>();
    let (none, nowhere) = (ptr::null_mut::<c_void>(), ptr::null());
    for (what, function, args, size, count, memory, places) in [
        ("no function", None, args, 16, 1, memory.as_ptr(), inside.as_ptr()),
        ("no arguments, but a size", Some(count as _), none, 16, 0, nowhere, ptr::null()),
        ("no arguments, but memory", Some(count as _), none, 0, 1, memory.as_ptr(), inside.as_ptr()),
        ("arguments without a size", Some(count as _), args, 0, 0, nowhere, ptr::null()),
        ("memory without a list", Some(count as _), args, 16, 1, nowhere, inside.as_ptr()),
        ("memory without places", Some(count as _), args, 16, 1, memory.as_ptr(), ptr::null()),
        ("a list without memory", Some(count as _), args, 16, 0, memory.as_ptr(), inside.as_ptr()),
        ("a place outside", Some(count as _), args, 16, 1, memory.as_ptr(), outside.as_ptr()),
    ] {
        let function: Option<unsafe extern "C" fn(*mut c_void)> = function;
        // SAFETY: what is not NULL is as long as it says.
        let status = unsafe {
            enqueue_native_kernel(queue, function, args, size, count, memory, places, 0, ptr::null())
        };
        ensure!(status.err() == Some(CL_INVALID_VALUE), "{what}: {status:?}");
    }
    Ok(())
}
