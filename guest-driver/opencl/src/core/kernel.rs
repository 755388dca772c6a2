//! Kernels and their arguments.

use std::sync::{Arc, Mutex};

use opencl_sys::{
    CL_KERNEL_ATTRIBUTES, CL_KERNEL_COMPILE_WORK_GROUP_SIZE, CL_KERNEL_CONTEXT, CL_KERNEL_FUNCTION_NAME,
    CL_KERNEL_LOCAL_SIZE_FOR_SUB_GROUP_COUNT, CL_KERNEL_NUM_ARGS, CL_KERNEL_PROGRAM,
    CL_KERNEL_REFERENCE_COUNT, CL_KERNEL_WORK_GROUP_SIZE,
};
use paragpu_protocol::command::{
    CloneKernel, CreateKernel, EnqueueKernel, SetArgLocal, SetArgObject, SetArgSvm, SetArgValue, SetExecInfo,
};
use paragpu_protocol::info::InfoKind;
use paragpu_protocol::kernel::{ArgInfo, KernelInfo, MAY_PRINT};
use paragpu_protocol::limits::MAX_KERNEL_ARGS;
use paragpu_protocol::types::{Create, SlotRef};
use zerocopy::{FromBytes, IntoBytes};

use crate::boundary::object::{Kind, Object};
use crate::core::arguments::{Arg, Arguments, Passable, Value};
use crate::core::buffer::Buffer;
use crate::core::connection::Connection;
use crate::core::context::{self, Context};
use crate::core::device::Device;
use crate::core::device_queue::DeviceQueue;
use crate::core::error::{ClError, ClResult};
use crate::core::event::Event;
use crate::core::image::Image;
use crate::core::info::{self, Info};
use crate::core::lock;
use crate::core::pipe::Pipe;
use crate::core::program::{Executable, KernelShare, Program};
use crate::core::query::Question;
use crate::core::queue::{Payload, Queue, Request};
use crate::core::rect::dim3;
use crate::core::sampler::Sampler;
use crate::core::svm::Place;

/// Room for the description of a kernel at first.
const FEW_ARGS_BYTES: usize = 4096;

/// A kernel.
#[derive(Debug)]
pub(crate) struct Kernel {
    id: u32,
    name: String,
    arguments: Arguments,
    may_print: bool,
    executable: Executable,
    /// By what its context calls the device. There are few.
    limits: Mutex<Vec<(u32, Limits)>>,
    // Last: the kernel is released before the program it belongs to.
    share: KernelShare,
}

impl Passable for Object<Buffer> {
    fn id(&self) -> u32 {
        (**self).id()
    }
}

impl Passable for Object<Image> {
    fn id(&self) -> u32 {
        (**self).id()
    }
}

impl Passable for Object<Sampler> {
    fn id(&self) -> u32 {
        (**self).id()
    }
}

impl Passable for Object<Pipe> {
    fn id(&self) -> u32 {
        (**self).id()
    }
}

impl Passable for Object<DeviceQueue> {
    fn id(&self) -> u32 {
        (**self).id()
    }
}

/// What limits the work-group size of a kernel on a device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// `CL_KERNEL_WORK_GROUP_SIZE`.
    pub(crate) work_group_size: u64,
    /// `CL_KERNEL_COMPILE_WORK_GROUP_SIZE`: `reqd_work_group_size`, or zeros.
    pub(crate) required: [u64; 3],
}

/// The index space of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) dims: u32,
    pub(crate) offset: [usize; 3],
    pub(crate) global: [usize; 3],
    /// Nothing if the host may choose.
    pub(crate) local: Option<[usize; 3]>,
}

impl Range {
    /// True if all work-groups have the same size, as far as the application says.
    pub(crate) fn is_uniform(&self) -> bool {
        self.local.is_none_or(|local| (0..3).all(|dim| self.global[dim].is_multiple_of(local[dim])))
    }
}

impl Kind for Kernel {
    const TAG: u32 = u32::from_le_bytes(*b"kern");
    const INVALID: ClError = ClError::INVALID_KERNEL;
}

impl Kernel {
    /// `clCreateKernel`: waits for the host, which alone knows the names and the arguments.
    pub(crate) fn new(program: &Object<Program>, name: &str) -> ClResult<Arc<Object<Kernel>>> {
        program.when_built(|executable| {
            let connection = program.context().connection();
            let Created { id, args, may_print } = create(connection, executable.program, name)?;
            Ok(Object::new(Kernel {
                id,
                name: name.to_owned(),
                may_print,
                executable,
                arguments: Arguments::new(args),
                limits: Mutex::default(),
                share: program.share(),
            }))
        })
    }

