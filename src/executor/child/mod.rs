//! The executor: owns one vGPU's OpenCL objects and runs its commands.
pub mod backend;
pub mod builds;
mod completion;
mod context;
mod dispatch;
mod objects;
pub mod record;
mod recorder;
pub mod region;

pub use context::Context;
