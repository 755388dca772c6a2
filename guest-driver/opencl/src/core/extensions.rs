//! Which of the host's extensions and OpenCL C features an application in the guest is told of.
//!
//! A list of what is known to work through this driver: an extension that only concerns the language works because
//! the host compiles the program; one with entry points or queries works only if this driver has them.

use opencl_sys::{
    CL_MUTABLE_DISPATCH_ARGUMENTS_KHR, CL_MUTABLE_DISPATCH_EXEC_INFO_KHR,
    CL_MUTABLE_DISPATCH_GLOBAL_OFFSET_KHR, CL_MUTABLE_DISPATCH_GLOBAL_SIZE_KHR,
    CL_MUTABLE_DISPATCH_LOCAL_SIZE_KHR,
};
use zerocopy::{Immutable, IntoBytes};

/// Why an extension works here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Because {
    /// It adds to the kernel language only.
    Language,
    /// It adds queries that the host answers with plain numbers, and the protocol allows.
    Queries,
    /// It adds build options, which are passed on as they are.
    Options,
    /// It adds an entry point, which this driver has.
    EntryPoint,
    /// It adds kinds of images, which are the host's to make.
    Images,
    /// It adds entry points for memory that the device shares with the host, where it does.
    SharedMemory,
    /// It adds properties of queues, which this driver passes on.
    QueueProperties,
    /// It adds entry points for what this driver has recorded, from a version on.
    RecordedCommands,
}

/// Sorted by name, for binary search.
const DEVICE_EXTENSIONS: &[(&str, Because)] = &[
    ("cl_amd_device_attribute_query", Because::Queries),
    ("cl_amd_fp64", Because::Language),
    ("cl_amd_media_ops", Because::Language),
    ("cl_amd_media_ops2", Because::Language),
    ("cl_amd_popcnt", Because::Language),
    ("cl_amd_vec3", Because::Language),
    ("cl_ext_cxx_for_opencl", Because::Queries),
    ("cl_ext_float_atomics", Because::Queries),
    ("cl_intel_bfloat16", Because::Language),
    ("cl_intel_bfloat16_conversions", Because::Language),
    ("cl_intel_device_attribute_query", Because::Queries),
    ("cl_intel_devicelib_assert", Because::Language),
    ("cl_intel_required_subgroup_size", Because::Queries),
    ("cl_intel_sigmoid", Because::Language),
    ("cl_intel_spirv_subgroups", Because::Language),
    ("cl_intel_split_work_group_barrier", Because::Language),
    ("cl_intel_subgroup_buffer_prefetch", Because::Language),
    ("cl_intel_subgroup_local_block_io", Because::Language),
    ("cl_intel_subgroup_matrix_multiply_accumulate", Because::Language),
    ("cl_intel_subgroup_matrix_multiply_accumulate_tf32", Because::Language),
    ("cl_intel_subgroup_split_matrix_multiply_accumulate", Because::Language),
    ("cl_intel_subgroups", Because::Language),
    ("cl_intel_subgroups_char", Because::Language),
    ("cl_intel_subgroups_long", Because::Language),
    ("cl_intel_subgroups_short", Because::Language),
    ("cl_intel_unified_shared_memory", Because::SharedMemory),
    ("cl_intel_vec_len_hint", Because::Language),
    ("cl_khr_3d_image_writes", Because::Language),
    ("cl_khr_async_work_group_copy_fence", Because::Language),
    ("cl_khr_byte_addressable_store", Because::Language),
    ("cl_khr_command_buffer", Because::EntryPoint),
    (MUTABLE_DISPATCH, Because::RecordedCommands),
    ("cl_khr_create_command_queue", Because::EntryPoint),
    ("cl_khr_depth_images", Because::Images),
    ("cl_khr_device_uuid", Because::Queries),
    ("cl_khr_expect_assume", Because::Language),
    ("cl_khr_extended_async_copies", Because::Language),
    ("cl_khr_extended_bit_ops", Because::Language),
    ("cl_khr_extended_versioning", Because::Queries),
    ("cl_khr_fp16", Because::Language),
    ("cl_khr_fp64", Because::Language),
    ("cl_khr_global_int32_base_atomics", Because::Language),
    ("cl_khr_global_int32_extended_atomics", Because::Language),
    ("cl_khr_il_program", Because::EntryPoint),
    ("cl_khr_image2d_from_buffer", Because::Images),
    ("cl_khr_int64_base_atomics", Because::Language),
    ("cl_khr_int64_extended_atomics", Because::Language),
    ("cl_khr_integer_dot_product", Because::Queries),
    ("cl_khr_kernel_clock", Because::Queries),
    ("cl_khr_local_int32_base_atomics", Because::Language),
    ("cl_khr_local_int32_extended_atomics", Because::Language),
    ("cl_khr_pci_bus_info", Because::Queries),
    ("cl_khr_priority_hints", Because::QueueProperties),
    ("cl_khr_select_fprounding_mode", Because::Language),
    ("cl_khr_spirv_linkonce_odr", Because::Language),
    ("cl_khr_subgroup_ballot", Because::Language),
    ("cl_khr_subgroup_clustered_reduce", Because::Language),
    ("cl_khr_subgroup_extended_types", Because::Language),
    ("cl_khr_subgroup_named_barrier", Because::Language),
    ("cl_khr_subgroup_non_uniform_arithmetic", Because::Language),
    ("cl_khr_subgroup_non_uniform_vote", Because::Language),
    ("cl_khr_subgroup_rotate", Because::Language),
    ("cl_khr_subgroup_shuffle", Because::Language),
    ("cl_khr_subgroup_shuffle_relative", Because::Language),
    ("cl_khr_subgroups", Because::EntryPoint),
    ("cl_khr_suggested_local_work_size", Because::EntryPoint),
    ("cl_khr_throttle_hints", Because::QueueProperties),
    ("cl_khr_work_group_uniform_arithmetic", Because::Language),
    ("cl_nv_compiler_options", Because::Options),
    ("cl_nv_device_attribute_query", Because::Queries),
    ("cl_nv_kernel_attribute", Because::Language),
    ("cl_nv_pragma_unroll", Because::Language),
];

