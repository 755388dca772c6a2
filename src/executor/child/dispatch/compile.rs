//! Builds, compilations and links, beside the ring.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use paragpu_protocol::command::{BuildProgram, CompileProgram, LinkProgram};
use paragpu_protocol::fault::Fault;
use paragpu_protocol::frame::Tail;
use paragpu_protocol::limits::{MAX_BUILD_LIST_BYTES, MAX_LINK_DEPTH};

use super::super::backend::{Backend, ClError, Linked, Outcome};
use super::super::compiler::recipe::Recipe;
use super::super::compiler::trial::{Bench, Ended};
use super::super::completion::Reply;
use super::super::context::Context;
use super::super::kept::{is_stateless, is_steady};
use super::super::objects::{ContextObject, DeviceObject, Object, handle, handles, names};
use super::super::programs::{Build, Origin, ProgramObject};
use super::super::record::{BuildKind, BuildRecord, with_arg_info};
use super::super::region::Taken;
use super::{numbers, require, reserved, same_context};

/// A build that the guest may start.
struct Order<B: Backend> {
    kind: BuildKind,
    /// None for all of the context's.
    devices: Vec<Arc<DeviceObject<B>>>,
    options: Vec<u8>,
    headers: Vec<(CString, Arc<ProgramObject<B>>)>,
}

impl<B: Backend> Order<B> {
    /// What is kept of it.
    fn build(&self, context: &ContextObject<B>, room: Taken) -> Build<B> {
        let devices = if self.devices.is_empty() { &context.devices } else { &self.devices };
        let header = |(name, program): &(CString, Arc<ProgramObject<B>>)| {
            (name.to_bytes().to_vec(), program.common.serial)
        };
        Build {
            record: BuildRecord {
                kind: self.kind,
                devices: names(devices),
                options: self.options.clone(),
                headers: self.headers.iter().map(header).collect(),
                constants: BTreeMap::new(),
                status: None,
                ended: None,
            },
            headers: self.headers.iter().map(|(_, program)| program.clone()).collect(),
            _room: room,
        }
    }

    /// The text of a program, if this builds it for all devices of its context and always makes the same of it.
    fn steady_text<'p>(&self, program: &'p ProgramObject<B>) -> Option<&'p [u8]> {
        let is_whole = self.kind == BuildKind::Build && self.is_for_all(&program.context);
        program.text().filter(|text| is_whole && is_steady(text, &self.options))
    }

    fn is_for_all(&self, context: &ContextObject<B>) -> bool {
        let is_meant = |device| self.devices.iter().any(|meant| Arc::ptr_eq(meant, device));
        self.devices.is_empty() || context.devices.iter().all(is_meant)
    }

    /// Bytes that it takes, roughly.
    fn weight(&self) -> usize {
        let headers = self.headers.iter().map(|(name, _)| name.count_bytes() + size_of::<u64>());
        self.options.len() + headers.sum::<usize>()
    }
}

impl<B: Backend> Context<B> {
    pub(crate) fn build_program(&mut self, body: &BuildProgram, tail: Tail<'_>) -> Result<(), Fault> {
        let program = self.objects.program(body.program.get())?;
        require(!matches!(program.origin, Origin::Linked(_)), Fault::BadValue)?;
        let mut list = List(tail.data);
        let devices = self.devices_of(&program.context, list.words(body.device_count.get())?)?;
        let options = list.0.to_vec();
        let order = Order { kind: BuildKind::Build, devices, options, headers: Vec::new() };
        let reply = self.reply(&body.reply)?;
        self.start(&program, order, reply)
    }

    pub(crate) fn compile_program(&mut self, body: &CompileProgram, tail: Tail<'_>) -> Result<(), Fault> {
        reserved(body.reserved)?;
        let program = self.objects.program(body.program.get())?;
        require(matches!(program.origin, Origin::Source(_) | Origin::Il(_)), Fault::BadValue)?;
        let data = self.attached(&body.list, tail.data, MAX_BUILD_LIST_BYTES)?;
        let mut list = List(&data);
        let devices = self.devices_of(&program.context, list.words(body.device_count.get())?)?;
        let headers = list.words(body.header_count.get().checked_mul(2).ok_or(Fault::BadValue)?)?;
        let headers = numbers(headers)?;
        let (headers, _) = headers.as_chunks::<2>();
        let headers = headers.iter().map(|[id, len]| {
            let header = self.objects.program(*id)?;
            require(same_context(&header.context, &program.context), Fault::BadValue)?;
            // A program that includes itself is no header: it is about to be compiled.
            require(!Arc::ptr_eq(&header, &program), Fault::BadValue)?;
            let name = list.bytes(*len as usize)?;
            Ok((CString::new(name).map_err(|_nul| Fault::BadValue)?, header))
        });
        let headers = headers.collect::<Result<Vec<_>, Fault>>()?;
        let options = list.0.to_vec();
        let reply = self.reply(&body.reply)?;
        program.idle()?;
        headers.iter().try_for_each(|(_, header)| header.freeze_as_header())?;
        self.start(&program, Order { kind: BuildKind::Compile, devices, options, headers }, reply)
    }

