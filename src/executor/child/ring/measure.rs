//! What the executor itself does for a command, for whoever counts its instructions: `cargo xtask bench instructions`.
//!
//! Frames go the whole way from a ring to the backend, through the lease, the checks, the records and the quota, as in an
//! executor's process. But the thread is the caller's, nothing sleeps, and the backend is the null one, which is at once done with
//! everything. So the same commands take the same instructions each time, and none of them is a driver's.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

use paragpu_protocol::command::{
    Body, BuildProgram, CreateBuffer, CreateContext, CreateKernel, CreatePlacedBuffer, CreateProgram,
    CreateQueue, EnqueueKernel, ReleaseShared, SetArgObject, SetArgValue,
};
use paragpu_protocol::fault::Fault;
use paragpu_protocol::limits::{MAX_FRAME_BYTES, MAX_OBJECTS};
use paragpu_protocol::ring::{HEADER_BYTES, Producer, Pushed};
use paragpu_protocol::types::{Create, Enqueue, SlotRef, Span};
use rustix::event::{EventfdFlags, eventfd};
use zerocopy::little_endian::U32;

use super::{Control, Next, RingThread, RingView};
use crate::executor::child::backend::null::Null;
use crate::executor::child::builds::Builds;
use crate::executor::child::completion::Notifier;
use crate::executor::child::context::Context;
use crate::executor::child::executor::EventSink;
use crate::executor::child::pace::Pace;
use crate::executor::child::print::Printer;
use crate::executor::child::quota::Quota;
use crate::executor::child::region::Regions;
use crate::executor::message::{ContextUsage, ToBroker};
use crate::lease::{LeasePage, word};
use crate::sys::map::{Mapping, PAGE_BYTES};

/// As the guest's driver makes it.
const RING_BYTES: u32 = 512 * 1024;
const RING: u32 = 1;
const BYTES: u32 = 2;

const CONTEXT: u32 = 1;
const QUEUE: u32 = 2;
const PROGRAM: u32 = 3;
const KERNEL: u32 = 4;
const BUFFER: u32 = 5;
const PLACED: u32 = 6;

const SOURCE: &[u8] = b"kernel void keep(global uint *out, uint value) {}";

/// Its context's place in the page of leases.
const PLACE: usize = 0;

/// What a guest streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Launches of a kernel that has a buffer and a number, on one queue, of which nobody wants to know.
    Launches,
    /// Other numbers for the kernel.
    Arguments,
    /// Buffers in the guest's memory, each released before the next is created: two commands each.
    Buffers,
}

