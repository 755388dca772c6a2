//! Kernels and their arguments.

use std::collections::HashMap;
use std::ffi::CString;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use paragpu_protocol::command::{CreateKernel, SetArgLocal, SetArgObject, SetArgValue};
use paragpu_protocol::fault::Fault;
use paragpu_protocol::frame::Tail;
use paragpu_protocol::kernel::{ArgInfo, ArgKind, KernelInfo, MAY_PRINT};
use zerocopy::IntoBytes;

use super::super::backend::{Arg, ArgValue, Backend, Outcome};
use super::super::context::Context;
use super::super::objects::{ArgObject, KernelObject, KernelState, Object, handle};
use super::super::record::{ArgRecord, KernelRecord};
use super::{require, reserved, same_context, size};

impl<B: Backend> Context<B> {
    pub(crate) fn create_kernel(&mut self, body: &CreateKernel, tail: Tail<'_>) -> Result<(), Fault> {
        let program = self.objects.program(body.create.parent.get())?;
        let name = CString::new(tail.data).map_err(|_nul| Fault::BadValue)?;
        let info = if body.info.is_none() { None } else { Some(self.regions.window(&body.info)?) };
        let reply = self.reply(&body.create.reply)?;
        let id = body.create.id.get();
        program.idle()?;
        let common = self.objects.admit(id)?;
        let host = handle(&program.host).and_then(|program| self.backend.create_kernel(program, &name));
        let may_print = program.prints.load(Ordering::Relaxed);
        self.may_print |= may_print;
        let args = host.as_ref().map_or(Vec::new(), |kernel| self.backend.args(kernel).to_vec());
        let outcome = host.as_ref().map_or_else(|error| Outcome::failed(*error), |_| Outcome::SUCCESS);
        let answer = if host.is_ok() { describe(&args, may_print) } else { Vec::new() };
        if let Some(info) = info {
            let fits = answer.len().min(info.len());
            let whole = info.write(0, &answer[..fits]);
            debug_assert!(whole, "cut to what fits");
        }
        program.kernels.fetch_add(1, Ordering::Relaxed);
        let record = KernelRecord {
            program: program.common.serial,
            name: tail.data.to_vec(),
            args: vec![ArgRecord::Unset; args.len()],
            reaches: Vec::new(),
        };
        let state = KernelState { record, objects: HashMap::new(), reaches: Vec::new(), host };
        let object = KernelObject { common, program, args, may_print, state: state.into() };
        self.objects.insert(id, Object::Kernel(Arc::new(object)));
        reply.complete(outcome, answer.len() as u32);
        Ok(())
    }

    pub(crate) fn set_arg_value(&mut self, body: &SetArgValue, tail: Tail<'_>) -> Result<(), Fault> {
        let kernel = self.objects.kernel(body.kernel.get())?;
        let reply = self.reply(&body.reply)?;
        let index = body.index.get();
        let mut state = kernel.state();
        let state = &mut *state;
        let host = match &mut state.host {
            Ok(host) => host,
            Err(error) => {
                reply.status(Err(*error));
                return Ok(());
            }
        };
        // Anything but a plain value is a pointer or a handle for the driver, and not for a guest to choose.
        let arg = argument(&kernel.args, index, ArgKind::Value)?;
        require(arg.size == 0 || arg.size as usize == tail.data.len(), Fault::BadValue)?;
        require(!tail.data.is_empty(), Fault::BadValue)?;
        let set = self.backend.set_arg(host, index, ArgValue::Value(tail.data));
        if let Some(record) = state.record.args.get_mut(index as usize) {
            match set {
                Ok(()) => *record = ArgRecord::Value(tail.data.to_vec()),
                // Whoever does not ask must not find the kernel running with the value before.
                Err(_) if !reply.is_wanted() => *record = ArgRecord::Unset,
                Err(_) => {}
            }
        }
        reply.status(set);
        Ok(())
    }

