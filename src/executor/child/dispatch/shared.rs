//! Buffers in memory that the guest sees too, and kernels that reach them by address.

use std::sync::Arc;

use paragpu_protocol::command::{CreateSharedBuffer, ReleaseShared, SetArgSvm, SetExecInfo};
use paragpu_protocol::fault::Fault;
use paragpu_protocol::frame::Tail;
use paragpu_protocol::kernel::ArgKind;
use paragpu_protocol::svm::SharedInfo;
use zerocopy::IntoBytes;

use super::super::backend::{ArgValue, Backend, ClError, Outcome};
use super::super::context::Context;
use super::super::objects::{BufferObject, ContextObject, Object, SharedMemory, creation};
use super::super::record::{ArgRecord, BufferRecord, SharedRecord};
use super::kernels::argument;
use super::objects::check_flags;
use super::{require, reserved, same_context};
use crate::sys::map::PAGE_BYTES;

impl<B: Backend> Context<B> {
    pub(crate) fn create_shared_buffer(&mut self, body: &CreateSharedBuffer) -> Result<(), Fault> {
        let context = self.objects.context(body.create.parent.get())?;
        let flags = body.flags.get();
        check_flags(flags)?;
        let memory = self.regions.window(&body.memory)?;
        let address = memory.as_ptr().addr();
        require(!memory.is_empty() && address.is_multiple_of(PAGE_BYTES), Fault::BadValue)?;
        let info = if body.info.is_none() { None } else { Some(self.regions.window(&body.info)?) };
        let reply = self.reply(&body.create.reply)?;
        let id = body.create.id.get();
        let common = self.objects.admit(id)?;
        let size = memory.len() as u64;
        let shared = Arc::new(SharedMemory::new(memory.clone(), &self.shared));
        let host = match &context.host {
            Err(error) => Err(*error),
            Ok(_) if !self.share_memory(&context) => Err(ClError::INVALID_OPERATION),
            Ok(_) if size > context.max_alloc() => Err(ClError::INVALID_BUFFER_SIZE),
            Ok(context) => {
                self.backend.create_shared_buffer(context, flags, memory, Box::new(Arc::clone(&shared)))
            }
        };
        let answer = SharedInfo { address: (address as u64).into() };
        if let Some(info) = info.filter(|_| host.is_ok()) {
            let fits = answer.as_bytes().len().min(info.len());
            let whole = info.write(0, &answer.as_bytes()[..fits]);
            debug_assert!(whole, "cut to what fits");
        }
        let outcome = creation(&host).map_or_else(Outcome::failed, |()| Outcome::SUCCESS);
        let place = SharedRecord {
            region: body.memory.region.get(),
            offset: body.memory.offset.get(),
            address: address as u64,
        };
        let object = BufferObject {
            common,
            record: BufferRecord {
                context: context.common.serial,
                flags,
                size,
                parent: None,
                shared: Some(place),
            },
            context,
            parent: None,
            shared: Some(shared),
            host,
        };
        self.objects.insert(id, Object::Buffer(Arc::new(object)));
        reply.complete(outcome, size_of::<SharedInfo>() as u32);
        Ok(())
    }

    pub(crate) fn release_shared(&mut self, body: &ReleaseShared) -> Result<(), Fault> {
        reserved(body.reserved)?;
        let id = body.id.get();
        let buffer = self.objects.buffer(id)?;
        let shared = buffer.shared.as_ref().ok_or(Fault::UnknownObject)?;
        shared.tell_when_gone(self.reply(&body.reply)?);
        self.objects.remove(id)?;
        Ok(())
    }

    pub(crate) fn set_arg_svm(&mut self, body: &SetArgSvm) -> Result<(), Fault> {
        reserved(body.reserved)?;
        let kernel = self.objects.kernel(body.kernel.get())?;
        let (index, offset) = (body.index.get(), body.offset.get());
        let buffer = match body.object.get() {
            0 => None,
            id => Some(self.objects.buffer(id)?),
        };
        let value = match &buffer {
            None => {
                require(offset == 0, Fault::BadValue)?;
                // Drivers that share no memory may not have the entry point for addresses.
                ArgValue::Buffer(None)
            }
            Some(buffer) => {
                require(same_context(&buffer.context, &kernel.program.context), Fault::BadValue)?;
                require(offset <= buffer.record.size, Fault::BadValue)?;
                let shared = buffer.record.shared.ok_or(Fault::UnknownObject)?;
                // Both ends of the buffer are addresses of this process.
                ArgValue::Pointer((shared.address + offset) as usize)
            }
        };
        argument(&kernel.args, index, ArgKind::Buffer)?;
        let mut state = kernel.state();
        let state = &mut *state;
        let Ok(host) = &mut state.host else { return Ok(()) };
        let poisoned = buffer.as_ref().and_then(|buffer| buffer.host.as_ref().err().copied());
        let set = match poisoned {
            Some(error) => Err(error),
            None => self.backend.set_arg(host, index, value),
        };
        let record = match (&set, &buffer) {
            (Err(_), _) => ArgRecord::Unset,
            (Ok(()), None) => ArgRecord::Buffer(None),
            (Ok(()), Some(buffer)) => ArgRecord::Pointer(buffer.common.serial, offset),
        };
        if let Some(arg) = state.record.args.get_mut(index as usize) {
            *arg = record;
        }
        match buffer.filter(|_| set.is_ok()) {
            Some(buffer) => state.buffers.insert(index, buffer),
            None => state.buffers.remove(&index),
        };
        Ok(())
    }

    /// What kernels on a device that shares memory reach needs no announcement to the driver; it must only stay.
    pub(crate) fn set_exec_info(&mut self, body: &SetExecInfo, tail: Tail<'_>) -> Result<(), Fault> {
        reserved(body.reserved)?;
        let kernel = self.objects.kernel(body.kernel.get())?;
        let (ids, rest) = tail.data.as_chunks::<4>();
        require(rest.is_empty(), Fault::BadValue)?;
        let mut reaches: Vec<Arc<BufferObject<B>>> = Vec::with_capacity(ids.len());
        for id in ids {
            let buffer = self.objects.buffer(u32::from_le_bytes(*id))?;
            require(same_context(&buffer.context, &kernel.program.context), Fault::BadValue)?;
            require(buffer.shared.is_some(), Fault::UnknownObject)?;
            reaches.push(buffer);
        }
        let mut state = kernel.state();
        state.record.reaches = reaches.iter().map(|buffer| buffer.common.serial).collect();
        state.reaches = reaches;
        Ok(())
    }

    fn share_memory(&self, context: &ContextObject<B>) -> bool {
        context
            .devices
            .iter()
            .all(|device| device.host.as_ref().is_ok_and(|device| device.limits.shares_memory))
    }
}
