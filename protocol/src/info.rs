//! Which of the host's values a guest may ask for with [`GetInfo`](crate::command::GetInfo).
//!
//! A list of what is allowed, not of what is forbidden: an OpenCL query may return a host pointer or handle,
//! and those stay on the host. What the guest's driver knows itself (reference counts, handles, what a program
//! asked for) is not here. Anything else is answered with `CL_INVALID_VALUE`.

/// What is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum InfoKind {
    /// `clGetPlatformInfo` of the host's platform.
    Platform = 1,
    /// `clGetDeviceInfo`, by [reference](crate::device). Parameter 0 is the number of devices, as a `u32`.
    Device = 2,
    /// `clGetProgramInfo`.
    Program = 3,
    /// `clGetProgramBuildInfo`, by reference to the device.
    ProgramBuild = 4,
    /// `clGetKernelInfo`.
    Kernel = 5,
    /// `clGetKernelWorkGroupInfo`, by reference to the device.
    KernelWorkGroup = 6,
    /// `clGetKernelArgInfo`, by argument index.
    KernelArg = 7,
    /// `clGetKernelSubGroupInfo`, by reference to the device; the input value is the data.
    KernelSubGroup = 8,
    /// `clGetMemObjectInfo` of an image, as far as only the host knows.
    Image = 9,
    /// `clGetDeviceAndHostTimer`, by reference to the device; the parameter is 0. The answer is the device's time and
    /// the host's at that moment, a `u64` each.
    DeviceTimers = 10,
    /// `clGetKernelSuggestedLocalWorkSizeKHR`, by the id of the queue; the parameter is the number of dimensions, and the
    /// data are the global offset and the global size, as [`EnqueueKernel`](crate::command::EnqueueKernel) has them. The
    /// answer is three `u64`.
    SuggestedLocalSize = 11,
    /// How a device's memory relates to the host's, by device index: see [`svm`](crate::svm).
    Memory = 14,
}

/// With [`InfoKind::Device`]: the number of devices, as a `u32`. No OpenCL parameter has this number.
pub const DEVICE_COUNT: u32 = 0;

impl InfoKind {
    /// Every kind.
    pub const ALL: [InfoKind; 12] = [
        InfoKind::Platform,
        InfoKind::Device,
        InfoKind::Program,
        InfoKind::ProgramBuild,
        InfoKind::Kernel,
        InfoKind::KernelWorkGroup,
        InfoKind::KernelArg,
        InfoKind::KernelSubGroup,
        InfoKind::Image,
        InfoKind::Memory,
        InfoKind::DeviceTimers,
        InfoKind::SuggestedLocalSize,
    ];

    /// The kind with this number.
    pub fn from_wire(number: u32) -> Option<InfoKind> {
        InfoKind::ALL.into_iter().find(|kind| *kind as u32 == number)
    }

