//! Commands into queues, and what happens when they are complete.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cl3::event::{
    CL_COMPLETE, CL_PROFILING_COMMAND_END, CL_PROFILING_COMMAND_QUEUED, CL_PROFILING_COMMAND_START,
    CL_PROFILING_COMMAND_SUBMIT,
};
use cl3::types::cl_event;

use super::handle::{Buffer, Event, Queue};
use super::image::{self, Image};
use super::kernel::Kernel;
use super::{checked, cl, coarse};
use crate::sys::compute::{ClError, Done, HostBytes, Order, Outcome, Work};
use crate::sys::image::ImageWork;
use crate::sys::map::Window;

/// Enqueues a command. `order.done` is called exactly once whatever happens, on this thread if the command
/// cannot be enqueued.
pub fn enqueue(
    queue: &Queue,
    work: Work<'_, Buffer, Image, Kernel>,
    order: Order<'_, Event>,
) -> Result<Option<Event>, ClError> {
    let Order { wait, event: wanted, profile, done } = order;
    let mut job = Job { queue, work, kept: None };
    // Host memory must stay until the command is done with it, even if nobody else wants to know.
    let watched = done.is_some() || job.touches_host();
    let mut raw: cl_event = ptr::null_mut();
    let out = if wanted || watched { &raw mut raw } else { ptr::null_mut() };
    let list: Vec<cl_event> = wait.iter().map(|event| event.raw()).collect();
    let enqueued = checked(job.call(&list, out))
        .and_then(|()| if out.is_null() { Ok(None) } else { Event::created(Ok(raw), 0).map(Some) });
    let kept = job.kept;
    let event = match enqueued {
        Ok(event) => event,
        Err(error) => {
            if let Some(done) = done {
                done(Outcome::failed(error));
            }
            return Err(error);
        }
    };
    if let Some(event) = &event
        && watched
    {
        watch(Watch { event: event.clone(), kept, profile, done });
    }
    Ok(event.filter(|_| wanted))
}

/// What is kept until a command is complete.
struct Watch {
    event: Event,
    kept: Option<Kept>,
    profile: bool,
    done: Option<Done>,
}

/// Host memory in use by a command; held, never read.
pub(super) enum Kept {
    Bytes { _bytes: HostBytes },
    Window { _window: Window },
}

impl Kept {
    pub(super) fn bytes(bytes: HostBytes) -> Kept {
        Kept::Bytes { _bytes: bytes }
    }

    pub(super) fn window(window: Window) -> Kept {
        Kept::Window { _window: window }
    }
}

impl Watch {
    /// Tells who waits; the event is still to be released.
    fn complete(self, status: i32) -> Event {
        let profile = if self.profile && status == CL_COMPLETE { times(&self.event) } else { None };
        // The memory first: whoever is told may look at whether it is still in use.
        drop(self.kept);
        if let Some(done) = self.done {
            done(Outcome { status: status.min(0), profile });
        }
        self.event
    }
}

/// Commands in flight that somebody waits for, by the number that their callback gets.
static WATCHED: Mutex<Watched> = Mutex::new(Watched {
    next: 0,
    by_number: BTreeMap::new(),
    finished: Vec::new(),
    failed: VecDeque::new(),
});

/// True from when a user event was failed until nothing is in flight.
static FAILING: AtomicBool = AtomicBool::new(false);

/// Threads that are failing a user event, and with it, before they return, what waits for it.
static FAILERS: AtomicUsize = AtomicUsize::new(0);

/// For so long PoCL may still use the event of a command that failed by itself, of which its callback has told.
const FAILED_FOR: Duration = Duration::from_secs(2);

struct Watched {
    next: usize,
    by_number: BTreeMap<usize, Watch>,
    /// Events of commands that are complete: callbacks release nothing.
    finished: Vec<Event>,
    /// Events of commands that have failed, and since when. PoCL 3.1 locks a failed event after it has given up its
    /// own reference, and after it has failed what depends on that, and aborts if there is no other reference then.
    failed: VecDeque<(Instant, Event)>,
}

fn watched() -> MutexGuard<'static, Watched> {
    WATCHED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn watch(watch: Watch) {
    let event = watch.event.clone();
    let mut all = watched();
    all.next += 1;
    let number = all.next;
    all.by_number.insert(number, watch);
    drop(all);
    let data = ptr::without_provenance_mut(number);
    // SAFETY: a live event; `on_complete` takes any number for its data.
    let registered =
        checked(unsafe { cl!(clSetEventCallback(event.raw(), CL_COMPLETE, Some(on_complete), data)) });
    if let Err(error) = registered {
        log::warn!("clSetEventCallback: {error}; waiting instead");
        let raw = event.raw();
        // SAFETY: one live event.
        let status = checked(unsafe { cl!(clWaitForEvents(1, &raw)) }).err().map_or(0, ClError::code);
        complete(number, status);
    }
}