/// Extensions of the platform that pass where the host's has them. [`ICD`] is this driver's own.
const PLATFORM_EXTENSIONS: &[&str] =
    &["cl_khr_extended_versioning", "cl_khr_priority_hints", "cl_khr_throttle_hints"];

/// How the loader finds this driver.
const ICD: &str = "cl_khr_icd";

/// OpenCL C 3.0 features, without the prefix `__opencl_c_`.
const FEATURES: &[&str] = &[
    "3d_image_writes",
    "atomic_order_acq_rel",
    "atomic_order_seq_cst",
    "atomic_scope_all_devices",
    "atomic_scope_device",
    "device_enqueue",
    "ext_fp16_global_atomic_add",
    "ext_fp16_global_atomic_load_store",
    "ext_fp16_global_atomic_min_max",
    "ext_fp16_local_atomic_add",
    "ext_fp16_local_atomic_load_store",
    "ext_fp16_local_atomic_min_max",
    "ext_fp32_global_atomic_add",
    "ext_fp32_global_atomic_min_max",
    "ext_fp32_local_atomic_add",
    "ext_fp32_local_atomic_min_max",
    "ext_fp64_global_atomic_add",
    "ext_fp64_global_atomic_min_max",
    "ext_fp64_local_atomic_add",
    "ext_fp64_local_atomic_min_max",
    "fp16",
    "fp64",
    "generic_address_space",
    "images",
    "int64",
    "integer_dot_product_input_4x8bit",
    "integer_dot_product_input_4x8bit_packed",
    "intel_bfloat_global_atomic_add",
    "intel_bfloat_global_atomic_load_store",
    "intel_bfloat_global_atomic_min_max",
    "intel_bfloat_local_atomic_add",
    "intel_bfloat_local_atomic_load_store",
    "intel_bfloat_local_atomic_min_max",
    "kernel_clock_scope_device",
    "kernel_clock_scope_sub_group",
    "kernel_clock_scope_work_group",
    "pipes",
    "program_scope_global_variables",
    "read_write_images",
    "subgroups",
    "work_group_collective_functions",
];

/// What extensions need that this driver offers for some devices only.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Offer {
    /// The device shares memory with the host.
    pub(crate) shared_memory: bool,
    /// The host has the extension in a [version](MutableDispatchVersion) that this driver has.
    pub(crate) mutable_dispatch: bool,
}

fn is_device_extension(name: &str, offer: Offer) -> bool {
    let found = DEVICE_EXTENSIONS.binary_search_by_key(&name, |(known, _)| known);
    found.is_ok_and(|index| match DEVICE_EXTENSIONS[index].1 {
        Because::SharedMemory => offer.shared_memory,
        Because::RecordedCommands => offer.mutable_dispatch,
        _ => true,
    })
}

fn is_feature(name: &str) -> bool {
    name.strip_prefix("__opencl_c_").is_some_and(|name| FEATURES.binary_search(&name).is_ok())
}

