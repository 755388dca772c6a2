//! No device: buffers are host memory, transfers are real, kernels do nothing, everything completes at once.
//! For tests and fuzzers.
//!
//! A user event is the one thing that does not complete by itself. A command that waits for an open one is not
//! held back here: it runs, and completes, at once.

use std::ffi::CStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use paragpu_protocol::image::{ImageFormat, ImageType};
use paragpu_protocol::kernel::{ACCESS_READ, ArgKind};

use super::null_buffer::{MAX_ALLOC, NullBuffer, move_bytes, rows, write_rect};
use super::null_image::{self, NullImage};
use super::traps;
use super::{
    Arg, ArgValue, ArgValueOf, Backend, ClError, DeviceLimits, HostBytes, HostDevice, ImageBase, ImageSpec,
    Keep, Linked, MemoryModel, NdRange, Order, Outcome, Partition, Query, QueueHints, SamplerSpec,
    StartWatch, Started, Work,
};
use crate::sys::map::Window;

/// Name of a kernel that every built program has, beside those in its text. Its arguments: a value of 4 bytes, a
/// value of unknown size, a buffer, local memory, an image, a sampler, a pipe, a queue on the device.
pub const KERNEL_NAME: &str = "k";

/// A program with this text has a variable that its kernels share.
pub const WITH_VARIABLE: &[u8] = b"global int variable;";

/// A program with this text does not build.
pub const BAD_SOURCE: &[u8] = b"error";

/// Compute units of a device.
const COMPUTE_UNITS: u32 = 8;

/// The backend.
#[derive(Debug)]
pub struct Null {
    devices: Vec<HostDevice<NullDevice>>,
    clock: AtomicU64,
    builds: AtomicU64,
    has_traps: bool,
}

/// A device: some compute units.
#[derive(Clone, Copy, Debug)]
pub struct NullDevice {
    units: u32,
}

impl NullDevice {
    fn with_limits(self) -> HostDevice<NullDevice> {
        let limits = DeviceLimits {
            name: "null".to_owned(),
            max_alloc: MAX_ALLOC,
            local_memory: 32 * 1024,
            max_work_group: 1024,
            max_work_items: [1024, 1024, 64],
            images: Some(null_image::LIMITS),
            memory: MemoryModel::Shared,
        };
        HostDevice { handle: self, limits }
    }

    /// The compute units of each part.
    fn parts(self, partition: &Partition) -> Result<Vec<u32>, ClError> {
        match partition {
            Partition::Equally(units) if (1..=self.units).contains(units) => {
                Ok(vec![*units; (self.units / units) as usize])
            }
            Partition::ByCounts(counts) => {
                let sum = counts.iter().try_fold(0_u32, |sum, count| sum.checked_add(*count));
                let fits = sum.is_some_and(|sum| sum <= self.units);
                if fits { Ok(counts.clone()) } else { Err(ClError::INVALID_PARTITION_COUNT) }
            }
            // All that it has is one cache.
            Partition::ByAffinityDomain(_) => Ok(vec![self.units]),
            Partition::Equally(_) => Err(ClError::INVALID_VALUE),
        }
    }
}

impl Null {
    /// With that many devices.
    pub fn new(devices: usize) -> Null {
        let device = NullDevice { units: COMPUTE_UNITS }.with_limits();
        Null {
            devices: vec![device; devices],
            clock: AtomicU64::new(1),
            builds: AtomicU64::new(0),
            has_traps: false,
        }
    }

    /// With that many devices, whose compiler falls into [`traps`].
    pub fn with_traps(devices: usize) -> Null {
        Null { has_traps: true, ..Null::new(devices) }
    }

    /// How many builds there were, and compilations.
    pub fn builds(&self) -> u64 {
        self.builds.load(Ordering::Relaxed)
    }

    fn compiles(&self, program: &NullProgram) -> Result<(), ClError> {
        self.builds.fetch_add(1, Ordering::Relaxed);
        if self.has_traps {
            traps::spring(&program.source);
        }
        program.compiled()
    }

    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed)
    }
}

/// A program: its text, and whether it is built.
#[derive(Clone, Debug)]
pub struct NullProgram {
    source: Arc<Vec<u8>>,
    status: Arc<AtomicI32>,
}

