//! The host's OpenCL as a backend: which platform, and which of its devices.

use std::ffi::CStr;

use super::{Arg, ArgValue, Backend, ClError, DeviceLimits, Linked, Order, Query, Work};
use crate::sys::map::Window;
use crate::sys::opencl::{
    self, Buffer, BuiltIns, Context, Device, Event, Kernel, LoadError, Platform, Program, Queue, platforms,
};

/// Environment variable: part of the name of the platform to use.
const PLATFORM_VARIABLE: &str = "PARAGPU_PLATFORM";

/// `CL_PLATFORM_NAME` of our own guest driver, which must not serve itself.
const OWN_PLATFORM: &str = "paragpu";

const TYPE_GPU: u64 = 1 << 2;
const TYPE_ACCELERATOR: u64 = 1 << 3;

/// Why there is no backend.
#[derive(Debug, thiserror::Error)]
pub enum NoDevice {
    /// The library is missing.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// No platform, or none with a device.
    #[error(
        "no OpenCL platform has a device; install the GPU vendor's OpenCL driver, or \
         pocl-opencl-icd (with ocl-icd-libopencl1) to compute on the CPU"
    )]
    NoPlatform,
    /// None with the name that was asked for.
    #[error(
        "no OpenCL platform with a device has \"{wanted}\" in its name ({PLATFORM_VARIABLE}); there are: {found}"
    )]
    NoSuchPlatform {
        /// What was asked for.
        wanted: String,
        /// The names that there are.
        found: String,
    },
    /// A device does not answer.
    #[error("a device of OpenCL platform \"{platform}\" does not answer: {error}")]
    Device {
        /// Its platform.
        platform: String,
        /// The driver's error.
        error: ClError,
    },
}

/// The devices of one platform.
#[derive(Debug)]
pub struct OpenCl {
    platform: Platform,
    devices: Vec<Device>,
    limits: Vec<DeviceLimits>,
    built_ins: BuiltIns,
}

struct Candidate {
    platform: Platform,
    name: String,
    devices: Vec<Device>,
}

impl OpenCl {
    /// The platform named by [`PLATFORM_VARIABLE`], otherwise the first with a GPU or an accelerator, otherwise
    /// the first with any device.
    pub fn open() -> Result<OpenCl, NoDevice> {
        opencl::load()?;
        let mut candidates: Vec<Candidate> = platforms()
            .unwrap_or_default()
            .into_iter()
            .filter_map(|platform| {
                let name = platform.name().ok()?;
                let devices = platform.devices().ok()?;
                (name != OWN_PLATFORM && !devices.is_empty()).then_some(Candidate { platform, name, devices })
            })
            .collect();
        if candidates.is_empty() {
            return Err(NoDevice::NoPlatform);
        }
        let index = match std::env::var(PLATFORM_VARIABLE).ok().filter(|wanted| !wanted.is_empty()) {
            Some(wanted) => match candidates.iter().position(|candidate| candidate.name.contains(&wanted)) {
                Some(index) => index,
                None => {
                    let found: Vec<&str> = candidates.iter().map(|candidate| &*candidate.name).collect();
                    return Err(NoDevice::NoSuchPlatform { wanted, found: found.join(", ") });
                }
            },
            None => candidates.iter().position(Candidate::has_accelerator).unwrap_or(0),
        };
        let Candidate { platform, name, devices } = candidates.swap_remove(index);
        let limits = devices
            .iter()
            .map(|device| device.limits())
            .collect::<Result<_, _>>()
            .map_err(|error| NoDevice::Device { platform: name, error })?;
        let built_ins = BuiltIns::new(devices.len());
        Ok(OpenCl { platform, devices, limits, built_ins })
    }

    fn pick(&self, indices: &[usize]) -> Result<Vec<Device>, ClError> {
        indices.iter().map(|&index| self.devices.get(index).copied().ok_or(ClError::INVALID_DEVICE)).collect()
    }
}

impl Candidate {
    fn has_accelerator(&self) -> bool {
        self.devices.iter().any(|device| device.kind() & (TYPE_GPU | TYPE_ACCELERATOR) != 0)
    }
}

impl Backend for OpenCl {
    type Context = Context;
    type Queue = Queue;
    type Buffer = Buffer;
    type Program = Program;
    type Kernel = Kernel;
    type Event = Event;

