//! The connection to the host: one ring for the whole process, slots for what comes back, staging for data.
//!
//! Commands are posted: [`Connection::send`] returns as soon as the frame is in the ring. What needs an answer
//! names a [`Slot`], which the host completes and the guest polls; only a thread that finds nothing to do for
//! some microseconds goes through the kernel to sleep.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use paragpu_protocol::command::{Body, Release, ReleaseShared};
use paragpu_protocol::control::{Doorbell, MAX_WAIT_MILLIS, StartRing};
use paragpu_protocol::fault::Fault;
use paragpu_protocol::limits::MAX_FRAME_BYTES;
use paragpu_protocol::ring::{self, Copied, Producer, Pushed, RingMemory, Sleep, Status, Word};
use zerocopy::IntoBytes;
use zerocopy::little_endian::U32;

use crate::core::error::{ClError, ClResult};
use crate::core::lock;
use crate::core::placed::{Place, Room};
use crate::core::prints::Prints;
use crate::core::shared::SharedRegion;
use crate::core::slots::{Slot, SlotPool};
use crate::core::staging::{Staging, StagingPool};
use crate::debug::debug;
use crate::sys::process::Opener;
use crate::sys::shared::Shared;
use crate::transport::{self, Transport};

/// Data area of the ring in bytes: some thousand small kernels.
const RING_DATA_BYTES: u32 = 512 * 1024;

/// How long a waiting thread polls before it sleeps: about what a sleep and a wake-up cost. The device may be computing on
/// the very processor that polls, so that is given up after each look.
const SPIN: Duration = Duration::from_micros(50);

/// How long a thread sleeps on shared memory before it asks the host.
const LOCAL_PATIENCE: Duration = Duration::from_millis(200);

/// How long the host may take to start a ring: it may have to start a process and load an OpenCL driver.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// What the host said of a command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// `CL_SUCCESS` or a negative error.
    pub(crate) status: i32,
    /// Full length of the answer, where the command has one.
    pub(crate) len: u32,
    /// Queued, submit, start, end in nanoseconds, where the queue profiles.
    pub(crate) profile: [u64; 4],
}

impl Outcome {
    /// What a command of a lost context reports.
    fn lost() -> Outcome {
        Outcome { status: ClError::DEVICE_NOT_AVAILABLE.0, ..Outcome::default() }
    }

