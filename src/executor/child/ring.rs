//! The thread of one context: takes frames from its ring, and does what the control side asks in between.

pub mod measure;

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use paragpu_protocol::command::Finish;
use paragpu_protocol::fault::Fault;
use paragpu_protocol::frame::FrameHeader;
use paragpu_protocol::limits::MAX_FRAME_BYTES;
use paragpu_protocol::ring::{Consumer, Copied};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::backend::Backend;
use super::completion::{Notifier, RingView};
use super::context::{Context, TEND_INTERVAL};
use super::executor::EventSink;
use super::pace::LINGER;
use super::region::Regions;
use crate::executor::message::{ContextUsage, ToBroker};
use crate::limits::Bucket;

/// How long the thread looks for work before it sleeps: about what a sleep and a wake-up cost. It gives the processor up
/// after each look, so that a device's thread which wants it does not wait.
const SPIN: Duration = Duration::from_micros(50);

/// A frame with so few bytes behind it may be the last that the guest sends before it waits: a Finish may follow.
const TAIL_BYTES: u32 = (size_of::<FrameHeader>() + size_of::<Finish>()) as u32;

/// Frames between two looks at the control side, so that a busy ring does not keep it waiting.
const BATCH: usize = 64;

/// What the control side asks of a ring's thread. Each is followed by a doorbell.
pub(super) enum Control {
    /// Start consuming.
    Start { region: u32, data_bytes: u32 },
    /// The region was removed: if it is the ring's, the context is over.
    Removed { region: u32 },
    /// Stop, and drop this when nothing in flight can touch the guest's memory.
    Quiesce(Arc<Quiesced>),
    /// Go on.
    Resume,
    /// The context cannot go on, for this reason.
    Fail(Fault, String),
    /// End.
    Destroy,
}

/// Says that all contexts are quiet, when the last of them has dropped it.
pub(super) struct Quiesced(pub(super) Arc<dyn EventSink>);

impl Drop for Quiesced {
    fn drop(&mut self) {
        self.0.send(ToBroker::Quiesced);
    }
}

/// The thread's state.
pub(super) struct RingThread<B: Backend> {
    pub(super) id: u32,
    pub(super) name: String,
    /// None once the context is over, though not yet destroyed.
    pub(super) context: Option<Context<B>>,
    pub(super) regions: Arc<Regions>,
    pub(super) control: Receiver<Control>,
    pub(super) doorbell: OwnedFd,
    pub(super) sink: Arc<dyn EventSink>,
    pub(super) paused: bool,
    /// The rate at which all the vGPU's commands are taken, if it is limited.
    pub(super) commands: Option<Arc<Mutex<Bucket>>>,
    /// The context has failed, and the broker knows.
    pub(super) failed: bool,
    pub(super) ring: Option<Ring>,
    pub(super) usage: ContextUsage,
}

/// What a ring's thread does next.
enum Next {
    /// Take the next frame.
    Frame,
    /// There is none.
    Nothing,
    /// The one that was taken waits for this device.
    Device(usize),
    /// There have been too many: wait so long.
    Later(Duration),
}

pub(super) struct Ring {
    view: RingView,
    region: u32,
    consumer: Consumer,
    /// Length of the frame that was taken, and whose turn has not come.
    held: Option<usize>,
}

impl<B: Backend> RingThread<B> {
    /// Runs until the context is destroyed, or the executor ends.
    pub(super) fn run(mut self) {
        let mut frame = Box::new([0; MAX_FRAME_BYTES as usize]);
        loop {
            if self.obey().is_break() {
                break;
            }
            if self.paused {
                continue;
            }
            match self.consume(&mut frame) {
                Ok(Next::Frame) => {}
                Ok(Next::Nothing) => {
                    if !self.spin() {
                        self.sleep();
                    }
                }
                Ok(Next::Device(device)) => self.await_device(device),
                Ok(Next::Later(wait)) => {
                    self.rest();
                    self.poll_doorbell(Some(wait));
                }
                Err(fault) => self.fail(fault, &self.reason(fault)),
            }
        }
        self.end();
        self.regions.clear();
        self.sink.send(ToBroker::ContextDestroyed { context: self.id, usage: self.usage });
    }

