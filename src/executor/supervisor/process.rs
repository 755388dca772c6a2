//! Executors as processes of their own: the broker's own program, started anew.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Arc, Mutex};

use landlock::{ABI, Access, AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr};
use rustix::process::{Pid, Signal, WaitOptions, kill_process_group, waitpid};

use super::cgroup::{Cgroup, CgroupLimits, Cgroups, Usage};
use super::shared_builds::{Kept, SharedBuilds};
use super::stderr::{Listener, SharedLog};
use super::{Launcher, Running};
use crate::executor::child::{ConfineError, check_confinement};
use crate::executor::confinement::{CONFINEMENT_VARIABLE, Confinement, Sandbox, Seccomp};
use crate::executor::devices::DeviceChoice;
use crate::guest_log::GuestLog;
use crate::sys::spawn::{self, Namespaces, Program};

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

/// Why executors cannot be confined as it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Unconfined {
    /// The host does not let paragpud make namespaces.
    #[error(
        "--sandbox namespace: this host does not let paragpud make namespaces; allow it unprivileged user \
         namespaces (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone and \
         kernel.apparmor_restrict_unprivileged_userns; in a systemd unit, RestrictNamespaces=), or pass --sandbox landlock"
    )]
    Namespaces(#[source] io::Error),
    /// The kernel has no Landlock.
    #[error(
        "--sandbox: this kernel has no Landlock; boot with it in the parameter lsm=, or pass --sandbox none"
    )]
    Landlock,
    /// The configuration names something that is not there.
    #[error(transparent)]
    Policy(#[from] ConfineError),
}

/// Starts `program executor` with the socket as its standard input, a directory of its own, and namespaces of its own.
#[derive(Clone, Debug)]
pub struct ProcessLauncher {
    program: PathBuf,
    confinement: Confinement,
    namespaces: Namespaces,
    cgroups: Option<Arc<Cgroups>>,
    limits: CgroupLimits,
    /// None if nothing is left for the next executor.
    shared: Option<Arc<SharedBuilds>>,
}

impl ProcessLauncher {
    /// Starts the program that is running now, even if its file has been replaced meanwhile.
    pub fn this_program(confinement: Confinement) -> Result<ProcessLauncher, Unconfined> {
        ProcessLauncher::confined("/proc/self/exe".into(), confinement)
    }

    /// Starts another program, confined as far as this host lets us.
    pub fn new(program: PathBuf) -> ProcessLauncher {
        let confinement = Confinement::default();
        let namespaces = namespaces_here().unwrap_or(Namespaces::Shared);
        let limits = CgroupLimits::default();
        ProcessLauncher { program, confinement, namespaces, cgroups: None, limits, shared: None }
    }

    fn confined(program: PathBuf, confinement: Confinement) -> Result<ProcessLauncher, Unconfined> {
        check_confinement(&confinement)?;
        let sandbox = confinement.sandbox;
        let namespaces = match sandbox {
            Sandbox::None | Sandbox::Landlock => Namespaces::Shared,
            Sandbox::Namespace => namespaces_here().map_err(Unconfined::Namespaces)?,
            Sandbox::Auto => namespaces_here().unwrap_or_else(|error| {
                log::warn!(
                    "no namespaces for executors ({error}): processes that a guest's kernels start on a CPU device may \
                     outlive a crash of paragpud; see --sandbox"
                );
                Namespaces::Shared
            }),
        };
        if matches!(sandbox, Sandbox::Namespace | Sandbox::Landlock) && !has_landlock() {
            return Err(Unconfined::Landlock);
        }
        if sandbox == Sandbox::None {
            log::warn!("--sandbox none: guests can reach whatever paragpud can");
        }
        if confinement.seccomp == Seccomp::None {
            log::warn!("--seccomp none: guests can make any system call on CPU devices");
        }
        Ok(ProcessLauncher {
            program,
            confinement,
            namespaces,
            cgroups: None,
            limits: CgroupLimits::default(),
            shared: None,
        })
    }

