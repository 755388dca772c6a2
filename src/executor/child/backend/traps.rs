//! Programs that compilers do not survive, for tests of those who start compilers.

use std::time::Duration;

/// A program with this in its text is built for ever.
pub const HANGS: &str = "trap: hangs";
/// With this, it takes all memory that there is, a little at a time.
pub const EATS: &str = "trap: eats";
/// With this, it crashes the process.
pub const CRASHES: &str = "trap: crashes";
/// With this, whatever is linked of it is linked for ever.
pub const LINK_HANGS: &str = "trap: link hangs";
/// With this, its build takes a while.
pub const SLOW: &str = "trap: slow";

fn has(text: &[u8], trap: &str) -> bool {
    text.windows(trap.len()).any(|part| part == trap.as_bytes())
}

fn hang() {
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

/// Does to the process that links what the program wants.
pub(super) fn spring_linked(text: &[u8]) {
    if has(text, LINK_HANGS) {
        hang();
    }
}

/// Does to the process that builds what the program wants.
pub(super) fn spring(text: &[u8]) {
    let has = |trap| has(text, trap);
    if has(HANGS) {
        hang();
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