/// Why commands cannot be measured.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    /// The system refused what a ring needs.
    #[error("a ring of our own: {0}")]
    System(#[from] io::Error),
    /// The executor found a mistake in a command.
    #[error("a command that is measured fails its context: {0}")]
    Fault(#[from] Fault),
    /// The executor did not go on.
    #[error("the executor takes no commands: {0}")]
    Stuck(&'static str),
}

/// A ring with both its ends.
pub struct Measured {
    thread: RingThread<Null>,
    view: RingView,
    producer: Producer,
    leases: LeasePage,
    /// What the guest writes.
    frame: Box<[u8]>,
    /// What the executor reads.
    taken: Box<[u8; MAX_FRAME_BYTES as usize]>,
    value: u32,
    _control: Sender<Control>,
}

/// Nobody is told.
struct Nobody;

impl EventSink for Nobody {
    fn send(&self, _message: ToBroker) {}
}

impl Measured {
    /// One with all that the streams need.
    pub fn new() -> Result<Measured, MeasureError> {
        let regions = Arc::new(Regions::default());
        regions.add(RING, Arc::new(Mapping::anonymous((HEADER_BYTES + RING_BYTES) as usize)?));
        regions.add(BYTES, Arc::new(Mapping::anonymous(PAGE_BYTES)?));
        let event = || eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).map_err(io::Error::from);
        let doorbell: OwnedFd = event()?;
        let (leases, _file) = LeasePage::create()?;
        let (memory, _file) = LeasePage::create()?;
        let backend = Arc::new(Null::new(1));
        let pace = Pace::new(leases.clone(), event()?, event()?, 1);
        let mut context = Context::with_notifier(
            backend,
            regions.clone(),
            Builds::inline(),
            Arc::new(Notifier::default()),
            Printer::default().client(),
            None,
        );
        context.pacer = Some(pace.pacer(Some(PLACE), doorbell.as_fd())?);
        context.quota = Quota::new(Some(1 << 30), leases.clone(), memory).of_context(Some(PLACE));
        context.objects.limit(MAX_OBJECTS);
        let view = RingView::new(regions.get(RING)?, RING_BYTES)?;
        let (control, messages) = channel();
        let mut thread = RingThread {
            id: 1,
            name: "measured".to_owned(),
            context: Some(context),
            regions,
            control: messages,
            doorbell,
            sink: Arc::new(Nobody),
            paused: false,
            commands: None,
            failed: false,
            ring: None,
            usage: ContextUsage::default(),
        };
        thread.start(RING, RING_BYTES)?;
        let mut measured = Measured {
            thread,
            view,
            producer: Producer::new(RING_BYTES),
            leases,
            frame: vec![0; MAX_FRAME_BYTES as usize].into_boxed_slice(),
            taken: Box::new([0; MAX_FRAME_BYTES as usize]),
            value: 0,
            _control: control,
        };
        measured.prepare()?;
        Ok(measured)
    }

    fn prepare(&mut self) -> Result<(), MeasureError> {
        self.push(&CreateContext { create: create(CONTEXT, 0) }, &[0; 4])?;
        self.push(&CreateQueue { create: create(QUEUE, CONTEXT), ..CreateQueue::default() }, &[])?;
        self.push(&CreateProgram { create: create(PROGRAM, CONTEXT), source: Span::NONE }, SOURCE)?;
        self.push(&BuildProgram { program: PROGRAM.into(), ..BuildProgram::default() }, &[])?;
        self.push(&CreateKernel { create: create(KERNEL, PROGRAM), info: Span::NONE }, b"keep")?;
        let size = (PAGE_BYTES as u64).into();
        self.push(
            &CreateBuffer { create: create(BUFFER, CONTEXT), flags: 1.into(), size, init: Span::NONE },
            &[],
        )?;
        let argument = SetArgObject {
            kernel: KERNEL.into(),
            index: 0.into(),
            object: BUFFER.into(),
            reserved: U32::ZERO,
        };
        self.push(&argument, &[])?;
        self.push_one(Stream::Arguments)?;
        self.push_one(Stream::Launches)?;
        self.take_all()
    }

    /// Has so many repetitions of a stream pass. Only what [`take`] does is the executor's.
    pub fn run(&mut self, stream: Stream, count: usize) -> Result<(), MeasureError> {
        (0..count).try_for_each(|_| self.push_one(stream))?;
        self.take_all()
    }

    /// How many commands the context has taken.
    pub fn commands(&self) -> u64 {
        self.thread.context.as_ref().map_or(0, |context| context.usage().commands)
    }

    fn push_one(&mut self, stream: Stream) -> Result<(), MeasureError> {
        match stream {
            Stream::Launches => {
                let launch = EnqueueKernel {
                    enqueue: Enqueue { queue: QUEUE.into(), ..Enqueue::default() },
                    kernel: KERNEL.into(),
                    dims: 1.into(),
                    global: [1, 1, 1].map(Into::into),
                    ..EnqueueKernel::default()
                };
                self.push(&launch, &[])
            }
            Stream::Arguments => {
                self.value = self.value.wrapping_add(1);
                let argument = SetArgValue { kernel: KERNEL.into(), index: 1.into(), reply: SlotRef::NONE };
                self.push(&argument, &self.value.to_le_bytes())
            }
            Stream::Buffers => {
                let memory = Span::new(BYTES, 0, PAGE_BYTES as u64);
                self.push(
                    &CreatePlacedBuffer { create: create(PLACED, CONTEXT), flags: 1.into(), memory },
                    &[],
                )?;
                let release = ReleaseShared { id: PLACED.into(), reserved: U32::ZERO, reply: SlotRef::NONE };
                self.push(&release, &[])
            }
        }
    }

    /// What a guest does; the ring is emptied when it is full.
    fn push<C: Body>(&mut self, body: &C, data: &[u8]) -> Result<(), MeasureError> {
        let len = body.encode(&mut self.frame, &[], data).ok_or(MeasureError::Stuck("too long"))?;
        for _ in 0..2 {
            if self.producer.push(&self.view, &self.frame[..len]) != Pushed::Full {
                return Ok(());
            }
            self.take_all()?;
        }
        Err(MeasureError::Stuck("the ring is full"))
    }

    fn take_all(&mut self) -> Result<(), MeasureError> {
        loop {
            match take(&mut self.thread, &mut self.taken)? {
                Next::Frame => {}
                Next::Nothing => return Ok(()),
                // What the scheduler does.
                Next::Device(device) if word::lend(self.leases.lease(device), false) => {}
                Next::Device(_) => return Err(MeasureError::Stuck("it waits for the device")),
                Next::Later(_) => return Err(MeasureError::Stuck("it is told to wait")),
            }
        }
    }
}

/// What the executor does: a profiler finds it by this name.
#[inline(never)]
fn take(thread: &mut RingThread<Null>, frame: &mut [u8; MAX_FRAME_BYTES as usize]) -> Result<Next, Fault> {
    thread.consume(frame)
}

fn create(id: u32, parent: u32) -> Create {
    Create { id: id.into(), parent: parent.into(), reply: SlotRef::NONE }
}

impl std::fmt::Debug for Measured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Measured").field("commands", &self.commands()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::{Measured, Stream};

    /// More than fit into the ring at once.
    const MANY: usize = 10_000;

    #[test]
    fn every_command_of_a_stream_reaches_the_executor() {
        let mut measured = Measured::new().unwrap();
        for (stream, each) in [(Stream::Launches, 1), (Stream::Arguments, 1), (Stream::Buffers, 2)] {
            let before = measured.commands();
            measured.run(stream, MANY).unwrap();
            assert_eq!(measured.commands() - before, (MANY * each) as u64, "{stream:?}");
        }
    }
}