    /// The kernel's program.
    pub(crate) fn program(&self) -> &Arc<Object<Program>> {
        self.share.program()
    }

    /// The kernel's context.
    pub(crate) fn context(&self) -> &Arc<Object<Context>> {
        self.program().context()
    }

    fn connection(&self) -> &Connection {
        self.context().connection()
    }

    /// What the host says of argument `index`.
    pub(crate) fn arg(&self, index: u32) -> ClResult<&Arg> {
        // CL_INVALID_ARG_INDEX if arg_index is not a valid argument index.
        self.arguments.get(index).ok_or(ClError::INVALID_ARG_INDEX)
    }

    /// True if the kernel may print.
    pub(crate) fn may_print(&self) -> bool {
        self.may_print
    }

    /// True if every argument is set.
    pub(crate) fn has_all_args(&self) -> bool {
        self.arguments.are_all_set()
    }

    /// Sets an argument to bytes.
    pub(crate) fn set_value(&self, index: u32, bytes: &[u8]) -> ClResult<()> {
        self.arguments.set_value(index, bytes, |must_wait| {
            let connection = self.connection();
            let slot = must_wait.then(|| connection.slot()).transpose()?;
            let reply = slot.as_ref().map_or(SlotRef::NONE, |slot| slot.to_ref());
            self.send_value(index, reply, bytes)?;
            slot.map_or(Ok(()), |slot| connection.wait(&slot).ok().map(|_| ()))
        })
    }

    fn send_value(&self, index: u32, reply: SlotRef, bytes: &[u8]) -> ClResult<()> {
        self.connection().send(
            &SetArgValue { kernel: self.id.into(), index: index.into(), reply },
            &[],
            bytes,
        )
    }

    /// Sets an argument to an object, or to a null pointer.
    pub(crate) fn set_object(&self, index: u32, object: Option<Arc<dyn Passable>>) -> ClResult<()> {
        self.arguments.set(index, Value::Object(object.as_ref().map(Arc::downgrade)), || {
            let body = SetArgObject {
                kernel: self.id.into(),
                index: index.into(),
                object: object.map_or(0, |object| object.id()).into(),
                reserved: 0.into(),
            };
            self.connection().send(&body, &[], &[])
        })
    }

    /// Sets an argument to a pointer into shared memory.
    pub(crate) fn set_pointer(&self, index: u32, place: &Place) -> ClResult<()> {
        let buffer = &place.allocation.buffer;
        self.arguments.set(index, Value::Pointer(Arc::downgrade(buffer), place.offset), || {
            let body = SetArgSvm {
                kernel: self.id.into(),
                index: index.into(),
                object: buffer.id().into(),
                reserved: 0.into(),
                offset: (place.offset as u64).into(),
            };
            self.connection().send(&body, &[], &[])
        })
    }

    /// Says which shared memory the kernel reaches through pointers in memory.
    pub(crate) fn set_reachable(&self, places: &[Place]) -> ClResult<()> {
        let ids: Vec<u8> =
            places.iter().flat_map(|place| place.allocation.buffer.id().to_le_bytes()).collect();
        self.connection().send(&SetExecInfo { kernel: self.id.into(), reserved: 0.into() }, &[], &ids)
    }

    /// Sets the size of a local memory argument.
    pub(crate) fn set_local(&self, index: u32, size: usize) -> ClResult<()> {
        self.arguments.set(index, Value::Local(size), || {
            let body =
                SetArgLocal { kernel: self.id.into(), index: index.into(), size: (size as u64).into() };
            self.connection().send(&body, &[], &[])
        })
    }

    /// `clCloneKernel`: "a shallow copy of the kernel object, its arguments and any information passed to the kernel object
    /// using clSetKernelExecInfo". The host copies them: the application may have released what they name.
    pub(crate) fn duplicate(&self) -> ClResult<Arc<Object<Kernel>>> {
        let id = self.connection().new_id();
        let arguments = self.arguments.duplicate(
            |index, bytes| self.send_value(index, SlotRef::NONE, bytes),
            || self.connection().send(&CloneKernel { create: context::create(id, self.id) }, &[], &[]),
        )?;
        Ok(Object::new(Kernel {
            id,
            name: self.name.clone(),
            arguments,
            may_print: self.may_print,
            executable: self.executable.clone(),
            limits: Mutex::new(lock(&self.limits).clone()),
            share: self.program().share(),
        }))
    }

