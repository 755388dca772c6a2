//! The compiler's own side.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use rustix::param::page_size;
use rustix::process::{Resource, Rlimit, setrlimit};

use super::recipe::{self, Recipe};
use super::wire::{Answer, MAX_RECIPE_BYTES};
use crate::executor::child::backend::Backend;
use crate::executor::child::builds::STACK_BYTES;
use crate::executor::child::{WithBackend, confine_process, with_backend};
use crate::executor::devices::DeviceChoice;
use crate::sys::background::go_last;

/// How often a build's memory is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// What compilers leave to others of the processors.
const NICENESS: i32 = 10;

/// A compiler's process, from the first recipe to the hang-up. `arguments` are the bytes of memory that a build may have,
/// and the devices that the executor has, as JSON.
pub fn main(socket: UnixStream, mut arguments: impl Iterator<Item = OsString>) -> ExitCode {
    // On a CPU device it computes beside the kernels of all vGPUs, and no lease says when.
    if let Err(error) = go_last(NICENESS) {
        log::debug!("sched_setattr: {error}");
    }
    let Some(confined) = confine_process(&socket) else { return ExitCode::FAILURE };
    let memory = arguments.next().and_then(|bytes| bytes.to_str()?.parse().ok());
    let devices = arguments.next().and_then(|json| serde_json::from_str(json.to_str()?).ok());
    let (Some(memory), Some(devices)) = (memory, devices) else {
        log::error!("compiler: how much memory a build may have, or for which devices, was not said");
        return ExitCode::FAILURE;
    };
    let devices: Vec<DeviceChoice> = devices;
    // What a guest crashes on purpose is not worth keeping.
    if let Err(error) = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }) {
        log::debug!("RLIMIT_CORE: {error}");
    }
    // Drivers compile in their caller's thread: with as much stack as the executor has for that.
    let thread = thread::Builder::new().name("compiler".to_owned()).stack_size(STACK_BYTES);
    match thread
        .spawn(move || with_backend(&devices, Some(confined), Serve { socket, memory }))
        .map(|thread| thread.join())
    {
        Ok(Ok(Ok(()))) => ExitCode::SUCCESS,
        Ok(Ok(Err(error))) => {
            log::debug!("compiler: {error}");
            ExitCode::FAILURE
        }
        Ok(Err(_)) | Err(_) => ExitCode::FAILURE,
    }
}

struct Serve {
    socket: UnixStream,
    memory: u64,
}

impl WithBackend for Serve {
    type Answer = io::Result<()>;

    fn run<B: Backend>(self, backend: B) -> io::Result<()> {
        let Serve { mut socket, memory } = self;
        say(&socket, Answer::Ready)?;
        let mut context: Option<(Vec<usize>, B::Context)> = None;
        let mut limit = None;
        while let Some(bytes) = read_recipe(&mut socket)? {
            say(&socket, Answer::Taken)?;
            let recipe: Recipe<'_> = postcard::from_bytes(&bytes).map_err(io::Error::other)?;
            if context.as_ref().is_none_or(|(devices, _)| devices != recipe.devices()) {
                let devices = recipe::devices(&backend, recipe.devices());
                let made = devices.and_then(|devices| backend.create_context(&devices));
                context = made.ok().map(|made| (recipe.devices().to_vec(), made));
            }
            // A driver has the memory of its own that it wants; from here on it is the guest's.
            let limit = limit.get_or_insert_with(|| Limit::set(memory));
            if let Some((_, context)) = &context {
                limit.watch(&socket, || {
                    let built = recipe.carry_out(&backend, context, || {
                        // If nobody listens, the end of this is noticed by the next read.
                        let _gone = say(&socket, Answer::Begun);
                    });
                    if let Err(error) = built {
                        log::debug!("compiler: a build has failed: {error}");
                    }
                });
            }
            drop(recipe);
            if limit.is_near() {
                return say(&socket, Answer::EndedLast);
            }
            say(&socket, Answer::Ended)?;
        }
        Ok(())
    }

    fn none(self, reason: String) -> io::Result<()> {
        Err(io::Error::other(reason))
    }
}

fn say(mut socket: &UnixStream, answer: Answer) -> io::Result<()> {
    socket.write_all(&answer.encode())
}

/// None after a hang-up.
fn read_recipe(socket: &mut UnixStream) -> io::Result<Option<Vec<u8>>> {
    let mut len = [0; 4];
    match socket.read_exact(&mut len) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        result => result?,
    }
    let len = u32::from_le_bytes(len) as usize;
    if len > MAX_RECIPE_BYTES {
        return Err(io::Error::other(format!("a recipe of {len} bytes")));
    }
    let mut bytes = vec![0; len];
    socket.read_exact(&mut bytes)?;
    Ok(Some(bytes))
}

/// How much memory this process may have. What counts is what RLIMIT_DATA counts: private memory that may be written, but
/// not address space that is only reserved, of which drivers and allocators take a lot.
struct Limit {
    start: u64,
    memory: u64,
}

impl Limit {
    fn set(memory: u64) -> Limit {
        let limit = Limit { start: data_bytes().unwrap_or(0), memory };
        // The kernel's limit is a little further away, so that mostly this process finds out first and can say so.
        let bytes = Some(limit.start.saturating_add(memory).saturating_add(memory / 8));
        if let Err(error) = setrlimit(Resource::Data, Rlimit { current: bytes, maximum: bytes }) {
            log::warn!("compiler: the memory of builds is not limited: {error}");
        }
        limit
    }

    /// Bytes that were taken since then.
    fn taken(&self) -> u64 {
        data_bytes().map_or(0, |bytes| bytes.saturating_sub(self.start))
    }

    /// True if so much is left behind by former builds that the next one would suffer.
    fn is_near(&self) -> bool {
        self.taken() > self.memory / 4
    }

    /// Ends this process if `build` takes more.
    fn watch(&self, socket: &UnixStream, build: impl FnOnce()) {
        thread::scope(|scope| {
            let (ended, until_ended) = channel::<()>();
            let watch = move || {
                while until_ended.recv_timeout(LOOK_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                    if self.taken() > self.memory {
                        let _gone = say(socket, Answer::Memory);
                        // Without anything that a driver wants to do at an exit while it compiles.
                        std::process::abort();
                    }
                }
            };
            if let Err(error) = thread::Builder::new().spawn_scoped(scope, watch) {
                log::warn!("compiler: a build's memory is not looked at: {error}");
            }
            build();
            drop(ended);
        });
    }
}

/// The sixth number of statm: data and stack, in pages.
fn data_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    Some(statm.split_whitespace().nth(5)?.parse::<u64>().ok()? * page_size() as u64)
}