unsafe extern "C" fn on_complete(_event: cl_event, status: i32, data: *mut c_void) {
    complete(data.addr(), status);
}

/// Completes a watched command, unless that has been done.
fn complete(number: usize, status: i32) {
    let Some(watch) = watched().by_number.remove(&number) else { return };
    let event = watch.complete(status);
    let mut all = watched();
    if status < 0 {
        all.failed.push_back((Instant::now(), event));
    } else {
        all.finished.push(event);
    }
}

/// Fails a user event by `fail`: [`tend`] looks for the commands that fail with it, and leaves them their events
/// for as long as that takes.
pub(super) fn failing<R>(fail: impl FnOnce() -> R) -> R {
    FAILING.store(true, Ordering::Release);
    FAILERS.fetch_add(1, Ordering::AcqRel);
    let failed = fail();
    FAILERS.fetch_sub(1, Ordering::AcqRel);
    failed
}

/// Events of failed commands that the driver has left alone for long enough.
fn failed_before(now: Instant) -> Vec<Event> {
    let failed = &mut watched().failed;
    if FAILERS.load(Ordering::Acquire) != 0 {
        return Vec::new();
    }
    let over = failed.partition_point(|(since, _)| now.duration_since(*since) >= FAILED_FOR);
    failed.drain(..over).map(|(_, event)| event).collect()
}

/// Releases the events of commands that are complete, and completes those that failed without their callback
/// being called, which PoCL leaves out (its issue 1430). True if this should be called again soon. Not for
/// callbacks.
pub fn tend() -> bool {
    let mut all = watched();
    let finished = std::mem::take(&mut all.finished);
    let failed = !all.failed.is_empty();
    drop(all);
    // Outside of the lock: releasing calls the driver.
    drop(finished);
    coarse::bury();
    if failed {
        drop(failed_before(Instant::now()));
    }
    if !FAILING.load(Ordering::Acquire) {
        return failed;
    }
    let in_flight: Vec<(usize, Event)> =
        watched().by_number.iter().map(|(number, watch)| (*number, watch.event.clone())).collect();
    for (number, event) in &in_flight {
        match event.status() {
            Ok(status) if status < 0 => complete(*number, status),
            Ok(_) => {}
            Err(error) => complete(*number, error.code()),
        }
    }
    if in_flight.is_empty() {
        FAILING.store(false, Ordering::Release);
    }
    failed || !in_flight.is_empty()
}

fn times(event: &Event) -> Option<[u64; 4]> {
    let mut times = [0; 4];
    let params = [
        CL_PROFILING_COMMAND_QUEUED,
        CL_PROFILING_COMMAND_SUBMIT,
        CL_PROFILING_COMMAND_START,
        CL_PROFILING_COMMAND_END,
    ];
    for (time, param) in times.iter_mut().zip(params) {
        // SAFETY: a live event; the answer is one cl_ulong.
        checked(unsafe {
            cl!(clGetEventProfilingInfo(
                event.raw(),
                param,
                size_of::<u64>(),
                ptr::from_mut(time).cast(),
                ptr::null_mut()
            ))
        })
        .ok()?;
    }
    Some(times)
}

struct Job<'a> {
    queue: &'a Queue,
    work: Work<'a, Buffer, Image, Kernel>,
    kept: Option<Kept>,
}

