//! A session's state, and what happens to it.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::Level;
use paragpu_protocol::virtio_gpu::{CONTROL_QUEUE, QUEUES};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use vhost::vhost_user::{Backend, GpuBackend};

use super::memory::{GuestRam, SHARE_IT};
use super::orders::Assignment;
use super::queue::{Chain, QueueAddresses, QueueError, Vring};
use crate::device::pending::Token;
use crate::device::request::MAX_REQUEST_BYTES;
use crate::device::step::Step;
use crate::device::{Action, Device};
use crate::executor::message::{ToBroker, ToExecutor};
use crate::executor::supervisor::{ExecutorError, Launcher, Supervisor};
use crate::guest_log::GuestLog;
use crate::limits::{Bucket, Limits};
use crate::recorder::{MAX_CONTROL_RECORD, Recorder};
use crate::sched::{Meter, Seat};
use crate::vgpu::{Lifecycle, Vgpu};

/// Time that an executor has for letting go of guest memory when the front end stops the rings.
const QUIESCE_TIMEOUT: Duration = Duration::from_secs(2);

/// Requests taken from a queue before anything else gets its turn.
const REQUESTS_PER_TURN: usize = 64;

/// Messages taken from an executor before anything else gets its turn.
const MESSAGES_PER_TURN: usize = 64;

/// How long a queue may look as if nobody had written to it after somebody rang for it. Front ends ring once when they start
/// a queue; a driver's first requests follow at once.
const UNTOUCHED_LIMIT: Duration = Duration::from_secs(5);

/// One vGPU and its connection.
pub struct Session {
    pub(super) name: String,
    pub(super) memory: GuestRam,
    pub(super) vrings: [Vring; QUEUES],
    pub(super) features: u64,
    /// QEMU's display socket: it floods its log if this is closed.
    pub(super) gpu_socket: Option<GpuBackend>,
    pub(super) backend_requests: Option<Backend>,
    pub(super) log: GuestLog,
    device: Device,
    supervisor: Supervisor,
    /// Requests that are not answered yet: the queue and its chain.
    in_flight: BTreeMap<Token, (usize, Chain)>,
    next_token: u64,
    request: Vec<u8>,
    /// Where the control queue was when it stopped: a start at the same place is a resume.
    stopped_at: Option<(u16, QueueAddresses)>,
    /// The executor has said so, when it was asked.
    quiesced: bool,
    /// The executor has been asked to be quiet, and has not answered.
    quiescing: bool,
    /// A queue may have requests that no kick will announce.
    pub(super) more_requests: bool,
    /// Since when the executor has had no context.
    unused_since: Option<Instant>,
    /// Until when the control queue may look as if nobody had written to it.
    untouched_until: Option<Instant>,
    recorder: Option<Recorder>,
    /// The rate at which requests are taken.
    requests: Option<Bucket>,
    /// The processor time of this thread.
    meter: Meter,
}

impl Session {
    /// A vGPU's, without memory, queues or guest yet.
    pub fn assigned(assignment: &Assignment, launcher: Arc<dyn Launcher>) -> io::Result<Session> {
        let Assignment { name, seat, devices, limits, .. } = assignment;
        let mut session = Session::new(name, launcher, seat.clone(), *limits)?;
        session.supervisor.set_devices(devices.clone());
        Ok(session)
    }

    /// The operator says something else of the vGPU from now on. What the broker holds it to counts at once; what its
    /// executor holds it to counts for the next one.
    pub(super) fn set_limits(&mut self, limits: Limits) {
        if limits.requests != self.device.vgpu().limits.requests {
            self.requests = limits.requests.map(|rate| Bucket::new(rate, Instant::now()));
        }
        self.device.vgpu_mut().limits = limits;
    }

    /// Ends the executor, if there is one, because somebody wants it to end.
    pub(super) fn kill_executor_because(&mut self, reason: &str) {
        if self.supervisor.is_running() {
            self.log.line(Level::Warn, format_args!("executor killed: {reason}"));
            self.lose_executor();
            self.announce();
        }
    }

