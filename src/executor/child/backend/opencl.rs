//! The host's OpenCL as a backend: which platform, and which of its devices.

use std::ffi::CStr;

use paragpu_protocol::image::{ImageFormat, ImageType};

use super::{
    Arg, Backend, ClError, HostDevice, ImageBase, ImageSpec, Keep, Linked, MemoryModel, NdRange, Order,
    Partition, Query, QueueHints, SamplerSpec, StartWatch, Started, Work,
};
use crate::executor::devices::{DeviceChoice, HostDeviceInfo};
use crate::sys::map::Window;
use crate::sys::opencl::{
    self, Buffer, BuiltIns, CoarseMemory, Context, Device, DeviceQueue, Event, HostArg, Image, Kernel,
    LoadError, Partitions, Pipe, Platform, Program, Queue, Sampler, platforms,
};

/// Environment variable: part of the name of the platform to use.
const PLATFORM_VARIABLE: &str = "PARAGPU_PLATFORM";

/// Environment variable: `no` has devices that share memory with the host taken for ones with memory of their own.
const SHARE_VARIABLE: &str = "PARAGPU_SHARE_MEMORY";

/// `CL_PLATFORM_NAME` of our own guest driver, which must not serve itself.
const OWN_PLATFORM: &str = "paragpu";

/// `CL_PLATFORM_NAME` of PoCL, whose kernels print while they run.
const POCL_PLATFORM: &str = "Portable Computing Language";
/// `CL_MEM_READ_WRITE`, `WRITE_ONLY`, `READ_ONLY`. What the guest's application may do with memory is the guest's
/// driver's affair, which must itself reach all of it: for native kernels, for maps, and for whatever moves a buffer.
const KERNEL_ACCESS: u64 = 0b111;

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
    /// What was chosen is not there.
    #[error("{wanted} is not there any more; start paragpud again to look for what is")]
    Gone {
        /// What it was.
        wanted: String,
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
    devices: Vec<HostDevice<Device>>,
    partitions: Partitions,
    /// Kernels print while they run, not when a program synchronises with the device.
    prints_at_once: bool,
    built_ins: BuiltIns,
}

struct Candidate {
    platform: Platform,
    name: String,
    devices: Vec<Device>,
}

impl OpenCl {
    /// The devices that were chosen, in that order; without a choice, those of the default platform.
    pub fn open(choices: &[DeviceChoice]) -> Result<OpenCl, NoDevice> {
        let mut candidates = candidates()?;
        let index = match choices.first() {
            None => default_platform(&candidates)?,
            Some(first) => {
                let named = candidates.iter().position(|candidate| candidate.name == first.platform);
                named.ok_or_else(|| NoDevice::Gone { wanted: first.platform.clone() })?
            }
        };
        let Candidate { platform, name, devices } = candidates.swap_remove(index);
        let prints_at_once = name == POCL_PLATFORM;
        let devices = if choices.is_empty() {
            devices
        } else {
            choices.iter().map(|choice| chosen(&name, &devices, choice)).collect::<Result<_, _>>()?
        };
        let devices = devices
            .into_iter()
            .map(known)
            .collect::<Result<_, _>>()
            .map_err(|error| NoDevice::Device { platform: name, error })?;
        let (partitions, built_ins) = (Partitions::default(), BuiltIns::default());
        Ok(OpenCl { platform, devices, partitions, prints_at_once, built_ins })
    }

    /// Its platform's name; empty if it does not say.
    pub fn platform_name(&self) -> String {
        self.platform.name().unwrap_or_default()
    }

    /// What the host has, of all platforms.
    pub fn probe() -> Result<Vec<HostDeviceInfo>, NoDevice> {
        let candidates = candidates()?;
        let default = default_platform(&candidates)?;
        let mut found = Vec::new();
        for (number, candidate) in candidates.iter().enumerate() {
            for (index, device) in candidate.devices.iter().enumerate() {
                match device.summary() {
                    Ok((name, memory_bytes, compute_units)) => found.push(HostDeviceInfo {
                        platform: candidate.name.clone(),
                        index: index as u32,
                        name,
                        memory_bytes,
                        compute_units,
                        is_default: number == default,
                    }),
                    Err(error) => {
                        log::warn!("a device of OpenCL platform {} does not answer: {error}", candidate.name)
                    }
                }
            }
        }
        Ok(found)
    }
}

/// The platforms that can be shared.
fn candidates() -> Result<Vec<Candidate>, NoDevice> {
    opencl::load()?;
    let candidates: Vec<Candidate> = platforms()
        .unwrap_or_default()
        .into_iter()
        .filter_map(|platform| {
            let name = platform.name().ok()?;
            let devices = platform.devices().ok()?;
            (name != OWN_PLATFORM && !devices.is_empty()).then_some(Candidate { platform, name, devices })
        })
        .collect();
    if candidates.is_empty() { Err(NoDevice::NoPlatform) } else { Ok(candidates) }
}

