//! What an executor writes to its standard error: our own lines, and those of drivers and compilers. Whoever has taken
//! an executor over writes there too, so it goes into the log as everything else that a guest can cause.

use std::io::{self, Read};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use log::Level;

use crate::guest_log::{GuestLog, printable};

/// Longest line that is kept; the rest of it is dropped.
const MAX_LINE_BYTES: usize = 1024;

/// The log of an executor and its compilers, which share its limit: however many processes a guest has started, it gets no
/// more lines.
pub(super) type SharedLog = Arc<Mutex<GuestLog>>;

/// The broker's end. Closed when dropped: nothing that an executor left behind is listened to.
#[derive(Debug)]
pub(super) struct Listener(UnixStream);

impl Listener {
    /// Listens in a thread of its own, to what lines start with that name in the log. Returns the process's end too.
    pub(super) fn new(log: &SharedLog, name: &'static str) -> io::Result<(Listener, UnixStream)> {
        let (ours, theirs) = UnixStream::pair()?;
        let from = ours.try_clone()?;
        let log = log.clone();
        let listen = move || {
            read_lines(from, |line| {
                log_line(&mut log.lock().unwrap_or_else(PoisonError::into_inner), name, line);
            });
        };
        thread::Builder::new().name("executor-stderr".to_owned()).spawn(listen)?;
        Ok((Listener(ours), theirs))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // What was written already is still read. Fails only if the other end is gone, and then it is over anyway.
        let _gone = self.0.shutdown(Shutdown::Both);
    }
}

fn log_line(log: &mut GuestLog, name: &str, line: &[u8]) {
    let line = printable(&String::from_utf8_lossy(line));
    // Our own lines say their level before anything else; a false one moves nothing but its own line. The rest is
    // what drivers say, most of it about guests' programs that do not compile.
    let start: String = line.chars().take(40).collect();
    match Level::iter().find(|level| start.contains(level.as_str())).unwrap_or(Level::Info) {
        // Only who asked for that many lines gets them.
        level @ (Level::Debug | Level::Trace) => log.detail(level, format_args!("{name}: {line}")),
        level => log.line(level, format_args!("{name}: {line}")),
    }
}

fn read_lines(mut from: impl Read, mut each: impl FnMut(&[u8])) {
    let mut line = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let count = match from.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        for byte in &chunk[..count] {
            if *byte == b'\n' {
                each(&line);
                line.clear();
            } else if line.len() < MAX_LINE_BYTES {
                line.push(*byte);
            }
        }
    }
    if !line.is_empty() {
        each(&line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_and_the_last_needs_no_end() {
        let mut long = vec![b'x'; 100_000];
        long.extend(b"\nsecond\n\nlast");
        let mut lines = Vec::new();
        read_lines(&long[..], |line| lines.push(line.to_vec()));
        assert_eq!(lines[0], vec![b'x'; MAX_LINE_BYTES]);
        assert_eq!(lines[1..], [b"second".to_vec(), Vec::new(), b"last".to_vec()]);
    }
}
