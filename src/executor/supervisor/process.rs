//! Executors as processes of their own: the broker's own program, started anew.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use rustix::process::{Pid, Signal, kill_process_group};

use super::directory::PrivateDirectory;
use super::stderr::Listener;
use super::{Launcher, Running};

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
        let directory = Arc::new(PrivateDirectory::new()?);
        let arguments = [OsString::from(EXECUTOR_ARGUMENT)];
        Ok(Box::new(self.start(vgpu, &arguments, directory, socket)?))
    }
}

impl ProcessLauncher {
    fn start(
        &self,
        vgpu: &str,
        arguments: &[OsString],
        directory: Arc<PrivateDirectory>,
        socket: UnixStream,
    ) -> io::Result<Process> {
        let mut command = Command::new(&self.program);
        if std::env::var_os(LOG_VARIABLE).is_none() {
            command.env(LOG_VARIABLE, log::max_level().as_str());
        }
        for variable in DIRECTORY_VARIABLES {
            command.env(variable, directory.path());
        }
        let (listener, stderr) = Listener::new(vgpu)?;
        let child = command
            .args(arguments)
            .stdin(Stdio::from(OwnedFd::from(socket)))
            .stdout(Stdio::null())
            .stderr(Stdio::from(OwnedFd::from(stderr)))
            // Our own driver reports no device in there: the executor shares the host's devices, not ours.
            .env("PARAGPU_DISABLE", "1")
            // Drivers have programs compile for them, which are to end with whoever started them.
            .process_group(0)
            .spawn()?;
        let (launcher, vgpu) = (self.clone(), vgpu.to_owned());
        Ok(Process { child, launcher, vgpu, directory, _stderr: listener })
    }
}

#[derive(Debug)]
struct Process {
    child: Child,
    launcher: ProcessLauncher,
    vgpu: String,
    /// Removed after the process has ended, and its compilers.
    directory: Arc<PrivateDirectory>,
    _stderr: Listener,
}

impl Running for Process {
    fn launch_compiler(&self, memory_bytes: u64, socket: UnixStream) -> io::Result<Box<dyn Running>> {
        let arguments = [COMPILER_ARGUMENT.into(), memory_bytes.to_string().into()];
        let launcher = &self.launcher;
        Ok(Box::new(launcher.start(&self.vgpu, &arguments, self.directory.clone(), socket)?))
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
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