    /// The devices whose references are the data, all of them the context's.
    fn devices_of(
        &self,
        context: &ContextObject<B>,
        data: &[u8],
    ) -> Result<Vec<Arc<DeviceObject<B>>>, Fault> {
        let devices = self.device_list(data)?;
        require(devices.iter().all(|device| context.has_device(device)), Fault::BadValue)?;
        Ok(devices)
    }

    fn start(&mut self, program: &Arc<ProgramObject<B>>, order: Order<B>, reply: Reply) -> Result<(), Fault> {
        let host_options = CString::new(with_arg_info(&order.options)).map_err(|_nul| Fault::BadValue)?;
        program.idle()?;
        let host = program.host().and_then(|host| {
            let headers = order.headers.iter().map(|(_, header)| header.host());
            Ok((host, headers.collect::<Result<Vec<_>, ClError>>()?))
        });
        let (host, headers) = match host {
            // What others were made of it with is still attached.
            Ok(_) if program.kernels.load(Ordering::Relaxed) != 0 => {
                reply.status(Err(ClError::INVALID_OPERATION));
                return Ok(());
            }
            Ok(host) => host,
            Err(error) => {
                reply.status(Err(error));
                return Ok(());
            }
        };
        let Some(room) = self.sources.take(order.weight()) else {
            reply.status(Err(ClError::OUT_OF_HOST_MEMORY));
            return Ok(());
        };
        program.may_change()?;
        let text = order.steady_text(program);
        if let Some(kept) = text.and_then(|text| program.context.kept().find(text, host_options.to_bytes())) {
            program.start(order.build(&program.context, room))?;
            program.share(kept, host_options.into_bytes());
            program.ended(0, None);
            reply.status(Ok(()));
            return Ok(());
        }
        let earlier = program.shared();
        let host = match self.own_host(program, host, earlier.is_some()) {
            Ok(host) => host,
            Err(error) => {
                reply.status(Err(error));
                return Ok(());
            }
        };
        program.start(order.build(&program.context, room))?;
        let program = Arc::clone(program);
        let completion = reply.after_build();
        let (backend, notifier) = (self.backend.clone(), self.notifier.clone());
        let job = move |bench: &Bench| {
            let names = order.headers.iter().map(|(name, _)| name.as_c_str());
            let named: Vec<(&CStr, &B::Program)> = names.zip(&headers).collect();
            // What other devices have of it.
            if let Some(options) = earlier.filter(|_| !order.is_for_all(&program.context))
                && let Ok(options) = CString::new(options)
                && let Err(error) = backend.build(&host, &[], &options)
            {
                log::debug!("what was built before cannot be built again: {error}");
            }
            let tried = bench.try_out(|| Recipe::of(&program), &|| notifier.is_closed());
            let built = match &tried {
                Err(_) => Err(order.kind.failure()),
                Ok(()) => handles(&order.devices).and_then(|devices| match order.kind {
                    BuildKind::Compile => backend.compile(&host, &devices, &host_options, &named),
                    BuildKind::Build | BuildKind::Link => backend.build(&host, &devices, &host_options),
                }),
            };
            if built.is_ok() {
                keep(&*backend, &program, &order, &host, &host_options);
            }
            let status = built.err().map_or(0, ClError::code);
            // No longer busy before the guest hears of it.
            program.ended(status, tried.err().and_then(Ended::reason));
            drop((host, headers, program, order));
            notifier.when_running(Box::new(move || {
                completion.complete(Outcome { status, profile: None });
            }));
        };
        self.builds.submit(&self.notifier, Box::new(job));
        Ok(())
    }

    /// A host's program that this one alone has.
    fn own_host(
        &self,
        program: &ProgramObject<B>,
        host: B::Program,
        is_shared: bool,
    ) -> Result<B::Program, ClError> {
        if !is_shared {
            return Ok(host);
        }
        let text = program.text().ok_or(ClError::INVALID_OPERATION)?;
        let own = self.backend.create_program(handle(&program.context.host)?, text)?;
        program.part(own.clone());
        Ok(own)
    }