impl Job<'_> {
    fn touches_host(&self) -> bool {
        matches!(
            self.work,
            Work::Read { .. }
                | Work::Write { .. }
                | Work::ReadRect { .. }
                | Work::WriteRect { .. }
                | Work::Image(ImageWork::Read { .. } | ImageWork::Write { .. })
        )
    }

    /// The enqueue call. Host memory moves to `kept` before the driver learns of it.
    fn call(&mut self, wait: &[cl_event], out: *mut cl_event) -> Result<i32, ClError> {
        let queue = self.queue.raw();
        let count = u32::try_from(wait.len()).map_err(|_many| ClError::INVALID_VALUE)?;
        let list = if wait.is_empty() { ptr::null() } else { wait.as_ptr() };
        // All blocks below: live handles; `count` live events at `list`; `out` null or writable. Offsets and
        // sizes are the driver's to check against its buffers; lengths of host memory come from the windows.
        match std::mem::replace(&mut self.work, Work::Marker) {
            Work::Launch { kernel, range } => {
                let local = range.local.as_ref().map_or(ptr::null(), |sizes| sizes.as_ptr());
                let (offset, global) = (range.offset.as_ptr(), range.global.as_ptr());
                let dims = range.dims.clamp(1, 3);
                // SAFETY: as above; at most three dimensions, and three sizes each.
                unsafe {
                    cl!(clEnqueueNDRangeKernel(
                        queue,
                        kernel.raw(),
                        dims,
                        offset,
                        global,
                        local,
                        count,
                        list,
                        out
                    ))
                }
            }
            Work::Read { buffer, offset, to } => {
                let (at, len) = (to.as_ptr(), to.len());
                self.kept = Some(Kept::window(to));
                // SAFETY: as above; the window's bytes stay mapped until the callback drops it.
                unsafe { cl!(clEnqueueReadBuffer(queue, buffer.raw(), 0, offset, len, at, count, list, out)) }
            }
            Work::Write { buffer, offset, from } => {
                let (at, len) = (from.as_ptr(), from.len());
                self.kept = Some(Kept::bytes(from));
                // SAFETY: as above; the bytes stay until the callback drops them.
                unsafe {
                    cl!(clEnqueueWriteBuffer(queue, buffer.raw(), 0, offset, len, at, count, list, out))
                }
            }
            Work::Copy { from, to, offsets, size } => {
                // SAFETY: as above; no host memory.
                unsafe {
                    cl!(clEnqueueCopyBuffer(
                        queue,
                        from.raw(),
                        to.raw(),
                        offsets.0,
                        offsets.1,
                        size,
                        count,
                        list,
                        out
                    ))
                }
            }
            Work::Fill { buffer, pattern, offset, size } => {
                let (at, len) = (pattern.as_ptr().cast(), pattern.len());
                // SAFETY: as above; the driver copies the pattern before it returns.
                unsafe {
                    cl!(clEnqueueFillBuffer(queue, buffer.raw(), at, len, offset, size, count, list, out))
                }
            }
            Work::ReadRect { buffer, rect, extent, to } => {
                let packed = host_rect(extent, to.len())?;
                let at = to.as_ptr();
                self.kept = Some(Kept::window(to));
                // SAFETY: as above; the window has room for the packed extent, and stays mapped until the
                // callback drops it.
                unsafe {
                    cl!(clEnqueueReadBufferRect(
                        queue,
                        buffer.raw(),
                        0,
                        rect.origin.as_ptr(),
                        [0_usize; 3].as_ptr(),
                        extent.as_ptr(),
                        rect.row_pitch,
                        rect.slice_pitch,
                        packed.0,
                        packed.1,
                        at,
                        count,
                        list,
                        out
                    ))
                }
            }
            Work::WriteRect { buffer, rect, extent, from } => {
                let packed = host_rect(extent, from.len())?;
                let at = from.as_ptr();
                self.kept = Some(Kept::bytes(from));
                // SAFETY: as above; the bytes are the packed extent, and stay until the callback drops them.
                unsafe {
                    cl!(clEnqueueWriteBufferRect(
                        queue,
                        buffer.raw(),
                        0,
                        rect.origin.as_ptr(),
                        [0_usize; 3].as_ptr(),
                        extent.as_ptr(),
                        rect.row_pitch,
                        rect.slice_pitch,
                        packed.0,
                        packed.1,
                        at,
                        count,
                        list,
                        out
                    ))
                }
            }
            Work::CopyRect { from, to, rects, extent } => {
                let (source, target) = rects;
                // SAFETY: as above; no host memory.
                unsafe {
                    cl!(clEnqueueCopyBufferRect(
                        queue,
                        from.raw(),
                        to.raw(),
                        source.origin.as_ptr(),
                        target.origin.as_ptr(),
                        extent.as_ptr(),
                        source.row_pitch,
                        source.slice_pitch,
                        target.row_pitch,
                        target.slice_pitch,
                        count,
                        list,
                        out
                    ))
                }
            }
            Work::Image(work) => {
                // SAFETY: as above.
                unsafe { image::enqueue(self.queue, work, (count, list), out, &mut self.kept) }
            }
            Work::Marker => {
                // SAFETY: as above; no host memory.
                unsafe { cl!(clEnqueueMarkerWithWaitList(queue, count, list, out)) }
            }
            Work::Barrier => {
                // SAFETY: as above; no host memory.
                unsafe { cl!(clEnqueueBarrierWithWaitList(queue, count, list, out)) }
            }
        }
    }
}

/// Row and slice pitch of a packed rectangle, if that many bytes hold it.
fn host_rect(extent: [usize; 3], bytes: usize) -> Result<(usize, usize), ClError> {
    let slice = extent[0].checked_mul(extent[1]).ok_or(ClError::INVALID_VALUE)?;
    let whole = slice.checked_mul(extent[2]).ok_or(ClError::INVALID_VALUE)?;
    if whole > bytes { Err(ClError::INVALID_VALUE) } else { Ok((extent[0], slice)) }
}
