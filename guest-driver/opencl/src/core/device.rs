//! Devices: the host's, and their parts, without what this driver does not offer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};

use opencl_sys::{
    CL_COMMAND_BUFFER_CAPABILITY_MULTIPLE_QUEUE_KHR, CL_DEVICE_COMMAND_BUFFER_CAPABILITIES_KHR,
    CL_DEVICE_COMMAND_BUFFER_REQUIRED_QUEUE_PROPERTIES_KHR,
    CL_DEVICE_COMMAND_BUFFER_SUPPORTED_QUEUE_PROPERTIES_KHR, CL_DEVICE_MUTABLE_DISPATCH_CAPABILITIES_KHR,
};
use opencl_sys::{
    CL_DEVICE_BUILT_IN_KERNELS, CL_DEVICE_COMPILER_AVAILABLE, CL_DEVICE_DEVICE_ENQUEUE_CAPABILITIES,
    CL_DEVICE_EXECUTION_CAPABILITIES, CL_DEVICE_EXTENSIONS, CL_DEVICE_EXTENSIONS_WITH_VERSION,
    CL_DEVICE_HOST_MEM_CAPABILITIES_INTEL, CL_DEVICE_IL_VERSION, CL_DEVICE_IMAGE_MAX_ARRAY_SIZE,
    CL_DEVICE_IMAGE_MAX_BUFFER_SIZE, CL_DEVICE_IMAGE_SUPPORT, CL_DEVICE_IMAGE2D_MAX_HEIGHT,
    CL_DEVICE_IMAGE2D_MAX_WIDTH, CL_DEVICE_IMAGE3D_MAX_DEPTH, CL_DEVICE_IMAGE3D_MAX_HEIGHT,
    CL_DEVICE_IMAGE3D_MAX_WIDTH, CL_DEVICE_LATEST_CONFORMANCE_VERSION_PASSED, CL_DEVICE_LINKER_AVAILABLE,
    CL_DEVICE_MAX_COMPUTE_UNITS, CL_DEVICE_MAX_MEM_ALLOC_SIZE, CL_DEVICE_MAX_WORK_GROUP_SIZE,
    CL_DEVICE_MAX_WORK_ITEM_SIZES, CL_DEVICE_MEM_BASE_ADDR_ALIGN, CL_DEVICE_NON_UNIFORM_WORK_GROUP_SUPPORT,
    CL_DEVICE_NUMERIC_VERSION, CL_DEVICE_OPENCL_C_FEATURES, CL_DEVICE_PARENT_DEVICE,
    CL_DEVICE_PARTITION_AFFINITY_DOMAIN, CL_DEVICE_PARTITION_MAX_SUB_DEVICES, CL_DEVICE_PARTITION_PROPERTIES,
    CL_DEVICE_PIPE_MAX_PACKET_SIZE, CL_DEVICE_PIPE_SUPPORT, CL_DEVICE_PLATFORM,
    CL_DEVICE_QUEUE_ON_DEVICE_MAX_SIZE, CL_DEVICE_QUEUE_ON_DEVICE_PREFERRED_SIZE,
    CL_DEVICE_QUEUE_ON_DEVICE_PROPERTIES, CL_DEVICE_QUEUE_ON_HOST_PROPERTIES,
    CL_DEVICE_QUEUE_REPLACEABLE_DEFAULT, CL_DEVICE_REFERENCE_COUNT,
    CL_DEVICE_SHARED_SYSTEM_MEM_CAPABILITIES_INTEL, CL_DEVICE_SVM_ATOMICS, CL_DEVICE_SVM_CAPABILITIES,
    CL_DEVICE_SVM_COARSE_GRAIN_BUFFER, CL_DEVICE_SVM_FINE_GRAIN_BUFFER, CL_DEVICE_TYPE, CL_DEVICE_VERSION,
    CL_EXEC_NATIVE_KERNEL,
};
use paragpu_protocol::device::DeviceRef;
use paragpu_protocol::image::{ImageShape, ImageType};
use paragpu_protocol::info::{DEVICE_COUNT, InfoKind};
use paragpu_protocol::svm::{MEMORY_MODEL, MemoryModel};
use zerocopy::FromBytes;
use zerocopy::little_endian::U64;

use crate::boundary::object::{Kind, Object, RawHandle};
use crate::core::connection::Connection;
use crate::core::error::{ClError, ClResult};
use crate::core::extensions::{CommandBufferVersion, MUTABLE_FIELDS, MutableDispatchVersion, Offer};
use crate::core::info::{self, Info};
use crate::core::partition::Partition;
use crate::core::query::Question;
use crate::core::{extensions, lock, platform};

