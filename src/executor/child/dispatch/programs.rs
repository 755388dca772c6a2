//! Programs: making them, and setting their specialization constants.

use std::ffi::CString;
use std::sync::Arc;

use paragpu_protocol::command::{CreateBuiltInProgram, CreateProgram, CreateProgramWithIl, SetSpecConstant};
use paragpu_protocol::fault::Fault;
use paragpu_protocol::frame::Tail;
use paragpu_protocol::limits::MAX_SOURCE_BYTES;
use paragpu_protocol::spirv::Module;
use paragpu_protocol::types::Span;

use super::super::backend::{Backend, ClError, Outcome};
use super::super::compiler::recipe::Recipe;
use super::super::compiler::trial::Bench;
use super::super::context::Context;
use super::super::objects::{Object, handle, handles};
use super::super::programs::{Origin, ProgramObject};
use super::{require, reserved};

impl<B: Backend> Context<B> {
    /// What comes with a command: its data, or a span of at most `most` bytes, of which a copy is made.
    pub(super) fn attached(&self, span: &Span, data: &[u8], most: u64) -> Result<Vec<u8>, Fault> {
        if !data.is_empty() || span.is_none() {
            require(*span == Span::NONE, Fault::BadValue)?;
            return Ok(data.to_vec());
        }
        require(span.len.get() <= most, Fault::Limit)?;
        Ok(self.regions.window(span)?.to_vec())
    }

    pub(crate) fn create_program(&mut self, body: &CreateProgram, tail: Tail<'_>) -> Result<(), Fault> {
        let context = self.objects.context(body.create.parent.get())?;
        let source = self.attached(&body.source, tail.data, MAX_SOURCE_BYTES)?;
        let reply = self.reply(&body.create.reply)?;
        let id = body.create.id.get();
        let common = self.objects.admit(id)?;
        let room = self.sources.take(source.len());
        let host = match &context.host {
            Err(error) => Err(*error),
            Ok(_) if room.is_none() => Err(ClError::OUT_OF_HOST_MEMORY),
            Ok(context) => self.backend.create_program(context, &source),
        };
        let source = if room.is_some() { source } else { Vec::new() };
        let program = ProgramObject::new(common, context, Origin::Source(source), room);
        program.ready(host);
        let outcome = program.host().map(|_| ());
        self.objects.insert(id, Object::Program(Arc::new(program)));
        reply.status(outcome);
        Ok(())
    }

    /// Beside the ring: a driver may start a translator to look at the module.
    pub(crate) fn create_program_with_il(
        &mut self,
        body: &CreateProgramWithIl,
        tail: Tail<'_>,
    ) -> Result<(), Fault> {
        let context = self.objects.context(body.create.parent.get())?;
        let il = self.attached(&body.il, tail.data, MAX_SOURCE_BYTES)?;
        require(Module::parse(&il).is_some(), Fault::BadValue)?;
        let reply = self.reply(&body.create.reply)?;
        let id = body.create.id.get();
        let common = self.objects.admit(id)?;
        let room = self.sources.take(il.len());
        let refused = match &context.host {
            Err(error) => Some(*error),
            Ok(_) if room.is_none() => Some(ClError::OUT_OF_HOST_MEMORY),
            Ok(_) => None,
        };
        let il = if refused.is_none() { il } else { Vec::new() };
        let program = Arc::new(ProgramObject::new(common, context, Origin::Il(il), room));
        self.objects.insert(id, Object::Program(program.clone()));
        if let Some(error) = refused {
            program.ready(Err(error));
            reply.status(Err(error));
            return Ok(());
        }
        let completion = reply.after_build();
        let (backend, notifier) = (self.backend.clone(), self.notifier.clone());
        let job = move |bench: &Bench| {
            let tried = bench.try_out(|| Recipe::of(&program), &|| notifier.is_closed());
            let host = match (&program.origin, handle(&program.context.host)) {
                _ if tried.is_err() => Err(ClError::OUT_OF_RESOURCES),
                (Origin::Il(il), Ok(context)) => backend.create_program_with_il(context, il),
                (_, Ok(_)) => Err(ClError::INVALID_OPERATION),
                (_, Err(error)) => Err(error),
            };
            let status = host.as_ref().err().map_or(0, |error| error.code());
            program.ready(host);
            drop(program);
            notifier.when_running(Box::new(move || {
                completion.complete(Outcome { status, profile: None });
            }));
        };
        self.builds.submit(&self.notifier, Box::new(job));
        Ok(())
    }

    pub(crate) fn create_built_in_program(
        &mut self,
        body: &CreateBuiltInProgram,
        tail: Tail<'_>,
    ) -> Result<(), Fault> {
        reserved(body.reserved)?;
        let context = self.objects.context(body.create.parent.get())?;
        let indices = (body.device_count.get() as usize).checked_mul(size_of::<u32>());
        let (indices, names) =
            indices.and_then(|len| tail.data.split_at_checked(len)).ok_or(Fault::BadValue)?;
        let devices = self.device_list(indices)?;
        require(!devices.is_empty(), Fault::BadValue)?;
        require(devices.iter().all(|device| context.has_device(device)), Fault::BadValue)?;
        let names = CString::new(names).map_err(|_nul| Fault::BadValue)?;
        let reply = self.reply(&body.create.reply)?;
        let id = body.create.id.get();
        let common = self.objects.admit(id)?;
        let room = self.sources.take(tail.data.len());
        let host = match &context.host {
            Err(error) => Err(*error),
            Ok(_) if room.is_none() => Err(ClError::OUT_OF_HOST_MEMORY),
            Ok(context) => handles(&devices)
                .and_then(|devices| self.backend.create_built_in_program(context, &devices, &names)),
        };
        let origin = Origin::BuiltIn { devices, names: names.into_bytes() };
        let program = ProgramObject::new(common, context, origin, room);
        program.ready(host);
        let outcome = program.host().map(|_| ());
        self.objects.insert(id, Object::Program(Arc::new(program)));
        reply.status(outcome);
        Ok(())
    }

    pub(crate) fn set_spec_constant(&mut self, body: &SetSpecConstant, tail: Tail<'_>) -> Result<(), Fault> {
        let program = self.objects.program(body.program.get())?;
        let reply = self.reply(&body.reply)?;
        program.may_change()?;
        let host = match program.host() {
            Ok(host) => host,
            Err(error) => {
                reply.status(Err(error));
                return Ok(());
            }
        };
        let Origin::Il(il) = &program.origin else { return Err(Fault::BadValue) };
        let id = body.spec_id.get();
        let size = Module::parse(il).and_then(|module| module.spec_constant_size(id));
        require(size.is_some_and(|size| size as usize == tail.data.len()), Fault::BadValue)?;
        let set = self.backend.set_spec_constant(&host, id, tail.data);
        if set.is_ok() {
            program.note_constant(id, tail.data);
        }
        reply.status(set);
        Ok(())
    }
}
