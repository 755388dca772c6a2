//! What the broker and an executor say to each other over their socket.
//!
//! Both are ours, but the executor runs a guest's kernels on a C driver: the broker takes what it says as it
//! takes what a guest says. A message is a `u32` length (little-endian) and that many bytes of postcard; file
//! descriptors travel beside its first byte (`SCM_RIGHTS`).

use serde::{Deserialize, Serialize};

use super::devices::{DeviceChoice, HostDeviceInfo};
use crate::limits::{BuildLimits, Limits};

/// Longest message in bytes: a region of [`MAX_MAPPINGS`](paragpu_protocol::limits::MAX_MAPPINGS) extents.
pub const MAX_MESSAGE_BYTES: usize = 1024 * 1024;

/// A piece of guest memory: a file that both sides can map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryRegion {
    /// First guest-physical address.
    pub guest_addr: u64,
    /// Length in bytes.
    pub len: u64,
    /// Where it starts in its file, in bytes.
    pub file_offset: u64,
}

/// A run of guest-physical memory behind a shared region, page-aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// First guest-physical address.
    pub guest_addr: u64,
    /// Length in bytes.
    pub len: u64,
}

/// From the broker to an executor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToExecutor {
    /// First message, with the wake eventfd: the executor writes to it when a sleeping guest thread must be
    /// woken. After it come the [lease page](crate::lease::LeasePage), the eventfd that rings the scheduler, that by which
    /// it rings back, and the page in which the vGPU's memory is counted; without these four, the executor has the host's
    /// devices to itself.
    Hello {
        /// The vGPU's name.
        vgpu: String,
        /// What it may have.
        limits: Limits,
        /// The devices that it has; none for all of the platform that is the default. All are of one platform.
        devices: Vec<DeviceChoice>,
    },
    /// The guest's memory, one file descriptor per region. Replaces what was said before; regions that are
    /// mapped already stay.
    Memory {
        /// The memory regions, in the order of the file descriptors.
        regions: Vec<MemoryRegion>,
    },
    /// A new context, with its doorbell eventfd.
    CreateContext {
        /// virtio-gpu context id.
        context: u32,
        /// The guest's name for it, for logs: sanitised, untrusted.
        name: String,
        /// Its place in the lease page, where it is counted.
        place: Option<u32>,
    },
    /// Lets a context use a shared region.
    AddRegion {
        /// The context.
        context: u32,
        /// virtio-gpu resource id.
        region: u32,
        /// Its pages, in order.
        extents: Vec<Extent>,
    },
    /// Ends that; answered by [`ToBroker::RegionRemoved`] when nothing on the host can touch the pages any more.
    RemoveRegion {
        /// The context.
        context: u32,
        /// virtio-gpu resource id.
        region: u32,
    },
    /// Starts the context's ring; the numbers have been checked.
    StartRing {
        /// The context.
        context: u32,
        /// The ring's region.
        region: u32,
        /// Length of the data area in bytes.
        data_bytes: u32,
    },
    /// Ends a context and everything in it; answered by [`ToBroker::ContextDestroyed`] when nothing on the host
    /// can touch its regions any more.
    DestroyContext {
        /// The context.
        context: u32,
    },
    /// Stops consuming rings and drains the devices; answered by [`ToBroker::Quiesced`], after which guest
    /// memory is not touched until [`ToExecutor::Resume`].
    Quiesce,
    /// Goes on after [`ToExecutor::Quiesce`].
    Resume,
    /// The answer to [`ToBroker::WantCompiler`], with a socket to the compiler; without one, there is none.
    Compiler {
        /// The compiler.
        compiler: u32,
    },
    /// The [table](super::known) of builds that need no compiler any more, one file descriptor. Without it, each build has
    /// one.
    Known,
    /// Instead of [`Hello`](ToExecutor::Hello): only say which devices the host has. Answered by [`ToBroker::Found`].
    Probe,
}

