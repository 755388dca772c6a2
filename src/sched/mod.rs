//! Who has the device when.

pub mod policy;