/// `CL_DEVICE_EXTENSIONS`, filtered. What is left is as the host has it, spaces and all.
pub(crate) fn device_extensions(of_host: &str, offer: Offer) -> String {
    let is_left = |word: &&str| word.trim().is_empty() || is_device_extension(word.trim(), offer);
    let left: String = of_host.split_inclusive(' ').filter(is_left).collect();
    // Without a space at the end where the last ones are left out.
    if of_host.ends_with(' ') { left } else { left.trim_end().to_owned() }
}

fn is_platform_extension(name: &str) -> bool {
    PLATFORM_EXTENSIONS.contains(&name)
}

/// `CL_PLATFORM_EXTENSIONS`.
pub(crate) fn platform_extensions(of_host: &str) -> String {
    let shared = of_host.split_ascii_whitespace().filter(|name| is_platform_extension(name));
    [ICD].into_iter().chain(shared).collect::<Vec<_>>().join(" ")
}

/// `CL_PLATFORM_EXTENSIONS_WITH_VERSION`.
pub(crate) fn platform_extensions_with_version(of_host: &[u8]) -> Vec<u8> {
    let shared = filter_versions(of_host, is_platform_extension);
    [NameVersion::new(ICD, version(1, 0)).as_bytes(), &shared].concat()
}

/// A `cl_name_version`, as it lies in the host's answer.
const NAME_VERSION_BYTES: usize = 4 + NAME_BYTES;
const NAME_BYTES: usize = opencl_sys::CL_NAME_VERSION_MAX_NAME_SIZE;

fn filter_versions(of_host: &[u8], keep: impl Fn(&str) -> bool) -> Vec<u8> {
    let (entries, _) = of_host.as_chunks::<NAME_VERSION_BYTES>();
    entries.iter().filter(|entry| keep(&super::info::text(&entry[4..]))).flatten().copied().collect()
}

/// `CL_DEVICE_EXTENSIONS_WITH_VERSION`, filtered by the same list.
pub(crate) fn device_extensions_with_version(of_host: &[u8], offer: Offer) -> Vec<u8> {
    filter_versions(of_host, |name| is_device_extension(name, offer))
}

/// `CL_DEVICE_OPENCL_C_FEATURES`, filtered.
pub(crate) fn features(of_host: &[u8]) -> Vec<u8> {
    filter_versions(of_host, is_feature)
}

/// A `cl_name_version`.
#[derive(Clone, Copy, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct NameVersion {
    version: u32,
    name: [u8; NAME_BYTES],
}

impl NameVersion {
    /// A name, which must be shorter than 64 bytes, and a version by `CL_MAKE_VERSION`.
    pub(crate) fn new(name: &str, version: u32) -> NameVersion {
        let mut bytes = [0; NAME_BYTES];
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        NameVersion { version, name: bytes }
    }
}

/// `CL_MAKE_VERSION` with patch 0.
pub(crate) const fn version(major: u32, minor: u32) -> u32 {
    major << 22 | minor << 12
}

/// The version of an extension in `CL_DEVICE_EXTENSIONS_WITH_VERSION`.
fn stated_version(name: &str, with_version: &[u8]) -> Option<u32> {
    let (entries, _) = with_version.as_chunks::<NAME_VERSION_BYTES>();
    let stated = entries.iter().find(|entry| super::info::text(&entry[4..]) == name);
    stated.and_then(|entry| super::info::number(entry))
}

/// A version of `cl_khr_command_buffer`. It changed from version to version, its functions' arguments included: an
/// application finds what it finds on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CommandBufferVersion(u32);

impl CommandBufferVersion {
    const fn patch(patch: u32) -> u32 {
        version(0, 9) | patch
    }

    /// The host's version, from `CL_DEVICE_EXTENSIONS_WITH_VERSION` where it has that, and if it has the extension.
    pub(crate) fn of_host(extensions: &str, with_version: &[u8]) -> Option<CommandBufferVersion> {
        const NAME: &str = "cl_khr_command_buffer";
        // One that states none is from before there were others.
        let listed = || extensions.split_ascii_whitespace().any(|name| name == NAME);
        let version = stated_version(NAME, with_version);
        version.or_else(|| listed().then_some(CommandBufferVersion::patch(0))).map(CommandBufferVersion)
    }

    /// `CL_COMMAND_BUFFER_CONTEXT_KHR`.
    pub(crate) fn has_context_query(self) -> bool {
        self.0 >= CommandBufferVersion::patch(2)
    }

