//! Executors: the processes, one per vGPU, that run a guest's commands on the host's OpenCL.

pub mod channel;
pub mod message;
