//! The guest's kernel and busybox: taken from Debian's packages, unpacked into a cache, never installed.

use crate::{apt, kernel_image, say};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};

/// A kernel as its package has it.
pub(crate) struct Kernel {
    /// The bootable image.
    pub(crate) image: PathBuf,
    /// The folder with this kernel's modules, `lib/modules/VERSION`.
    pub(crate) modules: PathBuf,
}

/// Debian's kernel of the given package; one without a kernel of its own, such as `linux-image-amd64`, stands for
/// the kernel package that it depends on.
pub(crate) fn kernel(package: &str, cache: &Path) -> Result<Kernel> {
    let folder = unpacked(&concrete_package(package)?, cache)?;
    let image = quick_image(&folder)?;
    let modules = [folder.join("lib/modules"), folder.join("usr/lib/modules")];
    let modules = modules.iter().find(|path| path.is_dir());
    let modules = only_entry(
        modules.with_context(|| format!("{package} has no modules"))?,
        "",
    )?;
    Ok(Kernel { image, modules })
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
            let partial = tempfile::NamedTempFile::new_in(folder)
                .context("cannot create a temporary file")?;
            std::fs::write(partial.path(), elf).context("cannot write the unpacked kernel")?;
            partial
                .persist(&unpacked)
                .context("cannot put the unpacked kernel in its place")?;
            Ok(unpacked)
        }
        Err(error) => {
            say::step(
                "vm",
                format!("booting the compressed kernel, which takes longer: {error:#}"),
            );
            Ok(image)
        }
    }
}

/// The statically linked busybox of Debian.
pub(crate) fn busybox(cache: &Path) -> Result<PathBuf> {
    let folder = unpacked("busybox-static", cache)?;
    let places = [folder.join("bin/busybox"), folder.join("usr/bin/busybox")];
    let found = places.into_iter().find(|path| path.is_file());
    found.context("the package busybox-static has no busybox")
}

/// Follows the dependency of a meta package to the package with the kernel itself.
fn concrete_package(package: &str) -> Result<String> {
    let description = known_description(package)?;
    let depends = field(&description, "Depends").unwrap_or_default();
    let mut names = depends
        .split([',', '|'])
        .filter_map(|item| item.split_whitespace().next());
    let kernel = names.find(|name| name.starts_with("linux-image-") && *name != package);
    Ok(kernel.unwrap_or(package).to_owned())
}

fn known_description(package: &str) -> Result<String> {
    let description = apt::describe(package)?;
    if !description.is_empty() {
        return Ok(description);
    }
    apt::update()?;
    let description = apt::describe(package)?;
    if description.is_empty() {
        bail!("apt knows no package {package}");
    }
    Ok(description)
}

/// The folder that the candidate version of `package` is unpacked in, doing so if it is not there yet.
fn unpacked(package: &str, cache: &Path) -> Result<PathBuf> {
    let description = known_description(package)?;
    let version = field(&description, "Version")
        .with_context(|| format!("apt knows no version of {package}"))?;
    let folder = cache.join(format!("{package}_{version}"));
    if folder.is_dir() {
        return Ok(folder);
    }
    std::fs::create_dir_all(cache).with_context(|| format!("cannot create {}", cache.display()))?;
    say::step(
        "vm",
        format!(
            "downloading Debian's {package} {version} into {}",
            cache.display()
        ),
    );
    // Unpack beside the final place and rename, so that an interruption leaves nothing half done.
    let work = tempfile::tempdir_in(cache).context("cannot create a temporary folder")?;
    let archive = match apt::download(package, work.path()) {
        Ok(archive) => archive,
        Err(_) => {
            say::step("vm", "trying again with fresh package lists");
            apt::update()?;
            apt::download(package, work.path())?
        }
    };
    let tree = work.path().join("tree");
    apt::unpack(&archive, &tree)?;
    match std::fs::rename(&tree, &folder) {
        // Another run was faster.
        Err(_) if folder.is_dir() => Ok(folder),
        renamed => renamed
            .map(|()| folder)
            .context("cannot move the unpacked package into the cache"),
    }
}

/// The value of a `Name: value` line.
fn field<'a>(description: &'a str, name: &str) -> Option<&'a str> {
    description
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

fn only_entry(folder: &Path, prefix: &str) -> Result<PathBuf> {
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut paths = entries.filter_map(|entry| {
        let entry = entry.ok()?;
        entry
            .file_name()
            .to_string_lossy()
            .starts_with(prefix)
            .then(|| entry.path())
    });
    paths
        .next()
        .with_context(|| format!("{} holds no {prefix}*", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::field;

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let description = "Package: a\nPre-Depends: b\nDepends: linux-image-6.1 (= 1)\n";
        assert_eq!(field(description, "Depends"), Some("linux-image-6.1 (= 1)"));
        assert_eq!(field(description, "Version"), None);
    }
}
