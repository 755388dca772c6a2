//! Who has the device when.

pub mod policy;
mod scheduler;
pub mod usage;

pub use scheduler::{Scheduler, VgpuId};
