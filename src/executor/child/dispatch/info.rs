//! Questions about the host.

use std::sync::Arc;

use paragpu_protocol::command::GetInfo;
use paragpu_protocol::fault::Fault;
use paragpu_protocol::frame::Tail;
use paragpu_protocol::info::{DEVICE_COUNT, InfoKind};
use paragpu_protocol::limits::{MAX_DEVICES, MAX_INFO_BYTES};
use paragpu_protocol::svm::PLACES;
use paragpu_protocol::types::Dim3;
use zerocopy::FromBytes;

use super::super::backend::{Backend, ClError, Outcome, Query, SubGroupInput};
use super::super::context::Context;
use super::super::objects::{ContextObject, KernelObject, ProgramObject, handle};
use super::super::record::BuildRecord;
use super::launches::{checked_range, ready};
use super::{require, same_context, sizes};
use crate::sys::map::Window;

/// `CL_PROGRAM_BUILD_STATUS`
const BUILD_STATUS: u32 = 0x1181;
/// `CL_PROGRAM_BUILD_LOG`
const BUILD_LOG: u32 = 0x1183;
/// `CL_PROGRAM_BINARY_TYPE`
const BINARY_TYPE: u32 = 0x1184;
/// `CL_BUILD_ERROR`
const BUILD_ERROR: i32 = -2;
/// `CL_PROGRAM_BINARY_TYPE_NONE`
const NO_BINARY: u32 = 0;

/// `CL_PROGRAM_BUILD_OPTIONS`: what the guest gave, not what the host made of it.
const BUILD_OPTIONS: u32 = 0x1182;

/// `CL_DEVICE_MAX_MEM_ALLOC_SIZE`
const MAX_MEM_ALLOC_SIZE: u32 = 0x1010;
/// `CL_DEVICE_GLOBAL_MEM_SIZE`
const GLOBAL_MEM_SIZE: u32 = 0x101f;

