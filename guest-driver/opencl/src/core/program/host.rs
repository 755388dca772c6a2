//! Programs on the host: the commands that make them, and what is made of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use opencl_sys::CL_PROGRAM_BUILD_LOG;
use paragpu_protocol::command::{
    Body, BuildProgram, CompileProgram, CreateBuiltInProgram, CreateProgram, CreateProgramWithIl,
    LinkProgram, SetSpecConstant,
};
use paragpu_protocol::info::InfoKind;
use paragpu_protocol::limits::{MAX_BUILD_LIST_BYTES, MAX_INLINE_BYTES, MAX_SOURCE_BYTES};
use paragpu_protocol::types::{Create, SlotRef, Span};

use crate::core::connection::Connection;
use crate::core::context::{self, Context};
use crate::core::error::{ClError, ClResult};
use crate::core::query::Question;
use crate::core::slots::Slot;
use crate::core::staging::Staging;

/// A program that the host has; released when dropped. What the host makes of others with it, it keeps.
#[derive(Debug)]
pub(super) struct HostProgram {
    connection: Arc<Connection>,
    id: u32,
}

/// A command that makes something of a program, and that the host is at.
#[derive(Debug)]
pub(super) struct Making {
    connection: Arc<Connection>,
    // Taken only in `drop`.
    slot: Option<Slot>,
    /// What the host reads until it is done.
    staging: Option<Staging>,
}

impl Making {
    fn new(connection: &Arc<Connection>, slot: Slot, staging: Option<Staging>) -> Making {
        Making { connection: connection.clone(), slot: Some(slot), staging }
    }

    fn slot(&self) -> &Slot {
        self.slot.as_ref().expect("only drop takes the slot")
    }

    fn reply(&self) -> SlotRef {
        self.slot().to_ref()
    }

    fn span(&self) -> Span {
        self.staging.as_ref().map_or(Span::NONE, Staging::span)
    }

    /// Waits for the outcome.
    pub(super) fn wait(self) -> ClResult<()> {
        self.connection.wait(self.slot()).ok().map(|_| ())
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            self.connection.retire(slot, self.staging.take());
        }
    }
}

/// What does not fit into a frame.
fn stage(connection: &Connection, data: &[u8], most: u64) -> ClResult<Option<Staging>> {
    if data.len() as u64 > most {
        return Err(ClError::OUT_OF_RESOURCES);
    }
    if data.len() <= MAX_INLINE_BYTES as usize {
        return Ok(None);
    }
    let mut staging = connection.staging(data.len())?;
    staging.write(0, data);
    Ok(Some(staging))
}

fn list(numbers: impl IntoIterator<Item = u32>) -> Vec<u8> {
    numbers.into_iter().flat_map(u32::to_le_bytes).collect()
}

impl HostProgram {
    /// Sends the command that creates a program.
    fn create<B: Body>(
        context: &Context,
        data: &[u8],
        body: impl FnOnce(Create) -> B,
    ) -> ClResult<HostProgram> {
        let connection = context.connection().clone();
        let id = connection.new_id();
        connection.send(&body(context::create(id, context.id())), &[], data)?;
        Ok(HostProgram { connection, id })
    }

    /// A program of a text. Posted: where it fails, whatever is done with it does.
    pub(super) fn with_source(context: &Context, source: &[u8]) -> ClResult<HostProgram> {
        let connection = context.connection();
        let Some(staging) = stage(connection, source, MAX_SOURCE_BYTES)? else {
            return HostProgram::create(context, source, |create| CreateProgram {
                create,
                source: Span::NONE,
            });
        };
        let making = Making::new(connection, connection.slot()?, Some(staging));
        HostProgram::create(context, &[], |create| CreateProgram {
            create: Create { reply: making.reply(), ..create },
            source: making.span(),
        })
    }

    /// A program of a SPIR-V module, with specialization constants.
    pub(super) fn with_il(
        context: &Context,
        module: &[u8],
        constants: &BTreeMap<u32, Vec<u8>>,
    ) -> ClResult<HostProgram> {
        let connection = context.connection();
        let staging = stage(connection, module, MAX_SOURCE_BYTES)?;
        let data = if staging.is_some() { &[] } else { module };
        let making = Making::new(connection, connection.slot()?, staging);
        let program = HostProgram::create(context, data, |create| CreateProgramWithIl {
            create: Create { reply: making.reply(), ..create },
            il: making.span(),
        })?;
        making.wait()?;
        constants.iter().try_for_each(|(id, value)| program.set_constant(*id, value))?;
        Ok(program)
    }

