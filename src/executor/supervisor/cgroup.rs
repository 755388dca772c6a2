//! Control groups (v2) of executors' own: limits that no guest can argue with, the end of all that an executor started,
//! and what it used.
//!
//! paragpud needs a group that it may manage: systemd's `Delegate=yes` makes its own one such.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// Limits of each executor. What is not said is not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct CgroupLimits {
    /// Most bytes of memory (memory.max); an executor that wants more is ended.
    pub memory_bytes: Option<u64>,
    /// Most time on CPUs, in per cent of one (cpu.max).
    pub cpu_percent: Option<u32>,
    /// Most threads and processes (pids.max).
    pub tasks: Option<u64>,
}

/// What an executor has used. What the host does not count is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Bytes of memory now.
    pub memory_bytes: Option<u64>,
    /// Most bytes of memory so far.
    pub memory_peak_bytes: Option<u64>,
    /// Time on CPUs.
    pub cpu_time: Option<Duration>,
}

/// The group in which paragpud may make groups.
#[derive(Debug)]
pub struct Cgroups {
    directory: PathBuf,
    made: AtomicU64,
}

/// The controllers that limits need.
const CONTROLLERS: [&str; 3] = ["memory", "cpu", "pids"];

/// Length of the period in which `cpu.max` counts.
const PERIOD_US: u64 = 100_000;

/// What `--cgroup` says for the group that paragpud runs in.
pub const OWN: &str = "self";

/// Start of the names of executors' groups. The daemon's process id and a number are their end.
const PREFIX: &str = "executor-";

impl Cgroups {
    /// Uses the group at `path`, or for [`OWN`] the one that this process runs in.
    pub fn open(path: &Path) -> io::Result<Cgroups> {
        let directory = if path == Path::new(OWN) { own_directory()? } else { path.to_owned() };
        let offered = fs::read_to_string(directory.join("cgroup.controllers")).map_err(|error| {
            io::Error::new(error.kind(), format!("not a directory of cgroup v2: {error}"))
        })?;
        let offered: Vec<&str> =
            offered.split_whitespace().filter(|name| CONTROLLERS.contains(name)).collect();
        let missing: Vec<&str> = CONTROLLERS.into_iter().filter(|name| !offered.contains(name)).collect();
        if !missing.is_empty() {
            log::warn!("{}: no controller for {}: not limited", directory.display(), missing.join(", "));
        }
        if let Err(error) = enable(&directory, &offered) {
            // A group with processes of its own cannot have groups with limits: ours, most likely.
            if error.raw_os_error() != Some(Errno::BUSY.raw_os_error()) {
                return Err(error);
            }
            let broker = directory.join("broker");
            make(&broker)?;
            fs::write(broker.join("cgroup.procs"), std::process::id().to_string())?;
            enable(&directory, &offered)?;
        }
        remove_abandoned(&directory);
        Ok(Cgroups { directory, made: AtomicU64::new(0) })
    }

    /// A group for a vGPU's executor; none if that fails, which is logged.
    pub(super) fn create(&self, vgpu: &str, limits: &CgroupLimits) -> Option<Cgroup> {
        // The name may hold anything that a file's may not.
        let name: String = vgpu.chars().map(|char| if char.is_alphanumeric() { char } else { '_' }).collect();
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let directory = self.directory.join(format!("{PREFIX}{name}-{}-{number}", std::process::id()));
        match Cgroup::new(directory.clone(), limits) {
            Ok(group) => Some(group),
            Err(error) => {
                log::warn!("{vgpu}: {}: {error}; not limited", directory.display());
                None
            }
        }
    }
}

/// `0::/path` names the group of version 2, wherever that is mounted.
fn own_directory() -> io::Result<PathBuf> {
    let groups = fs::read_to_string("/proc/self/cgroup")?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::/"));
    let path =
        path.ok_or_else(|| io::Error::new(io::ErrorKind::Unsupported, "this host has no cgroup v2"))?;
    let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
    let root = roots.into_iter().find(|root| root.join("cgroup.controllers").exists());
    let root = root.ok_or_else(|| io::Error::new(io::ErrorKind::Unsupported, "no cgroup v2 is mounted"))?;
    Ok(root.join(path))
}

/// Removes the groups of daemons that were killed; one in which something still runs cannot be removed.
fn remove_abandoned(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let daemon =
            name.to_str().filter(|name| name.starts_with(PREFIX)).and_then(|name| name.rsplit('-').nth(1));
        if daemon.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _in_use = fs::remove_dir(entry.path());
        }
    }
}

fn enable(directory: &Path, controllers: &[&str]) -> io::Result<()> {
    let wanted: Vec<String> = controllers.iter().map(|name| format!("+{name}")).collect();
    if wanted.is_empty() {
        Ok(())
    } else {
        fs::write(directory.join("cgroup.subtree_control"), wanted.join(" "))
    }
}

