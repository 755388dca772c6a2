//! Devices: the host's, by index, without what this driver does not offer.

use std::collections::HashMap;
use std::sync::Mutex;

use opencl_sys::{
    CL_DEVICE_BUILT_IN_KERNELS, CL_DEVICE_COMPILER_AVAILABLE, CL_DEVICE_DEVICE_ENQUEUE_CAPABILITIES,
    CL_DEVICE_EXECUTION_CAPABILITIES, CL_DEVICE_EXTENSIONS, CL_DEVICE_EXTENSIONS_WITH_VERSION,
    CL_DEVICE_HOST_UNIFIED_MEMORY, CL_DEVICE_IL_VERSION, CL_DEVICE_IMAGE_BASE_ADDRESS_ALIGNMENT,
    CL_DEVICE_IMAGE_MAX_ARRAY_SIZE, CL_DEVICE_IMAGE_MAX_BUFFER_SIZE, CL_DEVICE_IMAGE_PITCH_ALIGNMENT,
    CL_DEVICE_IMAGE_SUPPORT, CL_DEVICE_IMAGE2D_MAX_HEIGHT, CL_DEVICE_IMAGE2D_MAX_WIDTH,
    CL_DEVICE_IMAGE3D_MAX_DEPTH, CL_DEVICE_IMAGE3D_MAX_HEIGHT, CL_DEVICE_IMAGE3D_MAX_WIDTH,
    CL_DEVICE_LATEST_CONFORMANCE_VERSION_PASSED, CL_DEVICE_LINKER_AVAILABLE, CL_DEVICE_MAX_MEM_ALLOC_SIZE,
    CL_DEVICE_MAX_ON_DEVICE_EVENTS, CL_DEVICE_MAX_ON_DEVICE_QUEUES, CL_DEVICE_MAX_PIPE_ARGS,
    CL_DEVICE_MAX_READ_IMAGE_ARGS, CL_DEVICE_MAX_READ_WRITE_IMAGE_ARGS, CL_DEVICE_MAX_SAMPLERS,
    CL_DEVICE_MAX_WORK_GROUP_SIZE, CL_DEVICE_MAX_WORK_ITEM_SIZES, CL_DEVICE_MAX_WRITE_IMAGE_ARGS,
    CL_DEVICE_MEM_BASE_ADDR_ALIGN, CL_DEVICE_NON_UNIFORM_WORK_GROUP_SUPPORT, CL_DEVICE_NUMERIC_VERSION,
    CL_DEVICE_OPENCL_C_FEATURES, CL_DEVICE_PARENT_DEVICE, CL_DEVICE_PARTITION_AFFINITY_DOMAIN,
    CL_DEVICE_PARTITION_MAX_SUB_DEVICES, CL_DEVICE_PARTITION_PROPERTIES, CL_DEVICE_PARTITION_TYPE,
    CL_DEVICE_PIPE_MAX_ACTIVE_RESERVATIONS, CL_DEVICE_PIPE_MAX_PACKET_SIZE, CL_DEVICE_PIPE_SUPPORT,
    CL_DEVICE_PLATFORM, CL_DEVICE_QUEUE_ON_DEVICE_MAX_SIZE, CL_DEVICE_QUEUE_ON_DEVICE_PREFERRED_SIZE,
    CL_DEVICE_QUEUE_ON_DEVICE_PROPERTIES, CL_DEVICE_QUEUE_ON_HOST_PROPERTIES, CL_DEVICE_REFERENCE_COUNT,
    CL_DEVICE_SVM_CAPABILITIES, CL_DEVICE_TYPE, CL_DEVICE_VERSION, CL_EXEC_KERNEL,
};
use zerocopy::FromBytes;

use crate::boundary::object::{Kind, Object, RawHandle};
use crate::core::connection::Connection;
use crate::core::error::{ClError, ClResult};
use crate::core::info::{self, Info};
use crate::core::query::Question;
use crate::core::{extensions, lock, platform};

/// A root device.
#[derive(Debug)]
pub(crate) struct Device {
    index: u32,
    answers: Mutex<HashMap<u32, Vec<u8>>>,
}

impl Kind for Device {
    const TAG: u32 = u32::from_le_bytes(*b"devi");
    const INVALID: ClError = ClError::INVALID_DEVICE;
}

impl Device {
    /// The host's device with this index.
    pub(crate) fn new(index: u32) -> Device {
        Device { index, answers: Mutex::default() }
    }

