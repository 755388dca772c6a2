//! The guest's kernel and busybox: taken from Debian's packages, unpacked into a cache, never installed.

use crate::{apt, kernel_headers, kernel_image, say};
use anyhow::{Context, Result, bail};
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::str::FromStr;

const BUSYBOX: &str = "busybox-static";

/// Which kernel a guest boots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kernel {
    /// That of a Debian package; one without a kernel of its own, such as `linux-image-amd64`, stands for the package that
    /// it depends on.
    Package(String),
    /// A folder like an unpacked package's, with boot/vmlinuz-* and lib/modules/*.
    Folder(PathBuf),
}

impl Kernel {
    /// Debian's kernel for VMs, which has no DRM.
    pub(crate) fn debian_cloud() -> Kernel {
        Kernel::Package("linux-image-cloud-amd64".to_owned())
    }
}

impl FromStr for Kernel {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Kernel, Infallible> {
        Ok(match text {
            "debian" => Kernel::Package("linux-image-amd64".to_owned()),
            "debian-cloud" => Kernel::debian_cloud(),
            name if name.starts_with("linux-image-") => Kernel::Package(name.to_owned()),
            path => Kernel::Folder(path.into()),
        })
    }
}

/// What a guest boots.
pub(crate) struct Software {
    kernel: Kernel,
    /// The bootable kernel.
    pub(crate) image: PathBuf,
    /// The folder with this kernel's modules, `lib/modules/VERSION`.
    pub(crate) modules: PathBuf,
    /// A statically linked busybox.
    pub(crate) busybox: PathBuf,
}

impl Software {
    /// The kernel's release, as `uname -r` says it.
    pub(crate) fn release(&self) -> Result<&str> {
        let release = self.modules.file_name().and_then(|name| name.to_str());
        release.with_context(|| format!("{} is no kernel release", self.modules.display()))
    }
}

/// A package in the version that apt offers.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) package: String,
    pub(crate) version: String,
}

/// The kernel, and Debian's busybox.
pub(crate) fn software(kernel: &Kernel, cache: &Path) -> Result<Software> {
    let (folder, busybox) = match kernel {
        Kernel::Package(package) => {
            let [kernel, busybox] = candidates(package)?;
            (unpacked(&kernel, cache)?, busybox)
        }
        Kernel::Folder(folder) => (folder.clone(), candidate(&known_descriptions(&[BUSYBOX])?)?),
    };
    let modules = [folder.join("lib/modules"), folder.join("usr/lib/modules")];
    let modules = modules.iter().find(|path| path.is_dir());
    let modules = modules.with_context(|| format!("{} has no lib/modules", folder.display()))?;
    let modules = only_entry(modules, "")?;
    let busybox = unpacked(&busybox, cache)?;
    let busybox = [busybox.join("bin/busybox"), busybox.join("usr/bin/busybox")]
        .into_iter()
        .find(|path| path.is_file());
    let busybox = busybox.context("the package busybox-static has no busybox")?;
    Ok(Software { kernel: kernel.clone(), image: quick_image(&folder)?, modules, busybox })
}

/// The folder to build modules for this kernel in.
pub(crate) fn headers(software: &Software, cache: &Path) -> Result<PathBuf> {
    match &software.kernel {
        Kernel::Package(_) => kernel_headers::of_release(software.release()?, cache),
        Kernel::Folder(_) => {
            let build = software.modules.join("build");
            build.canonicalize().with_context(|| format!("no kernel headers at {}", build.display()))
        }
    }
}

/// The image that boots quickest: the kernel unpacked, or as it is if it cannot be unpacked.
fn quick_image(folder: &Path) -> Result<PathBuf> {
    let image = only_entry(&folder.join("boot"), "vmlinuz-")?;
    let unpacked = folder.join("boot/unpacked-kernel");
    if unpacked.is_file() {
        return Ok(unpacked);
    }
    match kernel_image::elf_inside(&image) {
        Ok(elf) => {
            let partial =
                tempfile::NamedTempFile::new_in(folder).context("cannot create a temporary file")?;
            std::fs::write(partial.path(), elf).context("cannot write the unpacked kernel")?;
            partial.persist(&unpacked).context("cannot put the unpacked kernel in its place")?;
            Ok(unpacked)
        }
        Err(error) => {
            say::step("vm", format!("booting the compressed kernel, which takes longer: {error:#}"));
            Ok(image)
        }
    }
}

/// The kernel and the busybox that apt offers. One question, because each takes apt most of a second.
fn candidates(kernel_package: &str) -> Result<[Candidate; 2]> {
    let descriptions = known_descriptions(&[kernel_package, BUSYBOX])?;
    let description = |package| paragraph(&descriptions, package).context("apt answered with other packages");
    let busybox = candidate(description(BUSYBOX)?)?;
    let kernel = match dependency_on_kernel(description(kernel_package)?) {
        None => candidate(description(kernel_package)?)?,
        Some((package, Some(version))) => Candidate { package, version },
        Some((package, None)) => candidate(&known_descriptions(&[&package])?)?,
    };
    Ok([kernel, busybox])
}

