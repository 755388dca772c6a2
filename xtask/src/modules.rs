//! Kernel modules: which files a set of them needs, in loading order.
//!
//! Each module file names the modules it depends on in its `.modinfo` section, as the string `depends=a,b`. Reading
//! that avoids both `depmod` and its files.

use anyhow::{Context, Result, bail};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A module ready to be loaded: its name and its uncompressed bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Module {
    /// The name, with underscores.
    pub(crate) name: String,
    /// The ELF file.
    pub(crate) bytes: Vec<u8>,
    /// What it is told when it is loaded.
    pub(crate) parameters: String,
}

/// Reads the modules `wanted` and all that they depend on, each after its dependencies.
///
/// Modules that are built into the kernel are left out.
pub(crate) fn in_loading_order(folder: &Path, wanted: &[&str]) -> Result<Vec<Module>> {
    let mut loader = Loader::new(folder)?;
    for name in wanted {
        loader.add(&name.replace('-', "_"))?;
    }
    Ok(loader.ordered)
}

/// Whether there is such a module, built in or not.
pub(crate) fn has(folder: &Path, name: &str) -> Result<bool> {
    let loader = Loader::new(folder)?;
    Ok(loader.builtin.contains(name) || loader.files.contains_key(name))
}

struct Loader {
    files: BTreeMap<String, PathBuf>,
    builtin: BTreeSet<String>,
    seen: BTreeSet<String>,
    ordered: Vec<Module>,
}

impl Loader {
    fn new(folder: &Path) -> Result<Loader> {
        let builtin = std::fs::read_to_string(folder.join("modules.builtin"))
            .with_context(|| format!("cannot read the list of built-in modules in {}", folder.display()))?;
        let mut files = BTreeMap::new();
        find_files(&folder.join("kernel"), &mut files)?;
        let builtin = builtin.lines().filter_map(|line| module_name(Path::new(line))).collect();
        Ok(Loader { files, builtin, seen: BTreeSet::new(), ordered: Vec::new() })
    }

    fn add(&mut self, name: &str) -> Result<()> {
        if self.builtin.contains(name) || !self.seen.insert(name.to_owned()) {
            return Ok(());
        }
        let Some(file) = self.files.get(name) else {
            bail!(
                "this kernel has no module {name}: choose another with --kernel, or for its vGPU --guest module \
                 (cloud kernels have no DRM)"
            );
        };
        let bytes = read_module(file)?;
        for dependency in dependencies(&bytes) {
            self.add(&dependency)?;
        }
        self.ordered.push(Module { name: name.to_owned(), bytes, parameters: String::new() });
        Ok(())
    }
}

/// The name of a module by its file: `virtio-gpu.ko.xz` is `virtio_gpu`.
fn module_name(file: &Path) -> Option<String> {
    let name = file.file_name()?.to_str()?;
    Some(name.split_once(".ko")?.0.replace('-', "_"))
}

fn find_files(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            find_files(&path, files)?;
        } else if let Some(name) = module_name(&path) {
            files.insert(name, path);
        }
    }
    Ok(())
}

fn read_module(file: &Path) -> Result<Vec<u8>> {
    let tool = match file.extension().and_then(|extension| extension.to_str()) {
        Some("ko") => {
            return std::fs::read(file).with_context(|| format!("cannot read {}", file.display()));
        }
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => bail!("{} is compressed in an unknown way", file.display()),
    };
    let output = Command::new(tool).arg("-dc").arg(file).output();
    let output = output.with_context(|| format!("cannot start {tool} to unpack a kernel module"))?;
    if !output.status.success() {
        bail!("{tool} cannot unpack {}: {}", file.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output.stdout)
}

/// The names in the `depends=` string of a module.
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(start) = module.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let value = module[start + KEY.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    let names = String::from_utf8_lossy(value);
    names.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}

#[cfg(test)]
mod tests {
    use super::{dependencies, in_loading_order, module_name};
    use std::path::Path;

    fn module(depends: &str) -> Vec<u8> {
        format!("\x7fELF\0license=GPL\0depends={depends}\0name=x\0").into_bytes()
    }

    #[test]
    fn dependencies_come_before_their_users_and_once() {
        let folder = tempfile::tempdir().unwrap();
        let kernel = folder.path().join("kernel/drivers");
        std::fs::create_dir_all(&kernel).unwrap();
        std::fs::write(folder.path().join("modules.builtin"), "kernel/lib/built-in.ko\n").unwrap();
        std::fs::write(kernel.join("a.ko"), module("b-b,c,built_in")).unwrap();
        std::fs::write(kernel.join("b-b.ko"), module("c")).unwrap();
        std::fs::write(kernel.join("c.ko"), module("")).unwrap();
        let modules = in_loading_order(folder.path(), &["a", "c"]).unwrap();
        let names: Vec<_> = modules.iter().map(|module| module.name.as_str()).collect();
        assert_eq!(names, ["c", "b_b", "a"]);
    }

    #[test]
    fn a_missing_module_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("kernel")).unwrap();
        std::fs::write(folder.path().join("modules.builtin"), "").unwrap();
        let error = in_loading_order(folder.path(), &["virtio-gpu"]).unwrap_err();
        assert!(error.to_string().contains("virtio_gpu"));
    }

    #[test]
    fn names_come_from_files() {
        assert_eq!(module_name(Path::new("x/virtio-gpu.ko.xz")).as_deref(), Some("virtio_gpu"));
        assert_eq!(module_name(Path::new("x/modules.order")), None);
        assert!(dependencies(b"no such string").is_empty());
    }
}
