//! No device: buffers are host memory, transfers are real, kernels do nothing, everything completes at once.
//! For tests and fuzzers.
//!
//! A user event is the one thing that does not complete by itself. A command that waits for an open one is not
//! held back here: it runs, and completes, at once.

use std::ffi::CStr;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use paragpu_protocol::kernel::ArgKind;

use super::{
    Arg, ArgValue, Backend, ClError, DeviceLimits, HostBytes, Linked, NdRange, Order, Outcome, Query, Rect,
    Work,
};
use crate::sys::map::Window;

/// Name of a kernel that every built program has, beside those in its text. Its arguments: a value of 4 bytes, a
/// value of unknown size, a buffer, local memory, an image.
pub const KERNEL_NAME: &str = "k";

/// A program with this text does not build.
pub const BAD_SOURCE: &[u8] = b"error";

/// Largest buffer: a fuzzer has little memory.
const MAX_ALLOC: u64 = 1 << 20;

/// The backend.
#[derive(Debug)]
pub struct Null {
    limits: Vec<DeviceLimits>,
    clock: AtomicU64,
}

impl Null {
    /// With that many devices.
    pub fn new(devices: usize) -> Null {
        let limits = DeviceLimits {
            name: "null".to_owned(),
            max_alloc: MAX_ALLOC,
            local_memory: 32 * 1024,
            max_work_group: 1024,
            max_work_items: [1024, 1024, 64],
        };
        Null { limits: vec![limits; devices], clock: AtomicU64::new(1) }
    }

    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed)
    }
}

/// A buffer, or a part of one.
#[derive(Clone, Debug)]
pub struct NullBuffer {
    bytes: Arc<Mutex<Vec<u8>>>,
    origin: usize,
    size: usize,
}

impl NullBuffer {
    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where `size` bytes from `offset` are, if the buffer has them.
    fn range(&self, offset: usize, size: usize) -> Result<std::ops::Range<usize>, ClError> {
        let end = offset.checked_add(size).filter(|end| *end <= self.size).ok_or(ClError::INVALID_VALUE)?;
        Ok(self.origin + offset..self.origin + end)
    }

    fn read(&self, offset: usize, to: &mut [u8]) -> Result<(), ClError> {
        let range = self.range(offset, to.len())?;
        to.copy_from_slice(&self.lock()[range]);
        Ok(())
    }

    fn write(&self, offset: usize, from: &[u8]) -> Result<(), ClError> {
        let range = self.range(offset, from.len())?;
        self.lock()[range].copy_from_slice(from);
        Ok(())
    }
}

/// A program: its text, and whether it is built.
#[derive(Clone, Debug)]
pub struct NullProgram {
    source: Arc<Vec<u8>>,
    status: Arc<AtomicI32>,
}

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

impl Backend for Null {
    type Context = ();
    type Queue = ();
    type Buffer = NullBuffer;
    type Program = NullProgram;
    type Kernel = NullKernel;
    type Event = NullEvent;

    fn devices(&self) -> &[DeviceLimits] {
        &self.limits
    }

    fn create_context(&self, devices: &[usize]) -> Result<(), ClError> {
        let known = devices.iter().all(|device| *device < self.limits.len());
        if known { Ok(()) } else { Err(ClError::INVALID_DEVICE) }
    }

    fn create_queue(&self, (): &(), _device: usize, _properties: u64) -> Result<(), ClError> {
        Ok(())
    }

    fn create_buffer(
        &self,
        (): &(),
        _flags: u64,
        size: usize,
        init: Option<&Window>,
    ) -> Result<NullBuffer, ClError> {
        if size as u64 > MAX_ALLOC {
            return Err(ClError::ALLOCATION_FAILURE);
        }
        let bytes = match init {
            Some(init) if init.len() == size => init.to_vec(),
            Some(_) => return Err(ClError::INVALID_VALUE),
            None => vec![0; size],
        };
        Ok(NullBuffer { bytes: Arc::new(Mutex::new(bytes)), origin: 0, size })
    }

    fn create_sub_buffer(
        &self,
        parent: &NullBuffer,
        _flags: u64,
        origin: usize,
        size: usize,
    ) -> Result<NullBuffer, ClError> {
        let range = parent.range(origin, size)?;
        Ok(NullBuffer { bytes: parent.bytes.clone(), origin: range.start, size })
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
        _devices: &[usize],
        names: &CStr,
    ) -> Result<NullProgram, ClError> {
        let known = names.to_bytes().split(|byte| *byte == b';').all(|name| name == KERNEL_NAME.as_bytes());
        if known { self.create_program(&(), names.to_bytes()) } else { Err(ClError::INVALID_VALUE) }
    }

    fn set_spec_constant(&self, _program: &NullProgram, _id: u32, _value: &[u8]) -> Result<(), ClError> {
        Ok(())
    }

    fn build(&self, program: &NullProgram, _devices: &[usize], _options: &CStr) -> Result<(), ClError> {
        let built = program.compiled();
        program.status.store(if built.is_ok() { BUILT } else { FAILED }, Ordering::Relaxed);
        built
    }

    fn compile(
        &self,
        program: &NullProgram,
        _devices: &[usize],
        _options: &CStr,
        _headers: &[(&CStr, &NullProgram)],
    ) -> Result<(), ClError> {
        let compiled = program.compiled();
        program.status.store(if compiled.is_ok() { COMPILED } else { FAILED }, Ordering::Relaxed);
        compiled
    }

