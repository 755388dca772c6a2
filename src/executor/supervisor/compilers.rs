//! An executor's compilers, as the broker has them: started when the executor wants one, ended when it says so or ends.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::Running;
use crate::executor::devices::DeviceChoice;
use crate::executor::message::CompilerEnd;
use crate::limits::BuildLimits;

/// Least time in which as many compilers are started as may build at once: a guest may crash them as often as it likes, but
/// must not keep the host busy starting processes.
const MIN_START_INTERVAL: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub(super) struct Compilers {
    limits: BuildLimits,
    devices: Vec<DeviceChoice>,
    running: BTreeMap<u32, Box<dyn Running>>,
    /// When the last ones were started, as many as may build at once.
    started: VecDeque<Instant>,
}

impl Compilers {
    pub(super) fn new(limits: BuildLimits, devices: Vec<DeviceChoice>) -> Compilers {
        Compilers { limits, devices, running: BTreeMap::new(), started: VecDeque::new() }
    }

    /// Starts one. Returns the executor's end of its socket.
    pub(super) fn start(&mut self, compiler: u32, executor: &dyn Running) -> io::Result<UnixStream> {
        let most = self.limits.concurrent.max(1) as usize;
        if !self.limits.trial || self.running.len() >= most || self.running.contains_key(&compiler) {
            return Err(io::Error::other("no more compilers are allowed"));
        }
        if self.started.len() >= most
            && let Some(started) = self.started.pop_front()
        {
            // Only this vGPU's own thread, and so its own guest, waits.
            std::thread::sleep(MIN_START_INTERVAL.saturating_sub(started.elapsed()));
        }
        self.started.push_back(Instant::now());
        let (ours, theirs) = UnixStream::pair()?;
        let running = executor.launch_compiler(self.limits.memory_bytes, &self.devices, theirs)?;
        self.running.insert(compiler, running);
        Ok(ours)
    }

    /// Ends one by force, if it has not ended. Returns what is to be logged of that end.
    pub(super) fn end(&mut self, compiler: u32, end: CompilerEnd) -> Option<String> {
        let ended = self.running.remove(&compiler)?.kill();
        let reason = end.reason(&self.limits)?;
        let by_itself = matches!(end, CompilerEnd::Crash | CompilerEnd::Start);
        Some(if by_itself { format!("{reason} ({ended})") } else { reason })
    }

    /// Ends all of them.
    pub(super) fn end_all(&mut self) {
        for (_, mut running) in std::mem::take(&mut self.running) {
            running.kill();
        }
    }
}
