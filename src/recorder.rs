//! Recorded sessions: seeds for the fuzz targets, in the form that the targets read. See `docs/fuzzing.md`.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::Path;

/// Environment variable: the directory that sessions are recorded to.
pub const RECORD_VARIABLE: &str = "PARAGPU_RECORD";

/// Most bytes of a recorded ring: a fuzzer is the slower the longer its seeds are. Data in frames takes most of it.
pub(crate) const MAX_RING_RECORD: usize = 60 * 1024;

/// Most bytes of a recorded control queue; most of it says the same again and again.
pub(crate) const MAX_CONTROL_RECORD: usize = 16 * 1024;

/// The file of one recording. What does not fit any more is left out, and all after it.
#[derive(Debug)]
pub(crate) struct Recorder {
    file: Option<File>,
    left: usize,
}

impl Recorder {
    /// Records up to `limit` bytes of what is called `name`, if the environment says so. Earlier recordings are
    /// kept.
    pub(crate) fn from_environment(name: &str, limit: usize) -> Option<Recorder> {
        let directory = std::env::var_os(RECORD_VARIABLE)?;
        match create_new(Path::new(&directory), name) {
            Ok(file) => Some(Recorder { file: Some(file), left: limit }),
            Err(error) => {
                log::warn!("cannot record to {}: {error}", Path::new(&directory).display());
                None
            }
        }
    }

    /// Adds one piece, as a whole.
    pub(crate) fn record(&mut self, piece: &[u8]) {
        let Some(file) = &mut self.file else { return };
        let Some(left) = self.left.checked_sub(piece.len()) else {
            self.file = None;
            return;
        };
        self.left = left;
        // Not buffered: an executor may be killed at any time.
        if let Err(error) = file.write_all(piece) {
            log::warn!("recording ends: {error}");
            self.file = None;
        }
    }
}

fn create_new(directory: &Path, name: &str) -> std::io::Result<File> {
    let pid = std::process::id();
    let mut number = 0_u32;
    loop {
        let path = directory.join(format!("{name}-{pid}-{number}"));
        match OpenOptions::new().write(true).create_new(true).open(path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => number += 1,
            result => return result,
        }
    }
}