/// `CL_PROGRAM_BUILD_GLOBAL_VARIABLE_TOTAL_SIZE`
const GLOBAL_VARIABLE_TOTAL_SIZE: u32 = 0x1185;

/// `CL_BUILD_SUCCESS`
const BUILT: i32 = 0;
/// `CL_BUILD_NONE`
const NONE: i32 = -1;
/// `CL_BUILD_ERROR`
const FAILED: i32 = -2;
/// Compiled, but no executable.
const COMPILED: i32 = 1;

impl NullProgram {
    fn compiled(&self) -> Result<(), ClError> {
        if *self.source == BAD_SOURCE { Err(ClError::from_code(-11)) } else { Ok(()) }
    }
}

/// A kernel: nothing but its arguments.
#[derive(Debug)]
pub struct NullKernel {
    args: Vec<Arg>,
}

/// An event: its status.
#[derive(Clone, Debug)]
pub struct NullEvent(Arc<AtomicI32>);

/// A pipe, which nobody reads.
#[derive(Clone, Debug)]
pub struct NullPipe;

/// A queue in which nothing is enqueued.
#[derive(Clone, Debug)]
pub struct NullDeviceQueue;

impl Backend for Null {
    type Device = NullDevice;
    type Coarse = ();
    type Context = ();
    type Queue = ();
    type Buffer = NullBuffer;
    type Image = NullImage;
    type Sampler = ();
    type Pipe = NullPipe;
    type DeviceQueue = NullDeviceQueue;
    type Program = NullProgram;
    type Kernel = NullKernel;
    type Event = NullEvent;

    fn devices(&self) -> &[HostDevice<NullDevice>] {
        &self.devices
    }

    fn count_sub_devices(&self, parent: &NullDevice, partition: &Partition) -> Result<usize, ClError> {
        parent.parts(partition).map(|parts| parts.len())
    }

    fn create_sub_devices(
        &self,
        parent: &NullDevice,
        partition: &Partition,
        count: usize,
    ) -> Result<Vec<HostDevice<NullDevice>>, ClError> {
        let parts = parent.parts(partition)?;
        if parts.len() != count {
            return Err(ClError::INVALID_VALUE);
        }
        Ok(parts.into_iter().map(|units| NullDevice { units }.with_limits()).collect())
    }

    fn create_context(&self, _devices: &[&NullDevice]) -> Result<(), ClError> {
        Ok(())
    }

    fn create_queue(
        &self,
        (): &(),
        _device: &NullDevice,
        _properties: u64,
        _hints: QueueHints,
    ) -> Result<(), ClError> {
        Ok(())
    }

    fn create_buffer(
        &self,
        (): &(),
        _flags: u64,
        size: usize,
        init: Option<&Window>,
    ) -> Result<NullBuffer, ClError> {
        NullBuffer::new(size, init)
    }

    fn create_shared_buffer(
        &self,
        (): &(),
        _flags: u64,
        memory: Window,
        keep: Keep,
    ) -> Result<NullBuffer, ClError> {
        Ok(NullBuffer::shared(memory, keep))
    }

    fn create_coarse_memory(
        &self,
        (): &(),
        _device: &NullDevice,
        size: usize,
    ) -> Result<((), usize), ClError> {
        if size as u64 > MAX_ALLOC { Err(ClError::ALLOCATION_FAILURE) } else { Ok(((), 0x1000)) }
    }

    /// Bytes of its own: who looks at one does not look at others in the same memory.
    fn create_coarse_buffer(
        &self,
        (): &(),
        _flags: u64,
        (_, _, size): (&(), usize, usize),
        _keep: Keep,
    ) -> Result<NullBuffer, ClError> {
        self.create_buffer(&(), 0, size, None)
    }

    fn create_sub_buffer(
        &self,
        parent: &NullBuffer,
        _flags: u64,
        origin: usize,
        size: usize,
    ) -> Result<NullBuffer, ClError> {
        parent.part(origin, size)
    }

    fn image_formats(&self, (): &(), _flags: u64, _kind: ImageType) -> Result<Vec<ImageFormat>, ClError> {
        // RGBA UNORM_INT8, R FLOAT.
        Ok(vec![ImageFormat::new(0x10b5, 0x10d2), ImageFormat::new(0x10b0, 0x10de)])
    }

