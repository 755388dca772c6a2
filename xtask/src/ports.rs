//! The streams out of a guest: connected sockets of which QEMU gets one end, and threads that read the other.

use anyhow::{Context, Result};
use rustix::io::{FdFlags, fcntl_setfd};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;

/// A socket pair for one stream.
pub(crate) struct Port {
    /// The end that this process reads.
    pub(crate) ours: UnixStream,
    /// The end that QEMU inherits; dropped here once QEMU runs, so that its end shows.
    theirs: UnixStream,
}

impl Port {
    pub(crate) fn new() -> Result<Port> {
        let (ours, theirs) = UnixStream::pair().context("cannot make a socket pair")?;
        fcntl_setfd(&theirs, FdFlags::empty()).context("cannot let QEMU inherit a socket")?;
        Ok(Port { ours, theirs })
    }

    /// The number of QEMU's end.
    pub(crate) fn descriptor(&self) -> RawFd {
        self.theirs.as_raw_fd()
    }
}

/// Copies a stream to `sink` as it comes; `lost` is called if the sink takes no more.
pub(crate) fn forward(
    from: UnixStream,
    mut sink: Box<dyn Write + Send>,
    lost: impl Fn() + Send + 'static,
) -> JoinHandle<()> {
    spawn(from, move |chunk| {
        let written = sink.write_all(chunk).and_then(|()| sink.flush());
        if written.is_err() {
            lost();
        }
        written.is_ok()
    })
}

/// Writes the guest's console to `log`, and to stderr if it is to be shown.
pub(crate) fn record_console(from: UnixStream, mut log: File, show: bool) -> JoinHandle<()> {
    spawn(from, move |chunk| {
        if show {
            let _ = std::io::stderr().write_all(chunk);
        }
        log.write_all(chunk).is_ok()
    })
}

/// Calls `handle` for every line, and once with `None` at the end of the stream.
pub(crate) fn for_each_line(
    from: impl Read + Send + 'static,
    mut handle: impl FnMut(Option<String>) + Send + 'static,
) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut reader = BufReader::new(from);
        let mut line = Vec::new();
        while matches!(reader.read_until(b'\n', &mut line), Ok(length) if length > 0) {
            handle(Some(String::from_utf8_lossy(&line).trim_end().to_owned()));
            line.clear();
        }
        handle(None);
    })
}

fn spawn(mut from: UnixStream, mut take: impl FnMut(&[u8]) -> bool + Send + 'static) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(length) = from.read(&mut buffer) {
            if length == 0 || !take(&buffer[..length]) {
                return;
            }
        }
    })
}
