//! The streams out of a guest: connected sockets of which QEMU gets one end, sockets that other VMMs connect to for their
//! guests' vsock, and a terminal; and threads that read them.

use anyhow::{Context, Result};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
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

/// A stream that comes when the VMM connects to a socket, which it does when its guest connects to a vsock port.
pub(crate) struct Awaited {
    listener: UnixListener,
    stream: Option<UnixStream>,
    path: PathBuf,
}

impl Awaited {
    /// A socket for port `number`, for a VMM that was told to use `vsock`.
    pub(crate) fn new(vsock: &Path, number: u32) -> Result<Awaited> {
        let mut path = vsock.as_os_str().to_owned();
        path.push(format!("_{number}"));
        let listener = UnixListener::bind(&path).context("cannot make a socket for the guest")?;
        Ok(Awaited { listener, stream: None, path: path.into() })
    }

    /// Where it is; who connects there and hangs up ends the stream if nobody has connected yet.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Read for Awaited {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => none.insert(self.listener.accept()?.0),
        };
        stream.read(buffer)
    }
}

/// A new terminal: the end that is read here, and the one that is a program's terminal.
pub(crate) fn terminal() -> Result<(File, File)> {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
        .context("cannot make a terminal")?;
    grantpt(&ours).and_then(|()| unlockpt(&ours)).context("cannot use a new terminal")?;
    let name = ptsname(&ours, Vec::new()).context("a new terminal has no name")?;
    let theirs = File::options().read(true).write(true).open(OsStr::from_bytes(name.to_bytes()));
    Ok((File::from(ours), theirs.context("cannot open a new terminal")?))
}

/// Copies a stream to `sink` as it comes; `lost` is called if the sink takes no more.
pub(crate) fn forward(
    from: impl Read + Send + 'static,
    mut sink: Box<dyn Write + Send>,
    lost: impl Fn() + Send + 'static,
) -> JoinHandle<Result<()>> {
    spawn(from, move |chunk| {
        let written = sink.write_all(chunk).and_then(|()| sink.flush());
        if written.is_err() {
            lost();
        }
        written.is_ok()
    })
}

/// Writes the guest's console to `log`, and to stderr if it is to be shown.
pub(crate) fn record_console(
    from: impl Read + Send + 'static,
    mut log: File,
    show: bool,
) -> JoinHandle<Result<()>> {
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

fn spawn(
    mut from: impl Read + Send + 'static,
    mut take: impl FnMut(&[u8]) -> bool + Send + 'static,
) -> JoinHandle<Result<()>> {
    std::thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(length) = from.read(&mut buffer) {
            if length == 0 || !take(&buffer[..length]) {
                break;
            }
        }
        Ok(())
    })
}
