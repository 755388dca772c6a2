//! The loop that serves one connection.

use std::io::IoSliceMut;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use log::{Level, info, warn};
use paragpu_protocol::virtio_gpu::QUEUES;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use vhost::vhost_user::{BackendReqHandler, Error as VhostError};

use super::orders::{Assignment, Order, Orders};
use super::session::Session;
use crate::executor::supervisor::Launcher;

/// Time that contexts have at the end of a session to say what they did.
const END_GRACE: Duration = Duration::from_secs(2);
/// The same when the daemon itself is told to end.
const EXIT_GRACE: Duration = Duration::from_millis(300);

/// What woke the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Exit,
    Orders,
    FrontEnd,
    Kick(usize),
    Executor,
    Wake,
    Eviction,
}

/// Serves one connection of a vGPU until it ends, it is ordered to end, or `exit` becomes readable.
pub fn serve(assignment: &Assignment, stream: UnixStream, launcher: Arc<dyn Launcher>, exit: BorrowedFd<'_>) {
    if let Err(error) = try_serve(assignment, stream, launcher, exit) {
        warn!("{}: session could not be served: {error}", assignment.name);
    }
}

fn try_serve(
    assignment: &Assignment,
    stream: UnixStream,
    launcher: Arc<dyn Launcher>,
    exit: BorrowedFd<'_>,
) -> std::io::Result<()> {
    let Assignment { name, orders, .. } = assignment;
    // The request handler wants to share the session; this thread is the only one that ever has it.
    let shared = Arc::new(Mutex::new(Session::assigned(assignment, launcher)?));
    let session = || shared.lock().unwrap_or_else(PoisonError::into_inner);
    let socket = stream.try_clone()?;
    let mut handler = BackendReqHandler::from_stream(stream, shared.clone());
    info!("{name}: connected");
    let grace = loop {
        let ready = wait(&session(), socket.as_fd(), exit, orders)?;
        if ready.contains(&Source::Exit) {
            break EXIT_GRACE;
        }
        if ready.contains(&Source::Orders) && obey(&mut session(), orders) {
            info!("{name}: its vGPU is removed");
            break END_GRACE;
        }
        // The executor first: what it confirms may be what the front end is about to wait for.
        for source in [Source::Executor, Source::Wake].into_iter().filter(|source| ready.contains(source)) {
            if source == Source::Wake { session().on_wake() } else { session().on_executor() }
        }
        if ready.contains(&Source::Eviction) {
            session().on_eviction();
        }
        for index in 0..QUEUES {
            if ready.contains(&Source::Kick(index)) {
                let mut session = session();
                clear_kick(&mut session, index);
                session.process_queue(index);
            }
        }
        session().tick();
        if ready.contains(&Source::FrontEnd) {
            match handler.handle_request() {
                Ok(()) | Err(VhostError::SocketRetry(_)) => {}
                Err(VhostError::Disconnected) => break END_GRACE,
                Err(error) => {
                    warn!("{name}: connection dropped: {error}");
                    break END_GRACE;
                }
            }
        }
    };
    session().finish(grace);
    Ok(())
}

/// Does what the daemon ordered; true if the session is to end.
fn obey(session: &mut Session, orders: &Orders) -> bool {
    let mut end = false;
    for order in orders.take() {
        match order {
            Order::KillExecutor(reason) => session.kill_executor_because(&reason),
            Order::Limits(limits) => session.set_limits(limits),
            Order::End => end = true,
        }
    }
    end
}

fn wait(
    session: &Session,
    socket: BorrowedFd<'_>,
    exit: BorrowedFd<'_>,
    orders: &Orders,
) -> std::io::Result<Vec<Source>> {
    let mut sources = vec![
        (Source::Exit, PollFd::from_borrowed_fd(exit, PollFlags::IN)),
        (Source::Orders, PollFd::from_borrowed_fd(orders.event(), PollFlags::IN)),
        (Source::FrontEnd, PollFd::from_borrowed_fd(socket, PollFlags::IN)),
        (Source::Eviction, PollFd::from_borrowed_fd(session.supervisor().eviction_event(), PollFlags::IN)),
    ];
    // Whoever rings too often is not listened to for a while.
    let now = Instant::now();
    let throttled = session.throttled(now);
    for (index, vring) in session.vrings.iter().enumerate() {
        if let Some(kick) = vring.kick().filter(|_| throttled.is_none() && vring.is_running()) {
            sources.push((Source::Kick(index), PollFd::new(kick, PollFlags::IN)));
        }
    }
    if let Some((channel, has_unsent, wake)) = session.supervisor().poll_fds() {
        let events = if has_unsent { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
        sources.push((Source::Executor, PollFd::from_borrowed_fd(channel, events)));
        sources.push((Source::Wake, PollFd::from_borrowed_fd(wake, PollFlags::IN)));
    }
    let (names, mut fds): (Vec<Source>, Vec<PollFd<'_>>) = sources.into_iter().unzip();
    let timeout = session
        .next_deadline(now, throttled)
        .map(|deadline| deadline.saturating_duration_since(Instant::now()))
        .and_then(|left| Timespec::try_from(left).ok());
    match poll(&mut fds, timeout.as_ref()) {
        Ok(_) => {}
        Err(Errno::INTR) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    }
    Ok(names.into_iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty()).map(|(name, _)| name).collect())
}

fn clear_kick(session: &mut Session, index: usize) {
    let Some(kick) = session.vrings[index].kick() else { return };
    // Without waiting, whatever the front end made of the descriptor: another queue may have the same one.
    let mut written = [0_u8; 8];
    let read = preadv2(kick, &mut [IoSliceMut::new(&mut written)], u64::MAX, ReadWriteFlags::NOWAIT);
    match read {
        // An eventfd tells how often it was written.
        Ok(1..) => session.count_kicks(u64::from_ne_bytes(written)),
        Err(Errno::AGAIN | Errno::INTR) => {}
        // Not an eventfd, or one that hung up: polling it again would spin.
        Ok(_) | Err(_) => {
            let line = format_args!("the kick descriptor of queue {index} is no eventfd");
            session.log.line(Level::Warn, line);
            session.vrings[index].set_kick(None);
        }
    }
}