    /// All functions that record commands take properties, not only the one for kernels.
    pub(crate) fn has_properties(self) -> bool {
        self.0 >= CommandBufferVersion::patch(5)
    }

    /// `CL_DEVICE_COMMAND_BUFFER_SUPPORTED_QUEUE_PROPERTIES_KHR`, and a buffer may be enqueued in any queue that has the
    /// supported ones; before, in one with the properties of the one it was made with.
    pub(crate) fn has_supported_properties(self) -> bool {
        self.0 >= CommandBufferVersion::patch(7)
    }

    /// A buffer that is being executed is in a state of its own.
    pub(crate) fn has_pending_state(self) -> bool {
        self.0 < CommandBufferVersion::patch(8)
    }
}

const MUTABLE_DISPATCH: &str = "cl_khr_command_buffer_mutable_dispatch";

/// What of a recorded launch may be changeable: `cl_mutable_dispatch_fields_khr`.
pub(crate) const MUTABLE_FIELDS: u64 = CL_MUTABLE_DISPATCH_GLOBAL_OFFSET_KHR
    | CL_MUTABLE_DISPATCH_GLOBAL_SIZE_KHR
    | CL_MUTABLE_DISPATCH_LOCAL_SIZE_KHR
    | CL_MUTABLE_DISPATCH_ARGUMENTS_KHR
    | CL_MUTABLE_DISPATCH_EXEC_INFO_KHR;

/// A version of `cl_khr_command_buffer_mutable_dispatch`, from 0.9.2 on: before, changes were a linked list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MutableDispatchVersion(u32);

impl MutableDispatchVersion {
    /// The host's version, from `CL_DEVICE_EXTENSIONS_WITH_VERSION`, and if it is one that there is here.
    pub(crate) fn of_host(with_version: &[u8]) -> Option<MutableDispatchVersion> {
        let stated = stated_version(MUTABLE_DISPATCH, with_version)?;
        (stated >= CommandBufferVersion::patch(2)).then_some(MutableDispatchVersion(stated))
    }

    /// A kernel may be recorded whose arguments are not all set.
    pub(crate) fn takes_incomplete_kernels(self) -> bool {
        self.0 >= CommandBufferVersion::patch(5)
    }
}

/// `CL_DEVICE_VERSION` for the guest. OpenCL 2.0 to 2.2 demand shared virtual memory of every device; where it cannot be
/// offered, the device is an OpenCL 1.2 device, whatever the compiler can do. No device is of a later version than this
/// driver.
pub(crate) fn device_version(of_host: &str, has_svm: bool) -> String {
    let parts = of_host.strip_prefix("OpenCL ").and_then(|rest| rest.split_once(' '));
    let numbers = parts.and_then(|(number, rest)| {
        let (major, minor) = number.split_once('.')?;
        Some((version(major.parse().ok()?, minor.parse().ok()?), rest))
    });
    match numbers {
        Some((number, rest)) if numeric_version(number, has_svm) != number => {
            let number = numeric_version(number, has_svm);
            format!("OpenCL {}.{} {rest}", major(number), number >> 12 & 0x3ff)
        }
        _ => of_host.to_owned(),
    }
}

/// `CL_DEVICE_NUMERIC_VERSION` that goes with [`device_version`].
pub(crate) fn numeric_version(of_host: u32, has_svm: bool) -> u32 {
    if major(of_host) == 2 && !has_svm { version(1, 2) } else { of_host.min(version(3, 0)) }
}

