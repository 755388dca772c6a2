//! Where the daemon listens.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::unistd::{Group, User};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid, chmod, chownat, fchmod, fstat, open};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};

use crate::config::{Identity, Socket};

/// Connections that may wait to be accepted. Many VMs may start at once.
const BACKLOG: i32 = 1024;

/// Permission bits of a directory that is made for a socket: for the daemon's user alone, and to pass through for
/// others if they may connect.
const PRIVATE_DIRECTORY: u32 = 0o700;
const PASSABLE_DIRECTORY: u32 = 0o711;

/// The socket of this user's daemon.
pub fn default_path() -> io::Result<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Ok(system_path());
    }
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty());
    let runtime = runtime.ok_or_else(|| io::Error::other("XDG_RUNTIME_DIR is not set"))?;
    Ok(PathBuf::from(runtime).join("paragpu/paragpud.sock"))
}

/// The socket of the system's daemon.
pub fn system_path() -> PathBuf {
    PathBuf::from("/run/paragpu/paragpud.sock")
}

/// The admin socket of a daemon that listens on `socket`, unless it is told another: `admin.sock` beside the usual
/// socket, and the path with `.admin` behind it for any other.
pub fn admin_path(socket: &Path) -> PathBuf {
    beside(socket, "admin")
}

/// The socket at which launchers hand connections over to a daemon that listens on `socket`, in the same way:
/// `hand-over.sock`, or `.hand-over`.
pub fn hand_over_path(socket: &Path) -> PathBuf {
    beside(socket, "hand-over")
}

fn beside(socket: &Path, what: &str) -> PathBuf {
    if socket.file_name().is_some_and(|name| name == "paragpud.sock") {
        return socket.with_file_name(format!("{what}.sock"));
    }
    let mut path = socket.as_os_str().to_owned();
    path.push(format!(".{what}"));
    path.into()
}

/// A listening socket in the file system, removed when dropped.
#[derive(Debug)]
pub struct OwnedListener {
    listener: UnixListener,
    path: PathBuf,
    inode: (u64, u64),
}

impl OwnedListener {
    /// Listens as `socket` says. A socket that nobody serves any more is replaced; anything else that is in the way is
    /// left alone. Nobody can connect who may not: until it has its owner, it is the daemon's user's alone.
    pub fn bind(socket: &Socket) -> io::Result<OwnedListener> {
        let path = &socket.path;
        // Before anything is made.
        let owner = Owner::of(socket)?;
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            let open_to_others = socket.mode & 0o066 != 0 || socket.owner.is_some();
            let mode = if open_to_others { PASSABLE_DIRECTORY } else { PRIVATE_DIRECTORY };
            std::fs::DirBuilder::new().recursive(true).mode(mode).create(parent)?;
        }
        remove_stale(path)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = first_to_close(socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?);
        // The file that bind makes has the socket's mode, so that it is right from the start; unlike the mask of
        // permissions, that is no other thread's business.
        fchmod(&fd, Mode::from_raw_mode(0o600))?;
        bind(&fd, &SocketAddrUnix::new(path)?)?;
        let inode = inode(path)?;
        let bound = OwnedListener { listener: UnixListener::from(fd), path: path.clone(), inode };
        bound.permit_as(socket, owner)?;
        listen(&bound.listener, BACKLOG)?;
        Ok(bound)
    }

    /// Lets others connect from now on.
    pub fn permit(&self, socket: &Socket) -> io::Result<()> {
        self.permit_as(socket, Owner::of(socket)?)
    }

    fn permit_as(&self, socket: &Socket, owner: Owner) -> io::Result<()> {
        let file = self.file()?;
        let Owner(uid, gid) = owner;
        // One that is already right needs no privilege.
        let now = fstat(&file)?;
        let (uid, gid) =
            (uid.filter(|uid| uid.as_raw() != now.st_uid), gid.filter(|gid| gid.as_raw() != now.st_gid));
        if uid.is_some() || gid.is_some() {
            let changed = chownat(&file, "", uid, gid, AtFlags::EMPTY_PATH);
            changed.map_err(|error| {
                explain(
                    error.into(),
                    "owner and group",
                    "only root may give a socket to others, and others only to groups that they are in",
                )
            })?;
        }
        let by_number = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file.as_fd()));
        Ok(chmod(by_number, Mode::from_raw_mode(socket.mode))?)
    }

    /// The socket's file, which is ours and nobody else's: who can write to its directory might have put another one
    /// there, or given ours another name.
    fn file(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = open(&self.path, flags, Mode::empty())?;
        let stat = fstat(&file)?;
        if (stat.st_dev, stat.st_ino) != self.inode || stat.st_nlink != 1 {
            return Err(io::Error::other("somebody has replaced the socket's file"));
        }
        Ok(file)
    }

    /// The socket, which does not block.
    pub fn listener(&self) -> &UnixListener {
        &self.listener
    }
}

