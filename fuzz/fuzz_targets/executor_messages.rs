//! What the broker reads from an executorx27s socket.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    paragpu::executor::fuzz::fuzz_messages(data);
});
