//! The executor's side: has a compiler build what it is about to build itself.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::recipe::Recipe;
use super::wire::{ANSWER_BYTES, Answer, MAX_RECIPE_BYTES};
use crate::executor::child::executor::EventSink;
use crate::executor::known::Known;
use crate::executor::message::{CompilerEnd, ToBroker};
use crate::limits::BuildLimits;

/// How long a compiler may take until it is ready. It loads drivers, and executors do that at leisure, too.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// How often a wait looks whether anybody still wants to know.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// What all builds of an executor share: the way to the broker, who starts compilers.
pub(crate) struct Trials {
    limits: BuildLimits,
    sink: Arc<dyn EventSink>,
    next: AtomicU32,
    /// Recipes that a compiler has come to an end with: the driver's cache has what came of them, or at least it is known what
    /// they take.
    known: OnceLock<Known>,
    /// Compilers that have nothing to do, and since when. The last one was used last.
    idle: Mutex<Vec<(Instant, Compiler)>>,
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
        Trials {
            limits,
            sink,
            next: AtomicU32::new(0),
            known: OnceLock::new(),
            idle: Mutex::default(),
            asked: Mutex::default(),
            answered: Condvar::new(),
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<(Instant, Compiler)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What other executors of the vGPU have found out, and where this one says what it does.
    pub(crate) fn set_known(&self, known: Known) {
        if self.known.set(known).is_err() {
            log::warn!("what is known of builds was told twice");
        }
    }

    fn knows(&self, framed: &[u8]) -> bool {
        self.known.get().is_some_and(|known| known.contains(framed))
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
    fn start(&self, is_unwanted: &dyn Fn() -> bool) -> Result<Compiler, Stop> {
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
        let (limits, sink) = (self.limits, self.sink.clone());
        let mut compiler = Compiler { number, socket, end: CompilerEnd::Start, limits, sink };
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

/// What a build has at hand.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bench(Option<Arc<Trials>>);

impl Bench {
    pub(crate) fn new(trials: Option<Arc<Trials>>) -> Bench {
        Bench(trials)
    }

    /// How long a compiler is kept that has nothing to do.
    pub(crate) fn linger(&self) -> Duration {
        self.0
            .as_ref()
            .map_or(Duration::ZERO, |trials| Duration::from_secs(trials.limits.idle_seconds.into()))
    }

    /// True if there are compilers that have nothing to do.
    pub(crate) fn has_idle(&self) -> bool {
        self.0.as_ref().is_some_and(|trials| !trials.idle().is_empty())
    }

    /// Ends the compilers that have had nothing to do for so long.
    pub(crate) fn end_idle(&self, patience: Duration) {
        if let Some(trials) = &self.0 {
            let now = Instant::now();
            trials.idle().retain(|(since, _)| now.saturating_duration_since(*since) < patience);
        }
    }

    /// Has a build done by a compiler. If that came to an end by itself, be it with an error, the driver may be trusted with
    /// it; otherwise this says why not. Returns at once when nobody wants the build any more.
    pub(crate) fn try_out<'r>(
        &self,
        recipe: impl FnOnce() -> Option<Recipe<'r>>,
        is_unwanted: &dyn Fn() -> bool,
    ) -> Result<(), Ended> {
        if is_unwanted() {
            return Err(Ended::Unwanted);
        }
        let Some(trials) = &self.0 else { return Ok(()) };
        let Some(recipe) = recipe() else { return Ok(()) };
        let because = |end: CompilerEnd| Ended::Because(end.reason(&trials.limits).unwrap_or_default());
        let Some(framed) = framed(&recipe) else { return Err(because(CompilerEnd::Memory)) };
        if trials.knows(&framed) {
            return Ok(());
        }
        let order = Order { framed, earlier: recipe.earlier_builds(), is_unwanted };
        drop(recipe);
        let mut tried = Err(Stop::Gone);
        // Those that have nothing to do may be killed meanwhile: no fault of what they were to do next.
        while let Err(Stop::Gone) = tried
            && let Some((_, compiler)) = { trials.idle().pop() }
        {
            tried = compiler.build(&order);
        }
        if let Err(Stop::Gone) = tried {
            tried = trials.start(is_unwanted).and_then(|compiler| compiler.build(&order));
        }
        if let (Ok(_), Some(known)) = (&tried, trials.known.get()) {
            known.insert(&order.framed);
        }
        match tried {
            Ok(compiler) => {
                // At once: the executor's own build needs none.
                trials.idle().extend(compiler.map(|compiler| (Instant::now(), compiler)));
                Ok(())
            }
            Err(Stop::Unwanted) => Err(Ended::Unwanted),
            Err(Stop::Gone) => Err(because(CompilerEnd::Crash)),
            Err(Stop::End(end)) => Err(because(end)),
        }
    }
}

/// A build for a compiler.
struct Order<'a> {
    /// The recipe, behind its length.
    framed: Vec<u8>,
    /// How many builds come before it.
    earlier: usize,
    is_unwanted: &'a dyn Fn() -> bool,
}

/// Why a wait for a compiler is over.
#[derive(Debug)]
enum Stop {
    Unwanted,
    /// It hung up.
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
    limits: BuildLimits,
    sink: Arc<dyn EventSink>,
}

impl Drop for Compiler {
    fn drop(&mut self) {
        self.sink.send(ToBroker::CompilerEnded { compiler: self.number, end: self.end });
    }
}

impl Compiler {
    /// Builds. Returns the compiler if it can build more.
    fn build(mut self, order: &Order<'_>) -> Result<Option<Compiler>, Stop> {
        match self.try_build(order) {
            Ok(Answer::Ended) => Ok(Some(self)),
            Ok(_) => Ok(None),
            Err(stop) => {
                self.end = stop.end();
                Err(stop)
            }
        }
    }

    fn try_build(&self, order: &Order<'_>) -> Result<Answer, Stop> {
        let crashed = Stop::End(CompilerEnd::Crash);
        let Order { framed, earlier, is_unwanted } = order;
        let seconds = Duration::from_secs(self.limits.seconds.into());
        // What was built before in that time is built again.
        let earlier = u32::try_from(*earlier).unwrap_or(u32::MAX);
        let deadline = Instant::now() + seconds.saturating_mul(earlier.saturating_add(1));
        let sent = self.send(framed, deadline, *is_unwanted);
        match sent.and_then(|()| self.answer(deadline, *is_unwanted)) {
            Ok(Answer::Taken) => {}
            Ok(_) => return Err(crashed),
            Err(stop) => return Err(stop),
        }
        let next = |deadline| match self.answer(deadline, *is_unwanted) {
            Err(Stop::Gone) => Err(Stop::End(CompilerEnd::Crash)),
            answer => answer,
        };
        let mut answer = next(deadline)?;
        if answer == Answer::Begun {
            answer = next(Instant::now() + seconds)?;
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
                Err(_gone) => return Err(Stop::Gone),
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
                Ok((0, _)) => return Err(Stop::Gone),
                Ok((count, _)) => filled += count,
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_gone) => return Err(Stop::Gone),
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

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::thread;

    use super::*;
    use crate::executor::known::KnownTable;

    type Manners = fn(UnixStream);

    /// A broker whose compilers behave so, one after the other, and who notes how they ended.
    struct Broker {
        trials: OnceLock<Arc<Trials>>,
        compilers: Mutex<Vec<Manners>>,
        ended: Mutex<Vec<CompilerEnd>>,
    }

    struct Sink(Arc<Broker>);

    impl EventSink for Sink {
        fn send(&self, message: ToBroker) {
            match message {
                ToBroker::WantCompiler { compiler } => {
                    let manners = self.0.compilers.lock().unwrap().pop();
                    let socket = manners.map(|manners| {
                        let (ours, theirs) = UnixStream::pair().unwrap();
                        thread::spawn(move || manners(theirs));
                        ours.into()
                    });
                    self.0.trials.get().unwrap().answered(compiler, socket);
                }
                ToBroker::CompilerEnded { end, .. } => self.0.ended.lock().unwrap().push(end),
                _ => panic!("{message:?}"),
            }
        }
    }

    fn broker(compilers: &[Manners]) -> (Arc<Broker>, Bench) {
        let compilers = Mutex::new(compilers.iter().rev().copied().collect());
        let broker = Arc::new(Broker { trials: OnceLock::new(), compilers, ended: Mutex::default() });
        let limits = BuildLimits { seconds: 1, ..BuildLimits::default() };
        let trials = Arc::new(Trials::new(limits, Arc::new(Sink(broker.clone()))));
        broker.trials.set(trials.clone()).unwrap();
        (broker, Bench::new(Some(trials)))
    }

    fn share(bench: &Bench, table: &KnownTable) {
        let table = table.as_fd().try_clone_to_owned().unwrap();
        bench.0.as_ref().unwrap().set_known(Known::open(table, b"").unwrap());
    }

    fn take(socket: &mut UnixStream) -> bool {
        let mut len = [0; 4];
        let is_there = socket.read_exact(&mut len).is_ok();
        let mut recipe = vec![0; u32::from_le_bytes(len) as usize];
        is_there && socket.read_exact(&mut recipe).is_ok()
    }

    /// Says this, and the rest behind each recipe. Not even that it is gone is said then.
    fn says(mut socket: UnixStream, ready: &[u8], built: &[u8]) {
        let _gone = socket.write_all(ready);
        while take(&mut socket) {
            let _gone = socket.write_all(built);
        }
    }

    fn answers(answers: &[Answer]) -> Vec<u8> {
        answers.iter().flat_map(|answer| answer.encode()).collect()
    }

    fn honest(socket: UnixStream) {
        let built = answers(&[Answer::Taken, Answer::Begun, Answer::Ended]);
        says(socket, &Answer::Ready.encode(), &built);
    }

    fn leaves(mut socket: UnixStream) {
        let _gone = socket.write_all(&Answer::Ready.encode());
        take(&mut socket);
        let _gone = socket.write_all(&answers(&[Answer::Taken, Answer::EndedLast]));
    }

    /// Ends when it has built one, without a word.
    fn dies_idle(mut socket: UnixStream) {
        let _gone = socket.write_all(&Answer::Ready.encode());
        take(&mut socket);
        let _gone = socket.write_all(&answers(&[Answer::Taken, Answer::Begun, Answer::Ended]));
    }

    fn silent(socket: UnixStream) {
        says(socket, &Answer::Ready.encode(), &Answer::Taken.encode());
    }

    fn nonsense(socket: UnixStream) {
        says(socket, &Answer::Ready.encode(), &[0xff; 64]);
    }

    fn half(socket: UnixStream) {
        says(socket, &Answer::Ready.encode()[..5], &[]);
    }

    fn greedy(socket: UnixStream) {
        says(socket, &Answer::Ready.encode(), &answers(&[Answer::Taken, Answer::Begun, Answer::Memory]));
    }

    fn ready_again(socket: UnixStream) {
        says(socket, &answers(&[Answer::Ready, Answer::Ready]), &[]);
    }

    fn build(bench: &Bench, number: usize) -> Result<(), Ended> {
        bench.try_out(|| Some(Recipe::of_number(number)), &|| false)
    }

    #[test]
    fn what_a_compiler_says_wrong_ends_its_build_and_the_next_gets_another() {
        let wrong: [(Manners, CompilerEnd); 5] = [
            (silent, CompilerEnd::Time),
            (nonsense, CompilerEnd::Crash),
            (ready_again, CompilerEnd::Crash),
            (greedy, CompilerEnd::Memory),
            (drop, CompilerEnd::Start),
        ];
        for (manners, end) in wrong {
            let (broker, bench) = broker(&[manners, honest]);
            let limits = bench.0.as_ref().unwrap().limits;
            assert_eq!(build(&bench, 1), Err(Ended::Because(end.reason(&limits).unwrap())), "{end:?}");
            assert!(!bench.has_idle());
            assert_eq!(*broker.ended.lock().unwrap(), [end]);
            assert_eq!(build(&bench, 1), Ok(()));
            bench.end_idle(Duration::from_secs(1000));
            assert!(bench.has_idle());
            bench.end_idle(Duration::ZERO);
            assert_eq!(*broker.ended.lock().unwrap(), [end, CompilerEnd::Unneeded]);
        }
    }

    #[test]
    fn one_compiler_serves_many_builds_and_what_is_known_needs_none() {
        let (broker, bench) = broker(&[honest]);
        share(&bench, &KnownTable::new().unwrap());
        assert!((0..5).all(|number| build(&bench, number).is_ok()));
        bench.end_idle(Duration::ZERO);
        assert_eq!(build(&bench, 3), Ok(()), "there is no other compiler to ask");
        assert!(matches!(build(&bench, 5), Err(Ended::Because(_))));
        assert_eq!(broker.ended.lock().unwrap()[0], CompilerEnd::Unneeded);
    }

    #[test]
    fn what_one_executor_has_tried_the_next_does_not_but_what_came_to_no_end_it_does() {
        let table = KnownTable::new().unwrap();
        // The last one is another vGPU's, and so has another table.
        let (_, first) = broker(&[honest, greedy, silent]);
        let (_, second) = broker(&[greedy]);
        let (_, stranger) = broker(&[]);
        share(&first, &table);
        share(&second, &table);
        share(&stranger, &KnownTable::new().unwrap());
        assert!(build(&first, 1).is_ok());
        first.end_idle(Duration::ZERO);
        assert!(build(&first, 2).is_err() && build(&first, 3).is_err());
        assert_eq!(build(&second, 1), Ok(()));
        for number in [2, 3] {
            assert!(build(&second, number).is_err(), "{number}");
        }
        assert!(build(&stranger, 1).is_err());
    }

    #[test]
    fn a_compiler_that_has_ended_between_two_builds_is_replaced() {
        let (broker, bench) = broker(&[dies_idle, leaves, honest]);
        assert!((0..3).all(|number| build(&bench, number).is_ok()));
        assert_eq!(*broker.ended.lock().unwrap(), [CompilerEnd::Unneeded; 2]);
    }

    #[test]
    fn what_nobody_wants_any_more_is_not_waited_for() {
        for manners in [silent as Manners, half] {
            let (broker, bench) = broker(&[manners]);
            let begun = Instant::now();
            let is_unwanted = || begun.elapsed() > Duration::from_millis(50);
            let tried = bench.try_out(|| Some(Recipe::of_number(1)), &is_unwanted);
            assert_eq!(tried, Err(Ended::Unwanted));
            assert_eq!(*broker.ended.lock().unwrap(), [CompilerEnd::Unneeded]);
        }
        let (_, bench) = broker(&[]);
        assert_eq!(bench.try_out(|| panic!("looked at"), &|| true), Err(Ended::Unwanted));
    }
}
