//! Recorded sessions: the frames of a context, one behind the other, as
//! [`fuzz_frames`](super::fuzz::fuzz_frames) reads them.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// Environment variable: the directory that frames are recorded to.
pub const RECORD_VARIABLE: &str = "PARAGPU_RECORD";

/// The file of one context.
#[derive(Debug)]
pub(crate) struct Recorder {
    file: Option<BufWriter<File>>,
}

impl Recorder {
    /// Records if the environment says so.
    pub(crate) fn from_environment(context: u32) -> Option<Recorder> {
        let directory = std::env::var_os(RECORD_VARIABLE)?;
        let path = Path::new(&directory).join(format!("ctx-{context}.frames"));
        match File::create(&path) {
            Ok(file) => Some(Recorder { file: Some(BufWriter::new(file)) }),
            Err(error) => {
                log::warn!("{}: {error}", path.display());
                None
            }
        }
    }

    pub(crate) fn record(&mut self, frame: &[u8]) {
        if let Some(file) = &mut self.file
            && let Err(error) = file.write_all(frame)
        {
            log::warn!("recording frames: {error}");
            self.file = None;
        }
    }
}
