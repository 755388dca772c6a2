//! The daemon's side: takes sockets over, and knows when a launcher ends.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SocketType, getpeername, getsockname, recv, sockopt};

use super::{ToDaemon, ToLauncher, VERSION, VmName};
use crate::executor::channel::{ChannelError, Polled, PolledChannel};

/// Most launchers that have said nothing yet. One that comes later displaces the first of them.
const MAX_WAITING: usize = 64;

/// Why a socket is not taken over.
#[derive(Debug, thiserror::Error)]
pub(in crate::daemon) enum HandOverError {
    /// The launcher ended, or sent no message.
    #[error("the launcher's message: {0}")]
    Message(#[from] ChannelError),
    /// It ended before it sent one.
    #[error("the launcher ended before it handed anything over")]
    HangUp,
    /// It is of another version.
    #[error(
        "the launcher speaks version {0} of the hand-over, this paragpud version {VERSION}: restart paragpud"
    )]
    Version(u32),
    /// There is not one descriptor.
    #[error("{0} descriptors came with the hand-over, one is wanted")]
    Descriptors(usize),
    /// It is no connected socket of the right kind.
    #[error("the descriptor that was handed over is no connected UNIX stream socket")]
    NotConnected,
    /// It is the launcher's end of a connection like this one, so that nobody would hang up.
    #[error("the descriptor that was handed over is connected to the hand-over socket")]
    Itself,
    /// The kernel does not say who the launcher is, or takes no more descriptors.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// A VM's socket, with its launcher.
#[derive(Debug)]
pub(in crate::daemon) struct HandedOver {
    pub(in crate::daemon) stream: UnixStream,
    pub(in crate::daemon) vm: VmName,
    pub(in crate::daemon) tie: Tie,
}

/// A launcher that has handed over, and lives as long as the session. When this is dropped, the session is over.
#[derive(Debug)]
pub(in crate::daemon) struct Tie {
    channel: PolledChannel,
    /// The launcher's process id and user, if the kernel knows them.
    pub(in crate::daemon) peer: Option<(i32, u32)>,
}

impl Tie {
    fn new(stream: UnixStream) -> io::Result<Tie> {
        let peer = getsockopt(&stream, PeerCredentials).ok().map(|peer| (peer.pid(), peer.uid()));
        Ok(Tie { channel: PolledChannel::new(stream)?, peer })
    }

    /// Says why the session is over, or will not begin.
    pub(in crate::daemon) fn refuse(&mut self, reason: &str) {
        self.say(&ToLauncher::Refused { reason: reason.to_owned() });
    }

    /// True if the launcher has ended. It has nothing more to say, so one that does is treated alike. Descriptors that it
    /// sends are not received: one might be the launcher's own end, and with it open here the launcher would never end.
    pub(in crate::daemon) fn is_cut(&self) -> bool {
        let received = recv(&self.channel, &mut [0_u8; 1], RecvFlags::DONTWAIT);
        !matches!(received, Err(Errno::AGAIN | Errno::INTR))
    }

    /// One that does not listen is not waited for.
    fn say(&mut self, message: &ToLauncher) {
        let _gone = self.channel.send(message, &[]);
    }
}

impl AsFd for Tie {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

impl Drop for Tie {
    fn drop(&mut self) {
        self.say(&ToLauncher::Ended);
    }
}

/// Where launchers wait until they have said what they want.
#[derive(Debug, Default)]
pub(in crate::daemon) struct Desk {
    waiting: BTreeMap<u64, Tie>,
    next: u64,
}

impl Desk {
    /// Another one has come.
    pub(in crate::daemon) fn add(&mut self, launcher: UnixStream) -> io::Result<()> {
        if self.waiting.len() >= MAX_WAITING
            && let Some((_, mut first)) = self.waiting.pop_first()
        {
            first.refuse("too many others came while this launcher said nothing");
        }
        self.waiting.insert(self.next, Tie::new(launcher)?);
        self.next += 1;
        Ok(())
    }

    /// Those that wait.
    pub(in crate::daemon) fn waiting(&self) -> impl Iterator<Item = (u64, &Tie)> {
        self.waiting.iter().map(|(id, tie)| (*id, tie))
    }

    /// One has something to say. Nothing if that is not all there yet, or if it is gone.
    pub(in crate::daemon) fn take(&mut self, id: u64) -> Result<Option<HandedOver>, HandOverError> {
        let Some(tie) = self.waiting.get_mut(&id) else { return Ok(None) };
        let received = tie.channel.try_recv::<ToDaemon>();
        if let Ok(Polled::Later) = received {
            return Ok(None);
        }
        let Some(mut tie) = self.waiting.remove(&id) else { return Ok(None) };
        match received.map_err(HandOverError::from).and_then(|received| check(received, &tie)) {
            Ok((stream, vm)) => {
                tie.say(&ToLauncher::Taken);
                Ok(Some(HandedOver { stream, vm, tie }))
            }
            Err(error) => {
                tie.refuse(&error.to_string());
                Err(error)
            }
        }
    }
}

fn check(received: Polled<ToDaemon>, tie: &Tie) -> Result<(UnixStream, VmName), HandOverError> {
    let (message, descriptors) = match received {
        Polled::Message(received) => received,
        Polled::Later | Polled::HangUp => return Err(HandOverError::HangUp),
    };
    let ToDaemon::Take { version, vm } = message;
    if version != VERSION {
        return Err(HandOverError::Version(version));
    }
    let [socket] =
        <[OwnedFd; 1]>::try_from(descriptors).map_err(|all| HandOverError::Descriptors(all.len()))?;
    let is_stream = sockopt::socket_domain(&socket) == Ok(AddressFamily::UNIX)
        && sockopt::socket_type(&socket) == Ok(SocketType::STREAM)
        && sockopt::socket_acceptconn(&socket) == Ok(false);
    match getpeername(&socket) {
        Ok(peer) if is_stream && peer != Some(getsockname(tie).map_err(io::Error::from)?) => {
            Ok((UnixStream::from(socket), vm))
        }
        Ok(_) if is_stream => Err(HandOverError::Itself),
        _ => Err(HandOverError::NotConnected),
    }
}
