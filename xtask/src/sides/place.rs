//! Where sub-tests run: on this system, or in the root of another one.

use crate::process::bound_command;
use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use tempfile::TempDir;

/// What paragpu consists of on one host.
const PROGRAMS: [&str; 3] = ["paragpu", "paragpud", "libparagpu_opencl.so"];

/// A system with what is run there, our programs and room for files.
pub(crate) struct Place {
    root: Option<PathBuf>,
    scratch: TempDir,
    /// The folder of what is run there, such as the suite's, as programs there see it.
    pub(crate) folder: PathBuf,
    /// The folder of our programs, as programs there see it.
    pub(crate) programs: PathBuf,
    rooms: AtomicUsize,
}

impl Place {
    /// This system, where everything is where it is.
    pub(crate) fn here(folder: &Path, programs: &Path) -> Result<Place> {
        let folder = folder.canonicalize().with_context(|| format!("no folder {}", folder.display()))?;
        let programs =
            programs.canonicalize().with_context(|| format!("no folder {}", programs.display()))?;
        let scratch = scratch_below(&std::env::temp_dir())?;
        Ok(Place { root: None, scratch, folder, programs, rooms: AtomicUsize::new(0) })
    }

    /// The system in the folder `root`, into which `folder` and our programs are copied for as long as this lives.
    pub(crate) fn in_root(root: &Path, folder: &Path, programs: &Path) -> Result<Place> {
        let root = root.canonicalize().with_context(|| format!("no folder {}", root.display()))?;
        // PoCL and others look for the processor and its memory there, and abort if they cannot.
        for (folder, is_mounted) in [("proc", "proc/self"), ("sys", "sys/devices"), ("dev", "dev/null")] {
            if !root.join(is_mounted).exists() {
                bail!(
                    "nothing is mounted in {0}: `mount --rbind /{folder} {0}`",
                    root.join(folder).display()
                );
            }
        }
        let scratch = scratch_below(&root.join("tmp"))?;
        copy(folder, &scratch.path().join("folder"))?;
        let copies = scratch.path().join("programs");
        fs::create_dir(&copies)?;
        for name in PROGRAMS {
            fs::copy(programs.join(name), copies.join(name))
                .with_context(|| format!("cannot copy {name} into {}", root.display()))?;
        }
        let inside = Path::new("/").join(scratch.path().strip_prefix(&root)?);
        let (folder, programs) = (inside.join("folder"), inside.join("programs"));
        Ok(Place { root: Some(root), scratch, folder, programs, rooms: AtomicUsize::new(0) })
    }

    /// Whether the folder has this file.
    pub(crate) fn has(&self, file: &str) -> bool {
        self.outside(&self.folder.join(file)).is_file()
    }

    /// A new folder for one process's files.
    pub(crate) fn room(&self) -> Result<Room> {
        let name = self.rooms.fetch_add(1, Ordering::Relaxed).to_string();
        let outside = self.scratch.path().join(name);
        fs::create_dir(&outside).context("cannot make a folder for temporary files")?;
        Ok(Room { inside: self.inside(&outside)?, outside })
    }

    /// A command whose process runs there in the folder `room`, compiles anew and keeps its files in the room.
    pub(crate) fn command(&self, room: &Room, program: impl AsRef<OsStr>) -> Command {
        let mut command = match &self.root {
            None => bound_command("env"),
            Some(root) => {
                let mut command = bound_command("chroot");
                command.arg(root).arg("env");
                command
            }
        };
        command.arg("-C").arg(&room.inside).arg(program);
        // A cache that one side filled would make the other faster, or hide that it cannot compile. The same as what an
        // executor gets.
        for variable in ["TMPDIR", "XDG_CACHE_HOME", "POCL_CACHE_DIR", "CUDA_CACHE_PATH", "NEO_CACHE_DIR"] {
            command.env(variable, &room.inside);
        }
        command
    }

    /// The folder for temporary files, to be removed by who ends this process without dropping this.
    pub(crate) fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    fn inside(&self, outside: &Path) -> Result<PathBuf> {
        Ok(match &self.root {
            None => outside.to_owned(),
            Some(root) => Path::new("/").join(outside.strip_prefix(root)?),
        })
    }

    fn outside(&self, inside: &Path) -> PathBuf {
        match &self.root {
            None => inside.to_owned(),
            Some(root) => root.join(inside.strip_prefix("/").unwrap_or(inside)),
        }
    }
}

/// A folder for the files of one process, removed with this.
pub(crate) struct Room {
    /// As programs there see it.
    pub(crate) inside: PathBuf,
    /// As this program sees it.
    pub(crate) outside: PathBuf,
}

impl Drop for Room {
    fn drop(&mut self) {
        // The scratch folder goes in the end in any case.
        let _removed = fs::remove_dir_all(&self.outside);
    }
}

fn scratch_below(folder: &Path) -> Result<TempDir> {
    // Short, because the path of a socket may only have some hundred characters.
    tempfile::Builder::new()
        .prefix("paragpu-")
        .tempdir_in(folder)
        .with_context(|| format!("cannot make a folder in {}", folder.display()))
}

/// Copies a folder without what only building it needed.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("no folder {}", from.display()))? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            if entry.file_name() != "CMakeFiles" {
                copy(&from, &to)?;
            }
        } else {
            fs::copy(&from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
        }
    }
    Ok(())
}