    /// What the host calls it.
    pub(crate) fn index(&self) -> u32 {
        self.index
    }

    /// The host's answer; asked for once per process.
    fn ask(&self, param: u32) -> ClResult<Vec<u8>> {
        if let Some(answer) = lock(&self.answers).get(&param) {
            return Ok(answer.clone());
        }
        let answer = Question::device(param, self.index).ask(&*Connection::current()?)?;
        lock(&self.answers).insert(param, answer.clone());
        Ok(answer)
    }

    fn number<T: FromBytes>(&self, param: u32) -> Option<T> {
        info::number(&self.ask(param).ok()?)
    }

    fn text(&self, param: u32) -> ClResult<String> {
        Ok(info::text(&self.ask(param)?))
    }

    /// `CL_DEVICE_TYPE`.
    pub(crate) fn device_type(&self) -> u64 {
        self.number(CL_DEVICE_TYPE).unwrap_or(0)
    }

    /// `CL_DEVICE_MAX_MEM_ALLOC_SIZE`.
    pub(crate) fn max_alloc(&self) -> u64 {
        self.number(CL_DEVICE_MAX_MEM_ALLOC_SIZE).unwrap_or(0)
    }

    /// `CL_DEVICE_MEM_BASE_ADDR_ALIGN`, in bytes (the query's answer is in bits).
    pub(crate) fn base_align(&self) -> usize {
        (self.number::<u32>(CL_DEVICE_MEM_BASE_ADDR_ALIGN).unwrap_or(0) as usize / 8).max(1)
    }

    /// `CL_DEVICE_QUEUE_ON_HOST_PROPERTIES`.
    pub(crate) fn queue_properties(&self) -> u64 {
        self.number(CL_DEVICE_QUEUE_ON_HOST_PROPERTIES).unwrap_or(0)
    }

    /// `CL_DEVICE_MAX_WORK_GROUP_SIZE`.
    pub(crate) fn max_work_group_size(&self) -> u64 {
        self.number(CL_DEVICE_MAX_WORK_GROUP_SIZE).unwrap_or(1)
    }

    /// `CL_DEVICE_MAX_WORK_ITEM_SIZES`.
    pub(crate) fn max_work_item_sizes(&self) -> [u64; 3] {
        self.number(CL_DEVICE_MAX_WORK_ITEM_SIZES).unwrap_or([u64::MAX; 3])
    }

    /// `CL_DEVICE_NON_UNIFORM_WORK_GROUP_SUPPORT`.
    pub(crate) fn has_non_uniform_work_groups(&self) -> bool {
        self.number::<u32>(CL_DEVICE_NON_UNIFORM_WORK_GROUP_SUPPORT).unwrap_or(0) != 0
    }

    /// True if a kernel may be enqueued with an empty range: from OpenCL 2.1 on.
    pub(crate) fn allows_empty_range(&self) -> bool {
        let of_host = self.number::<u32>(CL_DEVICE_NUMERIC_VERSION).unwrap_or(0);
        extensions::numeric_version(of_host) >= extensions::version(2, 1)
    }

    /// True if the device takes programs in intermediate language (`CL_DEVICE_IL_VERSION`).
    pub(crate) fn takes_il(&self) -> bool {
        self.text(CL_DEVICE_IL_VERSION).is_ok_and(|versions| !versions.is_empty())
    }

    /// True if the device has a compiler (`CL_DEVICE_COMPILER_AVAILABLE`).
    pub(crate) fn has_compiler(&self) -> bool {
        self.number::<u32>(CL_DEVICE_COMPILER_AVAILABLE).unwrap_or(0) != 0
    }

    /// True if the device has a linker (`CL_DEVICE_LINKER_AVAILABLE`).
    pub(crate) fn has_linker(&self) -> bool {
        self.number::<u32>(CL_DEVICE_LINKER_AVAILABLE).unwrap_or(0) != 0
    }

    /// `CL_DEVICE_BUILT_IN_KERNELS`.
    pub(crate) fn built_in_kernels(&self) -> ClResult<String> {
        self.text(CL_DEVICE_BUILT_IN_KERNELS)
    }

