//! What kernels print: from the host to this process's standard output.
//!
//! Drivers on the same machine print when the kernel has run. Here what was printed is fetched when a launch that may
//! print is complete: by whoever observes that ([`Connection::print`]), so that it is there before that call returns, and
//! otherwise by a thread that lives while such launches are in flight.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use paragpu_protocol::command::ReadPrint;

use crate::core::completion::Completion;
use crate::core::connection::Connection;
use crate::core::error::ClResult;
use crate::core::lock;
use crate::debug::debug;
use crate::sys::stdout;

/// Fetched at a time.
const CHUNK_BYTES: usize = 64 * 1024;
/// How often what long kernels print is fetched while they run.
const INTERVAL: Duration = Duration::from_millis(500);
/// How long the thread lives when nothing is in flight.
const IDLE: Duration = Duration::from_secs(1);
/// How long a process that ends waits for launches that may be over in a moment.
const EXIT_PATIENCE: Duration = Duration::from_millis(100);

/// The launches of a connection that may print.
#[derive(Debug, Default)]
pub(crate) struct Prints {
    /// Launches whose text is not all written. Zero for programs that do not print, at no cost.
    open: AtomicUsize,
    launches: Mutex<Launches>,
    changed: Condvar,
    /// Held from fetching to writing: text is written in order, and is there for whoever had to wait.
    writing: Mutex<()>,
    /// Standard output was closed when the connection was opened: its number may be that of something of ours.
    is_closed: bool,
}

#[derive(Debug, Default)]
struct Launches {
    in_flight: Vec<Arc<Completion>>,
    has_thread: bool,
}

impl Prints {
    /// Before the connection opens descriptors.
    pub(crate) fn new() -> Prints {
        Prints { is_closed: !stdout::is_open(), ..Prints::default() }
    }
}

impl Connection {
    /// Notes a launch that may print.
    pub(crate) fn will_print(self: &Arc<Self>, launch: Arc<Completion>) {
        let prints = self.prints();
        let mut launches = lock(&prints.launches);
        prints.open.fetch_add(1, Ordering::Relaxed);
        launches.in_flight.push(launch);
        if !launches.has_thread {
            static AT_EXIT: std::sync::Once = std::sync::Once::new();
            AT_EXIT.call_once(|| stdout::at_exit(print_at_exit));
            let connection = self.clone();
            let thread = std::thread::Builder::new().name("paragpu-printf".into());
            match thread.spawn(move || connection.print_while_in_flight()) {
                Ok(_) => launches.has_thread = true,
                Err(error) => debug!("no thread for what kernels print: {error}"),
            }
        }
        drop(launches);
        prints.changed.notify_all();
    }

    /// Writes what kernels that are complete have printed, before the application is told that they are.
    pub(crate) fn print(&self) {
        if self.prints().open.load(Ordering::Relaxed) != 0 && self.is_this_process() {
            self.print_some(false);
        }
    }

    /// Writes what was printed, if a launch is complete or `anyhow`.
    fn print_some(&self, anyhow: bool) {
        let prints = self.prints();
        let _in_order = lock(&prints.writing);
        let complete = {
            let mut launches = lock(&prints.launches);
            let (running, complete): (Vec<_>, Vec<_>) =
                launches.in_flight.drain(..).partition(|launch| launch.poll().is_none());
            launches.in_flight = running;
            complete.len()
        };
        if (complete != 0 || anyhow)
            && let Err(error) = self.fetch_all(prints.is_closed)
        {
            debug!("what kernels printed is lost: {error:?}");
        }
        // Not before: who finds nothing open takes it that everything is written.
        prints.open.fetch_sub(complete, Ordering::Relaxed);
    }

    fn fetch_all(&self, discard: bool) -> ClResult<()> {
        let staging = self.staging(CHUNK_BYTES)?;
        loop {
            let slot = self.slot()?;
            let sent = self.send(&ReadPrint { dst: staging.span(), reply: slot.to_ref() }, &[], &[]);
            let outcome = sent.and_then(|()| self.wait(&slot).ok());
            let len = match outcome {
                Ok(outcome) => (outcome.len as usize).min(staging.len()),
                Err(error) => {
                    // It may still be written to.
                    self.retire(slot, Some(staging));
                    return Err(error);
                }
            };
            let mut text = vec![0; len];
            staging.read(0, &mut text);
            if !discard {
                stdout::write(&text);
            }
            if len < staging.len() {
                return Ok(());
            }
        }
    }

    /// The thread: writes what nobody else looks for.
    fn print_while_in_flight(&self) {
        while self.has_launches() {
            let is_complete = || {
                let launches = lock(&self.prints().launches);
                launches.in_flight.iter().any(|launch| launch.poll().is_some())
            };
            let none_is = !self.wait_at_most(INTERVAL, is_complete);
            self.print_some(none_is);
        }
    }

    /// False once the thread shall end.
    fn has_launches(&self) -> bool {
        let prints = self.prints();
        let launches = lock(&prints.launches);
        let is_idle = |launches: &mut Launches| launches.in_flight.is_empty();
        let waited = prints.changed.wait_timeout_while(launches, IDLE, is_idle);
        let (mut launches, _) = waited.unwrap_or_else(PoisonError::into_inner);
        launches.has_thread = !launches.in_flight.is_empty();
        launches.has_thread
    }
}

/// When the process ends, the thread is given a moment. It holds whatever locks there are; here is only waited.
extern "C" fn print_at_exit() {
    let Some(connection) = Connection::at_exit() else { return };
    let deadline = Instant::now() + EXIT_PATIENCE;
    while connection.prints().open.load(Ordering::Relaxed) != 0 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
}
