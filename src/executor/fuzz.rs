//! The body of the fuzz target for what the broker reads from an executor.

use std::io::Write;
use std::os::unix::net::UnixStream;

use super::channel::{Polled, PolledChannel};
use super::message::ToBroker;

/// Most bytes of an input: what a socket takes without anybody reading.
const MAX_INPUT_BYTES: usize = 64 * 1024;

/// Lets an executor send `data` and hang up. Returns how many messages were understood.
///
/// # Panics
/// If the channel waits for more though nothing can come, or if a message does not survive being sent on.
pub fn fuzz_messages(data: &[u8]) -> usize {
    let data = &data[..data.len().min(MAX_INPUT_BYTES)];
    // For want of file descriptors, or of buffer space.
    let Ok((ours, mut theirs)) = UnixStream::pair() else { return 0 };
    let Ok(()) = theirs.set_nonblocking(true) else { return 0 };
    let Ok(()) = theirs.write_all(data) else { return 0 };
    drop(theirs);
    let Ok(mut channel) = PolledChannel::new(ours) else { return 0 };
    let mut messages = 0;
    loop {
        match channel.try_recv::<ToBroker>() {
            Ok(Polled::Message((message, fds))) => {
                assert!(fds.is_empty());
                let bytes = postcard::to_stdvec(&message).expect("plain data");
                assert_eq!(postcard::from_bytes::<ToBroker>(&bytes).as_ref(), Ok(&message));
                messages += 1;
            }
            Ok(Polled::Later) => panic!("the executor hung up, and is waited for"),
            Ok(Polled::HangUp) | Err(_) => return messages,
        }
    }
}
