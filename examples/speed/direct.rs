//! Commands whose event nobody wants: most programs give no place for one, and opencl3 always does.

use std::ffi::{CStr, c_void};
use std::ptr;

use anyhow::{Result, ensure};
use opencl3::types::{CL_TRUE, cl_command_queue, cl_event, cl_kernel, cl_map_flags, cl_mem};

type NdRange = unsafe extern "C" fn(
    cl_command_queue,
    cl_kernel,
    u32,
    *const usize,
    *const usize,
    *const usize,
    u32,
    *const cl_event,
    *mut cl_event,
) -> i32;
type Transfer = unsafe extern "C" fn(
    cl_command_queue,
    cl_mem,
    u32,
    usize,
    usize,
    *mut c_void,
    u32,
    *const cl_event,
    *mut cl_event,
) -> i32;
type Copy = unsafe extern "C" fn(
    cl_command_queue,
    cl_mem,
    cl_mem,
    usize,
    usize,
    usize,
    u32,
    *const cl_event,
    *mut cl_event,
) -> i32;
type Fill = unsafe extern "C" fn(
    cl_command_queue,
    cl_mem,
    *const c_void,
    usize,
    usize,
    usize,
    u32,
    *const cl_event,
    *mut cl_event,
) -> i32;
type Map = unsafe extern "C" fn(
    cl_command_queue,
    cl_mem,
    u32,
    cl_map_flags,
    usize,
    usize,
    u32,
    *const cl_event,
    *mut cl_event,
    *mut i32,
) -> *mut c_void;
type Unmap =
    unsafe extern "C" fn(cl_command_queue, cl_mem, *mut c_void, u32, *const cl_event, *mut cl_event) -> i32;

/// The loader's functions.
pub(crate) struct Direct {
    nd_range: NdRange,
    read: Transfer,
    write: Transfer,
    copy: Copy,
    fill: Fill,
    map: Map,
    unmap: Unmap,
}

impl Direct {
    /// Takes them from the loader, which opencl3 has loaded too.
    pub(crate) fn load() -> Result<Direct> {
        // SAFETY: OpenCL's loader, whose initialisers may run at any time.
        let library = unsafe { libc::dlopen(c"libOpenCL.so.1".as_ptr(), libc::RTLD_NOW) };
        ensure!(!library.is_null(), "cannot load libOpenCL.so.1");
        let symbol = |name: &CStr| {
            // SAFETY: a loaded library and a terminated string.
            let address = unsafe { libc::dlsym(library, name.as_ptr()) };
            ensure!(!address.is_null(), "OpenCL has no {name:?}");
            Ok(address)
        };
        // SAFETY: each function has the type that OpenCL's headers give it.
        unsafe {
            use std::mem::transmute as function;
            Ok(Direct {
                nd_range: function::<*mut c_void, NdRange>(symbol(c"clEnqueueNDRangeKernel")?),
                read: function::<*mut c_void, Transfer>(symbol(c"clEnqueueReadBuffer")?),
                write: function::<*mut c_void, Transfer>(symbol(c"clEnqueueWriteBuffer")?),
                copy: function::<*mut c_void, Copy>(symbol(c"clEnqueueCopyBuffer")?),
                fill: function::<*mut c_void, Fill>(symbol(c"clEnqueueFillBuffer")?),
                map: function::<*mut c_void, Map>(symbol(c"clEnqueueMapBuffer")?),
                unmap: function::<*mut c_void, Unmap>(symbol(c"clEnqueueUnmapMemObject")?),
            })
        }
    }

    /// Enqueues a kernel.
    ///
    /// # Safety
    /// The handles are valid, and the kernel's arguments are set to what it may use with these sizes.
    pub(crate) unsafe fn launch(
        &self,
        queue: cl_command_queue,
        kernel: cl_kernel,
        global: &[usize],
        local: &[usize],
    ) -> Result<()> {
        assert!(local.is_empty() || local.len() == global.len());
        let local = if local.is_empty() { ptr::null() } else { local.as_ptr() };
        let (dimensions, global) = (global.len() as u32, global.as_ptr());
        // SAFETY: as this function asks; there are as many sizes as dimensions, and no events.
        let status = unsafe {
            (self.nd_range)(
                queue,
                kernel,
                dimensions,
                ptr::null(),
                global,
                local,
                0,
                ptr::null(),
                ptr::null_mut(),
            )
        };
        ensure!(status == 0, "clEnqueueNDRangeKernel: {status}");
        Ok(())
    }

