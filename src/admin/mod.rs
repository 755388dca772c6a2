//! The admin socket: HTTP/1.1 with JSON (docs/admin-api.md), and Prometheus's metrics.
//!
//! Few routes and no concurrency to speak of do not need an HTTP server's machinery: `httparse` takes requests apart, and
//! what is left is small. `tiny_http` would hide the socket, of which the peer's credentials are wanted; `hyper` would
//! bring an asynchronous runtime along. Each connection is one request on a thread of its own, with a deadline and with
//! caps on its size, so that nobody holds anything up; what is asked goes through the
//! [mailbox](crate::registry::mailbox) to the daemon's main thread, but for timelines, which take a while.

pub mod api;
mod http;
pub mod metrics;
mod routes;

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::thread;

use log::{Level, debug};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use rustix::event::{PollFd, PollFlags, poll};

use crate::guest_log::GuestLog;
use crate::registry::mailbox::Mailbox;
use crate::sched::Scheduler;
use http::Exchange;
use routes::{Access, Behind};

/// Requests that are served at once.
const MAX_REQUESTS: usize = 32;

/// Of these, those of others than root and the daemon's user: they must not keep the operator out.
const MAX_OTHERS: usize = 16;

/// Where the admin thread listens.
#[derive(Debug, Default)]
pub struct Listeners {
    /// The admin socket.
    pub admin: Option<UnixListener>,
    /// For metrics alone.
    pub metrics: Option<TcpListener>,
}

/// Serves requests until `exit` is readable. Returns at once; the work is done by threads.
pub fn start(
    listeners: Listeners,
    mailbox: Mailbox,
    scheduler: Arc<Scheduler>,
    exit: Arc<OwnedFd>,
) -> io::Result<()> {
    if let Some(admin) = &listeners.admin {
        admin.set_nonblocking(true)?;
    }
    if let Some(metrics) = &listeners.metrics {
        metrics.set_nonblocking(true)?;
    }
    let mut server = Server {
        behind: Behind { mailbox, scheduler },
        privileged: Arc::new(()),
        others: Arc::new(()),
        log: GuestLog::new("admin"),
    };
    let serve = move || {
        if let Err(error) = server.serve(&listeners, &exit) {
            log::error!("the admin socket is not served any more: {error}");
        }
    };
    thread::Builder::new().name("admin".to_owned()).spawn(serve).map(drop)
}

struct Server {
    behind: Behind,
    /// As many references as there are requests, and one.
    privileged: Arc<()>,
    others: Arc<()>,
    log: GuestLog,
}

impl Server {
    fn serve(&mut self, listeners: &Listeners, exit: &OwnedFd) -> io::Result<()> {
        loop {
            let mut fds = vec![PollFd::new(exit, PollFlags::IN)];
            fds.extend(listeners.admin.as_ref().map(|admin| PollFd::new(admin, PollFlags::IN)));
            fds.extend(listeners.metrics.as_ref().map(|metrics| PollFd::new(metrics, PollFlags::IN)));
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            if !fds[0].revents().is_empty() {
                return Ok(());
            }
            if let Some(admin) = &listeners.admin {
                self.accept(admin.accept().map(|(stream, _)| {
                    let access = access(&stream);
                    (stream, access)
                }));
            }
            if let Some(metrics) = &listeners.metrics {
                self.accept(metrics.accept().map(|(stream, _)| (stream, Access::Metrics)));
            }
        }
    }

    fn accept<S>(&mut self, accepted: io::Result<(S, Access)>)
    where
        S: io::Read + io::Write + AsFd + Send + 'static,
    {
        let (stream, access) = match accepted {
            Ok(accepted) => accepted,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            // Out of descriptors, most likely: better later than a busy loop.
            Err(error) => {
                self.log.line(Level::Warn, format_args!("cannot accept a connection: {error}"));
                return thread::sleep(std::time::Duration::from_millis(100));
            }
        };
        let (running, most) = match access {
            Access::Change => (&self.privileged, MAX_REQUESTS - MAX_OTHERS),
            Access::Read | Access::Metrics => (&self.others, MAX_OTHERS),
        };
        if Arc::strong_count(running) > most {
            return self
                .log
                .line(Level::Warn, format_args!("a request is dropped: {most} are served already"));
        }
        let running = running.clone();
        let behind = self.behind.clone();
        let answer = move || {
            let _running = running;
            let mut exchange = Exchange::new(stream);
            let response = match exchange.read() {
                Ok(request) => routes::respond(&request, access, &behind, || exchange.is_there()),
                Err(http::ReadError::Refused(response)) => response,
                // Nobody is there for an answer.
                Err(http::ReadError::Gone(reason)) => {
                    return debug!("admin: a request was not read: {reason}");
                }
            };
            if let Err(error) = exchange.write(&response) {
                debug!("admin: an answer was not taken: {error}");
            }
        };
        if let Err(error) = thread::Builder::new().name("request".to_owned()).spawn(answer) {
            self.log.line(Level::Warn, format_args!("no thread for a request: {error}"));
        }
    }
}

/// What the process at the other end may do: root and the daemon's own user anything; whoever else the socket's
/// permissions let in may look.
fn access(stream: &std::os::unix::net::UnixStream) -> Access {
    match getsockopt(stream, PeerCredentials) {
        Ok(peer) if peer.uid() == 0 || peer.uid() == rustix::process::geteuid().as_raw() => Access::Change,
        Ok(_) => Access::Read,
        Err(error) => {
            debug!("admin: nobody knows who asks: {error}");
            Access::Read
        }
    }
}
