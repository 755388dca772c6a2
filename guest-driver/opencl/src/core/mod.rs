//! The object model, in safe Rust.

mod background;
pub(crate) mod buffer;
pub(crate) mod completion;
pub(crate) mod connection;
pub(crate) mod context;
pub(crate) mod copies;
pub(crate) mod device;
pub(crate) mod error;
pub(crate) mod event;
pub(crate) mod extensions;
pub(crate) mod flights;
mod includes;
pub(crate) mod info;
pub(crate) mod kernel;
pub(crate) mod mapping;
pub(crate) mod notifier;
mod options;
pub(crate) mod platform;
pub(crate) mod program;
pub(crate) mod query;
pub(crate) mod queue;
mod recipe;
pub(crate) mod rect;
pub(crate) mod slots;
pub(crate) mod staging;
pub(crate) mod transfer;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks, also after a panic: that was caught at the C boundary, and what these mutexes guard is whole whenever
/// something that may panic runs.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
