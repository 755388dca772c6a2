//! Do the processes of a vGPU build without a compiler what others of it have built, if its operator wants that, and does
//! nobody else?

mod common;
mod configured;

use std::path::PathBuf;
use std::process::{Child, Stdio};

use configured::{Daemon, wait_until};

const CONFIG: &str = "[[vgpu]]\nname = \"one\"\nsocket = \"DIR/one\"\nshare-builds = true\n\
                      [[vgpu]]\nname = \"other\"\nsocket = \"DIR/other\"\nshare-builds = true\n\
                      [[vgpu]]\nname = \"plain\"\nsocket = \"DIR/plain\"\n";

fn start(daemon: &Daemon, vgpu: &str) -> Child {
    let mut command = common::paragpu();
    command.arg("run").arg("--socket").arg(daemon.at(vgpu)).arg("--").arg(common::example("device_load"));
    command.args(["--kernels", "3", "--iterations", "1000", "--seconds", "0.3"]);
    command.env("TMPDIR", daemon.directory.path()).stdout(Stdio::null()).spawn().unwrap()
}

/// True if a compiler was there while the process ran, or after it: compilers stay as long as it does.
fn compiles(daemon: &Daemon, mut process: Child) -> bool {
    let role = |pid| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let is_compiler = |pid: &u32| role(*pid).contains("\0compiler\0");
    let mut compiled = false;
    let status = loop {
        compiled |= common::children_of(daemon.child.id()).iter().any(is_compiler);
        if let Some(status) = process.try_wait().unwrap() {
            break status;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    };
    assert!(status.success());
    wait_until("nobody to be connected", || daemon.names().iter().all(|name| daemon.connections(name) == 0));
    compiled
}

fn directories(daemon: &Daemon) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(daemon.directory.path()).unwrap();
    entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "held"))
        .collect()
}

#[test]
fn a_process_builds_without_a_compiler_what_another_of_its_vgpu_has_built() {
    let daemon = Daemon::start(CONFIG);
    let first = ["one", "other", "plain"].map(|vgpu| compiles(&daemon, start(&daemon, vgpu)));
    assert_eq!(first, [true; 3]);
    assert_eq!(directories(&daemon).len(), 2, "of those that share");
    let again = ["one", "other", "plain"].map(|vgpu| compiles(&daemon, start(&daemon, vgpu)));
    assert_eq!(again, [false, false, true]);

    // Under other limits it is not known how the build ends.
    let set = |vgpu: &str, what: &str| assert!(daemon.tool(&["set", vgpu, what]).status.success());
    set("one", "limits.build-seconds=59");
    assert!(compiles(&daemon, start(&daemon, "one")) && !compiles(&daemon, start(&daemon, "one")));
    set("one", "share-builds=false");
    wait_until("its directory to be removed", || directories(&daemon).len() == 1);
    assert!(compiles(&daemon, start(&daemon, "one")));
    set("one", "share-builds=true");
    assert!(compiles(&daemon, start(&daemon, "one")), "what was known was forgotten");
    assert!(daemon.tool(&["remove", "other"]).status.success());
    wait_until("its directory to be removed", || directories(&daemon).len() == 1);
}

#[test]
fn what_is_left_goes_with_the_daemon() {
    let mut daemon = Daemon::start(CONFIG);
    compiles(&daemon, start(&daemon, "one"));
    assert_eq!(directories(&daemon).len(), 1);
    daemon.signal(rustix::process::Signal::TERM);
    assert!(daemon.child.wait().unwrap().success());
    assert_eq!(directories(&daemon).len(), 0);
}