    /// The outcome as a result.
    pub(crate) fn ok(self) -> ClResult<Outcome> {
        if self.status < 0 { Err(ClError(self.status)) } else { Ok(self) }
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Connection {
    ring: Arc<Shared>,
    outgoing: Mutex<Outgoing>,
    ids: Mutex<Ids>,
    slots: Arc<SlotPool>,
    staging: Arc<StagingPool>,
    room: Arc<Room>,
    retired: Mutex<Retired>,
    prints: Prints,
    lost: AtomicBool,
    opener: Opener,
    // Last: regions are released before the context they belong to.
    transport: Arc<dyn Transport>,
}

#[derive(Debug)]
struct Outgoing {
    producer: Producer,
    frame: Box<[u8]>,
}

#[derive(Debug, Default)]
struct Ids {
    last: u32,
    free: Vec<u32>,
}

/// Slots, and the memory that their commands use, which nobody waits for.
#[derive(Debug, Default)]
struct Retired(Vec<(Slot, Kept)>);

/// Memory that must stay until a command is complete.
#[derive(Debug)]
enum Kept {
    Nothing,
    Staging(#[expect(dead_code, reason = "held, not read")] Staging),
    Region(#[expect(dead_code, reason = "held, not read")] Arc<SharedRegion>),
    Place(#[expect(dead_code, reason = "held, not read")] Arc<Place>),
    Unmapped(#[expect(dead_code, reason = "held, not read")] Shared),
}

impl Retired {
    /// Drops what is complete.
    fn sweep(&mut self) {
        self.0.retain(|(slot, _)| slot.poll().is_none());
    }
}

/// Bytes that buffers may lie in: a part of what may be shared, so that transfers find some, and other processes.
fn buffer_room(transport: &dyn Transport) -> usize {
    let room = transport.buffer_room();
    match transport.capset().max_shared_bytes.get() {
        0 => room,
        most => room.min(usize::try_from(most / 4).unwrap_or(usize::MAX)),
    }
}

static CURRENT: Mutex<Option<Arc<Connection>>> = Mutex::new(None);

impl Connection {
    /// The process's connection: opened at first use, and anew after the host lost the old one.
    pub(crate) fn current() -> ClResult<Arc<Connection>> {
        let mut current = lock(&CURRENT);
        if let Some(connection) = &*current {
            // After a fork the ring is the parent's; a child that touched it would corrupt it.
            if connection.is_this_process() && !connection.is_lost() {
                return Ok(connection.clone());
            }
        }
        let connection = Arc::new(Connection::open().inspect_err(|error| debug!("{error}"))?);
        if let Some(old) = current.replace(connection.clone())
            && !old.is_this_process()
        {
            std::mem::forget(old);
        }
        Ok(connection)
    }

    fn open() -> Result<Connection, OpenError> {
        let prints = Prints::new();
        Connection::over(transport::open()?, prints)
    }

    fn over(transport: Arc<dyn Transport>, prints: Prints) -> Result<Connection, OpenError> {
        let data_bytes = RING_DATA_BYTES.min(transport.capset().max_ring_bytes.get());
        let start = StartRing::new(0, data_bytes);
        let ring = Arc::new(Shared::new(transport.create_region(start.region_bytes())?));
        transport.submit(StartRing::new(ring.id(), data_bytes).as_bytes())?;
        let connection = Connection {
            outgoing: Mutex::new(Outgoing {
                producer: Producer::new(data_bytes),
                frame: vec![0; MAX_FRAME_BYTES as usize].into_boxed_slice(),
            }),
            ids: Mutex::default(),
            slots: Arc::new(SlotPool::new(transport.clone())),
            staging: Arc::new(StagingPool::new(transport.clone(), ring.clone())),
            room: Room::new(buffer_room(&*transport)),
            retired: Mutex::default(),
            prints,
            lost: AtomicBool::new(false),
            opener: Opener::this_process(),
            ring,
            transport,
        };
        let deadline = Instant::now() + START_TIMEOUT;
        connection.sleep_until(|| {
            let started = connection.status() != Some(Status::Starting);
            (started || connection.is_lost() || Instant::now() > deadline).then_some(())
        });
        match connection.status() {
            Some(Status::Running) => Ok(connection),
            Some(Status::Starting) => Err(OpenError::Timeout),
            _ => Err(OpenError::Refused(connection.reason())),
        }
    }

    /// The process's connection, if there is one and nobody is just opening another.
    pub(crate) fn at_exit() -> Option<Arc<Connection>> {
        let current = CURRENT.try_lock().ok()?;
        current.clone().filter(|connection| connection.is_this_process())
    }

    /// False in a child of the process that opened the connection.
    pub(crate) fn is_this_process(&self) -> bool {
        self.opener.is_this_process()
    }

    /// The launches that may print.
    pub(crate) fn prints(&self) -> &Prints {
        &self.prints
    }

    fn status(&self) -> Option<Status> {
        Status::from_word(self.ring.load(Word::Status))
    }

    fn reason(&self) -> String {
        match (self.status(), Fault::from_code(self.ring.load(Word::Reason))) {
            (Some(Status::Failed), Some(fault)) => format!("the host refused what this driver sent: {fault}"),
            (Some(Status::Failed), None) => {
                "the host has no usable OpenCL device (paragpud's log says why)".into()
            }
            _ => "the host's executor ended (paragpud's log says why)".into(),
        }
    }

    /// True once the host has given up this connection's context. Everything in it is gone.
    pub(crate) fn is_lost(&self) -> bool {
        if self.lost.load(Ordering::Relaxed) {
            return true;
        }
        match self.status() {
            Some(Status::Starting | Status::Running) => false,
            _ => {
                self.mark_lost(&self.reason());
                true
            }
        }
    }

    fn mark_lost(&self, reason: &str) {
        if !self.lost.swap(true, Ordering::Relaxed) {
            debug!("context lost: {reason}");
        }
    }

    /// A fresh object id.
    pub(crate) fn new_id(&self) -> u32 {
        let mut ids = lock(&self.ids);
        ids.free.pop().unwrap_or_else(|| {
            ids.last += 1;
            ids.last
        })
    }

    /// Releases the object on the host; its id may be used again for what is sent later.
    pub(crate) fn release(&self, id: u32) {
        if self.send(&Release { id: id.into(), reserved: U32::ZERO }, &[], &[]).is_ok() {
            lock(&self.ids).free.push(id);
        }
    }

    /// Counts copies of so many bytes each that were made for a transfer; those in staging memory count themselves.
    pub(crate) fn copied(&self, copies: u32, bytes: usize) {
        Copied::add(&*self.ring, copies, bytes);
    }

    /// Posts a command. Blocks only while the ring is full.
    pub(crate) fn send<B: Body>(&self, body: &B, wait: &[u32], data: &[u8]) -> ClResult<()> {
        if !self.is_this_process() {
            return Err(ClError::DEVICE_NOT_AVAILABLE);
        }
        let mut outgoing = lock(&self.outgoing);
        let Outgoing { producer, frame } = &mut *outgoing;
        let len = body.encode(frame, wait, data).ok_or(ClError::OUT_OF_RESOURCES)?;
        let frame = &frame[..len];
        let pushed = match producer.push(&*self.ring, frame) {
            // The lock is kept while sleeping: commands stay in the order in which they were sent.
            Pushed::Full => self.sleep_until(|| match producer.push(&*self.ring, frame) {
                Pushed::Full if self.is_lost() => Some(Err(ClError::DEVICE_NOT_AVAILABLE)),
                Pushed::Full => None,
                pushed => Some(Ok(pushed)),
            })?,
            pushed => pushed,
        };
        if pushed == Pushed::SentKick
            && let Err(error) = self.transport.submit(Doorbell::new().as_bytes())
        {
            self.mark_lost(&error.to_string());
        }
        if self.lost.load(Ordering::Relaxed) { Err(ClError::DEVICE_NOT_AVAILABLE) } else { Ok(()) }
    }

    /// Sleeps until `ready` gives something. `ready` must come true by something that the host publishes, or by
    /// the connection being lost.
    pub(crate) fn sleep_until<T>(&self, mut ready: impl FnMut() -> Option<T>) -> T {
        let is_local = self.transport.is_local();
        let spin_end = Instant::now() + SPIN;
        loop {
            if let Some(value) = ready() {
                return value;
            }
            if Instant::now() > spin_end {
                break;
            }
            rustix::thread::sched_yield();
        }
        let mut how = if is_local { Sleep::Futex } else { Sleep::Wait };
        loop {
            let seen = ring::about_to_sleep(&*self.ring, how);
            // Between the announcement and sleeping, so that no wake-up is lost (see `ring`).
            let value = ready();
            match how {
                _ if value.is_some() => {}
                Sleep::Futex => {
                    if !self.ring.sleep_on(Word::WakeSeq, seen, LOCAL_PATIENCE) {
                        // Whether there is still a host, the other way finds out.
                        how = Sleep::Wait;
                        ring::woken(&*self.ring, Sleep::Futex);
                        continue;
                    }
                }
                Sleep::Wait => {
                    if let Err(error) = self.transport.wait(seen, Duration::from_millis(2 * MAX_WAIT_MILLIS))
                    {
                        self.mark_lost(&error.to_string());
                    }
                }
            }
            ring::woken(&*self.ring, how);
            if let Some(value) = value {
                return value;
            }
        }
    }

    /// A fresh slot, pending.
    pub(crate) fn slot(&self) -> ClResult<Slot> {
        self.slots.take()
    }

    /// What the host said of the slot's command, if it has.
    pub(crate) fn poll(&self, slot: &Slot) -> Option<Outcome> {
        slot.poll().or_else(|| self.is_lost().then(Outcome::lost))
    }

    /// Sleeps until the slot's command is complete. If the context is lost, the status says so.
    pub(crate) fn wait(&self, slot: &Slot) -> Outcome {
        self.sleep_until(|| self.poll(slot))
    }

    /// Shared memory of `len` bytes. If none can be had, waits for retired staging to be free again.
    pub(crate) fn staging(&self, len: usize) -> ClResult<Staging> {
        lock(&self.retired).sweep();
        loop {
            match self.staging.take(len) {
                Ok(staging) => return Ok(staging),
                Err(error) => {
                    let oldest = {
                        let mut retired = lock(&self.retired);
                        let index = retired.0.iter().position(|(_, kept)| matches!(kept, Kept::Staging(_)));
                        index.map(|index| retired.0.remove(index))
                    };
                    let (slot, _kept) = oldest.ok_or(error)?;
                    self.wait(&slot);
                    if self.is_lost() {
                        return Err(ClError::DEVICE_NOT_AVAILABLE);
                    }
                }
            }
        }
    }

    /// Shared memory that a buffer of `len` bytes is to lie in, if there is room.
    pub(crate) fn place(&self, len: usize) -> Option<Arc<Place>> {
        let share = self.room.take(len)?;
        let memory = self.staging.take_spare(len).or_else(|| {
            lock(&self.retired).sweep();
            self.staging.take(len).ok()
        })?;
        Some(Place::new(memory, share))
    }

    /// Frees a slot and the staging memory of its command once that is complete, without waiting.
    pub(crate) fn retire(&self, slot: Slot, staging: Option<Staging>) {
        self.keep(slot, staging.map_or(Kept::Nothing, Kept::Staging));
    }

    fn keep(&self, slot: Slot, kept: Kept) {
        if slot.poll().is_none() {
            let mut retired = lock(&self.retired);
            if retired.0.len() >= retired.0.capacity() {
                retired.sweep();
            }
            retired.0.push((slot, kept));
        }
    }

    /// A shared region of at least `len` bytes, zeroed.
    pub(crate) fn region(&self, len: usize) -> ClResult<Shared> {
        lock(&self.retired).sweep();
        let region = self.transport.create_region(len as u64).map_err(|error| {
            debug!("no shared memory of {len} bytes: {error}");
            ClError::MEM_OBJECT_ALLOCATION_FAILURE
        })?;
        Ok(Shared::new(region))
    }

    /// Releases a shared buffer on the host, and gives its region up when the host no longer uses it.
    pub(crate) fn release_shared(&self, id: u32, region: Arc<SharedRegion>) {
        self.release_keeping(id, Kept::Region(region));
    }

    /// Releases a buffer on the host, and gives up the memory that it lies in when the host no longer uses it.
    pub(crate) fn release_placed(&self, id: u32, place: Arc<Place>) {
        self.release_keeping(id, Kept::Place(place));
    }

    /// The same for a region that could not be mapped where the host has it.
    pub(crate) fn release_with(&self, id: u32, region: Shared) {
        self.release_keeping(id, Kept::Unmapped(region));
    }

    fn release_keeping(&self, id: u32, kept: Kept) {
        let sent = self.slot().and_then(|slot| {
            let body = ReleaseShared { id: id.into(), reserved: U32::ZERO, reply: slot.to_ref() };
            self.send(&body, &[], &[]).map(|()| slot)
        });
        // Where nothing could be sent the connection is lost, and the host with it.
        if let Ok(slot) = sent {
            lock(&self.ids).free.push(id);
            self.keep(slot, kept);
        }
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
enum OpenError {
    #[error(transparent)]
    Transport(#[from] transport::TransportError),
    #[error("the host did not start the ring within {} s; see paragpud's log", START_TIMEOUT.as_secs())]
    Timeout,
    #[error("{0}")]
    Refused(String),
}

impl From<OpenError> for ClError {
    fn from(_: OpenError) -> ClError {
        ClError::DEVICE_NOT_AVAILABLE
    }
}