    pub(crate) fn link_program(&mut self, body: &LinkProgram, tail: Tail<'_>) -> Result<(), Fault> {
        let context = self.objects.context(body.create.parent.get())?;
        let data = self.attached(&body.list, tail.data, MAX_BUILD_LIST_BYTES)?;
        let mut list = List(&data);
        let devices = self.devices_of(&context, list.words(body.device_count.get())?)?;
        let ids = list.words(body.input_count.get())?;
        let inputs =
            numbers(ids)?.into_iter().map(|id| self.objects.program(id)).collect::<Result<Vec<_>, _>>()?;
        require(!inputs.is_empty(), Fault::BadValue)?;
        for input in &inputs {
            require(same_context(&input.context, &context), Fault::BadValue)?;
            require(input.depth < MAX_LINK_DEPTH, Fault::Limit)?;
            input.idle()?;
        }
        let options = CString::new(list.0).map_err(|_nul| Fault::BadValue)?;
        let reply = self.reply(&body.create.reply)?;
        let id = body.create.id.get();
        let common = self.objects.admit(id)?;
        inputs.iter().for_each(|input| input.freeze());
        let order = Order {
            kind: BuildKind::Link,
            devices,
            options: options.to_bytes().to_vec(),
            headers: Vec::new(),
        };
        let room = self.sources.take(order.weight() + size_of_val(&*inputs));
        let program = ProgramObject::new(common, context, Origin::Linked(inputs), None);
        let Some(room) = room else {
            program.ready(Err(ClError::OUT_OF_HOST_MEMORY));
            self.objects.insert(id, Object::Program(Arc::new(program)));
            reply.status(Err(ClError::OUT_OF_HOST_MEMORY));
            return Ok(());
        };
        let build = order.build(&program.context, room);
        let program = Arc::new(program.started(build));
        self.objects.insert(id, Object::Program(program.clone()));
        let completion = reply.after_build();
        let (backend, notifier) = (self.backend.clone(), self.notifier.clone());
        let job = move |bench: &Bench| {
            let tried = if program.parts().iter().any(|input| input.is_ended()) {
                Ok(())
            } else {
                bench.try_out(|| Recipe::of(&program), &|| notifier.is_closed())
            };
            let linked = match &tried {
                Ok(()) => link(&*backend, &program, &order.devices, &options),
                Err(_) => Err(order.kind.failure()),
            };
            let Linked { program: host, outcome } =
                linked.unwrap_or_else(|error| Linked { program: None, outcome: Err(error) });
            let status = outcome.err().map_or(0, ClError::code);
            program.made(host.ok_or(outcome.err().unwrap_or(ClError::LINK_PROGRAM_FAILURE)));
            program.ended(status, tried.err().and_then(Ended::reason));
            drop((program, order));
            notifier.when_running(Box::new(move || {
                completion.complete(Outcome { status, profile: None });
            }));
        };
        self.builds.submit(&self.notifier, Box::new(job));
        Ok(())
    }
}

/// Keeps what was built for the next that is built so, if nobody can tell the difference.
fn keep<B: Backend>(
    backend: &B,
    program: &ProgramObject<B>,
    order: &Order<B>,
    host: &B::Program,
    host_options: &CStr,
) {
    let (Some(text), Ok(devices)) = (order.steady_text(program), handles(&program.context.devices)) else {
        return;
    };
    let options = host_options.to_bytes();
    if is_stateless(backend, host, &devices) && program.context.kept().keep(text, options, host) {
        program.share(host.clone(), options.to_vec());
    }
}

fn link<B: Backend>(
    backend: &B,
    program: &ProgramObject<B>,
    devices: &[Arc<DeviceObject<B>>],
    options: &CStr,
) -> Result<Linked<B::Program>, ClError> {
    let (context, devices) = (handle(&program.context.host)?, handles(devices)?);
    let Origin::Linked(inputs) = &program.origin else { return Err(ClError::INVALID_OPERATION) };
    // The host's driver still has what they were before.
    if inputs.iter().any(|input| input.is_ended()) {
        return Err(ClError::INVALID_OPERATION);
    }
    let inputs = inputs.iter().map(|input| input.host()).collect::<Result<Vec<_>, _>>()?;
    Ok(backend.link(context, &devices, options, &inputs.iter().collect::<Vec<_>>()))
}

/// What comes with a build, taken from the front.
struct List<'a>(&'a [u8]);

impl<'a> List<'a> {
    fn bytes(&mut self, len: usize) -> Result<&'a [u8], Fault> {
        let (bytes, rest) = self.0.split_at_checked(len).ok_or(Fault::BadValue)?;
        self.0 = rest;
        Ok(bytes)
    }

    /// That many numbers of 32 bits.
    fn words(&mut self, count: u32) -> Result<&'a [u8], Fault> {
        let len = (count as usize).checked_mul(size_of::<u32>()).ok_or(Fault::BadValue)?;
        self.bytes(len)
    }
}
