//! One vGPU: its guest memory, its contexts, and what the broker says about them.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use paragpu_protocol::fault::Fault;
use paragpu_protocol::limits::{MAX_BUILDS, MAX_CONTEXTS, MAX_MAPPINGS};

use super::backend::{Backend, Query};
use super::builds::Builds;
use super::compiler::trial::Trials;
use super::completion::Notifier;
use super::context::Context;
use super::pace::Pace;
use super::print::Printer;
use super::quota::Quota;
use super::region::{Budget, GuestMemory, Regions};
use super::ring::{Control, Quiesced, RingThread};
use crate::executor::known::Known;
use crate::executor::message::{ContextUsage, Extent, MemoryRegion, ToBroker, ToExecutor};
use crate::lease::LeasePage;
use crate::limits::{Bucket, BuildLimits, Limits};
use crate::recorder::{MAX_RING_RECORD, Recorder};

/// Where an executor's messages go. Called from many threads, drivers' threads among them.
pub trait EventSink: Send + Sync + 'static {
    /// Takes a message for the broker.
    fn send(&self, message: ToBroker);
}

/// Environment variable: `no` has this process compile at once, as a limit's `trial` does.
const TRIAL_VARIABLE: &str = "PARAGPU_BUILD_TRIAL";

/// `CL_DEVICE_NAME`, `CL_DEVICE_VENDOR`, `CL_DRIVER_VERSION` and `CL_DEVICE_VERSION`
const DEVICE_IDENTITY: [u32; 4] = [0x102b, 0x102c, 0x102d, 0x102f];

/// How long a command waits for the message that adds its region.
const REGION_PATIENCE: Duration = Duration::from_millis(500);

/// What the broker did wrong.
#[derive(Debug, thiserror::Error)]
pub enum ExecutorError {
    /// A message without its file descriptors, or with too many.
    #[error("{message} came with {got} file descriptors")]
    FileDescriptors {
        /// The message.
        message: &'static str,
        /// How many there were.
        got: usize,
    },
    /// A context that is there already.
    #[error("context {0} exists")]
    ContextExists(u32),
    /// More contexts than one vGPU may have.
    #[error("more than {MAX_CONTEXTS} contexts")]
    TooManyContexts,
    /// The operating system refused.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// The executor of one vGPU.
pub struct Executor<B: Backend> {
    backend: Arc<B>,
    sink: Arc<dyn EventSink>,
    wake: Option<Arc<OwnedFd>>,
    memory: GuestMemory,
    budget: Budget,
    builds: Builds,
    /// Who waits for compilers.
    trials: Option<Arc<Trials>>,
    printer: Printer,
    /// What it shares the devices by.
    pace: Option<Arc<Pace>>,
    limits: Limits,
    /// The rate at which all its rings' commands are taken.
    commands: Option<Arc<Mutex<Bucket>>>,
    quota: Quota,
    contexts: HashMap<u32, ContextHandle>,
    quiesced: bool,
}

/// The control side's end of a context's thread.
struct ContextHandle {
    control: Sender<Control>,
    doorbell: OwnedFd,
    regions: Arc<Regions>,
}

impl ContextHandle {
    fn tell(&self, message: Control) {
        // A thread that is gone has nothing to do with it any more.
        let _ = self.control.send(message);
        if let Err(error) = rustix::io::write(&self.doorbell, &1_u64.to_ne_bytes())
            && error != rustix::io::Errno::AGAIN
        {
            log::warn!("doorbell: {error}");
        }
    }
}

impl<B: Backend> Executor<B> {
    /// An executor without contexts, whose kernels print to nobody.
    pub fn new(backend: Arc<B>, sink: Arc<dyn EventSink>) -> Executor<B> {
        Executor::with_printer(backend, sink, Printer::default())
    }

    /// An executor without contexts.
    pub fn with_printer(backend: Arc<B>, sink: Arc<dyn EventSink>, printer: Printer) -> Executor<B> {
        Executor {
            backend,
            sink,
            wake: None,
            memory: GuestMemory::default(),
            budget: Budget::new(MAX_MAPPINGS),
            builds: Builds::threads(MAX_BUILDS),
            trials: None,
            printer,
            pace: None,
            limits: Limits::default(),
            commands: None,
            quota: Quota::default(),
            contexts: HashMap::new(),
            quiesced: false,
        }
    }

