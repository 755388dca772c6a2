//! The files that a guest needs that does not see the host's: programs, and the libraries that they are linked with.

use crate::vmm::find_program;
use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What programs look up by name in every system.
const SYSTEM_FILES: [&str; 3] = ["/etc/passwd", "/etc/group", "/etc/nsswitch.conf"];
/// Libraries that OpenCL programs load by name while they run.
const OPENCL_LOADER: &str = "libOpenCL.so";

/// Files of the host, each with what it needs.
#[derive(Debug, Default)]
pub(crate) struct Closure {
    files: BTreeSet<PathBuf>,
}

impl Closure {
    /// The OpenCL loader and a few files that any program may look for.
    pub(crate) fn new() -> Result<Closure> {
        let mut closure = Closure::default();
        closure.files.extend(SYSTEM_FILES.map(PathBuf::from).into_iter().filter(|file| file.is_file()));
        for library in loader_libraries()? {
            closure.add(&library)?;
        }
        Ok(closure)
    }

    /// Adds the programs and files that a command line names, as far as one can see: its program, and arguments that
    /// are absolute paths of files.
    pub(crate) fn add_command(&mut self, command: &[OsString]) -> Result<()> {
        let (program, arguments) = command.split_first().context("there is no command")?;
        self.add(&find_program(program)?)?;
        let named = arguments.iter().map(Path::new).filter(|path| path.is_absolute() && path.is_file());
        named.into_iter().try_for_each(|path| self.add(path))
    }

    /// Adds a file with what it is linked with or interpreted by, or all files of a folder.
    pub(crate) fn add(&mut self, path: &Path) -> Result<()> {
        if path.is_dir() {
            let entries =
                std::fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))?;
            return entries.into_iter().try_for_each(|entry| self.add(&entry?.path()));
        }
        if !self.files.insert(path.to_owned()) {
            return Ok(());
        }
        let start = start_of(path)?;
        if start.starts_with(b"\x7fELF") {
            self.files.extend(libraries(path)?);
        } else if let Some(interpreter) = interpreter(&start) {
            self.add(&interpreter)?;
        }
        Ok(())
    }

    /// All files.
    pub(crate) fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(PathBuf::as_path)
    }
}

fn start_of(file: &Path) -> Result<Vec<u8>> {
    use std::io::Read;
    let mut start = Vec::new();
    let file_name = || format!("cannot read {}", file.display());
    let opened = std::fs::File::open(file).with_context(file_name)?;
    opened.take(256).read_to_end(&mut start).with_context(file_name)?;
    Ok(start)
}

/// The program of a script's first line.
fn interpreter(start: &[u8]) -> Option<PathBuf> {
    let line = start.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let program = std::str::from_utf8(line).ok()?.split_ascii_whitespace().next()?;
    Some(program.into()).filter(|path: &PathBuf| path.is_file())
}

/// What the dynamic linker would load with a program or library.
fn libraries(file: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(file).output().context("cannot start ldd (Debian's libc-bin)")?;
    // A static program has none, and ldd then fails.
    Ok(listed_libraries(&String::from_utf8_lossy(&output.stdout)))
}

/// The paths in ldd's answer: lines of `name => /path (address)` or `/path (address)`.
fn listed_libraries(answer: &str) -> Vec<PathBuf> {
    let paths = answer.lines().filter_map(|line| {
        let (path, _address) = line.rsplit_once(" (")?;
        Some(path.rsplit_once("=> ").map_or(path, |(_, path)| path).trim())
    });
    paths.filter(|path| path.starts_with('/')).map(PathBuf::from).collect()
}

/// The OpenCL loader by all of its names.
fn loader_libraries() -> Result<Vec<PathBuf>> {
    let tool = ["/sbin/ldconfig", "/usr/sbin/ldconfig"].into_iter().find(|path| Path::new(path).is_file());
    let output =
        Command::new(tool.unwrap_or("ldconfig")).arg("-p").output().context("cannot start ldconfig")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines =
        text.lines().filter(|line| line.trim_start().starts_with(OPENCL_LOADER) && line.contains("x86-64"));
    Ok(lines.filter_map(|line| Some(line.rsplit_once("=> ")?.1.trim().into())).collect())
}

#[cfg(test)]
mod tests {
    use super::{Closure, interpreter, listed_libraries};
    use std::path::{Path, PathBuf};

    #[test]
    fn libraries_are_the_paths_that_ldd_lists() {
        let answer = "\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /lib/libc.so.6 (0x2)\n\t/lib64/ld-linux.so.2 (0x3)\n\
            \tlibgone.so => not found\n";
        assert_eq!(
            listed_libraries(answer),
            [PathBuf::from("/lib/libc.so.6"), "/lib64/ld-linux.so.2".into()]
        );
    }

    #[test]
    fn a_script_needs_its_interpreter_and_what_that_needs() {
        assert_eq!(interpreter(b"#!/bin/sh -e\nexit"), Some("/bin/sh".into()));
        assert_eq!(interpreter(b"no script"), None);
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("script");
        std::fs::write(&script, "#!/bin/sh\n").unwrap();
        let mut closure = Closure::default();
        closure.add(folder.path()).unwrap();
        let files: Vec<_> = closure.files().collect();
        assert!(files.contains(&script.as_path()) && files.contains(&Path::new("/bin/sh")));
        assert!(files.iter().any(|file| file.to_string_lossy().contains("libc.so")));
    }
}
