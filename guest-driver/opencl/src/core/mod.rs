//! The object model, in safe Rust.

pub(crate) mod area;
pub(crate) mod arguments;
mod background;
pub(crate) mod buffer;
pub(crate) mod command_buffer;
pub(crate) mod completion;
pub(crate) mod connection;
pub(crate) mod context;
pub(crate) mod copies;
pub(crate) mod device;
pub(crate) mod device_queue;
pub(crate) mod error;
pub(crate) mod event;
pub(crate) mod extensions;
pub(crate) mod flights;
pub(crate) mod host_task;
pub(crate) mod image;
pub(crate) mod image_transfer;
mod includes;
pub(crate) mod info;
pub(crate) mod kernel;
pub(crate) mod mapping;
pub(crate) mod memory;
pub(crate) mod mutable_command;
pub(crate) mod notifier;
mod options;
pub(crate) mod partition;
pub(crate) mod pipe;
pub(crate) mod placed;
pub(crate) mod platform;
mod prints;
pub(crate) mod program;
pub(crate) mod query;
pub(crate) mod queue;
mod recipe;
pub(crate) mod rect;
pub(crate) mod sampler;
pub(crate) mod shared;
pub(crate) mod slots;
pub(crate) mod staging;
pub(crate) mod svm;
pub(crate) mod timers;
pub(crate) mod transfer;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks, also after a panic: that was caught at the C boundary, and what these mutexes guard is whole whenever
/// something that may panic runs.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
