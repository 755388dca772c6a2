//! Buffers in memory that the guest sees too, and kernels that reach them by address.

use std::sync::Arc;

use paragpu_protocol::command::{
    CreateCoarseBuffer, CreateSharedBuffer, ReleaseShared, SetArgSvm, SetExecInfo,
};
use paragpu_protocol::fault::Fault;
use paragpu_protocol::frame::Tail;
use paragpu_protocol::kernel::ArgKind;
use paragpu_protocol::svm::SharedInfo;
use zerocopy::IntoBytes;

use super::super::backend::{ArgValue, Backend, ClError, HostDevice, MemoryModel, Outcome};
use super::super::context::Context;
use super::super::objects::{ArgObject, BufferObject, ContextObject, Object, SharedMemory, creation, handle};
use super::super::record::{ArgRecord, BufferRecord, SharedRecord};
use super::kernels::argument;
use super::objects::check_flags;
use super::{require, reserved, same_context, size};
use crate::sys::map::Window;

impl<B: Backend> Context<B> {
    pub(crate) fn create_shared_buffer(&mut self, body: &CreateSharedBuffer) -> Result<(), Fault> {
        let context = self.objects.context(body.create.parent.get())?;
        let flags = body.flags.get();
        check_flags(flags)?;
        let memory = self.regions.window(&body.memory)?;
        let address = memory.as_ptr().addr();
        require(!memory.is_empty(), Fault::BadValue)?;
        let info = if body.info.is_none() { None } else { Some(self.regions.window(&body.info)?) };
        let reply = self.reply(&body.create.reply)?;
        let id = body.create.id.get();
        let common = self.objects.admit(id)?;
        let bytes = memory.len() as u64;
        let shared = Arc::new(SharedMemory::new(memory.clone(), &self.shared));
        let host = match &context.host {
            Err(error) => Err(*error),
            Ok(_) if !self.share_memory(&context) => Err(ClError::INVALID_OPERATION),
            Ok(_) if bytes > context.max_alloc() => Err(ClError::INVALID_BUFFER_SIZE),
            Ok(context) => {
                self.backend.create_shared_buffer(context, flags, memory, Box::new(Arc::clone(&shared)))
            }
        };
        tell_address(info.filter(|_| host.is_ok()), address);
        let outcome = creation(&host).map_or_else(Outcome::failed, |()| Outcome::SUCCESS);
        let region = Some((body.memory.region.get(), body.memory.offset.get()));
        let place = SharedRecord { address: address as u64, region };
        let record = BufferRecord {
            context: context.common.serial,
            flags,
            size: bytes,
            parent: None,
            shared: Some(place),
            place: None,
        };
        let object =
            BufferObject { shared: Some(shared), ..BufferObject::new(common, context, record, host) };
        self.objects.insert(id, Object::Buffer(Arc::new(object)));
        reply.complete(outcome, size_of::<SharedInfo>() as u32);
        Ok(())
    }

    pub(crate) fn create_coarse_buffer(&mut self, body: &CreateCoarseBuffer) -> Result<(), Fault> {
        reserved(body.reserved)?;
        let context = self.objects.context(body.create.parent.get())?;
        let flags = body.flags.get();
        check_flags(flags)?;
        let (bytes, offset) = (size(body.size)?, size(body.offset)?);
        let of = match body.of.get() {
            0 => None,
            id => Some(self.objects.buffer(id)?),
        };
        match &of {
            None => require(offset == 0, Fault::BadValue)?,
            Some(of) => {
                require(same_context(&of.context, &context), Fault::BadValue)?;
                require(of.coarse.is_some() || of.host.is_err(), Fault::UnknownObject)?;
                // One that has memory of its own, so that the offset is one in that.
                require(of.record.parent.is_none(), Fault::BadValue)?;
                let end = offset.checked_add(bytes).ok_or(Fault::BadValue)?;
                require(end as u64 <= of.record.size, Fault::BadValue)?;
            }
        }
        let info = if body.info.is_none() { None } else { Some(self.regions.window(&body.info)?) };
        let reply = self.reply(&body.create.reply)?;
        let id = body.create.id.get();
        let common = self.objects.admit(id)?;
        let own = if of.is_none() { bytes as u64 } else { 0 };
        let made = self.charged(own, || self.coarse_memory(&context, bytes, of.as_deref()));
        let made = made.and_then(|((memory, start), charge)| {
            let at = start + offset;
            let shared = match of.as_ref().and_then(|of| of.shared.clone()) {
                Some(shared) => shared,
                None => Arc::new(SharedMemory::new((memory.clone(), charge), &self.shared)),
            };
            let keep = Box::new(Arc::clone(&shared));
            let host = handle(&context.host).and_then(|context| {
                self.backend.create_coarse_buffer(context, flags, (&memory, offset, bytes), keep)
            });
            host.map(|host| (host, shared, memory, at))
        });
        let outcome = made.as_ref().map_or_else(|error| Outcome::failed(*error), |_| Outcome::SUCCESS);
        let (host, shared, coarse, place) = match made {
            Ok((host, shared, memory, address)) => {
                tell_address(info, address);
                let place = SharedRecord { address: address as u64, region: None };
                (Ok(host), Some(shared), Some(memory), Some(place))
            }
            Err(error) => (Err(error), None, None, None),
        };
        let record = BufferRecord {
            context: context.common.serial,
            flags,
            size: bytes as u64,
            parent: of.as_ref().map(|of| (of.common.serial, offset as u64)),
            shared: place,
            place: None,
        };
        let object = BufferObject { shared, coarse, ..BufferObject::new(common, context, record, host) };
        self.objects.insert(id, Object::Buffer(Arc::new(object)));
        reply.complete(outcome, size_of::<SharedInfo>() as u32);
        Ok(())
    }