    /// Starts each in a control group of its own.
    pub fn with_cgroups(self, cgroups: Option<Cgroups>) -> ProcessLauncher {
        ProcessLauncher { cgroups: cgroups.map(Arc::new), ..self }
    }

    /// The same, but its executors' control groups have these limits.
    pub fn limited(&self, limits: CgroupLimits) -> ProcessLauncher {
        ProcessLauncher { limits, ..self.clone() }
    }

    /// The same, but its executors find what earlier ones have built and left there.
    pub fn sharing(self, shared: Option<Arc<SharedBuilds>>) -> ProcessLauncher {
        ProcessLauncher { shared, ..self }
    }

    fn environment(&self, directory: &Path) -> io::Result<Vec<(OsString, OsString)>> {
        let mut environment: BTreeMap<OsString, OsString> = std::env::vars_os().collect();
        environment.entry(LOG_VARIABLE.into()).or_insert_with(|| log::max_level().as_str().into());
        for variable in DIRECTORY_VARIABLES {
            environment.insert(variable.into(), directory.into());
        }
        // Our own driver reports no device in there: the executor shares the host's devices, not ours.
        environment.insert("PARAGPU_DISABLE".into(), "1".into());
        environment.insert(CONFINEMENT_VARIABLE.into(), serde_json::to_string(&self.confinement)?.into());
        Ok(environment.into_iter().collect())
    }
}

/// The namespaces that this process may make for another. In a user namespace if possible, for root too: there its id
/// means nothing outside.
fn namespaces_here() -> io::Result<Namespaces> {
    match spawn::probe(Namespaces::OwnWithUser) {
        Ok(()) => Ok(Namespaces::OwnWithUser),
        Err(error) => match spawn::probe(Namespaces::Own) {
            Ok(()) => Ok(Namespaces::Own),
            // Only root may, so this says less.
            Err(_) => Err(error),
        },
    }
}

fn has_landlock() -> bool {
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V1));
    ruleset.and_then(|ruleset| ruleset.create()).is_ok()
}

impl Launcher for ProcessLauncher {
    fn launch(&self, vgpu: &str, socket: UnixStream) -> io::Result<Box<dyn Running>> {
        let kept = match &self.shared {
            Some(shared) => shared.take_part()?,
            None => Arc::new(Kept::new()?),
        };
        let place = Place {
            launcher: self.clone(),
            kept,
            log: Arc::new(Mutex::new(GuestLog::new(vgpu))),
            cgroup: self.cgroups.as_ref().and_then(|cgroups| cgroups.create(vgpu, &self.limits)),
        };
        Ok(Box::new(Arc::new(place).start(EXECUTOR_ARGUMENT, &[], socket)?))
    }
}

/// What an executor has for itself and its compilers.
#[derive(Debug)]
struct Place {
    launcher: ProcessLauncher,
    /// Removed after all of them have ended, like the directory if it is not shared.
    cgroup: Option<Cgroup>,
    kept: Arc<Kept>,
    log: SharedLog,
}

impl Place {
    fn start(
        self: &Arc<Self>,
        role: &'static str,
        arguments: &[&str],
        socket: UnixStream,
    ) -> io::Result<Process> {
        let (listener, stderr) = Listener::new(&self.log, role)?;
        let null = File::options().write(true).open("/dev/null")?;
        let program = Program {
            path: &self.launcher.program,
            arguments: &[&[role], arguments].concat(),
            environment: self.launcher.environment(self.kept.directory.path())?,
            stdio: [socket.as_fd(), null.as_fd(), stderr.as_fd()],
            namespaces: self.launcher.namespaces,
            cgroup: self.cgroup.as_ref().map(Cgroup::as_fd),
        };
        let pid = spawn::spawn(&program)?;
        let is_executor = role == EXECUTOR_ARGUMENT;
        Ok(Process {
            pid,
            end: None,
            is_good_end: false,
            is_executor,
            place: self.clone(),
            _stderr: listener,
        })
    }
}

