//! Who wants to know when commands start to run.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cl3::event::CL_RUNNING;
use cl3::types::cl_event;

use super::handle::Event;
use super::{checked, cl};
use crate::sys::compute::{StartWatch, Started};

/// By the number that each callback gets.
static WAITING: Mutex<Waiting> = Mutex::new(Waiting { next: 0, by_number: BTreeMap::new() });

struct Waiting {
    next: usize,
    by_number: BTreeMap<usize, Started>,
}

fn waiting() -> MutexGuard<'static, Waiting> {
    WAITING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Forgets who waits: not every driver calls for a command that fails before it starts.
struct Number(usize);

impl Drop for Number {
    fn drop(&mut self) {
        let forgotten = waiting().by_number.remove(&self.0);
        // Outside of the lock: it may be the last to hold something.
        drop(forgotten);
    }
}

/// Calls `started` when the event's command starts to run, or at once if the driver cannot tell.
pub fn watch_start(event: &Event, started: Started) -> StartWatch {
    let mut all = waiting();
    all.next += 1;
    let number = all.next;
    all.by_number.insert(number, started);
    drop(all);
    let data = ptr::without_provenance_mut(number);
    // SAFETY: a live event; `on_start` takes any number for its data.
    let registered =
        checked(unsafe { cl!(clSetEventCallback(event.raw(), CL_RUNNING, Some(on_start), data)) });
    if let Err(error) = registered {
        log::debug!("clSetEventCallback: {error}");
        start(number);
    }
    StartWatch(Box::new(Number(number)))
}

unsafe extern "C" fn on_start(_event: cl_event, _status: i32, data: *mut c_void) {
    start(data.addr());
}

fn start(number: usize) {
    let started = waiting().by_number.remove(&number);
    if let Some(started) = started {
        started();
    }
}
