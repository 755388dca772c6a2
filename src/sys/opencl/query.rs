//! Platforms, devices and information queries.

use std::ffi::c_void;
use std::ptr;
use std::sync::{Mutex, PoisonError};

use cl3::device::{
    CL_DEVICE_GLOBAL_MEM_SIZE, CL_DEVICE_IL_VERSION, CL_DEVICE_ILS_WITH_VERSION,
    CL_DEVICE_IMAGE_MAX_ARRAY_SIZE, CL_DEVICE_IMAGE_MAX_BUFFER_SIZE, CL_DEVICE_IMAGE_SUPPORT,
    CL_DEVICE_IMAGE2D_MAX_HEIGHT, CL_DEVICE_IMAGE2D_MAX_WIDTH, CL_DEVICE_IMAGE3D_MAX_DEPTH,
    CL_DEVICE_IMAGE3D_MAX_HEIGHT, CL_DEVICE_IMAGE3D_MAX_WIDTH, CL_DEVICE_LOCAL_MEM_SIZE,
    CL_DEVICE_MAX_COMPUTE_UNITS, CL_DEVICE_MAX_MEM_ALLOC_SIZE, CL_DEVICE_MAX_WORK_GROUP_SIZE,
    CL_DEVICE_MAX_WORK_ITEM_SIZES, CL_DEVICE_NAME, CL_DEVICE_SVM_CAPABILITIES,
    CL_DEVICE_SVM_COARSE_GRAIN_BUFFER, CL_DEVICE_SVM_FINE_GRAIN_BUFFER, CL_DEVICE_SVM_FINE_GRAIN_SYSTEM,
    CL_DEVICE_TYPE, CL_DEVICE_TYPE_ALL, CL_DEVICE_TYPE_CPU, CL_DEVICE_VERSION,
};
use cl3::kernel::{
    CL_KERNEL_ARG_ACCESS_QUALIFIER, CL_KERNEL_ARG_ACCESS_READ_ONLY, CL_KERNEL_ARG_ACCESS_READ_WRITE,
    CL_KERNEL_ARG_ACCESS_WRITE_ONLY, CL_KERNEL_ARG_ADDRESS_CONSTANT, CL_KERNEL_ARG_ADDRESS_GLOBAL,
    CL_KERNEL_ARG_ADDRESS_LOCAL, CL_KERNEL_ARG_ADDRESS_QUALIFIER, CL_KERNEL_ARG_TYPE_NAME,
    CL_KERNEL_ARG_TYPE_PIPE, CL_KERNEL_ARG_TYPE_QUALIFIER, CL_KERNEL_LOCAL_SIZE_FOR_SUB_GROUP_COUNT,
    CL_KERNEL_NUM_ARGS,
};
use cl3::platform::{CL_PLATFORM_NAME, CL_PLATFORM_VERSION};
use paragpu_protocol::kernel::{ACCESS_READ, ACCESS_WRITE, ArgKind, type_size};
use paragpu_protocol::limits::{MAX_INFO_BYTES, MAX_KERNEL_ARGS};
use paragpu_protocol::svm::MemoryModel;

use super::handle::{Program, RawKernel, SubDevice};
use super::kernel::Kernel;
use super::{checked, cl};
use crate::sys::compute::{Arg, ClError, DeviceLimits, HostDevice, Query, SubGroupInput};
use crate::sys::image::ImageLimits;

/// A platform. Platforms live as long as the process.
#[derive(Clone, Copy, Debug)]
pub struct Platform(*mut c_void);

/// A device.
#[derive(Clone, Debug)]
pub struct Device(Id);

#[derive(Clone, Debug)]
enum Id {
    /// Root devices live as long as the process.
    Root(*mut c_void),
    /// Others as long as there is a handle.
    Sub(SubDevice),
}

// SAFETY: an id that is valid in every thread for the whole life of the process.
unsafe impl Send for Platform {}
// SAFETY: as for `Send`.
unsafe impl Sync for Platform {}
// SAFETY: an id that is valid in every thread for the whole life of the process, or a handle that may be sent.
unsafe impl Send for Device {}
// SAFETY: as for `Send`.
unsafe impl Sync for Device {}

/// Held while drivers start up, which PoCL 3.1 does not survive in two threads at once.
static STARTING: Mutex<()> = Mutex::new(());

