//! The broker's side of an executor: starting it, talking to it, and its end.

pub mod cgroup;
mod compilers;
mod directory;
mod probe;
mod process;
mod shared_builds;
mod stderr;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

pub use directory::remove_abandoned;
pub use probe::{ProbeError, probe};
pub use process::{COMPILER_ARGUMENT, EXECUTOR_ARGUMENT, LOG_VARIABLE, ProcessLauncher, Unconfined};
pub use shared_builds::SharedBuilds;

use self::cgroup::Usage;
use self::compilers::Compilers;
use super::channel::{ChannelError, Polled, PolledChannel};
use super::devices::DeviceChoice;
use super::message::{CompilerEnd, MemoryRegion, ToBroker, ToExecutor};
use crate::limits::Limits;
use crate::sched::{Evicted, Participation, Seat};

/// Starts executors. The seam at which tests put one of their own.
pub trait Launcher: Send + Sync + fmt::Debug {
    /// Starts a vGPU's, which speaks over `socket`.
    fn launch(&self, vgpu: &str, socket: UnixStream) -> io::Result<Box<dyn Running>>;
}

/// An executor that was started.
pub trait Running: Send + fmt::Debug {
    /// Ends it by force, and returns when it is gone and touches nothing any more. Also for one that ended by
    /// itself. Says how it ended.
    fn kill(&mut self) -> String;

    /// Starts a compiler for it, which speaks over `socket`: as confined as it is, and with the same directory of its own.
    /// A build may have so much memory there; it is for these devices.
    fn launch_compiler(
        &self,
        _memory_bytes: u64,
        _devices: &[DeviceChoice],
        _socket: UnixStream,
    ) -> io::Result<Box<dyn Running>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// The table of builds that it needs no compiler for.
    fn known(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Its process id, if it is a process.
    fn process(&self) -> Option<u32> {
        None
    }

    /// What it has used so far, where the operating system counts that.
    fn usage(&self) -> Option<Usage> {
        None
    }
}

/// Why an executor is of no use any more.
#[derive(Debug, thiserror::Error)]
pub enum ExecutorError {
    /// It could not be started.
    #[error("the executor could not be started: {0}")]
    Start(#[source] io::Error),
    /// Its socket failed, or what came through it.
    #[error("the executor's socket failed: {0}")]
    Channel(#[source] ChannelError),
    /// It hung up, or was never there.
    #[error("the executor ended")]
    Ended,
}

impl From<ChannelError> for ExecutorError {
    fn from(error: ChannelError) -> ExecutorError {
        match error {
            // One that ended with unread messages resets its socket; how it ended says more than that.
            ChannelError::Io(error)
                if [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe].contains(&error.kind()) =>
            {
                ExecutorError::Ended
            }
            error => ExecutorError::Channel(error),
        }
    }
}

/// The guest's memory as an executor is told of it.
pub type MemoryTable<'a> = Vec<(MemoryRegion, BorrowedFd<'a>)>;

/// Least time between two starts of one vGPU's executor: a guest may kill its executor as often as it likes, but
/// must not keep the host busy starting processes.
const MIN_RESTART_INTERVAL: Duration = Duration::from_millis(200);

/// One vGPU's executor, if it has one.
#[derive(Debug)]
pub struct Supervisor {
    launcher: Arc<dyn Launcher>,
    seat: Option<Seat>,
    limits: Limits,
    devices: Vec<DeviceChoice>,
    evictions: Arc<Evictions>,
    executor: Option<Executor>,
    started: Option<Instant>,
}

/// Where the scheduler says that an executor is to be ended.
#[derive(Debug)]
struct Evictions {
    event: OwnedFd,
    evicted: Mutex<Option<Evicted>>,
}

#[derive(Debug)]
struct Executor {
    // Before what they were started by.
    compilers: Compilers,
    running: Box<dyn Running>,
    channel: PolledChannel,
    wake: OwnedFd,
    doorbells: BTreeMap<u32, OwnedFd>,
    participation: Option<Participation>,
}

impl Supervisor {
    /// The vGPU's place with the scheduler, if it has one.
    pub fn seat(&self) -> Option<&Seat> {
        self.seat.as_ref()
    }

    /// No executor yet. Without a seat, executors have the devices to themselves.
    pub fn new(launcher: Arc<dyn Launcher>, seat: Option<Seat>) -> io::Result<Supervisor> {
        let evictions = Arc::new(Evictions { event: new_eventfd()?, evicted: Mutex::default() });
        let limits = Limits::default();
        let devices = Vec::new();
        Ok(Supervisor { launcher, seat, limits, devices, evictions, executor: None, started: None })
    }

    /// Sets the devices that the next executor has; none for those of the default platform.
    pub fn set_devices(&mut self, devices: Vec<DeviceChoice>) {
        self.devices = devices;
    }

    /// Sets what the next executor may have.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// True if there is an executor.
    pub fn is_running(&self) -> bool {
        self.executor.is_some()
    }

