//! The `paragpud` of a VM: started on a socket of its own, its log kept, ended with the VM.

use crate::ports::for_each_line;
use crate::process::{Bound, bound_command};
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// How long paragpud may take to make its socket.
const START_LIMIT: Duration = Duration::from_secs(20);
/// How long its summary of the session may take once the VM is gone.
const SUMMARY_LIMIT: Duration = Duration::from_secs(2);
/// How long it may take to end once asked to.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// A running paragpud.
pub(crate) struct Broker {
    process: Bound,
    lines: Receiver<String>,
    summary: Option<String>,
}

impl Broker {
    /// Starts `program` and waits until it listens on `socket`. Its log goes to the file `log`, and to stderr too if
    /// it is to be shown; what it tells, if the environment does not say so, is `level`.
    pub(crate) fn start(
        program: &Path,
        socket: &Path,
        mut log: File,
        level: &str,
        show: bool,
    ) -> Result<Broker> {
        let mut command = bound_command(program);
        command
            .arg("--socket-path")
            .arg(socket)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        if std::env::var_os("PARAGPU_LOG").is_none() {
            command.env("PARAGPU_LOG", level);
        }
        let mut process = Bound::spawn(&mut command, "paragpud")?;
        let stderr = process.child().stderr.take().context("paragpud has no stderr")?;
        let (sender, lines) = channel();
        for_each_line(stderr, move |line| {
            let Some(line) = line else { return };
            if show {
                eprintln!("paragpud: {line}");
            }
            let _ = writeln!(log, "{line}");
            let _ = sender.send(line);
        });
        let mut broker = Broker { process, lines, summary: None };
        broker.await_socket(socket)?;
        Ok(broker)
    }

    fn await_socket(&mut self, socket: &Path) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        while !socket.exists() {
            if let Some(status) = self.process.ended() {
                bail!("paragpud ended at once ({status})");
            }
            if Instant::now() > deadline {
                bail!("paragpud made no socket within {START_LIMIT:?}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// paragpud's process id.
    pub(crate) fn id(&mut self) -> u32 {
        self.process.child().id()
    }

    /// The exit status if paragpud has ended.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.process.ended()
    }

    /// Ends paragpud after its VM is gone, and returns the line with which it summed up the session.
    pub(crate) fn finish(mut self) -> Option<String> {
        self.read_until(SUMMARY_LIMIT, |broker| broker.summary.is_some());
        self.process.terminate(STOP_LIMIT);
        self.read_until(Duration::from_millis(200), |broker| broker.summary.is_some());
        self.summary
    }

    /// Takes in log lines until the log ends, `limit` is over or `enough` says so.
    fn read_until(&mut self, limit: Duration, enough: impl Fn(&Broker) -> bool) {
        let deadline = Instant::now() + limit;
        while !enough(self) {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => self.take(line),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn take(&mut self, line: String) {
        if let Some(start) = line.find("commands: ").filter(|_| line.contains(" by virtqueue")) {
            self.summary = Some(line[start..].to_owned());
        }
    }
}
