//! Events: what they say of commands, and whom they tell.

use std::ffi::c_void;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use cl3::event::{release_event, retain_event};
use opencl3::command_queue::{CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE, CommandQueue};
use opencl3::context::Context;
use opencl3::error_codes::{
    CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST, CL_INVALID_CONTEXT, CL_INVALID_EVENT_WAIT_LIST,
    CL_INVALID_OPERATION, CL_INVALID_VALUE,
};
use opencl3::event::{
    CL_COMPLETE, CL_RUNNING, CL_SUBMITTED, Event, create_user_event, set_event_callback,
    set_user_event_status, wait_for_events,
};
use opencl3::kernel::{ExecuteKernel, Kernel};
use opencl3::types::{CL_TRUE, cl_event};

use super::{Bench, SOURCE};

/// How long anything may take: test machines are slow and shared.
const PATIENCE: Duration = Duration::from_secs(60);

/// What callbacks were told, in order.
#[derive(Default)]
struct Told {
    statuses: Mutex<Vec<i32>>,
    changed: Condvar,
}

impl Told {
    fn wait_for(&self, count: usize) -> Result<Vec<i32>> {
        let statuses = self.statuses.lock().unwrap_or_else(|error| error.into_inner());
        let (statuses, timeout) = self
            .changed
            .wait_timeout_while(statuses, PATIENCE, |statuses| statuses.len() < count)
            .unwrap_or_else(|error| error.into_inner());
        ensure!(!timeout.timed_out(), "{count} callbacks, of which {statuses:?} were called");
        Ok(statuses.clone())
    }
}

extern "C" fn tell(_event: cl_event, status: i32, told: *mut c_void) {
    // SAFETY: `watch` gave one reference to this call.
    let told = unsafe { Arc::from_raw(told.cast::<Told>()) };
    told.statuses.lock().unwrap_or_else(|error| error.into_inner()).push(status);
    told.changed.notify_all();
}

fn watch(event: &Event, trigger: i32, told: &Arc<Told>) -> Result<()> {
    let data = Arc::into_raw(told.clone()).cast_mut().cast();
    set_event_callback(event.get(), trigger, tell, data).map_err(anyhow::Error::msg)
}

fn user_event(context: &Context) -> Result<Event> {
    Ok(Event::new(create_user_event(context.get()).map_err(anyhow::Error::msg)?))
}

fn end(event: &Event, status: i32) -> Result<()> {
    set_user_event_status(event.get(), status).map_err(anyhow::Error::msg)
}

pub(super) fn callbacks_in_order(bench: &Bench) -> Result<()> {
    let queue = CommandQueue::create_default_with_properties(&bench.gpu.context, 0, 0)?;
    let gate = user_event(&bench.gpu.context)?;
    // SAFETY: a live event.
    let marker = unsafe { queue.enqueue_marker_with_wait_list(&[gate.get()])? };
    queue.flush()?;
    let told = Arc::new(Told::default());
    for trigger in [CL_COMPLETE, CL_RUNNING, CL_SUBMITTED] {
        watch(&marker, trigger, &told)?;
    }
    ensure!(told.wait_for(1)? == [CL_SUBMITTED], "a submitted command says otherwise");
    end(&gate, 0)?;
    ensure!(told.wait_for(3)? == [CL_SUBMITTED, CL_RUNNING, CL_COMPLETE], "{:?}", told.wait_for(3)?);
    // On an event that is complete already.
    watch(&marker, CL_COMPLETE, &told)?;
    ensure!(told.wait_for(4)?[3] == CL_COMPLETE, "a complete command says otherwise");

    let told = Arc::new(Told::default());
    let gate = user_event(&bench.gpu.context)?;
    // SAFETY: a live event.
    let marker = unsafe { queue.enqueue_marker_with_wait_list(&[gate.get()])? };
    watch(&gate, CL_COMPLETE, &told)?;
    end(&gate, -77)?;
    ensure!(told.wait_for(1)? == [-77], "a failed user event says otherwise");
    watch(&marker, CL_COMPLETE, &told)?;
    ensure!(told.wait_for(2)?[1] < 0, "a command that failed with it says otherwise");
    Ok(())
}

/// A kernel that takes some time is seen running, by asking and by a callback.
pub(super) fn running(bench: &Bench) -> Result<()> {
    let source = "kernel void spin(global uint *x, uint rounds) {
        uint y = x[0];
        for (uint i = 0; i < rounds; ++i) y = y * 1664525u + 1013904223u;
        x[0] = y;
    }";
    let program = bench.gpu.program(source, "")?;
    let kernel = Kernel::create(&program, "spin")?;
    let numbers = bench.gpu.upload(&[1_u32])?;
    let queue = CommandQueue::create_default_with_properties(&bench.gpu.context, 0, 0)?;
    let mut rounds = 50_000_000_u32;
    loop {
        let told = Arc::new(Told::default());
        // SAFETY: a buffer of a uint, and a uint.
        let event = unsafe {
            ExecuteKernel::new(&kernel)
                .set_arg(&numbers)
                .set_arg(&rounds)
                .set_global_work_size(1)
                .enqueue_nd_range(&queue)?
        };
        queue.flush()?;
        watch(&event, CL_RUNNING, &told)?;
        let begin = Instant::now();
        let mut seen = false;
        while event.command_execution_status()?.0 > CL_COMPLETE {
            seen |= event.command_execution_status()?.0 == CL_RUNNING;
            std::thread::sleep(Duration::from_micros(100));
        }
        let told = told.wait_for(1)?;
        ensure!(told == [CL_RUNNING], "{told:?}");
        if seen {
            return Ok(());
        }
        ensure!(
            begin.elapsed() < Duration::from_secs(20),
            "a kernel of {rounds} rounds was never seen running"
        );
        rounds = rounds.saturating_mul(4);
    }
}