/// The major part of a `cl_version`.
pub(crate) fn major(version: u32) -> u32 {
    version >> 22
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Offer = Offer { shared_memory: false, mutable_dispatch: false };

    #[test]
    fn the_lists_are_sorted() {
        assert!(DEVICE_EXTENSIONS.is_sorted_by_key(|(name, _)| *name));
        assert!(FEATURES.is_sorted());
    }

    #[test]
    fn only_what_works_here_passes() {
        let host = "cl_khr_fp64 cl_khr_spir  cl_khr_gl_sharing cl_khr_semaphore cl_khr_int64_base_atomics";
        assert_eq!(device_extensions(host, NOTHING), "cl_khr_fp64  cl_khr_int64_base_atomics");
        assert_eq!(device_extensions("", NOTHING), "");
        assert_eq!(device_extensions("cl_khr_fp64 cl_khr_spir", NOTHING), "cl_khr_fp64");
        assert_eq!(
            device_extensions("cl_khr_fp64  cl_khr_fp16 ", NOTHING),
            "cl_khr_fp64  cl_khr_fp16 ",
            "as it is"
        );
        let usm = "cl_intel_unified_shared_memory";
        let shared = Offer { shared_memory: true, ..NOTHING };
        assert_eq!(
            (device_extensions(usm, shared), device_extensions(usm, NOTHING)),
            (usm.into(), String::new())
        );
    }

    #[test]
    fn the_platform_has_its_own_extension_and_those_of_the_hosts_that_pass() {
        assert_eq!(
            platform_extensions("cl_khr_icd cl_khr_priority_hints cl_x"),
            "cl_khr_icd cl_khr_priority_hints"
        );
        let entries =
            ["cl_khr_icd", "cl_khr_throttle_hints", "cl_x"].map(|name| NameVersion::new(name, version(2, 0)));
        let kept = platform_extensions_with_version(entries.as_bytes());
        assert_eq!(kept, [NameVersion::new("cl_khr_icd", version(1, 0)), entries[1]].as_bytes());
    }

    #[test]
    fn versioned_lists_are_filtered_by_the_same_rule() {
        let entries = ["cl_khr_fp64", "cl_khr_spir", "cl_khr_fp16"].map(|name| NameVersion::new(name, 7));
        let kept = device_extensions_with_version(entries.as_bytes(), NOTHING);
        assert_eq!(kept, [entries[0], entries[2]].as_bytes());
        // A host's answer that is cut off loses the part entry.
        assert_eq!(
            device_extensions_with_version(&entries.as_bytes()[..100], NOTHING),
            entries[0].as_bytes()
        );

        let entries = ["__opencl_c_magic", "__opencl_c_int64"].map(|name| NameVersion::new(name, 7));
        assert_eq!(features(entries.as_bytes()), entries[1].as_bytes());
    }

    #[test]
    fn the_version_of_command_buffers_is_the_hosts() {
        let of = |extensions: &str, entries: &[NameVersion]| {
            CommandBufferVersion::of_host(extensions, entries.as_bytes())
        };
        let entry = |patch| NameVersion::new("cl_khr_command_buffer", version(0, 9) | patch);
        let fp64 = NameVersion::new("cl_khr_fp64", version(1, 0));
        let (old, new) = (of("", &[fp64, entry(4)]).unwrap(), of("", &[entry(8)]).unwrap());
        assert!(!old.has_properties() && old.has_context_query() && old.has_pending_state());
        assert!(new.has_properties() && new.has_supported_properties() && !new.has_pending_state());
        assert_eq!(of("cl_khr_fp64", &[fp64]), None);
        assert!(of("cl_khr_fp64 cl_khr_command_buffer", &[]).is_some_and(|first| !first.has_context_query()));
    }

    #[test]
    fn mutable_dispatch_is_offered_from_the_version_that_takes_an_array_of_changes() {
        let of = |patch| {
            let entry = NameVersion::new(MUTABLE_DISPATCH, version(0, 9) | patch);
            MutableDispatchVersion::of_host(entry.as_bytes())
        };
        assert_eq!((of(0), of(1), MutableDispatchVersion::of_host(&[])), (None, None, None));
        let takes = |patch| of(patch).map(MutableDispatchVersion::takes_incomplete_kernels);
        assert_eq!([takes(2), takes(3), takes(5)], [Some(false), Some(false), Some(true)]);
        let offer = Offer { mutable_dispatch: true, ..NOTHING };
        assert_eq!(device_extensions(MUTABLE_DISPATCH, offer), MUTABLE_DISPATCH);
        assert_eq!(device_extensions(MUTABLE_DISPATCH, NOTHING), "");
    }

    #[test]
    fn a_device_is_of_no_version_that_asks_for_more_than_is_offered() {
        let amd = "OpenCL 2.0 AMD-APP (3590.0)";
        assert_eq!(device_version(amd, true), amd);
        assert_eq!(device_version(amd, false), "OpenCL 1.2 AMD-APP (3590.0)");
        for same in ["OpenCL 3.0 CUDA", "OpenCL 1.2 pocl", "OpenCL C 1.2", "else"] {
            assert_eq!(device_version(same, false), same);
        }
        assert_eq!(device_version("OpenCL 3.1 (Build 0)", true), "OpenCL 3.0 (Build 0)");
        for (of_host, has_svm, shown) in [
            (version(2, 1), false, version(1, 2)),
            (version(2, 1), true, version(2, 1)),
            (version(3, 0), false, version(3, 0)),
            (version(3, 1), true, version(3, 0)),
        ] {
            assert_eq!(numeric_version(of_host, has_svm), shown);
        }
    }
}
