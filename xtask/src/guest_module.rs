//! Building paragpu's kernel module for a guest's kernel, out of the tree, with that kernel's header packages.

use crate::kernel::{self, Software};
use crate::{say, workspace};
use anyhow::{Context, Result, bail};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The module for the kernel of `software`: from the cache, or built now.
pub(crate) fn built(software: &Software, cache: &Path, quiet: bool) -> Result<Vec<u8>> {
    let sources = Sources::read(&workspace::root().join("guest-driver/linux"))?;
    let release = software.release()?;
    let done = cache.join(format!("paragpu-{release}-{:016x}.ko", sources.hash()));
    if !done.is_file() {
        if !quiet {
            say::step("vm", format!("building paragpu's kernel module for Linux {release}"));
        }
        let headers = kernel::headers(software, cache)?;
        let work = tempfile::tempdir_in(cache).context("cannot create a temporary folder")?;
        sources.write(work.path())?;
        make(&headers, work.path())?;
        std::fs::rename(work.path().join("paragpu.ko"), &done).context("the build left no paragpu.ko")?;
    }
    std::fs::read(&done).with_context(|| format!("cannot read {}", done.display()))
}

fn make(headers: &Path, folder: &Path) -> Result<()> {
    let mut command = Command::new("make");
    command.arg("-C").arg(folder).arg(format!("KDIR={}", headers.display())).arg("W=1");
    // Types for BPF would take another tool, and nobody traces the guest.
    command.arg("CONFIG_DEBUG_INFO_BTF_MODULES=");
    // What a `make` or a cargo around this one has set is not for the kernel's.
    command.env_remove("MAKEFLAGS").env_remove("MAKELEVEL").stdin(Stdio::null());
    let output = command.output().context("cannot start make")?;
    let messages = String::from_utf8_lossy(&output.stderr).into_owned();
    let said: Vec<_> = messages.lines().filter(|line| !is_expected(line)).collect();
    if !output.status.success() || !said.is_empty() {
        bail!("the kernel module does not build without complaints:\n{}", said.join("\n"));
    }
    Ok(())
}

/// What a build outside of Debian's own machines says in any case.
fn is_expected(line: &str) -> bool {
    // Another revision of the compiler than the kernel's.
    line.starts_with("warning: the compiler differs from the one used to build the kernel")
        || line.starts_with("  The kernel was built by:")
        || line.starts_with("  You are using:")
}

/// The module's sources.
struct Sources(Vec<(PathBuf, Vec<u8>)>);

impl Sources {
    fn read(folder: &Path) -> Result<Sources> {
        let mut files = Vec::new();
        for place in ["", "uapi"] {
            let folder = folder.join(place);
            let entries = std::fs::read_dir(&folder);
            for entry in entries.with_context(|| format!("cannot read {}", folder.display()))? {
                let path = entry?.path();
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let wanted = name.ends_with(".c") || name.ends_with(".h") && !name.ends_with(".mod.c");
                if wanted || name == "Kbuild" || name == "Makefile" {
                    let content = std::fs::read(&path);
                    let content = content.with_context(|| format!("cannot read {}", path.display()))?;
                    files.push((Path::new(place).join(name), content));
                }
            }
        }
        files.sort();
        Ok(Sources(files))
    }

    fn hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.0.hash(&mut hasher);
        hasher.finish()
    }

    fn write(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir(folder.join("uapi")).context("cannot create a temporary folder")?;
        for (name, content) in &self.0 {
            std::fs::write(folder.join(name), content)
                .with_context(|| format!("cannot write {}", name.display()))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Sources, is_expected};
    use crate::workspace;

    #[test]
    fn the_sources_are_all_there() {
        let sources = Sources::read(&workspace::root().join("guest-driver/linux")).unwrap();
        let names: Vec<_> = sources.0.iter().map(|(name, _)| name.to_str().unwrap()).collect();
        for name in ["Kbuild", "Makefile", "paragpu_drv.h", "paragpu_main.c", "uapi/paragpu.h"] {
            assert!(names.contains(&name), "{name} of {names:?}");
        }
    }

    #[test]
    fn a_warning_is_not_expected() {
        assert!(is_expected("  You are using:           gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0"));
        assert!(!is_expected("paragpu_main.c:1:1: warning: unused variable"));
    }
}
