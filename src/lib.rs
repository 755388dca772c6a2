//! paragpu, host side.
pub mod executor;
