//! The JSON of the admin socket: what the daemon says and `paragpu` reads. Keys are as in the configuration.

use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use crate::registry::Origin;
use crate::registry::mailbox::{ConnectionView, DeviceView, VgpuView};
use crate::sched::usage::{DELAY_BOUNDS_US, Delays, ProcessUsage, Standing, Usage};

/// The version in every path.
pub const VERSION: u32 = 1;

/// How long a timeline may be in seconds: beyond some, events are too many to be looked at.
pub const TRACE_SECONDS: std::ops::RangeInclusive<f64> = 0.1..=60.0;

/// `GET /v1/version`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// paragpud's version.
    pub version: String,
    /// [`VERSION`].
    pub api: u32,
    /// paragpud's process id.
    pub pid: u32,
}

/// `GET /v1/vgpus`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Vgpus {
    /// By name.
    pub vgpus: Vec<Vgpu>,
}

/// `GET /v1/vgpus/NAME`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Vgpu {
    /// Its name.
    pub name: String,
    /// Where it comes from.
    pub origin: Origin,
    /// How it stands with the device.
    pub standing: Standing,
    /// An operator keeps it from the device.
    pub paused: bool,
    /// Its keys, as in the configuration.
    pub settings: serde_json::Map<String, serde_json::Value>,
    /// What it has used, with what has ended.
    pub usage: Counted,
    /// How long it waited for the device.
    pub queueing: Queueing,
    /// Executors ended because a submission ran too long.
    pub evictions: u64,
    /// Processor time of its executors, in nanoseconds.
    pub cpu_ns: u64,
    /// Who is connected.
    pub connections: Vec<Connection>,
    /// Guest processes that are there.
    pub processes: Vec<Process>,
}

/// What somebody has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Counted {
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

/// Delays in buckets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Queueing {
    /// Upper bounds of the buckets in microseconds; the last bucket has none.
    pub bounds_us: Vec<u64>,
    /// How many fell into each bucket, one more than there are bounds.
    pub counts: Vec<u64>,
    /// Sum of all, in nanoseconds.
    pub sum_ns: u64,
}

/// A connection of a vGPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Connection {
    /// Its name in logs.
    pub name: String,
    /// The process at the other end (QEMU, or a program), if it can be seen from here.
    pub pid: Option<i32>,
    /// That process's user.
    pub uid: Option<u32>,
    /// When it connected, in seconds since 1970.
    pub since: u64,
}

/// A process of a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Process {
    /// Its context's id.
    pub context: u32,
    /// The guest's name for it: printable, but the guest's word.
    pub name: String,
    /// What it has used.
    pub usage: Counted,
}

/// `GET /v1/devices`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Devices {
    /// In the order of the configuration.
    pub devices: Vec<Device>,
}

/// A device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Device {
    /// What the operator calls it.
    pub name: String,
    /// vGPUs that may run on it at once.
    pub leases: u32,
    /// How long a vGPU has it while others wait, in milliseconds.
    pub slice_ms: f64,
    /// Nanoseconds for which somebody was running on it.
    pub busy_ns: u64,
    /// vGPUs that have it now.
    pub holders: Vec<String>,
    /// vGPUs that wait for it now.
    pub waiting: Vec<String>,
}

/// The body of every answer that is not what was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    /// What is wrong, and what to change.
    pub error: String,
    /// The first key that is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
}

impl From<Usage> for Counted {
    fn from(usage: Usage) -> Counted {
        let Usage { device_ns, launches, bytes_to_device, bytes_from_device, memory_bytes } = usage;
        Counted { device_ns, launches, bytes_to_device, bytes_from_device, memory_bytes }
    }
}

impl From<Delays> for Queueing {
    fn from(delays: Delays) -> Queueing {
        let bounds_us = DELAY_BOUNDS_US.to_vec();
        Queueing { bounds_us, counts: delays.counts.to_vec(), sum_ns: delays.sum_ns }
    }
}

impl From<&ConnectionView> for Connection {
    fn from(view: &ConnectionView) -> Connection {
        let since = view.since.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Connection { name: view.name.clone(), pid: view.pid, uid: view.uid, since }
    }
}

impl From<&ProcessUsage> for Process {
    fn from(process: &ProcessUsage) -> Process {
        Process { context: process.context, name: process.name.clone(), usage: process.usage.into() }
    }
}

impl From<&VgpuView> for Vgpu {
    fn from(view: &VgpuView) -> Vgpu {
        Vgpu {
            name: view.name.clone(),
            origin: view.origin,
            standing: view.usage.standing,
            paused: view.paused,
            settings: view.keys.clone(),
            usage: view.usage.usage.into(),
            queueing: view.usage.queueing.into(),
            evictions: view.usage.evictions,
            cpu_ns: view.usage.cpu_ns,
            connections: view.connections.iter().map(Connection::from).collect(),
            processes: view.usage.processes.iter().map(Process::from).collect(),
        }
    }
}

impl From<&DeviceView> for Device {
    fn from(view: &DeviceView) -> Device {
        Device {
            name: view.usage.name.clone(),
            leases: view.sharing.leases,
            slice_ms: view.sharing.slice.as_secs_f64() * 1000.0,
            busy_ns: view.usage.busy_ns,
            holders: view.usage.holders.clone(),
            waiting: view.usage.waiting.clone(),
        }
    }
}
