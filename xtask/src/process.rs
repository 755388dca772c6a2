//! Child processes that never outlive this one.

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsStr;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

/// A command whose process the kernel kills when this one dies, however that happens.
///
/// `setpriv` (of util-linux, which every Debian has) sets PR_SET_PDEATHSIG and then becomes the program itself, so
/// the process id is the program's and no `unsafe` between fork and exec is needed here.
pub(crate) fn bound_command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// A running child, killed when dropped.
pub(crate) struct Bound(Child);

impl Bound {
    /// Starts `command`, best one made by [`bound_command`].
    pub(crate) fn spawn(command: &mut Command, what: &str) -> Result<Bound> {
        let child = command.spawn().with_context(|| format!("cannot start {what}"))?;
        Ok(Bound(child))
    }

    /// The child, to take its pipes.
    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    /// The exit status if the process has ended.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().ok().flatten()
    }

    /// Waits for the process to end by itself, at most for `limit`.
    pub(crate) fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            let status = self.ended();
            if status.is_some() || Instant::now() >= deadline {
                return status;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Asks the process to end with SIGTERM and waits at most for `limit`; what is left then is killed on drop.
    pub(crate) fn terminate(&mut self, limit: Duration) -> Option<ExitStatus> {
        if self.ended().is_none() {
            // A failure means that it has just ended, which the wait below sees.
            let _ = kill_process(Pid::from_child(&self.0), Signal::TERM);
        }
        self.wait(limit)
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        if self.ended().is_none() {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}