    /// Does what the control side asked. Waits for it while paused.
    fn obey(&mut self) -> std::ops::ControlFlow<()> {
        use std::ops::ControlFlow::{Break, Continue};
        loop {
            let message = if self.paused {
                self.control.recv().map_err(|_gone| TryRecvError::Disconnected)
            } else {
                self.control.try_recv()
            };
            match message {
                Err(TryRecvError::Empty) => return Continue(()),
                Err(TryRecvError::Disconnected) | Ok(Control::Destroy) => return Break(()),
                Ok(Control::Start { region, data_bytes }) => {
                    if let Err(fault) = self.start(region, data_bytes) {
                        self.fail(fault, &format!("the ring cannot be started: {fault}"));
                    }
                }
                Ok(Control::Removed { region }) => self.removed(region),
                Ok(Control::Fail(fault, reason)) => self.fail(fault, &reason),
                Ok(Control::Resume) => {
                    self.paused = false;
                    self.notify(|notifier| notifier.pause(false));
                }
                Ok(Control::Quiesce(quiesced)) => {
                    if self.quiesce(quiesced).is_break() {
                        return Break(());
                    }
                }
            }
        }
    }

    /// Waits until the device is done with what it can do. Only the end of the context interrupts that.
    fn quiesce(&mut self, quiesced: Arc<Quiesced>) -> std::ops::ControlFlow<()> {
        use std::ops::ControlFlow::{Break, Continue};
        self.paused = true;
        if let Some(context) = &mut self.context {
            context.rest(None);
            context.flush();
        }
        self.notify(|notifier| notifier.pause(true));
        loop {
            let settled = self.context.as_ref().is_none_or(|it| {
                it.tend();
                it.notifier.settled(TEND_INTERVAL)
            });
            if settled {
                drop(quiesced);
                return Continue(());
            }
            match self.control.try_recv() {
                Err(TryRecvError::Empty) => {}
                Ok(Control::Destroy) | Err(TryRecvError::Disconnected) => return Break(()),
                Ok(Control::Resume) => {
                    self.paused = false;
                    self.notify(|notifier| notifier.pause(false));
                    return Continue(());
                }
                Ok(Control::Fail(fault, reason)) => self.fail(fault, &reason),
                Ok(Control::Removed { region }) => self.removed(region),
                Ok(Control::Start { .. } | Control::Quiesce(_)) => {
                    log::warn!("context {}: asked to start or stop while stopping", self.id);
                }
            }
        }
    }

    fn removed(&mut self, region: u32) {
        if self.ring.as_ref().is_some_and(|ring| ring.region == region) {
            self.end();
        }
    }

    fn notify(&self, what: impl FnOnce(&Notifier)) {
        if let Some(context) = &self.context {
            what(&context.notifier);
        }
    }

    fn start(&mut self, region: u32, data_bytes: u32) -> Result<(), Fault> {
        let Some(context) = &self.context else { return Ok(()) };
        if self.ring.is_some() {
            return Err(Fault::BadRing);
        }
        let view = RingView::new(self.regions.get(region)?, data_bytes)?;
        context.notifier.start(view.clone())?;
        if let Some(fault) = context.fault() {
            // Failed before it had a ring to say so.
            context.notifier.fail(fault);
        }
        self.ring = Some(Ring { view, region, consumer: Consumer::new(data_bytes), held: None });
        Ok(())
    }

    /// Runs a batch of frames.
    fn consume(&mut self, frame: &mut [u8; MAX_FRAME_BYTES as usize]) -> Result<Next, Fault> {
        let (Some(ring), Some(context)) = (&mut self.ring, &mut self.context) else {
            return Ok(Next::Nothing);
        };
        if context.fault().is_some() {
            return Ok(Next::Nothing);
        }
        if context.is_crowded()? {
            return Ok(Next::Frame);
        }
        if let Some(wait) = self.commands.as_ref().and_then(|commands| lock(commands).wait(Instant::now())) {
            context.flush();
            return Ok(Next::Later(wait));
        }
        let (mut taken, mut next) = (0, Next::Frame);
        while taken < BATCH {
            let len = match ring.held.take() {
                Some(len) => len,
                None => match ring.consumer.pop(&ring.view, frame)? {
                    Some(len) => len,
                    None => {
                        next = Next::Nothing;
                        break;
                    }
                },
            };
            if let Err(device) = context.admit(&frame[..len]) {
                ring.held = Some(len);
                next = Next::Device(device);
                break;
            }
            if !context.has_turn(&frame[..len]) {
                ring.held = Some(len);
                // It has waited a little.
                context.rest(None);
                break;
            }
            taken += 1;
            context.is_last = ring.consumer.unread(&ring.view) <= TAIL_BYTES;
            context.execute(&frame[..len])?;
        }
        if taken < BATCH {
            context.flush();
        } else {
            // Before sleeping it is done anyway, but a ring that is never empty does not sleep.
            context.tend();
        }
        context.notifier.wake(ring.consumer.made_room(&ring.view));
        context.publish_usage();
        if let Some(commands) = &self.commands {
            lock(commands).take(taken as u32, Instant::now());
        }
        Ok(next)
    }

