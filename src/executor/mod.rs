//! Executors: one process per vGPU, which owns that vGPU's OpenCL objects and runs its commands.

pub mod channel;
pub mod child;
pub mod message;