fn make(directory: &Path) -> io::Result<()> {
    match fs::create_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// An executor's group; removed when dropped.
#[derive(Debug)]
pub(super) struct Cgroup {
    directory: PathBuf,
    handle: File,
}

impl Cgroup {
    fn new(directory: PathBuf, limits: &CgroupLimits) -> io::Result<Cgroup> {
        make(&directory)?;
        let group = Cgroup { handle: File::open(&directory)?, directory };
        for (file, value) in settings(limits) {
            let path = group.directory.join(file);
            // Without its controller it is not there, which was said when the daemon started.
            if path.exists() {
                fs::write(path, value)?;
            }
        }
        Ok(group)
    }

    /// For a process to be born in it.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }

    /// Kills all that is in it. Before Linux 5.14 nothing happens, and the executor itself is killed all the same.
    pub(super) fn kill(&self) {
        if let Err(error) = fs::write(self.directory.join("cgroup.kill"), "1") {
            log::debug!("{}: {error}", self.directory.display());
        }
    }

    pub(super) fn usage(&self) -> Usage {
        let read = |file: &str| fs::read_to_string(self.directory.join(file)).ok();
        let number = |file: &str| read(file)?.trim().parse().ok();
        Usage {
            memory_bytes: number("memory.current"),
            memory_peak_bytes: number("memory.peak"),
            cpu_time: read("cpu.stat").as_deref().and_then(cpu_time),
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // What was killed leaves it a little later.
        for _ in 0..50 {
            match fs::remove_dir(&self.directory) {
                Err(error) if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => {
                    std::thread::sleep(Duration::from_millis(2));
                }
                _ => return,
            }
        }
        log::debug!("{} is not removed", self.directory.display());
    }
}

/// Files of a group, and what is written there.
fn settings(limits: &CgroupLimits) -> Vec<(&'static str, String)> {
    let memory = limits.memory_bytes.map(|bytes| ("memory.max", bytes.to_string()));
    // Otherwise what did not fit would go there.
    let swap = limits.memory_bytes.map(|_| ("memory.swap.max", "0".to_owned()));
    // A linker that is left alone, or an executor without its linker, is of no use.
    let together = limits.memory_bytes.map(|_| ("memory.oom.group", "1".to_owned()));
    let cpu = limits.cpu_percent.map(|percent| {
        let quota = u64::from(percent) * PERIOD_US / 100;
        ("cpu.max", format!("{} {PERIOD_US}", quota.max(1000)))
    });
    let tasks = limits.tasks.map(|tasks| ("pids.max", tasks.to_string()));
    [memory, swap, together, cpu, tasks].into_iter().flatten().collect()
}

fn cpu_time(stat: &str) -> Option<Duration> {
    let usage = stat.lines().find_map(|line| line.strip_prefix("usage_usec "))?;
    Some(Duration::from_micros(usage.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_written_in_the_kernels_words_where_there_is_a_controller() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("executor");
        fs::create_dir(&directory).unwrap();
        for file in ["memory.max", "cpu.max"] {
            fs::write(directory.join(file), "max").unwrap();
        }
        let limits = CgroupLimits { memory_bytes: Some(1 << 30), cpu_percent: Some(150), tasks: Some(100) };
        let group = Cgroup::new(directory.clone(), &limits).unwrap();
        let read = |file: &str| fs::read_to_string(directory.join(file)).unwrap();
        assert_eq!((read("memory.max"), read("cpu.max")), ("1073741824".into(), "150000 100000".into()));
        assert!(!directory.join("pids.max").exists());
        group.kill();
        assert_eq!(read("cgroup.kill"), "1");
        assert!(settings(&limits).contains(&("pids.max", "100".into())));
        assert_eq!(settings(&CgroupLimits::default()), []);
    }

    #[test]
    fn usage_is_what_the_host_counts() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("executor");
        fs::create_dir(&directory).unwrap();
        let group = Cgroup::new(directory.clone(), &CgroupLimits::default()).unwrap();
        assert_eq!(group.usage(), Usage::default());
        fs::write(directory.join("memory.current"), "4096\n").unwrap();
        fs::write(directory.join("memory.peak"), "8192\n").unwrap();
        fs::write(directory.join("cpu.stat"), "usage_usec 1500\nuser_usec 1000\nsystem_usec 500\n").unwrap();
        let usage = group.usage();
        assert_eq!((usage.memory_bytes, usage.memory_peak_bytes), (Some(4096), Some(8192)));
        assert_eq!(usage.cpu_time, Some(Duration::from_micros(1500)));
    }

    #[test]
    fn controllers_are_enabled_as_far_as_they_are_there_and_groups_go_with_their_executor() {
        let parent = tempfile::tempdir().unwrap();
        assert!(Cgroups::open(parent.path()).is_err(), "no directory of cgroup v2");
        fs::write(parent.path().join("cgroup.controllers"), "cpuset cpu memory").unwrap();
        let abandoned = parent.path().join("executor-vm-0-7");
        fs::create_dir(&abandoned).unwrap();
        let groups = Cgroups::open(parent.path()).unwrap();
        assert!(!abandoned.exists(), "there is no process 0");
        let enabled = fs::read_to_string(parent.path().join("cgroup.subtree_control")).unwrap();
        assert_eq!(enabled, "+cpu +memory");
        let limits = CgroupLimits::default();
        let (one, other) = (groups.create("vm/0", &limits).unwrap(), groups.create("vm/0", &limits).unwrap());
        assert_ne!(one.directory, other.directory);
        assert_eq!(one.directory.parent(), Some(parent.path()));
        let directory = one.directory.clone();
        drop(one);
        assert!(!directory.exists() && other.directory.exists());
    }
}
