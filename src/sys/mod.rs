//! The only `unsafe` on the host side: memory that others write to, and the C boundary of OpenCL.
//!
//! Everything that leaves this module is safe to use in any order and with any numbers.

pub mod compute;
pub mod map;
pub mod opencl;
