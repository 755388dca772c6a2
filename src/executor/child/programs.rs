//! Programs: what they come from, what was made of them, and what was made of others with them.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use paragpu_protocol::fault::Fault;

use super::backend::{Backend, ClError};
use super::objects::{Common, ContextObject, DeviceObject, Host, Place, names};
use super::record::{BuildRecord, OriginRecord, ProgramRecord};
use super::region::Taken;
use super::{print, spirv};

/// A program. Others may be linked of it, or include it: then it stays as it is for good, so that what they were made of
/// can be made again. Only older programs are linked to a newer one, so these ties have no cycles.
#[derive(Debug)]
pub(crate) struct ProgramObject<B: Backend> {
    pub(crate) common: Common,
    pub(crate) context: Arc<ContextObject<B>>,
    pub(crate) origin: Origin<B>,
    /// Counts what it comes from; none for a program that there was no room for.
    _room: Option<Taken>,
    /// Links behind each other that it is made of.
    pub(crate) depth: usize,
    /// Kernels that were made of it and live.
    pub(crate) kernels: AtomicUsize,
    /// True if its kernels may print.
    pub(crate) prints: AtomicBool,
    state: Mutex<State<B>>,
}

/// What a program comes from.
#[derive(Debug)]
pub(crate) enum Origin<B: Backend> {
    Source(Vec<u8>),
    Il(Vec<u8>),
    BuiltIn { devices: Vec<Arc<DeviceObject<B>>>, names: Vec<u8> },
    Linked(Vec<Arc<ProgramObject<B>>>),
}

#[derive(Debug)]
struct State<B: Backend> {
    /// None while it is being made.
    host: Option<Host<B::Program>>,
    /// The options with which the host's program is built, for all devices of the context, if others have it, too: then it
    /// must not change.
    shared: Option<Vec<u8>>,
    builds: Vec<Build<B>>,
    constants: BTreeMap<u32, Vec<u8>>,
    is_busy: bool,
    is_frozen: bool,
}

/// A build, with the headers that it includes.
#[derive(Debug)]
pub(crate) struct Build<B: Backend> {
    pub(crate) record: BuildRecord,
    pub(crate) headers: Vec<Arc<ProgramObject<B>>>,
    /// Counts the record.
    pub(crate) _room: Taken,
}

impl<B: Backend> ProgramObject<B> {
    /// A program that is being made until [`ready`](ProgramObject::ready).
    pub(crate) fn new(
        common: Common,
        context: Arc<ContextObject<B>>,
        origin: Origin<B>,
        room: Option<Taken>,
    ) -> ProgramObject<B> {
        let depth = match &origin {
            Origin::Linked(inputs) => 1 + inputs.iter().map(|input| input.depth).max().unwrap_or(0),
            _ => 0,
        };
        let prints = match &origin {
            Origin::Source(source) => print::may_print(source),
            Origin::Il(il) => spirv::may_print(il),
            Origin::BuiltIn { .. } => false,
            Origin::Linked(inputs) => inputs.iter().any(|input| input.prints.load(Ordering::Relaxed)),
        };
        let state = State {
            host: None,
            shared: None,
            builds: Vec::new(),
            constants: BTreeMap::new(),
            is_busy: true,
            is_frozen: false,
        };
        ProgramObject {
            common,
            context,
            origin,
            _room: room,
            depth,
            kernels: AtomicUsize::new(0),
            prints: AtomicBool::new(prints),
            state: Mutex::new(state),
        }
    }

    fn state(&self) -> MutexGuard<'_, State<B>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The program is made, or cannot be.
    pub(crate) fn ready(&self, host: Host<B::Program>) {
        self.made(host);
        self.state().is_busy = false;
    }

    /// The program is made, or cannot be, and still busy.
    pub(crate) fn made(&self, host: Host<B::Program>) {
        self.state().host = Some(host);
    }

    /// Takes a host's program that others have, too, or lets others have this one's.
    pub(crate) fn share(&self, host: B::Program, options: Vec<u8>) {
        let mut state = self.state();
        state.host = Some(Ok(host));
        state.shared = Some(options);
    }

    /// The options with which the host's program is built, if others have it, too.
    pub(crate) fn shared(&self) -> Option<Vec<u8>> {
        self.state().shared.clone()
    }

    /// Takes a host's program of its own in place of one that others have, too.
    pub(crate) fn part(&self, host: B::Program) {
        let mut state = self.state();
        state.host = Some(Ok(host));
        state.shared = None;
    }

    /// Its text, if it has one.
    pub(crate) fn text(&self) -> Option<&[u8]> {
        match &self.origin {
            Origin::Source(text) => Some(text),
            _ => None,
        }
    }

    /// The handle, for what uses it.
    pub(crate) fn host(&self) -> Host<B::Program> {
        self.state().host.clone().unwrap_or(Err(ClError::INVALID_OPERATION))
    }

    /// A fault while it is being made or built.
    pub(crate) fn idle(&self) -> Result<(), Fault> {
        if self.state().is_busy { Err(Fault::Busy) } else { Ok(()) }
    }