    pub(crate) fn set_arg_object(&mut self, body: &SetArgObject) -> Result<(), Fault> {
        reserved(body.reserved)?;
        let kernel = self.objects.kernel(body.kernel.get())?;
        let (index, id) = (body.index.get(), body.object.get());
        let kind = kernel.args.get(index as usize).map(|arg| arg.kind).ok_or(Fault::BadValue)?;
        let object = match kind {
            ArgKind::Buffer if id == 0 => None,
            ArgKind::Buffer => Some(ArgObject::Buffer(self.objects.buffer(id)?)),
            ArgKind::Image => Some(ArgObject::Image(self.objects.image(id)?)),
            ArgKind::Sampler => Some(ArgObject::Sampler(self.objects.sampler(id)?)),
            ArgKind::Value | ArgKind::Local | ArgKind::Other => return Err(Fault::BadValue),
        };
        if let Some(object) = &object {
            require(same_context(object.context(), &kernel.program.context), Fault::BadValue)?;
        }
        self.set_posted(&kernel, index, Posted::Object(object))
    }

    pub(crate) fn set_arg_local(&mut self, body: &SetArgLocal) -> Result<(), Fault> {
        let kernel = self.objects.kernel(body.kernel.get())?;
        let bytes = size(body.size)?;
        argument(&kernel.args, body.index.get(), ArgKind::Local)?;
        self.set_posted(&kernel, body.index.get(), Posted::Local(bytes))
    }

    /// Sets an argument for which nobody waits: one that cannot be set is unset.
    fn set_posted(&self, kernel: &KernelObject<B>, index: u32, value: Posted<B>) -> Result<(), Fault> {
        let mut state = kernel.state();
        let state = &mut *state;
        let Ok(host) = &mut state.host else { return Ok(()) };
        let set = match &value {
            Posted::Local(bytes) => Ok(ArgValue::Local(*bytes)),
            Posted::Object(None) => Ok(ArgValue::Buffer(None)),
            Posted::Object(Some(ArgObject::Buffer(it))) => handle(&it.host).map(Some).map(ArgValue::Buffer),
            Posted::Object(Some(ArgObject::Image(it))) => handle(&it.host).map(ArgValue::Image),
            Posted::Object(Some(ArgObject::Sampler(it))) => handle(&it.host).map(ArgValue::Sampler),
        };
        let set = set.and_then(|value| self.backend.set_arg(host, index, value));
        let record = match (&set, &value) {
            (Err(_), _) => ArgRecord::Unset,
            (Ok(()), Posted::Local(bytes)) => ArgRecord::Local(*bytes as u64),
            (Ok(()), Posted::Object(None)) => ArgRecord::Buffer(None),
            (Ok(()), Posted::Object(Some(object))) => object.record(),
        };
        if let Some(arg) = state.record.args.get_mut(index as usize) {
            *arg = record;
        }
        match value {
            Posted::Object(Some(object)) if set.is_ok() => {
                state.objects.insert(index, object);
            }
            Posted::Object(_) => {
                state.objects.remove(&index);
            }
            Posted::Local(_) => {}
        }
        Ok(())
    }
}

enum Posted<B: Backend> {
    /// None for a null pointer.
    Object(Option<ArgObject<B>>),
    Local(usize),
}

pub(super) fn argument(args: &[Arg], index: u32, kind: ArgKind) -> Result<Arg, Fault> {
    args.get(index as usize).copied().filter(|arg| arg.kind == kind).ok_or(Fault::BadValue)
}

/// The answer to `CreateKernel`.
fn describe(args: &[Arg], may_print: bool) -> Vec<u8> {
    let flags = if may_print { MAY_PRINT } else { 0 };
    let info = KernelInfo { num_args: (args.len() as u32).into(), flags: flags.into() };
    let mut answer = info.as_bytes().to_vec();
    for arg in args {
        let info =
            ArgInfo { kind: arg.kind as u8, access: arg.access, size: arg.size.into(), ..ArgInfo::default() };
        answer.extend_from_slice(info.as_bytes());
    }
    answer
}