    fn hello(&mut self, limits: &Limits, fds: Vec<OwnedFd>) -> Result<(), ExecutorError> {
        let got = fds.len();
        let mut fds = fds.into_iter();
        self.limits = *limits;
        self.commands = limits.commands.map(|rate| Arc::new(Mutex::new(Bucket::new(rate, Instant::now()))));
        match (fds.next(), fds.next(), fds.next(), fds.next(), fds.next(), fds.next()) {
            (Some(wake), None, ..) => self.wake = Some(Arc::new(wake)),
            (Some(wake), Some(page), Some(ring), Some(grant), Some(memory), None) => {
                self.wake = Some(Arc::new(wake));
                let page = LeasePage::open(&page)?;
                self.quota = Quota::new(limits.memory_bytes, page.clone(), LeasePage::open(&memory)?);
                self.pace = Some(Pace::new(page, ring, grant, self.backend.devices().len()));
            }
            _ => return Err(ExecutorError::FileDescriptors { message: "Hello", got }),
        }
        Ok(())
    }

    /// Does what the broker says. Never waits for a device.
    pub fn handle(&mut self, message: ToExecutor, fds: Vec<OwnedFd>) -> Result<(), ExecutorError> {
        match message {
            // Answered before there is an executor.
            ToExecutor::Probe => Ok(()),
            ToExecutor::Hello { vgpu, limits, devices: _ } => {
                log::debug!("executor of vGPU {vgpu}");
                self.limit_builds(limits.builds);
                self.hello(&limits, fds)
            }
            ToExecutor::Memory { regions } => self.set_memory(regions, fds),
            ToExecutor::CreateContext { context, name, place } => {
                self.create_context(context, name, place, one("CreateContext", fds)?)
            }
            ToExecutor::AddRegion { context, region, extents } => {
                self.add_region(context, region, &extents);
                Ok(())
            }
            ToExecutor::RemoveRegion { context, region } => {
                self.remove_region(context, region);
                Ok(())
            }
            ToExecutor::StartRing { context, region, data_bytes } => {
                match self.contexts.get(&context) {
                    Some(handle) => handle.tell(Control::Start { region, data_bytes }),
                    None => log::warn!("StartRing for context {context}, which there is not"),
                }
                Ok(())
            }
            ToExecutor::DestroyContext { context } => {
                match self.contexts.remove(&context) {
                    // Its thread answers.
                    Some(handle) => handle.tell(Control::Destroy),
                    None => {
                        let usage = ContextUsage::default();
                        self.sink.send(ToBroker::ContextDestroyed { context, usage });
                    }
                }
                Ok(())
            }
            ToExecutor::Quiesce => {
                self.quiesced = true;
                let quiesced = Arc::new(Quiesced(self.sink.clone()));
                for handle in self.contexts.values() {
                    handle.tell(Control::Quiesce(quiesced.clone()));
                }
                Ok(())
            }
            ToExecutor::Resume => {
                self.quiesced = false;
                for handle in self.contexts.values() {
                    handle.tell(Control::Resume);
                }
                Ok(())
            }
            ToExecutor::Known => {
                let table = one("Known", fds)?;
                if let Some(trials) = &self.trials {
                    trials.set_known(Known::open(table, &self.circumstances())?);
                }
                Ok(())
            }
            ToExecutor::Compiler { compiler } => {
                if let Some(trials) = &self.trials {
                    trials.answered(compiler, fds.into_iter().next());
                }
                Ok(())
            }
        }
    }

    /// What it depends on beside a recipe whether a compiler comes to an end with it, and what is in the driver's cache then.
    /// A driver may be replaced while the broker runs.
    fn circumstances(&self) -> Vec<u8> {
        let BuildLimits { seconds, memory_bytes, concurrent: _, idle_seconds: _, trial: _ } =
            self.limits.builds;
        let mut circumstances = [u64::from(seconds), memory_bytes].map(u64::to_le_bytes).concat();
        for device in self.backend.devices() {
            for param in DEVICE_IDENTITY {
                // Behind each a zero, as the host's OpenCL gives it.
                let text = self.backend.query(Query::Device(&device.handle), param);
                circumstances.extend(text.unwrap_or_else(|_unknown| vec![0]));
            }
        }
        circumstances
    }

