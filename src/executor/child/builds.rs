//! Program builds, beside the rings: a few at once, the others wait their turn.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::compiler::trial::{Bench, Trials};
use super::completion::Notifier;

/// Stack of a thread that builds: drivers compile in their caller's thread, and what a program's main thread can compile
/// must compile here. It is only taken when it is used.
pub(super) const STACK_BYTES: usize = 16 * 1024 * 1024;

/// A build to be done.
pub(crate) type Job = Box<dyn FnOnce(&Bench) + Send>;

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
    bench: Bench,
    state: Mutex<State>,
    submitted: Condvar,
}

#[derive(Default)]
struct State {
    running: usize,
    /// Those of them that wait for a job.
    idle: usize,
    /// Jobs, and whose they are.
    waiting: VecDeque<(Arc<Notifier>, Job)>,
}

impl Builds {
    /// At once, in the caller's thread.
    pub fn inline() -> Builds {
        Builds(Mode::Inline)
    }

    /// At most `limit` at once, each in its own thread.
    pub fn threads(limit: usize) -> Builds {
        Builds::pool(limit, None)
    }

    /// The same, each tried by a compiler first.
    pub(crate) fn tried(limit: usize, trials: Arc<Trials>) -> Builds {
        Builds::pool(limit, Some(trials))
    }

    fn pool(limit: usize, trials: Option<Arc<Trials>>) -> Builds {
        let (state, submitted) = (Mutex::default(), Condvar::new());
        Builds(Mode::Threads(Arc::new(Pool {
            limit: limit.max(1),
            bench: Bench::new(trials),
            state,
            submitted,
        })))
    }

    /// Not until the test says so.
    #[cfg(test)]
    pub(crate) fn held() -> (Builds, Arc<Mutex<Vec<Job>>>) {
        let jobs = Arc::default();
        (Builds(Mode::Held(Arc::clone(&jobs))), jobs)
    }

    /// Does a job of this context's, now or later.
    pub(crate) fn submit(&self, of: &Arc<Notifier>, job: Job) {
        match &self.0 {
            Mode::Inline => job(&Bench::default()),
            Mode::Threads(pool) => pool.submit(of, job),
            #[cfg(test)]
            Mode::Held(jobs) => jobs.lock().unwrap().push(job),
        }
    }

    /// Drops the jobs of this context that wait for their turn.
    pub(crate) fn forget(&self, of: &Arc<Notifier>) {
        if let Mode::Threads(pool) = &self.0 {
            let mut state = pool.lock();
            let jobs = std::mem::take(&mut state.waiting);
            let (theirs, others): (VecDeque<_>, VecDeque<_>) =
                jobs.into_iter().partition(|(job_of, _)| Arc::ptr_eq(job_of, of));
            state.waiting = others;
            drop(state);
            drop(theirs);
        }
    }
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn submit(self: &Arc<Self>, of: &Arc<Notifier>, job: Job) {
        let mut state = self.lock();
        state.waiting.push_back((of.clone(), job));
        if state.idle >= state.waiting.len() {
            drop(state);
            self.submitted.notify_one();
            return;
        }
        if state.running >= self.limit {
            return;
        }
        state.running += 1;
        drop(state);
        let pool = Arc::clone(self);
        let thread = thread::Builder::new().name("build".to_owned()).stack_size(STACK_BYTES);
        let spawned = thread.spawn(move || pool.work(pool.bench.linger()));
        if let Err(error) = spawned {
            log::warn!("no thread for a build ({error}); building in the ring's");
            self.work(Duration::ZERO);
        }
    }

    /// Works until nothing waits, and stays for as long as compilers are kept.
    fn work(&self, linger: Duration) {
        while let Some(job) = self.next(linger) {
            job(&self.bench);
        }
    }

    fn next(&self, linger: Duration) -> Option<Job> {
        let until = Instant::now() + linger;
        let mut state = self.lock();
        loop {
            if let Some((_, job)) = state.waiting.pop_front() {
                return Some(job);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || !self.bench.has_idle() {
                state.running -= 1;
                drop(state);
                // Who was here last ends the last of them.
                self.bench.end_idle(linger);
                return None;
            }
            state.idle += 1;
            let waited = self.submitted.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            state.idle -= 1;
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
            let job = move |_: &Bench| {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                thread::sleep(Duration::from_millis(5));
                running.fetch_sub(1, Ordering::SeqCst);
                tell.send(()).unwrap();
            };
            builds.submit(&Arc::default(), Box::new(job));
        }
        for _ in 0..6 {
            told.recv_timeout(Duration::from_secs(10)).unwrap();
        }
        assert!(most.load(Ordering::SeqCst) <= 2);
    }

    #[test]
    fn what_nobody_wants_any_more_is_dropped_and_the_others_are_done() {
        let builds = Builds::threads(1);
        let (context, other): (Arc<Notifier>, Arc<Notifier>) = Default::default();
        let (block, blocked) = channel::<()>();
        builds.submit(&Arc::default(), Box::new(move |_| blocked.recv().unwrap()));
        let (tell, told) = channel();
        for (of, number) in [(&context, 1), (&other, 2), (&context, 3)] {
            let tell = tell.clone();
            builds.submit(of, Box::new(move |_| tell.send(number).unwrap()));
        }
        drop(tell);
        builds.forget(&context);
        block.send(()).unwrap();
        assert_eq!(told.iter().collect::<Vec<_>>(), [2]);
    }
}