pub(super) fn failures_spread(bench: &Bench) -> Result<()> {
    let context = &bench.gpu.context;
    let program = bench.gpu.program(SOURCE, "")?;
    let kernel = Kernel::create(&program, "bump")?;
    let numbers = bench.gpu.upload(&[5_u32; 64])?;
    let first = CommandQueue::create_default_with_properties(context, 0, 0)?;
    let second = CommandQueue::create_default_with_properties(context, 0, 0)?;
    let gate = user_event(context)?;
    let launch = |queue: &CommandQueue, wait: &Event| -> Result<Event> {
        // SAFETY: a buffer of one uint per work-item.
        Ok(unsafe {
            ExecuteKernel::new(&kernel)
                .set_arg(&numbers)
                .set_global_work_size(64)
                .set_wait_event(wait)
                .enqueue_nd_range(queue)?
        })
    };
    let a = launch(&first, &gate)?;
    // Across queues.
    let b = launch(&second, &a)?;
    first.flush()?;
    second.flush()?;
    end(&gate, -5)?;
    for (name, event) in [("the first", &a), ("the second", &b)] {
        let error = event.wait().err().map(|error| error.0);
        ensure!(error == Some(CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST), "{name} kernel: {error:?}");
        let status = event.command_execution_status()?.0;
        ensure!(status < 0, "{name} kernel has status {status}");
    }
    ensure!(gate.command_execution_status()?.0 == -5, "the user event has another status");
    ensure!(bench.gpu.download(&numbers, 64)? == [5; 64], "a kernel ran though what it waited for failed");
    let again = set_user_event_status(gate.get(), 0).err();
    ensure!(again == Some(CL_INVALID_OPERATION), "a user event ended twice: {again:?}");
    // A blocking command that waits for a failed event says so itself.
    let mut got = [0_u32; 64];
    // SAFETY: blocking, and as long as `got`.
    let read = unsafe { first.enqueue_read_buffer(&numbers, CL_TRUE, 0, &mut got, &[gate.get()]) };
    let error = read.err().map(|error| error.0);
    ensure!(error == Some(CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST), "a blocking read: {error:?}");
    // And the queues are as good as before.
    // SAFETY: as above.
    unsafe { first.enqueue_read_buffer(&numbers, CL_TRUE, 0, &mut got, &[])? };
    ensure!(got == [5; 64], "what was read differs");
    Ok(())
}

/// A user event that the application has released before it ends it through another reference.
pub(super) fn released_before_it_ends(bench: &Bench) -> Result<()> {
    let context = &bench.gpu.context;
    let properties = bench.gpu.device.queue_on_host_properties()? & CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE;
    for properties in [0, properties] {
        let queue = CommandQueue::create_default_with_properties(context, properties, 0)?;
        let gate = create_user_event(context.get()).map_err(anyhow::Error::msg)?;
        // SAFETY: live events; the reference that is retained is used, and released once more.
        unsafe {
            retain_event(gate).map_err(anyhow::Error::msg)?;
            let marker = queue.enqueue_marker_with_wait_list(&[gate])?;
            release_event(gate).map_err(anyhow::Error::msg)?;
            ensure!(marker.command_execution_status()?.0 > 0, "it is complete before its event");
            set_user_event_status(gate, 0).map_err(anyhow::Error::msg)?;
            release_event(gate).map_err(anyhow::Error::msg)?;
            marker.wait()?;
        }
        // An event that is released while its command waits.
        let gate = user_event(context)?;
        // SAFETY: a live event.
        drop(unsafe { queue.enqueue_marker_with_wait_list(&[gate.get()])? });
        queue.flush()?;
        end(&gate, 0)?;
        drop(gate);
        queue.finish()?;
    }
    Ok(())
}

pub(super) fn contexts_are_kept_apart(bench: &Bench) -> Result<()> {
    let other = Context::from_device(&bench.gpu.device)?;
    let (own, foreign) = (user_event(&bench.gpu.context)?, user_event(&other)?);
    end(&own, 0)?;
    end(&foreign, 0)?;
    let status = wait_for_events(&[own.get(), foreign.get()]).err();
    ensure!(status == Some(CL_INVALID_CONTEXT), "events of two contexts: {status:?}");
    // SAFETY: a live event.
    let marker = unsafe { bench.gpu.queue.enqueue_marker_with_wait_list(&[foreign.get()]) };
    let status = marker.err().map(|error| error.0);
    ensure!(status == Some(CL_INVALID_CONTEXT), "an event of another context: {status:?}");
    // SAFETY: NULL is no event.
    let marker = unsafe { bench.gpu.queue.enqueue_marker_with_wait_list(&[std::ptr::null_mut()]) };
    let status = marker.err().map(|error| error.0);
    ensure!(status == Some(CL_INVALID_EVENT_WAIT_LIST), "NULL in a wait list: {status:?}");
    let status = set_user_event_status(own.get(), 1).err();
    ensure!(status == Some(CL_INVALID_VALUE), "a positive status: {status:?}");
    Ok(())
}
