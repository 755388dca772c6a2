//! paragpu, host side. `docs/architecture.md` tells the whole; in short:
//!
//! - [`daemon`] listens, and gives every connection a thread and a name;
//! - [`config`] is what the operator wants, [`registry`] which vGPUs there are because of that, and [`admin`] how the
//!   operator sees and changes them while they run;
//! - [`vhost`] is such a connection: a vhost-user session with its queues and the guest's memory;
//! - [`device`] is the virtio-gpu behind it, pure: requests in, actions out;
//! - [`vgpu`] is the control block, plain data: what the guest has made, and what it used;
//! - [`executor`] is the process that runs the guest's commands, and the broker's side of it;
//! - [`sched`] decides whose commands may go to a device, by the [`lease`] that each executor has or wants, and counts what
//!   each has used; [`limits`] is what a vGPU may have otherwise;
//! - [`cli`] is the `paragpu` tool; [`sys`] holds what cannot be said in safe Rust.
//!
//! One session is one thread, which alone touches that connection's state; others reach it through its orders, and through
//! the scheduler. Which vGPUs there are is the main thread's to know.
//! The broker trusts neither the guest, nor the front end, nor an executor: each can end its own vGPU at most.

pub mod admin;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod device;
pub mod executor;
pub mod guest_log;
pub mod lease;
pub mod limits;
pub mod recorder;
pub mod registry;
pub mod sched;
pub mod sys;
pub mod vgpu;
pub mod vhost;
