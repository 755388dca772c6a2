//! The only `unsafe` on the host side: memory that others write to, [guest memory that vanishes](sigbus), the C
//! boundary of OpenCL, inherited descriptors, the start of a process in namespaces of its own, scheduling
//! attributes, and C streams.
//!
//! Everything that leaves this module is safe to use in any order and with any numbers, but for the functions that
//! take over or close inherited descriptors, and for the guard of a mapping, which must not outlive it: their callers
//! (`daemon`, `vhost::memory`) say why that holds.

pub mod background;
pub mod compute;
pub mod compute_probe;
pub mod image;
pub mod inherited;
pub mod map;
pub mod opencl;
pub mod sigbus;
pub mod spawn;
pub mod stdio;
