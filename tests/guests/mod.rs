//! Programs on the vGPUs of a configured daemon.

// Each test uses its part of this file.
#![allow(dead_code, unreachable_pub, missing_docs)]

use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

use crate::common::{self, children_of, example, kill};
use crate::configured::{Daemon, wait_until};

/// An example with its arguments, on a vGPU whose socket has its name.
pub fn command(daemon: &Daemon, vgpu: &str, program: &str, arguments: &[&str]) -> Command {
    let mut command = common::paragpu();
    command.arg("run").arg("--socket").arg(daemon.at(vgpu)).arg("--").arg(example(program)).args(arguments);
    command.env("TMPDIR", daemon.directory.path());
    command
}

/// A program that runs; ended when dropped.
pub struct Guest(Option<Child>);

/// How it ended, and what it said.
#[derive(Debug)]
pub struct Ended {
    pub success: bool,
    pub said: String,
    pub complained: String,
}

impl Guest {
    pub fn start(daemon: &Daemon, vgpu: &str, program: &str, arguments: &[&str]) -> Guest {
        let mut command = command(daemon, vgpu, program, arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Guest(Some(command.spawn().unwrap()))
    }

    /// One that keeps the device busy for so many seconds.
    pub fn load(daemon: &Daemon, vgpu: &str, seconds: &str) -> Guest {
        Guest::start(daemon, vgpu, "device_load", &["--seconds", seconds, "--iterations", "100000"])
    }

    /// The first line that it says.
    pub fn says(&mut self) -> String {
        use std::io::{BufRead, BufReader};
        let said = self.0.as_mut().unwrap().stdout.as_mut().unwrap();
        let mut line = String::new();
        // By the byte, so that nothing of what follows is swallowed.
        BufReader::with_capacity(1, said).read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    pub fn has_ended(&mut self) -> bool {
        self.0.as_mut().unwrap().try_wait().unwrap().is_some()
    }

    /// Waits for its end.
    #[track_caller]
    pub fn end(mut self) -> Ended {
        wait_until("a program's end", || self.has_ended());
        let Output { status, stdout, stderr } = self.0.take().unwrap().wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Ended { success: status.success(), said: text(stdout), complained: text(stderr) }
    }

    /// Kills the program itself, so that it can say nothing to anybody.
    pub fn kill(mut self) {
        self.kill_all();
    }

    fn kill_all(&mut self) {
        let Some(mut child) = self.0.take() else { return };
        for program in children_of(child.id()) {
            kill(program);
        }
        let _ = child.kill();
        let _ = child.wait();
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.kill_all();
    }
}

impl Ended {
    /// Of a load: that all results were right, and how long it took in seconds.
    #[track_caller]
    pub fn is_right(&self) -> f64 {
        assert!(self.success, "{self:?}");
        let json: Value = serde_json::from_str(&self.said).unwrap();
        assert!(json["wrong"] == 0 && json["kernels"].as_u64().unwrap() > 0, "{json}");
        json["seconds"].as_f64().unwrap()
    }
}

/// Kernels that a vGPU has launched so far.
pub fn launches(daemon: &Daemon, vgpu: &str) -> u64 {
    usage(daemon, vgpu, "launches")
}

/// A number of what a vGPU has used.
pub fn usage(daemon: &Daemon, vgpu: &str, key: &str) -> u64 {
    daemon.get(&format!("/v1/vgpus/{vgpu}"))["usage"][key].as_u64().unwrap()
}

/// How a vGPU stands.
pub fn standing(daemon: &Daemon, vgpu: &str) -> String {
    daemon.get(&format!("/v1/vgpus/{vgpu}"))["standing"].as_str().unwrap().to_owned()
}

/// vGPUs by name, each with a socket of its name, on PoCL's device, of which more may be said.
pub fn config(device: &str, vgpus: &[(&str, &str)]) -> String {
    let device =
        format!("[[device]]\nname = \"cpu\"\nplatform = \"Portable Computing Language\"\n{device}\n");
    vgpus.iter().fold(device, |config, (name, keys)| {
        format!("{config}[[vgpu]]\nname = \"{name}\"\nsocket = \"DIR/{name}\"\n{keys}\n")
    })
}