/// The kernel package, and its version if given, that a meta package depends on.
fn dependency_on_kernel(description: &str) -> Option<(String, Option<String>)> {
    let mut depends = field(description, "Depends")?.split([',', '|']).map(str::trim);
    let kernel = depends.find(|item| item.starts_with("linux-image-"))?;
    let (package, version) = kernel.split_once(' ').unwrap_or((kernel, ""));
    let version = version.strip_prefix("(= ").and_then(|version| version.strip_suffix(')'));
    Some((package.to_owned(), version.map(str::to_owned)))
}

pub(crate) fn candidate(description: &str) -> Result<Candidate> {
    let value =
        |name| field(description, name).map(str::to_owned).with_context(|| format!("apt tells no {name}"));
    Ok(Candidate { package: value("Package")?, version: value("Version")? })
}

pub(crate) fn known_descriptions(packages: &[&str]) -> Result<String> {
    let descriptions = apt::describe(packages)?;
    if packages.iter().all(|package| paragraph(&descriptions, package).is_some()) {
        return Ok(descriptions);
    }
    apt::update()?;
    let descriptions = apt::describe(packages)?;
    match packages.iter().find(|package| paragraph(&descriptions, package).is_none()) {
        Some(package) => bail!("apt knows no package {package}"),
        None => Ok(descriptions),
    }
}

/// The part of `descriptions` that is about `package`.
fn paragraph<'a>(descriptions: &'a str, package: &str) -> Option<&'a str> {
    descriptions.split("\n\n").find(|paragraph| field(paragraph, "Package") == Some(package))
}

/// The folder that a package is unpacked in, doing so if it is not there yet.
fn unpacked(candidate: &Candidate, cache: &Path) -> Result<PathBuf> {
    unpacked_together(std::slice::from_ref(candidate), cache, &|_tree| Ok(()))
}

/// The folder that packages are unpacked in, one over the other, doing so if it is not there yet. It has the name of the
/// first. `adapt` may change what was unpacked.
pub(crate) fn unpacked_together(
    candidates: &[Candidate],
    cache: &Path,
    adapt: &dyn Fn(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let Candidate { package, version } = candidates.first().context("no package")?;
    let folder = cache.join(format!("{package}_{version}"));
    if folder.is_dir() {
        return Ok(folder);
    }
    std::fs::create_dir_all(cache).with_context(|| format!("cannot create {}", cache.display()))?;
    // Unpack beside the final place and rename, so that an interruption leaves nothing half done.
    let work = tempfile::tempdir_in(cache).context("cannot create a temporary folder")?;
    let tree = work.path().join("tree");
    for Candidate { package, version } in candidates {
        say::step("vm", format!("downloading Debian's {package} {version} into {}", cache.display()));
        let archive = match apt::download(package, work.path()) {
            Ok(archive) => archive,
            Err(_) => {
                say::step("vm", "trying again with fresh package lists");
                apt::update()?;
                apt::download(package, work.path())?
            }
        };
        apt::unpack(&archive, &tree)?;
        std::fs::remove_file(&archive).context("cannot remove an unpacked package")?;
    }
    adapt(&tree)?;
    match std::fs::rename(&tree, &folder) {
        // Another run was faster.
        Err(_) if folder.is_dir() => Ok(folder),
        renamed => renamed.map(|()| folder).context("cannot move the unpacked package into the cache"),
    }
}

/// The value of a `Name: value` line.
pub(crate) fn field<'a>(description: &'a str, name: &str) -> Option<&'a str> {
    description.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

fn only_entry(folder: &Path, prefix: &str) -> Result<PathBuf> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut paths = entries.filter_map(|entry| {
        let entry = entry.ok()?;
        entry.file_name().to_string_lossy().starts_with(prefix).then(|| entry.path())
    });
    paths.next().with_context(|| format!("{} holds no {prefix}*", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::{Kernel, dependency_on_kernel, field, paragraph};

    const ANSWER: &str = "Package: linux-image-amd64\nPre-Depends: b\nDepends: linux-image-6.1 (= 6.1-2)\n\n\
                          Package: linux-image-6.1\nDepends: kmod, linux-base (>= 4.3~), initramfs-tools | dracut\n";

    #[test]
    fn a_kernel_is_a_word_a_package_or_a_folder() {
        let package = |name: &str| Kernel::Package(name.to_owned());
        assert_eq!("debian-cloud".parse(), Ok(package("linux-image-cloud-amd64")));
        assert_eq!("linux-image-6.12-amd64".parse(), Ok(package("linux-image-6.12-amd64")));
        assert_eq!("../tree".parse(), Ok(Kernel::Folder("../tree".into())));
    }

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let description = paragraph(ANSWER, "linux-image-amd64").unwrap();
        assert_eq!(field(description, "Depends"), Some("linux-image-6.1 (= 6.1-2)"));
        assert_eq!(field(description, "Version"), None);
        assert_eq!(paragraph(ANSWER, "linux-image"), None);
    }

    #[test]
    fn a_meta_package_leads_to_the_kernel() {
        let meta = paragraph(ANSWER, "linux-image-amd64").unwrap();
        assert_eq!(
            dependency_on_kernel(meta),
            Some(("linux-image-6.1".to_owned(), Some("6.1-2".to_owned())))
        );
        let kernel = paragraph(ANSWER, "linux-image-6.1").unwrap();
        assert_eq!(dependency_on_kernel(kernel), None);
    }
}
