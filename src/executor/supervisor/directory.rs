//! Directories of executors' own, for what drivers keep, and the end of those that a killed daemon left.
//!
//! The daemon holds each locked (flock) for as long as it is used, and only a locked one gets a name that ends in
//! [`HELD`]. So one with such a name that nobody holds is a dead daemon's, whichever daemon looks, and however new it is.
//! Whatever cleans temporary directories by age, as systemd does, leaves locked ones alone, too.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{
    AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, ResolveFlags, Stat, flock, fstat, open, openat2,
    statat,
};
use rustix::io::Errno;
use rustix::process::geteuid;

const PREFIX: &str = "paragpu-executor-";
/// End of the name of a directory that is locked unless its daemon has died.
const HELD: &str = ".held";

/// Longest path within a directory that is looked at, in bytes. Drivers' caches have a few levels. Each directory takes as
/// much memory of the daemon as its path has bytes, and as much time, until it has been looked into.
const MAX_PATH_BYTES: usize = 256;

/// Unit in which the operating system counts what a file takes of a disk.
const BLOCK_BYTES: u64 = 512;

/// An executor's directory; removed when dropped.
#[derive(Debug)]
pub(super) struct PrivateDirectory {
    path: PathBuf,
    /// Keeps it locked, where the file system can; not inherited by executors.
    _lock: Option<File>,
}

impl PrivateDirectory {
    /// Makes one among the temporary files.
    pub(super) fn new() -> io::Result<PrivateDirectory> {
        PrivateDirectory::new_in(&std::env::temp_dir())
    }

    fn new_in(parent: &Path) -> io::Result<PrivateDirectory> {
        let made = tempfile::Builder::new()
            .prefix(PREFIX)
            .permissions(Permissions::from_mode(0o700))
            .tempdir_in(parent)?;
        let lock = match try_lock(made.path()) {
            Ok(lock) => lock,
            Err(error) => {
                log::debug!("{} stays if this daemon is killed: {error}", made.path().display());
                return Ok(PrivateDirectory { path: made.keep(), _lock: None });
            }
        };
        let mut held = made.path().as_os_str().to_owned();
        held.push(HELD);
        fs::rename(made.path(), &held)?;
        // Under that name there is nothing any more.
        let _unnamed = made.keep();
        Ok(PrivateDirectory { path: held.into(), _lock: Some(lock) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// True if there are more bytes or entries in it, or if that cannot be found out. Looks at no more of them than that,
    /// whatever others do in there meanwhile, and nowhere else.
    pub(super) fn has_more_than(&self, bytes: u64, entries: usize) -> bool {
        match self.count(bytes, entries) {
            Ok(is_within) => !is_within,
            Err(error) => {
                log::debug!("{}: {error}", self.path.display());
                true
            }
        }
    }

    fn count(&self, mut bytes: u64, mut entries: usize) -> io::Result<bool> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = open(&self.path, flags | OFlags::NOFOLLOW, Mode::empty())?;
        // It stays as long as it was when it had most entries, and takes as long to read.
        let Some(left) = bytes.checked_sub(taken(&fstat(&root)?)) else { return Ok(false) };
        bytes = left;
        let mut unseen = vec![PathBuf::from(".")];
        while let Some(path) = unseen.pop() {
            let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            let directory = match openat2(&root, &path, flags, Mode::empty(), within) {
                // Whoever else is there removes files, too.
                Err(Errno::NOENT) => continue,
                directory => directory?,
            };
            for entry in Dir::read_from(&directory)? {
                let entry = entry?;
                let name = entry.file_name();
                if [c".", c".."].contains(&name) {
                    continue;
                }
                let stat = match statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Err(Errno::NOENT) => continue,
                    stat => stat?,
                };
                let (Some(entries_left), Some(bytes_left)) =
                    (entries.checked_sub(1), bytes.checked_sub(taken(&stat)))
                else {
                    return Ok(false);
                };
                (entries, bytes) = (entries_left, bytes_left);
                if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                    let path = path.join(OsStr::from_bytes(name.to_bytes()));
                    if path.as_os_str().len() > MAX_PATH_BYTES {
                        return Ok(false);
                    }
                    unseen.push(path);
                }
            }
        }
        Ok(true)
    }
}

/// Bytes that a file takes of a disk.
fn taken(stat: &Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or(u64::MAX).saturating_mul(BLOCK_BYTES)
}

impl Drop for PrivateDirectory {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Removes the directories of this user's daemons that were killed.
pub fn remove_abandoned() {
    remove_abandoned_in(&std::env::temp_dir());
}

fn remove_abandoned_in(parent: &Path) {
    let entries = match fs::read_dir(parent) {
        Ok(entries) => entries,
        Err(error) => return log::debug!("{}: {error}", parent.display()),
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if !name.to_str().is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(HELD)) {
            continue;
        }
        // Names are not used twice: what was locked here under this name is what is removed under it. Executors may change
        // permissions, and those of their directory, too.
        let lock = try_lock(&entry.path()).or_else(|error| {
            let is_shut = error.kind() == io::ErrorKind::PermissionDenied;
            if is_shut && make_accessible(&entry.path()).is_ok() {
                try_lock(&entry.path())
            } else {
                Err(error)
            }
        });
        if let Ok(_lock) = lock {
            log::debug!("{} is of a daemon that was killed", entry.path().display());
            remove(&entry.path());
        }
    }
}