    /// Starts an executor, if there is none.
    pub fn start(&mut self, vgpu: &str, memory: &MemoryTable<'_>) -> Result<(), ExecutorError> {
        if self.executor.is_some() {
            return Ok(());
        }
        if let Some(started) = self.started {
            // Only this vGPU's own thread, and so its own guest, waits.
            std::thread::sleep(MIN_RESTART_INTERVAL.saturating_sub(started.elapsed()));
        }
        self.started = Some(Instant::now());
        let (ours, theirs) = UnixStream::pair().map_err(ExecutorError::Start)?;
        let channel = PolledChannel::new(ours).map_err(ExecutorError::Start)?;
        let wake = new_eventfd().map_err(ExecutorError::Start)?;
        let participation = self.seat.as_ref().map(|seat| self.evictions.join(seat));
        let participation = participation.transpose().map_err(ExecutorError::Start)?;
        let running = self.launcher.launch(vgpu, theirs).map_err(ExecutorError::Start)?;
        if let Some(participation) = &participation {
            participation.set_process(running.process());
        }
        let compilers = Compilers::new(self.limits.builds, self.devices.clone());
        let doorbells = BTreeMap::new();
        let executor = Executor { compilers, running, channel, wake, doorbells, participation };
        let executor = self.executor.insert(executor);
        let devices = self.devices.clone();
        let hello = ToExecutor::Hello { vgpu: vgpu.to_owned(), limits: self.limits, devices };
        let mut fds = vec![executor.wake.as_fd()];
        fds.extend(executor.participation.iter().flat_map(Participation::descriptors));
        executor.channel.send(&hello, &fds)?;
        if let Some(known) = executor.running.known() {
            executor.channel.send(&ToExecutor::Known, &[known])?;
        }
        self.send_memory(memory)
    }

    /// Tells the executor of guest memory.
    pub fn send_memory(&mut self, memory: &MemoryTable<'_>) -> Result<(), ExecutorError> {
        let regions = memory.iter().map(|(region, _)| *region).collect();
        let fds: Vec<BorrowedFd<'_>> = memory.iter().map(|(_, fd)| *fd).collect();
        let executor = self.executor.as_mut().ok_or(ExecutorError::Ended)?;
        Ok(executor.channel.send(&ToExecutor::Memory { regions }, &fds)?)
    }

    /// Makes a context with a doorbell of its own.
    pub fn create_context(&mut self, context: u32, name: String) -> Result<(), ExecutorError> {
        let executor = self.executor.as_mut().ok_or(ExecutorError::Ended)?;
        let doorbell = new_eventfd().map_err(ExecutorError::Start)?;
        let place = executor.participation.as_ref().and_then(|it| it.add_context(context, &name));
        let place = place.and_then(|place| u32::try_from(place).ok());
        let create = ToExecutor::CreateContext { context, name, place };
        executor.channel.send(&create, &[doorbell.as_fd()])?;
        executor.doorbells.insert(context, doorbell);
        Ok(())
    }

    /// Starts a compiler that the executor wants, and gives it one end of a socket to it. Returns why there is none, if so.
    pub fn start_compiler(&mut self, compiler: u32) -> Result<Option<io::Error>, ExecutorError> {
        let executor = self.executor.as_mut().ok_or(ExecutorError::Ended)?;
        let (socket, refused) = match executor.compilers.start(compiler, &*executor.running) {
            Ok(socket) => (Some(socket), None),
            Err(error) => (None, Some(error)),
        };
        let fds: Vec<BorrowedFd<'_>> = socket.iter().map(AsFd::as_fd).collect();
        executor.channel.send(&ToExecutor::Compiler { compiler }, &fds)?;
        Ok(refused)
    }

    /// Ends a compiler, of which the executor says that it came to this end. Returns what is to be logged of that.
    pub fn end_compiler(&mut self, compiler: u32, end: CompilerEnd) -> Option<String> {
        self.executor.as_mut()?.compilers.end(compiler, end)
    }

    /// Sends any other message.
    pub fn send(&mut self, message: &ToExecutor) -> Result<(), ExecutorError> {
        let executor = self.executor.as_mut().ok_or(ExecutorError::Ended)?;
        if let ToExecutor::DestroyContext { context } = message {
            executor.doorbells.remove(context);
        }
        Ok(executor.channel.send(message, &[])?)
    }

    /// Rings a context's doorbell, if it has one.
    pub fn doorbell(&self, context: u32) {
        let doorbell = self.executor.as_ref().and_then(|executor| executor.doorbells.get(&context));
        if let Some(doorbell) = doorbell {
            // A full counter means that the executor has not looked since: nothing is lost.
            let _full = rustix::io::write(doorbell, &1_u64.to_ne_bytes());
        }
    }

    /// Takes the next message, if one is there.
    pub fn try_recv(&mut self) -> Result<Option<ToBroker>, ExecutorError> {
        let Some(executor) = &mut self.executor else { return Ok(None) };
        match executor.channel.try_recv::<ToBroker>()? {
            // Descriptors are not asked for; they are closed here.
            Polled::Message((message, _fds)) => Ok(Some(message)),
            Polled::Later => Ok(None),
            Polled::HangUp => Err(ExecutorError::Ended),
        }
    }