#[derive(Debug)]
struct Process {
    pid: Pid,
    /// How it ended, once it has been waited for: then its id may be another's.
    end: Option<String>,
    /// It ended by itself without an error, or was killed.
    is_good_end: bool,
    /// The control group ends with it, and with that its compilers.
    is_executor: bool,
    place: Arc<Place>,
    _stderr: Listener,
}

impl Running for Process {
    fn launch_compiler(
        &self,
        memory_bytes: u64,
        devices: &[DeviceChoice],
        socket: UnixStream,
    ) -> io::Result<Box<dyn Running>> {
        let (memory, devices) = (memory_bytes.to_string(), serde_json::to_string(devices)?);
        Ok(Box::new(self.place.start(COMPILER_ARGUMENT, &[&memory, &devices], socket)?))
    }

    fn kill(&mut self) -> String {
        if let Some(end) = &self.end {
            return end.clone();
        }
        // What it started first, which is in its process group (seccomp lets none leave it) and control group. In a PID
        // namespace it ends with it, and before this returns.
        if let Some(cgroup) = self.place.cgroup.as_ref().filter(|_| self.is_executor) {
            cgroup.kill();
        }
        // Fails for none that has not been waited for. One that is ending already keeps its own status.
        let _ended = kill_process_group(self.pid, Signal::KILL);
        // Waiting lasts until its memory is unmapped, and in a PID namespace until everything in there has ended.
        let end = match waitpid(Some(self.pid), WaitOptions::empty()) {
            Ok(Some((_, status))) => {
                let status = ExitStatus::from_raw(status.as_raw());
                self.is_good_end = status.success() || status.signal() == Some(libc::SIGKILL);
                describe(status)
            }
            Ok(None) => "unknown end".to_owned(),
            Err(error) => format!("unknown end: {error}"),
        };
        self.end.insert(end).clone()
    }

    fn known(&self) -> Option<BorrowedFd<'_>> {
        Some(self.place.kept.known.as_fd())
    }

    fn process(&self) -> Option<u32> {
        u32::try_from(self.pid.as_raw_nonzero().get()).ok()
    }

    fn usage(&self) -> Option<Usage> {
        self.place.cgroup.as_ref().map(Cgroup::usage)
    }
}

fn describe(status: ExitStatus) -> String {
    if status.signal() == Some(libc::SIGSYS) {
        return format!(
            "{status}: it made a system call that executors may not make (the kernel's log names it; see docs/security.md)"
        );
    }
    status.to_string()
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if let Some(shared) = self.place.launcher.shared.as_ref().filter(|_| self.is_executor) {
            shared.executor_ended(&self.place.kept, self.is_good_end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_confinement_that_names_what_is_not_there_is_refused_before_anything_starts() {
        let confinement =
            Confinement { system_calls: vec!["socket".into(), "sockets".into()], ..Confinement::default() };
        let error = ProcessLauncher::this_program(confinement).unwrap_err();
        assert!(error.to_string().contains("no system call sockets"), "{error}");
    }

    #[test]
    fn settings_reach_the_executor_as_they_are() {
        let confinement = Confinement {
            sandbox: Sandbox::Landlock,
            seccomp: Seccomp::Log,
            read: vec!["/vendor/lib".into()],
            address_space: Some(1 << 40),
            ..Confinement::default()
        };
        let text = serde_json::to_string(&confinement).unwrap();
        assert_eq!(serde_json::from_str::<Confinement>(&text).unwrap(), confinement);
        assert_eq!(serde_json::from_str::<Confinement>("{}").unwrap(), Confinement::default());
        assert!(serde_json::from_str::<Confinement>("{\"sandbx\": \"none\"}").is_err());
    }
}