/// Locks a directory of this user's, unless somebody else has it locked. A link to one is none.
fn try_lock(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = File::from(open(path, flags, Mode::empty())?);
    if directory.metadata()?.uid() != geteuid().as_raw() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    flock(&directory, FlockOperation::NonBlockingLockExclusive)?;
    Ok(directory)
}

/// Lets us into a directory of this user's; a link to one is none.
fn make_accessible(path: &Path) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = open(path, flags, Mode::empty())?;
    if fstat(&directory)?.st_uid != geteuid().as_raw() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    // What is open for its path alone has no permissions to change, but a name of its own.
    fs::set_permissions(format!("/proc/self/fd/{}", directory.as_raw_fd()), Permissions::from_mode(0o700))
}

/// In processes of their own: how deep an executor made the tree is not for the daemon's stack to find out.
fn remove(path: &Path) {
    let succeeds = |program: &str, options: &[&str]| {
        let mut command = Command::new(program);
        command.args(options).arg("--").arg(path).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    // An executor may have shut a directory against us, who are its owner. Links are not followed; and if an executor that
    // outlives its daemon puts one in the place of a directory meanwhile, we can afterwards do what we could let ourselves do.
    let opened_and_removed = || {
        // What it could not do shows next.
        let _all = succeeds("chmod", &["-R", "u+rwx"]);
        succeeds("rm", &["-rf"])
    };
    if !succeeds("rm", &["-rf"]) && !opened_and_removed() {
        log::debug!("{} is not removed", path.display());
    }
}

#[cfg(test)]
mod tests {
    use super::{PrivateDirectory, fs, remove_abandoned_in};
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::path::Path;

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn only_what_nobody_holds_is_removed() {
        let parent = tempfile::tempdir().unwrap();
        let in_use = PrivateDirectory::new_in(parent.path()).unwrap();
        fs::write(in_use.path().join("kernel"), "code").unwrap();
        let at = |name: &str| parent.path().join(name);
        let abandoned = at("paragpu-executor-aaaaaa.held");
        fs::create_dir_all(abandoned.join("cache/of/a/driver")).unwrap();
        // Not locked yet; a link to somewhere; a file; of something else.
        let others =
            ["paragpu-executor-bbbbbb", "paragpu-executor-c.held", "paragpu-executor-d.held", "x.held"];
        fs::create_dir(at(others[0])).unwrap();
        fs::create_dir_all(at("elsewhere/kept")).unwrap();
        symlink(at("elsewhere"), at(others[1])).unwrap();
        fs::write(at(others[2]), "").unwrap();
        fs::create_dir(at(others[3])).unwrap();

        remove_abandoned_in(parent.path());
        assert!(!abandoned.exists());
        assert!(in_use.path().join("kernel").exists());
        for name in others.iter().chain(&["elsewhere/kept"]) {
            assert!(at(name).symlink_metadata().is_ok(), "{name}");
        }
    }

    #[test]
    fn what_an_executor_has_shut_is_removed() {
        // Root needs no permissions; as anybody else this fails without what opens directories.
        let parent = tempfile::tempdir().unwrap();
        let abandoned = parent.path().join("paragpu-executor-aaaaaa.held");
        let fill = |path: &Path| {
            let inner = path.join("a/b");
            fs::create_dir_all(&inner).unwrap();
            fs::write(inner.join("file"), "").unwrap();
            symlink(parent.path(), path.join("a/link")).unwrap();
            for path in [&inner, &path.join("a"), path] {
                set_mode(path, 0);
            }
        };
        let directory = PrivateDirectory::new_in(parent.path()).unwrap();
        fill(directory.path());
        fill(&abandoned);
        set_mode(parent.path(), 0o750);
        drop(directory);
        remove_abandoned_in(parent.path());
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
        assert_eq!(
            parent.path().metadata().unwrap().permissions().mode() & 0o777,
            0o750,
            "a link to it is there"
        );
    }

    #[test]
    fn what_takes_long_to_look_through_is_too_much() {
        let parent = tempfile::tempdir().unwrap();
        let directory = PrivateDirectory::new_in(parent.path()).unwrap();
        let has_more = || directory.has_more_than(1 << 20, 100);
        let deep = |levels: usize| fs::create_dir_all(directory.path().join(["d"; 200][..levels].join("/")));
        deep(50).unwrap();
        assert!(!has_more());
        deep(200).unwrap();
        assert!(directory.has_more_than(u64::MAX, usize::MAX), "its paths are long");
        // What the directory takes itself is part of it, where file systems count that.
        let own = directory.path().metadata().unwrap().blocks() * super::BLOCK_BYTES;
        assert_eq!(
            PrivateDirectory::new_in(parent.path()).unwrap().has_more_than(own.saturating_sub(1), 1),
            own > 0
        );
    }

    #[test]
    fn a_directory_is_its_owners_alone_and_goes_with_its_executor() {
        let parent = tempfile::tempdir().unwrap();
        let directory = PrivateDirectory::new_in(parent.path()).unwrap();
        assert_eq!(directory.path().metadata().unwrap().permissions().mode() & 0o777, 0o700);
        drop(directory);
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }
}
