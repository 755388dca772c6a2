//! The only `unsafe` on the host side: memory that others write to, [guest memory that vanishes](sigbus), the C
//! boundary of OpenCL, and inherited descriptors.
//!
//! Everything that leaves this module is safe to use in any order and with any numbers, but for the functions that
//! take over descriptors.

pub mod compute;
pub mod compute_probe;
pub mod inherited;
pub mod map;
pub mod opencl;
pub mod sigbus;