    fn create_image(
        &self,
        (): &(),
        spec: &ImageSpec,
        base: ImageBase<'_, NullBuffer, NullImage>,
    ) -> Result<NullImage, ClError> {
        NullImage::new(spec, base)
    }

    fn image_info(&self, image: &NullImage, _param: u32) -> Result<u64, ClError> {
        Ok(image.bytes() as u64)
    }

    fn create_sampler(&self, (): &(), _spec: SamplerSpec) -> Result<(), ClError> {
        Ok(())
    }

    fn create_pipe(&self, (): &(), packet_size: u32, max_packets: u32) -> Result<NullPipe, ClError> {
        if packet_size == 0 || max_packets == 0 { Err(ClError::INVALID_PIPE_SIZE) } else { Ok(NullPipe) }
    }

    fn create_device_queue(
        &self,
        (): &(),
        _device: &NullDevice,
        _properties: u64,
        _size: Option<u32>,
    ) -> Result<NullDeviceQueue, ClError> {
        Ok(NullDeviceQueue)
    }

    fn set_default_queue(
        &self,
        (): &(),
        _device: &NullDevice,
        _queue: &NullDeviceQueue,
    ) -> Result<(), ClError> {
        Ok(())
    }

    fn create_program(&self, (): &(), source: &[u8]) -> Result<NullProgram, ClError> {
        Ok(NullProgram { source: Arc::new(source.to_vec()), status: Arc::new(AtomicI32::new(NONE)) })
    }

    fn create_program_with_il(&self, (): &(), il: &[u8]) -> Result<NullProgram, ClError> {
        self.create_program(&(), il)
    }

    fn create_built_in_program(
        &self,
        (): &(),
        _devices: &[&NullDevice],
        names: &CStr,
    ) -> Result<NullProgram, ClError> {
        let known = names.to_bytes().split(|byte| *byte == b';').all(|name| name == KERNEL_NAME.as_bytes());
        if known { self.create_program(&(), names.to_bytes()) } else { Err(ClError::INVALID_VALUE) }
    }

    fn set_spec_constant(&self, _program: &NullProgram, _id: u32, _value: &[u8]) -> Result<(), ClError> {
        Ok(())
    }

    fn build(&self, program: &NullProgram, _devices: &[&NullDevice], _options: &CStr) -> Result<(), ClError> {
        let built = self.compiles(program);
        program.status.store(if built.is_ok() { BUILT } else { FAILED }, Ordering::Relaxed);
        built
    }

    fn compile(
        &self,
        program: &NullProgram,
        _devices: &[&NullDevice],
        _options: &CStr,
        _headers: &[(&CStr, &NullProgram)],
    ) -> Result<(), ClError> {
        let compiled = self.compiles(program);
        program.status.store(if compiled.is_ok() { COMPILED } else { FAILED }, Ordering::Relaxed);
        compiled
    }

    /// The linked program has the text of the first one, so that it has the kernels that are in it.
    fn link(
        &self,
        (): &(),
        _devices: &[&NullDevice],
        _options: &CStr,
        inputs: &[&NullProgram],
    ) -> Linked<NullProgram> {
        if self.has_traps {
            inputs.iter().for_each(|input| traps::spring_linked(&input.source));
        }
        let usable = inputs.iter().all(|input| input.status.load(Ordering::Relaxed) != FAILED);
        match inputs.first().filter(|_| usable) {
            Some(first) => {
                let status = Arc::new(AtomicI32::new(BUILT));
                let program = NullProgram { source: first.source.clone(), status };
                Linked { program: Some(program), outcome: Ok(()) }
            }
            None => Linked { program: None, outcome: Err(ClError::LINK_PROGRAM_FAILURE) },
        }
    }

    fn create_kernel(
        &self,
        program: &NullProgram,
        name: &CStr,
        declared: Option<&[Arg]>,
    ) -> Result<NullKernel, ClError> {
        if program.status.load(Ordering::Relaxed) != BUILT {
            return Err(ClError::INVALID_PROGRAM_EXECUTABLE);
        }
        if let Some(declared) = declared {
            return Ok(NullKernel { args: declared.to_vec() });
        }
        if let Some(args) = declared_args(&program.source, name.to_bytes()) {
            return Ok(NullKernel { args });
        }
        if name.to_bytes() != KERNEL_NAME.as_bytes() {
            return Err(ClError::INVALID_KERNEL_NAME);
        }
        let arg = |kind, size| Arg { kind, size, access: 0 };
        Ok(NullKernel {
            args: vec![
                arg(ArgKind::Value, 4),
                arg(ArgKind::Value, 0),
                arg(ArgKind::Buffer, 0),
                arg(ArgKind::Local, 0),
                Arg { access: ACCESS_READ, ..arg(ArgKind::Image, 0) },
                arg(ArgKind::Sampler, 0),
                arg(ArgKind::Pipe, 0),
                arg(ArgKind::Queue, 0),
            ],
        })
    }