/// A device.
#[derive(Debug)]
pub(crate) struct Device {
    place: Place,
    answers: Mutex<HashMap<u32, Vec<u8>>>,
    limits: OnceLock<Limits>,
    memory_model: OnceLock<MemoryModel>,
}

/// What buffers and launches are checked against, which are too many to look for the host's answers each time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// `CL_DEVICE_MAX_MEM_ALLOC_SIZE`, in bytes.
    pub(crate) alloc: u64,
    /// `CL_DEVICE_MAX_WORK_GROUP_SIZE`, in work-items.
    pub(crate) work_group_size: u64,
    /// `CL_DEVICE_MAX_WORK_ITEM_SIZES`.
    pub(crate) work_item_sizes: [u64; 3],
}

impl Limits {
    /// Of a device that does not answer: nothing is possible in its context.
    const UNKNOWN: Limits = Limits { alloc: 0, work_group_size: 1, work_item_sizes: [u64::MAX; 3] };
}

/// Where a device comes from.
#[derive(Debug)]
enum Place {
    /// The host has it, at this index.
    Root(u32),
    /// The application has made it: one of a partition's parts.
    Part(Arc<Partition>, usize),
}

impl Kind for Device {
    const TAG: u32 = u32::from_le_bytes(*b"devi");
    const INVALID: ClError = ClError::INVALID_DEVICE;
}

impl Device {
    /// The host's device with this index.
    pub(crate) fn root(index: u32) -> Device {
        Device::at(Place::Root(index))
    }

    fn at(place: Place) -> Device {
        Device { place, answers: Mutex::default(), limits: OnceLock::new(), memory_model: OnceLock::new() }
    }

    /// A part of a device.
    pub(crate) fn part(partition: Arc<Partition>, index: usize) -> Device {
        Device::at(Place::Part(partition, index))
    }

    /// The device that it is a part of.
    pub(crate) fn parent(&self) -> Option<&Arc<Object<Device>>> {
        match &self.place {
            Place::Root(_) => None,
            Place::Part(partition, _) => Some(partition.parent()),
        }
    }

    /// What the host calls it in this connection. A sub-device is made there if it is not there yet.
    pub(crate) fn reference(&self, connection: &Arc<Connection>) -> ClResult<u32> {
        match &self.place {
            Place::Root(index) => Ok(DeviceRef::Root(*index).to_wire()),
            Place::Part(partition, index) => partition.reference(*index, connection),
        }
    }

    /// The host's answer; asked for once per process.
    fn ask(&self, param: u32) -> ClResult<Vec<u8>> {
        if let Some(answer) = lock(&self.answers).get(&param) {
            return Ok(answer.clone());
        }
        let answer = self.ask_again(InfoKind::Device, param)?;
        lock(&self.answers).insert(param, answer.clone());
        Ok(answer)
    }

