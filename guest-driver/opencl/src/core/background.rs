//! What goes on after an entry point has returned.

use std::sync::{Arc, Mutex};

use crate::core::lock;

/// Runs `job` in a thread of its own, named for debuggers; in this one if there is none to be had.
pub(crate) fn run(name: &str, job: impl FnOnce() + Send + 'static) {
    // A thread that cannot be started takes its closure along.
    let job = Arc::new(Mutex::new(Some(job)));
    let in_thread = job.clone();
    let thread = std::thread::Builder::new().name(name.to_owned());
    if let Err(error) = thread.spawn(move || take(&in_thread)) {
        crate::debug::debug!("no thread {name}: {error}");
        take(&job);
    }
}

fn take(job: &Mutex<Option<impl FnOnce()>>) {
    // The lock is not held while the job runs.
    let job = lock(job).take();
    if let Some(job) = job {
        job();
    }
}
