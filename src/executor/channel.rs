//! Messages with file descriptors over a Unix stream socket, for both ends of the broker–executor seam.
//!
//! A message is a `u32` length (little-endian) and that many bytes of postcard; file descriptors travel beside
//! its first byte. [`Channel`] blocks and is for the executor. [`PolledChannel`] never blocks and is for the
//! broker, which must not hang on an executor that sends half a message or stops reading.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::{MaybeUninit, take};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::message::MAX_MESSAGE_BYTES;

/// Most file descriptors beside one message: one for each memory region of a guest. Linux's own limit is 253.
pub const MAX_FDS: usize = 128;

/// Most bytes that wait for a peer that does not read. Beyond that the peer is taken for dead.
const MAX_UNSENT_BYTES: usize = 8 * MAX_MESSAGE_BYTES;

/// Most descriptors that wait with them: descriptors are the whole daemon's, not one vGPU's.
const MAX_UNSENT_FDS: usize = 4 * MAX_FDS;

const PREFIX_BYTES: usize = 4;

/// Why a channel is of no use any more.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// An operating system call failed.
    #[error("socket: {0}")]
    Io(#[from] io::Error),
    /// The peer hung up in the middle of a message.
    #[error("the peer hung up in the middle of a message")]
    Truncated,
    /// A message longer than [`MAX_MESSAGE_BYTES`].
    #[error("message of {0} bytes")]
    Oversize(usize),
    /// More than [`MAX_FDS`] file descriptors beside a message, or more than this process may open.
    #[error("too many file descriptors beside a message")]
    TooManyFds,
    /// Bytes that are no message, or bytes behind it.
    #[error("not a message: {0}")]
    Garbage(#[source] postcard::Error),
    /// The peer does not read what is sent to it.
    #[error("the peer does not read")]
    Stuck,
}

/// A message as received, with its file descriptors.
pub type Received<M> = (M, Vec<OwnedFd>);

/// The blocking end. Threads may share it: messages never interleave.
#[derive(Debug)]
pub struct Channel {
    stream: UnixStream,
    sending: Mutex<()>,
    receiving: Mutex<()>,
}

impl Channel {
    /// Takes over a connected socket.
    pub fn new(stream: UnixStream) -> Channel {
        Channel { stream, sending: Mutex::new(()), receiving: Mutex::new(()) }
    }

    /// Sends one message with file descriptors beside it.
    pub fn send<M: Serialize>(&self, message: &M, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = encode(message).map_err(io::Error::other)?;
        let _whole = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sent = 0;
        while sent < bytes.len() {
            let beside = if sent == 0 { fds } else { &[] };
            sent += send_some(&self.stream, &bytes[sent..], beside)?;
        }
        Ok(())
    }

    /// Waits for the next message. `None` means that the peer hung up between messages.
    pub fn recv<M: DeserializeOwned>(&self) -> Result<Option<Received<M>>, ChannelError> {
        let _whole = self.receiving.lock().unwrap_or_else(PoisonError::into_inner);
        let mut partial = Partial::default();
        loop {
            match partial.read(&self.stream)? {
                Progress::Message(bytes, fds) => return Ok(Some((decode(&bytes)?, fds))),
                Progress::HangUp => return Ok(None),
                // Only a socket that somebody made non-blocking; the caller asked to wait.
                Progress::Later => wait_readable(&self.stream)?,
            }
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// What [`PolledChannel::try_recv`] found.
#[derive(Debug)]
pub enum Polled<M> {
    /// A message.
    Message(Received<M>),
    /// Nothing whole yet.
    Later,
    /// The peer hung up between messages.
    HangUp,
}

/// The end that never blocks: poll its descriptor, call [`try_recv`](PolledChannel::try_recv) when it is
/// readable and [`flush`](PolledChannel::flush) when it is writable and [something waits](PolledChannel::has_unsent).
#[derive(Debug)]
pub struct PolledChannel {
    stream: UnixStream,
    partial: Partial,
    unsent: VecDeque<Unsent>,
    unsent_bytes: usize,
}

#[derive(Debug)]
struct Unsent {
    bytes: Vec<u8>,
    sent: usize,
    fds: Vec<OwnedFd>,
}

impl PolledChannel {
    /// Takes over a connected socket and makes it non-blocking.
    pub fn new(stream: UnixStream) -> io::Result<PolledChannel> {
        stream.set_nonblocking(true)?;
        Ok(PolledChannel { stream, partial: Partial::default(), unsent: VecDeque::new(), unsent_bytes: 0 })
    }

    /// Queues one message, with duplicates of the file descriptors, and sends what goes out at once.
    pub fn send<M: Serialize>(&mut self, message: &M, fds: &[BorrowedFd<'_>]) -> Result<(), ChannelError> {
        let bytes = encode(message)?;
        let unsent_fds: usize = self.unsent.iter().map(|unsent| unsent.fds.len()).sum();
        if self.unsent_bytes + bytes.len() > MAX_UNSENT_BYTES || unsent_fds + fds.len() > MAX_UNSENT_FDS {
            return Err(ChannelError::Stuck);
        }
        let fds = fds.iter().map(|fd| fd.try_clone_to_owned()).collect::<io::Result<Vec<_>>>()?;
        self.unsent_bytes += bytes.len();
        self.unsent.push_back(Unsent { bytes, sent: 0, fds });
        self.flush()
    }

    /// True if something waits for the peer to read.
    pub fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Sends what goes out without waiting.
    pub fn flush(&mut self) -> Result<(), ChannelError> {
        while let Some(next) = self.unsent.front_mut() {
            let fds: Vec<BorrowedFd<'_>> = next.fds.iter().map(AsFd::as_fd).collect();
            let count = match send_some(&self.stream, &next.bytes[next.sent..], &fds) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            // They went with the first byte.
            next.fds.clear();
            next.sent += count;
            if next.sent == next.bytes.len() {
                self.unsent_bytes -= next.bytes.len();
                self.unsent.pop_front();
            }
        }
        Ok(())
    }

    /// Takes the next message if all of it is there.
    pub fn try_recv<M: DeserializeOwned>(&mut self) -> Result<Polled<M>, ChannelError> {
        Ok(match self.partial.read(&self.stream)? {
            Progress::Message(bytes, fds) => Polled::Message((decode(&bytes)?, fds)),
            Progress::Later => Polled::Later,
            Progress::HangUp => Polled::HangUp,
        })
    }
}

impl AsFd for PolledChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// A message that is still coming in. Reads never go past the end of the message, so that a file descriptor
/// always belongs to the message whose bytes it came with.
#[derive(Debug, Default)]
struct Partial {
    prefix: [u8; PREFIX_BYTES],
    body: Vec<u8>,
    filled: usize,
    fds: Vec<OwnedFd>,
}

enum Progress {
    Message(Vec<u8>, Vec<OwnedFd>),
    Later,
    HangUp,
}

impl Partial {
    fn read(&mut self, stream: &UnixStream) -> Result<Progress, ChannelError> {
        loop {
            let to = match self.filled.checked_sub(PREFIX_BYTES) {
                None => &mut self.prefix[self.filled..],
                Some(in_body) => &mut self.body[in_body..],
            };
            let count = match recv_some(stream, to, &mut self.fds) {
                Ok(count) => count,
                Err(ChannelError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Progress::Later);
                }
                Err(error) => return Err(error),
            };
            if count == 0 {
                return if self.filled == 0 { Ok(Progress::HangUp) } else { Err(ChannelError::Truncated) };
            }
            self.filled += count;
            if self.filled < PREFIX_BYTES {
                continue;
            }
            if self.filled == PREFIX_BYTES {
                let len = u32::from_le_bytes(self.prefix) as usize;
                if len == 0 || len > MAX_MESSAGE_BYTES {
                    return Err(ChannelError::Oversize(len));
                }
                self.body = vec![0; len];
            }
            if self.filled == PREFIX_BYTES + self.body.len() {
                let Partial { body, fds, .. } = take(self);
                return Ok(Progress::Message(body, fds));
            }
        }
    }
}

fn encode<M: Serialize>(message: &M) -> Result<Vec<u8>, ChannelError> {
    let mut bytes = postcard::to_extend(message, vec![0; PREFIX_BYTES]).map_err(ChannelError::Garbage)?;
    let len = bytes.len() - PREFIX_BYTES;
    if len > MAX_MESSAGE_BYTES {
        return Err(ChannelError::Oversize(len));
    }
    bytes[..PREFIX_BYTES].copy_from_slice(&(len as u32).to_le_bytes());
    Ok(bytes)
}

fn decode<M: DeserializeOwned>(bytes: &[u8]) -> Result<M, ChannelError> {
    match postcard::take_from_bytes(bytes) {
        Ok((message, [])) => Ok(message),
        Ok((_, _rest)) => Err(ChannelError::Garbage(postcard::Error::SerdeDeCustom)),
        Err(error) => Err(ChannelError::Garbage(error)),
    }
}

fn send_some(stream: &UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    if fds.len() > MAX_FDS {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many file descriptors"));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        beside.push(SendAncillaryMessage::ScmRights(fds));
    }
    loop {
        match sendmsg(stream, &[IoSlice::new(bytes)], &mut beside, SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            result => return result.map_err(Into::into),
        }
    }
}

fn recv_some(stream: &UnixStream, to: &mut [u8], fds: &mut Vec<OwnedFd>) -> Result<usize, ChannelError> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        match recvmsg(stream, &mut [IoSliceMut::new(to)], &mut beside, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            result => break result.map_err(io::Error::from)?,
        }
    };
    for message in beside.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    if received.flags.contains(ReturnFlags::CTRUNC) || fds.len() > MAX_FDS {
        return Err(ChannelError::TooManyFds);
    }
    Ok(received.bytes)
}

fn wait_readable(stream: &UnixStream) -> io::Result<()> {
    use rustix::event::{PollFd, PollFlags, poll};
    match poll(&mut [PollFd::new(stream, PollFlags::IN)], None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::message::{Extent, ToBroker, ToExecutor};
    use std::fs::File;
    use std::io::{Read, Seek, Write};

    fn pair() -> (PolledChannel, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (PolledChannel::new(ours).unwrap(), theirs)
    }

    fn long_message() -> ToExecutor {
        let extents = vec![Extent { guest_addr: u64::MAX, len: 4096 }; 32 * 1024];
        ToExecutor::AddRegion { context: 1, region: 2, extents }
    }

    #[test]
    fn messages_and_their_descriptors_arrive_together_and_in_order() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (ours, theirs) = (Channel::new(ours), Channel::new(theirs));
        let mut file = File::from(rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
        file.write_all(b"shared").unwrap();
        ours.send(&ToExecutor::Quiesce, &[]).unwrap();
        ours.send(&ToExecutor::Resume, &[file.as_fd()]).unwrap();
        ours.send(&ToExecutor::Quiesce, &[]).unwrap();
        drop(ours);
        let (first, fds) = theirs.recv::<ToExecutor>().unwrap().unwrap();
        assert_eq!((first, fds.len()), (ToExecutor::Quiesce, 0));
        let (second, fds) = theirs.recv::<ToExecutor>().unwrap().unwrap();
        assert_eq!((second, fds.len()), (ToExecutor::Resume, 1));
        let mut received = File::from(fds.into_iter().next().unwrap());
        let mut text = String::new();
        received.rewind().unwrap();
        received.read_to_string(&mut text).unwrap();
        assert_eq!(text, "shared");
        assert!(theirs.recv::<ToExecutor>().unwrap().is_some());
        assert!(theirs.recv::<ToExecutor>().unwrap().is_none());
    }

    #[test]
    fn a_peer_that_reads_late_gets_everything_and_blocks_nobody() {
        let (mut ours, theirs) = pair();
        for _ in 0..4 {
            ours.send(&long_message(), &[]).unwrap();
        }
        assert!(ours.has_unsent(), "four long messages do not fit a socket's buffer");
        let reader = std::thread::spawn(move || {
            let theirs = Channel::new(theirs);
            (0..4).map(|_| theirs.recv::<ToExecutor>().unwrap().unwrap().0).collect::<Vec<_>>()
        });
        while ours.has_unsent() {
            ours.flush().unwrap();
            std::thread::yield_now();
        }
        assert!(reader.join().unwrap().iter().all(|message| *message == long_message()));
    }

    #[test]
    fn a_peer_that_never_reads_is_given_up() {
        let (mut ours, _theirs) = pair();
        let gave_up = (0..100).find_map(|_| ours.send(&long_message(), &[]).err());
        assert!(matches!(gave_up, Some(ChannelError::Stuck)));
    }

    #[test]
    fn half_a_message_is_waited_for_and_a_hang_up_inside_it_is_an_error() {
        let whole = encode(&ToBroker::NoDevice { reason: "no platform".into() }).unwrap();
        for cut in 1..whole.len() {
            let (mut ours, mut theirs) = pair();
            theirs.write_all(&whole[..cut]).unwrap();
            assert!(matches!(ours.try_recv::<ToBroker>(), Ok(Polled::Later)), "{cut} bytes");
            drop(theirs);
            assert!(matches!(ours.try_recv::<ToBroker>(), Err(ChannelError::Truncated)), "{cut} bytes");
        }
        let (mut ours, theirs) = pair();
        drop(theirs);
        assert!(matches!(ours.try_recv::<ToBroker>(), Ok(Polled::HangUp)));
    }

    #[test]
    fn false_lengths_are_refused_before_anything_is_allocated() {
        for len in [0, MAX_MESSAGE_BYTES as u32 + 1, u32::MAX] {
            let (mut ours, mut theirs) = pair();
            theirs.write_all(&len.to_le_bytes()).unwrap();
            assert!(matches!(ours.try_recv::<ToBroker>(), Err(ChannelError::Oversize(_))), "{len}");
        }
    }

    #[test]
    fn garbage_and_trailing_bytes_are_errors() {
        for body in [&[0xff_u8; 8][..], &[200, 1], &[5, 0]] {
            let (mut ours, mut theirs) = pair();
            theirs.write_all(&(body.len() as u32).to_le_bytes()).unwrap();
            theirs.write_all(body).unwrap();
            let result = ours.try_recv::<ToBroker>();
            assert!(matches!(result, Err(ChannelError::Garbage(_))), "{body:?}: {result:?}");
        }
    }
}
