//! What a vGPU has used, as numbers.

use serde::{Deserialize, Serialize};

/// Upper bounds of the buckets in which delays are counted, in microseconds; the last bucket has no bound.
pub const DELAY_BOUNDS_US: [u64; 15] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    10_000_000,
];

/// How long something took, counted in buckets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delays {
    /// How many fell into each bucket (not cumulative).
    pub counts: [u64; DELAY_BOUNDS_US.len() + 1],
    /// Sum of all, in nanoseconds.
    pub sum_ns: u64,
}

impl Delays {
    /// Counts one.
    pub fn add(&mut self, nanos: u64) {
        let bucket = DELAY_BOUNDS_US.partition_point(|bound| bound.saturating_mul(1000) < nanos);
        self.counts[bucket] = self.counts[bucket].saturating_add(1);
        self.sum_ns = self.sum_ns.saturating_add(nanos);
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }
}

/// What somebody has used, in total.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Device time in nanoseconds.
    pub device_ns: u64,
    /// Kernels launched.
    pub launches: u64,
    /// Bytes that went to the device.
    pub bytes_to_device: u64,
    /// Bytes that came from the device.
    pub bytes_from_device: u64,
    /// Device memory in use now, in bytes.
    pub memory_bytes: u64,
}

/// A guest process with a context.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessUsage {
    /// Its context's id.
    pub context: u32,
    /// The guest's name for it: printable, but the guest's word.
    pub name: String,
    /// What it has used.
    #[serde(flatten)]
    pub usage: Usage,
}

/// How a vGPU stands with the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// Nobody is connected.
    #[default]
    Offline,
    /// Connected, and wants nothing.
    Idle,
    /// Waits for the device.
    Waiting,
    /// Has the device.
    Running,
    /// May not have the device until its back-off is over.
    BackedOff,
    /// May not have the device until somebody resumes it.
    Paused,
}

/// Everything that is counted of a vGPU.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VgpuUsage {
    /// How it stands.
    pub standing: Standing,
    /// Totals, of what has ended too.
    #[serde(flatten)]
    pub usage: Usage,
    /// Time from wanting the device to having it. Each is one lease wait.
    pub queueing: Delays,
    /// Executors ended because a submission ran too long.
    pub evictions: u64,
    /// Processor time of its executors in nanoseconds, as the operating system counts it.
    pub cpu_ns: u64,
    /// Guest processes that are there.
    pub processes: Vec<ProcessUsage>,
}

/// Everything that is counted of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceUsage {
    /// What the operator calls it.
    pub name: String,
    /// Nanoseconds for which somebody was running on it, since `paragpud` started.
    pub busy_ns: u64,
    /// vGPUs that have it now.
    pub holders: Vec<String>,
    /// vGPUs that wait for it now.
    pub waiting: Vec<String>,
}