    fn args<'k>(&self, kernel: &'k NullKernel) -> &'k [Arg] {
        &kernel.args
    }

    fn set_arg(
        &self,
        kernel: &mut NullKernel,
        index: u32,
        value: ArgValueOf<'_, Null>,
    ) -> Result<(), ClError> {
        let arg = kernel.args.get(index as usize).ok_or(ClError::INVALID_ARG_VALUE)?;
        match (arg.kind, value) {
            (ArgKind::Value, ArgValue::Value(_))
            | (ArgKind::Buffer, ArgValue::Buffer(_) | ArgValue::Pointer(_))
            | (ArgKind::Image, ArgValue::Image(_))
            | (ArgKind::Sampler, ArgValue::Sampler(()))
            | (ArgKind::Pipe, ArgValue::Pipe(NullPipe))
            | (ArgKind::Queue, ArgValue::Queue(NullDeviceQueue))
            | (ArgKind::Local, ArgValue::Local(_)) => Ok(()),
            _ => Err(ClError::INVALID_ARG_VALUE),
        }
    }

    fn set_reachable(&self, _kernel: &mut NullKernel, _addresses: &[usize]) -> Result<(), ClError> {
        Ok(())
    }

    fn create_user_event(&self, (): &()) -> Result<NullEvent, ClError> {
        Ok(NullEvent(Arc::new(AtomicI32::new(1))))
    }

    fn set_user_event(&self, event: &NullEvent, status: i32) -> Result<(), ClError> {
        event.0.store(status, Ordering::Relaxed);
        Ok(())
    }

    fn watch_start(&self, _event: &NullEvent, started: Started) -> StartWatch {
        started();
        StartWatch(Box::new(()))
    }

    fn enqueue(
        &self,
        (): &(),
        work: Work<'_, NullBuffer, NullImage, NullKernel>,
        order: Order<'_, NullEvent>,
    ) -> Result<Option<NullEvent>, ClError> {
        let failed = order.wait.iter().any(|event| event.0.load(Ordering::Relaxed) < 0);
        let done = if failed { Err(ClError::WAIT_LIST_FAILED) } else { run(work) };
        let profile = order.profile.then(|| [self.tick(), self.tick(), self.tick(), self.tick()]);
        if let Some(tell) = order.done {
            match done {
                Ok(()) => tell(Outcome { status: 0, profile }),
                Err(error) => tell(Outcome::failed(error)),
            }
        }
        done.map(|()| order.event.then(|| NullEvent(Arc::new(AtomicI32::new(0)))))
    }

    fn flush(&self, (): &()) -> Result<(), ClError> {
        Ok(())
    }

    fn finish(&self, (): &()) -> Result<(), ClError> {
        Ok(())
    }

    fn suggest_local_size(
        &self,
        (): &(),
        _kernel: &NullKernel,
        range: &NdRange,
    ) -> Result<[usize; 3], ClError> {
        Ok(range.global.map(|size| size.clamp(1, 8)))
    }

    fn query(
        &self,
        query: Query<'_, NullDevice, NullProgram, NullKernel>,
        param: u32,
    ) -> Result<Vec<u8>, ClError> {
        match query {
            Query::DeviceTimers(_) => Ok([self.tick().to_le_bytes(), self.tick().to_le_bytes()].concat()),
            Query::ProgramBuild(program, _) if param == GLOBAL_VARIABLE_TOTAL_SIZE => {
                let bytes = if *program.source == WITH_VARIABLE { 4_usize } else { 0 };
                Ok(bytes.to_le_bytes().to_vec())
            }
            Query::ProgramBuild(program, _) => {
                Ok(program.status.load(Ordering::Relaxed).to_le_bytes().to_vec())
            }
            Query::Program(program) => Ok(program.source.to_vec()),
            _ => Ok(format!("null {param:#x}\0").into_bytes()),
        }
    }
}

