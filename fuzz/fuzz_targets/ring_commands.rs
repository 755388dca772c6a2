//! Everything behind the ring.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    paragpu::executor::child::fuzz::fuzz_frames(data);
});
