//! paragpu, host side. `docs/architecture.md` tells the whole; in short:
//!
//! - [`daemon`] listens, and gives every connection a thread and a name;
//! - [`vhost`] is such a connection: a vhost-user session with its queues and the guest's memory;
//! - [`device`] is the virtio-gpu behind it, pure: requests in, actions out;
//! - [`vgpu`] is the control block, plain data: what the guest has made, and what it used;
//! - [`executor`] is the process that runs the guest's commands, and the broker's side of it;
//! - [`cli`] is the `paragpu` tool; [`sys`] holds what cannot be said in safe Rust.
//!
//! One session is one thread, which alone touches that vGPU's state; threads share nothing but an exit event.
//! The broker trusts neither the guest, nor the front end, nor an executor: each can end its own vGPU at most.

pub mod cli;
pub mod daemon;
pub mod device;
pub mod executor;
pub mod guest_log;
pub mod lease;
pub mod limits;
pub mod recorder;
pub mod sched;
pub mod sys;
pub mod vgpu;
pub mod vhost;
