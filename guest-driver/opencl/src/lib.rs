//! The OpenCL driver of a paragpu guest: an installable client driver (ICD) that the OpenCL loader finds through
//! `/etc/OpenCL/vendors/paragpu.icd`.
//!
//! From the application to the host:
//!
//! - `boundary`: the only place where the application's pointers are followed: handles, arrays, callbacks.
//! - `api`: one function per OpenCL entry point. It checks the arguments, with the specification's condition
//!   above each error, so that whatever is posted to the host needs no answer.
//! - `core`: the objects, in safe Rust: contexts, queues, buffers, programs, kernels, events.
//! - [`transport`]: the door to the device.

mod api;
mod boundary;
mod core;
mod debug;
mod sys;
pub mod transport;
