//! Programs that compilers do not survive, for tests of those who start compilers.

use std::time::Duration;

/// A program with this in its text is built for ever.
pub const HANGS: &str = "trap: hangs";
/// With this, it takes all memory that there is, a little at a time.
pub const EATS: &str = "trap: eats";
/// With this, it crashes the process.
pub const CRASHES: &str = "trap: crashes";
/// With this, its build takes a while.
pub const SLOW: &str = "trap: slow";

/// Does to the process that builds what the program wants.
pub(super) fn spring(text: &[u8]) {
    let has = |trap: &str| text.windows(trap.len()).any(|part| part == trap.as_bytes());
    if has(HANGS) {
        loop {
            std::thread::sleep(Duration::from_secs(3600));
        }
    }
    if has(EATS) {
        let mut eaten = Vec::new();
        loop {
            eaten.push(vec![1_u8; 1 << 20]);
        }
    }
    if has(CRASHES) {
        std::process::abort();
    }
    if has(SLOW) {
        std::thread::sleep(Duration::from_millis(500));
    }
}
