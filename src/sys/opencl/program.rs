//! Programs that do not come from one piece of source: intermediate language, built-in kernels, compiling and linking.

use std::ffi::{CStr, c_char, c_void};
use std::ptr;

use cl3::kernel::CL_KERNEL_ARG_ADDRESS_QUALIFIER;
use cl3::program::{
    CL_PROGRAM_BINARIES, CL_PROGRAM_BINARY_SIZES, CL_PROGRAM_DEVICES, CL_PROGRAM_KERNEL_NAMES,
    CL_PROGRAM_NUM_DEVICES,
};
use cl3::types::{cl_device_id, cl_program};

use super::handle::{Context, Program, RawKernel};
use super::query::{self, Device, Platform, kernel_arg_count};
use super::{checked, cl};
use crate::sys::compute::{ClError, Linked, Query};

/// What a program is compiled with so that its kernels' arguments are known.
const ARG_INFO: &CStr = c"-cl-kernel-arg-info";

fn ids(devices: &[&Device]) -> Result<(u32, Vec<cl_device_id>), ClError> {
    let ids: Vec<cl_device_id> = devices.iter().map(|device| device.raw()).collect();
    Ok((count(ids.len())?, ids))
}

/// A list for a driver: null if there is nothing in it.
fn list<T>(items: &[T]) -> *const T {
    if items.is_empty() { ptr::null() } else { items.as_ptr() }
}

fn count(len: usize) -> Result<u32, ClError> {
    u32::try_from(len).map_err(|_many| ClError::INVALID_VALUE)
}

impl Program {
    /// A program from SPIR-V. `platform` is the context's.
    pub fn with_il(platform: Platform, context: &Context, il: &[u8]) -> Result<Program, ClError> {
        // Loaders call through the driver's table without looking, and older tables end before this entry.
        if platform.version() < (2, 1) {
            return Err(ClError::INVALID_OPERATION);
        }
        let mut status = 0;
        // SAFETY: a live context, and as many bytes as are said.
        let raw =
            unsafe { cl!(clCreateProgramWithIL(context.raw(), il.as_ptr().cast(), il.len(), &mut status)) };
        Program::created(raw, status)
    }

    /// A program of the devices' built-in kernels of these names, which semicolons separate.
    pub fn with_built_in_kernels(
        context: &Context,
        devices: &[&Device],
        names: &CStr,
    ) -> Result<Program, ClError> {
        let (count, ids) = ids(devices)?;
        let mut status = 0;
        // SAFETY: a live context; `count` ids and a terminated string live during the call.
        let raw = unsafe {
            cl!(clCreateProgramWithBuiltInKernels(
                context.raw(),
                count,
                ids.as_ptr(),
                names.as_ptr(),
                &mut status
            ))
        };
        Program::created(raw, status)
    }

    /// Sets a specialization constant of a program from SPIR-V. `platform` is the program's.
    pub fn set_spec_constant(&self, platform: Platform, id: u32, value: &[u8]) -> Result<(), ClError> {
        if platform.version() < (2, 2) {
            return Err(ClError::INVALID_OPERATION);
        }
        // SAFETY: a live program, and as many bytes as are said.
        checked(unsafe {
            cl!(clSetProgramSpecializationConstant(self.raw(), id, value.len(), value.as_ptr().cast()))
        })
    }

    /// Compiles for these devices, or all of the context's if there are none, and waits for it. Headers have the names by which they are included.
    pub fn compile(
        &self,
        devices: &[&Device],
        options: &CStr,
        headers: &[(&CStr, &Program)],
    ) -> Result<(), ClError> {
        let (device_count, ids) = ids(devices)?;
        let header_count = count(headers.len())?;
        let programs: Vec<cl_program> = headers.iter().map(|(_, program)| program.raw()).collect();
        let names: Vec<*const c_char> = headers.iter().map(|(name, _)| name.as_ptr()).collect();
        // SAFETY: as many ids, live programs and terminated strings as are said live during the call; without a callback
        // it waits.
        checked(unsafe {
            cl!(clCompileProgram(
                self.raw(),
                device_count,
                list(&ids),
                options.as_ptr(),
                header_count,
                list(&programs),
                list(&names),
                None,
                ptr::null_mut()
            ))
        })
    }

    /// Links programs for these devices, or all of the context's if there are none, and waits for it. `platform` is the
    /// context's.
    pub fn link(
        platform: Platform,
        context: &Context,
        devices: &[&Device],
        options: &CStr,
        inputs: &[&Program],
    ) -> Linked<Program> {
        let linked = Program::try_link(context, devices, options, inputs)
            .unwrap_or_else(|error| Linked { program: None, outcome: Err(error) });
        match linked {
            Linked { program: Some(program), outcome: Ok(()) } => {
                let program = program.with_known_arguments(platform, context);
                Linked { program: Some(program), outcome: Ok(()) }
            }
            Linked { program: None, outcome: Ok(()) } => {
                Linked { program: None, outcome: Err(ClError::LINK_PROGRAM_FAILURE) }
            }
            failed => failed,
        }
    }

