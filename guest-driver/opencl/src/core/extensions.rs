//! Which of the host's extensions and OpenCL C features an application in the guest is told of.
//!
//! A list of what is known to work through this driver: an extension that only concerns the language works because
//! the host compiles the program; one with entry points or queries works only if this driver has them.

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
}

/// Sorted by name, for binary search.
const DEVICE_EXTENSIONS: &[(&str, Because)] = &[
    ("cl_amd_device_attribute_query", Because::Queries),
    ("cl_amd_media_ops", Because::Language),
    ("cl_amd_media_ops2", Because::Language),
    ("cl_khr_async_work_group_copy_fence", Because::Language),
    ("cl_khr_byte_addressable_store", Because::Language),
    ("cl_khr_device_uuid", Because::Queries),
    ("cl_khr_expect_assume", Because::Language),
    ("cl_khr_extended_async_copies", Because::Language),
    ("cl_khr_extended_bit_ops", Because::Language),
    ("cl_khr_fp16", Because::Language),
    ("cl_khr_fp64", Because::Language),
    ("cl_khr_global_int32_base_atomics", Because::Language),
    ("cl_khr_global_int32_extended_atomics", Because::Language),
    ("cl_khr_il_program", Because::EntryPoint),
    ("cl_khr_int64_base_atomics", Because::Language),
    ("cl_khr_int64_extended_atomics", Because::Language),
    ("cl_khr_local_int32_base_atomics", Because::Language),
    ("cl_khr_local_int32_extended_atomics", Because::Language),
    ("cl_khr_pci_bus_info", Because::Queries),
    ("cl_khr_select_fprounding_mode", Because::Language),
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
    ("cl_khr_work_group_uniform_arithmetic", Because::Language),
    ("cl_nv_compiler_options", Because::Options),
    ("cl_nv_device_attribute_query", Because::Queries),
    ("cl_nv_pragma_unroll", Because::Language),
];

/// OpenCL C 3.0 features, without the prefix `__opencl_c_`. Left out: images (`images`, `3d_image_writes`,
/// `read_write_images`), `pipes` and `device_enqueue`, whose objects this driver cannot make yet.
const FEATURES: &[&str] = &[
    "atomic_order_acq_rel",
    "atomic_order_seq_cst",
    "atomic_scope_all_devices",
    "atomic_scope_device",
    "fp16",
    "fp64",
    "generic_address_space",
    "int64",
    "program_scope_global_variables",
    "subgroups",
    "work_group_collective_functions",
];

fn is_device_extension(name: &str) -> bool {
    DEVICE_EXTENSIONS.binary_search_by_key(&name, |(known, _)| known).is_ok()
}

fn is_feature(name: &str) -> bool {
    name.strip_prefix("__opencl_c_").is_some_and(|name| FEATURES.binary_search(&name).is_ok())
}

/// `CL_DEVICE_EXTENSIONS`, filtered.
pub(crate) fn device_extensions(of_host: &str) -> String {
    of_host.split_ascii_whitespace().filter(|name| is_device_extension(name)).collect::<Vec<_>>().join(" ")
}

/// A `cl_name_version`, as it lies in the host's answer.
const NAME_VERSION_BYTES: usize = 4 + NAME_BYTES;
const NAME_BYTES: usize = opencl_sys::CL_NAME_VERSION_MAX_NAME_SIZE;

fn filter_versions(of_host: &[u8], keep: impl Fn(&str) -> bool) -> Vec<u8> {
    let (entries, _) = of_host.as_chunks::<NAME_VERSION_BYTES>();
    entries.iter().filter(|entry| keep(&super::info::text(&entry[4..]))).flatten().copied().collect()
}

/// `CL_DEVICE_EXTENSIONS_WITH_VERSION`, filtered by the same list.
pub(crate) fn device_extensions_with_version(of_host: &[u8]) -> Vec<u8> {
    filter_versions(of_host, is_device_extension)
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

/// `CL_DEVICE_VERSION` for the guest. OpenCL 2.0 to 2.2 demand shared virtual memory, pipes and device-side queues
/// of every device; a device without them is an OpenCL 1.2 device, whatever the compiler can do.
pub(crate) fn device_version(of_host: &str) -> String {
    match of_host.strip_prefix("OpenCL 2.").and_then(|rest| rest.split_once(' ')) {
        Some((_, rest)) => format!("OpenCL 1.2 {rest}"),
        None => of_host.to_owned(),
    }
}

/// `CL_DEVICE_NUMERIC_VERSION` that goes with [`device_version`].
pub(crate) fn numeric_version(of_host: u32) -> u32 {
    if of_host >> 22 == 2 { version(1, 2) } else { of_host }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_are_sorted() {
        assert!(DEVICE_EXTENSIONS.is_sorted_by_key(|(name, _)| *name));
        assert!(FEATURES.is_sorted());
    }

    #[test]
    fn only_what_works_here_passes() {
        let host =
            "cl_khr_fp64 cl_khr_spir  cl_khr_3d_image_writes cl_khr_command_buffer cl_khr_int64_base_atomics";
        assert_eq!(device_extensions(host), "cl_khr_fp64 cl_khr_int64_base_atomics");
        assert_eq!(device_extensions(""), "");
    }

    #[test]
    fn versioned_lists_are_filtered_by_the_same_rule() {
        let entries = ["cl_khr_fp64", "cl_khr_spir", "cl_khr_fp16"].map(|name| NameVersion::new(name, 7));
        let kept = device_extensions_with_version(entries.as_bytes());
        assert_eq!(kept, [entries[0], entries[2]].as_bytes());
        // A host's answer that is cut off loses the part entry.
        assert_eq!(device_extensions_with_version(&entries.as_bytes()[..100]), entries[0].as_bytes());

        let entries = ["__opencl_c_images", "__opencl_c_int64"].map(|name| NameVersion::new(name, 7));
        assert_eq!(features(entries.as_bytes()), entries[1].as_bytes());
    }

    #[test]
    fn a_device_of_version_2_is_presented_as_1_2() {
        assert_eq!(device_version("OpenCL 2.0 AMD-APP (3590.0)"), "OpenCL 1.2 AMD-APP (3590.0)");
        assert_eq!(device_version("OpenCL 3.0 CUDA"), "OpenCL 3.0 CUDA");
        assert_eq!(device_version("OpenCL 1.2 pocl"), "OpenCL 1.2 pocl");
        assert_eq!(numeric_version(version(2, 1)), version(1, 2));
        assert_eq!(numeric_version(version(3, 0)), version(3, 0));
    }
}
