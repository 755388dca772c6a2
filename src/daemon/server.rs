//! The daemon's main thread: accepts connections, waits for sessions and for signals.

use std::collections::BTreeMap;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use log::{Level, debug, info, warn};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use signal_hook::consts::{SIGINT, SIGTERM};

use super::Options;
use crate::executor::supervisor::{Launcher, ProcessLauncher, remove_abandoned};
use crate::guest_log::GuestLog;
use crate::limits::Limits;
use crate::sched::policy::{Sharing, Terms};
use crate::sched::{Scheduler, Seat};
use crate::vhost::event_loop;
use paragpu_protocol::limits::MAX_DEVICES;

/// Most connections at once: each is a thread, and an executor once it is used.
const MAX_SESSIONS: usize = 64;

/// Time that sessions have for ending when the daemon ends; executors die with it in any case.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// Serves every connection that comes, until a signal.
pub(super) fn listen(listener: &UnixListener, options: &Options) -> anyhow::Result<()> {
    listener.set_nonblocking(true).context("listening socket")?;
    let mut server = Server::new(options)?;
    while let Event::Connection = server.wait(Some(listener))? {
        match listener.accept() {
            Ok((stream, _)) => server.start_session(stream)?,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // Out of descriptors, most likely: better later than a busy loop.
            Err(error) => {
                server.log.line(Level::Warn, format_args!("cannot accept a connection: {error}"));
                thread::sleep(Duration::from_millis(100));
            }
        }
    }
    server.end();
    Ok(())
}

/// Serves one connection until it ends.
pub(super) fn serve_one(stream: UnixStream, options: &Options) -> anyhow::Result<()> {
    let mut server = Server::new(options)?;
    server.start_session(stream)?;
    server.wait(None)?;
    server.end();
    Ok(())
}

enum Event {
    Connection,
    /// A signal, or the end of what was to be served.
    End,
}

struct Server {
    scheduler: Arc<Scheduler>,
    launcher: Arc<dyn Launcher>,
    prefix: String,
    log: GuestLog,
    signals: UnixStream,
    until_stdin_ends: bool,
    /// Readable for ever once the daemon ends.
    exit: Arc<OwnedFd>,
    /// Written to when a session ends.
    ended_event: Arc<OwnedFd>,
    ended: Receiver<u64>,
    ended_sender: Sender<u64>,
    /// Sessions with a handle on their connection.
    sessions: BTreeMap<u64, UnixStream>,
    started: u64,
    /// Number of the next session that gets a name.
    named: Arc<AtomicU64>,
}