/// All platforms of the host.
pub fn platforms() -> Result<Vec<Platform>, ClError> {
    let _one_at_a_time = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    let ids = list(|room, ids, count| {
        // SAFETY: `ids` has `room` entries, or is null with no room; `count` is writable.
        unsafe { cl!(clGetPlatformIDs(room, ids, count)) }
    })?;
    Ok(ids.into_iter().map(Platform).collect())
}

/// The two calls by which OpenCL lists things: how many, then which.
fn list(
    call: impl Fn(u32, *mut *mut c_void, *mut u32) -> Result<i32, ClError>,
) -> Result<Vec<*mut c_void>, ClError> {
    let mut count = 0;
    checked(call(0, ptr::null_mut(), &mut count))?;
    let mut ids = vec![ptr::null_mut(); count as usize];
    checked(call(count, ids.as_mut_ptr(), &mut count))?;
    ids.truncate(count as usize);
    Ok(ids)
}

/// The two calls by which OpenCL answers: how long, then what. The room is zeroed first.
pub(super) fn answer(
    call: impl Fn(usize, *mut c_void, *mut usize) -> Result<i32, ClError>,
) -> Result<Vec<u8>, ClError> {
    let mut len = 0;
    checked(call(0, ptr::null_mut(), &mut len))?;
    if len > MAX_INFO_BYTES {
        return Err(ClError::OUT_OF_HOST_MEMORY);
    }
    let mut bytes = vec![0; len];
    checked(call(len, bytes.as_mut_ptr().cast(), &mut len))?;
    bytes.truncate(len);
    Ok(bytes)
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).trim_end_matches('\0').trim().to_owned()
}

/// Major and minor of "OpenCL<space><major>.<minor><space>…".
fn version(bytes: Vec<u8>) -> (u32, u32) {
    let text = text(bytes);
    let mut numbers = text.split([' ', '.']).skip(1).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(1), numbers.next().unwrap_or(0))
}

pub(super) fn number(bytes: &[u8]) -> u64 {
    let mut wide = [0; 8];
    let len = bytes.len().min(8);
    wide[..len].copy_from_slice(&bytes[..len]);
    u64::from_le_bytes(wide)
}

impl Platform {
    pub(super) fn raw(self) -> *mut c_void {
        self.0
    }

    /// `clGetPlatformInfo`.
    pub fn info(self, param: u32) -> Result<Vec<u8>, ClError> {
        answer(|len, to, full| {
            // SAFETY: a platform that the loader gave out; `to` has room for `len` bytes.
            unsafe { cl!(clGetPlatformInfo(self.0, param, len, to, full)) }
        })
    }

    /// `CL_PLATFORM_NAME`.
    pub fn name(self) -> Result<String, ClError> {
        self.info(CL_PLATFORM_NAME).map(text)
    }

    /// Its OpenCL version, major and minor.
    pub fn version(self) -> (u32, u32) {
        self.info(CL_PLATFORM_VERSION).map_or((1, 0), version)
    }

    /// Its devices.
    pub fn devices(self) -> Result<Vec<Device>, ClError> {
        let _one_at_a_time = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
        let ids = list(|room, ids, count| {
            // SAFETY: as in `platforms`, on a platform that the loader gave out.
            unsafe { cl!(clGetDeviceIDs(self.0, CL_DEVICE_TYPE_ALL, room, ids, count)) }
        })?;
        Ok(ids.into_iter().map(|id| Device(Id::Root(id))).collect())
    }
}

impl Device {
    pub(super) fn raw(&self) -> *mut c_void {
        match &self.0 {
            Id::Root(id) => *id,
            Id::Sub(handle) => handle.raw(),
        }
    }

    /// True if there is no other handle for this sub-device.
    pub(super) fn is_only(&self) -> bool {
        matches!(&self.0, Id::Sub(handle) if handle.is_only())
    }

    pub(super) fn sub(handle: SubDevice) -> Device {
        Device(Id::Sub(handle))
    }

    /// `clGetDeviceInfo`.
    pub fn info(&self, param: u32) -> Result<Vec<u8>, ClError> {
        answer(|len, to, full| {
            // SAFETY: a device that its platform gave out or that is held; `to` has room for `len` bytes.
            unsafe { cl!(clGetDeviceInfo(self.raw(), param, len, to, full)) }
        })
    }

