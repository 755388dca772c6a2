//! Does `clinfo` show the same through a vGPU as on the host?

mod common;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use common::{Daemon, succeeds};

/// What is this platform's own, whatever the host's is.
const OWN: &[&str] = &[
    "CL_PLATFORM_NAME",
    "CL_PLATFORM_VENDOR",
    "CL_PLATFORM_VERSION",
    "CL_PLATFORM_NUMERIC_VERSION",
    "CL_PLATFORM_ICD_SUFFIX_KHR",
    // The host's driver may have passed the conformance tests; this one has not.
    "CL_DEVICE_LATEST_CONFORMANCE_VERSION_PASSED",
];

/// Lists of which some may be left out: what this driver does not offer.
const LISTS: &[&str] = &[
    "CL_PLATFORM_EXTENSIONS",
    "CL_PLATFORM_EXTENSIONS_WITH_VERSION",
    "CL_DEVICE_EXTENSIONS",
    "CL_DEVICE_EXTENSIONS_WITH_VERSION",
    "CL_DEVICE_OPENCL_C_FEATURES",
    "CL_DEVICE_SVM_CAPABILITIES",
    "CL_DEVICE_SHARED_SYSTEM_MEM_CAPABILITIES_INTEL",
    "CL_DEVICE_COMMAND_BUFFER_CAPABILITIES_KHR",
    // Queries of extensions that may be left out.
    "CL_DEVICE_SPIR_VERSIONS",
    // Only those are shown that the host's driver can make: PoCL 3.1 lists four and builds none of them.
    "CL_DEVICE_BUILT_IN_KERNELS",
    "CL_DEVICE_BUILT_IN_KERNELS_WITH_VERSION",
];

/// Values by name, and by device where there is one. Spaces count.
fn values(raw: &str) -> BTreeMap<(String, String), String> {
    let parse = |line: &str| {
        // "[SUFFIX/0]    NAME    value"; the suffix is the platform's.
        let (place, rest) = match line.trim_start().strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((place, rest)) => (place.split_once('/').map_or("", |(_, device)| device), rest),
            None => ("", line),
        };
        let rest = rest.trim_start();
        let name = rest.split(' ').next().filter(|name| name.starts_with("CL_"))?;
        let value = rest[name.len()..].trim_start();
        Some(((place.to_owned(), name.to_owned()), value.to_owned()))
    };
    raw.lines().filter_map(parse).collect()
}

/// What a device's version is shown as: none is later than this platform's.
fn version(value: &str) -> Option<String> {
    let number = value.strip_prefix("0x").and_then(|digits| u32::from_str_radix(digits, 16).ok());
    match (number, value.strip_prefix("OpenCL 3.")) {
        (Some(number), _) => Some(format!("{:#x}", number.min(3 << 22))),
        (None, Some(rest)) => Some(format!("OpenCL 3.0 {}", rest.split_once(' ')?.1)),
        _ => None,
    }
}

/// True if each word of `shown` is one of `all`, in the same order.
fn is_part(shown: &str, all: &str) -> bool {
    fn words(list: &str) -> impl Iterator<Item = &str> {
        list.split([' ', ';']).filter(|word| !word.is_empty())
    }
    let mut rest = words(all);
    words(shown).all(|word| rest.any(|other| other == word))
}

#[test]
fn a_vgpu_shows_what_the_host_shows() {
    let native = match Command::new("clinfo").arg("--raw").output() {
        Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "skipped: clinfo cannot be run ({error})");
            return;
        }
    };
    if native.lines().filter(|line| line.trim_start().starts_with("CL_PLATFORM_NAME")).count() != 1 {
        let _ = writeln!(std::io::stderr(), "skipped: this host does not have exactly one OpenCL platform");
        return;
    }
    let daemon = Daemon::start();
    let (native, vgpu) = (values(&native), values(&succeeds(daemon.run(Path::new("clinfo")).arg("--raw"))));
    assert!(native.len() > 80, "{native:?}");
    let mut wrong = Vec::new();
    for ((device, name), value) in &native {
        let shown = vgpu.get(&(device.clone(), name.clone())).map_or("", String::as_str);
        let is_version = matches!(&**name, "CL_DEVICE_VERSION" | "CL_DEVICE_NUMERIC_VERSION");
        let fine = shown == value
            || OWN.contains(&&**name)
            || is_version && version(value).is_some_and(|version| shown == version)
            || LISTS.contains(&&**name) && is_part(shown, value);
        if !fine {
            wrong.push(format!("{name}: {value:?} is shown as {shown:?}"));
        }
    }
    for (place, value) in &vgpu {
        if !native.contains_key(place) {
            wrong.push(format!("{}: {value:?} is shown, but the host does not say it", place.1));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn versions_are_those_of_this_platform_at_most() {
    assert_eq!(version("0xc01000"), Some("0xc00000".to_owned()));
    assert_eq!(version("0x402000"), Some("0x402000".to_owned()));
    assert_eq!(version("OpenCL 3.1 (Build 0)"), Some("OpenCL 3.0 (Build 0)".to_owned()));
    assert_eq!(version("OpenCL 1.2 old"), None);
}

#[test]
fn parts_of_lists_keep_their_order() {
    assert!(is_part("", "a b") && is_part("a c", "a  b c") && is_part("a", "a;b"));
    assert!(!is_part("d", "a b") && !is_part("b a", "a b"));
}
