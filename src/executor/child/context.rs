//! One guest process: its objects, its regions, and its commands one after the other.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use paragpu_protocol::command::Command;
use paragpu_protocol::fault::Fault;
use paragpu_protocol::frame::Frame;
use paragpu_protocol::limits::{MAX_SOURCES_BYTES, MAX_SUB_DEVICES};

use super::backend::{Backend, ClError};
use super::builds::Builds;
use super::completion::{Notifier, Reply};
use super::kept::KeptRoom;
use super::objects::{EventObject, QueueObject, Table};
use super::pace::Pacer;
use super::print::{Launch, PrintClient, Printer};
use super::quota::Quota;
use super::record::ObjectRecord;
use super::region::{Budget, Regions};
use crate::executor::message::ContextUsage;
use crate::recorder::Recorder;

/// How often a backend is tended that wants to be.
pub(crate) const TEND_INTERVAL: Duration = Duration::from_millis(2);

/// An OpenCL program of the guest's. Whoever calls [`execute`](Context::execute) decides about threads; commands
/// complete on the backend's.
pub struct Context<B: Backend> {
    pub(crate) backend: Arc<B>,
    pub(crate) objects: Table<B>,
    pub(crate) regions: Arc<Regions>,
    pub(crate) notifier: Arc<Notifier>,
    pub(crate) builds: Builds,
    pub(crate) usage: ContextUsage,
    /// Bytes that sources may still take.
    pub(crate) sources: Budget,
    /// Built programs that its contexts may still keep.
    pub(crate) kept: KeptRoom,
    /// Sub-devices that may still be made.
    pub(crate) sub_devices: Budget,
    /// User events that are open, also those whose id is gone: commands may wait for them. They count as live.
    pub(crate) open: Vec<Arc<EventObject<B>>>,
    pub(crate) unflushed: Vec<Arc<QueueObject<B>>>,
    /// Its share of the devices; without one it has them to itself.
    pub(crate) pacer: Option<Pacer>,
    /// The device memory that it may have.
    pub(crate) quota: Quota,
    /// Queues with commands in flight that nothing watches.
    pub(crate) tails: Vec<Arc<QueueObject<B>>>,
    /// Every shared memory of the context holds one.
    pub(crate) shared: Arc<()>,
    pub(crate) print: PrintClient,
    /// The launch that comes next may print: it has its turn.
    pub(crate) turn: Option<Launch>,
    /// True once there is a kernel that may print.
    pub(crate) may_print: bool,
    /// The guest has sent nothing behind the command that is executed, so far.
    pub(crate) is_last: bool,
    fault: Option<Fault>,
    recorder: Option<Recorder>,
}

impl<B: Backend> Context<B> {
    /// A context without objects.
    pub fn new(backend: Arc<B>, regions: Arc<Regions>, builds: Builds) -> Context<B> {
        let notifier = Arc::new(Notifier::default());
        Context::with_notifier(backend, regions, builds, notifier, Printer::default().client(), None)
    }

    pub(crate) fn with_notifier(
        backend: Arc<B>,
        regions: Arc<Regions>,
        builds: Builds,
        notifier: Arc<Notifier>,
        print: PrintClient,
        recorder: Option<Recorder>,
    ) -> Context<B> {
        Context {
            objects: Table::new(backend.devices()),
            backend,
            regions,
            notifier,
            builds,
            usage: ContextUsage::default(),
            sources: Budget::new(MAX_SOURCES_BYTES),
            kept: KeptRoom::default(),
            sub_devices: Budget::new(MAX_SUB_DEVICES),
            open: Vec::new(),
            unflushed: Vec::new(),
            pacer: None,
            quota: Quota::default(),
            tails: Vec::new(),
            shared: Arc::default(),
            print,
            turn: None,
            may_print: false,
            is_last: false,
            fault: None,
            recorder,
        }
    }