    /// Its OpenCL version, major and minor.
    pub(super) fn version(&self) -> (u32, u32) {
        self.info(CL_DEVICE_VERSION).map_or((1, 0), version)
    }

    /// `CL_DEVICE_TYPE`.
    pub fn kind(&self) -> u64 {
        self.info(CL_DEVICE_TYPE).map_or(0, |bytes| number(&bytes))
    }

    /// Kernels reach any memory of this process at its own address by the driver's word, or because the device is the
    /// processor that runs this process (then kernels are code in it).
    fn memory_model(&self) -> MemoryModel {
        // Drivers before OpenCL 2.0 do not know the question, nor the entry points that follow from the answer.
        let svm = self.info(CL_DEVICE_SVM_CAPABILITIES).map_or(0, |bytes| number(&bytes));
        let is_cpu = self.kind() & CL_DEVICE_TYPE_CPU != 0;
        let is_shared = svm & CL_DEVICE_SVM_FINE_GRAIN_SYSTEM != 0
            || (is_cpu && svm & CL_DEVICE_SVM_FINE_GRAIN_BUFFER != 0);
        match svm & CL_DEVICE_SVM_COARSE_GRAIN_BUFFER {
            _ if is_shared => MemoryModel::Shared,
            0 => MemoryModel::Apart,
            _ => MemoryModel::Coarse,
        }
    }

    /// The device with what the host decides by.
    pub fn with_limits(self) -> Result<HostDevice<Device>, ClError> {
        Ok(HostDevice { limits: self.limits()?, handle: self })
    }

    /// Its name, its memory in bytes and its compute units.
    pub fn summary(&self) -> Result<(String, u64, u32), ClError> {
        let memory = number(&self.info(CL_DEVICE_GLOBAL_MEM_SIZE)?);
        let units = number(&self.info(CL_DEVICE_MAX_COMPUTE_UNITS)?);
        Ok((text(self.info(CL_DEVICE_NAME)?), memory, units as u32))
    }

    fn limits(&self) -> Result<DeviceLimits, ClError> {
        let sizes = self.info(CL_DEVICE_MAX_WORK_ITEM_SIZES)?;
        let mut max_work_items = [1; 3];
        for (size, bytes) in max_work_items.iter_mut().zip(sizes.chunks_exact(size_of::<usize>())) {
            *size = number(bytes) as usize;
        }
        Ok(DeviceLimits {
            name: text(self.info(CL_DEVICE_NAME)?),
            max_alloc: number(&self.info(CL_DEVICE_MAX_MEM_ALLOC_SIZE)?),
            local_memory: number(&self.info(CL_DEVICE_LOCAL_MEM_SIZE)?),
            max_work_group: number(&self.info(CL_DEVICE_MAX_WORK_GROUP_SIZE)?) as usize,
            max_work_items,
            images: self.image_limits()?,
            memory: self.memory_model(),
        })
    }

    fn image_limits(&self) -> Result<Option<ImageLimits>, ClError> {
        let ask = |param| self.info(param).map(|bytes| number(&bytes));
        if ask(CL_DEVICE_IMAGE_SUPPORT)? == 0 {
            return Ok(None);
        }
        Ok(Some(ImageLimits {
            max_2d: [ask(CL_DEVICE_IMAGE2D_MAX_WIDTH)?, ask(CL_DEVICE_IMAGE2D_MAX_HEIGHT)?],
            max_3d: [
                ask(CL_DEVICE_IMAGE3D_MAX_WIDTH)?,
                ask(CL_DEVICE_IMAGE3D_MAX_HEIGHT)?,
                ask(CL_DEVICE_IMAGE3D_MAX_DEPTH)?,
            ],
            max_array: ask(CL_DEVICE_IMAGE_MAX_ARRAY_SIZE)?,
            max_buffer: ask(CL_DEVICE_IMAGE_MAX_BUFFER_SIZE)?,
        }))
    }
}

