//! Program builds, beside the rings: a few at once, the others wait their turn.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

/// Stack of a thread that builds: drivers compile in their caller's thread, and what a program's main thread can compile
/// must compile here. It is only taken when it is used.
const STACK_BYTES: usize = 16 * 1024 * 1024;

/// A build to be done.
pub(crate) type Job = Box<dyn FnOnce() + Send>;

/// Where builds are done.
#[derive(Clone)]
pub struct Builds(Mode);

#[derive(Clone)]
enum Mode {
    Inline,
    Threads(Arc<Pool>),
    #[cfg(test)]
    Held(Arc<Mutex<Vec<Job>>>),
}

struct Pool {
    limit: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    running: usize,
    waiting: VecDeque<Job>,
}

impl Builds {
    /// At once, in the caller's thread.
    pub fn inline() -> Builds {
        Builds(Mode::Inline)
    }

    /// At most `limit` at once, each in its own thread.
    pub fn threads(limit: usize) -> Builds {
        Builds(Mode::Threads(Arc::new(Pool { limit, state: Mutex::default() })))
    }

    /// Not until the test says so.
    #[cfg(test)]
    pub(crate) fn held() -> (Builds, Arc<Mutex<Vec<Job>>>) {
        let jobs = Arc::default();
        (Builds(Mode::Held(Arc::clone(&jobs))), jobs)
    }

    pub(crate) fn submit(&self, job: Job) {
        match &self.0 {
            Mode::Inline => job(),
            Mode::Threads(pool) => pool.submit(job),
            #[cfg(test)]
            Mode::Held(jobs) => jobs.lock().unwrap().push(job),
        }
    }
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn submit(self: &Arc<Self>, job: Job) {
        let mut state = self.lock();
        state.waiting.push_back(job);
        if state.running >= self.limit {
            return;
        }
        state.running += 1;
        drop(state);
        let pool = Arc::clone(self);
        let thread = thread::Builder::new().name("build".to_owned()).stack_size(STACK_BYTES);
        let spawned = thread.spawn(move || pool.work());
        if let Err(error) = spawned {
            log::warn!("no thread for a build ({error}); building in the ring's");
            self.work();
        }
    }

    /// Works until nothing waits.
    fn work(&self) {
        loop {
            let mut state = self.lock();
            let Some(job) = state.waiting.pop_front() else {
                state.running -= 1;
                return;
            };
            drop(state);
            job();
        }
    }
}

impl fmt::Debug for Builds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Mode::Inline => "Builds(inline)",
            Mode::Threads(_) => "Builds(threads)",
            #[cfg(test)]
            Mode::Held(_) => "Builds(held)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::channel;
    use std::time::Duration;

    #[test]
    fn no_more_than_the_limit_run_at_once_and_all_are_done() {
        let builds = Builds::threads(2);
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (tell, told) = channel();
        for _ in 0..6 {
            let (running, most, tell) = (running.clone(), most.clone(), tell.clone());
            builds.submit(Box::new(move || {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                thread::sleep(Duration::from_millis(5));
                running.fetch_sub(1, Ordering::SeqCst);
                tell.send(()).unwrap();
            }));
        }
        for _ in 0..6 {
            told.recv_timeout(Duration::from_secs(10)).unwrap();
        }
        assert!(most.load(Ordering::SeqCst) <= 2);
    }
}
