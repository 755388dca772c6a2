//! OpenCL objects, and how they are made.

use std::ffi::{CStr, c_void};
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use cl3::command_queue::CL_QUEUE_PROPERTIES;
use cl3::context::CL_CONTEXT_PLATFORM;
use cl3::event::CL_EVENT_COMMAND_EXECUTION_STATUS;
use cl3::memory::{CL_BUFFER_CREATE_TYPE_REGION, CL_MEM_COPY_HOST_PTR, CL_MEM_USE_HOST_PTR};
use cl3::types::{cl_buffer_region, cl_device_id};

use super::coarse::CoarseMemory;
use super::enqueue::failing;
use super::query::{Device, Platform};
use super::{checked, cl};
use crate::sys::compute::{ClError, QueueHints};
use crate::sys::map::{Mapping, Window};

/// `CL_QUEUE_PRIORITY_KHR`
const QUEUE_PRIORITY: u64 = 0x1096;
/// `CL_QUEUE_THROTTLE_KHR`
const QUEUE_THROTTLE: u64 = 0x1097;

/// A kind of OpenCL object.
pub trait Kind {
    /// Gives up one reference.
    ///
    /// # Safety
    /// `raw` is a live object of this kind, of whose references one belongs to the caller.
    unsafe fn release(raw: *mut c_void) -> Result<i32, ClError>;
}

struct Raw<K: Kind>(NonNull<c_void>, PhantomData<fn() -> K>);

// SAFETY: OpenCL objects may be used from any thread; the exception, setting arguments of a kernel, takes
// `&mut Kernel` here (OpenCL 3.0, section "Thread safety": all calls but clSetKernelArg and friends).
unsafe impl<K: Kind> Send for Raw<K> {}
// SAFETY: as for `Send`.
unsafe impl<K: Kind> Sync for Raw<K> {}

impl<K: Kind> Drop for Raw<K> {
    fn drop(&mut self) {
        // SAFETY: this value owns one reference and is gone after this.
        if let Err(error) = checked(unsafe { K::release(self.0.as_ptr()) }) {
            log::warn!("releasing an OpenCL object: {error}");
        }
    }
}

/// A reference to an OpenCL object; the last one releases it.
pub struct Handle<K: Kind>(Arc<Raw<K>>);

impl<K: Kind> Handle<K> {
    /// Takes over what a create function returned.
    pub(super) fn created(raw: Result<*mut c_void, ClError>, status: i32) -> Result<Handle<K>, ClError> {
        let raw = raw?;
        match NonNull::new(raw) {
            Some(raw) if status == 0 => Ok(Handle(Arc::new(Raw(raw, PhantomData)))),
            _ => Err(ClError::from_code(status)),
        }
    }

    pub(super) fn raw(&self) -> *mut c_void {
        self.0.0.as_ptr()
    }

    pub(super) fn is_only(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }
}

impl<K: Kind> Clone for Handle<K> {
    fn clone(&self) -> Self {
        Handle(Arc::clone(&self.0))
    }
}

impl<K: Kind> fmt::Debug for Handle<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0.0)
    }
}

macro_rules! kinds {
    ($($name:ident, $alias:ident, $release:ident, $doc:literal;)*) => { $(
        #[doc = $doc]
        #[derive(Debug)]
        pub enum $name {}

        impl Kind for $name {
            unsafe fn release(raw: *mut c_void) -> Result<i32, ClError> {
                // SAFETY: the caller owns a reference to a live object of this kind.
                unsafe { cl!($release(raw)) }
            }
        }

        #[doc = $doc]
        pub type $alias = Handle<$name>;
    )* };
}

kinds! {
    ContextKind, Context, clReleaseContext, "A context.";
    QueueKind, Queue, clReleaseCommandQueue, "A command queue.";
    BufferKind, Buffer, clReleaseMemObject, "A buffer.";
    ImageKind, RawImage, clReleaseMemObject, "An image, as the driver knows it.";
    SamplerKind, Sampler, clReleaseSampler, "A sampler.";
    ProgramKind, Program, clReleaseProgram, "A program.";
    PipeKind, Pipe, clReleaseMemObject, "A pipe.";
    DeviceQueueKind, DeviceQueue, clReleaseCommandQueue, "A queue on the device.";
    KernelKind, RawKernel, clReleaseKernel, "A kernel, as the driver knows it.";
    EventKind, Event, clReleaseEvent, "An event.";
    SubDeviceKind, SubDevice, clReleaseDevice, "A part of a device, as the driver knows it.";
}