impl Server {
    fn new(options: &Options) -> anyhow::Result<Server> {
        let (signals, signalled) = UnixStream::pair().context("signal socket")?;
        signalled.set_nonblocking(true)?;
        for signal in [SIGTERM, SIGINT] {
            signal_hook::low_level::pipe::register(signal, signalled.try_clone()?)
                .context("signal handler")?;
        }
        // Guests need not wait for it: what executors left may be large. If it does not run now, the next daemon's does.
        let _later = thread::Builder::new().name("abandoned".to_owned()).spawn(remove_abandoned);
        let (ended_sender, ended) = channel();
        let devices = (0..MAX_DEVICES).map(|index| (format!("device{index}"), Sharing::default()));
        Ok(Server {
            scheduler: Arc::new(Scheduler::start(devices.collect()).context("scheduler")?),
            launcher: Arc::new(ProcessLauncher::this_program()),
            prefix: options.name.clone(),
            log: GuestLog::new("paragpud"),
            signals,
            until_stdin_ends: options.until_stdin_ends,
            exit: Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?),
            ended_event: Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?),
            ended,
            ended_sender,
            sessions: BTreeMap::new(),
            started: 0,
            named: Arc::default(),
        })
    }

    /// Waits for a connection on `listener`; without one, for the last session's end.
    fn wait(&mut self, listener: Option<&UnixListener>) -> anyhow::Result<Event> {
        loop {
            let stdin = io::stdin();
            let (signals, ended_event) = (self.signals.as_fd(), self.ended_event.as_fd());
            let mut fds =
                vec![PollFd::new(&signals, PollFlags::IN), PollFd::new(&ended_event, PollFlags::IN)];
            fds.extend(self.until_stdin_ends.then(|| PollFd::new(&stdin, PollFlags::IN)));
            fds.extend(listener.map(|listener| PollFd::new(listener, PollFlags::IN)));
            match poll(&mut fds, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error).context("poll"),
            }
            let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
            if ready[0] || self.until_stdin_ends && ready[2] {
                info!("ending");
                return Ok(Event::End);
            }
            if ready[1] {
                let _counter = rustix::io::read(&*self.ended_event, &mut [0_u8; 8]);
                while let Ok(id) = self.ended.try_recv() {
                    self.sessions.remove(&id);
                }
                if listener.is_none() && self.sessions.is_empty() {
                    return Ok(Event::End);
                }
            }
            if listener.is_some() && ready.last() == Some(&true) {
                return Ok(Event::Connection);
            }
        }
    }

    fn start_session(&mut self, stream: UnixStream) -> anyhow::Result<()> {
        if self.sessions.len() >= MAX_SESSIONS {
            self.log.line(Level::Warn, format_args!("connection refused: {MAX_SESSIONS} are served already"));
            return Ok(());
        }
        stream.set_nonblocking(false).context("connection")?;
        let id = self.started;
        self.started += 1;
        self.sessions.insert(id, stream.try_clone().context("connection")?);
        let prefix = self.prefix.clone();
        let named = self.named.clone();
        let launcher = self.launcher.clone();
        let exit = self.exit.clone();
        let scheduler = self.scheduler.clone();
        let ended = Ended { id, event: self.ended_event.clone(), sender: self.ended_sender.clone() };
        let session = move || {
            // Reports the end even of a session that panics.
            let _ended = ended;
            if !speaks(&stream, exit.as_fd()) {
                debug!("a connection ended without a word");
                return;
            }
            let name = format!("{prefix}{}", named.fetch_add(1, Ordering::Relaxed));
            let devices: Vec<usize> = (0..MAX_DEVICES).collect();
            let vgpu = match scheduler.add(&name, Terms::default(), &devices) {
                Ok(vgpu) => vgpu,
                Err(error) => return warn!("{name}: not served: {error}"),
            };
            let seat = Seat::new(scheduler.clone(), vgpu);
            event_loop::serve(&name, stream, launcher, Some(seat), Limits::default(), exit.as_fd());
            scheduler.remove(vgpu);
        };
        // The executor is tied to the life of this thread.
        let spawned = thread::Builder::new().name(format!("session{id}")).spawn(session);
        if let Err(error) = spawned {
            warn!("connection refused: no thread for it: {error}");
        }
        Ok(())
    }

    /// Ends every session, and waits for them a little.
    fn end(self) {
        let _full = rustix::io::write(&*self.exit, &1_u64.to_ne_bytes());
        let until = Instant::now() + END_TIMEOUT;
        let mut left = self.sessions;
        for stream in left.values() {
            // One that is in the middle of a message must not wait for the rest.
            let _gone = stream.shutdown(Shutdown::Read);
        }
        while !left.is_empty() {
            match self.ended.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(id) => left.remove(&id),
                Err(_) => {
                    debug!("{} sessions did not end in time", left.len());
                    return;
                }
            };
        }
    }
}

/// Waits for the first byte. A connection that ends before it only asked whether somebody listens, and is no
/// vGPU.
fn speaks(stream: &UnixStream, exit: BorrowedFd<'_>) -> bool {
    loop {
        let mut fds = [PollFd::new(stream, PollFlags::IN), PollFd::from_borrowed_fd(exit, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) if !fds[1].revents().is_empty() => return false,
            Ok(_) => return recv(stream, &mut [0_u8; 1], RecvFlags::PEEK).is_ok_and(|(count, _)| count > 0),
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

/// Tells the main thread, when dropped, that a session ended.
struct Ended {
    id: u64,
    event: Arc<OwnedFd>,
    sender: Sender<u64>,
}

impl Drop for Ended {
    fn drop(&mut self) {
        let _main_thread_ended = self.sender.send(self.id);
        let _full = rustix::io::write(&*self.event, &1_u64.to_ne_bytes());
    }
}