    /// A program of built-in kernels of devices.
    pub(super) fn with_built_in_kernels(
        context: &Context,
        devices: &[u32],
        names: &[u8],
    ) -> ClResult<HostProgram> {
        let connection = context.connection();
        let data = [&list(devices.iter().copied()), names].concat();
        if data.len() > MAX_INLINE_BYTES as usize {
            return Err(ClError::OUT_OF_RESOURCES);
        }
        let making = Making::new(connection, connection.slot()?, None);
        let program = HostProgram::create(context, &data, |create| CreateBuiltInProgram {
            create: Create { reply: making.reply(), ..create },
            device_count: (devices.len() as u32).into(),
            reserved: 0.into(),
        })?;
        making.wait()?;
        Ok(program)
    }

    /// A program that is linked of others for devices of the context.
    pub(super) fn linked(
        context: &Context,
        devices: &[u32],
        options: &[u8],
        inputs: &[Arc<HostProgram>],
    ) -> ClResult<(HostProgram, Making)> {
        let connection = context.connection();
        let ids = inputs.iter().map(|input| input.id);
        let data = [&list(devices.iter().copied().chain(ids)), options].concat();
        let staging = stage(connection, &data, MAX_BUILD_LIST_BYTES)?;
        let inline = if staging.is_some() { &[] } else { &data[..] };
        let making = Making::new(connection, connection.slot()?, staging);
        let program = HostProgram::create(context, inline, |create| LinkProgram {
            create: Create { reply: making.reply(), ..create },
            device_count: (devices.len() as u32).into(),
            input_count: (inputs.len() as u32).into(),
            list: making.span(),
        })?;
        Ok((program, making))
    }

    /// What the host calls it.
    pub(super) fn id(&self) -> u32 {
        self.id
    }

    fn making(&self, staging: Option<Staging>) -> ClResult<Making> {
        Ok(Making::new(&self.connection, self.connection.slot()?, staging))
    }

    /// Sets a specialization constant.
    pub(super) fn set_constant(&self, id: u32, value: &[u8]) -> ClResult<()> {
        let making = self.making(None)?;
        let body = SetSpecConstant { program: self.id.into(), spec_id: id.into(), reply: making.reply() };
        self.connection.send(&body, &[], value)?;
        making.wait()
    }

    /// Builds it for devices of the context.
    pub(super) fn build(&self, devices: &[u32], options: &[u8]) -> ClResult<Making> {
        let data = [&list(devices.iter().copied()), options].concat();
        if data.len() > MAX_INLINE_BYTES as usize {
            return Err(ClError::OUT_OF_RESOURCES);
        }
        let making = self.making(None)?;
        let body = BuildProgram {
            program: self.id.into(),
            device_count: (devices.len() as u32).into(),
            reply: making.reply(),
        };
        self.connection.send(&body, &[], &data)?;
        Ok(making)
    }

    /// Compiles it for devices of the context, with headers by their names.
    pub(super) fn compile(
        &self,
        devices: &[u32],
        options: &[u8],
        headers: &[(&[u8], HostProgram)],
    ) -> ClResult<Making> {
        let pairs = headers.iter().flat_map(|(name, program)| [program.id, name.len() as u32]);
        let mut data = list(devices.iter().copied().chain(pairs));
        headers.iter().for_each(|(name, _)| data.extend_from_slice(name));
        data.extend_from_slice(options);
        let staging = stage(&self.connection, &data, MAX_BUILD_LIST_BYTES)?;
        let inline = if staging.is_some() { &[] } else { &data[..] };
        let making = self.making(staging)?;
        let body = CompileProgram {
            program: self.id.into(),
            device_count: (devices.len() as u32).into(),
            header_count: (headers.len() as u32).into(),
            reserved: 0.into(),
            list: making.span(),
            reply: making.reply(),
        };
        self.connection.send(&body, &[], inline)?;
        Ok(making)
    }

    /// The log of what was last made of it for a device.
    pub(super) fn log(&self, device: u32) -> ClResult<Vec<u8>> {
        self.ask(InfoKind::ProgramBuild, CL_PROGRAM_BUILD_LOG, device)
    }

    /// Asks the host about it.
    pub(super) fn ask(&self, kind: InfoKind, param: u32, device: u32) -> ClResult<Vec<u8>> {
        Question { kind, object: self.id, param, index: device }.ask(&self.connection)
    }
}

impl Drop for HostProgram {
    fn drop(&mut self) {
        self.connection.release(self.id);
    }
}
