//! What kernels print. The host's OpenCL drivers write it to their process's standard output: PoCL while a kernel runs,
//! others through the C library when the program synchronises. So standard output is a pipe to ourselves, and what comes
//! out of it belongs to the context whose [turn](turns) it is to print. The guest's driver fetches it (`ReadPrint`).

#[cfg(test)]
mod tests;
mod turns;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use paragpu_protocol::limits::MAX_PRINT_BYTES;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

use super::objects::Gates;
use super::record::Serial;
use crate::sys::map::Window;
use crate::sys::stdio;

use turns::{Client, Turn, Turns};

/// Room in the pipe, if the system allows it: kernels that print wait while it is full.
const PIPE_BYTES: usize = 1 << 20;

/// Most places that are kept of one context.
const MAX_PLACES: usize = 64;

/// Makes a driver print what is complete, in case that it does so only when the program synchronises.
pub(crate) type Settle = Arc<dyn Fn() + Send + Sync>;

/// True if a program with this text, or these options, may print. A macro can hide the name only by putting it together
/// from pieces; what such a program prints is lost.
pub(crate) fn may_print(text: &[u8]) -> bool {
    const NAME: &[u8] = b"printf";
    text.windows(NAME.len()).any(|word| word == NAME)
}

/// The printer of an executor.
#[derive(Clone, Default)]
pub struct Printer(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// None where nobody listens: then kernels print to wherever the process does.
    pipe: Option<OwnedFd>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    turns: Turns,
    clients: Client,
    texts: HashMap<Client, Text>,
    /// Where the owner has launched printing kernels: its queues.
    places: HashMap<Serial, Settle>,
    chunk: Vec<u8>,
    /// Something was printed when it was nobody's turn, and that was said.
    stray: bool,
}

/// What a context's kernels have printed, and the guest has not fetched.
#[derive(Default)]
struct Text {
    bytes: VecDeque<u8>,
    /// Some was lost, and that was said.
    lost: bool,
}

impl Printer {
    /// Makes this process's standard output a pipe, and listens to it.
    pub fn of_stdout() -> io::Result<Printer> {
        let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
        let printer = Printer::listening(ours)?;
        rustix::stdio::dup2_stdout(&theirs)?;
        Ok(printer)
    }

    /// Listens to a pipe. The thread that does so ends with the pipe's other end.
    pub fn listening(pipe: OwnedFd) -> io::Result<Printer> {
        fcntl_setfl(&pipe, OFlags::NONBLOCK)?;
        if let Err(error) = fcntl_setpipe_size(&pipe, PIPE_BYTES) {
            log::debug!("F_SETPIPE_SZ: {error}");
        }
        let printer = Printer(Arc::new(Shared { pipe: Some(pipe), ..Shared::default() }));
        let shared = printer.0.clone();
        // So that a kernel that prints much does not stand still.
        thread::Builder::new().name("printf".to_owned()).spawn(move || shared.listen())?;
        Ok(printer)
    }

    /// A context's share in the printer.
    pub(crate) fn client(&self) -> PrintClient {
        let mut state = self.0.lock();
        state.clients += 1;
        PrintClient { id: state.clients, shared: self.0.clone() }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listen(&self) {
        let Some(pipe) = &self.pipe else { return };
        loop {
            match poll(&mut [PollFd::new(pipe, PollFlags::IN)], None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return log::warn!("the pipe of kernels' output: {error}"),
            }
            if self.lock().drain(pipe).is_break() {
                return;
            }
        }
    }

    /// Reads what was printed so far. What the C library still has is the caller's business, before the lock: whoever
    /// holds a stream may wait for room in the pipe.
    fn drained(&self) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        if let Some(pipe) = &self.pipe {
            let _end = state.drain(pipe);
        }
        state
    }

    /// Makes drivers print what they have kept back of the owner's, down to the pipe.
    fn settle(&self) {
        let places: Vec<Settle> = self.lock().places.values().cloned().collect();
        for settle in places {
            settle();
        }
        if self.pipe.is_some() {
            stdio::flush();
        }
    }
}

impl State {
    /// Empties the pipe into the owner's text. Breaks where it has come to its end.
    fn drain(&mut self, pipe: &OwnedFd) -> std::ops::ControlFlow<()> {
        use std::ops::ControlFlow::{Break, Continue};
        let mut chunk = std::mem::take(&mut self.chunk);
        chunk.resize(64 * 1024, 0);
        let end = loop {
            match rustix::io::read(pipe, &mut chunk) {
                Ok(0) => break Break(()),
                Ok(count) => self.printed(&chunk[..count]),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break Continue(()),
                Err(error) => {
                    log::warn!("the pipe of kernels' output: {error}");
                    break Break(());
                }
            }
        };
        self.chunk = chunk;
        end
    }