impl Context {
    /// A context on devices of a platform.
    pub fn new(platform: &Platform, devices: &[&Device]) -> Result<Context, ClError> {
        let ids: Vec<cl_device_id> = devices.iter().map(|device| device.raw()).collect();
        let properties = [CL_CONTEXT_PLATFORM, platform.raw() as isize, 0];
        let count = u32::try_from(ids.len()).map_err(|_many| ClError::INVALID_VALUE)?;
        let mut status = 0;
        // SAFETY: the property list ends with 0 and the device list has `count` ids; both live during the call.
        let raw = unsafe {
            cl!(clCreateContext(properties.as_ptr(), count, ids.as_ptr(), None, ptr::null_mut(), &mut status))
        };
        Context::created(raw, status)
    }
}

impl Queue {
    /// A queue with these `cl_command_queue_properties`.
    pub fn new(context: &Context, device: &Device, properties: u64) -> Result<Queue, ClError> {
        let mut status = 0;
        // SAFETY: live handles; clCreateCommandQueue is what every version has.
        let raw = unsafe { cl!(clCreateCommandQueue(context.raw(), device.raw(), properties, &mut status)) };
        Queue::created(raw, status)
    }

    /// A queue with hints, which not every device takes.
    pub fn with_hints(
        context: &Context,
        device: &Device,
        properties: u64,
        hints: QueueHints,
    ) -> Result<Queue, ClError> {
        // Loaders call through the driver's table without looking, and older tables end before this entry.
        if device.version() < (2, 0) {
            return Err(ClError::INVALID_OPERATION);
        }
        let mut list = vec![u64::from(CL_QUEUE_PROPERTIES), properties];
        for (name, value) in [(QUEUE_PRIORITY, hints.priority), (QUEUE_THROTTLE, hints.throttle)] {
            if value != 0 {
                list.extend([name, value.into()]);
            }
        }
        list.push(0);
        let mut status = 0;
        // SAFETY: live handles, and a list that ends with 0 and lives during the call.
        let raw = unsafe {
            cl!(clCreateCommandQueueWithProperties(context.raw(), device.raw(), list.as_ptr(), &mut status))
        };
        Queue::created(raw, status)
    }

    /// Submits what was enqueued.
    pub fn flush(&self) -> Result<(), ClError> {
        // SAFETY: a live queue.
        checked(unsafe { cl!(clFlush(self.raw())) })
    }

    /// Waits until everything that was enqueued is complete.
    pub fn finish(&self) -> Result<(), ClError> {
        // SAFETY: a live queue.
        checked(unsafe { cl!(clFinish(self.raw())) })
    }
}

impl Buffer {
    /// A buffer of zeroes.
    pub fn zeroed(context: &Context, flags: u64, size: usize) -> Result<Buffer, ClError> {
        // Untouched private pages all read as the one zero page, so that this costs no memory.
        let zeroes = Mapping::anonymous(size).map_err(|error: io::Error| {
            log::debug!("{size} bytes of zeroes: {error}");
            ClError::ALLOCATION_FAILURE
        })?;
        let zeroes = Window::new(Arc::new(zeroes), 0, size as u64).ok_or(ClError::INVALID_BUFFER_SIZE)?;
        Buffer::copy_of(context, flags, &zeroes)
    }

    /// A buffer with the contents of a window.
    pub fn copy_of(context: &Context, flags: u64, contents: &Window) -> Result<Buffer, ClError> {
        let mut status = 0;
        let flags = flags | CL_MEM_COPY_HOST_PTR;
        // SAFETY: the window has that many mapped bytes, and CL_MEM_COPY_HOST_PTR is done with them when the
        // call returns.
        let raw = unsafe {
            cl!(clCreateBuffer(context.raw(), flags, contents.len(), contents.as_ptr(), &mut status))
        };
        Buffer::created(raw, status)
    }

    /// A buffer whose bytes are those of a window, which is kept, with `keep`, until the driver has destroyed the buffer.
    pub fn over(context: &Context, flags: u64, memory: Window, keep: Keep) -> Result<Buffer, ClError> {
        let (len, at) = (memory.len(), memory.as_ptr());
        // SAFETY: the window has that many bytes, and goes along.
        unsafe { Buffer::at(context, flags, (at, len), Box::new((memory, keep))) }
    }

    /// A buffer in memory that the driver has allocated; that is kept, with `keep`, likewise.
    pub fn in_coarse(
        context: &Context,
        flags: u64,
        (memory, offset, len): (&CoarseMemory, usize, usize),
        keep: Keep,
    ) -> Result<Buffer, ClError> {
        let at = memory.part(offset, len).ok_or(ClError::INVALID_BUFFER_SIZE)?;
        // SAFETY: the allocation has that many bytes, and goes along.
        unsafe { Buffer::at(context, flags, (at, len), Box::new((memory.clone(), keep))) }
    }

