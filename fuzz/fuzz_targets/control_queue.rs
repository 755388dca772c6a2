//! The control queue, between a guest and an executor that both say anything.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    paragpu::device::fuzz::fuzz_requests(data);
});