    fn devices(&self) -> &[DeviceLimits] {
        &self.limits
    }

    fn create_context(&self, devices: &[usize]) -> Result<Context, ClError> {
        Context::new(&self.platform, &self.pick(devices)?)
    }

    fn create_queue(&self, context: &Context, device: usize, properties: u64) -> Result<Queue, ClError> {
        let device = self.devices.get(device).copied().ok_or(ClError::INVALID_DEVICE)?;
        Queue::new(context, device, properties)
    }

    fn create_buffer(
        &self,
        context: &Context,
        flags: u64,
        size: usize,
        init: Option<&Window>,
    ) -> Result<Buffer, ClError> {
        match init {
            Some(init) if init.len() == size => Buffer::copy_of(context, flags, init),
            Some(_) => Err(ClError::INVALID_VALUE),
            None => Buffer::zeroed(context, flags, size),
        }
    }

    fn create_sub_buffer(
        &self,
        parent: &Buffer,
        flags: u64,
        origin: usize,
        size: usize,
    ) -> Result<Buffer, ClError> {
        Buffer::sub(parent, flags, origin, size)
    }

    fn create_program(&self, context: &Context, source: &[u8]) -> Result<Program, ClError> {
        Program::with_source(context, source)
    }

    fn create_program_with_il(&self, context: &Context, il: &[u8]) -> Result<Program, ClError> {
        Program::with_il(self.platform, context, il)
    }

    fn create_built_in_program(
        &self,
        context: &Context,
        devices: &[usize],
        names: &CStr,
    ) -> Result<Program, ClError> {
        Program::with_built_in_kernels(context, &self.pick(devices)?, names)
    }

    fn set_spec_constant(&self, program: &Program, id: u32, value: &[u8]) -> Result<(), ClError> {
        program.set_spec_constant(self.platform, id, value)
    }

    fn build(&self, program: &Program, devices: &[usize], options: &CStr) -> Result<(), ClError> {
        program.build(&self.pick(devices)?, options)
    }

    fn compile(
        &self,
        program: &Program,
        devices: &[usize],
        options: &CStr,
        headers: &[(&CStr, &Program)],
    ) -> Result<(), ClError> {
        program.compile(&self.pick(devices)?, options, headers)
    }

    fn link(
        &self,
        context: &Context,
        devices: &[usize],
        options: &CStr,
        inputs: &[&Program],
    ) -> Linked<Program> {
        match self.pick(devices) {
            Ok(devices) => Program::link(self.platform, &self.devices, context, &devices, options, inputs),
            Err(error) => Linked { program: None, outcome: Err(error) },
        }
    }

    fn create_kernel(
        &self,
        program: &Program,
        name: &CStr,
        declared: Option<&[Arg]>,
    ) -> Result<Kernel, ClError> {
        Kernel::new(program, name, declared)
    }

    fn args<'k>(&self, kernel: &'k Kernel) -> &'k [Arg] {
        kernel.args()
    }

    fn set_arg(&self, kernel: &mut Kernel, index: u32, value: ArgValue<'_, Buffer>) -> Result<(), ClError> {
        kernel.set(index, value)
    }

    fn create_user_event(&self, context: &Context) -> Result<Event, ClError> {
        Event::user(context)
    }

    fn set_user_event(&self, event: &Event, status: i32) -> Result<(), ClError> {
        event.set_status(status)
    }

    fn enqueue(
        &self,
        queue: &Queue,
        work: Work<'_, Buffer, Kernel>,
        order: Order<'_, Event>,
    ) -> Result<Option<Event>, ClError> {
        opencl::enqueue(queue, work, order)
    }

    fn flush(&self, queue: &Queue) -> Result<(), ClError> {
        queue.flush()
    }

    fn finish(&self, queue: &Queue) -> Result<(), ClError> {
        queue.finish()
    }

    fn tend(&self) -> bool {
        opencl::tend()
    }

    fn query(&self, query: Query<'_, Program, Kernel>, param: u32) -> Result<Vec<u8>, ClError> {
        if let Query::Device(index) = query
            && BuiltIns::answers(param)
        {
            return self.built_ins.answer(self.platform, &self.devices, index, param);
        }
        opencl::query(self.platform, &self.devices, query, param)
    }
}
