//! Requests and sleeping over one connection, for many threads.
//!
//! Of all threads that wait for something of the device, one (the leader) polls the call eventfd and the
//! socket; the others sleep on a condition variable. Whoever takes answers in wakes the others, and each looks
//! for its own.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use paragpu_protocol::control::Wait;
use paragpu_protocol::virtio_gpu::{FLAG_FENCE, Request, Response};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use zerocopy::IntoBytes;

use super::exchange::{Answer, Exchange, Fate, Slot, kind_name};
use super::handshake::Link;
use super::memory::Memory;
use super::requests;
use crate::sys::event;
use crate::sys::process::Opener;
use crate::transport::{self, TransportError};

/// Longer than any process lives, and still something that can be added to a point in time.
const FOREVER: Duration = Duration::from_secs(u32::MAX as u64);

/// A connection whose queues run.
#[derive(Debug)]
pub(super) struct Session {
    /// Kept before `memory`, so that the daemon is told to let go before the memory goes.
    link: Link,
    memory: Memory,
    opener: Opener,
    patience: Duration,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    exchange: Exchange,
    /// Somebody polls the file descriptors.
    led: bool,
    /// Why the connection is of no more use.
    dead: Option<String>,
}

impl State {
    fn alive(&self) -> Result<(), TransportError> {
        match &self.dead {
            Some(why) => Err(TransportError::Unusable(why.clone())),
            None => Ok(()),
        }
    }

    /// Nothing that nobody waited for was refused, either.
    fn accepted(&self) -> Result<(), TransportError> {
        self.alive()?;
        match self.exchange.refusal() {
            Some(kind) => Err(TransportError::Unusable(format!(
                "paragpud refused a control command ({}); its log says why",
                kind_name(kind)
            ))),
            None => Ok(()),
        }
    }

    /// Takes answers in. True if there were any.
    fn reap(&mut self) -> bool {
        if self.dead.is_some() {
            return false;
        }
        self.exchange.reap().unwrap_or_else(|error| {
            self.dead = Some(format!("paragpud broke the control queue: {error}"));
            true
        })
    }
}

impl Session {
    /// A session over a device that has just been set up. A request that is not answered within `patience`
    /// ends it.
    pub(super) fn new(
        link: Link,
        memory: Memory,
        event_idx: bool,
        patience: Duration,
    ) -> Result<Session, TransportError> {
        let exchange = Exchange::new(memory.mapping(), event_idx).ok_or_else(|| {
            TransportError::Unusable("the shared memory is too small for the queues".into())
        })?;
        let state = Mutex::new(State { exchange, led: false, dead: None });
        Ok(Session { link, memory, opener: Opener::this_process(), patience, state, changed: Condvar::new() })
    }

    /// The memory that the daemon shares.
    pub(super) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Sends a request and waits for its answer. `doing` says what for, in errors.
    pub(super) fn request(&self, doing: &str, request: &[&[u8]]) -> Result<Answer, TransportError> {
        let mut state = self.enter()?;
        state.alive()?;
        let slot;
        (state, slot) = self.post(state, request, Fate::Keep)?;
        let deadline = Instant::now() + self.patience;
        let answer;
        (state, answer) = self.sleep(state, deadline, |exchange| exchange.take(&slot))?;
        answer.ok_or_else(|| self.give_up(&mut state, doing))
    }

    /// Like [`request`](Session::request), for requests that are answered with a mere yes.
    pub(super) fn order(&self, doing: &str, request: &[&[u8]]) -> Result<(), TransportError> {
        let answer = self.request(doing, request)?;
        answer.expect(Response::OkNodata).map(|_empty| ()).map_err(|answer| {
            TransportError::Unusable(format!("{doing}: paragpud answered {answer}; its log says why"))
        })
    }

    /// Sends a request whose answer nobody waits for.
    pub(super) fn send(&self, request: &[&[u8]]) -> Result<(), TransportError> {
        let mut state = self.enter()?;
        state.reap();
        state.accepted()?;
        self.post(state, request, Fate::Discard).map(|_posted| ())
    }

