//! What the executor says, and its end. Its messages are taken as a guest's are: checked against what was asked.

use log::Level;
use paragpu_protocol::ring::{Status, Word};

use super::extents::GuestView;
use super::{Action, Device, set_status};
use crate::executor::message::ToBroker;
use crate::guest_log::printable;
use crate::vgpu::{Attachment, ContextState};

impl Device {
    /// Takes one message of the executor. [`ToBroker::Quiesced`], and what is about compilers, is for the session and does
    /// nothing here.
    pub fn on_message(&mut self, message: ToBroker, memory: &impl GuestView) {
        match message {
            ToBroker::Ready { devices } => {
                let devices: Vec<String> = devices.iter().map(|name| printable(name)).collect();
                self.log(Level::Info, format!("executor ready, devices: {}", printable(&devices.join(", "))));
            }
            ToBroker::NoDevice { reason } => {
                let reason = printable(&reason);
                self.log(Level::Error, format!("the host has no OpenCL device to share: {reason}"));
            }
            ToBroker::ContextFailed { context, reason } => self.context_failed(context, &reason, memory),
            ToBroker::RegionRemoved { context, region } => {
                let resource = self.vgpu.resources.get_mut(&region);
                match resource.and_then(|resource| resource.contexts.get_mut(&context)) {
                    Some(attachment @ Attachment::Leaving) => *attachment = Attachment::Attached,
                    // The last to let go of a region may be a driver's thread that comes after the context's own.
                    _ if self.vgpu.contexts.get(&context).is_none_or(|entry| !entry.on_executor) => {}
                    _ => self.log(Level::Warn, format!("executor removed region {region} unasked")),
                }
            }
            ToBroker::ContextDestroyed { context, usage } => {
                let entry = self.vgpu.contexts.get_mut(&context);
                match entry.filter(|entry| entry.on_executor && entry.state == ContextState::Ending) {
                    Some(entry) => {
                        entry.on_executor = false;
                        self.vgpu.counters.add_usage(usage);
                        for resource in self.vgpu.resources.values_mut() {
                            resource.contexts.remove(&context);
                        }
                    }
                    None => self.log(Level::Warn, format!("executor destroyed context {context} unasked")),
                }
            }
            ToBroker::Quiesced | ToBroker::WantCompiler { .. } | ToBroker::CompilerEnded { .. } => {}
            ToBroker::Found { .. } => self.log(Level::Warn, "executor tells of devices unasked".to_owned()),
        }
        self.settle();
    }

    /// The executor is gone. Every context that it had is lost, and its rings say so.
    pub fn executor_gone(&mut self, memory: &impl GuestView) {
        let had: Vec<u32> =
            self.vgpu.contexts.iter().filter(|(_, entry)| entry.on_executor).map(|(id, _)| *id).collect();
        for context in had {
            set_status(memory, self.vgpu.ring_header(context), Status::Lost, None);
        }
        self.forget_executor();
    }

    /// A new driver instance: nothing of an earlier one is left, on the host or in here. Its pages are the new
    /// driver's, so nothing is written to them.
    pub fn new_driver(&mut self) {
        self.actions.push(Action::KillExecutor);
        self.forget_executor();
        self.vgpu.context_ids.clear();
        self.vgpu.contexts.clear();
        self.vgpu.resources.clear();
    }

    /// Asks the executor to end every context, so that what they did is counted. For the end of a session.
    pub fn end_contexts(&mut self) {
        for (context, entry) in &mut self.vgpu.contexts {
            if entry.on_executor && entry.state != ContextState::Ending {
                entry.state = ContextState::Ending;
                let message = crate::executor::message::ToExecutor::DestroyContext { context: *context };
                self.actions.push(Action::Send(message));
            }
        }
    }

    /// True if the executor has no context any more.
    pub fn contexts_ended(&self) -> bool {
        self.vgpu.contexts.values().all(|entry| !entry.on_executor)
    }

    fn forget_executor(&mut self) {
        for entry in self.vgpu.contexts.values_mut() {
            entry.on_executor = false;
            if entry.state == ContextState::Live {
                entry.state = ContextState::Lost;
            }
        }
        for resource in self.vgpu.resources.values_mut() {
            for attachment in resource.contexts.values_mut() {
                *attachment = Attachment::Attached;
            }
        }
        self.pending.end_waits(|_, _| true);
        self.settle();
    }

    fn context_failed(&mut self, context: u32, reason: &str, memory: &impl GuestView) {
        let reason = printable(reason);
        let header = self.vgpu.ring_header(context);
        let Some(entry) = self.vgpu.contexts.get_mut(&context) else {
            return self.log(Level::Warn, format!("executor failed context {context}, which is none"));
        };
        let line = format!("context {context} ({}) failed: {reason}", entry.name);
        if entry.state == ContextState::Live {
            entry.state = ContextState::Failed(reason);
            // A context that could not even start has nobody else to tell the guest.
            let status = header.and_then(|at| memory.load(at + Word::Status.offset() as u64));
            if [Status::Starting, Status::Running].map(|status| Some(status as u32)).contains(&status) {
                set_status(memory, header, Status::Failed, None);
            }
        }
        self.log(Level::Warn, line);
        self.pending.end_waits(|of, _| of == context);
    }
}
