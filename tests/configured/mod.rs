//! A daemon with a configuration file in a directory of its own, and its admin socket.

// Each test uses its part of this file.
#![allow(dead_code, unreachable_pub, missing_docs)]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use vhost::VhostBackend;
use vhost::vhost_user::Frontend;

/// How long anything here may take. Generous: test machines are slow and shared, and what hangs, hangs for ever.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Daemon {
    pub child: Child,
    pub directory: tempfile::TempDir,
}

impl Daemon {
    /// One that serves this configuration; `DIR` in it is a directory of its own, and its admin socket is there.
    pub fn start(config: &str) -> Daemon {
        Daemon::start_in(tempfile::tempdir().unwrap(), config)
    }

    pub fn start_in(directory: tempfile::TempDir, config: &str) -> Daemon {
        write_config(directory.path(), config);
        let child = spawn(directory.path());
        let daemon = Daemon { child, directory };
        daemon.wait_for_admin_socket();
        daemon
    }

    /// Ends it as `kill -9` does, and starts another one in its place, with a new log.
    pub fn crash_and_restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = spawn(self.directory.path());
        self.wait_for_admin_socket();
    }

    fn wait_for_admin_socket(&self) {
        wait_until("the admin socket", || {
            self.log().contains("admin socket at") || self.log().contains("ERROR")
        });
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.at("log")).unwrap()
    }

    /// Replaces the configuration and has it read, and waits for what the log says then.
    #[track_caller]
    pub fn reload(&self, config: &str, says: &str) {
        write_config(self.directory.path(), config);
        let before = self.log().matches(says).count();
        self.signal(Signal::HUP);
        wait_until(says, || self.log().matches(says).count() > before);
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub fn ask(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let (status, body) = ask(&self.at("admin.sock"), method, path, body);
        (status, serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}")))
    }

    pub fn get(&self, path: &str) -> Value {
        let (status, json) = self.ask("GET", path, "");
        assert_eq!(status, 200, "{json}");
        json
    }

    /// The names of the vGPUs.
    pub fn names(&self) -> Vec<String> {
        let vgpus = self.get("/v1/vgpus");
        vgpus["vgpus"]
            .as_array()
            .unwrap()
            .iter()
            .map(|vgpu| vgpu["name"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Number of connections of a vGPU.
    pub fn connections(&self, vgpu: &str) -> usize {
        self.get(&format!("/v1/vgpus/{vgpu}"))["connections"].as_array().unwrap().len()
    }

    /// `paragpu` with its admin socket.
    pub fn tool(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_paragpu"));
        command.args(arguments).arg("--socket").arg(self.at("admin.sock")).output().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the daemon's log ---\n{}", self.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(directory: &Path) -> Child {
    let log = File::create(directory.join("log")).unwrap();
    Command::new(env!("CARGO_BIN_EXE_paragpud"))
        .arg("--config")
        .arg(directory.join("config.toml"))
        .arg("--admin-socket")
        .arg(directory.join("admin.sock"))
        .env("TMPDIR", directory)
        .stdin(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

pub fn write_config(directory: &Path, config: &str) {
    let text = config.replace("DIR", directory.to_str().unwrap());
    fs::write(directory.join("config.toml"), text).unwrap();
}

/// Asks over HTTP, in as few words as possible.
pub fn ask(socket: &Path, method: &str, path: &str, body: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(socket).unwrap();
    let length = body.len();
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// A front end that has said who it is.
pub fn speak(socket: &Path) -> Frontend {
    let front_end = Frontend::from_stream(UnixStream::connect(socket).unwrap(), 2);
    front_end.set_owner().unwrap();
    assert_ne!(front_end.get_features().unwrap(), 0);
    front_end
}

/// True if the connection is still served.
pub fn is_served(front_end: &Frontend) -> bool {
    front_end.get_features().is_ok()
}

#[track_caller]
pub fn wait_until(what: &str, mut happened: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !happened() {
        assert!(Instant::now() < deadline, "still waiting for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