    /// Waits until the frame that was taken may go to the device, or the control side wants something.
    fn await_device(&mut self, device: usize) {
        let Some(context) = &mut self.context else { return };
        if !context.rest(Some(device)) {
            return;
        }
        let again = context.tend().then_some(TEND_INTERVAL);
        if let Some(pacer) = &context.pacer
            && pacer.sleep(again)
        {
            self.clear_doorbell();
        }
    }

    /// Nothing of this context is to keep anybody from the device, unless it is in flight.
    fn rest(&mut self) {
        if let Some(context) = &mut self.context {
            context.rest(None);
        }
    }

    /// Looks for work for a while. True if there is some.
    fn spin(&mut self) -> bool {
        let Some(ring) = &self.ring else { return false };
        if self.context.as_ref().is_none_or(|context| context.fault().is_some()) {
            return false;
        }
        let until = Instant::now() + SPIN;
        loop {
            if !ring.consumer.is_empty(&ring.view) {
                return true;
            }
            if Instant::now() >= until {
                return false;
            }
            rustix::thread::sched_yield();
        }
    }

    /// Sleeps until the doorbell. The control side rings it too, after each message.
    fn sleep(&mut self) {
        let listening = self.context.as_ref().is_some_and(|context| context.fault().is_none());
        if let Some(ring) = &self.ring
            && listening
            && !ring.consumer.prepare_sleep(&ring.view)
        {
            return;
        }
        if self.context.as_ref().is_some_and(Context::is_in_the_way) && self.poll_doorbell(Some(LINGER)) {
            return;
        }
        self.rest();
        let again = self.context.as_ref().is_some_and(Context::tend);
        self.poll_doorbell(again.then_some(TEND_INTERVAL));
    }

    /// Sleeps until the doorbell, or for so long. True if it was the doorbell.
    fn poll_doorbell(&self, timeout: Option<Duration>) -> bool {
        let mut fds = [PollFd::new(&self.doorbell, PollFlags::IN)];
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        match poll(&mut fds, timeout.as_ref()) {
            Ok(0) | Err(Errno::INTR) => false,
            Ok(_) => {
                self.clear_doorbell();
                true
            }
            Err(error) => {
                log::warn!("context {}: doorbell: {error}", self.id);
                false
            }
        }
    }

    /// Empties it, whoever rang: what it is about is looked for afterwards.
    fn clear_doorbell(&self) {
        if let Err(error) = rustix::io::read(&self.doorbell, &mut [0_u8; 8])
            && error != Errno::AGAIN
        {
            log::warn!("context {}: doorbell: {error}", self.id);
        }
    }

    /// What the operator is told of a frame's fault. Of limits that they set themselves, which.
    fn reason(&self, fault: Fault) -> String {
        let objects = self.context.as_ref().map(|context| &context.objects);
        match objects.filter(|objects| fault == Fault::Limit && objects.live() >= objects.limit) {
            Some(objects) => format!("{fault}: {} objects (limits.objects)", objects.live()),
            None => fault.to_string(),
        }
    }

    fn fail(&mut self, fault: Fault, reason: &str) {
        let Some(context) = &mut self.context else { return };
        // Of a ring's frame the context knows already, but nobody else does.
        if std::mem::replace(&mut self.failed, true) {
            return;
        }
        context.fail(fault);
        // The broker logs it.
        log::debug!("context {} ({}) failed: {reason}", self.id, self.name);
        self.sink.send(ToBroker::ContextFailed { context: self.id, reason: reason.to_owned() });
    }

    /// Ends the context, with everything that may touch its regions.
    fn end(&mut self) {
        let copied = self.ring.take().map(|ring| Copied::read(&ring.view)).unwrap_or_default();
        if let Some(mut context) = self.context.take() {
            context.tear_down();
            self.usage = ContextUsage {
                guest_copies: copied.copies.into(),
                guest_bytes_copied: copied.bytes,
                ..context.usage()
            };
        }
    }
}

fn lock(bucket: &Mutex<Bucket>) -> MutexGuard<'_, Bucket> {
    bucket.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Quiesced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Quiesced")
    }
}