    fn printed(&mut self, bytes: &[u8]) {
        let Some(owner) = self.turns.owner() else {
            if !std::mem::replace(&mut self.stray, true) {
                log::warn!("something was printed while no kernel that prints ran; it is dropped");
            }
            return;
        };
        let text = self.texts.entry(owner).or_default();
        let room = MAX_PRINT_BYTES - text.bytes.len();
        // The beginning says more than the end, and stays in one piece.
        text.bytes.extend(&bytes[..bytes.len().min(room)]);
        if bytes.len() > room && !std::mem::replace(&mut text.lost, true) {
            log::warn!("kernels printed more than {MAX_PRINT_BYTES} bytes that the guest did not fetch");
        }
    }
}

/// A context's share in the printer.
pub(crate) struct PrintClient {
    id: Client,
    shared: Arc<Shared>,
}

impl PrintClient {
    /// Waits at most `patience` for the context's turn to print. With it, the launch may go on.
    pub(crate) fn turn(&self, patience: Duration) -> Option<Launch> {
        let mut state = self.shared.lock();
        if state.turns.ask(self.id, Instant::now()) == Turn::Later {
            state =
                self.shared.changed.wait_timeout(state, patience).unwrap_or_else(PoisonError::into_inner).0;
        }
        match state.turns.ask(self.id, Instant::now()) {
            Turn::Later => return None,
            Turn::Now => {}
            Turn::AfterReading => {
                drop(state);
                self.shared.settle();
                state = self.shared.drained();
                state.begin(self.id);
            }
        }
        Some(self.launch_in(state))
    }

    /// Launches without waiting for a turn.
    pub(crate) fn launch(&self) -> Launch {
        let mut state = self.shared.drained();
        if state.turns.owner() != Some(self.id) {
            state.begin(self.id);
        }
        self.launch_in(state)
    }

    fn launch_in(&self, mut state: MutexGuard<'_, State>) -> Launch {
        let number = state.turns.launch(self.id);
        Launch { number, shared: self.shared.clone() }
    }

    /// Notes the queue in which a printing kernel is launched.
    pub(crate) fn at(&self, queue: Serial, settle: impl FnOnce() -> Settle) {
        let mut state = self.shared.lock();
        if state.turns.owner() != Some(self.id) {
            return;
        }
        if state.places.len() >= MAX_PLACES {
            state.places.clear();
        }
        state.places.entry(queue).or_insert_with(settle);
    }

    /// Moves what was printed into the guest's memory, as much as fits. Returns how much that was.
    pub(crate) fn read(&self, to: &Window) -> usize {
        if self.shared.lock().turns.owner() == Some(self.id) {
            self.shared.settle();
        }
        let mut state = self.shared.drained();
        let Some(text) = state.texts.get_mut(&self.id) else { return 0 };
        let count = text.bytes.len().min(to.len());
        let bytes: Vec<u8> = text.bytes.drain(..count).collect();
        text.lost &= !text.bytes.is_empty();
        if text.bytes.is_empty() {
            text.bytes = VecDeque::new();
        }
        drop(state);
        let whole = to.write(0, &bytes);
        debug_assert!(whole, "cut to what fits");
        count
    }
}

impl State {
    fn begin(&mut self, client: Client) {
        self.turns.begin(client);
        self.places.clear();
    }
}

impl Drop for PrintClient {
    fn drop(&mut self) {
        // What is left is nobody's any more, and not the next one's either.
        let mut state = self.shared.drained();
        if state.turns.owner() == Some(self.id) {
            state.places.clear();
        }
        state.turns.leave(self.id);
        state.texts.remove(&self.id);
        drop(state);
        self.shared.changed.notify_all();
    }
}

/// A kernel in flight that may print. It has landed when this is dropped.
pub(crate) struct Launch {
    number: u64,
    shared: Arc<Shared>,
}

impl Launch {
    /// These user events hold it back.
    pub(crate) fn held_by(&self, gates: &Gates) {
        self.shared.lock().turns.hold(self.number, gates.clone());
    }
}

impl Drop for Launch {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        let gates = state.turns.land(self.number);
        let awaited = state.turns.is_awaited();
        drop(state);
        drop(gates);
        if awaited {
            self.shared.changed.notify_all();
        }
    }
}

impl fmt::Debug for Printer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Printer").field("listens", &self.0.pipe.is_some()).finish()
    }
}

impl fmt::Debug for PrintClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PrintClient").field(&self.id).finish()
    }
}

impl fmt::Debug for Launch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Launch").field(&self.number).finish()
    }
}