impl Drop for OwnedListener {
    fn drop(&mut self) {
        // Somebody else's by now, if it is another file.
        if inode(&self.path).is_ok_and(|now| now == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// The same descriptor by a higher number than connections get. When a process is killed, Linux closes its sockets in falling
/// order. A front end that loses its connection connects again at once, and one that gets through to a socket which is about
/// to go is lost: cloud-hypervisor 53 tries again only if it is refused.
fn first_to_close(fd: OwnedFd) -> OwnedFd {
    const HIGH: i32 = 4096;
    // Where so many descriptors are not allowed, it stays as it is.
    fcntl_dupfd_cloexec(&fd, HIGH).unwrap_or(fd)
}

/// Who gets a socket; what is not said is the daemon's user and group.
#[derive(Clone, Copy, Debug)]
struct Owner(Option<Uid>, Option<Gid>);

impl Owner {
    fn of(socket: &Socket) -> io::Result<Owner> {
        let user = match &socket.owner {
            None => rustix::process::geteuid().as_raw(),
            Some(Identity::Id(id)) => *id,
            Some(Identity::Name(name)) => known(name, "user", User::from_name(name))?.uid.as_raw(),
        };
        let group = match &socket.group {
            None => rustix::process::getegid().as_raw(),
            Some(Identity::Id(id)) => *id,
            Some(Identity::Name(name)) => known(name, "group", Group::from_name(name))?.gid.as_raw(),
        };
        Ok(Owner(Some(Uid::from_raw(user)), Some(Gid::from_raw(group))))
    }
}

fn known<T>(name: &str, kind: &str, found: nix::Result<Option<T>>) -> io::Result<T> {
    match found {
        Ok(Some(found)) => Ok(found),
        Ok(None) => Err(io::Error::new(io::ErrorKind::NotFound, format!("this host has no {kind} {name:?}"))),
        Err(error) => Err(explain(error.into(), &format!("{kind} {name:?}"), "cannot be looked up")),
    }
}

fn explain(error: io::Error, what: &str, why: &str) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}: {why}"))
}

fn remove_stale(path: &Path) -> io::Result<()> {
    let kind = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !kind.is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file that is no socket is in the way"));
    }
    // Without blocking: whoever listens there may have no room for more connections.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let probe = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match connect(&probe, &SocketAddrUnix::new(path)?) {
        Ok(()) | Err(Errno::AGAIN) => {
            Err(io::Error::new(io::ErrorKind::AddrInUse, "another program serves this socket"))
        }
        Err(Errno::CONNREFUSED) => std::fs::remove_file(path),
        Err(error) => Err(error.into()),
    }
}

fn inode(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_live_socket_is_refused_a_stale_one_replaced_and_ours_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/paragpud.sock");
        let socket = Socket::private(path.clone());
        let first = OwnedListener::bind(&socket).unwrap();
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        let second = OwnedListener::bind(&socket).unwrap_err();
        assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
        drop(first);
        assert!(!path.exists());
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        drop(OwnedListener::bind(&socket).unwrap());
        assert!(!path.exists());
        std::fs::write(&path, "precious").unwrap();
        assert!(OwnedListener::bind(&socket).is_err());
        assert!(path.exists());
    }

    #[test]
    fn permissions_are_as_asked_whatever_the_mask_and_can_be_changed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |mode| Socket { mode, ..Socket::private(dir.path().join("s")) };
        let socket = OwnedListener::bind(&at(0o666)).unwrap();
        assert_eq!(mode(&dir.path().join("s")), 0o666);
        socket.permit(&at(0o640)).unwrap();
        assert_eq!(mode(&dir.path().join("s")), 0o640);
    }

    #[test]
    fn a_file_that_somebody_put_in_the_sockets_place_keeps_its_permissions() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let socket = OwnedListener::bind(&Socket::private(path.clone())).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(dir.path().join("precious"), "").unwrap();
        std::os::unix::fs::symlink(dir.path().join("precious"), &path).unwrap();
        let before = mode(&dir.path().join("precious"));
        assert!(socket.permit(&Socket { mode: 0o666, ..Socket::private(path) }).is_err());
        assert_eq!(mode(&dir.path().join("precious")), before);
    }

    #[test]
    fn a_user_that_nobody_knows_is_refused_before_anything_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/s");
        let owner = Some(Identity::Name("no-such-user-here".to_owned()));
        let error = OwnedListener::bind(&Socket { owner, ..Socket::private(path) }).unwrap_err();
        assert_eq!(error.to_string(), "this host has no user \"no-such-user-here\"");
        assert!(!dir.path().join("new").exists());
    }

    #[test]
    fn the_admin_socket_is_beside_the_usual_one_or_named_after_another() {
        assert_eq!(admin_path(Path::new("/r/paragpud.sock")), Path::new("/r/admin.sock"));
        assert_eq!(admin_path(Path::new("/r/s")), Path::new("/r/s.admin"));
        assert_eq!(hand_over_path(Path::new("/r/paragpud.sock")), Path::new("/r/hand-over.sock"));
    }
}
