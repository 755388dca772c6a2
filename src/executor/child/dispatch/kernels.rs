//! Kernels and their arguments.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use paragpu_protocol::command::{CloneKernel, CreateKernel, SetArgLocal, SetArgObject, SetArgValue};
use paragpu_protocol::fault::Fault;
use paragpu_protocol::frame::Tail;
use paragpu_protocol::kernel::{ArgInfo, ArgKind, KernelInfo, MAY_PRINT};
use zerocopy::IntoBytes;

use super::super::backend::{Arg, ArgValue, Backend, ClError, Linked, Outcome};
use super::super::context::Context;
use super::super::objects::{ArgObject, KernelObject, KernelState, Object, ProgramObject, handle};
use super::super::pace::Cost;
use super::super::programs::{Origin, for_each_part};
use super::super::record::{ArgRecord, KernelRecord};
use super::super::spirv::{self, Unknown};
use super::shared::coarse_addresses;
use super::{require, reserved, same_context, size};

/// Most parts of a program that are looked at for one kernel: nothing else of the context runs meanwhile.
const MAX_PARTS_ASKED: usize = 8;

impl<B: Backend> Context<B> {
    pub(crate) fn create_kernel(&mut self, body: &CreateKernel, tail: Tail<'_>) -> Result<(), Fault> {
        let program = self.objects.program(body.create.parent.get())?;
        let name = CString::new(tail.data).map_err(|_nul| Fault::BadValue)?;
        let info = if body.info.is_none() { None } else { Some(self.regions.window(&body.info)?) };
        let reply = self.reply(&body.create.reply)?;
        let id = body.create.id.get();
        program.idle()?;
        let common = self.objects.admit(id)?;
        let host = program.host().and_then(|host| {
            if program.is_ended() {
                return Err(ClError::INVALID_PROGRAM_EXECUTABLE);
            }
            let declared = declared_args(&program, tail.data)?;
            match self.backend.create_kernel(&host, &name, declared.as_deref()) {
                Err(ClError::ARG_INFO_NOT_AVAILABLE) => {
                    let declared = self.args_by_parts(&program, &name)?;
                    self.backend.create_kernel(&host, &name, Some(&declared))
                }
                made => made,
            }
        });
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
        let state = KernelState { record, objects: BTreeMap::new(), reaches: Vec::new(), host };
        let cost = Cost::of(&String::from_utf8_lossy(tail.data));
        let object = KernelObject { common, program, args, may_print, cost, state: state.into() };
        self.objects.insert(id, Object::Kernel(Arc::new(object)));
        reply.complete(outcome, answer.len() as u32);
        Ok(())
    }

    /// What the arguments are of a kernel of a linked program, if the driver does not say: Intel's for processors does not
    /// of one that another program declares, too. So each part that has its name is linked alone, and asked. Kernels of the
    /// same name in several parts must agree: which of them the driver took is not known.
    fn args_by_parts(&self, program: &Arc<ProgramObject<B>>, name: &CStr) -> Result<Vec<Arg>, ClError> {
        let context = handle(&program.context.host)?;
        let (mut asked, mut found, mut agree) = (0, None, true);
        for_each_part(program, |part| {
            let Origin::Source(source) = &part.origin else { return };
            let Ok(host) = part.host() else { return };
            if asked == MAX_PARTS_ASKED || !has_word(source, name.to_bytes()) {
                return;
            }
            asked += 1;
            let Linked { program: Some(alone), outcome: Ok(()) } =
                self.backend.link(context, &[], c"", &[&host])
            else {
                return;
            };
            let Ok(kernel) = self.backend.create_kernel(&alone, name, None) else { return };
            let args = self.backend.args(&kernel).to_vec();
            agree &= found.as_ref().is_none_or(|found| *found == args);
            found = Some(args);
        });
        found.filter(|_| agree).ok_or_else(|| {
            log::warn!("the arguments of a linked program's kernel are not known");
            ClError::OUT_OF_RESOURCES
        })
    }