    /// The host's answer as of now.
    pub(crate) fn ask_again(&self, kind: InfoKind, param: u32) -> ClResult<Vec<u8>> {
        let connection = Connection::current()?;
        let question = Question { kind, object: 0, param, index: self.reference(&connection)? };
        question.ask(&connection)
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

    /// What buffers and launches are checked against.
    pub(crate) fn limits(&self) -> Limits {
        if let Some(limits) = self.limits.get() {
            return *limits;
        }
        let ask = || {
            Some(Limits {
                alloc: self.number(CL_DEVICE_MAX_MEM_ALLOC_SIZE)?,
                work_group_size: self.number(CL_DEVICE_MAX_WORK_GROUP_SIZE)?,
                work_item_sizes: self.number(CL_DEVICE_MAX_WORK_ITEM_SIZES)?,
            })
        };
        ask().map_or(Limits::UNKNOWN, |limits| *self.limits.get_or_init(|| limits))
    }

    /// `CL_DEVICE_MEM_BASE_ADDR_ALIGN`, in bytes (the query's answer is in bits).
    pub(crate) fn base_align(&self) -> usize {
        (self.number::<u32>(CL_DEVICE_MEM_BASE_ADDR_ALIGN).unwrap_or(0) as usize / 8).max(1)
    }

    /// `CL_DEVICE_QUEUE_ON_HOST_PROPERTIES`.
    pub(crate) fn queue_properties(&self) -> u64 {
        self.number(CL_DEVICE_QUEUE_ON_HOST_PROPERTIES).unwrap_or(0)
    }

    /// `CL_DEVICE_NON_UNIFORM_WORK_GROUP_SUPPORT`.
    pub(crate) fn has_non_uniform_work_groups(&self) -> bool {
        self.number::<u32>(CL_DEVICE_NON_UNIFORM_WORK_GROUP_SUPPORT).unwrap_or(0) != 0
    }

    /// True if a kernel may be enqueued with an empty range: from OpenCL 2.1 on.
    pub(crate) fn allows_empty_range(&self) -> bool {
        self.version() >= extensions::version(2, 1)
    }

    /// `CL_DEVICE_NUMERIC_VERSION`.
    fn version(&self) -> u32 {
        let of_host = self.number(CL_DEVICE_NUMERIC_VERSION).unwrap_or(0);
        extensions::numeric_version(of_host, self.svm_capabilities() != 0)
    }

    /// `CL_DEVICE_PIPE_MAX_PACKET_SIZE`, of a device that has pipes. Those of OpenCL 2 all have; later ones say so.
    pub(crate) fn max_packet_size(&self) -> Option<u32> {
        let is_said = self.number::<u32>(CL_DEVICE_PIPE_SUPPORT).unwrap_or(0) != 0;
        let has_pipes = is_said || extensions::major(self.version()) == 2;
        has_pipes.then(|| self.number(CL_DEVICE_PIPE_MAX_PACKET_SIZE).unwrap_or(0))
    }

    /// `CL_DEVICE_QUEUE_ON_DEVICE_PROPERTIES`: none of a device that has no such queues.
    pub(crate) fn device_queue_properties(&self) -> u64 {
        self.number(CL_DEVICE_QUEUE_ON_DEVICE_PROPERTIES).unwrap_or(0)
    }

    /// `CL_DEVICE_QUEUE_ON_DEVICE_PREFERRED_SIZE`, in bytes.
    pub(crate) fn preferred_device_queue_size(&self) -> u32 {
        self.number(CL_DEVICE_QUEUE_ON_DEVICE_PREFERRED_SIZE).unwrap_or(0)
    }

    /// `CL_DEVICE_QUEUE_ON_DEVICE_MAX_SIZE`, in bytes.
    pub(crate) fn max_device_queue_size(&self) -> u32 {
        self.number(CL_DEVICE_QUEUE_ON_DEVICE_MAX_SIZE).unwrap_or(0)
    }

    /// True if another queue can be made the default one on the device. From OpenCL 2.1 to 2.2 it always can; later devices
    /// say so.
    pub(crate) fn has_replaceable_default_queue(&self) -> bool {
        let capabilities = self.number::<u64>(CL_DEVICE_DEVICE_ENQUEUE_CAPABILITIES).unwrap_or(0);
        let version = self.version();
        let is_usual = extensions::major(version) == 2 && version >= extensions::version(2, 1);
        is_usual || capabilities & CL_DEVICE_QUEUE_REPLACEABLE_DEFAULT != 0
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

    /// True if the application is told of this extension, by the device or by the platform.
    pub(crate) fn has_extension(&self, name: &str) -> bool {
        let of_device = self.text(CL_DEVICE_EXTENSIONS).unwrap_or_default();
        let of_device = extensions::device_extensions(&of_device, self.offer());
        let lists = [of_device, platform::extensions()];
        lists.iter().any(|list| list.split_ascii_whitespace().any(|known| known == name))
    }

    /// `CL_DEVICE_IMAGE_SUPPORT`.
    pub(crate) fn has_images(&self) -> bool {
        self.number::<u32>(CL_DEVICE_IMAGE_SUPPORT).unwrap_or(0) != 0
    }

    /// True if the device takes images of this type and size.
    pub(crate) fn takes_image(&self, kind: ImageType, shape: &ImageShape) -> bool {
        let within = |size: U64, param| size.get() <= self.number::<u64>(param).unwrap_or(0);
        let in_2d = |has_height: bool| {
            within(shape.width, CL_DEVICE_IMAGE2D_MAX_WIDTH)
                && (!has_height || within(shape.height, CL_DEVICE_IMAGE2D_MAX_HEIGHT))
        };
        self.has_images()
            && match kind {
                ImageType::Image1dBuffer => within(shape.width, CL_DEVICE_IMAGE_MAX_BUFFER_SIZE),
                ImageType::Image3d => {
                    within(shape.width, CL_DEVICE_IMAGE3D_MAX_WIDTH)
                        && within(shape.height, CL_DEVICE_IMAGE3D_MAX_HEIGHT)
                        && within(shape.depth, CL_DEVICE_IMAGE3D_MAX_DEPTH)
                }
                ImageType::Image1d | ImageType::Image2d => in_2d(kind.has_height()),
                ImageType::Image1dArray | ImageType::Image2dArray => {
                    in_2d(kind.has_height()) && within(shape.array_size, CL_DEVICE_IMAGE_MAX_ARRAY_SIZE)
                }
            }
    }

    /// How its memory relates to that of this process.
    pub(crate) fn memory_model(&self) -> MemoryModel {
        if let Some(model) = self.memory_model.get() {
            return *model;
        }
        let answer = Connection::current().and_then(|connection| {
            let index = self.reference(&connection)?;
            let question = Question { kind: InfoKind::Memory, object: 0, param: MEMORY_MODEL, index };
            question.ask(&connection)
        });
        let Ok(answer) = answer else { return MemoryModel::Apart };
        let model = info::number::<u32>(&answer).and_then(MemoryModel::from_wire);
        *self.memory_model.get_or_init(|| model.unwrap_or(MemoryModel::Apart))
    }

    fn shares_memory(&self) -> bool {
        self.memory_model() == MemoryModel::Shared
    }

    /// `CL_DEVICE_SVM_CAPABILITIES`. Memory must be allocated for it: what the application has otherwise (its heap, its
    /// stack), only its own virtual machine reaches.
    pub(crate) fn svm_capabilities(&self) -> u64 {
        const OFFERED: u64 =
            CL_DEVICE_SVM_COARSE_GRAIN_BUFFER | CL_DEVICE_SVM_FINE_GRAIN_BUFFER | CL_DEVICE_SVM_ATOMICS;
        let offered = match self.memory_model() {
            MemoryModel::Shared => OFFERED,
            MemoryModel::Coarse => CL_DEVICE_SVM_COARSE_GRAIN_BUFFER,
            MemoryModel::Apart => return 0,
        };
        self.number::<u64>(CL_DEVICE_SVM_CAPABILITIES).unwrap_or(0) & offered
    }

    /// The version of `cl_khr_command_buffer`, if the host has it.
    pub(crate) fn command_buffer_version(&self) -> Option<CommandBufferVersion> {
        let with_version = self.ask(CL_DEVICE_EXTENSIONS_WITH_VERSION).unwrap_or_default();
        CommandBufferVersion::of_host(&self.text(CL_DEVICE_EXTENSIONS).ok()?, &with_version)
    }

    /// `CL_DEVICE_COMMAND_BUFFER_CAPABILITIES_KHR`: without several queues.
    pub(crate) fn command_buffer_capabilities(&self) -> u64 {
        const NOT_OFFERED: u64 = CL_COMMAND_BUFFER_CAPABILITY_MULTIPLE_QUEUE_KHR;
        self.number::<u64>(CL_DEVICE_COMMAND_BUFFER_CAPABILITIES_KHR).unwrap_or(0) & !NOT_OFFERED
    }

    /// `CL_DEVICE_COMMAND_BUFFER_REQUIRED_QUEUE_PROPERTIES_KHR`.
    pub(crate) fn command_buffer_required_properties(&self) -> u64 {
        self.number(CL_DEVICE_COMMAND_BUFFER_REQUIRED_QUEUE_PROPERTIES_KHR).unwrap_or(0)
    }

    /// `CL_DEVICE_COMMAND_BUFFER_SUPPORTED_QUEUE_PROPERTIES_KHR`, in versions that have it.
    pub(crate) fn command_buffer_supported_properties(&self) -> Option<u64> {
        self.number(CL_DEVICE_COMMAND_BUFFER_SUPPORTED_QUEUE_PROPERTIES_KHR)
    }

    /// The version of `cl_khr_command_buffer_mutable_dispatch`, if the host has it in one that there is here.
    pub(crate) fn mutable_dispatch_version(&self) -> Option<MutableDispatchVersion> {
        self.command_buffer_version()?;
        MutableDispatchVersion::of_host(&self.ask(CL_DEVICE_EXTENSIONS_WITH_VERSION).ok()?)
    }

    /// `CL_DEVICE_MUTABLE_DISPATCH_CAPABILITIES_KHR`, as far as it is known here.
    pub(crate) fn mutable_dispatch_capabilities(&self) -> u64 {
        self.number::<u64>(CL_DEVICE_MUTABLE_DISPATCH_CAPABILITIES_KHR).unwrap_or(0) & MUTABLE_FIELDS
    }

    /// What some extensions need.
    fn offer(&self) -> Offer {
        Offer {
            shared_memory: self.shares_memory(),
            mutable_dispatch: self.mutable_dispatch_version().is_some(),
        }
    }

    /// True if the application's functions can be enqueued: `CL_EXEC_NATIVE_KERNEL`.
    pub(crate) fn runs_native_kernels(&self) -> bool {
        self.number::<u64>(CL_DEVICE_EXECUTION_CAPABILITIES).unwrap_or(0) & CL_EXEC_NATIVE_KERNEL != 0
    }

    /// `CL_DEVICE_MAX_COMPUTE_UNITS`.
    pub(crate) fn compute_units(&self) -> u32 {
        self.number(CL_DEVICE_MAX_COMPUTE_UNITS).unwrap_or(0)
    }

    /// `CL_DEVICE_PARTITION_MAX_SUB_DEVICES`.
    pub(crate) fn max_sub_devices(&self) -> u32 {
        self.number(CL_DEVICE_PARTITION_MAX_SUB_DEVICES).unwrap_or(0)
    }

    /// `CL_DEVICE_PARTITION_PROPERTIES`.
    pub(crate) fn partition_names(&self) -> Vec<u64> {
        let names = self.ask(CL_DEVICE_PARTITION_PROPERTIES).unwrap_or_default();
        names.as_chunks().0.iter().map(|name| u64::from_le_bytes(*name)).collect()
    }

    /// `CL_DEVICE_PARTITION_AFFINITY_DOMAIN`.
    pub(crate) fn affinity_domains(&self) -> u64 {
        self.number(CL_DEVICE_PARTITION_AFFINITY_DOMAIN).unwrap_or(0)
    }
}

impl Object<Device> {
    /// `clGetDeviceInfo`.
    pub(crate) fn info(&self, param: u32) -> ClResult<Info> {
        Ok(match param {
            CL_DEVICE_PLATFORM => Info::handle(platform::found()?.platform.handle()),
            CL_DEVICE_PARENT_DEVICE => {
                Info::handle(self.parent().map_or(RawHandle::NULL, |parent| parent.handle()))
            }
            // "Returns the device reference count. If the device is a root-level device, a reference count of one is
            // returned."
            CL_DEVICE_REFERENCE_COUNT => Info::value(self.parent().map_or(1, |_| self.reference_count())),
            CL_DEVICE_EXTENSIONS => {
                Info::text(&extensions::device_extensions(&self.text(param)?, self.offer()))
            }
            CL_DEVICE_EXTENSIONS_WITH_VERSION => {
                extensions::device_extensions_with_version(&self.ask(param)?, self.offer()).into()
            }
            // CL_INVALID_VALUE if param_name is not one of the supported values: those of an extension that is not offered.
            CL_DEVICE_HOST_MEM_CAPABILITIES_INTEL..=CL_DEVICE_SHARED_SYSTEM_MEM_CAPABILITIES_INTEL
                if !self.shares_memory() =>
            {
                return Err(ClError::INVALID_VALUE);
            }
            // What the application has not allocated for it, only its own virtual machine reaches.
            CL_DEVICE_SHARED_SYSTEM_MEM_CAPABILITIES_INTEL => Info::value(0u64),
            CL_DEVICE_COMMAND_BUFFER_CAPABILITIES_KHR if self.command_buffer_version().is_some() => {
                Info::value(self.command_buffer_capabilities())
            }
            CL_DEVICE_MUTABLE_DISPATCH_CAPABILITIES_KHR if self.mutable_dispatch_version().is_some() => {
                Info::value(self.mutable_dispatch_capabilities())
            }
            CL_DEVICE_MUTABLE_DISPATCH_CAPABILITIES_KHR => return Err(ClError::INVALID_VALUE),
            CL_DEVICE_OPENCL_C_FEATURES => extensions::features(&self.ask(param)?).into(),
            CL_DEVICE_SVM_CAPABILITIES => Info::value(self.svm_capabilities()),
            // The host's driver may have passed; this one has not.
            CL_DEVICE_LATEST_CONFORMANCE_VERSION_PASSED => Info::text("v0000-01-01-00"),
            CL_DEVICE_VERSION => {
                Info::text(&extensions::device_version(&self.text(param)?, self.svm_capabilities() != 0))
            }
            CL_DEVICE_NUMERIC_VERSION => Info::value(self.version()),
            // CL_INVALID_VALUE if param_name is not one of the supported values. This one the protocol means otherwise.
            DEVICE_COUNT => return Err(ClError::INVALID_VALUE),
            _ => self.ask(param)?.into(),
        })
    }
}

/// Handles of devices.
pub(crate) fn handles(devices: &[std::sync::Arc<Object<Device>>]) -> Vec<RawHandle> {
    devices.iter().map(|device| device.handle()).collect()
}
