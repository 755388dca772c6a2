//! The virtio-gpu device: requests in, actions out.
//!
//! In three steps: [`request`] turns bytes into a typed command, [`Device`] decides on it by the
//! [control block](crate::vgpu), and whoever drives the device carries out the [`Action`]s. No queue, process,
//! thread or clock is in here; guest memory is reached through [`GuestView`].

mod executor;
pub mod extents;
pub mod fuzz;
pub mod pending;
pub mod refusal;
pub mod request;
pub mod response;
pub mod step;

use std::time::{Duration, Instant};

use paragpu_protocol::capset::{CAPSET_ID, CAPSET_VERSION};
use paragpu_protocol::control::{Control, MAX_WAIT_MILLIS, StartRing};
use paragpu_protocol::fault::Fault;
use paragpu_protocol::limits::{MAX_CONTEXTS, MAX_MAPPINGS, MAX_REGION_BYTES, MAX_RESOURCES};
use paragpu_protocol::ring::{Status, Word};
use paragpu_protocol::virtio_gpu::{FLAG_FENCE, Header, MemEntry, Response};
use paragpu_protocol::{VERSION_MAJOR, VERSION_MINOR};

use crate::executor::message::ToExecutor;
use crate::limits::Limits;
use crate::vgpu::{Attachment, Context, ContextState, Resource, Ring, Vgpu};
use extents::GuestView;
use pending::{CONFIRM_TIMEOUT, Condition, Entry, Pending, State, Token};
use refusal::Refusal;
use request::Command;

/// What the driver of a [`Device`] must do, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Put a response into the used ring.
    Respond {
        /// The request that it answers.
        token: Token,
        /// Its bytes.
        response: Vec<u8>,
    },
    /// Make a context on the executor, which is started if there is none.
    CreateContext {
        /// The context.
        context: u32,
        /// The guest's name for it.
        name: String,
    },
    /// Send a message to the executor.
    Send(ToExecutor),
    /// Ring a context's doorbell.
    Doorbell {
        /// The context.
        context: u32,
    },
    /// Kill the executor, and go on when it is gone.
    KillExecutor,
    /// Log a line that the guest or the executor caused.
    Log(log::Level, String),
}

/// One vGPU's virtio-gpu device.
#[derive(Clone, Debug)]
pub struct Device {
    vgpu: Vgpu,
    pending: Pending,
    actions: Vec<Action>,
}

/// What a command leads to.
enum Reply {
    Ok,
    Data(Vec<u8>),
    Held(State),
}

impl Device {
    /// The device of an empty vGPU.
    pub fn new(name: String, limits: Limits) -> Device {
        Device { vgpu: Vgpu::new(name, limits), pending: Pending::default(), actions: Vec::new() }
    }

    /// The control block.
    pub fn vgpu(&self) -> &Vgpu {
        &self.vgpu
    }

    /// The control block, for what its owner counts and knows.
    pub fn vgpu_mut(&mut self) -> &mut Vgpu {
        &mut self.vgpu
    }

    /// Takes what is to be done since the last call.
    pub fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// True if every request has been answered.
    pub fn is_settled(&self) -> bool {
        self.pending.is_empty()
    }

