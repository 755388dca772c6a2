//! The launcher's side: hands the VM's socket over, and waits for the end.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use log::info;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{ToDaemon, ToLauncher, VERSION, vm_name};
use crate::daemon::{Options, socket};
use crate::executor::channel::Channel;

/// Time that the daemon has for taking a socket over. Its main thread never does anything long.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// What became of the VM's socket.
#[derive(Debug)]
pub(in crate::daemon) enum Outcome {
    /// A daemon had it, and the session is over.
    Ended,
    /// No daemon runs. Whoever asked serves it.
    Alone(UnixStream),
}

/// Hands a connected socket over to a daemon, if one runs, and waits until the session ends.
pub(in crate::daemon) fn hand_over(options: &Options, vm: UnixStream) -> anyhow::Result<Outcome> {
    let Some((path, daemon)) = find(options)? else { return Ok(Outcome::Alone(vm)) };
    let at = path.display();
    let channel = Channel::new(daemon);
    let take = ToDaemon::Take { version: VERSION, vm: vm_name::find() };
    channel.send(&take, &[vm.as_fd()]).with_context(|| format!("cannot hand over to {at}"))?;
    // With it open here, the VM would not learn that the daemon is gone.
    drop(vm);
    if !answers(&channel)? {
        bail!("paragpud at {at} does not answer within {} s", ANSWER_TIMEOUT.as_secs());
    }
    loop {
        match channel.recv().with_context(|| format!("paragpud at {at}"))? {
            Some((ToLauncher::Taken, _)) => info!("handed over to paragpud at {at}"),
            Some((ToLauncher::Refused { reason }, _)) => bail!("paragpud at {at} refuses: {reason}"),
            Some((ToLauncher::Ended, _)) => {
                info!("the session ended");
                return Ok(Outcome::Ended);
            }
            None => bail!("paragpud at {at} is gone: the VM's GPU does not work any more, restart the VM"),
        }
    }
}

fn answers(channel: &Channel) -> io::Result<bool> {
    let timeout = Timespec::try_from(ANSWER_TIMEOUT).map_err(io::Error::other)?;
    let mut fds = [PollFd::new(channel, PollFlags::IN)];
    Ok(rustix::io::retry_on_intr(|| poll(&mut fds, Some(&timeout)))? > 0)
}

/// A daemon that takes sockets over: the one that is named, or else this user's, or else the system's.
fn find(options: &Options) -> anyhow::Result<Option<(PathBuf, UnixStream)>> {
    // Whoever configures this process wants it to serve.
    if options.config.is_some() {
        return Ok(None);
    }
    match &options.hand_over {
        Some(path) if path.as_os_str() == "none" => return Ok(None),
        Some(path) => {
            let connected = connect(path)?;
            let daemon =
                connected.with_context(|| format!("no paragpud takes VMs over at {}", path.display()))?;
            return Ok(Some((path.clone(), daemon)));
        }
        None => {}
    }
    let daemons = [socket::default_path().ok(), Some(socket::system_path())];
    for path in daemons.into_iter().flatten().map(|daemon| socket::hand_over_path(&daemon)) {
        if let Some(daemon) = connect(&path)? {
            return Ok(Some((path, daemon)));
        }
    }
    Ok(None)
}

/// Nothing if nobody serves the socket. Where somebody does who does not let this process in, to serve alone would be to
/// escape that daemon's limits.
fn connect(path: &Path) -> anyhow::Result<Option<UnixStream>> {
    match UnixStream::connect(path) {
        Ok(stream) => Ok(Some(stream)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            Ok(None)
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error).with_context(|| {
            let at = path.display();
            format!("cannot hand over to {at} (its configuration's hand-over-group says who may)")
        }),
        Err(error) => Err(error).with_context(|| format!("cannot hand over to {}", path.display())),
    }
}
