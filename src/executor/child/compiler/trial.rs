//! The executor's side: has a compiler build what it is about to build itself.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::recipe::Recipe;
use super::wire::{ANSWER_BYTES, Answer, MAX_RECIPE_BYTES};
use crate::executor::child::executor::EventSink;
use crate::executor::limits::{BuildLimits, CompilerEnd};
use crate::executor::message::ToBroker;

/// How long a compiler may take until it is ready. It loads drivers, and executors do that at leisure, too.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// How often a wait looks whether anybody still wants to know.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// What all builds of an executor share: the way to the broker, who starts compilers.
pub(crate) struct Trials {
    limits: BuildLimits,
    sink: Arc<dyn EventSink>,
    next: AtomicU32,
    asked: Mutex<HashMap<u32, Asked>>,
    answered: Condvar,
}

/// What became of the question for a compiler.
enum Asked {
    Open,
    Started(UnixStream),
    Refused,
}

/// Why a build was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Nobody wants it any more.
    Unwanted,
    /// For this reason.
    Because(String),
}

impl Ended {
    /// What the guest is told.
    pub(crate) fn reason(self) -> Option<String> {
        match self {
            Ended::Unwanted => None,
            Ended::Because(reason) => Some(reason),
        }
    }
}

impl Trials {
    pub(crate) fn new(limits: BuildLimits, sink: Arc<dyn EventSink>) -> Trials {
        let (next, asked, answered) = (AtomicU32::new(0), Mutex::default(), Condvar::new());
        Trials { limits, sink, next, asked, answered }
    }

    fn asked(&self) -> MutexGuard<'_, HashMap<u32, Asked>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The broker's answer.
    pub(crate) fn answered(&self, compiler: u32, socket: Option<OwnedFd>) {
        // One that nobody waits for any more is closed here.
        if let Some(asked) = self.asked().get_mut(&compiler) {
            *asked = socket.map_or(Asked::Refused, |socket| Asked::Started(socket.into()));
        }
        self.answered.notify_all();
    }

    /// Asks for a compiler, and waits until it is ready.
    fn start(self: &Arc<Self>, is_unwanted: &dyn Fn() -> bool) -> Result<Compiler, Stop> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let deadline = Instant::now() + START_PATIENCE;
        self.asked().insert(number, Asked::Open);
        self.sink.send(ToBroker::WantCompiler { compiler: number });
        let mut asked = self.asked();
        let socket = loop {
            let stop = match asked.insert(number, Asked::Open) {
                Some(Asked::Started(socket)) => break socket,
                // The broker has said why, in the log.
                Some(Asked::Refused) => Some(Stop::End(CompilerEnd::Start)),
                _ if is_unwanted() => Some(Stop::Unwanted),
                _ if Instant::now() >= deadline => Some(Stop::End(CompilerEnd::Start)),
                _ => None,
            };
            if let Some(stop) = stop {
                asked.remove(&number);
                drop(asked);
                self.sink.send(ToBroker::CompilerEnded { compiler: number, end: stop.end() });
                return Err(stop);
            }
            let waited = self.answered.wait_timeout(asked, LOOK_INTERVAL);
            asked = waited.unwrap_or_else(PoisonError::into_inner).0;
        };
        asked.remove(&number);
        drop(asked);
        let mut compiler = Compiler { number, socket, end: CompilerEnd::Start, trials: Arc::clone(self) };
        match compiler.answer(deadline, is_unwanted) {
            Ok(Answer::Ready) => {
                compiler.end = CompilerEnd::Unneeded;
                Ok(compiler)
            }
            Err(Stop::Unwanted) => {
                compiler.end = CompilerEnd::Unneeded;
                Err(Stop::Unwanted)
            }
            _ => Err(Stop::End(CompilerEnd::Start)),
        }
    }
}

/// What one worker has for its builds, one after the other.
#[derive(Debug, Default)]
pub(crate) struct Bench {
    trials: Option<Arc<Trials>>,
    compiler: Option<Compiler>,
}

impl Bench {
    pub(crate) fn new(trials: Option<Arc<Trials>>) -> Bench {
        Bench { trials, compiler: None }
    }

    /// True if there is a compiler, which costs memory for as long as there is this.
    pub(crate) fn has_compiler(&self) -> bool {
        self.compiler.is_some()
    }

    /// Has a build done by a compiler. If that came to an end by itself, be it with an error, the driver may be trusted with
    /// it; otherwise this says why not. Returns at once when nobody wants the build any more.
    pub(crate) fn try_out<'r>(
        &mut self,
        recipe: impl FnOnce() -> Option<Recipe<'r>>,
        is_unwanted: &dyn Fn() -> bool,
    ) -> Result<(), Ended> {
        if is_unwanted() {
            return Err(Ended::Unwanted);
        }
        let Some(trials) = &self.trials else { return Ok(()) };
        let Some(recipe) = recipe() else { return Ok(()) };
        let because = |end| Ended::Because(trials.limits.reason(end).unwrap_or_default());
        let mut tried = match self.compiler.take() {
            Some(compiler) => compiler.build(&recipe, is_unwanted),
            None => Err(Stop::Gone),
        };
        // One that has nothing to do may be killed meanwhile: no fault of what it was to do next.
        if let Err(Stop::Gone) = tried {
            tried = trials.start(is_unwanted).and_then(|compiler| compiler.build(&recipe, is_unwanted));
        }
        match tried {
            Ok(compiler) => {
                self.compiler = compiler;
                Ok(())
            }
            Err(Stop::Unwanted) => Err(Ended::Unwanted),
            Err(Stop::Gone) => Err(because(CompilerEnd::Crash)),
            Err(Stop::End(end)) => Err(because(end)),
        }
    }
}

