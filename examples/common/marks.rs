//! Where what counts begins and ends, by names that a profiler knows: `cargo xtask bench instructions`.

use std::hint::black_box;

/// It begins.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn speed_samples_begin() {
    // So that it is called where it stands.
    black_box(());
}

/// It ends.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn speed_samples_end() {
    black_box(());
}
