//! Kernels, and what their arguments are set to.

use std::ffi::{CStr, c_void};
use std::ptr;

use cl3::kernel::CL_KERNEL_EXEC_INFO_SVM_PTRS;
use paragpu_protocol::kernel::ArgKind;

use super::arguments::kernel_args;
use super::handle::{Buffer, DeviceQueue, Pipe, Program, RawKernel, Sampler};
use super::image::Image;
use super::{checked, cl};
use crate::sys::compute::{Arg, ArgValue, ClError};

/// What an argument is set to, over this module's handles.
pub type HostArg<'a> = ArgValue<'a, Buffer, Image, Sampler, Pipe, DeviceQueue>;

/// A kernel, with what its arguments may be and the objects that they are set to.
#[derive(Debug)]
pub struct Kernel {
    raw: RawKernel,
    args: Vec<Arg>,
    // A driver need not retain the objects that arguments are set to (OpenCL 3.0, clSetKernelArg), and a guest
    // may release one before it launches.
    kept: Vec<Option<KeptArg>>,
}

/// An object that an argument is set to; held, never read.
#[derive(Clone, Debug)]
enum KeptArg {
    Buffer { _buffer: Buffer },
    Image { _image: Image },
    Sampler { _sampler: Sampler },
    Pipe { _pipe: Pipe },
    Queue { _queue: DeviceQueue },
}

impl KeptArg {
    fn of(value: HostArg<'_>) -> Option<KeptArg> {
        match value {
            ArgValue::Buffer(buffer) => buffer.cloned().map(|_buffer| KeptArg::Buffer { _buffer }),
            ArgValue::Image(image) => Some(KeptArg::Image { _image: image.clone() }),
            ArgValue::Sampler(sampler) => Some(KeptArg::Sampler { _sampler: sampler.clone() }),
            ArgValue::Pipe(pipe) => Some(KeptArg::Pipe { _pipe: pipe.clone() }),
            ArgValue::Queue(queue) => Some(KeptArg::Queue { _queue: queue.clone() }),
            ArgValue::Value(_) | ArgValue::Pointer(_) | ArgValue::Local(_) => None,
        }
    }
}

impl Kernel {
    /// The kernel of that name. `declared` is what is known of its arguments; without it, the program must have been built
    /// with `-cl-kernel-arg-info`.
    pub fn new(program: &Program, name: &CStr, declared: Option<&[Arg]>) -> Result<Kernel, ClError> {
        let mut status = 0;
        // SAFETY: a live program and a terminated string.
        let raw = unsafe { cl!(clCreateKernel(program.raw(), name.as_ptr(), &mut status)) };
        let raw = RawKernel::created(raw, status)?;
        let args = kernel_args(&raw, declared)?;
        Ok(Kernel { kept: vec![None; args.len()], raw, args })
    }

    pub(super) fn raw(&self) -> *mut c_void {
        self.raw.raw()
    }

    /// Its arguments.
    pub fn args(&self) -> &[Arg] {
        &self.args
    }

    /// Tells the driver which memory the kernel reaches through pointers in memory.
    pub fn set_reachable(&mut self, addresses: &[usize]) -> Result<(), ClError> {
        let (len, list) = (size_of_val(addresses), addresses.as_ptr().cast());
        let list = if addresses.is_empty() { ptr::null() } else { list };
        // SAFETY: a live kernel and an array of as many addresses as the length says; `&mut self` keeps other threads out.
        checked(unsafe { cl!(clSetKernelExecInfo(self.raw(), CL_KERNEL_EXEC_INFO_SVM_PTRS, len, list)) })
    }

    /// Sets an argument; to something that its kind does not allow is an error.
    pub fn set(&mut self, index: u32, value: HostArg<'_>) -> Result<(), ClError> {
        let at = index as usize;
        let arg = *self.args.get(at).ok_or(ClError::INVALID_ARG_VALUE)?;
        if let (ArgKind::Buffer, ArgValue::Pointer(address)) = (arg.kind, value) {
            let pointer = ptr::without_provenance::<c_void>(address);
            // SAFETY: a live kernel and an argument that is a pointer to memory; the driver hands the address to the kernel
            // and does not follow it. `&mut self` keeps other threads out.
            checked(unsafe { cl!(clSetKernelArgSVMPointer(self.raw(), index, pointer)) })?;
            if let Some(kept) = self.kept.get_mut(at) {
                *kept = None;
            }
            return Ok(());
        }
        let object;
        let (len, pointer): (usize, *const c_void) = match (arg.kind, value) {
            (ArgKind::Value, ArgValue::Value(bytes)) => {
                if arg.size != 0 && arg.size as usize != bytes.len() {
                    return Err(ClError::INVALID_ARG_SIZE);
                }
                (bytes.len(), bytes.as_ptr().cast())
            }
            (ArgKind::Buffer, ArgValue::Buffer(buffer)) => {
                object = buffer.map_or(ptr::null_mut(), Buffer::raw);
                (size_of_val(&object), ptr::from_ref(&object).cast())
            }
            (ArgKind::Image, ArgValue::Image(image)) => {
                object = image.raw();
                (size_of_val(&object), ptr::from_ref(&object).cast())
            }
            (ArgKind::Sampler, ArgValue::Sampler(sampler)) => {
                object = sampler.raw();
                (size_of_val(&object), ptr::from_ref(&object).cast())
            }
            (ArgKind::Pipe, ArgValue::Pipe(pipe)) => {
                object = pipe.raw();
                (size_of_val(&object), ptr::from_ref(&object).cast())
            }
            (ArgKind::Queue, ArgValue::Queue(queue)) => {
                object = queue.raw();
                (size_of_val(&object), ptr::from_ref(&object).cast())
            }
            (ArgKind::Local, ArgValue::Local(size)) => (size, ptr::null()),
            _ => return Err(ClError::INVALID_ARG_VALUE),
        };
        // SAFETY: `len` bytes lie at `pointer`, and they are what the compiler said this argument is: plain
        // bytes for a value, a live cl_mem or null for a buffer, a live handle of its kind for an image, a sampler, a pipe
        // or a queue, nothing for local memory. So no handle or pointer is ever made of bytes that a guest chose.
        // `&mut self` keeps other threads out.
        checked(unsafe { cl!(clSetKernelArg(self.raw(), index, len, pointer)) })?;
        if let Some(kept) = self.kept.get_mut(at) {
            *kept = KeptArg::of(value);
        }
        Ok(())
    }
}