    fn try_link(
        context: &Context,
        devices: &[&Device],
        options: &CStr,
        inputs: &[&Program],
    ) -> Result<Linked<Program>, ClError> {
        let (device_count, ids) = ids(devices)?;
        let input_count = count(inputs.len())?;
        let programs: Vec<cl_program> = inputs.iter().map(|program| program.raw()).collect();
        // PoCL knows the arguments of the kernels of what it linked without options, not of what it linked with none.
        let options = if options.is_empty() { ptr::null() } else { options.as_ptr() };
        let mut status = 0;
        // SAFETY: a live context; as many ids and live programs as are said, and null or a terminated string, live during
        // the call; without a callback it waits.
        let raw = unsafe {
            cl!(clLinkProgram(
                context.raw(),
                device_count,
                list(&ids),
                options,
                input_count,
                list(&programs),
                None,
                ptr::null_mut(),
                &mut status
            ))
        }?;
        // A failure may come with a program all the same, which has the log.
        let program = if raw.is_null() { None } else { Some(Program::created(Ok(raw), 0)?) };
        let outcome = if status == 0 { Ok(()) } else { Err(ClError::from_code(status)) };
        Ok(Linked { program, outcome })
    }

    /// The same program, if the arguments of its kernels are known or cannot be; otherwise one that was loaded from its
    /// binary, so that the option that makes them known can be given.
    fn with_known_arguments(self, platform: Platform, context: &Context) -> Program {
        let unknown = self.unknown_kernels(platform);
        if unknown == 0 {
            return self;
        }
        match self.reloaded(context) {
            Ok(reloaded) if reloaded.unknown_kernels(platform) < unknown => reloaded,
            // Intel's driver for processors knows nothing of what it loaded.
            Ok(_) => self,
            Err(error) => {
                log::debug!("a linked program could not be loaded from its binary: {error}");
                self
            }
        }
    }

    /// How many kernels there are of whose arguments the driver says nothing.
    fn unknown_kernels(&self, platform: Platform) -> usize {
        // A library has no kernels.
        let Ok(names) = query::query(platform, Query::Program(self), CL_PROGRAM_KERNEL_NAMES) else {
            return 0;
        };
        let names = names.split(|byte| matches!(byte, b';' | 0)).filter(|name| !name.is_empty());
        let is_unknown = |kernel: &RawKernel| {
            let arguments = kernel_arg_count(kernel).unwrap_or(0);
            arguments > 0
                && query::arg_info(kernel, 0, CL_KERNEL_ARG_ADDRESS_QUALIFIER)
                    == Err(ClError::ARG_INFO_NOT_AVAILABLE)
        };
        names.filter_map(|name| self.raw_kernel(name)).filter(is_unknown).count()
    }

    fn raw_kernel(&self, name: &[u8]) -> Option<RawKernel> {
        let name = std::ffi::CString::new(name).ok()?;
        let mut status = 0;
        // SAFETY: a live program and a terminated string.
        let raw = unsafe { cl!(clCreateKernel(self.raw(), name.as_ptr(), &mut status)) };
        RawKernel::created(raw, status).ok()
    }

    fn reloaded(&self, context: &Context) -> Result<Program, ClError> {
        let (devices, binaries) = self.binaries()?;
        if binaries.iter().any(Vec::is_empty) {
            return Err(ClError::INVALID_VALUE);
        }
        let lengths: Vec<usize> = binaries.iter().map(Vec::len).collect();
        let pointers: Vec<*const u8> = binaries.iter().map(|binary| binary.as_ptr()).collect();
        let (count, mut status) = (count(devices.len())?, 0);
        // SAFETY: a live context; as many devices of the context, lengths, and pointers to that many bytes, live during the
        // call.
        let raw = unsafe {
            cl!(clCreateProgramWithBinary(
                context.raw(),
                count,
                devices.as_ptr(),
                lengths.as_ptr(),
                pointers.as_ptr(),
                ptr::null_mut(),
                &mut status
            ))
        };
        let program = Program::created(raw, status)?;
        program.build(&[], ARG_INFO)?;
        Ok(program)
    }

    /// The program's devices, and the binary of each.
    fn binaries(&self) -> Result<(Vec<cl_device_id>, Vec<Vec<u8>>), ClError> {
        let ask = |param, len: usize, to: *mut c_void| {
            // SAFETY: a live program; `to` has room for `len` bytes.
            checked(unsafe { cl!(clGetProgramInfo(self.raw(), param, len, to, ptr::null_mut())) })
        };
        let mut count = 0_u32;
        ask(CL_PROGRAM_NUM_DEVICES, size_of::<u32>(), ptr::from_mut(&mut count).cast())?;
        let mut devices: Vec<cl_device_id> = vec![ptr::null_mut(); count as usize];
        ask(CL_PROGRAM_DEVICES, size_of_val(&*devices), devices.as_mut_ptr().cast())?;
        let mut sizes = vec![0_usize; count as usize];
        ask(CL_PROGRAM_BINARY_SIZES, size_of_val(&*sizes), sizes.as_mut_ptr().cast())?;
        let mut binaries: Vec<Vec<u8>> = sizes.iter().map(|size| vec![0; *size]).collect();
        let mut pointers: Vec<*mut u8> = binaries.iter_mut().map(|binary| binary.as_mut_ptr()).collect();
        // What the driver follows: each pointer has room for what the driver has just said is written there.
        ask(CL_PROGRAM_BINARIES, size_of_val(&*pointers), pointers.as_mut_ptr().cast())?;
        Ok((devices, binaries))
    }
}
