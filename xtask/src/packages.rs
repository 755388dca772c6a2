//! Which Debian packages the developer commands need, and their installation.

use crate::{apt, qemu, say};
use anyhow::Result;

/// What packages can be needed for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Booting a VM with a vGPU.
    Vm,
    /// Building the guest's kernel module.
    Module,
    /// Building virtiofsd, where the guest's kernel needs it.
    Virtiofsd,
    /// The demo's programs.
    Demo,
    /// `cargo test`.
    Test,
    /// Counting instructions.
    Instructions,
    /// Fuzzing.
    Fuzz,
    /// The programs that every run of the checks compares.
    Programs,
}

use Purpose::{Demo, Fuzz, Instructions, Module, Programs, Test, Virtiofsd, Vm};

/// A package that is installed on the host, and what for.
struct Package {
    name: &'static str,
    needed_for: &'static [Purpose],
}

/// Everything that is installed on the host besides QEMU, of which the version matters (see [`qemu_source`]).
///
/// The guest's kernel and its busybox are not here: they are downloaded and unpacked, never installed.
const PACKAGES: &[Package] = &[
    // The OpenCL loader, and an OpenCL driver for hosts without a GPU.
    Package { name: "ocl-icd-libopencl1", needed_for: &[Vm, Demo, Test, Programs] },
    Package { name: "pocl-opencl-icd", needed_for: &[Vm, Demo, Test, Programs] },
    // Unmodified OpenCL programs.
    Package { name: "clinfo", needed_for: &[Demo, Programs] },
    Package { name: "clpeak", needed_for: &[Demo, Programs] },
    // Libraries that such programs are made with. The packages themselves depend on the rest.
    Package { name: "python3-pyopencl", needed_for: &[Programs] },
    Package { name: "libclblast-dev", needed_for: &[Programs] },
    Package { name: "ocl-icd-opencl-dev", needed_for: &[Programs] },
    Package { name: "valgrind", needed_for: &[Test, Instructions] },
    // libFuzzer is C++.
    Package { name: "g++", needed_for: &[Fuzz] },
    // Kernel modules are C. What the build's own programs need comes with QEMU.
    Package { name: "gcc", needed_for: &[Module] },
    Package { name: "make", needed_for: &[Module] },
    Package { name: "libcap-ng-dev", needed_for: &[Virtiofsd] },
    Package { name: "libseccomp-dev", needed_for: &[Virtiofsd] },
    Package { name: "lz4", needed_for: &[Module] },
    // Debian's kernels are compressed, and newer ones' modules too.
    Package { name: "xz-utils", needed_for: &[Vm] },
];

/// The package with `qemu-system-x86_64`.
const QEMU: &str = "qemu-system-x86";

/// The first QEMU whose `vhost-user-gpu-pci` works without KVM.
const FIRST_QEMU_WITHOUT_KVM: u32 = 10;

/// Installs what `purpose` needs and the host lacks; `own_qemu` says that the user brings a QEMU along.
pub(crate) fn ensure(purposes: &[Purpose], own_qemu: bool) -> Result<()> {
    let mut plan = apt::Plan::default();
    for package in PACKAGES {
        let needed = package.needed_for.iter().any(|purpose| purposes.contains(purpose));
        if needed && apt::installed(package.name).is_none() {
            plan.install.push(package.name);
        }
    }
    let needs_qemu = purposes.contains(&Vm) && !own_qemu && !installed_qemu_suffices();
    if plan.install.is_empty() && !needs_qemu {
        return Ok(());
    }
    plan.update_if_unknown(QEMU)?;
    if needs_qemu {
        match qemu_source()? {
            Source::Release => plan.install.push(QEMU),
            Source::Backports => plan.from_backports.push(QEMU),
        }
    }
    plan.carry_out()
}

fn installed_qemu_suffices() -> bool {
    let Some(version) = qemu::installed_version() else {
        return false;
    };
    let enough = qemu::kvm_is_usable() || version >= FIRST_QEMU_WITHOUT_KVM;
    if !enough {
        say::step(
            "packages",
            format!(
                "QEMU {version} is installed, but without KVM the vGPU needs {FIRST_QEMU_WITHOUT_KVM} or later"
            ),
        );
    }
    enough
}

/// Where a new enough QEMU comes from.
enum Source {
    Release,
    Backports,
}

fn qemu_source() -> Result<Source> {
    if qemu::kvm_is_usable() {
        return Ok(Source::Release);
    }
    let candidate = apt::candidate(QEMU)?.and_then(|version| major(&version));
    Ok(match candidate {
        Some(version) if version >= FIRST_QEMU_WITHOUT_KVM => Source::Release,
        _ => Source::Backports,
    })
}

/// The first number of a Debian version after its epoch: 10 of `1:10.0.2+ds-2`.
fn major(version: &str) -> Option<u32> {
    let upstream = version.split_once(':').map_or(version, |(_, rest)| rest);
    upstream.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::major;

    #[test]
    fn the_major_version_ignores_the_epoch() {
        assert_eq!(major("1:10.0.2+ds-2+deb13u1~bpo12+1"), Some(10));
        assert_eq!(major("7.2+dfsg-7"), Some(7));
        assert_eq!(major("unknown"), None);
    }
}