    /// A buffer in host memory.
    ///
    /// # Safety
    /// `len` bytes are allocated at `at` while `kept` is.
    unsafe fn at(
        context: &Context,
        flags: u64,
        (at, len): (*mut c_void, usize),
        kept: Keep,
    ) -> Result<Buffer, ClError> {
        let mut status = 0;
        // SAFETY: the bytes are there. They stay until the destructor callback: "the memory pointed to
        // by host_ptr … can be reused or freed" then (OpenCL 3.0, clSetMemObjectDestructorCallback).
        let raw =
            unsafe { cl!(clCreateBuffer(context.raw(), flags | CL_MEM_USE_HOST_PTR, len, at, &mut status)) };
        let buffer = Buffer::created(raw, status)?;
        let kept: *mut Keep = Box::into_raw(Box::new(kept));
        // SAFETY: a live memory object; the callback takes over the box, once.
        let registered = checked(unsafe {
            cl!(clSetMemObjectDestructorCallback(buffer.raw(), Some(let_go), kept.cast()))
        });
        if let Err(error) = registered {
            drop(buffer);
            // SAFETY: nobody else has the box: the callback was not registered.
            drop(unsafe { Box::from_raw(kept) });
            return Err(error);
        }
        Ok(buffer)
    }

    /// A part of a buffer.
    pub fn sub(parent: &Buffer, flags: u64, origin: usize, size: usize) -> Result<Buffer, ClError> {
        let region = cl_buffer_region { origin, size };
        let mut status = 0;
        // SAFETY: the create type says that the pointer is to a cl_buffer_region, which lives during the call.
        let raw = unsafe {
            cl!(clCreateSubBuffer(
                parent.raw(),
                flags,
                CL_BUFFER_CREATE_TYPE_REGION,
                ptr::from_ref(&region).cast(),
                &mut status
            ))
        };
        Buffer::created(raw, status)
    }
}

/// Something that is dropped together with a buffer.
pub type Keep = Box<dyn std::any::Any + Send>;

/// Called by the driver when a buffer over shared memory is gone.
unsafe extern "C" fn let_go(_memory: *mut c_void, kept: *mut c_void) {
    // SAFETY: the pointer that `Buffer::over` made of a box, given back once: a destructor callback is called once.
    drop(unsafe { Box::from_raw(kept.cast::<Keep>()) });
}

impl Program {
    /// A program from source.
    pub fn with_source(context: &Context, source: &[u8]) -> Result<Program, ClError> {
        // A length of 0 would mean a terminated string.
        let source = if source.is_empty() { b" " } else { source };
        let (text, len) = (source.as_ptr().cast(), source.len());
        let mut status = 0;
        // SAFETY: one string of the length given beside it, so that it needs no terminating zero.
        let raw = unsafe { cl!(clCreateProgramWithSource(context.raw(), 1, &text, &len, &mut status)) };
        Program::created(raw, status)
    }

    /// Builds for these devices, or all of the context's if there are none, and waits for it.
    pub fn build(&self, devices: &[&Device], options: &CStr) -> Result<(), ClError> {
        let ids: Vec<cl_device_id> = devices.iter().map(|device| device.raw()).collect();
        let count = u32::try_from(ids.len()).map_err(|_many| ClError::INVALID_VALUE)?;
        let list = if ids.is_empty() { ptr::null() } else { ids.as_ptr() };
        // SAFETY: `count` ids and a terminated string live during the call; without a callback it waits.
        checked(unsafe {
            cl!(clBuildProgram(self.raw(), count, list, options.as_ptr(), None, ptr::null_mut()))
        })
    }
}

impl Event {
    /// A user event.
    pub fn user(context: &Context) -> Result<Event, ClError> {
        let mut status = 0;
        // SAFETY: a live context.
        let raw = unsafe { cl!(clCreateUserEvent(context.raw(), &mut status)) };
        Event::created(raw, status)
    }

    /// Ends a user event; an error for other events.
    pub fn set_status(&self, status: i32) -> Result<(), ClError> {
        // SAFETY: a live event; the driver checks that it is a user event.
        let set = || checked(unsafe { cl!(clSetUserEventStatus(self.raw(), status)) });
        if status < 0 { failing(set) } else { set() }
    }

    /// `CL_EVENT_COMMAND_EXECUTION_STATUS`.
    pub fn status(&self) -> Result<i32, ClError> {
        let mut status = 0_i32;
        let to = ptr::from_mut(&mut status).cast();
        // SAFETY: a live event; the answer is one cl_int.
        checked(unsafe {
            cl!(clGetEventInfo(
                self.raw(),
                CL_EVENT_COMMAND_EXECUTION_STATUS,
                size_of::<i32>(),
                to,
                ptr::null_mut()
            ))
        })?;
        Ok(status)
    }
}