    /// The memory that a coarse-grain buffer is to lie in, fresh or another's, and its address.
    fn coarse_memory(
        &self,
        context: &ContextObject<B>,
        bytes: usize,
        of: Option<&BufferObject<B>>,
    ) -> Result<(B::Coarse, usize), ClError> {
        if let Some(of) = of {
            handle(&of.host)?;
            let address = of.record.shared.map(|shared| shared.address as usize);
            return of.coarse.clone().zip(address).ok_or(ClError::INVALID_OPERATION);
        }
        let host = handle(&context.host)?;
        if bytes == 0 || bytes as u64 > context.max_alloc() {
            return Err(ClError::INVALID_BUFFER_SIZE);
        }
        let is_apart = |device: &HostDevice<B::Device>| device.limits.memory == MemoryModel::Apart;
        let devices = context.devices.iter().map(|device| handle(&device.host));
        let devices = devices.collect::<Result<Vec<_>, _>>()?;
        let Some(first) = devices.first().filter(|_| !devices.iter().any(|device| is_apart(device))) else {
            return Err(ClError::INVALID_OPERATION);
        };
        self.backend.create_coarse_memory(host, &first.handle, bytes)
    }

    pub(crate) fn release_shared(&mut self, body: &ReleaseShared) -> Result<(), Fault> {
        reserved(body.reserved)?;
        let id = body.id.get();
        let buffer = self.objects.buffer(id)?;
        let shared = buffer.shared.as_ref().filter(|_| buffer.coarse.is_none());
        let memory = shared.or(buffer.placed.as_ref()).ok_or(Fault::UnknownObject)?;
        memory.tell_when_gone(self.reply(&body.reply)?);
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
            Some(buffer) => state.objects.insert(index, ArgObject::Buffer(buffer)),
            None => state.objects.remove(&index),
        };
        Ok(())
    }

    /// What kernels reach of the guest's own memory must only stay; of the driver's, the driver wants to know.
    pub(crate) fn set_exec_info(&mut self, body: &SetExecInfo, tail: Tail<'_>) -> Result<(), Fault> {
        reserved(body.reserved)?;
        let kernel = self.objects.kernel(body.kernel.get())?;
        let (ids, rest) = tail.data.as_chunks::<4>();
        require(rest.is_empty(), Fault::BadValue)?;
        let mut reaches: Vec<Arc<BufferObject<B>>> = Vec::with_capacity(ids.len());
        for id in ids {
            let buffer = self.objects.buffer(u32::from_le_bytes(*id))?;
            require(same_context(&buffer.context, &kernel.program.context), Fault::BadValue)?;
            require(buffer.shared.is_some() || buffer.host.is_err(), Fault::UnknownObject)?;
            reaches.push(buffer);
        }
        let coarse = coarse_addresses(&reaches);
        let mut state = kernel.state();
        let state = &mut *state;
        let is_known = coarse.is_empty() && !state.reaches.iter().any(|buffer| buffer.coarse.is_some());
        if let Ok(host) = &mut state.host
            && !is_known
            && let Err(error) = self.backend.set_reachable(host, &coarse)
        {
            log::debug!("clSetKernelExecInfo: {error}");
        }
        state.record.reaches = reaches.iter().map(|buffer| buffer.common.serial).collect();
        state.reaches = reaches;
        Ok(())
    }

    fn share_memory(&self, context: &ContextObject<B>) -> bool {
        let shares = |device: &HostDevice<B::Device>| device.limits.memory == MemoryModel::Shared;
        context.devices.iter().all(|device| device.host.as_ref().is_ok_and(shares))
    }
}

/// Where the memory is that a driver has allocated.
pub(super) fn coarse_addresses<B: Backend>(buffers: &[Arc<BufferObject<B>>]) -> Vec<usize> {
    let coarse = buffers.iter().filter(|buffer| buffer.coarse.is_some());
    coarse.filter_map(|buffer| Some(buffer.record.shared?.address as usize)).collect()
}

/// Writes the answer, if it is wanted.
fn tell_address(info: Option<Window>, address: usize) {
    let answer = SharedInfo { address: (address as u64).into() };
    if let Some(info) = info {
        let fits = answer.as_bytes().len().min(info.len());
        let whole = info.write(0, &answer.as_bytes()[..fits]);
        debug_assert!(whole, "cut to what fits");
    }
}
