//! The functions of `cl_khr_command_buffer`, and command buffers that are recorded with them.

use std::ffi::{CStr, c_void};
use std::ptr;

use anyhow::{Context as _, Result, anyhow, ensure};
use opencl3::command_queue::CommandQueue;
use opencl3::event::Event;
use opencl3::kernel::Kernel;
use opencl3::memory::{Buffer, ClMem};
use opencl3::types::{cl_event, cl_int, cl_mem, cl_name_version, cl_uint};

use super::common::Gpu;
use super::{Bench, FLAGS, LEN, STATE};

pub(crate) type Handle = *mut c_void;
type Create = unsafe extern "C" fn(cl_uint, *const Handle, *const u64, *mut cl_int) -> Handle;
type OfBuffer = unsafe extern "C" fn(Handle) -> cl_int;
type Enqueue =
    unsafe extern "C" fn(cl_uint, *mut Handle, Handle, cl_uint, *const cl_event, *mut cl_event) -> cl_int;
type Info = unsafe extern "C" fn(Handle, cl_uint, usize, *mut c_void, *mut usize) -> cl_int;
type Launch = unsafe extern "C" fn(
    Handle,
    Handle,
    *const u64,
    Handle,
    cl_uint,
    *const usize,
    *const usize,
    *const usize,
    cl_uint,
    *const cl_uint,
    *mut cl_uint,
    *mut Handle,
) -> cl_int;
type Update = unsafe extern "C" fn(Handle, cl_uint, *const cl_uint, *mut *const c_void) -> cl_int;

/// A box of an image.
pub(crate) struct Box3 {
    pub(crate) at: [usize; 3],
    pub(crate) size: [usize; 3],
}

/// An index space of one dimension.
#[derive(Clone, Copy)]
pub(crate) struct Range {
    pub(crate) offset: Option<usize>,
    pub(crate) size: usize,
    pub(crate) local: Option<usize>,
}

/// The functions of `cl_khr_command_buffer_mutable_dispatch`.
pub(crate) struct MutableFunctions {
    pub(crate) update: Update,
    pub(crate) info: Info,
}

/// Records a command by a function that has `properties` or not, as the device's version has it.
macro_rules! record {
    ($buffer:ident.$function:ident($($value:expr => $type:ty,)*)) => {{
        type New = unsafe extern "C" fn(
            Handle, Handle, *const u64, $($type,)* cl_uint, *const cl_uint, *mut cl_uint, *mut Handle,
        ) -> cl_int;
        type Old = unsafe extern "C" fn(
            Handle, Handle, $($type,)* cl_uint, *const cl_uint, *mut cl_uint, *mut Handle,
        ) -> cl_int;
        let (functions, raw) = ($buffer.functions, $buffer.raw);
        let (mut point, none) = (0, ptr::null_mut());
        let status = if functions.has_properties {
            let call: New = std::mem::transmute(functions.$function);
            call(raw, ptr::null_mut(), ptr::null(), $($value,)* 0, ptr::null(), &mut point, none)
        } else {
            let call: Old = std::mem::transmute(functions.$function);
            call(raw, ptr::null_mut(), $($value,)* 0, ptr::null(), &mut point, none)
        };
        if status == 0 { Ok(point) } else { Err(status) }
    }};
}

/// The functions of the extensions.
pub(crate) struct Functions {
    create: Create,
    pub(crate) finalize: OfBuffer,
    release: OfBuffer,
    enqueue: Enqueue,
    info: Info,
    launch: Launch,
    // These have one argument more since version 0.9.5.
    fill: *mut c_void,
    fill_image: *mut c_void,
    copy_image: *mut c_void,
    copy_image_to_buffer: *mut c_void,
    copy_buffer_to_image: *mut c_void,
    pub(crate) has_properties: bool,
    pub(crate) mutable: Option<MutableFunctions>,
}

/// A function of an extension, as this type.
///
/// # Safety
/// The type is that of the function.
unsafe fn function<T: Copy>(gpu: &Gpu, name: &CStr) -> Result<T> {
    let platform = gpu.device.platform()?;
    let library = cl3::load_library().as_ref().map_err(|error| anyhow!("no OpenCL: {error}"))?;
    let address = library
        .clGetExtensionFunctionAddressForPlatform(platform, name.as_ptr())
        .context("an OpenCL before 1.2")?;
    ensure!(!address.is_null(), "no function {name:?}");
    // SAFETY: a pointer to a function of this type, as the caller says.
    Ok(unsafe { std::mem::transmute_copy(&address) })
}