    /// Goes on with sending what the executor did not read at once.
    pub fn flush(&mut self) -> Result<(), ExecutorError> {
        match &mut self.executor {
            Some(executor) => Ok(executor.channel.flush()?),
            None => Ok(()),
        }
    }

    /// True if the executor woke a sleeping guest thread since the last call.
    pub fn take_wake(&self) -> bool {
        let Some(executor) = &self.executor else { return false };
        rustix::io::read(&executor.wake, &mut [0_u8; 8]) != Err(Errno::AGAIN)
    }

    /// A context has ended.
    pub fn context_ended(&self, context: u32) {
        if let Some(participation) =
            self.executor.as_ref().and_then(|executor| executor.participation.as_ref())
        {
            participation.remove_context(context);
        }
    }

    /// Readable when [`take_eviction`](Supervisor::take_eviction) has something.
    pub fn eviction_event(&self) -> BorrowedFd<'_> {
        self.evictions.event.as_fd()
    }

    /// Why the executor is to be ended, if the scheduler says so.
    pub fn take_eviction(&self) -> Option<Evicted> {
        let _empty = rustix::io::read(&self.evictions.event, &mut [0_u8; 8]);
        self.evictions.evicted.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// What to poll: the socket, whether it is to be polled for writing too, and the wake eventfd.
    pub fn poll_fds(&self) -> Option<(BorrowedFd<'_>, bool, BorrowedFd<'_>)> {
        let executor = self.executor.as_ref()?;
        Some((executor.channel.as_fd(), executor.channel.has_unsent(), executor.wake.as_fd()))
    }

    /// What the executor has used so far, where the operating system counts that.
    pub fn usage(&self) -> Option<Usage> {
        self.executor.as_ref()?.running.usage()
    }

    /// Ends the executor by force; when this returns, it touches nothing any more. Says how it ended, if there
    /// was one.
    pub fn kill(&mut self) -> Option<String> {
        let mut executor = self.executor.take()?;
        executor.compilers.end_all();
        // It leaves the scheduler only when it is gone, so that nobody gets a device that it still uses; and what it has
        // used is read while it can be.
        if let Some(participation) = &executor.participation {
            participation.note_end();
        }
        let end = executor.running.kill();
        // Before what it left is looked at and removed, which takes as long as its guest likes: others wait for its devices.
        executor.participation = None;
        // Of this executor, not the next.
        self.take_eviction();
        Some(end)
    }
}

impl Evictions {
    fn join(self: &Arc<Self>, seat: &Seat) -> io::Result<Participation> {
        let evictions = Arc::clone(self);
        seat.join(move |evicted| {
            *evictions.evicted.lock().unwrap_or_else(PoisonError::into_inner) = Some(evicted);
            let _full = rustix::io::write(&evictions.event, &1_u64.to_ne_bytes());
        })
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.kill();
    }
}

fn new_eventfd() -> io::Result<OwnedFd> {
    Ok(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sched::policy::{Sharing, Terms};
    use crate::sched::usage::Standing;
    use crate::sched::{Scheduler, VgpuId};

    /// Nobody, who is asked how the vGPU stands when what they left is removed.
    #[derive(Debug)]
    struct Leaves {
        scheduler: Arc<Scheduler>,
        vgpu: VgpuId,
        standings: Arc<Mutex<Vec<Standing>>>,
        _socket: UnixStream,
    }

    impl Running for Leaves {
        fn kill(&mut self) -> String {
            self.note();
            "ended".to_owned()
        }
    }

    impl Leaves {
        fn note(&self) {
            let usage = self.scheduler.usage(self.vgpu).unwrap();
            self.standings.lock().unwrap().push(usage.standing);
        }
    }

    impl Drop for Leaves {
        fn drop(&mut self) {
            self.note();
        }
    }

    #[derive(Debug)]
    struct Launches(Arc<Scheduler>, VgpuId, Arc<Mutex<Vec<Standing>>>);

    impl Launcher for Launches {
        fn launch(&self, _vgpu: &str, socket: UnixStream) -> io::Result<Box<dyn Running>> {
            let Launches(scheduler, vgpu, standings) = self;
            let (scheduler, standings) = (scheduler.clone(), standings.clone());
            Ok(Box::new(Leaves { scheduler, vgpu: *vgpu, standings, _socket: socket }))
        }
    }

    #[test]
    fn an_executor_leaves_its_devices_when_it_has_ended_and_before_what_it_left_is_removed() {
        let scheduler = Arc::new(Scheduler::start(vec![("device".to_owned(), Sharing::default())]).unwrap());
        let vgpu = scheduler.add("vgpu", Terms::default(), &[0]).unwrap();
        let standings = Arc::default();
        let launcher = Launches(scheduler.clone(), vgpu, Arc::clone(&standings));
        let seat = Seat::new(scheduler.clone(), vgpu);
        let mut supervisor = Supervisor::new(Arc::new(launcher), Some(seat)).unwrap();
        supervisor.start("vgpu", &Vec::new()).unwrap();
        supervisor.kill();
        assert_eq!(*standings.lock().unwrap(), [Standing::Idle, Standing::Offline]);
    }
}