    /// Everything that the guest can observe of the kernel is in its record, so the other is made of that.
    pub(crate) fn clone_kernel(&mut self, body: &CloneKernel) -> Result<(), Fault> {
        let kernel = self.objects.kernel(body.create.parent.get())?;
        let reply = self.reply(&body.create.reply)?;
        let id = body.create.id.get();
        let program = kernel.program.clone();
        program.idle()?;
        let common = self.objects.admit(id)?;
        let state = kernel.state();
        let host = handle(&state.host).and_then(|_| self.same_kernel(&kernel, &state));
        let outcome = host.as_ref().map_or_else(|error| Err(*error), |_| Ok(()));
        program.kernels.fetch_add(1, Ordering::Relaxed);
        let state = KernelState {
            record: state.record.clone(),
            objects: state.objects.clone(),
            reaches: state.reaches.clone(),
            host,
        };
        let (args, may_print) = (kernel.args.clone(), kernel.may_print);
        let cost = Arc::clone(&kernel.cost);
        let object = KernelObject { common, program, args, may_print, cost, state: state.into() };
        self.objects.insert(id, Object::Kernel(Arc::new(object)));
        reply.status(outcome);
        Ok(())
    }

    /// A kernel of the same program with the same arguments.
    fn same_kernel(&self, kernel: &KernelObject<B>, state: &KernelState<B>) -> Result<B::Kernel, ClError> {
        let name = CString::new(&*state.record.name).map_err(|_nul| ClError::INVALID_KERNEL_NAME)?;
        let mut host = self.backend.create_kernel(&kernel.program.host()?, &name, Some(&kernel.args))?;
        for (index, arg) in (0..).zip(&state.record.args) {
            let object = state.objects.get(&index).ok_or(ClError::INVALID_ARG_VALUE);
            let value = match arg {
                ArgRecord::Unset => continue,
                ArgRecord::Value(bytes) => ArgValue::Value(bytes),
                ArgRecord::Local(bytes) => {
                    ArgValue::Local(usize::try_from(*bytes).map_err(|_wide| ClError::INVALID_ARG_SIZE)?)
                }
                ArgRecord::Buffer(None) => ArgValue::Buffer(None),
                ArgRecord::Pointer(_, offset) => match object? {
                    ArgObject::Buffer(buffer) => {
                        let shared = buffer.record.shared.ok_or(ClError::INVALID_ARG_VALUE)?;
                        ArgValue::Pointer((shared.address + offset) as usize)
                    }
                    _ => return Err(ClError::INVALID_ARG_VALUE),
                },
                ArgRecord::Buffer(Some(_))
                | ArgRecord::Image(_)
                | ArgRecord::Sampler(_)
                | ArgRecord::Pipe(_)
                | ArgRecord::Queue(_) => object?.value()?,
            };
            self.backend.set_arg(&mut host, index, value)?;
        }
        let coarse = coarse_addresses(&state.reaches);
        if !coarse.is_empty() {
            self.backend.set_reachable(&mut host, &coarse)?;
        }
        Ok(host)
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
            ArgKind::Pipe => Some(ArgObject::Pipe(self.objects.pipe(id)?)),
            ArgKind::Queue => Some(ArgObject::Queue(self.objects.device_queue(id)?)),
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
            Posted::Object(Some(object)) => object.value(),
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

/// What a kernel's arguments are, if it comes from intermediate language: see [`spirv`].
fn declared_args<B: Backend>(
    program: &Arc<ProgramObject<B>>,
    name: &[u8],
) -> Result<Option<Vec<Arg>>, ClError> {
    let mut declared = Ok(None);
    for_each_part(program, |part| {
        let Origin::Il(il) = &part.origin else { return };
        declared = match (spirv::kernel_args(il, name), &declared) {
            (Err(Unknown::NoSuchKernel), _) => return,
            (Ok(args), Ok(None)) => Ok(Some(args)),
            // Or two modules have it.
            (Ok(_) | Err(Unknown::Unclear), _) => Err(Unknown::Unclear),
        };
    });
    declared.map_err(|error| {
        log::debug!("kernel {}: {error}", String::from_utf8_lossy(name));
        ClError::OUT_OF_RESOURCES
    })
}

/// True if the text has this identifier.
fn has_word(text: &[u8], word: &[u8]) -> bool {
    let is_part = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    !word.is_empty()
        && (0..text.len()).any(|at| {
            let before = at.checked_sub(1).and_then(|before| text.get(before));
            text[at..].starts_with(word) && !is_part(before) && !is_part(text.get(at + word.len()))
        })
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

#[cfg(test)]
mod tests {
    use super::has_word;

    #[test]
    fn a_kernels_name_is_found_as_a_whole_word() {
        let text = b"kernel void copy1(int a);\nkernel void copy10() {}";
        assert!(has_word(text, b"copy1") && has_word(text, b"copy10") && has_word(b"f", b"f"));
        assert!(!has_word(text, b"copy") && !has_word(text, b"opy1") && !has_word(text, b""));
        assert!(!has_word(b"", b"f") && !has_word(b"f_", b"f") && !has_word(b"_f", b"f"));
    }
}