    /// Sleeps until the device answers a wait with this `seen`, or until `timeout` is over. Threads that wait
    /// with the same `seen` share one request, as its answer is for all of them.
    pub(super) fn wait(&self, seen: u32, timeout: Duration) -> Result<(), TransportError> {
        let deadline = Instant::now() + timeout.min(FOREVER);
        let mut state = self.enter()?;
        state.reap();
        state.accepted()?;
        let serial = match state.exchange.find_wait(seen) {
            Some(serial) => serial,
            None => {
                let serial = state.exchange.serial();
                let payload = Wait::new(seen);
                let mut header = requests::header(Request::Submit3d);
                header.flags = FLAG_FENCE.into();
                header.fence_id = serial.into();
                let body = requests::submit_body(payload.as_bytes());
                let request = [header.as_bytes(), body.as_bytes(), payload.as_bytes()];
                (state, _) = self.post(state, &request, Fate::Wake { seen, serial })?;
                serial
            }
        };
        let (state, _) =
            self.sleep(state, deadline, |exchange| (!exchange.is_waiting(serial)).then_some(()))?;
        state.accepted()
    }

    /// What every call from outside starts with.
    fn enter(&self) -> Result<MutexGuard<'_, State>, TransportError> {
        // First of all: in a forked child the lock may be held by a thread that is not there.
        transport::check(&self.opener)?;
        Ok(self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves the state whole: no function here stops half way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Posts a request as soon as there is room, and kicks the device if it wants that.
    fn post<'a>(
        &'a self,
        state: MutexGuard<'a, State>,
        request: &[&[u8]],
        fate: Fate,
    ) -> Result<(MutexGuard<'a, State>, Slot), TransportError> {
        let deadline = Instant::now() + self.patience;
        let (mut state, room) = self.sleep(state, deadline, |exchange| exchange.has_room().then_some(()))?;
        if room.is_none() {
            return Err(self.give_up(&mut state, "posting a request on a full queue"));
        }
        let Some((slot, kick)) = state.exchange.post(request, fate) else {
            return Err(TransportError::Unusable("a control command is longer than its buffer".into()));
        };
        if kick {
            // The only way to fail is a counter near 2^64, with which the device is awake anyway.
            let _ = self.link.kick.write(1);
        }
        Ok((state, slot))
    }

    /// A device that does not answer is not asked again: every later call would wait as long.
    fn give_up(&self, state: &mut State, doing: &str) -> TransportError {
        let seconds = self.patience.as_secs_f32();
        let why = format!("{doing}: paragpud did not answer within {seconds} s; its log may say why");
        state.dead.get_or_insert(why.clone());
        self.changed.notify_all();
        TransportError::Unusable(why)
    }

    /// Sleeps until `look` finds what it looks for (`Some`) or the deadline passes (`None`).
    fn sleep<'a, T>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        deadline: Instant,
        mut look: impl FnMut(&mut Exchange) -> Option<T>,
    ) -> Result<(MutexGuard<'a, State>, Option<T>), TransportError> {
        loop {
            if state.reap() {
                self.changed.notify_all();
            }
            // What was answered counts, even if the daemon has gone since.
            if let Some(found) = look(&mut state.exchange) {
                return Ok((state, Some(found)));
            }
            state.alive()?;
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok((state, None));
            }
            state = if state.led { self.follow(state, left) } else { self.lead(state, left) };
        }
    }

    /// Sleeps until the leader has something, or steps down.
    fn follow<'a>(&self, state: MutexGuard<'a, State>, left: Duration) -> MutexGuard<'a, State> {
        let (state, _) = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
        state
    }

    /// Polls for all who sleep.
    fn lead<'a>(&'a self, mut state: MutexGuard<'a, State>, left: Duration) -> MutexGuard<'a, State> {
        if !state.exchange.ask_for_interrupt() {
            return state;
        }
        state.led = true;
        drop(state);
        let polled = self.poll(left);
        let mut state = self.lock();
        state.led = false;
        state.exchange.no_interrupt();
        state.reap();
        if let Err(why) = polled {
            state.dead.get_or_insert(why);
        }
        // Also where nothing came: somebody else must lead now.
        self.changed.notify_all();
        state
    }

    /// Sleeps until the device calls or a signal comes; an error if the daemon has hung up.
    fn poll(&self, left: Duration) -> Result<(), String> {
        let mut fds = [
            PollFd::from_borrowed_fd(event::borrow(&self.link.call), PollFlags::IN),
            PollFd::new(&self.link.socket, PollFlags::RDHUP),
        ];
        let timeout = Timespec::try_from(left).ok();
        match poll(&mut fds, timeout.as_ref()) {
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(error) => return Err(format!("cannot wait for paragpud (poll): {error}")),
            Ok(_) => {}
        }
        if !fds[0].revents().is_empty() {
            // Empties the counter, so that the next poll sleeps. It may have been emptied by nobody else.
            let _ = self.link.call.read();
        }
        if !fds[1].revents().is_empty() {
            return Err(
                "paragpud hung up: it was stopped, or dropped this connection (its log says why)".into()
            );
        }
        Ok(())
    }
}
