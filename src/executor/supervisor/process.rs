//! Executors as processes of their own: the broker's own program, started anew.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use rustix::process::{Pid, Signal, kill_process_group};

use super::directory::PrivateDirectory;
use super::stderr::{Listener, SharedLog};
use super::{Launcher, Running};
use crate::guest_log::GuestLog;

/// Argument that makes the broker's program an executor.
pub const EXECUTOR_ARGUMENT: &str = "executor";

/// Argument that makes it an executor's compiler. The bytes of memory that a build may have come behind it.
pub const COMPILER_ARGUMENT: &str = "compiler";

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
        let place = Place {
            launcher: self.clone(),
            directory: PrivateDirectory::new()?,
            log: Arc::new(Mutex::new(GuestLog::new(vgpu))),
        };
        Ok(Box::new(Arc::new(place).start(EXECUTOR_ARGUMENT, None, socket)?))
    }
}

/// What an executor has for itself and its compilers.
#[derive(Debug)]
struct Place {
    launcher: ProcessLauncher,
    /// Removed after all of them have ended.
    directory: PrivateDirectory,
    log: SharedLog,
}

impl Place {
    fn start(
        self: &Arc<Self>,
        role: &'static str,
        argument: Option<String>,
        socket: UnixStream,
    ) -> io::Result<Process> {
        let mut command = Command::new(&self.launcher.program);
        if std::env::var_os(LOG_VARIABLE).is_none() {
            command.env(LOG_VARIABLE, log::max_level().as_str());
        }
        for variable in DIRECTORY_VARIABLES {
            command.env(variable, self.directory.path());
        }
        let (listener, stderr) = Listener::new(&self.log, role)?;
        let child = command
            .arg(role)
            .args(argument)
            .stdin(Stdio::from(OwnedFd::from(socket)))
            .stdout(Stdio::null())
            .stderr(Stdio::from(OwnedFd::from(stderr)))
            // Our own driver reports no device in there: the executor shares the host's devices, not ours.
            .env("PARAGPU_DISABLE", "1")
            // Drivers have programs compile for them, which are to end with whoever started them.
            .process_group(0)
            .spawn()?;
        Ok(Process { child, place: self.clone(), _stderr: listener })
    }
}

#[derive(Debug)]
struct Process {
    child: Child,
    place: Arc<Place>,
    _stderr: Listener,
}

impl Running for Process {
    fn launch_compiler(&self, memory_bytes: u64, socket: UnixStream) -> io::Result<Box<dyn Running>> {
        Ok(Box::new(self.place.start(COMPILER_ARGUMENT, Some(memory_bytes.to_string()), socket)?))
    }

    fn kill(&mut self) -> String {
        // Until it has been waited for, nobody else's group has the number. Fails if there is nobody in it.
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            let _ended = Pid::from_raw(self.child.id().cast_signed())
                .map(|group| kill_process_group(group, Signal::KILL));
        }
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
