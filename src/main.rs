//! paragpu
fn main() {}
