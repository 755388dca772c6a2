//! SIGINT, SIGTERM and SIGHUP: an interrupted command takes down its VM and removes its temporary files.
//!
//! While something is registered to hear of signals it gets them and ends in its own time; otherwise a signal ends
//! the process at once, as it does by default.

use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::sync::{Mutex, OnceLock, PoisonError};

type Listener = Box<dyn Fn(i32) + Send>;

static LISTENER: Mutex<Option<Listener>> = Mutex::new(None);
static THREAD: OnceLock<()> = OnceLock::new();

/// Signals go to the listener for as long as this lives.
pub(crate) struct Listening(());

impl Drop for Listening {
    fn drop(&mut self) {
        *LISTENER.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Gives further signals to `listener` instead of letting them end the process.
pub(crate) fn listen(listener: impl Fn(i32) + Send + 'static) -> Result<Listening> {
    *LISTENER.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(listener));
    let listening = Listening(());
    if THREAD.get().is_none() {
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot handle signals")?;
        std::thread::spawn(move || signals.forever().for_each(deliver));
        THREAD.get_or_init(|| ());
    }
    Ok(listening)
}

fn deliver(signal: i32) {
    match &*LISTENER.lock().unwrap_or_else(PoisonError::into_inner) {
        Some(listener) => listener(signal),
        None => std::process::exit(128 + signal),
    }
}