    /// `clGetDeviceInfo`.
    pub(crate) fn info(&self, param: u32) -> ClResult<Info> {
        if let Some(info) = not_offered(param) {
            return Ok(info);
        }
        Ok(match param {
            CL_DEVICE_PLATFORM => Info::handle(platform::found()?.platform.handle()),
            CL_DEVICE_EXTENSIONS => Info::text(&extensions::device_extensions(&self.text(param)?)),
            CL_DEVICE_EXTENSIONS_WITH_VERSION => {
                extensions::device_extensions_with_version(&self.ask(param)?).into()
            }
            CL_DEVICE_OPENCL_C_FEATURES => extensions::features(&self.ask(param)?).into(),
            CL_DEVICE_VERSION => Info::text(&extensions::device_version(&self.text(param)?)),
            CL_DEVICE_NUMERIC_VERSION => {
                let of_host = self.ask(param)?;
                Info::value(extensions::numeric_version(info::number(&of_host).unwrap_or(0)))
            }
            _ => self.ask(param)?.into(),
        })
    }
}

/// Answers that do not depend on the host, each because this driver has no such thing yet, or because it is the
/// guest's own.
fn not_offered(param: u32) -> Option<Info> {
    Some(match param {
        // Images and samplers.
        CL_DEVICE_IMAGE_SUPPORT => Info::bool(false),
        CL_DEVICE_IMAGE2D_MAX_WIDTH
        | CL_DEVICE_IMAGE2D_MAX_HEIGHT
        | CL_DEVICE_IMAGE3D_MAX_WIDTH
        | CL_DEVICE_IMAGE3D_MAX_HEIGHT
        | CL_DEVICE_IMAGE3D_MAX_DEPTH
        | CL_DEVICE_IMAGE_MAX_BUFFER_SIZE
        | CL_DEVICE_IMAGE_MAX_ARRAY_SIZE => Info::value(0usize),
        CL_DEVICE_MAX_READ_IMAGE_ARGS
        | CL_DEVICE_MAX_WRITE_IMAGE_ARGS
        | CL_DEVICE_MAX_READ_WRITE_IMAGE_ARGS
        | CL_DEVICE_MAX_SAMPLERS
        | CL_DEVICE_IMAGE_PITCH_ALIGNMENT
        | CL_DEVICE_IMAGE_BASE_ADDRESS_ALIGNMENT => Info::value(0u32),
        // Shared virtual memory: kernels and the guest's processor see different addresses.
        CL_DEVICE_SVM_CAPABILITIES => Info::value(0u64),
        // "CL_TRUE if the device and the host have a unified memory subsystem": here the host is the guest.
        CL_DEVICE_HOST_UNIFIED_MEMORY => Info::bool(false),
        // Pipes.
        CL_DEVICE_PIPE_SUPPORT => Info::bool(false),
        CL_DEVICE_MAX_PIPE_ARGS | CL_DEVICE_PIPE_MAX_ACTIVE_RESERVATIONS | CL_DEVICE_PIPE_MAX_PACKET_SIZE => {
            Info::value(0u32)
        }
        // Queues on the device.
        CL_DEVICE_DEVICE_ENQUEUE_CAPABILITIES | CL_DEVICE_QUEUE_ON_DEVICE_PROPERTIES => Info::value(0u64),
        CL_DEVICE_QUEUE_ON_DEVICE_PREFERRED_SIZE
        | CL_DEVICE_QUEUE_ON_DEVICE_MAX_SIZE
        | CL_DEVICE_MAX_ON_DEVICE_QUEUES
        | CL_DEVICE_MAX_ON_DEVICE_EVENTS => Info::value(0u32),
        // Native kernels would run functions of this process on the host.
        CL_DEVICE_EXECUTION_CAPABILITIES => Info::value(CL_EXEC_KERNEL),
        // Sub-devices.
        CL_DEVICE_PARENT_DEVICE => Info::handle(RawHandle::NULL),
        CL_DEVICE_PARTITION_MAX_SUB_DEVICES => Info::value(0u32),
        CL_DEVICE_PARTITION_PROPERTIES | CL_DEVICE_PARTITION_TYPE => Info::value(0usize),
        CL_DEVICE_PARTITION_AFFINITY_DOMAIN => Info::value(0u64),
        // "Returns the device reference count. If the device is a root-level device, a reference count of one is
        // returned."
        CL_DEVICE_REFERENCE_COUNT => Info::value(1u32),
        // The host's driver may have passed; this one has not.
        CL_DEVICE_LATEST_CONFORMANCE_VERSION_PASSED => Info::text("v0000-01-01-00"),
        _ => return None,
    })
}

/// Handles of devices.
pub(crate) fn handles(devices: &[std::sync::Arc<Object<Device>>]) -> Vec<RawHandle> {
    devices.iter().map(|device| device.handle()).collect()
}