    /// When [`tick`](Device::tick) must be called though nothing happened.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.pending.next_deadline()
    }

    /// Takes one request: the private copy of its bytes.
    pub fn handle(&mut self, token: Token, bytes: &[u8], memory: &impl GuestView, now: Instant) {
        self.vgpu.counters.requests += 1;
        let parsed = request::header(bytes);
        let header = parsed.as_ref().map(|(header, _)| *header).unwrap_or_default();
        let reply = parsed
            .and_then(|(header, body)| request::parse(&header, body))
            .map_err(Refusal::from)
            .and_then(|command| self.execute(&header, command, memory, now));
        let (state, response) = match reply {
            Ok(Reply::Ok) => (State::Ready, response::plain(&header, Response::OkNodata)),
            Ok(Reply::Data(response)) => (State::Ready, response),
            Ok(Reply::Held(state)) => (state, response::plain(&header, Response::OkNodata)),
            Err(refusal) => {
                let context = header.ctx_id.get();
                let line = format!("request {:#06x} of context {context}: {refusal}", header.kind.get());
                self.log(log::Level::Warn, line);
                (State::Ready, response::plain(&header, refusal.response()))
            }
        };
        let fenced = header.flags.get() & FLAG_FENCE != 0;
        self.pending.push(Entry { token, fenced, state, arrived: now, response });
        self.settle();
    }

    /// Time has passed. Answers waits that were held long enough; `Err` if the executor must be killed because
    /// it has not let go of something in time.
    pub fn tick(&mut self, now: Instant) -> Result<(), ExecutorStuck> {
        self.pending.end_waits(|_, until| until <= now);
        self.settle();
        let overdue = self.pending.executor_deadline().is_some_and(|deadline| deadline <= now);
        if overdue { Err(ExecutorStuck) } else { Ok(()) }
    }

    /// Something happened that guest threads may sleep for.
    pub fn wake(&mut self) {
        self.pending.end_waits(|_, _| true);
        self.settle();
    }

    fn execute(
        &mut self,
        header: &Header,
        command: Command<'_>,
        memory: &impl GuestView,
        now: Instant,
    ) -> Result<Reply, Refusal> {
        let name = header.ctx_id.get();
        let context = self.vgpu.context_ids.get(&name).copied().ok_or(Refusal::NoContext(name));
        match command {
            Command::Nothing => Ok(Reply::Ok),
            Command::GetDisplayInfo => Ok(Reply::Data(response::display_info(header))),
            Command::GetEdid => Ok(Reply::Data(response::edid(header))),
            Command::GetCapsetInfo { index: 0 } => {
                // Sent once per driver load: whatever an earlier driver left is nobody's any more.
                self.new_driver();
                Ok(Reply::Data(response::capset_info(header)))
            }
            Command::GetCapset { id: CAPSET_ID, version: CAPSET_VERSION } => {
                Ok(Reply::Data(response::capset(header, self.vgpu.limits.staging_bytes)))
            }
            Command::GetCapsetInfo { .. } | Command::GetCapset { .. } => Err(Refusal::UnknownCapset),
            Command::ResourceCreate { resource, bytes } => self.create_resource(resource, bytes),
            Command::ResourceUnref { resource } => self.unref(resource),
            Command::AttachBacking { resource, entries } => self.attach_backing(resource, entries, memory),
            Command::DetachBacking { resource } => self.detach_backing(resource),
            Command::CtxCreate { name: label } => self.create_context(name, label),
            Command::CtxDestroy => self.destroy_context(context?),
            Command::CtxAttach { resource } => self.attach(context?, resource),
            Command::CtxDetach { resource } => self.detach(context?, resource),
            Command::Submit(control) => {
                let context = context?;
                match control? {
                    Control::StartRing(start) => self.start_ring(context, &start, memory),
                    Control::Doorbell => {
                        self.vgpu.counters.doorbells += 1;
                        self.actions.push(Action::Doorbell { context });
                        Ok(Reply::Ok)
                    }
                    Control::Wait(wait) => self.wait(context, wait.seen.get(), memory, now),
                }
            }
        }
    }

    fn create_resource(&mut self, resource: u32, bytes: u64) -> Result<Reply, Refusal> {
        if resource == 0 || self.vgpu.resources.contains_key(&resource) {
            return Err(Refusal::ResourceTaken(resource));
        }
        if bytes == 0 || bytes > MAX_REGION_BYTES {
            return Err(Refusal::ResourceSize(bytes));
        }
        if self.vgpu.resources.len() == MAX_RESOURCES {
            return Err(Refusal::TooMany("resources"));
        }
        if !self.vgpu.has_room_for_staging(bytes) {
            return Err(Refusal::TooMany("bytes of shared regions (limits.staging)"));
        }
        let new = Resource { bytes, extents: None, contexts: Default::default(), ending: false };
        self.vgpu.resources.insert(resource, new);
        Ok(Reply::Ok)
    }

    fn unref(&mut self, resource: u32) -> Result<Reply, Refusal> {
        let entry = self.resource(resource)?;
        if entry.is_free() {
            self.vgpu.resources.remove(&resource);
            return Ok(Reply::Ok);
        }
        entry.ending = true;
        self.unmap_everywhere(resource);
        Ok(Reply::Held(State::Executor(Condition::Unref { resource })))
    }

    fn attach_backing(
        &mut self,
        resource: u32,
        entries: &[MemEntry],
        memory: &impl GuestView,
    ) -> Result<Reply, Refusal> {
        let entry = self.resource(resource)?;
        if entry.extents.is_some() {
            return Err(Refusal::AlreadyBacked(resource));
        }
        if entries.len() > MAX_MAPPINGS {
            return Err(extents::ExtentError::TooMany.into());
        }
        let claimed = entries.iter().map(|entry| (entry.addr.get(), entry.length.get()));
        let checked = extents::check(claimed, entry.bytes, memory)?;
        let contexts: Vec<u32> = entry.contexts.keys().copied().collect();
        if !self.vgpu.has_room_for_mappings(checked.len().saturating_mul(contexts.len().max(1))) {
            return Err(Refusal::TooMany("mappings"));
        }
        self.resource(resource)?.extents = Some(checked);
        for context in contexts {
            self.map(context, resource);
        }
        Ok(Reply::Ok)
    }

    fn detach_backing(&mut self, resource: u32) -> Result<Reply, Refusal> {
        let entry = self.resource(resource)?;
        if entry.is_free() {
            entry.extents = None;
            return Ok(Reply::Ok);
        }
        self.unmap_everywhere(resource);
        Ok(Reply::Held(State::Executor(Condition::DetachBacking { resource })))
    }

    fn create_context(&mut self, name: u32, label: String) -> Result<Reply, Refusal> {
        if name == 0 || self.vgpu.context_ids.contains_key(&name) {
            return Err(Refusal::ContextTaken(name));
        }
        if self.vgpu.contexts.len() >= MAX_CONTEXTS.min(self.vgpu.limits.contexts as usize) {
            return Err(Refusal::TooMany("contexts (limits.contexts)"));
        }
        let context = self.vgpu.free_context_id(name).ok_or(Refusal::TooMany("contexts"))?;
        self.vgpu.context_ids.insert(name, context);
        let new = Context { name: label.clone(), ring: None, state: ContextState::Live, on_executor: true };
        self.vgpu.contexts.insert(context, new);
        self.actions.push(Action::CreateContext { context, name: label });
        Ok(Reply::Ok)
    }

    fn destroy_context(&mut self, context: u32) -> Result<Reply, Refusal> {
        let on_executor = self.context(context)?.on_executor;
        self.vgpu.context_ids.retain(|_, id| *id != context);
        if !on_executor {
            self.remove_context(context);
            return Ok(Reply::Ok);
        }
        self.vgpu.contexts.entry(context).and_modify(|entry| entry.state = ContextState::Ending);
        self.actions.push(Action::Send(ToExecutor::DestroyContext { context }));
        self.pending.end_waits(|of, _| of == context);
        Ok(Reply::Held(State::Executor(Condition::CtxDestroy { context })))
    }

    fn attach(&mut self, context: u32, resource: u32) -> Result<Reply, Refusal> {
        self.context(context)?;
        let entry = self.resource(resource)?;
        match entry.contexts.get(&context) {
            Some(Attachment::Leaving) => return Err(Refusal::Leaving(resource)),
            Some(_) => return Ok(Reply::Ok),
            None => {}
        }
        let mappings = entry.extents.as_ref().map_or(0, Vec::len);
        // The first context takes the mappings that were counted when the pages came.
        let more = if entry.contexts.is_empty() { 0 } else { mappings };
        if !self.vgpu.has_room_for_mappings(more) {
            return Err(Refusal::TooMany("mappings"));
        }
        self.resource(resource)?.contexts.insert(context, Attachment::Attached);
        self.map(context, resource);
        Ok(Reply::Ok)
    }

    fn detach(&mut self, context: u32, resource: u32) -> Result<Reply, Refusal> {
        self.context(context)?;
        let entry = self.vgpu.resources.get_mut(&resource).ok_or(Refusal::NoResource(resource))?;
        match entry.contexts.get(&context) {
            None => return Err(Refusal::NoResource(resource)),
            Some(Attachment::Attached) => {
                entry.contexts.remove(&context);
                return Ok(Reply::Ok);
            }
            Some(Attachment::Mapped) => self.unmap(context, resource),
            Some(Attachment::Leaving) => {}
        }
        Ok(Reply::Held(State::Executor(Condition::CtxDetach { context, resource })))
    }

    /// The guest does not see the response of a submission, so a ring that cannot start says so in its header.
    fn start_ring(
        &mut self,
        context: u32,
        start: &StartRing,
        memory: &impl GuestView,
    ) -> Result<Reply, Refusal> {
        let region = start.region.get();
        let result = self.check_ring(context, start);
        let header = self.vgpu.region_start(context, region);
        let entry = self.context(context)?;
        match (result, &entry.state) {
            (Ok(ring), ContextState::Live) => {
                entry.ring = Some(ring);
                let data_bytes = ring.data_bytes;
                self.actions.push(Action::Send(ToExecutor::StartRing { context, region, data_bytes }));
                Ok(Reply::Ok)
            }
            (Ok(ring), state) => {
                let status = if *state == ContextState::Lost { Status::Lost } else { Status::Failed };
                entry.ring = Some(ring);
                set_status(memory, header, status, None);
                Ok(Reply::Ok)
            }
            (Err(fault), _) => {
                // A ring that runs is not disturbed by a second start.
                if entry.ring.is_none() {
                    if entry.state == ContextState::Live {
                        entry.state = ContextState::Failed(fault.to_string());
                    }
                    set_status(memory, header, Status::Failed, Some(fault));
                }
                Err(fault.into())
            }
        }
    }

    fn check_ring(&self, context: u32, start: &StartRing) -> Result<Ring, Fault> {
        if start.version_major.get() != VERSION_MAJOR || start.version_minor.get() > VERSION_MINOR {
            return Err(Fault::Version);
        }
        let data_bytes = start.checked_data_bytes()?;
        if self.vgpu.contexts.get(&context).is_none_or(|context| context.ring.is_some()) {
            return Err(Fault::BadRing);
        }
        let region = start.region.get();
        self.vgpu.region_start(context, region).ok_or(Fault::UnknownRegion)?;
        let resource = self.vgpu.resources.get(&region).ok_or(Fault::UnknownRegion)?;
        if resource.ending || resource.bytes < start.region_bytes() {
            return Err(Fault::BadRing);
        }
        Ok(Ring { region, data_bytes })
    }

    fn wait(
        &mut self,
        context: u32,
        seen: u32,
        memory: &impl GuestView,
        now: Instant,
    ) -> Result<Reply, Refusal> {
        self.vgpu.counters.waits += 1;
        let live = self.context(context)?.state == ContextState::Live;
        let header = self.vgpu.ring_header(context);
        let wake_seq = header.and_then(|header| memory.load(header + Word::WakeSeq.offset() as u64));
        if !live || wake_seq != Some(seen) {
            return Ok(Reply::Ok);
        }
        let until = now + Duration::from_millis(MAX_WAIT_MILLIS);
        Ok(Reply::Held(State::Wait { context, until }))
    }

    /// A context that requests may name.
    fn context(&mut self, context: u32) -> Result<&mut Context, Refusal> {
        let entry = self.vgpu.contexts.get_mut(&context);
        entry.filter(|entry| entry.state != ContextState::Ending).ok_or(Refusal::NoContext(context))
    }

    /// A resource that requests may name.
    fn resource(&mut self, resource: u32) -> Result<&mut Resource, Refusal> {
        let entry = self.vgpu.resources.get_mut(&resource);
        entry.filter(|entry| !entry.ending).ok_or(Refusal::NoResource(resource))
    }

    /// Tells the executor of a region, if both know the context and the region has pages.
    fn map(&mut self, context: u32, region: u32) {
        let known = self.vgpu.contexts.get(&context).is_some_and(|context| context.on_executor);
        let Some(resource) = self.vgpu.resources.get_mut(&region) else { return };
        if let (true, Some(extents)) = (known, &resource.extents) {
            let extents = extents.clone();
            self.actions.push(Action::Send(ToExecutor::AddRegion { context, region, extents }));
            resource.contexts.insert(context, Attachment::Mapped);
        }
    }

    fn unmap(&mut self, context: u32, region: u32) {
        let Some(resource) = self.vgpu.resources.get_mut(&region) else { return };
        resource.contexts.insert(context, Attachment::Leaving);
        self.actions.push(Action::Send(ToExecutor::RemoveRegion { context, region }));
    }

    fn unmap_everywhere(&mut self, region: u32) {
        let Some(resource) = self.vgpu.resources.get(&region) else { return };
        let mapped = resource.contexts.iter().filter(|(_, attachment)| **attachment == Attachment::Mapped);
        for context in mapped.map(|(context, _)| *context).collect::<Vec<_>>() {
            self.unmap(context, region);
        }
    }

    fn remove_context(&mut self, context: u32) {
        self.vgpu.contexts.remove(&context);
        for resource in self.vgpu.resources.values_mut() {
            resource.contexts.remove(&context);
        }
    }

    /// Lets every response go that may.
    fn settle(&mut self) {
        let mut pending = std::mem::take(&mut self.pending);
        pending.meet(|condition| self.try_finish(condition));
        for Entry { token, response, .. } in pending.take_due() {
            self.actions.push(Action::Respond { token, response });
        }
        self.pending = pending;
    }

    /// Carries out what the executor's confirmation allows; false if it is still awaited.
    fn try_finish(&mut self, condition: Condition) -> bool {
        let resource_is_free =
            |vgpu: &Vgpu, resource: u32| vgpu.resources.get(&resource).is_none_or(Resource::is_free);
        match condition {
            Condition::Unref { resource } => {
                let free = resource_is_free(&self.vgpu, resource);
                if free {
                    self.vgpu.resources.remove(&resource);
                }
                free
            }
            Condition::DetachBacking { resource } => {
                let free = resource_is_free(&self.vgpu, resource);
                if free && let Some(entry) = self.vgpu.resources.get_mut(&resource) {
                    entry.extents = None;
                }
                free
            }
            Condition::CtxDetach { context, resource } => {
                let Some(entry) = self.vgpu.resources.get_mut(&resource) else { return true };
                let left = entry.contexts.get(&context).is_none_or(|now| *now == Attachment::Attached);
                if left {
                    entry.contexts.remove(&context);
                }
                left
            }
            Condition::CtxDestroy { context } => {
                let gone = self.vgpu.contexts.get(&context).is_none_or(|context| !context.on_executor);
                if gone {
                    self.remove_context(context);
                }
                gone
            }
        }
    }

    fn log(&mut self, level: log::Level, line: String) {
        self.actions.push(Action::Log(level, line));
    }
}

/// The executor has not ended a context, or let go of pages, within [`CONFIRM_TIMEOUT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it has not let go of what the guest took back within {} s", CONFIRM_TIMEOUT.as_secs())]
pub struct ExecutorStuck;

/// Writes a ring's status from the broker; the reason first, since the guest reads it after the status.
fn set_status(memory: &impl GuestView, header: Option<u64>, status: Status, reason: Option<Fault>) {
    let Some(header) = header else { return };
    if let Some(fault) = reason {
        memory.store(header + Word::Reason.offset() as u64, fault.code());
    }
    memory.store(header + Word::Status.offset() as u64, status as u32);
}

#[cfg(test)]
mod tests;