/// What a context did, for accounting and logs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContextUsage {
    /// Commands taken from the ring.
    pub commands: u64,
    /// Kernels enqueued.
    pub kernels: u64,
    /// Bytes that went to the device.
    pub bytes_written: u64,
    /// Bytes that came from the device.
    pub bytes_read: u64,
    /// How often the executor and the host's driver copied bytes of a transfer.
    pub copies: u64,
    /// How many bytes these were.
    pub bytes_copied: u64,
    /// How often the guest's driver did so; what the guest says.
    pub guest_copies: u64,
    /// How many bytes the guest says that these were.
    pub guest_bytes_copied: u64,
}

/// Copies of what travels in a command: out of the ring, to where it waits for the device, and by the host's driver.
pub(crate) const INLINE_COPIES: u64 = 3;

impl ContextUsage {
    /// Counts a transfer to the device, whose bytes are copied so many times here.
    pub(crate) fn wrote(&mut self, bytes: usize, copies: u64) {
        self.bytes_written = self.bytes_written.saturating_add(bytes as u64);
        self.copied(bytes, copies);
    }

    /// Counts a transfer from the device, which the host's driver makes in one go.
    pub(crate) fn read(&mut self, bytes: usize) {
        self.bytes_read = self.bytes_read.saturating_add(bytes as u64);
        self.copied(bytes, 1);
    }

    fn copied(&mut self, bytes: usize, copies: u64) {
        self.copies = self.copies.saturating_add(copies);
        self.bytes_copied = self.bytes_copied.saturating_add(copies.saturating_mul(bytes as u64));
    }
}

/// From an executor to the broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToBroker {
    /// The host's OpenCL is loaded; the names of its devices, for logs.
    Ready {
        /// Device names.
        devices: Vec<String>,
    },
    /// The host has no OpenCL that can be used; the executor ends. Says what to install.
    NoDevice {
        /// What is missing.
        reason: String,
    },
    /// A context was failed for a guest's mistake, or could not be started.
    ContextFailed {
        /// The context.
        context: u32,
        /// Why, in one line.
        reason: String,
    },
    /// See [`ToExecutor::RemoveRegion`].
    RegionRemoved {
        /// The context.
        context: u32,
        /// The region.
        region: u32,
    },
    /// See [`ToExecutor::DestroyContext`].
    ContextDestroyed {
        /// The context.
        context: u32,
        /// What it did.
        usage: ContextUsage,
    },
    /// See [`ToExecutor::Quiesce`].
    Quiesced,
    /// Asks for a compiler: a process beside the executor that builds a program first, and may be killed.
    WantCompiler {
        /// What the executor calls it: a number that it has not used before.
        compiler: u32,
    },
    /// A compiler is of no use any more, and is to be ended if it has not ended.
    CompilerEnded {
        /// The compiler.
        compiler: u32,
        /// Why.
        end: CompilerEnd,
    },
    /// See [`ToExecutor::Probe`].
    Found {
        /// The devices of all platforms.
        devices: Vec<HostDeviceInfo>,
    },
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

impl CompilerEnd {
    /// What became of a build whose compiler ended so; none if there is nothing to say.
    pub fn reason(self, limits: &BuildLimits) -> Option<String> {
        Some(match self {
            CompilerEnd::Unneeded => return None,
            CompilerEnd::Time => format!(
                "the build was ended: it took longer than {} s, which is this vGPU's limit (build-time)",
                limits.seconds
            ),
            CompilerEnd::Memory => format!(
                "the build was ended: it needed more than {} MiB of memory, which is this vGPU's limit (build-memory)",
                limits.memory_bytes >> 20
            ),
            // What asks for too much at once crashes, too.
            CompilerEnd::Crash => format!(
                "the build was ended: the compiler crashed, or needed more than {} MiB of memory at once (build-memory)",
                limits.memory_bytes >> 20
            ),
            CompilerEnd::Start => "the build was not begun: the compiler could not be started".to_owned(),
        })
    }
}
