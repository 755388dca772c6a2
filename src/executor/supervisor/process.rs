//! Executors as processes of their own: the broker's own program, started anew.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::directory::PrivateDirectory;
use super::stderr::Listener;
use super::{Launcher, Running};

/// Argument that makes the broker's program an executor.
pub const EXECUTOR_ARGUMENT: &str = "executor";

/// Says how much to log, like `RUST_LOG`; executors log as much as their broker.
pub const LOG_VARIABLE: &str = "PARAGPU_LOG";

/// Where drivers keep what they compiled, and other files. One directory for all executors would let one vGPU read what
/// another compiled, and put code into its kernels.
const DIRECTORY_VARIABLES: [&str; 6] =
    ["TMPDIR", "HOME", "XDG_CACHE_HOME", "POCL_CACHE_DIR", "CUDA_CACHE_PATH", "NEO_CACHE_DIR"];

/// Starts `program executor` with the socket as its standard input, and a directory of its own.
#[derive(Clone, Debug)]
pub struct ProcessLauncher {
    program: PathBuf,
}

impl ProcessLauncher {
    /// Starts the program that is running now, even if its file has been replaced meanwhile.
    pub fn this_program() -> ProcessLauncher {
        ProcessLauncher { program: "/proc/self/exe".into() }
    }

    /// Starts another program.
    pub fn new(program: PathBuf) -> ProcessLauncher {
        ProcessLauncher { program }
    }
}

impl Launcher for ProcessLauncher {
    fn launch(&self, vgpu: &str, socket: UnixStream) -> io::Result<Box<dyn Running>> {
        let mut command = Command::new(&self.program);
        if std::env::var_os(LOG_VARIABLE).is_none() {
            command.env(LOG_VARIABLE, log::max_level().as_str());
        }
        let directory = PrivateDirectory::new()?;
        for variable in DIRECTORY_VARIABLES {
            command.env(variable, directory.path());
        }
        let (listener, stderr) = Listener::new(vgpu)?;
        let child = command
            .arg(EXECUTOR_ARGUMENT)
            .stdin(Stdio::from(OwnedFd::from(socket)))
            .stdout(Stdio::null())
            .stderr(Stdio::from(OwnedFd::from(stderr)))
            // Our own driver reports no device in there: the executor shares the host's devices, not ours.
            .env("PARAGPU_DISABLE", "1")
            .spawn()?;
        Ok(Box::new(Process { child, _directory: directory, _stderr: listener }))
    }
}

#[derive(Debug)]
struct Process {
    child: Child,
    /// Removed after the process has ended.
    _directory: PrivateDirectory,
    _stderr: Listener,
}

impl Running for Process {
    fn kill(&mut self) -> String {
        // Fails only for a child that has been waited for. One that is ending already keeps its own status.
        let _ended = self.child.kill();
        // Waiting lasts until its memory is unmapped.
        match self.child.wait() {
            Ok(status) => status.to_string(),
            Err(error) => format!("unknown end: {error}"),
        }
    }

    fn process(&self) -> Option<u32> {
        Some(self.child.id())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
