//! How much staging memory the transfers of one queue have in flight.
//!
//! An application may enqueue any number of large transfers without waiting for one. Each would take staging memory of
//! its own, and making that is much slower than using some again. So beyond a limit, an enqueue first waits a little
//! for the oldest transfer. Only a little: that may be waiting for something that the application does later.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::core::completion::Completion;
use crate::core::connection::Connection;
use crate::core::copies::Copies;
use crate::core::lock;

/// Transfers shorter than this are not counted.
const COUNTED_BYTES: usize = 64 << 10;
/// What may be in flight before an enqueue waits.
const LIMIT_BYTES: usize = 64 << 20;
/// How long it waits for one transfer, unless nothing at all happens on the host: then up to a second longer.
const PATIENCE: Duration = Duration::from_millis(200);

/// Transfers in flight, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Flights(Mutex<VecDeque<Flight>>);

#[derive(Debug)]
struct Flight {
    completion: Arc<Completion>,
    /// What brings a read's bytes to the application, and its staging memory back.
    copies: Copies,
    bytes: usize,
    /// True once an enqueue has waited for it in vain.
    is_stuck: bool,
}

impl Flights {
    /// Notes a transfer that uses `bytes` of staging memory.
    pub(crate) fn add(&self, completion: &Arc<Completion>, copies: &Copies, bytes: usize) {
        if bytes >= COUNTED_BYTES {
            lock(&self.0).push_back(Flight {
                completion: completion.clone(),
                copies: copies.clone(),
                bytes,
                is_stuck: false,
            });
        }
    }

    /// Frees the staging memory of transfers that are complete, and waits for some if `bytes` more would be too many.
    pub(crate) fn make_room(&self, connection: &Connection, bytes: usize) {
        if bytes < COUNTED_BYTES {
            return;
        }
        while let Some(oldest) = self.oldest(bytes) {
            if oldest.poll().is_none() && !connection.wait_at_most(PATIENCE, || oldest.poll().is_some()) {
                self.give_up(&oldest);
                return;
            }
            self.land(&oldest);
        }
    }

    /// The transfer to look at next: one that is complete, or one that must be waited for.
    fn oldest(&self, bytes: usize) -> Option<Arc<Completion>> {
        let flights = lock(&self.0);
        let front = flights.front()?;
        let total: usize = flights.iter().map(|flight| flight.bytes).sum();
        let must_wait = total + bytes > LIMIT_BYTES && !front.is_stuck;
        (must_wait || front.completion.poll().is_some()).then(|| front.completion.clone())
    }

    fn give_up(&self, completion: &Arc<Completion>) {
        for flight in lock(&self.0).iter_mut().filter(|flight| Arc::ptr_eq(&flight.completion, completion)) {
            flight.is_stuck = true;
        }
    }

    fn land(&self, completion: &Arc<Completion>) {
        let landed = {
            let mut flights = lock(&self.0);
            match flights.front() {
                Some(front) if Arc::ptr_eq(&front.completion, completion) => flights.pop_front(),
                // Another thread was quicker.
                _ => None,
            }
        };
        if let Some(flight) = landed {
            flight.copies.perform();
            flight.completion.take_staging();
        }
    }
}

impl Connection {
    /// Sleeps until `is_done`, or for about `patience`; true if it is done.
    pub(crate) fn wait_at_most(&self, patience: Duration, is_done: impl Fn() -> bool) -> bool {
        let deadline = Instant::now() + patience;
        self.sleep_until(|| {
            if is_done() {
                return Some(true);
            }
            (self.is_lost() || Instant::now() > deadline).then_some(false)
        })
    }
}
