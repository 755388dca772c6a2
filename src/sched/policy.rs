//! What an operator says of a vGPU's part of a device: plain data, changeable while it runs.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How a vGPU gets at device time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "policy")]
pub enum Policy {
    /// What the others leave. Work-conserving; against a weighted vGPU of the default weight it counts as one with
    /// [`BEST_EFFORT_WEIGHT`], so that it is slow then, but never stands still.
    BestEffort,
    /// An equal part, 1/N of the vGPUs that are connected: as much, and not more, so that it is as fast whatever the
    /// others do.
    EqualShare,
    /// This part of the device, and not more.
    FixedShare {
        /// Per cent of the device's time, above 0 and at most 100.
        share: f64,
    },
    /// Device time in proportion to the weight, of what those who want the device now have in all. Work-conserving.
    Weighted {
        /// At least 1.
        weight: u32,
    },
    /// Each submission is to start within the target. It goes before the others as long as it stays within `share`;
    /// beyond that, it is a weighted one of the default weight.
    Deadline {
        /// Milliseconds, at least 1.
        target_ms: u32,
        /// Per cent of the device's time, above 0 and at most 100.
        share: f64,
    },
}

/// Weight of a vGPU of which nothing is said.
pub const DEFAULT_WEIGHT: u32 = 100;

/// What [`Policy::BestEffort`] weighs against the others.
pub const BEST_EFFORT_WEIGHT: u32 = 1;

/// Part of the device, in per cent, that a vGPU with a deadline may take before the others unless told.
pub const DEFAULT_DEADLINE_SHARE: f64 = 50.0;

impl Default for Policy {
    fn default() -> Policy {
        Policy::Weighted { weight: DEFAULT_WEIGHT }
    }
}

/// What happens to a vGPU whose submissions do not end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Eviction {
    /// A submission that runs longer ends with its executor. A command that has started cannot be interrupted otherwise.
    pub limit: Duration,
    /// How long the vGPU waits for the device after its first eviction; twice as long after each further one.
    pub back_off: Duration,
    /// Longest such wait.
    pub max_back_off: Duration,
    /// Evictions after which the vGPU is paused until an operator resumes it; 0 for never. They are forgotten one by one,
    /// each after a minute without another.
    pub pause_after: u32,
}

impl Default for Eviction {
    fn default() -> Eviction {
        Eviction {
            limit: Duration::from_secs(60),
            back_off: Duration::from_secs(10),
            max_back_off: Duration::from_secs(600),
            pause_after: 8,
        }
    }
}

/// Everything that scheduling knows of a vGPU's settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Terms {
    /// How it gets at device time.
    pub policy: Policy,
    /// Most device time, in per cent, whatever the policy: above 0 and at most 100.
    pub cap: Option<f64>,
    /// What happens to submissions that do not end.
    pub eviction: Eviction,
}

/// How a device is shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sharing {
    /// vGPUs that may run at once.
    pub leases: u32,
    /// How long a vGPU has the device while others wait.
    pub slice: Duration,
}

impl Default for Sharing {
    fn default() -> Sharing {
        Sharing { leases: 1, slice: Duration::from_millis(8) }
    }
}
