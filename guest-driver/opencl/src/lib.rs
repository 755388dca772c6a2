//! placeholder
mod sys;
pub mod transport;
