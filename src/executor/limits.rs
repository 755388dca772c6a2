//! What one vGPU may take of the host, as plain data: the broker tells its executor, and holds the executor to it.

use serde::{Deserialize, Serialize};

/// What a vGPU may have; its executor holds it to that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Device memory in bytes. The guest is told that its devices have no more.
    pub memory_bytes: Option<u64>,
    /// Of its programs' builds.
    pub builds: BuildLimits,
}

impl Limits {
    /// For an executor whose broker starts no compilers.
    pub fn untried() -> Limits {
        let builds = BuildLimits { trial: false, ..BuildLimits::default() };
        Limits { builds, ..Limits::default() }
    }
}

/// What building programs may take. Compilers are not written for hostile input: a program of a hundred bytes can keep one
/// busy for ever, or eat all memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BuildLimits {
    /// Builds that run at once; more wait. Each has a compiler process of its own.
    pub concurrent: u32,
    /// Seconds that one build may take.
    pub seconds: u32,
    /// Bytes of memory that the compiler may take for one build, beyond what it has before it starts.
    pub memory_bytes: u64,
    /// Seconds for which a compiler without work is kept, with its memory: it would take a while to start again.
    pub idle_seconds: u32,
    /// Builds are tried in a process of their own first. Without, the executor compiles at once, and nothing of this but
    /// `concurrent` holds.
    pub trial: bool,
}

impl Default for BuildLimits {
    fn default() -> BuildLimits {
        BuildLimits { concurrent: 4, seconds: 60, memory_bytes: 2 << 30, idle_seconds: 5, trial: true }
    }
}

/// How a compiler process came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CompilerEnd {
    /// There was nothing to do for it, or nobody wants to know any more.
    Unneeded,
    /// A build took too long.
    Time,
    /// A build needed too much memory.
    Memory,
    /// It ended by itself during a build.
    Crash,
    /// It never was ready.
    Start,
}

impl BuildLimits {
    /// What became of a build whose compiler ended so; none if there is nothing to say.
    pub fn reason(&self, end: CompilerEnd) -> Option<String> {
        Some(match end {
            CompilerEnd::Unneeded => return None,
            CompilerEnd::Time => format!(
                "the build was ended: it took longer than {} s, which is this vGPU's limit (build-time)",
                self.seconds
            ),
            CompilerEnd::Memory => format!(
                "the build was ended: it needed more than {} MiB of memory, which is this vGPU's limit (build-memory)",
                self.memory_bytes >> 20
            ),
            // What asks for too much at once crashes, too.
            CompilerEnd::Crash => format!(
                "the build was ended: the compiler crashed, or needed more than {} MiB of memory at once (build-memory)",
                self.memory_bytes >> 20
            ),
            CompilerEnd::Start => "the build was not begun: the compiler could not be started".to_owned(),
        })
    }
}