/// Why a wait for a compiler is over.
enum Stop {
    Unwanted,
    /// It ended before it had the recipe.
    Gone,
    End(CompilerEnd),
}

impl Stop {
    fn end(&self) -> CompilerEnd {
        match self {
            Stop::Unwanted | Stop::Gone => CompilerEnd::Unneeded,
            Stop::End(end) => *end,
        }
    }
}

/// A compiler that runs. The broker ends it when this is dropped.
struct Compiler {
    number: u32,
    socket: UnixStream,
    end: CompilerEnd,
    trials: Arc<Trials>,
}

impl Drop for Compiler {
    fn drop(&mut self) {
        self.trials.sink.send(ToBroker::CompilerEnded { compiler: self.number, end: self.end });
    }
}

impl Compiler {
    /// Builds. Returns the compiler if it can build more.
    fn build(
        mut self,
        recipe: &Recipe<'_>,
        is_unwanted: &dyn Fn() -> bool,
    ) -> Result<Option<Compiler>, Stop> {
        match self.try_build(recipe, is_unwanted) {
            Ok(Answer::Ended) => Ok(Some(self)),
            Ok(_) => Ok(None),
            Err(stop) => {
                self.end = stop.end();
                Err(stop)
            }
        }
    }

    fn try_build(&self, recipe: &Recipe<'_>, is_unwanted: &dyn Fn() -> bool) -> Result<Answer, Stop> {
        let crashed = Stop::End(CompilerEnd::Crash);
        let Some(bytes) = framed(recipe) else { return Err(crashed) };
        let seconds = Duration::from_secs(self.trials.limits.seconds.into());
        // What was built before in that time is built again.
        let earlier = u32::try_from(recipe.earlier_builds()).unwrap_or(u32::MAX);
        let deadline = Instant::now() + seconds.saturating_mul(earlier.saturating_add(1));
        let taken =
            self.send(&bytes, deadline, is_unwanted).and_then(|()| self.answer(deadline, is_unwanted));
        match taken {
            Ok(Answer::Taken) => drop(bytes),
            Err(Stop::End(CompilerEnd::Crash)) => return Err(Stop::Gone),
            Ok(_) => return Err(crashed),
            Err(stop) => return Err(stop),
        }
        let mut answer = self.answer(deadline, is_unwanted)?;
        if answer == Answer::Begun {
            answer = self.answer(Instant::now() + seconds, is_unwanted)?;
        }
        match answer {
            Answer::Ended | Answer::EndedLast => Ok(answer),
            Answer::Memory => Err(Stop::End(CompilerEnd::Memory)),
            Answer::Ready | Answer::Taken | Answer::Begun => Err(crashed),
        }
    }

    fn send(&self, mut bytes: &[u8], deadline: Instant, is_unwanted: &dyn Fn() -> bool) -> Result<(), Stop> {
        while !bytes.is_empty() {
            self.wait(PollFlags::OUT, deadline, is_unwanted)?;
            match send(&self.socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(count) => bytes = &bytes[count..],
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_gone) => return Err(Stop::End(CompilerEnd::Crash)),
            }
        }
        Ok(())
    }

    fn answer(&self, deadline: Instant, is_unwanted: &dyn Fn() -> bool) -> Result<Answer, Stop> {
        let mut bytes = [0; ANSWER_BYTES];
        let mut filled = 0;
        while filled < bytes.len() {
            self.wait(PollFlags::IN, deadline, is_unwanted)?;
            match recv(&self.socket, &mut bytes[filled..], RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Err(Stop::End(CompilerEnd::Crash)),
                Ok((count, _)) => filled += count,
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_gone) => return Err(Stop::End(CompilerEnd::Crash)),
            }
        }
        Answer::decode(bytes).ok_or(Stop::End(CompilerEnd::Crash))
    }

    fn wait(&self, events: PollFlags, deadline: Instant, is_unwanted: &dyn Fn() -> bool) -> Result<(), Stop> {
        loop {
            if is_unwanted() {
                return Err(Stop::Unwanted);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Stop::End(CompilerEnd::Time));
            }
            let timeout = Timespec::try_from(left.min(LOOK_INTERVAL)).ok();
            match poll(&mut [PollFd::new(&self.socket, events)], timeout.as_ref()) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(error) => {
                    log::warn!("a compiler's socket: {}", io::Error::from(error));
                    return Err(Stop::End(CompilerEnd::Crash));
                }
            }
        }
    }
}

/// A recipe behind its length. None if it is too long.
fn framed(recipe: &Recipe<'_>) -> Option<Vec<u8>> {
    const PREFIX: usize = size_of::<u32>();
    let mut bytes = postcard::to_extend(recipe, vec![0; PREFIX]).ok()?;
    let len = bytes.len() - PREFIX;
    bytes[..PREFIX].copy_from_slice(&u32::try_from(len).ok()?.to_le_bytes());
    (len <= MAX_RECIPE_BYTES).then_some(bytes)
}

impl fmt::Debug for Trials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trials").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl fmt::Debug for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compiler").field("number", &self.number).finish_non_exhaustive()
    }
}
