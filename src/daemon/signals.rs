//! Signals as something to poll.

use std::os::unix::net::UnixStream;

use anyhow::Context;

/// A socket that is readable when one of the signals came.
pub(super) fn signal_socket(signals: &[i32]) -> anyhow::Result<UnixStream> {
    let (ours, signalled) = UnixStream::pair().context("signal socket")?;
    signalled.set_nonblocking(true)?;
    for signal in signals {
        signal_hook::low_level::pipe::register(*signal, signalled.try_clone()?).context("signal handler")?;
    }
    Ok(ours)
}