/// The arguments of a kernel in a program's text, roughly as a compiler would find them: enough for recorded
/// sessions of real programs to go on.
fn declared_args(source: &[u8], name: &[u8]) -> Option<Vec<Arg>> {
    let source = std::str::from_utf8(source).ok()?;
    let name = std::str::from_utf8(name).ok().filter(|name| !name.is_empty())?;
    let list = source.match_indices(name).find_map(|(at, _)| {
        let before = source[..at].trim_end().strip_suffix("void")?.trim_end();
        let after = source[at + name.len()..].trim_start().strip_prefix('(')?;
        if before.ends_with("kernel") { after.split_once(')').map(|(list, _)| list) } else { None }
    })?;
    let arg = |text: &str| {
        let kind = match text.contains('*') {
            true if text.contains("local") => ArgKind::Local,
            true => ArgKind::Buffer,
            false if text.contains("image") => ArgKind::Image,
            false if text.contains("sampler_t") => ArgKind::Sampler,
            false if text.contains("pipe ") => ArgKind::Pipe,
            false if text.contains("queue_t") => ArgKind::Queue,
            false => ArgKind::Value,
        };
        Arg { kind, size: 0, access: 0 }
    };
    Some(list.split(',').filter(|text| !text.trim().is_empty()).map(arg).collect())
}

fn run(work: Work<'_, NullBuffer, NullImage, NullKernel>) -> Result<(), ClError> {
    match work {
        Work::Launch { range: NdRange { .. }, .. } | Work::Marker | Work::Barrier => Ok(()),
        Work::Read { buffer, offset, to } => {
            let mut bytes = vec![0; buffer.range(offset, to.len())?.len()];
            buffer.read(offset, &mut bytes)?;
            move_bytes(to.write(0, &bytes))
        }
        Work::Write { buffer, offset, from } => {
            let mut bytes = vec![0; buffer.range(offset, from.len())?.len()];
            move_bytes(from.read(0, &mut bytes))?;
            buffer.write(offset, &bytes)
        }
        Work::Copy { from, to, offsets, size } => {
            let mut bytes = vec![0; from.range(offsets.0, size)?.len()];
            from.read(offsets.0, &mut bytes)?;
            to.write(offsets.1, &bytes)
        }
        Work::Fill { buffer, pattern, offset, size } => {
            let range = buffer.range(offset, size)?;
            let bytes: Vec<u8> = pattern.iter().copied().cycle().take(range.len()).collect();
            buffer.write(offset, &bytes)
        }
        Work::ReadRect { buffer, rect, extent, to } => {
            rows(rect, extent, buffer.len(), |at, packed, width| {
                let mut row = vec![0; width];
                buffer.read(at, &mut row)?;
                move_bytes(to.write(packed, &row))
            })
        }
        Work::WriteRect { buffer, rect, extent, from } => write_rect(buffer, rect, extent, &from),
        Work::CopyRect { from, to, rects, extent } => {
            let [width, height, depth] = extent;
            rects.0.bounds(extent).filter(|bounds| bounds.1 <= from.len()).ok_or(ClError::INVALID_VALUE)?;
            let mut bytes = vec![0; width * height * depth];
            rows(rects.0, extent, from.len(), |at, packed, width| {
                from.read(at, &mut bytes[packed..packed + width])
            })?;
            write_rect(to, rects.1, extent, &HostBytes::Heap(bytes.into()))
        }
        Work::Image(work) => null_image::run(work),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_found_in_a_programs_text() {
        let source =
            b"__kernel void scale(__global float* a, const float by, __local int *t) {} kernel void n(){}
            kernel void blur(read_only image2d_t from, sampler_t by) {}";
        let kinds = |name: &[u8]| -> Option<Vec<ArgKind>> {
            declared_args(source, name).map(|args| args.iter().map(|arg| arg.kind).collect())
        };
        assert_eq!(kinds(b"scale"), Some(vec![ArgKind::Buffer, ArgKind::Value, ArgKind::Local]));
        assert_eq!(kinds(b"blur"), Some(vec![ArgKind::Image, ArgKind::Sampler]));
        assert_eq!(kinds(b"n"), Some(vec![]));
        assert_eq!((kinds(b"cal"), kinds(b"")), (None, None));
    }
}