    /// A vGPU without memory, queues or guest.
    pub fn new(
        name: &str,
        launcher: Arc<dyn Launcher>,
        seat: Option<Seat>,
        limits: Limits,
    ) -> io::Result<Session> {
        Ok(Session {
            name: name.to_owned(),
            memory: GuestRam::default(),
            vrings: [Vring::new().map_err(io::Error::other)?, Vring::new().map_err(io::Error::other)?],
            features: 0,
            gpu_socket: None,
            backend_requests: None,
            log: GuestLog::new(name),
            device: Device::new(name.to_owned(), limits),
            supervisor: Supervisor::new(launcher, seat)?,
            requests: limits.requests.map(|rate| Bucket::new(rate, Instant::now())),
            meter: Meter::default(),
            in_flight: BTreeMap::new(),
            next_token: 0,
            request: Vec::new(),
            stopped_at: None,
            quiesced: false,
            quiescing: false,
            more_requests: false,
            unused_since: None,
            untouched_until: None,
            recorder: Recorder::from_environment("control", MAX_CONTROL_RECORD),
        })
    }

    /// The vGPU's control block.
    pub fn vgpu(&self) -> &Vgpu {
        self.device.vgpu()
    }

    pub(super) fn supervisor(&self) -> &Supervisor {
        &self.supervisor
    }

    /// When [`tick`](Session::tick) is due. While nobody listens to the queues' kicks, which `throttled` says, that is at the
    /// latest when they are listened to again.
    pub(super) fn next_deadline(&self, now: Instant, throttled: Option<Duration>) -> Option<Instant> {
        let again = throttled.or(self.more_requests.then_some(Duration::ZERO)).map(|wait| now + wait);
        [again, self.device.next_deadline(), self.unused_until(), self.untouched_until]
            .into_iter()
            .flatten()
            .min()
    }

    /// When an executor is ended that no guest process uses.
    fn unused_until(&self) -> Option<Instant> {
        let patience =
            self.device.vgpu().limits.executor_idle_seconds.filter(|_| self.supervisor.is_running())?;
        Some(self.unused_since? + Duration::from_secs(patience.into()))
    }

    /// How long no requests are taken, because there were too many.
    pub(super) fn throttled(&self, now: Instant) -> Option<Duration> {
        let by_rate = self.requests.as_ref().and_then(|requests| requests.wait(now));
        by_rate.or_else(|| self.supervisor.seat()?.must_wait(now))
    }

    /// Takes requests from a queue.
    pub(super) fn process_queue(&mut self, index: usize) {
        let used = self.meter.read();
        if let Some(seat) = self.supervisor.seat() {
            seat.spend(used, Instant::now());
        }
        if let Err(error) = self.try_process_queue(index) {
            self.queue_failed(index, &error);
        }
        self.announce();
    }

    fn try_process_queue(&mut self, index: usize) -> Result<(), QueueError> {
        if !self.vrings[index].is_running() {
            return Ok(());
        }
        if self.throttled(Instant::now()).is_some() {
            self.more_requests = true;
            return Ok(());
        }
        self.vrings[index].disable_notification(self.memory.map())?;
        for _ in 0..REQUESTS_PER_TURN {
            let mut request = std::mem::take(&mut self.request);
            let popped = self.vrings[index].pop(self.memory.map(), &mut request, MAX_REQUEST_BYTES);
            self.request = request;
            let Some(chain) = popped? else {
                if index == CONTROL_QUEUE && self.vrings[index].is_untouched(self.memory.map()) {
                    self.untouched_until.get_or_insert_with(|| Instant::now() + UNTOUCHED_LIMIT);
                }
                if self.vrings[index].enable_notification(self.memory.map())? {
                    continue;
                }
                return Ok(());
            };
            // Whoever holds requests back counts on the queues' sizes for a bound.
            let out = self.in_flight.values().filter(|(queue, _)| *queue == index).count();
            if out >= usize::from(self.vrings[index].size()) {
                return Err(QueueError::TooManyOut);
            }
            if let Some(requests) = &mut self.requests {
                requests.take(1, Instant::now());
            }
            let token = Token(self.next_token);
            self.next_token += 1;
            self.in_flight.insert(token, (index, chain));
            record(&mut self.recorder, &Step::Request(&self.request));
            self.device.handle(token, &self.request, &self.memory, Instant::now());
            self.act();
            if !self.vrings[index].is_running() {
                return Ok(());
            }
        }
        self.more_requests = true;
        Ok(())
    }