/// Asks about anything but a platform's own handles; `param` has been allowed by the caller.
pub fn query(
    platform: Platform,
    query: Query<'_, Device, Program, Kernel>,
    param: u32,
) -> Result<Vec<u8>, ClError> {
    match query {
        Query::Platform => platform.info(param),
        // Intermediate language by the extension's own entry point is not offered.
        Query::Device(_)
            if matches!(param, CL_DEVICE_IL_VERSION | CL_DEVICE_ILS_WITH_VERSION)
                && platform.version() < (2, 1) =>
        {
            Err(ClError::INVALID_VALUE)
        }
        Query::Device(device) => device.info(param),
        Query::DeviceTimers(device) => {
            // Loaders call through the driver's table without looking, and older tables end before this entry.
            if platform.version() < (2, 1) {
                return Err(ClError::INVALID_OPERATION);
            }
            let (mut of_device, mut of_host) = (0_u64, 0_u64);
            // SAFETY: a live device; both times are writable.
            checked(unsafe { cl!(clGetDeviceAndHostTimer(device.raw(), &mut of_device, &mut of_host)) })?;
            Ok([of_device.to_le_bytes(), of_host.to_le_bytes()].concat())
        }
        Query::Program(program) => answer(|len, to, full| {
            // SAFETY: a live program; `to` has room for `len` bytes.
            unsafe { cl!(clGetProgramInfo(program.raw(), param, len, to, full)) }
        }),
        Query::ProgramBuild(program, device) => answer(|len, to, full| {
            // SAFETY: a live program and device; `to` has room for `len` bytes.
            unsafe { cl!(clGetProgramBuildInfo(program.raw(), device.raw(), param, len, to, full)) }
        }),
        Query::Kernel(kernel) => answer(|len, to, full| {
            // SAFETY: a live kernel; `to` has room for `len` bytes.
            unsafe { cl!(clGetKernelInfo(kernel.raw(), param, len, to, full)) }
        }),
        Query::KernelWorkGroup(kernel, device) => answer(|len, to, full| {
            // SAFETY: a live kernel and device; `to` has room for `len` bytes.
            unsafe { cl!(clGetKernelWorkGroupInfo(kernel.raw(), device.raw(), param, len, to, full)) }
        }),
        Query::KernelArg(kernel, index) => answer(|len, to, full| {
            // SAFETY: a live kernel; `to` has room for `len` bytes.
            unsafe { cl!(clGetKernelArgInfo(kernel.raw(), index, param, len, to, full)) }
        }),
        Query::KernelSubGroup(kernel, device, input) => {
            // Loaders call through the driver's table without looking, and older tables end before this entry.
            if platform.version() < (2, 1) {
                return Err(ClError::INVALID_OPERATION);
            }
            let device = device.raw();
            let SubGroupInput { value, room } = input;
            let (input_len, input) =
                (value.len(), if value.is_empty() { ptr::null() } else { value.as_ptr().cast() });
            let ask = |len, to, full: *mut usize| {
                // SAFETY: a live kernel and device; `input_len` bytes of input and room for `len` bytes.
                unsafe {
                    cl!(clGetKernelSubGroupInfo(kernel.raw(), device, param, input_len, input, len, to, full))
                }
            };
            if param != CL_KERNEL_LOCAL_SIZE_FOR_SUB_GROUP_COUNT {
                return answer(ask);
            }
            // The room says how many dimensions are asked for.
            let mut sizes = vec![0; room.min(3 * size_of::<usize>())];
            let (mut len, to) =
                (0, if sizes.is_empty() { ptr::null_mut() } else { sizes.as_mut_ptr().cast() });
            checked(ask(sizes.len(), to, &mut len))?;
            sizes.resize(len.min(3 * size_of::<usize>()), 0);
            Ok(sizes)
        }
    }
}

/// How many arguments a kernel has.
pub(super) fn kernel_arg_count(kernel: &RawKernel) -> Result<u32, ClError> {
    let count = answer(|len, to, full| {
        // SAFETY: a live kernel; `to` has room for `len` bytes.
        unsafe { cl!(clGetKernelInfo(kernel.raw(), CL_KERNEL_NUM_ARGS, len, to, full)) }
    })?;
    let count = number(&count) as u32;
    if count > MAX_KERNEL_ARGS { Err(ClError::OUT_OF_HOST_MEMORY) } else { Ok(count) }
}

/// `clGetKernelArgInfo`.
pub(super) fn arg_info(kernel: &RawKernel, index: u32, param: u32) -> Result<Vec<u8>, ClError> {
    answer(|len, to, full| {
        // SAFETY: a live kernel; `to` has room for `len` bytes.
        unsafe { cl!(clGetKernelArgInfo(kernel.raw(), index, param, len, to, full)) }
    })
}

