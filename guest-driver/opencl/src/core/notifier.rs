//! Event callbacks: one thread per context, started when the first callback is registered.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crate::boundary::object::Object;
use crate::core::connection::Connection;
use crate::core::event::Event;
use crate::core::lock;

/// Calls the callbacks of events when these have started, and when they are complete.
#[derive(Debug)]
pub(crate) struct Notifier {
    connection: Arc<Connection>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    events: Vec<Arc<Object<Event>>>,
    is_running: bool,
    is_stopped: bool,
}

impl Notifier {
    pub(crate) fn new(connection: Arc<Connection>) -> Notifier {
        Notifier { connection, shared: Arc::default() }
    }

    /// Settles the event when it has started, if there is a callback for that, and when it is complete.
    ///
    /// The thread may be asleep already, waiting for other events. Whatever the host completes wakes it, this event
    /// too; the caller looks at the event once more after this, in case it was completed before the thread knew it.
    pub(crate) fn watch(&self, event: Arc<Object<Event>>) {
        let mut state = lock(&self.shared.state);
        state.events.push(event);
        if !state.is_running {
            let (connection, shared) = (self.connection.clone(), self.shared.clone());
            let thread = std::thread::Builder::new().name("paragpu-events".into());
            match thread.spawn(move || shared.run(&connection)) {
                Ok(_) => state.is_running = true,
                Err(error) => crate::debug::debug!("no thread for event callbacks: {error}"),
            }
        }
        drop(state);
        self.shared.changed.notify_one();
    }

    /// Ends the thread. Called when the context goes, so no event is left.
    pub(crate) fn stop(&self) {
        lock(&self.shared.state).is_stopped = true;
        self.shared.changed.notify_one();
    }
}

impl Shared {
    fn run(&self, connection: &Connection) {
        while self.wait_for_work() {
            // Callbacks may call OpenCL, so no lock is held.
            for event in connection.sleep_until(|| self.take_due()) {
                event.settle();
            }
        }
    }

    /// False once the thread shall end.
    fn wait_for_work(&self) -> bool {
        let state = lock(&self.state);
        let is_idle = |state: &mut State| state.events.is_empty() && !state.is_stopped;
        let state = self.changed.wait_while(state, is_idle).unwrap_or_else(PoisonError::into_inner);
        !state.is_stopped
    }

    /// The events with callbacks whose time has come; nothing while there are none. Those that are complete are forgotten.
    fn take_due(&self) -> Option<Vec<Arc<Object<Event>>>> {
        let mut state = lock(&self.state);
        let due: Vec<_> = state.events.iter().filter(|event| event.is_due()).cloned().collect();
        // Complete are at most those that are due: an event that is completed only now comes next time.
        state.events.retain(|event| {
            let is_due = due.iter().any(|due| Arc::ptr_eq(due, event));
            !(is_due && event.is_signalled())
        });
        (!due.is_empty() || state.events.is_empty()).then_some(due)
    }
}
