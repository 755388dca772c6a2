//! What the daemon tells a session that is being served.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

use crate::executor::devices::DeviceChoice;
use crate::limits::Limits;
use crate::sched::Seat;

/// Something that a session is to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Order {
    /// End the executor, for this reason. The guest's contexts are lost; its next one gets another executor.
    KillExecutor(String),
    /// These limits count from now on.
    Limits(Limits),
    /// End the session.
    End,
}

/// Orders that a session has not seen yet.
#[derive(Debug)]
pub struct Orders {
    waiting: Mutex<Vec<Order>>,
    event: OwnedFd,
}

impl Orders {
    /// None yet.
    pub fn new() -> std::io::Result<Orders> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Orders { waiting: Mutex::default(), event })
    }

    /// Gives one. Does not wait for the session.
    pub fn give(&self, order: Order) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        // Of limits, the last ones count: a session that hangs does not gather them.
        if let Order::Limits(_) = order {
            waiting.retain(|earlier| !matches!(earlier, Order::Limits(_)));
        }
        if !waiting.contains(&order) {
            waiting.push(order);
        }
        let _full = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
    }

    /// Readable while there are orders.
    pub(super) fn event(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// Takes all of them.
    pub(super) fn take(&self) -> Vec<Order> {
        let _counter = rustix::io::read(&self.event, &mut [0_u8; 8]);
        std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Which vGPU a connection is, and what it may do.
#[derive(Clone, Debug)]
pub struct Assignment {
    /// The connection's name in logs: the vGPU's, or one made of it.
    pub name: String,
    /// The vGPU's place with the scheduler; without one, its executors have the devices to themselves (tests).
    pub seat: Option<Seat>,
    /// The devices that its executors have; none for those that are shared where nothing is said.
    pub devices: Vec<DeviceChoice>,
    /// What the vGPU may have when the connection begins.
    pub limits: Limits,
    /// What the daemon says to it later.
    pub orders: Arc<Orders>,
}

impl Assignment {
    /// A connection that nobody schedules, with the limits of a vGPU of which nothing is said.
    pub fn alone(name: &str) -> std::io::Result<Assignment> {
        Ok(Assignment {
            name: name.to_owned(),
            seat: None,
            devices: Vec::new(),
            limits: Limits::default(),
            orders: Arc::new(Orders::new()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_limits_count_and_nothing_is_said_twice() {
        let orders = Orders::new().unwrap();
        let limits = |contexts| Limits { contexts, ..Limits::default() };
        orders.give(Order::Limits(limits(1)));
        orders.give(Order::KillExecutor("x".to_owned()));
        orders.give(Order::KillExecutor("x".to_owned()));
        orders.give(Order::Limits(limits(2)));
        orders.give(Order::End);
        let expected = [Order::KillExecutor("x".to_owned()), Order::Limits(limits(2)), Order::End].to_vec();
        assert_eq!(orders.take(), expected);
        assert_eq!(orders.take(), []);
    }
}
