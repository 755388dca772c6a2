//! The only `unsafe` besides the C boundary: memory that another process writes too, the interfaces of the two kernel
//! drivers, and `atexit`.
//! Everything here has a safe face; what makes it safe stands beside each `unsafe` block.

pub(crate) mod drm;
pub(crate) mod event;
pub(crate) mod mapping;
pub(crate) mod module;
pub(crate) mod process;
pub(crate) mod region;
pub(crate) mod shared;
pub(crate) mod stdout;