impl<B: Backend> Context<B> {
    pub(crate) fn get_info(&mut self, body: &GetInfo, tail: Tail<'_>) -> Result<(), Fault> {
        let dst = if body.dst.is_none() { None } else { Some(self.regions.window(&body.dst)?) };
        let reply = self.reply(&body.reply)?;
        let (object, param, index) = (body.object.get(), body.param.get(), body.index.get());
        let kind = InfoKind::from_wire(body.kind.get());
        if !matches!(kind, Some(InfoKind::KernelSubGroup | InfoKind::SuggestedLocalSize)) {
            require(tail.data.is_empty(), Fault::BadValue)?;
        }
        let answer = match kind.filter(|kind| kind.allows(param)) {
            None => Err(ClError::INVALID_VALUE),
            Some(InfoKind::Platform) => self.backend.query(Query::Platform, param),
            Some(InfoKind::Device) if param == DEVICE_COUNT => {
                let shown = self.backend.devices().len().min(MAX_DEVICES);
                Ok((shown as u32).to_le_bytes().to_vec())
            }
            Some(InfoKind::Device) => {
                let device = self.objects.device(index)?;
                let answer = handle(&device.host)
                    .and_then(|device| self.backend.query(Query::Device(&device.handle), param));
                answer.map(|answer| self.within_quota(param, answer))
            }
            Some(InfoKind::Memory) if param == PLACES => {
                let context = self.objects.context(object)?;
                Ok(u32::from(context.host.is_ok() && self.places(&context)).to_le_bytes().to_vec())
            }
            Some(InfoKind::Memory) => {
                let device = self.objects.device(index)?;
                handle(&device.host).map(|device| (device.limits.memory as u32).to_le_bytes().to_vec())
            }
            Some(InfoKind::DeviceTimers) => {
                let device = self.objects.device(index)?;
                handle(&device.host)
                    .and_then(|device| self.backend.query(Query::DeviceTimers(&device.handle), param))
            }
            Some(InfoKind::SuggestedLocalSize) => {
                self.suggested_local_size(object, index, param, tail.data)?
            }
            Some(kind @ (InfoKind::Program | InfoKind::ProgramBuild)) => {
                let program = self.objects.program(object)?;
                program.idle()?;
                self.program_info(&program, kind, index, param)?
            }
            Some(InfoKind::Image) => {
                let image = self.objects.image(object)?;
                let answer = handle(&image.host).and_then(|host| self.backend.image_info(host, param));
                answer.map(|number| number.to_le_bytes().to_vec())
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

    /// A device has no more memory than the vGPU may have: programs choose their sizes by that.
    fn within_quota(&self, param: u32, answer: Vec<u8>) -> Vec<u8> {
        let bytes = <[u8; 8]>::try_from(&answer[..]).map(u64::from_ne_bytes);
        match (bytes, self.quota.limit()) {
            (Ok(bytes), Some(limit)) if [MAX_MEM_ALLOC_SIZE, GLOBAL_MEM_SIZE].contains(&param) => {
                bytes.min(limit).to_ne_bytes().to_vec()
            }
            _ => answer,
        }
    }

    fn program_info(
        &self,
        program: &Arc<ProgramObject<B>>,
        kind: InfoKind,
        index: u32,
        param: u32,
    ) -> Result<Result<Vec<u8>, ClError>, Fault> {
        if kind == InfoKind::ProgramBuild
            && let Some(build) = program.last_build(&*self.objects.device(index)?)
            && let Some(answer) = ended_build(&build, param)
        {
            return Ok(Ok(answer));
        }
        let host = match program.host() {
            Ok(_) if kind == InfoKind::Program && program.is_ended() => {
                return Ok(Err(ClError::INVALID_PROGRAM_EXECUTABLE));
            }
            Ok(host) => host,
            Err(error) => return Ok(Err(error)),
        };
        if kind == InfoKind::Program {
            return Ok(self.backend.query(Query::Program(&host), param));
        }
        let device = match self.device_of(&program.context, index)? {
            Ok(device) => device,
            Err(error) => return Ok(Err(error)),
        };
        if param == BUILD_OPTIONS {
            let build = program.last_build(&*self.objects.device(index)?);
            let mut options = build.map_or(Vec::new(), |build| build.options);
            options.push(0);
            return Ok(Ok(options));
        }
        Ok(self.backend.query(Query::ProgramBuild(&host, &device), param))
    }

    /// The device, if it is one of the context's.
    fn device_of(
        &self,
        context: &ContextObject<B>,
        reference: u32,
    ) -> Result<Result<B::Device, ClError>, Fault> {
        let device = self.objects.device(reference)?;
        if !context.has_device(&device) {
            return Ok(Err(ClError::INVALID_DEVICE));
        }
        Ok(handle(&device.host).map(|device| device.handle.clone()))
    }

    fn suggested_local_size(
        &self,
        kernel: u32,
        queue: u32,
        dims: u32,
        data: &[u8],
    ) -> Result<Result<Vec<u8>, ClError>, Fault> {
        let (kernel, queue) = (self.objects.kernel(kernel)?, self.objects.queue(queue)?);
        let [offset, global] = <[Dim3; 2]>::read_from_bytes(data).map_err(|_size| Fault::BadValue)?;
        let range = checked_range(dims, sizes(&offset)?, sizes(&global)?, [0; 3])?;
        let state = kernel.state();
        let suggested = handle(&queue.device.host).and_then(|device| {
            let ready = ready(&kernel, &state, &range, &device.limits)?;
            if !same_context(&kernel.program.context, &queue.context) {
                return Err(ClError::INVALID_CONTEXT);
            }
            self.backend.suggest_local_size(handle(&queue.host)?, ready, &range)
        });
        let words = |sizes: [usize; 3]| sizes.map(|size| (size as u64).to_le_bytes()).concat();
        Ok(suggested.map(words))
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
        if kind == InfoKind::KernelArg && index as usize >= kernel.args.len() {
            return Ok(Err(ClError::INVALID_ARG_INDEX));
        }
        if !matches!(kind, InfoKind::KernelWorkGroup | InfoKind::KernelSubGroup) {
            let of_arg = kind == InfoKind::KernelArg;
            let query = if of_arg { Query::KernelArg(host, index) } else { Query::Kernel(host) };
            return Ok(self.backend.query(query, param));
        }
        let device = match self.device_of(&kernel.program.context, index)? {
            Ok(device) => device,
            Err(error) => return Ok(Err(error)),
        };
        let query = match kind {
            InfoKind::KernelWorkGroup => Query::KernelWorkGroup(host, &device),
            _ => Query::KernelSubGroup(host, &device, input),
        };
        Ok(self.backend.query(query, param))
    }
}

/// What there is to say of a build that the host's driver does not know of.
fn ended_build(build: &BuildRecord, param: u32) -> Option<Vec<u8>> {
    let reason = build.ended.as_ref()?;
    match param {
        BUILD_STATUS => Some(BUILD_ERROR.to_le_bytes().to_vec()),
        BUILD_LOG => Some(format!("paragpu: {reason}\0").into_bytes()),
        BINARY_TYPE => Some(NO_BINARY.to_le_bytes().to_vec()),
        _ => None,
    }
}
