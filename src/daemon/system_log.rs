//! The system's log, for a process whose standard error nobody keeps: libvirt starts launchers with /dev/null there.

use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;

use env_logger::Target;
use log::Level;
use rustix::fs::{FileType, fstat, major, minor};

/// Where syslog and journald listen.
const SOCKET: &str = "/dev/log";

/// The facility of daemons, as syslog numbers them.
const DAEMON: u32 = 3 << 3;

/// Has the log go there if it would be lost otherwise.
pub(super) fn use_if_stderr_is_lost(builder: &mut env_logger::Builder) {
    if !stderr_is_null() {
        return;
    }
    let Ok(log) = UnixDatagram::unbound().and_then(|socket| socket.connect(SOCKET).map(|()| socket)) else {
        return;
    };
    builder.target(Target::Pipe(Box::new(Lines(log))));
    let pid = std::process::id();
    builder.format(move |line, record| {
        let priority = DAEMON | severity(record.level());
        write!(line, "<{priority}>paragpud[{pid}]: {}", record.args())
    });
}

fn stderr_is_null() -> bool {
    fstat(io::stderr()).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
            && (major(stat.st_rdev), minor(stat.st_rdev)) == (1, 3)
    })
}

fn severity(level: Level) -> u32 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// Each line is a message.
struct Lines(UnixDatagram);

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.send(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