    /// Runs one frame. A fault fails the context: nothing is run any more.
    pub fn execute(&mut self, frame: &[u8]) -> Result<(), Fault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        if let Some(recorder) = &mut self.recorder {
            recorder.record(frame);
        }
        self.usage.commands += 1;
        let done = Frame::parse(frame).and_then(|frame| self.dispatch(&Command::parse(&frame)?));
        // A launch that has failed takes no turn.
        self.turn = None;
        if let Err(fault) = done {
            self.fail(fault);
        }
        done
    }

    /// Fails the context for a mistake that was found elsewhere (in the ring's indices, for example).
    pub(crate) fn fail(&mut self, fault: Fault) {
        self.fault = Some(fault);
        self.notifier.fail(fault);
    }

    fn dispatch(&mut self, command: &Command<'_>) -> Result<(), Fault> {
        match *command {
            Command::Nop(..) => Ok(()),
            Command::GetInfo(body, tail) => self.get_info(body, tail),
            Command::ReadPrint(body, _) => self.read_print(body),
            Command::CreateSubDevices(body, tail) => self.create_sub_devices(body, tail),
            Command::CreateContext(body, tail) => self.create_context(body, tail),
            Command::CreateQueue(body, _) => self.create_queue(body),
            Command::CreateBuffer(body, _) => self.create_buffer(body),
            Command::CreateSubBuffer(body, _) => self.create_sub_buffer(body),
            Command::CreateProgram(body, tail) => self.create_program(body, tail),
            Command::CreateKernel(body, tail) => self.create_kernel(body, tail),
            Command::CreateUserEvent(body, _) => self.create_user_event(body),
            Command::SetUserEvent(body, _) => self.set_user_event(body),
            Command::WatchEvent(body, _) => self.watch_event(body),
            Command::Release(body, _) => self.release(body),
            Command::CreateImage(body, _) => self.create_image(body),
            Command::CreateSampler(body, _) => self.create_sampler(body),
            Command::CreatePipe(body, _) => self.create_pipe(body),
            Command::CreateDeviceQueue(body, _) => self.create_device_queue(body),
            Command::SetDefaultQueue(body, _) => self.set_default_queue(body),
            Command::CreateProgramWithIl(body, tail) => self.create_program_with_il(body, tail),
            Command::CreateBuiltInProgram(body, tail) => self.create_built_in_program(body, tail),
            Command::BuildProgram(body, tail) => self.build_program(body, tail),
            Command::CompileProgram(body, tail) => self.compile_program(body, tail),
            Command::LinkProgram(body, tail) => self.link_program(body, tail),
            Command::SetSpecConstant(body, tail) => self.set_spec_constant(body, tail),
            Command::SetArgValue(body, tail) => self.set_arg_value(body, tail),
            Command::SetArgObject(body, _) => self.set_arg_object(body),
            Command::SetArgLocal(body, _) => self.set_arg_local(body),
            Command::CloneKernel(body, _) => self.clone_kernel(body),
            Command::SetArgSvm(body, _) => self.set_arg_svm(body),
            Command::SetExecInfo(body, tail) => self.set_exec_info(body, tail),
            Command::EnqueueKernel(body, tail) => self.enqueue_kernel(body, tail),
            Command::ReadBuffer(body, tail) => self.read_buffer(body, tail),
            Command::WriteBuffer(body, tail) => self.write_buffer(body, tail),
            Command::CopyBuffer(body, tail) => self.copy_buffer(body, tail),
            Command::FillBuffer(body, tail) => self.fill_buffer(body, tail),
            Command::ReadBufferRect(body, tail) => self.read_buffer_rect(body, tail),
            Command::WriteBufferRect(body, tail) => self.write_buffer_rect(body, tail),
            Command::CopyBufferRect(body, tail) => self.copy_buffer_rect(body, tail),
            Command::Marker(body, tail) => self.marker(body, tail),
            Command::Barrier(body, tail) => self.barrier(body, tail),
            Command::Finish(body, _) => self.finish(body),
            Command::GetImageFormats(body, _) => self.get_image_formats(body),
            Command::ReadImage(body, tail) => self.read_image(body, tail),
            Command::WriteImage(body, tail) => self.write_image(body, tail),
            Command::CopyImage(body, tail) => self.copy_image(body, tail),
            Command::FillImage(body, tail) => self.fill_image(body, tail),
            Command::CopyImageToBuffer(body, tail) => self.copy_image_to_buffer(body, tail),
            Command::CopyBufferToImage(body, tail) => self.copy_buffer_to_image(body, tail),
            Command::CreateSharedBuffer(body, _) => self.create_shared_buffer(body),
            Command::CreateCoarseBuffer(body, _) => self.create_coarse_buffer(body),
            Command::CreatePlacedBuffer(body, _) => self.create_placed_buffer(body),
            Command::ReleaseShared(body, _) => self.release_shared(body),
        }
    }

    pub(crate) fn reply(&self, slot: &paragpu_protocol::types::SlotRef) -> Result<Reply, Fault> {
        Ok(Reply::new(self.regions.slot(slot)?, &self.notifier))
    }

    /// Does what the backend's driver leaves undone. True if it is to be called again within [`TEND_INTERVAL`].
    pub(crate) fn tend(&self) -> bool {
        self.backend.tend()
    }

    /// True if the device must get on with what it has before it is given more: waits for that a little. A fault if
    /// it never will, because everything waits for the guest.
    pub(crate) fn is_crowded(&mut self) -> Result<bool, Fault> {
        if !self.notifier.is_crowded() {
            return Ok(false);
        }
        self.flush();
        self.tend();
        let stuck = self.notifier.settled(TEND_INTERVAL);
        let crowded = self.notifier.is_crowded();
        if stuck && crowded { Err(Fault::Limit) } else { Ok(crowded) }
    }

    /// Submits what was enqueued since the last time. Drivers may sit on commands until they are told.
    pub fn flush(&mut self) {
        for queue in self.unflushed.drain(..) {
            queue.unflushed.store(false, Ordering::Relaxed);
            if let Ok(host) = &queue.host
                && let Err(error) = self.backend.flush(host)
            {
                log::debug!("flush: {error}");
            }
        }
    }

    /// What the context did so far.
    pub fn usage(&self) -> ContextUsage {
        self.usage
    }

    /// The mistake that the context was failed for.
    pub fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// Objects that live: those with an id, and those that others need.
    pub fn live_objects(&self) -> usize {
        self.objects.live()
    }

    /// Everything that the guest can observe of its objects.
    pub fn records(&self) -> Vec<ObjectRecord> {
        self.objects.records()
    }

    /// Ends everything: afterwards nothing touches the context's regions any more. Waits for what runs.
    pub fn tear_down(&mut self) {
        self.notifier.close();
        self.builds.forget(&self.notifier);
        self.notifier.pause(false);
        // Commands that wait for a user event would be waited for in vain.
        for event in self.open.drain(..) {
            event.state.complete(super::backend::Outcome::failed(ClError::WAIT_LIST_FAILED));
            if let Ok(host) = &event.host
                && let Err(error) = self.backend.set_user_event(host, ClError::WAIT_LIST_FAILED.code())
            {
                log::debug!("ending a user event: {error}");
            }
        }
        self.mark_tails();
        self.flush();
        self.backend.tend();
        for queue in self.objects.queues() {
            if let Ok(host) = &queue.host
                && let Err(error) = self.backend.finish(host)
            {
                log::debug!("finish: {error}");
            }
        }
        while !self.notifier.drained(TEND_INTERVAL) {
            self.backend.tend();
        }
        self.pacer = None;
        self.objects.clear();
    }
}

impl<B: Backend> Drop for Context<B> {
    fn drop(&mut self) {
        self.tear_down();
    }
}

impl<B: Backend> fmt::Debug for Context<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("fault", &self.fault)
            .field("usage", &self.usage)
            .finish_non_exhaustive()
    }
}