/// What the driver says of a kernel's argument.
pub(super) fn kernel_arg(kernel: &RawKernel, index: u32) -> Result<Arg, ClError> {
    let ask = |param| arg_info(kernel, index, param);
    let space = number(&ask(CL_KERNEL_ARG_ADDRESS_QUALIFIER)?) as u32;
    let name = text(ask(CL_KERNEL_ARG_TYPE_NAME)?);
    let mut arg = classify(space, &name);
    let access = match number(&ask(CL_KERNEL_ARG_ACCESS_QUALIFIER)?) as u32 {
        CL_KERNEL_ARG_ACCESS_READ_ONLY => ACCESS_READ,
        CL_KERNEL_ARG_ACCESS_WRITE_ONLY => ACCESS_WRITE,
        CL_KERNEL_ARG_ACCESS_READ_WRITE => ACCESS_READ | ACCESS_WRITE,
        _ => 0,
    };
    // The type of a pipe's packets, and how the kernel uses the pipe.
    if number(&ask(CL_KERNEL_ARG_TYPE_QUALIFIER)?) & u64::from(CL_KERNEL_ARG_TYPE_PIPE) != 0 {
        return Ok(Arg { kind: ArgKind::Pipe, size: 0, access });
    }
    // An image whose type has another name.
    if access != 0 && matches!(arg.kind, ArgKind::Buffer | ArgKind::Value) && !name.contains('*') {
        arg = Arg { kind: ArgKind::Image, size: 0, access };
    }
    if arg.kind == ArgKind::Image {
        arg.access = access;
    }
    Ok(arg)
}

/// An argument's kind, from its address space and the name of its type.
fn classify(space: u32, name: &str) -> Arg {
    let base = name.trim_start_matches("const ").trim_end_matches('*').trim();
    let opaque = match base {
        "sampler_t" => Some(ArgKind::Sampler),
        "queue_t" => Some(ArgKind::Queue),
        "event_t" | "clk_event_t" | "reserve_id_t" | "ndrange_t" => Some(ArgKind::Other),
        _ if base.starts_with("image") && base.contains("_t") => Some(ArgKind::Image),
        _ if base.contains("pipe") => Some(ArgKind::Other),
        _ => None,
    };
    let pointer = name.contains('*');
    let kind = match space {
        // Images and pipes count as global.
        CL_KERNEL_ARG_ADDRESS_GLOBAL | CL_KERNEL_ARG_ADDRESS_CONSTANT if pointer => ArgKind::Buffer,
        CL_KERNEL_ARG_ADDRESS_GLOBAL | CL_KERNEL_ARG_ADDRESS_CONSTANT => opaque.unwrap_or(ArgKind::Buffer),
        CL_KERNEL_ARG_ADDRESS_LOCAL => ArgKind::Local,
        // A private pointer is no argument that OpenCL C knows; its bytes must not come from a guest.
        _ if pointer => ArgKind::Other,
        _ => opaque.unwrap_or(ArgKind::Value),
    };
    let size = if kind == ArgKind::Value { type_size(base).unwrap_or(0) } else { 0 };
    Arg { kind, size, access: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRIVATE: u32 = cl3::kernel::CL_KERNEL_ARG_ADDRESS_PRIVATE;

    #[test]
    fn arguments_are_what_their_address_space_and_type_say() {
        for (space, name, kind, size) in [
            (CL_KERNEL_ARG_ADDRESS_GLOBAL, "float*", ArgKind::Buffer, 0),
            (CL_KERNEL_ARG_ADDRESS_CONSTANT, "my_t*", ArgKind::Buffer, 0),
            (CL_KERNEL_ARG_ADDRESS_GLOBAL, "image2d_t", ArgKind::Image, 0),
            (CL_KERNEL_ARG_ADDRESS_LOCAL, "int*", ArgKind::Local, 0),
            (PRIVATE, "int", ArgKind::Value, 4),
            (PRIVATE, "float3", ArgKind::Value, 16),
            (PRIVATE, "struct point", ArgKind::Value, 0),
            (PRIVATE, "sampler_t", ArgKind::Sampler, 0),
            (PRIVATE, "queue_t", ArgKind::Queue, 0),
            (PRIVATE, "int*", ArgKind::Other, 0),
        ] {
            assert_eq!(classify(space, name), Arg { kind, size, access: 0 }, "{name}");
        }
    }
}
