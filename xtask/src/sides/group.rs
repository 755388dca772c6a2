//! Child processes that are ended with all that they started.

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often to look whether a process has ended.
const TICK: Duration = Duration::from_millis(5);

/// The groups that live now.
static LIVE: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// A child that leads a process group; whatever is left of the group when it ends is killed.
pub(crate) struct Group {
    child: Child,
    id: Pid,
    ended: bool,
}

impl Group {
    /// Starts `command` as the leader of a group.
    pub(crate) fn spawn(command: &mut Command) -> Result<Group> {
        let program = command.get_program().to_owned();
        let child = command
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let id = Pid::from_child(&child);
        live(|groups| groups.push(id));
        Ok(Group { child, id, ended: false })
    }

    /// The leader, to take its pipes.
    pub(crate) fn leader(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Waits at most for `limit`, and ends the group. The status is the leader's, if it ended by itself.
    pub(crate) fn wait(mut self, limit: Duration) -> Result<Option<ExitStatus>> {
        let by_itself = self.leader_ends(limit)?;
        let status = self.end()?;
        Ok(by_itself.then_some(status))
    }

    /// Asks all of the group to end, waits at most for `limit`, and ends it.
    pub(crate) fn terminate(mut self, limit: Duration) -> Result<()> {
        // Fails only if all have ended already.
        let _ended = kill_process_group(self.id, Signal::TERM);
        self.leader_ends(limit)?;
        self.end()?;
        Ok(())
    }

    /// Whether the leader ends within `limit`. It is not reaped, so that the group's number stays its own.
    fn leader_ends(&self, limit: Duration) -> Result<bool> {
        let deadline = Instant::now() + limit;
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        loop {
            if waitid(WaitId::Pid(self.id), options).context("cannot wait for a process")?.is_some() {
                return Ok(true);
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
            std::thread::sleep(TICK);
        }
    }

    fn end(&mut self) -> Result<ExitStatus> {
        self.ended = true;
        let _ended = kill_process_group(self.id, Signal::KILL);
        live(|groups| groups.retain(|id| *id != self.id));
        self.child.wait().context("cannot wait for a process")
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.ended {
            let _status = self.end();
        }
    }
}

fn live(change: impl FnOnce(&mut Vec<Pid>)) {
    change(&mut LIVE.lock().unwrap_or_else(PoisonError::into_inner));
}

/// Kills every group that lives, before this process ends without dropping them.
pub(crate) fn kill_all() {
    live(|groups| {
        for id in groups.drain(..) {
            let _ended = kill_process_group(id, Signal::KILL);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::Group;
    use std::path::Path;
    use std::process::Command;
    use std::time::Duration;

    fn shell(script: &str) -> Group {
        Group::spawn(Command::new("sh").args(["-c", script])).unwrap()
    }

    #[test]
    fn the_status_of_a_process_that_ends_is_its_own() {
        assert_eq!(shell("exit 3").wait(Duration::from_secs(60)).unwrap().unwrap().code(), Some(3));
    }

    #[test]
    fn a_process_that_hangs_is_killed_with_what_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {}; wait", file.display());
        let group = shell(&script);
        let pid = loop {
            match std::fs::read_to_string(&file) {
                Ok(text) if text.ends_with('\n') => break text.trim().to_owned(),
                _ => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        assert!(group.wait(Duration::ZERO).unwrap().is_none());
        // Whoever inherits it reaps it in their own time.
        let is_gone = || match std::fs::read_to_string(Path::new("/proc").join(&pid).join("stat")) {
            Ok(stat) => stat.contains(") Z "),
            Err(_) => true,
        };
        while !is_gone() {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
