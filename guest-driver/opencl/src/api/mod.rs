//! The OpenCL API: one function per entry point, in the files named after the objects.
//!
//! Each function gets its arguments wrapped by [`boundary`](crate::boundary) and returns a `ClResult`; the C functions
//! around them are made in [`entries`]. Above each error stands the condition, in the specification's words.

pub(crate) mod dispatch;

mod buffer;
mod command_buffer;
mod command_buffer_entries;
mod context;
mod device;
mod entries;
mod event;
mod exports;
mod image;
mod image_transfer;
mod kernel;
mod kernel_memory;
mod memory;
mod mutable_command;
mod native;
mod pipe;
mod platform;
mod program;
mod queue;
mod sampler;
mod svm;
mod transfer;
mod usm;