impl Functions {
    pub(crate) fn find(gpu: &Gpu) -> Result<Functions> {
        let version =
            version(gpu, c"cl_khr_command_buffer").context("the device has no cl_khr_command_buffer")?;
        println!("cl_khr_command_buffer {}.{}.{}", version >> 22, version >> 12 & 0x3ff, version & 0xfff);
        // SAFETY: the types are the functions', as the headers have them; those that differ are told apart where they are called.
        unsafe {
            Ok(Functions {
                create: function(gpu, c"clCreateCommandBufferKHR")?,
                finalize: function(gpu, c"clFinalizeCommandBufferKHR")?,
                release: function(gpu, c"clReleaseCommandBufferKHR")?,
                enqueue: function(gpu, c"clEnqueueCommandBufferKHR")?,
                info: function(gpu, c"clGetCommandBufferInfoKHR")?,
                launch: function(gpu, c"clCommandNDRangeKernelKHR")?,
                fill: function(gpu, c"clCommandFillBufferKHR")?,
                fill_image: function(gpu, c"clCommandFillImageKHR")?,
                copy_image: function(gpu, c"clCommandCopyImageKHR")?,
                copy_image_to_buffer: function(gpu, c"clCommandCopyImageToBufferKHR")?,
                copy_buffer_to_image: function(gpu, c"clCommandCopyBufferToImageKHR")?,
                has_properties: version >= (9 << 12 | 5),
                mutable: MutableFunctions::find(gpu)?,
            })
        }
    }
}

impl MutableFunctions {
    /// They are there since they take an array of changes.
    fn find(gpu: &Gpu) -> Result<Option<MutableFunctions>> {
        let version = version(gpu, c"cl_khr_command_buffer_mutable_dispatch");
        if version.is_none_or(|version| version < (9 << 12 | 2)) {
            return Ok(None);
        }
        // SAFETY: the types are the functions', as the headers have them.
        unsafe {
            Ok(Some(MutableFunctions {
                update: function(gpu, c"clUpdateMutableCommandsKHR")?,
                info: function(gpu, c"clGetMutableCommandInfoKHR")?,
            }))
        }
    }
}

/// The version of an extension of the device's.
fn version(gpu: &Gpu, name: &CStr) -> Option<u32> {
    let extensions = gpu.device.extensions_with_version().unwrap_or_default();
    // SAFETY: a name ends with a NUL.
    let has_name = |of: &cl_name_version| unsafe { CStr::from_ptr(of.name.as_ptr().cast()) } == name;
    extensions.iter().find(|extension| has_name(extension)).map(|extension| extension.version)
}

pub(crate) fn checked(status: cl_int, what: &str) -> Result<()> {
    ensure!(status == 0, "{what}: {status}");
    Ok(())
}

/// A command buffer, released when dropped.
pub(crate) struct CommandBuffer<'a> {
    pub(crate) functions: &'a Functions,
    pub(crate) raw: Handle,
}

impl Drop for CommandBuffer<'_> {
    fn drop(&mut self) {
        // SAFETY: live until here.
        unsafe { (self.functions.release)(self.raw) };
    }
}