    /// Makes the program busy with a build; a fault if it cannot change any more. What it was for these devices is gone.
    pub(crate) fn start(&self, mut build: Build<B>) -> Result<(), Fault> {
        self.may_change()?;
        let mut state = self.state();
        state.is_busy = true;
        for old in &mut state.builds {
            old.record.devices.retain(|device| !build.record.devices.contains(device));
        }
        state.builds.retain(|old| !old.record.devices.is_empty());
        build.record.constants = state.constants.clone();
        let texts = build.headers.iter().any(|header| header.prints.load(Ordering::Relaxed));
        if texts || print::may_print(&build.record.options) {
            self.prints.store(true, Ordering::Relaxed);
        }
        state.builds.push(build);
        Ok(())
    }

    /// A program that is made by building it: by linking others.
    pub(crate) fn started(self, build: Build<B>) -> ProgramObject<B> {
        self.state().builds.push(build);
        self
    }

    /// Ends the build that was started last. `reason` is why the host's driver was not given it, if so.
    pub(crate) fn ended(&self, status: i32, reason: Option<String>) {
        let mut state = self.state();
        state.is_busy = false;
        if let Some(build) = state.builds.last_mut() {
            build.record.status = Some(status);
            build.record.ended = reason;
        }
    }

    /// True if the host's driver does not know of the last build of a device: what it has is older.
    pub(crate) fn is_ended(&self) -> bool {
        self.state().builds.iter().any(|build| build.record.ended.is_some())
    }

    /// The builds that others are made with, or that is to be done, each with its headers.
    pub(crate) fn builds(&self) -> Vec<(BuildRecord, Vec<Arc<ProgramObject<B>>>)> {
        let state = self.state();
        let is_busy = state.is_busy;
        let those = state.builds.iter().filter(|build| match build.record.status {
            None => true,
            Some(status) => status == 0 && !is_busy,
        });
        those.map(|build| (build.record.clone(), build.headers.clone())).collect()
    }

    /// A fault if the program is busy, or cannot change any more.
    pub(crate) fn may_change(&self) -> Result<(), Fault> {
        match &*self.state() {
            State { is_busy: true, .. } => Err(Fault::Busy),
            State { is_frozen: true, .. } => Err(Fault::BadValue),
            _ => Ok(()),
        }
    }

    /// Notes a specialization constant that was set.
    pub(crate) fn note_constant(&self, id: u32, value: &[u8]) {
        self.state().constants.insert(id, value.to_vec());
    }

    /// Keeps the program as it is from now on: another will be linked of it.
    pub(crate) fn freeze(&self) {
        self.state().is_frozen = true;
    }

    /// Keeps the program as it is from now on: another will include it. A fault if it is not source and nothing else.
    pub(crate) fn freeze_as_header(&self) -> Result<(), Fault> {
        let mut state = self.state();
        let is_source = matches!(self.origin, Origin::Source(_));
        if !is_source || state.is_busy || !state.builds.is_empty() {
            return Err(Fault::BadValue);
        }
        state.is_frozen = true;
        Ok(())
    }

    /// A device's last build: its own, or else that of the device which it is a part of.
    pub(crate) fn last_build(&self, device: &DeviceObject<B>) -> Option<BuildRecord> {
        let own = {
            let (state, name) = (self.state(), device.name());
            let build = state.builds.iter().find(|build| build.record.devices.contains(&name));
            build.map(|build| build.record.clone())
        };
        match (own, &device.place) {
            (None, Place::Part(part)) => self.last_build(&part.parent),
            (own, _) => own,
        }
    }

    /// The programs that it is made of: linked programs and headers.
    pub(crate) fn parts(&self) -> Vec<Arc<ProgramObject<B>>> {
        let state = self.state();
        let headers = state.builds.iter().flat_map(|build| build.headers.iter().cloned());
        let inputs = match &self.origin {
            Origin::Linked(inputs) => &inputs[..],
            _ => &[],
        };
        inputs.iter().cloned().chain(headers).collect()
    }

    pub(crate) fn record(&self) -> ProgramRecord {
        let state = self.state();
        ProgramRecord {
            context: self.context.common.serial,
            origin: match &self.origin {
                Origin::Source(source) => OriginRecord::Source(source.clone()),
                Origin::Il(il) => OriginRecord::Il(il.clone()),
                Origin::BuiltIn { devices, names: kernels } => {
                    OriginRecord::BuiltIn { devices: names(devices), names: kernels.clone() }
                }
                Origin::Linked(inputs) => {
                    OriginRecord::Linked { inputs: inputs.iter().map(|input| input.common.serial).collect() }
                }
            },
            constants: state.constants.clone(),
            builds: state.builds.iter().map(|build| build.record.clone()).collect(),
        }
    }
}

/// Looks at each program that this one is made of, and at itself, once.
pub(crate) fn for_each_part<B: Backend>(
    program: &Arc<ProgramObject<B>>,
    mut look: impl FnMut(&ProgramObject<B>),
) {
    let mut seen = HashSet::from([program.common.serial]);
    let mut next = vec![Arc::clone(program)];
    while let Some(program) = next.pop() {
        look(&program);
        next.extend(program.parts().into_iter().filter(|part| seen.insert(part.common.serial)));
    }
}