    /// True if a guest may ask for this parameter (numbers from the OpenCL 3.0 headers).
    pub fn allows(self, param: u32) -> bool {
        match self {
            // PROFILE, VERSION, NAME, VENDOR, EXTENSIONS, HOST_TIMER_RESOLUTION, NUMERIC_VERSION,
            // EXTENSIONS_WITH_VERSION.
            InfoKind::Platform => matches!(param, 0x0900..=0x0907),
            InfoKind::Device => match param {
                DEVICE_COUNT => true,
                // PLATFORM and PARENT_DEVICE are handles; REFERENCE_COUNT is the guest's.
                0x1031 | 0x1042 | 0x1047 => false,
                // TYPE to LATEST_CONFORMANCE_VERSION_PASSED, cl_khr_device_uuid's among them; then cl_khr_integer_dot_product
                // and cl_khr_kernel_clock.
                0x1000..=0x1076 => true,
                // cl_nv_device_attribute_query and cl_khr_pci_bus_info: plain numbers.
                0x4000..=0x400b | 0x410f => true,
                // cl_intel_unified_shared_memory.
                0x4190..=0x4194 => true,
                // cl_khr_command_buffer, cl_khr_command_buffer_mutable_dispatch.
                0x129a | 0x12a9 | 0x12aa | 0x12b0 => true,
                // cl_amd_device_attribute_query, the plain ones.
                0x4030..=0x4034 | 0x4036..=0x404c => true,
                // SUB_GROUP_SIZES of cl_intel_required_subgroup_size, cl_intel_device_attribute_query.
                0x4108 | 0x4250..=0x4256 => true,
                // cl_ext_cxx_for_opencl, cl_ext_float_atomics.
                0x4230..=0x4233 => true,
                _ => false,
            },
            // NUM_DEVICES is the guest's; SOURCE, BINARY_SIZES and IL are not offered yet.
            // NUM_KERNELS, KERNEL_NAMES, SCOPE_GLOBAL_CTORS_PRESENT, SCOPE_GLOBAL_DTORS_PRESENT.
            InfoKind::Program => matches!(param, 0x1167 | 0x1168 | 0x116a | 0x116b),
            // STATUS, OPTIONS, LOG, BINARY_TYPE, GLOBAL_VARIABLE_TOTAL_SIZE.
            InfoKind::ProgramBuild => matches!(param, 0x1181..=0x1185),
            // FUNCTION_NAME, NUM_ARGS, ATTRIBUTES.
            InfoKind::Kernel => matches!(param, 0x1190 | 0x1191 | 0x1195),
            // WORK_GROUP_SIZE … GLOBAL_WORK_SIZE, and SPILL_MEM_SIZE of cl_intel_required_subgroup_size.
            InfoKind::KernelWorkGroup => matches!(param, 0x11b0..=0x11b5 | 0x4109),
            // ADDRESS_QUALIFIER … NAME.
            InfoKind::KernelArg => matches!(param, 0x1196..=0x119a),
            // MAX_SUB_GROUP_SIZE_FOR_NDRANGE, SUB_GROUP_COUNT_FOR_NDRANGE, LOCAL_SIZE_FOR_SUB_GROUP_COUNT,
            // MAX_NUM_SUB_GROUPS, COMPILE_NUM_SUB_GROUPS, and COMPILE_SUB_GROUP_SIZE of cl_intel_required_subgroup_size.
            InfoKind::KernelSubGroup => matches!(param, 0x2033 | 0x2034 | 0x11b8..=0x11ba | 0x410a),
            // CL_MEM_SIZE.
            InfoKind::Image => param == 0x1102,
            InfoKind::DeviceTimers => param == 0,
            InfoKind::SuggestedLocalSize => matches!(param, 1..=3),
            InfoKind::Memory => matches!(param, crate::svm::MEMORY_MODEL | crate::svm::PLACES),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_and_pointers_are_not_allowed() {
        // CL_DEVICE_PLATFORM, CL_DEVICE_PARENT_DEVICE, CL_PROGRAM_CONTEXT, CL_PROGRAM_DEVICES,
        // CL_KERNEL_CONTEXT, CL_KERNEL_PROGRAM.
        assert!(!InfoKind::Device.allows(0x1031));
        assert!(!InfoKind::Device.allows(0x1042));
        assert!(!InfoKind::Program.allows(0x1161));
        assert!(!InfoKind::Program.allows(0x1163));
        assert!(!InfoKind::Kernel.allows(0x1193));
        assert!(!InfoKind::Kernel.allows(0x1194));
        // CL_MEM_HOST_PTR, CL_MEM_ASSOCIATED_MEMOBJECT, CL_IMAGE_BUFFER.
        assert!(![0x1103, 0x1107, 0x1118].iter().any(|param| InfoKind::Image.allows(*param)));
    }

    #[test]
    fn kinds_round_trip() {
        for kind in InfoKind::ALL {
            assert_eq!(InfoKind::from_wire(kind as u32), Some(kind));
        }
        assert_eq!(InfoKind::from_wire(0), None);
    }
}
