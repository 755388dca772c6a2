//! Questions about the host.

use std::sync::Arc;

use paragpu_protocol::command::GetInfo;
use paragpu_protocol::fault::Fault;
use paragpu_protocol::frame::Tail;
use paragpu_protocol::info::{DEVICE_COUNT, InfoKind};
use paragpu_protocol::limits::MAX_INFO_BYTES;

use super::super::backend::{Backend, ClError, Outcome, Query, SubGroupInput};
use super::super::context::Context;
use super::super::objects::{KernelObject, ProgramObject};
use super::require;
use crate::sys::map::Window;

/// `CL_PROGRAM_BUILD_OPTIONS`: what the guest gave, not what the host made of it.
const BUILD_OPTIONS: u32 = 0x1182;

impl<B: Backend> Context<B> {
    pub(crate) fn get_info(&mut self, body: &GetInfo, tail: Tail<'_>) -> Result<(), Fault> {
        let dst = if body.dst.is_none() { None } else { Some(self.regions.window(&body.dst)?) };
        let reply = self.reply(&body.reply)?;
        let (object, param, index) = (body.object.get(), body.param.get(), body.index.get());
        let kind = InfoKind::from_wire(body.kind.get());
        if kind != Some(InfoKind::KernelSubGroup) {
            require(tail.data.is_empty(), Fault::BadValue)?;
        }
        let answer = match kind.filter(|kind| kind.allows(param)) {
            None => Err(ClError::INVALID_VALUE),
            Some(InfoKind::Platform) => self.backend.query(Query::Platform, param),
            Some(InfoKind::Device) if param == DEVICE_COUNT => {
                Ok((self.backend.devices().len() as u32).to_le_bytes().to_vec())
            }
            Some(InfoKind::Device) => self.backend.query(Query::Device(index as usize), param),
            Some(kind @ (InfoKind::Program | InfoKind::ProgramBuild)) => {
                let program = self.objects.program(object)?;
                program.idle()?;
                self.program_info(&program, kind, index, param)
            }
            Some(kind) => {
                let kernel = self.objects.kernel(object)?;
                let room = dst.as_ref().map_or(0, Window::len);
                self.kernel_info(&kernel, kind, index, param, SubGroupInput { value: tail.data, room })?
            }
        };
        let answer = answer.and_then(|answer| {
            if answer.len() > MAX_INFO_BYTES { Err(ClError::OUT_OF_HOST_MEMORY) } else { Ok(answer) }
        });
        match answer {
            Ok(answer) => {
                if let Some(dst) = dst {
                    let whole = dst.write(0, &answer[..answer.len().min(dst.len())]);
                    debug_assert!(whole, "cut to what fits");
                }
                reply.complete(Outcome::SUCCESS, answer.len() as u32);
            }
            Err(error) => reply.status(Err(error)),
        }
        Ok(())
    }

    fn program_info(
        &self,
        program: &Arc<ProgramObject<B>>,
        kind: InfoKind,
        index: u32,
        param: u32,
    ) -> Result<Vec<u8>, ClError> {
        let host = program.host()?;
        if kind == InfoKind::Program {
            return self.backend.query(Query::Program(host), param);
        }
        let device = index as usize;
        if !program.context.record.devices.contains(&device) {
            return Err(ClError::INVALID_DEVICE);
        }
        if param == BUILD_OPTIONS {
            let mut options = program.options(device).unwrap_or_default();
            options.push(0);
            return Ok(options);
        }
        self.backend.query(Query::ProgramBuild(host, device), param)
    }

    fn kernel_info(
        &self,
        kernel: &KernelObject<B>,
        kind: InfoKind,
        index: u32,
        param: u32,
        input: SubGroupInput<'_>,
    ) -> Result<Result<Vec<u8>, ClError>, Fault> {
        // The input is an array of `size_t`, one for each of at most three dimensions.
        let len = input.value.len();
        require(len.is_multiple_of(size_of::<u64>()) && len <= 24, Fault::BadValue)?;
        let state = kernel.state();
        let host = match &state.host {
            Ok(host) => host,
            Err(error) => return Ok(Err(*error)),
        };
        let device = index as usize;
        let query = match kind {
            InfoKind::KernelWorkGroup => Query::KernelWorkGroup(host, device),
            InfoKind::KernelArg => Query::KernelArg(host, index),
            InfoKind::KernelSubGroup => Query::KernelSubGroup(host, device, input),
            _ => Query::Kernel(host),
        };
        let of_device = matches!(kind, InfoKind::KernelWorkGroup | InfoKind::KernelSubGroup);
        if of_device && !kernel.program.context.record.devices.contains(&device) {
            return Ok(Err(ClError::INVALID_DEVICE));
        }
        if kind == InfoKind::KernelArg && index as usize >= kernel.args.len() {
            return Ok(Err(ClError::INVALID_ARG_INDEX));
        }
        Ok(self.backend.query(query, param))
    }
}