    /// The linked program has the text of the first one, so that it has the kernels that are in it.
    fn link(
        &self,
        (): &(),
        _devices: &[usize],
        _options: &CStr,
        inputs: &[&NullProgram],
    ) -> Linked<NullProgram> {
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
        let arg = |kind, size| Arg { kind, size };
        Ok(NullKernel {
            args: vec![
                arg(ArgKind::Value, 4),
                arg(ArgKind::Value, 0),
                arg(ArgKind::Buffer, 0),
                arg(ArgKind::Local, 0),
                arg(ArgKind::Image, 0),
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
        value: ArgValue<'_, NullBuffer>,
    ) -> Result<(), ClError> {
        let arg = kernel.args.get(index as usize).ok_or(ClError::INVALID_ARG_VALUE)?;
        match (arg.kind, value) {
            (ArgKind::Value, ArgValue::Value(_))
            | (ArgKind::Buffer, ArgValue::Buffer(_))
            | (ArgKind::Local, ArgValue::Local(_)) => Ok(()),
            _ => Err(ClError::INVALID_ARG_VALUE),
        }
    }

    fn create_user_event(&self, (): &()) -> Result<NullEvent, ClError> {
        Ok(NullEvent(Arc::new(AtomicI32::new(1))))
    }

    fn set_user_event(&self, event: &NullEvent, status: i32) -> Result<(), ClError> {
        event.0.store(status, Ordering::Relaxed);
        Ok(())
    }

    fn enqueue(
        &self,
        (): &(),
        work: Work<'_, NullBuffer, NullKernel>,
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

    fn query(&self, query: Query<'_, NullProgram, NullKernel>, param: u32) -> Result<Vec<u8>, ClError> {
        match query {
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
            false => ArgKind::Value,
        };
        Arg { kind, size: 0 }
    };
    Some(list.split(',').filter(|text| !text.trim().is_empty()).map(arg).collect())
}

fn run(work: Work<'_, NullBuffer, NullKernel>) -> Result<(), ClError> {
    match work {
        Work::Launch { range: NdRange { .. }, .. } | Work::Marker | Work::Barrier => Ok(()),
        Work::Read { buffer, offset, to } => {
            let range = buffer.range(offset, to.len())?;
            move_bytes(to.write(0, &buffer.lock()[range]))
        }
        Work::Write { buffer, offset, from } => {
            let range = buffer.range(offset, from.len())?;
            move_bytes(from.read(0, &mut buffer.lock()[range]))
        }
        Work::Copy { from, to, offsets, size } => {
            let mut bytes = vec![0; from.range(offsets.0, size)?.len()];
            from.read(offsets.0, &mut bytes)?;
            to.write(offsets.1, &bytes)
        }
        Work::Fill { buffer, pattern, offset, size } => {
            let range = buffer.range(offset, size)?;
            for chunk in buffer.lock()[range].chunks_mut(pattern.len().max(1)) {
                chunk.copy_from_slice(&pattern[..chunk.len()]);
            }
            Ok(())
        }
        Work::ReadRect { buffer, rect, extent, to } => {
            rows(rect, extent, buffer.size, |at, packed, width| {
                let mut row = vec![0; width];
                buffer.read(at, &mut row)?;
                move_bytes(to.write(packed, &row))
            })
        }
        Work::WriteRect { buffer, rect, extent, from } => write_rect(buffer, rect, extent, &from),
        Work::CopyRect { from, to, rects, extent } => {
            let [width, height, depth] = extent;
            rects.0.bounds(extent).filter(|bounds| bounds.1 <= from.size).ok_or(ClError::INVALID_VALUE)?;
            let mut bytes = vec![0; width * height * depth];
            rows(rects.0, extent, from.size, |at, packed, width| {
                from.read(at, &mut bytes[packed..packed + width])
            })?;
            write_rect(to, rects.1, extent, &HostBytes::Heap(bytes.into()))
        }
    }
}

fn write_rect(buffer: &NullBuffer, rect: Rect, extent: [usize; 3], from: &HostBytes) -> Result<(), ClError> {
    rows(rect, extent, buffer.size, |at, packed, width| {
        let mut row = vec![0; width];
        move_bytes(from.read(packed, &mut row))?;
        buffer.write(at, &row)
    })
}

/// Calls `row` with the offset of each row in the buffer, its offset in packed memory and its width.
fn rows(
    rect: Rect,
    extent: [usize; 3],
    size: usize,
    mut row: impl FnMut(usize, usize, usize) -> Result<(), ClError>,
) -> Result<(), ClError> {
    let [width, height, depth] = extent;
    rect.bounds(extent).filter(|bounds| bounds.1 <= size).ok_or(ClError::INVALID_VALUE)?;
    for z in 0..depth {
        for y in 0..height {
            row(rect.row(y, z), (z * height + y) * width, width)?;
        }
    }
    Ok(())
}

fn move_bytes(whole: bool) -> Result<(), ClError> {
    if whole { Ok(()) } else { Err(ClError::INVALID_VALUE) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_found_in_a_programs_text() {
        let source =
            b"__kernel void scale(__global float* a, const float by, __local int *t) {} kernel void n(){}";
        let kinds = |name: &[u8]| -> Option<Vec<ArgKind>> {
            declared_args(source, name).map(|args| args.iter().map(|arg| arg.kind).collect())
        };
        assert_eq!(kinds(b"scale"), Some(vec![ArgKind::Buffer, ArgKind::Value, ArgKind::Local]));
        assert_eq!(kinds(b"n"), Some(vec![]));
        assert_eq!((kinds(b"cal"), kinds(b"")), (None, None));
    }
}