    /// The devices that have it.
    pub(crate) fn devices(&self) -> &[Arc<Object<Device>>] {
        &self.executable.devices
    }

    /// True if the device has it, or the one that it is a part of.
    pub(crate) fn has_device(&self, device: &Object<Device>) -> bool {
        let is_own = self.devices().iter().any(|own| own.handle() == device.handle());
        is_own || device.parent().is_some_and(|parent| self.has_device(parent))
    }

    /// True if it may only be launched with work-groups of one size: see [`Executable`].
    pub(crate) fn needs_uniform_groups(&self) -> bool {
        self.executable.needs_uniform_groups
    }

    /// `clGetKernelArgInfo`, for an argument that there is.
    pub(crate) fn arg_info(&self, index: u32, param: u32) -> ClResult<Vec<u8>> {
        let answer = self.ask(InfoKind::KernelArg, param, index, &[]);
        // CL_INVALID_VALUE comes first: the host knows the parameters.
        match answer {
            // CL_KERNEL_ARG_INFO_NOT_AVAILABLE if the argument information is not available for kernel. The host's is
            // always compiled with it, which the application need not have asked for.
            Ok(_) if !self.executable.has_arg_info => Err(ClError::KERNEL_ARG_INFO_NOT_AVAILABLE),
            answer => answer,
        }
    }

    /// What limits the work-group size; asked for once per kernel and device.
    pub(crate) fn limits(&self, device: &Object<Device>) -> ClResult<Limits> {
        let reference = self.context().reference(device)?;
        if let Some((_, limits)) = lock(&self.limits).iter().find(|(known, _)| *known == reference) {
            return Ok(*limits);
        }
        let ask = |param| self.ask(InfoKind::KernelWorkGroup, param, reference, &[]);
        let limits = Limits {
            work_group_size: info::number(&ask(CL_KERNEL_WORK_GROUP_SIZE)?).unwrap_or(u64::MAX),
            required: info::number(&ask(CL_KERNEL_COMPILE_WORK_GROUP_SIZE)?).unwrap_or_default(),
        };
        lock(&self.limits).push((reference, limits));
        Ok(limits)
    }

    /// Asks the host about the kernel.
    pub(crate) fn ask(&self, kind: InfoKind, param: u32, index: u32, input: &[u8]) -> ClResult<Vec<u8>> {
        Question { kind, object: self.id, param, index }.ask_with(self.connection(), input)
    }

    /// `clGetKernelSubGroupInfo`, for an application with `size` bytes of room.
    pub(crate) fn sub_group_info(
        &self,
        param: u32,
        device: u32,
        input: &[u8],
        size: usize,
    ) -> ClResult<Vec<u8>> {
        let question = Question { kind: InfoKind::KernelSubGroup, object: self.id, param, index: device };
        if param != CL_KERNEL_LOCAL_SIZE_FOR_SUB_GROUP_COUNT {
            return question.ask_with(self.connection(), input);
        }
        // The room says how many dimensions are asked for, of which there are at most three.
        question.ask_with_room(self.connection(), input, size.min(3 * size_of::<usize>()))
    }

    /// `clGetKernelSuggestedLocalWorkSizeKHR`, for a range that has been checked.
    pub(crate) fn suggested_local_size(&self, queue: &Object<Queue>, range: &Range) -> ClResult<[usize; 3]> {
        let question = Question {
            kind: InfoKind::SuggestedLocalSize,
            object: self.id,
            param: range.dims,
            index: queue.id(),
        };
        let input = [dim3(range.offset), dim3(range.global)];
        let answer = question.ask_with(self.connection(), input.as_bytes())?;
        info::number::<[u64; 3]>(&answer)
            .map(|sizes| sizes.map(|size| size as usize))
            .ok_or(ClError::OUT_OF_RESOURCES)
    }

    /// Posts a launch whose range has been checked.
    pub(crate) fn enqueue(
        &self,
        queue: &Object<Queue>,
        request: &Request<'_>,
        range: Range,
    ) -> ClResult<Option<Arc<Object<Event>>>> {
        self.arguments.send_values(|index, bytes| self.send_value(index, SlotRef::NONE, bytes))?;
        let payload = if self.may_print { Payload::Elsewhere } else { Payload::None };
        let posted = queue.enqueue(request, payload, &[], |enqueue| EnqueueKernel {
            enqueue,
            kernel: self.id.into(),
            dims: range.dims.into(),
            offset: dim3(range.offset),
            global: dim3(range.global),
            local: dim3(range.local.unwrap_or([0; 3])),
        })?;
        if self.may_print
            && let Some(completion) = posted.completion
        {
            queue.connection().will_print(completion);
        }
        Ok(posted.event)
    }
}