/// The platform named by [`PLATFORM_VARIABLE`], otherwise the first with a GPU or an accelerator, otherwise the first with
/// any device.
fn default_platform(candidates: &[Candidate]) -> Result<usize, NoDevice> {
    let Some(wanted) = std::env::var(PLATFORM_VARIABLE).ok().filter(|wanted| !wanted.is_empty()) else {
        return Ok(candidates.iter().position(Candidate::has_accelerator).unwrap_or(0));
    };
    candidates.iter().position(|candidate| candidate.name.contains(&wanted)).ok_or_else(|| {
        let found: Vec<&str> = candidates.iter().map(|candidate| &*candidate.name).collect();
        NoDevice::NoSuchPlatform { wanted, found: found.join(", ") }
    })
}

/// A device, or the part of it, that was chosen.
fn chosen(platform: &str, devices: &[Device], choice: &DeviceChoice) -> Result<Device, NoDevice> {
    let gone = || NoDevice::Gone { wanted: format!("device {} of {}", choice.index, choice.platform) };
    let device =
        devices.get(choice.index as usize).filter(|_| choice.platform == platform).ok_or_else(gone)?;
    let Some(part) = &choice.part else { return Ok(device.clone()) };
    let parts = device.divide(&Partition::ByCounts(part.units.clone()), part.units.len());
    let parts = parts.map_err(|error| NoDevice::Device { platform: platform.to_owned(), error })?;
    parts.into_iter().nth(part.index as usize).ok_or_else(gone)
}

/// A device with what the host decides by.
fn known(device: Device) -> Result<HostDevice<Device>, ClError> {
    let mut device = device.with_limits()?;
    let apart = std::env::var_os(SHARE_VARIABLE).is_some_and(|value| value == "no");
    if apart && device.limits.memory == MemoryModel::Shared {
        device.limits.memory = MemoryModel::Coarse;
    }
    Ok(device)
}

impl Candidate {
    fn has_accelerator(&self) -> bool {
        self.devices.iter().any(|device| device.kind() & (TYPE_GPU | TYPE_ACCELERATOR) != 0)
    }
}

impl Backend for OpenCl {
    type Device = Device;
    type Coarse = CoarseMemory;
    type Context = Context;
    type Queue = Queue;
    type Buffer = Buffer;
    type Image = Image;
    type Sampler = Sampler;
    type Pipe = Pipe;
    type DeviceQueue = DeviceQueue;
    type Program = Program;
    type Kernel = Kernel;
    type Event = Event;

    fn devices(&self) -> &[HostDevice<Device>] {
        &self.devices
    }

    fn count_sub_devices(&self, parent: &Device, partition: &Partition) -> Result<usize, ClError> {
        parent.count_parts(partition)
    }

    fn create_sub_devices(
        &self,
        parent: &Device,
        partition: &Partition,
        count: usize,
    ) -> Result<Vec<HostDevice<Device>>, ClError> {
        self.partitions.divide(parent, partition, count)?.into_iter().map(known).collect()
    }

    fn create_context(&self, devices: &[&Device]) -> Result<Context, ClError> {
        Context::new(&self.platform, devices)
    }

    fn create_queue(
        &self,
        context: &Context,
        device: &Device,
        properties: u64,
        hints: QueueHints,
    ) -> Result<Queue, ClError> {
        if hints != QueueHints::default() {
            match Queue::with_hints(context, device, properties, hints) {
                Err(error) => log::debug!("a queue without its hints: {error}"),
                queue => return queue,
            }
        }
        Queue::new(context, device, properties)
    }

    fn create_buffer(
        &self,
        context: &Context,
        flags: u64,
        size: usize,
        init: Option<&Window>,
    ) -> Result<Buffer, ClError> {
        let flags = flags & KERNEL_ACCESS;
        match init {
            Some(init) if init.len() == size => Buffer::copy_of(context, flags, init),
            Some(_) => Err(ClError::INVALID_VALUE),
            None => Buffer::zeroed(context, flags, size),
        }
    }

    fn create_shared_buffer(
        &self,
        context: &Context,
        flags: u64,
        memory: Window,
        keep: Keep,
    ) -> Result<Buffer, ClError> {
        Buffer::over(context, flags, memory, keep)
    }

    fn create_coarse_memory(
        &self,
        context: &Context,
        device: &Device,
        size: usize,
    ) -> Result<(CoarseMemory, usize), ClError> {
        let queue = Queue::new(context, device, 0)?;
        let memory = CoarseMemory::new(context, &queue, size)?;
        let address = memory.address();
        Ok((memory, address))
    }