    fn limit_builds(&mut self, limits: BuildLimits) {
        let concurrent = limits.concurrent as usize;
        let is_tried = limits.trial && std::env::var_os(TRIAL_VARIABLE).is_none_or(|value| value != "no");
        self.trials = is_tried.then(|| Arc::new(Trials::new(limits, self.sink.clone())));
        self.builds = match &self.trials {
            Some(trials) => Builds::tried(concurrent, trials.clone()),
            None => Builds::threads(concurrent),
        };
    }

    fn set_memory(&mut self, regions: Vec<MemoryRegion>, fds: Vec<OwnedFd>) -> Result<(), ExecutorError> {
        if regions.len() != fds.len() {
            return Err(ExecutorError::FileDescriptors { message: "Memory", got: fds.len() });
        }
        self.memory = GuestMemory::new(regions, fds);
        Ok(())
    }

    fn create_context(
        &mut self,
        id: u32,
        name: String,
        place: Option<u32>,
        doorbell: OwnedFd,
    ) -> Result<(), ExecutorError> {
        if self.contexts.contains_key(&id) {
            return Err(ExecutorError::ContextExists(id));
        }
        if self.contexts.len() >= MAX_CONTEXTS {
            return Err(ExecutorError::TooManyContexts);
        }
        let regions = Arc::new(Regions::new(REGION_PATIENCE));
        let notifier = Arc::new(Notifier::new(self.wake.clone()));
        notifier.pause(self.quiesced);
        let mut context = Context::with_notifier(
            self.backend.clone(),
            regions.clone(),
            self.builds.clone(),
            notifier,
            self.printer.client(),
            Recorder::from_environment("ring", MAX_RING_RECORD),
        );
        let place = place.and_then(|place| usize::try_from(place).ok());
        let pacer = self.pace.as_ref().map(|pace| pace.pacer(place, doorbell.as_fd()));
        context.pacer = pacer.transpose()?;
        context.quota = self.quota.of_context(place);
        context.objects.limit(usize::try_from(self.limits.objects).unwrap_or(usize::MAX));
        let (control, messages) = channel();
        let thread = RingThread {
            id,
            name,
            context: Some(context),
            regions: regions.clone(),
            control: messages,
            doorbell: doorbell.try_clone()?,
            sink: self.sink.clone(),
            paused: self.quiesced,
            failed: false,
            commands: self.commands.clone(),
            ring: None,
            usage: ContextUsage::default(),
        };
        thread::Builder::new().name(format!("ring-{id}")).spawn(move || thread.run())?;
        self.contexts.insert(id, ContextHandle { control, doorbell, regions });
        Ok(())
    }

    fn add_region(&mut self, context: u32, region: u32, extents: &[Extent]) {
        let Some(handle) = self.contexts.get(&context) else {
            log::warn!("AddRegion for context {context}, which there is not");
            return;
        };
        match self.memory.map(extents, &self.budget) {
            Ok(mapping) => handle.regions.add(region, Arc::new(mapping)),
            Err(error) => handle.tell(Control::Fail(Fault::Limit, format!("region {region}: {error}"))),
        }
    }

    fn remove_region(&mut self, context: u32, region: u32) {
        let removed = ToBroker::RegionRemoved { context, region };
        let handle = self.contexts.get(&context);
        let mapping = handle.and_then(|handle| handle.regions.remove(region));
        match (handle, mapping) {
            (Some(handle), Some(mapping)) => {
                let sink = self.sink.clone();
                // Commands in flight, and the ring itself, may still hold it.
                mapping.after_unmap(move || sink.send(removed));
                handle.tell(Control::Removed { region });
            }
            _ => self.sink.send(removed),
        }
    }
}

fn one(message: &'static str, fds: Vec<OwnedFd>) -> Result<OwnedFd, ExecutorError> {
    let got = fds.len();
    let [fd] =
        <[OwnedFd; 1]>::try_from(fds).map_err(|_other| ExecutorError::FileDescriptors { message, got })?;
    Ok(fd)
}

impl<B: Backend> Drop for Executor<B> {
    fn drop(&mut self) {
        // Threads end, and tear their contexts down, in their own time.
        for (_, handle) in self.contexts.drain() {
            handle.tell(Control::Destroy);
        }
    }
}

impl<B: Backend> fmt::Debug for Executor<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Executor").field("contexts", &self.contexts.len()).finish_non_exhaustive()
    }
}
