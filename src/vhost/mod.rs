//! vhost-user: one session per connection, each a vGPU of its own.
//!
//! Built on the `vhost` crate rather than `vhost-user-backend`: that one has no hook on ring stop, by which we
//! must have stopped touching guest memory; drops the connection when a front end acks a feature bit that was
//! not offered, as QEMU does; and knows no in-flight requests.
//!
//! A session is one thread with one poll loop. Everything that happens to a vGPU happens there, so nothing is
//! locked.

pub mod event_loop;
pub mod inflight;
pub mod memory;
pub mod orders;
pub mod queue;
mod requests;
pub mod session;
