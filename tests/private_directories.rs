//! Do executors' private directories go with them, whatever becomes of their daemon?

mod common;

use std::path::PathBuf;
use std::process::{Child, Stdio};

use common::{Daemon, example, kill, succeeds, wait_until};

/// A program that is busy on a vGPU until it is killed or loses that.
struct Guest(Child);

impl Guest {
    /// Returns its executor's directory, too.
    fn start(daemon: &Daemon) -> (Guest, PathBuf) {
        let before = daemon.executors_directories();
        let mut command = daemon.run(&example("vgpu_check"));
        let guest = Guest(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let mut directory = None;
        wait_until("an executor's directory", || {
            let mut directories = daemon.executors_directories().into_iter();
            directory = directories.find(|path| !before.contains(path) && path.extension().is_some());
            directory.is_some()
        });
        (guest, directory.unwrap())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        for child in common::children_of(self.0.id()) {
            kill(child);
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn they_go_with_their_executor() {
    let daemon = Daemon::start();
    succeeds(daemon.run(&example("vgpu_check")).args(["--only", "vector addition"]));
    wait_until("the directory to be removed", || daemon.executors_directories().is_empty());
}

#[test]
fn they_go_with_a_daemon_that_is_asked_to_end() {
    let mut daemon = Daemon::start();
    let (_guest, directory) = Guest::start(&daemon);
    assert!(daemon.terminate(), "{}", daemon.log());
    assert!(!directory.exists(), "{}", daemon.log());
}

#[test]
fn what_a_killed_daemon_leaves_the_next_one_removes_and_nothing_else() {
    let killed = Daemon::start();
    let bystander = Daemon::start_beside(&killed);
    let (_other_guest, in_use) = Guest::start(&bystander);
    let (_guest, abandoned) = Guest::start(&killed);
    let executors = killed.executors();
    kill(killed.pid());
    // They end with the daemon, and write until then.
    let is_gone = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        // Not everything that runs as the first process collects orphans.
        !stat.is_ok_and(|stat| !stat.contains(") Z "))
    };
    wait_until("its executors to end", || executors.iter().all(is_gone));
    assert!(abandoned.exists());
    let next = Daemon::start_beside(&killed);
    wait_until("the killed daemon's directory to be removed", || !abandoned.exists());
    let (_next_guest, _) = Guest::start(&next);
    assert!(in_use.exists(), "the bystander's");
}
