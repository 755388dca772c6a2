//! The executor.
pub mod backend;