impl<'a> CommandBuffer<'a> {
    pub(crate) fn new(bench: &'a Bench, queue: &CommandQueue, flags: u64) -> Result<CommandBuffer<'a>> {
        let functions = &bench.functions;
        let (queues, properties) = ([queue.get()], [FLAGS, flags, 0]);
        let mut status = 0;
        // SAFETY: one queue, and a list that ends with 0.
        let raw = unsafe {
            let properties = if flags == 0 { ptr::null() } else { properties.as_ptr() };
            (functions.create)(1, queues.as_ptr(), properties, &mut status)
        };
        checked(status, "create")?;
        Ok(CommandBuffer { functions, raw })
    }

    pub(crate) fn try_launch(&self, kernel: &Kernel, len: usize, after: &[u32]) -> Result<u32, cl_int> {
        let range = Range { offset: None, size: len, local: None };
        self.launch_with(kernel, range, after, &[], None)
    }

    pub(crate) fn launch(&self, kernel: &Kernel, after: &[u32]) -> Result<u32> {
        self.try_launch(kernel, LEN, after).map_err(|status| anyhow!("launch: {status}"))
    }

    /// Records a launch with these properties, and gives its handle where that is wanted.
    pub(crate) fn launch_with(
        &self,
        kernel: &Kernel,
        range: Range,
        after: &[u32],
        properties: &[u64],
        handle: Option<&mut Handle>,
    ) -> Result<u32, cl_int> {
        let mut point = 0;
        let list = if after.is_empty() { ptr::null() } else { after.as_ptr() };
        let properties = if properties.is_empty() { ptr::null() } else { properties.as_ptr() };
        let optional = |size: &Option<usize>| size.as_ref().map_or(ptr::null(), ptr::from_ref);
        // SAFETY: one dimension; as many sync points as are said; a list of properties ends with 0.
        let status = unsafe {
            (self.functions.launch)(
                self.raw,
                ptr::null_mut(),
                properties,
                kernel.get(),
                1,
                optional(&range.offset),
                &range.size,
                optional(&range.local),
                after.len() as u32,
                list,
                &mut point,
                handle.map_or(ptr::null_mut(), ptr::from_mut),
            )
        };
        if status == 0 { Ok(point) } else { Err(status) }
    }

    pub(crate) fn fill(&self, buffer: &Buffer<u32>, pattern: u32) -> Result<u32> {
        let pattern = ptr::from_ref(&pattern).cast();
        // SAFETY: the pattern has four bytes, and the buffer as many as are filled.
        let status = unsafe {
            record!(self.fill(
                buffer.get() => Handle, pattern => *const c_void, 4 => usize, 0 => usize, 4 * LEN => usize,
            ))
        };
        status.map_err(|status| anyhow!("fill: {status}"))
    }

    pub(crate) fn fill_image(&self, image: cl_mem, color: [f32; 4], place: &Box3) -> Result<u32, cl_int> {
        let color = color.as_ptr().cast();
        // SAFETY: a colour of four floats, a box of three sizes each.
        unsafe {
            record!(self.fill_image(
                image => Handle, color => *const c_void, place.at.as_ptr() => *const usize,
                place.size.as_ptr() => *const usize,
            ))
        }
    }

    pub(crate) fn copy_image(
        &self,
        from: cl_mem,
        to: cl_mem,
        at: [usize; 3],
        place: &Box3,
    ) -> Result<u32, cl_int> {
        // SAFETY: places of three sizes each.
        unsafe {
            record!(self.copy_image(
                from => Handle, to => Handle, at.as_ptr() => *const usize,
                place.at.as_ptr() => *const usize, place.size.as_ptr() => *const usize,
            ))
        }
    }

    pub(crate) fn copy_image_to_buffer(
        &self,
        from: cl_mem,
        place: &Box3,
        to: cl_mem,
        offset: usize,
    ) -> Result<u32, cl_int> {
        // SAFETY: a box of three sizes each.
        unsafe {
            record!(self.copy_image_to_buffer(
                from => Handle, to => Handle, place.at.as_ptr() => *const usize,
                place.size.as_ptr() => *const usize, offset => usize,
            ))
        }
    }

    pub(crate) fn copy_buffer_to_image(
        &self,
        from: cl_mem,
        offset: usize,
        to: cl_mem,
        place: &Box3,
    ) -> Result<u32, cl_int> {
        // SAFETY: a box of three sizes each.
        unsafe {
            record!(self.copy_buffer_to_image(
                from => Handle, to => Handle, offset => usize, place.at.as_ptr() => *const usize,
                place.size.as_ptr() => *const usize,
            ))
        }
    }

    pub(crate) fn finalize(&self) -> Result<()> {
        // SAFETY: a live command buffer.
        checked(unsafe { (self.functions.finalize)(self.raw) }, "finalize")
    }

    pub(crate) fn try_enqueue(&self, wait: &[cl_event]) -> Result<Event, cl_int> {
        let mut event = ptr::null_mut();
        let list = if wait.is_empty() { ptr::null() } else { wait.as_ptr() };
        // SAFETY: as many live events as are said.
        let status = unsafe {
            (self.functions.enqueue)(0, ptr::null_mut(), self.raw, wait.len() as u32, list, &mut event)
        };
        if status == 0 { Ok(Event::new(event)) } else { Err(status) }
    }

    pub(crate) fn enqueue(&self, wait: &[cl_event]) -> Result<Event> {
        self.try_enqueue(wait).map_err(|status| anyhow!("enqueue: {status}"))
    }

    pub(crate) fn state(&self) -> Result<u32> {
        let mut state = 0_u32;
        // SAFETY: room for the four bytes of a state.
        let status = unsafe {
            (self.functions.info)(self.raw, STATE, 4, ptr::from_mut(&mut state).cast(), ptr::null_mut())
        };
        checked(status, "state")?;
        Ok(state)
    }
}