    fn create_coarse_buffer(
        &self,
        context: &Context,
        flags: u64,
        bytes: (&CoarseMemory, usize, usize),
        keep: Keep,
    ) -> Result<Buffer, ClError> {
        Buffer::in_coarse(context, flags & KERNEL_ACCESS, bytes, keep)
    }

    fn create_sub_buffer(
        &self,
        parent: &Buffer,
        flags: u64,
        origin: usize,
        size: usize,
    ) -> Result<Buffer, ClError> {
        Buffer::sub(parent, flags & KERNEL_ACCESS, origin, size)
    }

    fn image_formats(
        &self,
        context: &Context,
        flags: u64,
        kind: ImageType,
    ) -> Result<Vec<ImageFormat>, ClError> {
        opencl::image_formats(context, flags, kind)
    }

    fn create_image(
        &self,
        context: &Context,
        spec: &ImageSpec,
        base: ImageBase<'_, Buffer, Image>,
    ) -> Result<Image, ClError> {
        Image::new(context, &ImageSpec { flags: spec.flags & KERNEL_ACCESS, ..*spec }, base)
    }

    fn image_info(&self, image: &Image, param: u32) -> Result<u64, ClError> {
        image.info(param)
    }

    fn create_sampler(&self, context: &Context, spec: SamplerSpec) -> Result<Sampler, ClError> {
        Sampler::new(context, spec)
    }

    fn create_pipe(&self, context: &Context, packet_size: u32, max_packets: u32) -> Result<Pipe, ClError> {
        Pipe::new(self.platform, context, packet_size, max_packets)
    }

    fn create_device_queue(
        &self,
        context: &Context,
        device: &Device,
        properties: u64,
        size: Option<u32>,
    ) -> Result<DeviceQueue, ClError> {
        DeviceQueue::new(context, device, properties, size)
    }

    fn set_default_queue(
        &self,
        context: &Context,
        device: &Device,
        queue: &DeviceQueue,
    ) -> Result<(), ClError> {
        queue.make_default(context, device)
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
        devices: &[&Device],
        names: &CStr,
    ) -> Result<Program, ClError> {
        Program::with_built_in_kernels(context, devices, names)
    }

    fn set_spec_constant(&self, program: &Program, id: u32, value: &[u8]) -> Result<(), ClError> {
        program.set_spec_constant(self.platform, id, value)
    }

    fn build(&self, program: &Program, devices: &[&Device], options: &CStr) -> Result<(), ClError> {
        program.build(devices, options)
    }

    fn compile(
        &self,
        program: &Program,
        devices: &[&Device],
        options: &CStr,
        headers: &[(&CStr, &Program)],
    ) -> Result<(), ClError> {
        program.compile(devices, options, headers)
    }

    fn link(
        &self,
        context: &Context,
        devices: &[&Device],
        options: &CStr,
        inputs: &[&Program],
    ) -> Linked<Program> {
        Program::link(self.platform, context, devices, options, inputs)
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

    fn set_arg(&self, kernel: &mut Kernel, index: u32, value: HostArg<'_>) -> Result<(), ClError> {
        kernel.set(index, value)
    }

    fn set_reachable(&self, kernel: &mut Kernel, addresses: &[usize]) -> Result<(), ClError> {
        kernel.set_reachable(addresses)
    }

    fn create_user_event(&self, context: &Context) -> Result<Event, ClError> {
        Event::user(context)
    }

    fn set_user_event(&self, event: &Event, status: i32) -> Result<(), ClError> {
        event.set_status(status)
    }

    fn watch_start(&self, event: &Event, started: Started) -> StartWatch {
        opencl::watch_start(event, started)
    }

    fn enqueue(
        &self,
        queue: &Queue,
        work: Work<'_, Buffer, Image, Kernel>,
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

    fn settle_print(&self, context: &Context, device: &Device) {
        if self.prints_at_once {
            return;
        }
        // A queue of its own, because the guest's may wait for the guest.
        let settled = self.create_queue(context, device, 0, QueueHints::default()).and_then(|queue| {
            let order = Order { wait: &[], event: false, profile: false, done: None };
            opencl::enqueue(&queue, Work::Marker, order)?;
            queue.finish()
        });
        if let Err(error) = settled {
            log::debug!("making the driver print: {error}");
        }
    }

    fn tend(&self) -> bool {
        opencl::tend()
    }

    fn suggest_local_size(
        &self,
        queue: &Queue,
        kernel: &Kernel,
        range: &NdRange,
    ) -> Result<[usize; 3], ClError> {
        opencl::suggest_local_size(self.platform, queue, kernel, range)
    }

    fn query(&self, query: Query<'_, Device, Program, Kernel>, param: u32) -> Result<Vec<u8>, ClError> {
        if let Query::Device(device) = query
            && BuiltIns::answers(param)
        {
            return self.built_ins.answer(self.platform, device, param);
        }
        opencl::query(self.platform, query, param)
    }
}
