//! A daemon of a test's own, and programs to run against it.

// Each test uses its part of this file.
#![allow(dead_code, unreachable_pub, missing_docs)]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long anything here may take. Generous: test machines are slow and shared, and what hangs, hangs for ever.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Where temporary files of a daemon's executors, and of programs against it, are made in its directory: what a killed one
/// leaves goes with it.
const EXECUTORS: &str = "executors";
const GUESTS: &str = "guests";

/// A `paragpud` with a socket, a log and what its executors keep in a directory of its own; ended when dropped.
pub struct Daemon {
    child: Child,
    directory: tempfile::TempDir,
    executors: PathBuf,
}

impl Daemon {
    pub fn start() -> Daemon {
        Daemon::start_with_options(&[])
    }

    pub fn start_with_options(options: &[&str]) -> Daemon {
        let directory = tempfile::tempdir().unwrap();
        let executors = directory.path().join(EXECUTORS);
        Daemon::start_with(directory, executors, options)
    }

    /// One that has its executors' directories where another daemon has them.
    pub fn start_beside(other: &Daemon) -> Daemon {
        Daemon::start_with(tempfile::tempdir().unwrap(), other.executors.clone(), &[])
    }

    fn start_with(directory: tempfile::TempDir, executors: PathBuf, options: &[&str]) -> Daemon {
        let log = File::create(directory.path().join("log")).unwrap();
        for folder in [EXECUTORS, GUESTS] {
            fs::create_dir(directory.path().join(folder)).unwrap();
        }
        let child = Command::new(env!("CARGO_BIN_EXE_paragpud"))
            .arg("--socket-path")
            .arg(directory.path().join("socket"))
            .args(options)
            .env("TMPDIR", &executors)
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let daemon = Daemon { child, directory, executors };
        // The file is there before anybody listens.
        wait_until("the daemon to listen", || daemon.log().contains("listening on"));
        daemon
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("socket")
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What the daemon has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap()
    }

    /// The daemon's executors.
    pub fn executors(&self) -> Vec<u32> {
        children_of(self.pid())
    }

    /// Number of file descriptors that the daemon has open.
    pub fn open_files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }

    /// The private directories of its executors.
    pub fn executors_directories(&self) -> Vec<PathBuf> {
        let directories = fs::read_dir(&self.executors).unwrap();
        directories.map(|entry| entry.unwrap().path()).collect()
    }

    /// Asks it to end, as a service manager does, and waits for that; whether it ended.
    pub fn terminate(&mut self) -> bool {
        // Once waited for, its number may be another's.
        if self.is_running() {
            signal(self.pid(), Signal::TERM);
        }
        let deadline = Instant::now() + PATIENCE;
        while self.is_running() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        !self.is_running()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// `paragpu run` against this daemon.
    pub fn run(&self, program: &Path) -> Command {
        let mut command = paragpu();
        command.arg("run").arg("--socket").arg(self.socket()).arg("--").arg(program);
        command.env("TMPDIR", self.directory.path().join(GUESTS));
        command
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let ended = self.terminate();
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the daemon's log ---\n{}", self.log());
        } else {
            assert!(ended, "the daemon does not end when it is asked to; its log:\n{}", self.log());
        }
    }
}

/// The `paragpu` command, with the driver that was built along with the tests: it lies beside them, and reaches the
/// place of finished programs only with `cargo build`.
pub fn paragpu() -> Command {
    let driver = std::env::current_exe().unwrap().with_file_name("libparagpu_opencl.so");
    let mut command = Command::new(env!("CARGO_BIN_EXE_paragpu"));
    command.env("PARAGPU_ICD", driver);
    command
}

/// An example of this package, which cargo builds before it runs the tests.
pub fn example(name: &str) -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let path = tests.parent().unwrap().parent().unwrap().join("examples").join(name);
    assert!(path.exists(), "{} is not built: run `cargo build --examples`", path.display());
    path
}

/// Output of a command that must end well.
#[track_caller]
pub fn succeeds(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{command:?}: {status}\n--- stdout\n{stdout}\n--- stderr\n{stderr}");
    stdout.into_owned()
}

/// Waits for something that must happen.
#[track_caller]
pub fn wait_until(what: &str, mut happened: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !happened() {
        assert!(Instant::now() < deadline, "still waiting for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Process ids of the children of a process.
pub fn children_of(parent: u32) -> Vec<u32> {
    let parent_of = |pid: u32| -> Option<u32> {
        // "pid (name) state ppid …"; the name may hold anything.
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
    };
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| parent_of(*pid) == Some(parent))
        .collect()
}

/// Ends a process as `kill -9` does.
pub fn kill(pid: u32) {
    signal(pid, Signal::KILL);
}

/// Sends a signal to a process.
pub fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid.try_into().unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}
