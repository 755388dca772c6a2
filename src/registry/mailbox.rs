//! How other threads ask the one that has the registry.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, SystemTime};

use rustix::event::{EventfdFlags, eventfd};

use super::{Change, Origin, Refusal};
use crate::config::Settings;
use crate::sched::policy::Sharing;
use crate::sched::usage::{DeviceUsage, VgpuUsage};

/// Requests that may wait at once; whoever comes later waits before the mailbox.
const MAX_WAITING: usize = 64;

/// Time that an answer may take: the daemon's thread never does anything long, but the host may be busy.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// What is asked.
#[derive(Debug)]
pub enum Request {
    /// To change something.
    Change(Change, SyncSender<Result<(), Refusal>>),
    /// To end the executors of a vGPU; answered with how many connections were told.
    Kill(String, SyncSender<Result<usize, Refusal>>),
    /// To see everything.
    View(SyncSender<Result<View, Refusal>>),
}

/// Everything that there is to see.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// The vGPUs by name.
    pub vgpus: Vec<VgpuView>,
    /// The devices, in the order of the configuration.
    pub devices: Vec<DeviceView>,
}

/// A vGPU.
#[derive(Clone, Debug)]
pub struct VgpuView {
    /// Its name.
    pub name: String,
    /// Where it comes from.
    pub origin: Origin,
    /// The operator keeps it from the device.
    pub paused: bool,
    /// Its keys, as JSON.
    pub keys: serde_json::Map<String, serde_json::Value>,
    /// The same, typed, but for its socket.
    pub settings: Settings,
    /// Who is connected.
    pub connections: Vec<ConnectionView>,
    /// What it used.
    pub usage: VgpuUsage,
}

/// A connection of a vGPU.
#[derive(Clone, Debug)]
pub struct ConnectionView {
    /// Its name in logs.
    pub name: String,
    /// The process that connected, if the kernel knows it.
    pub pid: Option<i32>,
    /// That process's user.
    pub uid: Option<u32>,
    /// When it connected.
    pub since: SystemTime,
}

/// A device.
#[derive(Clone, Debug)]
pub struct DeviceView {
    /// How it is shared.
    pub sharing: Sharing,
    /// How it is used.
    pub usage: DeviceUsage,
}

/// Where requests are put.
#[derive(Clone, Debug)]
pub struct Mailbox {
    sender: SyncSender<Request>,
    event: Arc<OwnedFd>,
}

/// Where they are taken from.
#[derive(Debug)]
pub struct Inbox {
    receiver: Receiver<Request>,
    event: Arc<OwnedFd>,
}

/// An empty mailbox, from both sides.
pub fn new() -> std::io::Result<(Mailbox, Inbox)> {
    let (sender, receiver) = sync_channel(MAX_WAITING);
    let event = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
    Ok((Mailbox { sender, event: event.clone() }, Inbox { receiver, event }))
}

impl Mailbox {
    /// Changes something.
    pub fn change(&self, change: Change) -> Result<(), Refusal> {
        self.ask(|answer| Request::Change(change, answer))
    }

    /// Ends the executors of a vGPU; says how many connections were told.
    pub fn kill(&self, name: &str) -> Result<usize, Refusal> {
        self.ask(|answer| Request::Kill(name.to_owned(), answer))
    }

    /// Everything that there is to see.
    pub fn view(&self) -> Result<View, Refusal> {
        self.ask(Request::View)
    }

    fn ask<T>(&self, request: impl FnOnce(SyncSender<Result<T, Refusal>>) -> Request) -> Result<T, Refusal> {
        let (sender, answer) = sync_channel(1);
        self.sender.send(request(sender)).or(Err(Refusal::NoAnswer))?;
        let _full = rustix::io::write(&*self.event, &1_u64.to_ne_bytes());
        answer.recv_timeout(ANSWER_TIMEOUT).unwrap_or(Err(Refusal::NoAnswer))
    }
}

impl Inbox {
    /// Readable while there are requests.
    pub fn event(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// Takes those that are there.
    pub fn take(&self) -> Vec<Request> {
        let _counter = rustix::io::read(&*self.event, &mut [0_u8; 8]);
        self.receiver.try_iter().collect()
    }
}