    /// Reads bytes, and waits for them.
    ///
    /// # Safety
    /// The handles are valid.
    pub(crate) unsafe fn read(&self, queue: cl_command_queue, buffer: cl_mem, to: &mut [u8]) -> Result<()> {
        let (len, to) = (to.len(), to.as_mut_ptr().cast());
        // SAFETY: as this function asks; the memory is as long as what is read, and ours until this returns.
        let status =
            unsafe { (self.read)(queue, buffer, CL_TRUE, 0, len, to, 0, ptr::null(), ptr::null_mut()) };
        ensure!(status == 0, "clEnqueueReadBuffer: {status}");
        Ok(())
    }

    /// Writes bytes, and waits until they are written.
    ///
    /// # Safety
    /// The handles are valid.
    pub(crate) unsafe fn write(&self, queue: cl_command_queue, buffer: cl_mem, from: &[u8]) -> Result<()> {
        let (len, from) = (from.len(), from.as_ptr().cast_mut().cast());
        // SAFETY: as this function asks; the memory is as long as what is written, is not written to, and stays until this
        // returns.
        let status =
            unsafe { (self.write)(queue, buffer, CL_TRUE, 0, len, from, 0, ptr::null(), ptr::null_mut()) };
        ensure!(status == 0, "clEnqueueWriteBuffer: {status}");
        Ok(())
    }

    /// Enqueues a copy of the first bytes of a buffer to another one.
    ///
    /// # Safety
    /// The handles are valid.
    pub(crate) unsafe fn copy(
        &self,
        queue: cl_command_queue,
        from: cl_mem,
        to: cl_mem,
        len: usize,
    ) -> Result<()> {
        // SAFETY: as this function asks; OpenCL checks the bounds.
        let status = unsafe { (self.copy)(queue, from, to, 0, 0, len, 0, ptr::null(), ptr::null_mut()) };
        ensure!(status == 0, "clEnqueueCopyBuffer: {status}");
        Ok(())
    }

    /// Enqueues that the first bytes of a buffer become repetitions of a word.
    ///
    /// # Safety
    /// The handles are valid.
    pub(crate) unsafe fn fill(
        &self,
        queue: cl_command_queue,
        buffer: cl_mem,
        word: u32,
        len: usize,
    ) -> Result<()> {
        let pattern = (&raw const word).cast();
        // SAFETY: as this function asks; the pattern is four bytes, which OpenCL copies.
        let status =
            unsafe { (self.fill)(queue, buffer, pattern, 4, 0, len, 0, ptr::null(), ptr::null_mut()) };
        ensure!(status == 0, "clEnqueueFillBuffer: {status}");
        Ok(())
    }

    /// Maps the first bytes of a buffer, and waits for it.
    ///
    /// # Safety
    /// The handles are valid.
    pub(crate) unsafe fn map(
        &self,
        queue: cl_command_queue,
        buffer: cl_mem,
        flags: cl_map_flags,
        len: usize,
    ) -> Result<*mut c_void> {
        let mut status = 0;
        // SAFETY: as this function asks, and there is a place for the error.
        let address = unsafe {
            (self.map)(queue, buffer, CL_TRUE, flags, 0, len, 0, ptr::null(), ptr::null_mut(), &mut status)
        };
        ensure!(status == 0 && !address.is_null(), "clEnqueueMapBuffer: {status}");
        Ok(address)
    }

    /// Enqueues the end of a mapping.
    ///
    /// # Safety
    /// The handles are valid, and nothing uses the mapping any more.
    pub(crate) unsafe fn unmap(
        &self,
        queue: cl_command_queue,
        buffer: cl_mem,
        mapped: *mut c_void,
    ) -> Result<()> {
        // SAFETY: as this function asks.
        let status = unsafe { (self.unmap)(queue, buffer, mapped, 0, ptr::null(), ptr::null_mut()) };
        ensure!(status == 0, "clEnqueueUnmapMemObject: {status}");
        Ok(())
    }
}
