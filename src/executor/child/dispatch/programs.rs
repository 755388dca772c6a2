//! Programs and their builds.

use std::ffi::CString;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use paragpu_protocol::command::{BuildProgram, CreateProgram};
use paragpu_protocol::fault::Fault;
use paragpu_protocol::frame::Tail;
use paragpu_protocol::limits::{MAX_INLINE_BYTES, MAX_SOURCE_BYTES};

use super::super::backend::{Backend, ClError, HostBytes, Outcome};
use super::super::context::Context;
use super::super::objects::{Object, ProgramObject, creation, handles, names};
use super::super::print;
use super::super::record::BuildRecord;
use super::require;

/// Without it the host would not know which arguments are pointers, and could not keep a guest from forging one.
const ARG_INFO_OPTION: &str = "-cl-kernel-arg-info";

impl<B: Backend> Context<B> {
    pub(crate) fn create_program(&mut self, body: &CreateProgram, tail: Tail<'_>) -> Result<(), Fault> {
        let context = self.objects.context(body.create.parent.get())?;
        let source = if tail.data.is_empty() {
            require(body.source.len.get() <= MAX_SOURCE_BYTES, Fault::Limit)?;
            HostBytes::Window(self.regions.window(&body.source)?)
        } else {
            require(body.source.is_none(), Fault::BadValue)?;
            HostBytes::Heap(tail.data.into())
        };
        let reply = self.reply(&body.create.reply)?;
        let id = body.create.id.get();
        let common = self.objects.admit(id)?;
        let room = self.sources.take(source.len() + MAX_INLINE_BYTES as usize);
        let mut copy = vec![0; if room.is_some() { source.len() } else { 0 }];
        let whole = source.read(0, &mut copy);
        debug_assert!(whole, "as long as the source, or empty");
        let source = copy;
        let host = match &context.host {
            Err(error) => Err(*error),
            Ok(_) if room.is_none() => Err(ClError::OUT_OF_HOST_MEMORY),
            Ok(_) if source.is_empty() => Err(ClError::INVALID_VALUE),
            Ok(context) => self.backend.create_program(context, &source),
        };
        let outcome = creation(&host);
        let object = ProgramObject {
            common,
            context,
            prints: AtomicBool::new(print::may_print(&source)),
            source,
            _room: room,
            build: None.into(),
            kernels: AtomicUsize::new(0),
            host,
        };
        self.objects.insert(id, Object::Program(Arc::new(object)));
        reply.status(outcome);
        Ok(())
    }

    pub(crate) fn build_program(&mut self, body: &BuildProgram, tail: Tail<'_>) -> Result<(), Fault> {
        let program = self.objects.program(body.program.get())?;
        let indices = (body.device_count.get() as usize).checked_mul(size_of::<u32>());
        let (indices, options) =
            indices.and_then(|len| tail.data.split_at_checked(len)).ok_or(Fault::BadValue)?;
        let devices = self.device_list(indices)?;
        require(devices.iter().all(|device| program.context.has_device(device)), Fault::BadValue)?;
        let host_options = CString::new(with_arg_info(options)).map_err(|_nul| Fault::BadValue)?;
        let reply = self.reply(&body.reply)?;
        program.idle()?;
        let host = match &program.host {
            Ok(host) => host.clone(),
            Err(error) => {
                reply.status(Err(*error));
                return Ok(());
            }
        };
        if program.kernels.load(Ordering::Relaxed) != 0 {
            reply.status(Err(ClError::INVALID_OPERATION));
            return Ok(());
        }
        if print::may_print(options) {
            program.prints.store(true, Ordering::Relaxed);
        }
        let named = if devices.is_empty() { &program.context.devices } else { &devices };
        *program.build() =
            Some(BuildRecord { devices: names(named), options: options.to_vec(), status: None });
        let completion = reply.after_build();
        let (backend, notifier) = (self.backend.clone(), self.notifier.clone());
        self.builds.submit(Box::new(move || {
            let built = handles(&devices).and_then(|devices| backend.build(&host, &devices, &host_options));
            let status = built.err().map_or(0, ClError::code);
            // No longer busy before the guest hears of it.
            if let Some(build) = &mut *program.build() {
                build.status = Some(status);
            }
            drop((host, program));
            notifier.when_running(Box::new(move || {
                completion.complete(Outcome { status, profile: None });
            }));
        }));
        Ok(())
    }
}

/// The options for the host. The guest sees its own.
fn with_arg_info(options: &[u8]) -> Vec<u8> {
    let mut all = options.to_vec();
    let there =
        options.split(|byte| byte.is_ascii_whitespace()).any(|word| word == ARG_INFO_OPTION.as_bytes());
    if !there {
        if !all.is_empty() {
            all.push(b' ');
        }
        all.extend_from_slice(ARG_INFO_OPTION.as_bytes());
    }
    all
}

#[cfg(test)]
mod tests {
    use super::with_arg_info;

    #[test]
    fn argument_information_is_asked_for_once() {
        assert_eq!(with_arg_info(b""), b"-cl-kernel-arg-info");
        assert_eq!(with_arg_info(b"-DA=1"), b"-DA=1 -cl-kernel-arg-info");
        assert_eq!(with_arg_info(b"-cl-kernel-arg-info -DA"), b"-cl-kernel-arg-info -DA");
        assert_eq!(with_arg_info(b"-DX-cl-kernel-arg-info"), b"-DX-cl-kernel-arg-info -cl-kernel-arg-info");
    }
}
