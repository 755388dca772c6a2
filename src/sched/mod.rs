//! Who has a device when.
//!
//! A vGPU's executor sends commands to a device only while it has a [lease](crate::lease) on it. Of each device an
//! `Arbiter` decides who gets one and who must give it back: by the [terms](policy) of each vGPU, and by the device time
//! that each has used. It is pure; the [`Scheduler`] is the thread around it, which reads and writes the words that it
//! shares with executors.

mod account;
mod arbiter;
mod hold;
mod participation;
pub mod policy;
mod scheduler;
mod service;
mod state;
mod trace;
pub mod usage;

pub use participation::{Participation, Seat};
pub use scheduler::{AlreadyTracing, Evicted, Scheduler, VgpuId};
pub use service::Meter;
pub use trace::Trace;
