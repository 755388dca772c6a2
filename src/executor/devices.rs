//! Which of the host's devices there are, and which a vGPU has: plain data between the broker, which loads no OpenCL, and
//! executors, which do.

use serde::{Deserialize, Serialize};

/// A device of the host, as its OpenCL describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostDeviceInfo {
    /// Its platform's name.
    pub platform: String,
    /// Its number among the devices of its platform.
    pub index: u32,
    /// Its own name.
    pub name: String,
    /// Its memory in bytes.
    pub memory_bytes: u64,
    /// Its compute units.
    pub compute_units: u32,
    /// True if it is shared where nothing else is said.
    pub is_default: bool,
}

/// A device that a vGPU has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceChoice {
    /// Its platform's name.
    pub platform: String,
    /// Its number among the devices of its platform.
    pub index: u32,
    /// If it is only a part of that: which.
    pub part: Option<Part>,
}

/// A part of a device: a sub-device by counts (`CL_DEVICE_PARTITION_BY_COUNTS`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Compute units of each part that the device is divided into.
    pub units: Vec<u32>,
    /// Which of them it is.
    pub index: u32,
}