impl Object<Kernel> {
    /// `clGetKernelInfo`.
    pub(crate) fn info(&self, param: u32) -> ClResult<Info> {
        Ok(match param {
            CL_KERNEL_FUNCTION_NAME => Info::text(&self.name),
            CL_KERNEL_NUM_ARGS => Info::value(self.arguments.count() as u32),
            CL_KERNEL_REFERENCE_COUNT => Info::value(self.reference_count()),
            CL_KERNEL_CONTEXT => Info::handle(self.context().handle()),
            CL_KERNEL_PROGRAM => Info::handle(self.program().handle()),
            CL_KERNEL_ATTRIBUTES => self.ask(InfoKind::Kernel, param, 0, &[])?.into(),
            // CL_INVALID_VALUE if param_name is not one of the supported values.
            _ => return Err(ClError::INVALID_VALUE),
        })
    }
}

/// A kernel as the host has made it.
struct Created {
    id: u32,
    args: Vec<Arg>,
    may_print: bool,
}

/// Creates a kernel on the host.
fn create(connection: &Connection, program: u32, name: &str) -> ClResult<Created> {
    let mut room = FEW_ARGS_BYTES;
    loop {
        let info = connection.staging(room)?;
        let slot = connection.slot()?;
        let id = connection.new_id();
        let create = Create { reply: slot.to_ref(), ..context::create(id, program) };
        connection.send(&CreateKernel { create, info: info.span() }, &[], name.as_bytes())?;
        // From here on the host knows the id, even if it could not make the kernel. Not before: to release what was
        // never created is a fault.
        let described = connection.wait(&slot).ok().and_then(|outcome| {
            let len = outcome.len as usize;
            if len > room {
                return Ok(None);
            }
            let mut bytes = vec![0; len];
            info.read(0, &mut bytes);
            parse_info(&bytes).map(Some).ok_or(ClError::OUT_OF_RESOURCES)
        });
        if let Ok(Some((args, may_print))) = described {
            return Ok(Created { id, args, may_print });
        }
        connection.release(id);
        described?;
        // It has more arguments than there was room for: it is made again, described in full.
        let most = size_of::<KernelInfo>() + size_of::<ArgInfo>() * MAX_KERNEL_ARGS as usize;
        if room >= most {
            return Err(ClError::OUT_OF_RESOURCES);
        }
        room = most;
    }
}

/// The arguments, and whether the kernel may print, from the answer to `CreateKernel`.
fn parse_info(bytes: &[u8]) -> Option<(Vec<Arg>, bool)> {
    let (info, rest) = KernelInfo::read_from_prefix(bytes).ok()?;
    let count = info.num_args.get().min(MAX_KERNEL_ARGS) as usize;
    let (args, _) = <[ArgInfo]>::ref_from_prefix_with_elems(rest, count).ok()?;
    Some((args.iter().map(Arg::from).collect(), info.flags.get() & MAY_PRINT != 0))
}

impl Drop for Kernel {
    fn drop(&mut self) {
        self.connection().release(self.id);
    }
}

#[cfg(test)]
mod tests {
    use paragpu_protocol::kernel::ArgKind;

    use super::*;

    #[test]
    fn work_groups_are_uniform_if_they_fill_the_index_space_or_the_host_chooses() {
        let range = |global, local| Range { dims: 2, offset: [5, 0, 0], global, local };
        assert!(range([6, 4, 1], None).is_uniform());
        assert!(range([6, 4, 1], Some([3, 4, 1])).is_uniform());
        assert!(!range([6, 4, 1], Some([4, 4, 1])).is_uniform());
        assert!(!range([6, 4, 1], Some([6, 3, 1])).is_uniform());
        assert!(!range([6, 4, 1], Some([0, 4, 1])).is_uniform());
    }

    #[test]
    fn kernel_descriptions_that_are_cut_off_are_refused() {
        let info = KernelInfo { num_args: 2.into(), flags: MAY_PRINT.into() };
        let arg = ArgInfo { kind: ArgKind::Value as u8, size: 4.into(), ..ArgInfo::default() };
        let bytes = [info.as_bytes(), arg.as_bytes(), arg.as_bytes()].concat();
        let parsed = |bytes| parse_info(bytes).map(|(args, may_print)| (args.len(), may_print));
        assert_eq!(parsed(&bytes), Some((2, true)));
        assert_eq!(parsed(&bytes[..bytes.len() - 1]), None);
    }
}
