//! The headers that modules of a Debian kernel are built with: three packages, unpacked together into the cache.

use crate::kernel::{Candidate, candidate, field, known_descriptions, unpacked_together};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// The folder to build modules of the kernel package for `release` in.
pub(crate) fn of_release(release: &str, cache: &Path) -> Result<PathBuf> {
    let name = format!("linux-headers-{release}");
    let description = known_descriptions(&[&name])?;
    let mut wanted = vec![candidate(&description)?];
    for package in parts(&description) {
        wanted.push(candidate(&known_descriptions(&[&package])?)?);
    }
    let folder = unpacked_together(&wanted, cache, &|tree| make_relative(&tree.join("usr/src"), &wanted))?;
    Ok(folder.join("usr/src").join(name))
}

/// The packages that it depends on and that hold parts of what is needed: common headers, and the build's programs.
fn parts(description: &str) -> Vec<String> {
    let depends = field(description, "Depends").unwrap_or_default();
    let names = depends.split([',', '|']).filter_map(|item| item.split_whitespace().next());
    names
        .filter(|name| name.starts_with("linux-headers-") || name.starts_with("linux-kbuild-"))
        .map(str::to_owned)
        .collect()
}

/// Debian's Makefiles name the place where the packages would be installed; here they lie beside each other.
fn make_relative(folder: &Path, packages: &[Candidate]) -> Result<()> {
    let makefile = folder.join(&packages[0].package).join("Makefile");
    let text = std::fs::read_to_string(&makefile);
    let text = text.with_context(|| format!("cannot read {}", makefile.display()))?;
    std::fs::write(&makefile, text.replace("/usr/src/", "../"))
        .with_context(|| format!("cannot write {}", makefile.display()))
}
