//! The only `unsafe` besides the C boundary.

pub(crate) mod shared;
