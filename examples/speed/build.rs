//! Building programs.

use std::fs::File;
use std::io::Read as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use opencl3::kernel::Kernel;
use opencl3::memory::{Buffer, ClMem as _};
use opencl3::program::Program;

use crate::place::Place;
use crate::{Workload, timed};

const SOURCE: &str = include_str!("program.cl");
const ITEMS: usize = 64;

/// One of them, if it is one.
pub(crate) fn open<'a>(name: &str, place: &'a Place) -> Result<Option<Box<dyn Workload + 'a>>> {
    let (source, launched) = match name.split_once(':').map_or(name, |(what, _)| what) {
        "first" => (Source::New, false),
        "first-launch" => (Source::New, true),
        "again" => (Source::Same, false),
        "again-launch" => (Source::Same, true),
        _ => return Ok(None),
    };
    // What comes after the colon is the salt, so that another process can build what this one did.
    let salt = match name.split_once(':') {
        Some((_, salt)) => salt.parse().context("no salt")?,
        None => random()?,
    };
    let out = place.buffer(ITEMS)?;
    let mut build = Build { place, source, launched, salt, out, program: None };
    if build.source == Source::Same && !name.contains(':') {
        build.sample()?;
    }
    Ok(Some(Box::new(build)))
}

/// No cache has seen it in an earlier run.
fn random() -> Result<u32> {
    let mut bytes = [0; 4];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u32::from_ne_bytes(bytes))
}

#[derive(Clone, Copy, PartialEq)]
enum Source {
    /// Another one each time.
    New,
    /// The same one each time.
    Same,
}

/// Creating and building a program.
struct Build<'a> {
    place: &'a Place,
    source: Source,
    /// Whether the first launch of one of its kernels belongs to it.
    launched: bool,
    salt: u32,
    out: Buffer<u32>,
    program: Option<Program>,
}

impl Build<'_> {
    fn launch(&self) -> Result<()> {
        let program = self.program.as_ref().context("no program")?;
        let kernel = Kernel::create(program, "salted").context("clCreateKernel")?;
        let queue = &self.place.queue;
        // SAFETY: the argument is a buffer, as the kernel declares it, with an element for each work-item.
        unsafe {
            kernel.set_arg(0, &self.out.get())?;
            self.place.direct.launch(queue.get(), kernel.get(), &[ITEMS], &[ITEMS])?;
        }
        queue.finish().context("clFinish")
    }
}

impl Workload for Build<'_> {
    fn sample(&mut self) -> Result<Duration> {
        if self.source == Source::New {
            self.salt = self.salt.wrapping_add(1);
        }
        // As text of its own, so that nothing before the compiler's end knows that it is nearly the same.
        let source = SOURCE.replace("SALT", &format!("{}u", self.salt));
        self.program = None;
        let took = timed(|| {
            self.program = Some(self.place.program(&source)?);
            if self.launched { self.launch() } else { Ok(()) }
        })?;
        Ok(took)
    }

    fn check(&mut self) -> Result<()> {
        self.launch()?;
        let mut found = [0; ITEMS];
        self.place.read(&self.out, &mut found)?;
        let expected = std::array::from_fn(|item| self.salt ^ item as u32);
        ensure!(found == expected, "the program does not compute what its source says");
        Ok(())
    }
}