    fn queue_failed(&mut self, index: usize, error: &QueueError) {
        self.vrings[index].stop();
        self.log.line(Level::Warn, format_args!("queue {index} stopped until the guest resets it: {error}"));
    }

    /// Carries out what the device decided, until nothing is left.
    fn act(&mut self) {
        loop {
            let actions = self.device.take_actions();
            if actions.is_empty() {
                return;
            }
            for action in actions {
                self.carry_out(action);
            }
        }
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Respond { token, response } => {
                let Some((index, chain)) = self.in_flight.remove(&token) else { return };
                if let Err(error) = self.vrings[index].complete(self.memory.map(), &chain, &response) {
                    self.queue_failed(index, &error);
                }
            }
            Action::CreateContext { context, name } => {
                let memory = self.memory.table();
                self.supervisor.set_limits(self.device.vgpu().limits);
                let created = self
                    .supervisor
                    .start(&self.name, &memory)
                    .and_then(|()| self.supervisor.create_context(context, name));
                drop(memory);
                self.device.vgpu_mut().lifecycle = Lifecycle::Active;
                self.unless_executor_failed(created);
            }
            // To an executor that is gone nothing needs to be said: the device knows, or will at once.
            Action::Send(_) if !self.supervisor.is_running() => {}
            Action::Send(message) => {
                let sent = self.supervisor.send(&message);
                self.unless_executor_failed(sent);
            }
            Action::Doorbell { context } => self.supervisor.doorbell(context),
            Action::KillExecutor => self.kill_executor(),
            Action::Log(level, line) => self.log.line(level, format_args!("{line}")),
        }
    }

    /// The executor's socket is readable or writable.
    pub(super) fn on_executor(&mut self) {
        let flushed = self.supervisor.flush();
        self.unless_executor_failed(flushed);
        for _ in 0..MESSAGES_PER_TURN {
            let mut is_over = false;
            match self.supervisor.try_recv() {
                Ok(None) => break,
                Ok(Some(message)) => {
                    // Starting a process takes its time; others get their turn before the next.
                    is_over = matches!(message, ToBroker::WantCompiler { .. });
                    if message == ToBroker::Quiesced {
                        if std::mem::take(&mut self.quiescing) {
                            self.quiesced = true;
                        } else {
                            self.log.line(Level::Warn, format_args!("executor is quiet unasked"));
                        }
                    }
                    self.on_compilers(&message);
                    if let (Some(_), Some(step)) = (&self.recorder, Step::message(&message)) {
                        record(&mut self.recorder, &step);
                    }
                    let ended = match &message {
                        ToBroker::ContextDestroyed { context, .. } => Some(*context),
                        _ => None,
                    };
                    if let Some(context) = ended {
                        self.supervisor.context_ended(context);
                    }
                    self.device.on_message(message, &self.memory);
                    if let Some(context) = ended.filter(|_| log::log_enabled!(Level::Debug)) {
                        let counters = self.device.vgpu().counters;
                        self.log
                            .line(Level::Debug, format_args!("context {context} ended; so far {counters}"));
                    }
                }
                Err(error) => self.unless_executor_failed(Err(error)),
            }
            self.act();
            if is_over {
                break;
            }
        }
        self.announce();
    }

    /// Starts and ends compilers as the executor says.
    fn on_compilers(&mut self, message: &ToBroker) {
        match *message {
            ToBroker::WantCompiler { compiler } => match self.supervisor.start_compiler(compiler) {
                Ok(None) => {}
                Ok(Some(error)) => {
                    self.log.line(Level::Warn, format_args!("no compiler was started: {error}"));
                }
                Err(error) => self.unless_executor_failed(Err(error)),
            },
            ToBroker::CompilerEnded { compiler, end } => {
                if let Some(line) = self.supervisor.end_compiler(compiler, end) {
                    self.log.line(Level::Warn, format_args!("{line}"));
                }
            }
            _ => {}
        }
    }

    /// The scheduler wants the executor ended.
    pub(super) fn on_eviction(&mut self) {
        let Some(evicted) = self.supervisor.take_eviction() else { return };
        if self.supervisor.is_running() {
            self.log
                .line(Level::Warn, format_args!("executor ended, its contexts are lost: {}", evicted.reason));
            self.lose_executor();
            self.announce();
        }
    }

    /// The executor's wake eventfd is readable.
    pub(super) fn on_wake(&mut self) {
        if self.supervisor.take_wake() {
            record(&mut self.recorder, &Step::Wake);
            self.device.wake();
            self.act();
            self.announce();
        }
    }

    /// Time has passed.
    pub(super) fn tick(&mut self) {
        if self.device.next_deadline().is_some_and(|deadline| deadline <= Instant::now()) {
            if let Err(stuck) = self.device.tick(Instant::now()) {
                self.log.line(Level::Warn, format_args!("executor killed: {stuck}"));
                self.lose_executor();
            }
            self.act();
            self.announce();
        }
        if std::mem::take(&mut self.more_requests) {
            for index in 0..QUEUES {
                self.process_queue(index);
            }
        }
        self.end_unused();
        if self.untouched_until.take_if(|until| *until <= Instant::now()).is_some() {
            let control = &self.vrings[CONTROL_QUEUE];
            if control.is_running() && control.is_untouched(self.memory.map()) {
                self.log.line(Level::Warn, format_args!("the guest's requests do not show here: {SHARE_IT}"));
            }
        }
    }

    /// Ends an executor that no guest process has used for a while. The next context gets another one, and the guest sees
    /// no difference: nothing of its own is in there.
    fn end_unused(&mut self) {
        if !self.device.vgpu().contexts.is_empty() || !self.supervisor.is_running() {
            self.unused_since = None;
            return;
        }
        self.unused_since.get_or_insert_with(Instant::now);
        if self.unused_until().is_some_and(|until| until <= Instant::now()) && self.device.is_settled() {
            log::debug!("{}: executor ended, nobody uses it", self.name);
            record(&mut self.recorder, &Step::ExecutorGone);
            self.kill_executor();
        }
    }

    fn unless_executor_failed(&mut self, result: Result<(), ExecutorError>) {
        let Err(error) = result else { return };
        let end = self.supervisor.kill().unwrap_or_else(|| "not started".into());
        self.log.line(Level::Warn, format_args!("contexts lost: {error} ({end})"));
        self.lose_executor();
    }

    /// Ends the executor, if it has not ended, and lets the device and the guest know.
    fn lose_executor(&mut self) {
        self.kill_executor();
        record(&mut self.recorder, &Step::ExecutorGone);
        self.device.executor_gone(&self.memory);
        self.act();
    }

    fn kill_executor(&mut self) {
        self.supervisor.kill();
        (self.quiesced, self.quiescing) = (false, false);
        self.device.vgpu_mut().lifecycle = Lifecycle::Idle;
    }

    /// Counts the notifications of a queue.
    pub(super) fn count_kicks(&mut self, kicks: u64) {
        let counters = &mut self.device.vgpu_mut().counters;
        counters.kicks = counters.kicks.saturating_add(kicks);
    }

    /// Interrupts the guest for what was completed.
    fn announce(&mut self) {
        for index in 0..QUEUES {
            match self.vrings[index].announce(self.memory.map()) {
                Ok(sent) => self.device.vgpu_mut().counters.interrupts += u64::from(sent),
                Err(error) => self.queue_failed(index, &error),
            }
        }
    }

    /// Takes new guest memory into use.
    pub(super) fn replace_memory(&mut self, memory: GuestRam) {
        self.memory = memory;
        if self.supervisor.is_running() {
            let sent = self.supervisor.send_memory(&self.memory.table());
            self.unless_executor_failed(sent);
        }
    }

    /// The control queue starts. At another place than where it stopped it has a new driver: what an old one
    /// left must not be touched any more, since its pages are the new one's.
    pub(super) fn control_started(&mut self) {
        let control = &self.vrings[CONTROL_QUEUE];
        let at = (control.base(), control.addresses());
        if self.stopped_at.take() != Some(at) {
            self.reset();
        } else if self.supervisor.is_running() && std::mem::take(&mut self.quiesced) {
            let resumed = self.supervisor.send(&ToExecutor::Resume);
            self.device.vgpu_mut().lifecycle = Lifecycle::Active;
            self.unless_executor_failed(resumed);
        }
    }

    /// The rings are about to stop: answers every request and lets nothing touch guest memory any more.
    pub(super) fn quiesce(&mut self) {
        let control = &self.vrings[CONTROL_QUEUE];
        if control.is_running() {
            self.stopped_at = Some((control.base(), control.addresses()));
        }
        record(&mut self.recorder, &Step::Wake);
        self.device.wake();
        self.act();
        if self.supervisor.is_running() && !self.quiesced {
            self.quiescing = true;
            let sent = self.supervisor.send(&ToExecutor::Quiesce);
            self.unless_executor_failed(sent);
            let until = Instant::now() + QUIESCE_TIMEOUT;
            if !self.serve_executor(until, |session| session.quiesced && session.device.is_settled()) {
                self.log.line(
                    Level::Warn,
                    format_args!("executor killed: not quiet within {} s", QUIESCE_TIMEOUT.as_secs()),
                );
                self.lose_executor();
            } else if self.supervisor.is_running() {
                self.device.vgpu_mut().lifecycle = Lifecycle::Quiesced;
            }
        }
        self.announce();
    }

    /// Forgets everything that the guest made.
    pub(super) fn reset(&mut self) {
        record(&mut self.recorder, &Step::NewDriver);
        self.device.new_driver();
        self.act();
        self.announce();
    }

    /// Serves the executor alone, until `done` or it is gone. False if it took too long.
    fn serve_executor(&mut self, until: Instant, done: impl Fn(&Session) -> bool) -> bool {
        while !done(self) {
            let Some((socket, wants_write, _)) = self.supervisor.poll_fds() else { return true };
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let events = if wants_write { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
            let mut fds = [PollFd::from_borrowed_fd(socket, events)];
            match poll(&mut fds, Timespec::try_from(left).ok().as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return false,
            }
            self.on_executor();
        }
        true
    }

    /// The session is over. Contexts get a moment to say what they did, then nothing is left.
    pub(super) fn finish(&mut self, grace: Duration) {
        record(&mut self.recorder, &Step::Wake);
        self.device.wake();
        record(&mut self.recorder, &Step::EndContexts);
        self.device.end_contexts();
        self.act();
        self.serve_executor(Instant::now() + grace, |session| session.device.contexts_ended());
        self.kill_executor();
        log::info!("{}: session ended; {}", self.name, self.device.vgpu().counters);
    }
}

fn record(recorder: &mut Option<Recorder>, step: &Step<'_>) {
    if let Some(recorder) = recorder
        && let Some(bytes) = step.encode()
    {
        recorder.record(&bytes);
    }
}
