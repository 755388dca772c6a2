//! paragpu, host side.
pub mod executor;
pub mod sys;
