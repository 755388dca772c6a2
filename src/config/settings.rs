//! What an operator says of one vGPU.

use std::time::Duration;

use paragpu_protocol::limits::{MAX_BUILDS, MAX_CONTEXTS, MAX_OBJECTS};
use serde::{Deserialize, Serialize};
use serde_json::{Map, json};

use super::reader::Reader;
use super::tree::Value;
use super::value::{self, NONE, show_bytes};
use crate::limits;
use crate::sched::policy::{DEFAULT_DEADLINE_SHARE, DEFAULT_WEIGHT, Eviction, Policy, Terms};

/// Largest weight of a vGPU: with 256 others of it, shares still are whole millionths.
pub const MAX_WEIGHT: u32 = 10_000;
/// Longest target of a deadline in milliseconds: more is no deadline.
pub const MAX_DEADLINE_MS: u32 = 60_000;
/// Most connections of one vGPU: each is a thread and an executor of the daemon.
pub const MAX_CONNECTIONS: u32 = 512;
/// Connections of a vGPU of which nothing is said.
pub const DEFAULT_CONNECTIONS: u32 = 8;
/// Longest that a submission may be allowed to run, in seconds: a day.
pub const MAX_EVICTION_S: f64 = 86_400.0;
/// Shortest such limit in seconds: below, ordinary kernels on a busy host would be taken for endless ones.
pub const MIN_EVICTION_S: f64 = 0.1;
/// Longest back-off in seconds.
pub const MAX_BACK_OFF_S: f64 = 3600.0;
/// Most evictions before a pause.
pub const MAX_PAUSE_AFTER: u32 = 1000;
/// Fewest objects that a program can do anything with.
pub const MIN_OBJECTS: u32 = 64;
/// Fastest rate of commands that is a limit at all, per second.
pub const MAX_COMMAND_RATE: u32 = 100_000_000;
/// Longest that a build may be allowed to take, in seconds.
pub const MAX_BUILD_SECONDS: u32 = 3600;
/// Least memory in which a compiler starts, in bytes.
pub const MIN_BUILD_MEMORY: u64 = 64 << 20;
/// Least memory in which an executor starts, in bytes.
pub const MIN_EXECUTOR_MEMORY: u64 = 64 << 20;
/// Least shared memory with which a guest's driver works, in bytes: it has a ring, slots, and 2 MiB for each of seven sizes of
/// small transfers.
pub const MIN_STAGING: u64 = 16 << 20;
/// Fewest processes and threads with which an executor starts.
pub const MIN_PROCESSES: u32 = 16;
/// As many processes as Linux has numbers for.
pub const MAX_PROCESSES: u32 = 1 << 22;
/// Most processor time of an executor in per cent of one processor: a thousand of them.
pub const MAX_CPU_PERCENT: u32 = 100_000;
/// Longest that an executor may be kept without a use, in seconds: a day.
pub const MAX_IDLE_SECONDS: u32 = 86_400;
/// Seconds of requests that may come at once before their rate counts.
const REQUEST_BURST_SECONDS: u32 = 2;
/// Largest size that is read, in bytes.
pub const MAX_BYTES: u64 = 1 << 50;

/// Everything that an operator says of one vGPU, but for where its socket is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// How it gets at device time.
    pub terms: Terms,
    /// Most device memory; without a quota, the device's limit alone counts.
    pub memory: Option<Quota>,
    /// Names of the devices that it may use; empty for all.
    pub devices: Vec<String>,
    /// Connections that are served at once.
    pub connections: u32,
    /// What one connection has built, others need not build again, now and later: for guests that trust each other.
    pub share_builds: bool,
    /// Limits that are not about device time or memory.
    pub limits: Limits,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            terms: Terms::default(),
            memory: None,
            devices: Vec::new(),
            connections: DEFAULT_CONNECTIONS,
            share_builds: false,
            limits: Limits::default(),
        }
    }
}

/// A part of a device's memory.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Quota {
    /// So many bytes.
    Bytes(u64),
    /// Per cent of the device's memory, above 0 and at most 100.
    PerCent(f64),
}

impl Quota {
    /// In bytes, of a device with this much memory.
    pub fn of(self, device_bytes: u64) -> u64 {
        match self {
            Quota::Bytes(bytes) => bytes,
            Quota::PerCent(part) => (device_bytes as f64 * part / 100.0) as u64,
        }
    }

    fn read(value: &Value) -> Result<Quota, String> {
        if let Value::Text(text) = value
            && let Some(number) = text.strip_suffix('%')
        {
            let number = number.trim().parse::<f64>().unwrap_or(f64::NAN);
            return value::per_cent(&Value::Number(number)).map(Quota::PerCent);
        }
        let read = value::bytes(1 << 20..=MAX_BYTES)(value).map(Quota::Bytes);
        read.map_err(|error| format!("{error}, or a part of the device's memory such as \"25%\""))
    }
}

/// Limits of one vGPU. None of them is about device time or memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Contexts, that is processes of the guest, at once. Each has a ring and a thread on the host.
    pub contexts: u32,
    /// OpenCL objects in each context.
    pub objects: u32,
    /// Memory that the guest shares with the host, in bytes.
    pub staging: Option<u64>,
    /// Commands per second, over all contexts.
    pub commands_per_second: Option<u32>,
    /// Commands that may come at once before that rate counts; without a number, those of one second.
    pub command_burst: Option<u32>,
    /// Requests per second on the virtqueues of each connection: doorbells, waits, new regions.
    pub requests_per_second: Option<u32>,
    /// Builds of programs at once.
    pub builds: u32,
    /// Longest that a build may take, in seconds.
    pub build_seconds: u32,
    /// Most memory of one build, in bytes.
    pub build_memory: u64,
    /// Most memory of the executor in all, in bytes (its control group).
    pub executor_memory: Option<u64>,
    /// Processor time of the executor, in per cent of one processor (its control group).
    pub executor_cpu: Option<u32>,
    /// Processes and threads of the executor (its control group).
    pub processes: Option<u32>,
    /// Seconds after which an executor ends that no guest process uses.
    pub executor_idle_seconds: Option<u32>,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            contexts: MAX_CONTEXTS as u32,
            objects: MAX_OBJECTS as u32,
            staging: None,
            commands_per_second: None,
            command_burst: None,
            requests_per_second: Some(200_000),
            builds: MAX_BUILDS as u32,
            build_seconds: 60,
            build_memory: 2 << 30,
            executor_memory: None,
            executor_cpu: None,
            processes: Some(1024),
            executor_idle_seconds: Some(30),
        }
    }
}

impl Settings {
    /// Reads what the table says; the rest is as in `base`, and what is `null` as in `default`.
    pub(super) fn read(reader: &mut Reader<'_>, base: &Settings, default: &Settings) -> Settings {
        let policy = read_policy(reader, base.terms.policy, default.terms.policy);
        let cap = reader.pick("cap", (&base.terms.cap, &default.terms.cap), value::or_none(value::per_cent));
        let memory = reader.pick("memory", (&base.memory, &default.memory), value::or_none(Quota::read));
        let devices = reader.pick("devices", (&base.devices, &default.devices), value::list(value::text));
        let connections = reader.pick(
            "connections",
            (&base.connections, &default.connections),
            value::integer(1..=MAX_CONNECTIONS),
        );
        let share_builds =
            reader.pick("share-builds", (&base.share_builds, &default.share_builds), value::truth);
        let limits = match reader.below("limits") {
            None => base.limits.clone(),
            Some(Err(())) => default.limits.clone(),
            Some(Ok(reader)) => Limits::read(reader, &base.limits, &default.limits),
        };
        let eviction = match reader.below("eviction") {
            None => base.terms.eviction,
            Some(Err(())) => default.terms.eviction,
            Some(Ok(reader)) => read_eviction(reader, base.terms.eviction, default.terms.eviction),
        };
        let terms = Terms { policy, cap, eviction };
        Settings { terms, memory, devices, connections, share_builds, limits }
    }

    /// What the session and its executors hold the vGPU to, on devices of which the smallest has so many bytes of memory,
    /// if that is known: without it, a quota in per cent is none.
    pub fn session_limits(&self, device_bytes: Option<u64>) -> limits::Limits {
        let Limits { contexts, objects, staging, commands_per_second, command_burst, .. } = self.limits;
        let Limits { requests_per_second, builds, build_seconds, build_memory, .. } = self.limits;
        let rate = |per_second: u32, burst: u32| limits::Rate { per_second, burst };
        limits::Limits {
            memory_bytes: match self.memory {
                Some(Quota::Bytes(bytes)) => Some(bytes),
                Some(part @ Quota::PerCent(_)) => device_bytes.map(|bytes| part.of(bytes)),
                None => None,
            },
            contexts,
            objects: objects.into(),
            staging_bytes: staging,
            commands: commands_per_second.map(|each| rate(each, command_burst.unwrap_or(each))),
            builds: limits::BuildLimits {
                concurrent: builds,
                seconds: build_seconds,
                memory_bytes: build_memory,
                ..limits::BuildLimits::default()
            },
            requests: requests_per_second.map(|each| rate(each, each.saturating_mul(REQUEST_BURST_SECONDS))),
            executor_idle_seconds: self.limits.executor_idle_seconds,
        }
    }

    /// As the keys of a table that says everything: what reading them again makes the same of.
    pub fn to_json(&self) -> Map<String, serde_json::Value> {
        let mut json = Map::new();
        let policy = match self.terms.policy {
            Policy::BestEffort => json!({"policy": "best-effort"}),
            Policy::EqualShare => json!({"policy": "equal-share"}),
            Policy::FixedShare { share } => json!({"policy": "fixed-share", "share": share}),
            Policy::Weighted { weight } => json!({"policy": "weighted", "weight": weight}),
            Policy::Deadline { target_ms, share } => {
                json!({"policy": "deadline", "deadline-ms": target_ms, "share": share})
            }
        };
        let memory = match self.memory {
            None => json!(NONE),
            Some(Quota::Bytes(bytes)) => json!(show_bytes(bytes)),
            Some(Quota::PerCent(part)) => json!(format!("{part}%")),
        };
        let Eviction { limit, back_off, max_back_off, pause_after } = self.terms.eviction;
        let rest = json!({
            "cap": self.terms.cap.map_or(json!(NONE), |cap| json!(cap)),
            "memory": memory,
            "devices": self.devices,
            "connections": self.connections,
            "share-builds": self.share_builds,
            "limits": self.limits.to_json(),
            "eviction": {
                "limit-s": limit.as_secs_f64(),
                "back-off-ms": back_off.as_micros() as f64 / 1000.0,
                "max-back-off-s": max_back_off.as_secs_f64(),
                "pause-after": pause_after,
            },
        });
        for part in [policy, rest] {
            if let serde_json::Value::Object(part) = part {
                json.extend(part);
            }
        }
        json
    }
}

/// The policies by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    BestEffort,
    EqualShare,
    FixedShare,
    Weighted,
    Deadline,
}

const KINDS: [(&str, Kind); 5] = [
    ("best-effort", Kind::BestEffort),
    ("equal-share", Kind::EqualShare),
    ("fixed-share", Kind::FixedShare),
    ("weighted", Kind::Weighted),
    ("deadline", Kind::Deadline),
];

fn kind(policy: Policy) -> Kind {
    match policy {
        Policy::BestEffort => Kind::BestEffort,
        Policy::EqualShare => Kind::EqualShare,
        Policy::FixedShare { .. } => Kind::FixedShare,
        Policy::Weighted { .. } => Kind::Weighted,
        Policy::Deadline { .. } => Kind::Deadline,
    }
}

/// The policy's name.
pub fn policy_name(policy: Policy) -> &'static str {
    KINDS.iter().find(|(_, found)| *found == kind(policy)).map_or("", |(name, _)| name)
}

fn read_policy(reader: &mut Reader<'_>, base: Policy, default: Policy) -> Policy {
    let wanted = reader.pick("policy", (&kind(base), &kind(default)), value::word(&KINDS));
    // Numbers of another policy are nobody's.
    let base = if kind(base) == wanted { Some(base) } else { Some(default).filter(|d| kind(*d) == wanted) };
    let named = KINDS.iter().find(|(_, kind)| *kind == wanted).map_or("", |(name, _)| name);
    let stray = |reader: &Reader<'_>, key: &str, goes_with: &str| {
        reader.problem(key, format!("{key} goes with policy = {goes_with}; here the policy is \"{named}\""));
    };
    let weight = reader.take("weight", or_null(value::integer(1..=MAX_WEIGHT), DEFAULT_WEIGHT));
    let share = reader.take("share", or_null(value::per_cent, DEFAULT_DEADLINE_SHARE));
    let deadline = reader.take("deadline-ms", value::integer(1..=MAX_DEADLINE_MS));
    if weight.is_some() && wanted != Kind::Weighted {
        stray(reader, "weight", "\"weighted\"");
    }
    if share.is_some() && ![Kind::FixedShare, Kind::Deadline].contains(&wanted) {
        stray(reader, "share", "\"fixed-share\" or \"deadline\"");
    }
    if deadline.is_some() && wanted != Kind::Deadline {
        stray(reader, "deadline-ms", "\"deadline\"");
    }
    match wanted {
        Kind::BestEffort => Policy::BestEffort,
        Kind::EqualShare => Policy::EqualShare,
        Kind::Weighted => {
            let before = if let Some(Policy::Weighted { weight }) = base { weight } else { DEFAULT_WEIGHT };
            Policy::Weighted { weight: weight.unwrap_or(before) }
        }
        Kind::FixedShare => {
            let before = if let Some(Policy::FixedShare { share }) = base { Some(share) } else { None };
            if share.or(before).is_none() && !reader.has("share") {
                reader.problem("policy", "fixed-share needs a share: add share = PER CENT");
            }
            Policy::FixedShare { share: share.or(before).unwrap_or(DEFAULT_DEADLINE_SHARE) }
        }
        Kind::Deadline => {
            let before = if let Some(Policy::Deadline { target_ms, share }) = base {
                Some((target_ms, share))
            } else {
                None
            };
            let target = deadline.or(before.map(|(target, _)| target));
            if target.is_none() && !reader.has("deadline-ms") {
                reader.problem("policy", "deadline needs a target: add deadline-ms = MILLISECONDS");
            }
            let share = share.or(before.map(|(_, share)| share)).unwrap_or(DEFAULT_DEADLINE_SHARE);
            Policy::Deadline { target_ms: target.unwrap_or(1), share }
        }
    }
}

/// `null` stands for the number that counts where nothing is said.
fn or_null<T: Copy>(
    read: impl Fn(&Value) -> Result<T, String>,
    default: T,
) -> impl FnOnce(&Value) -> Result<T, String> {
    move |value| if *value == Value::Null { Ok(default) } else { read(value) }
}

const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);

fn read_eviction(mut reader: Reader<'_>, base: Eviction, default: Eviction) -> Eviction {
    let limit = reader.pick(
        "limit-s",
        (&base.limit, &default.limit),
        value::time(SECOND, MIN_EVICTION_S..=MAX_EVICTION_S),
    );
    let back_off = reader.pick(
        "back-off-ms",
        (&base.back_off, &default.back_off),
        value::time(MILLISECOND, 1.0..=MAX_BACK_OFF_S * 1000.0),
    );
    let max_back_off = reader.pick(
        "max-back-off-s",
        (&base.max_back_off, &default.max_back_off),
        value::time(SECOND, 0.001..=MAX_BACK_OFF_S),
    );
    let pause_after = reader.pick(
        "pause-after",
        (&base.pause_after, &default.pause_after),
        value::integer(0..=MAX_PAUSE_AFTER),
    );
    if max_back_off < back_off {
        let key = if reader.has("max-back-off-s") { "max-back-off-s" } else { "back-off-ms" };
        reader.problem(key, "max-back-off-s must not be shorter than back-off-ms");
    }
    reader.finish();
    Eviction { limit, back_off, max_back_off, pause_after }
}

impl Limits {
    fn read(mut reader: Reader<'_>, base: &Limits, default: &Limits) -> Limits {
        use value::{bytes, integer, or_none};
        let r = &mut reader;
        let contexts = integer(1..=MAX_CONTEXTS as u32);
        let objects = integer(MIN_OBJECTS..=MAX_OBJECTS as u32);
        let limits = Limits {
            contexts: r.pick("contexts", (&base.contexts, &default.contexts), contexts),
            objects: r.pick("objects", (&base.objects, &default.objects), objects),
            staging: r.pick(
                "staging",
                (&base.staging, &default.staging),
                or_none(bytes(MIN_STAGING..=MAX_BYTES)),
            ),
            commands_per_second: r.pick(
                "commands-per-second",
                (&base.commands_per_second, &default.commands_per_second),
                or_none(integer(1..=MAX_COMMAND_RATE)),
            ),
            command_burst: r.pick(
                "command-burst",
                (&base.command_burst, &default.command_burst),
                or_none(integer(1..=MAX_COMMAND_RATE)),
            ),
            requests_per_second: r.pick(
                "requests-per-second",
                (&base.requests_per_second, &default.requests_per_second),
                or_none(integer(1..=MAX_COMMAND_RATE)),
            ),
            builds: r.pick("builds", (&base.builds, &default.builds), integer(1..=MAX_BUILDS as u32)),
            build_seconds: r.pick(
                "build-seconds",
                (&base.build_seconds, &default.build_seconds),
                integer(1..=MAX_BUILD_SECONDS),
            ),
            build_memory: r.pick(
                "build-memory",
                (&base.build_memory, &default.build_memory),
                bytes(MIN_BUILD_MEMORY..=MAX_BYTES),
            ),
            executor_memory: r.pick(
                "executor-memory",
                (&base.executor_memory, &default.executor_memory),
                or_none(bytes(MIN_EXECUTOR_MEMORY..=MAX_BYTES)),
            ),
            executor_cpu: r.pick(
                "executor-cpu",
                (&base.executor_cpu, &default.executor_cpu),
                or_none(integer(1..=MAX_CPU_PERCENT)),
            ),
            processes: r.pick(
                "processes",
                (&base.processes, &default.processes),
                or_none(integer(MIN_PROCESSES..=MAX_PROCESSES)),
            ),
            executor_idle_seconds: r.pick(
                "executor-idle-seconds",
                (&base.executor_idle_seconds, &default.executor_idle_seconds),
                or_none(integer(1..=MAX_IDLE_SECONDS)),
            ),
        };
        if limits.command_burst.is_some() && limits.commands_per_second.is_none() {
            reader.problem("command-burst", "command-burst goes with commands-per-second, which is not set");
        }
        reader.finish();
        limits
    }

    fn to_json(&self) -> serde_json::Value {
        let size = |bytes: Option<u64>| bytes.map_or(json!(NONE), |bytes| json!(show_bytes(bytes)));
        let count = |count: Option<u32>| count.map_or(json!(NONE), |count| json!(count));
        json!({
            "contexts": self.contexts,
            "objects": self.objects,
            "staging": size(self.staging),
            "commands-per-second": count(self.commands_per_second),
            "command-burst": count(self.command_burst),
            "requests-per-second": count(self.requests_per_second),
            "builds": self.builds,
            "build-seconds": self.build_seconds,
            "build-memory": show_bytes(self.build_memory),
            "executor-memory": size(self.executor_memory),
            "executor-cpu": count(self.executor_cpu),
            "processes": count(self.processes),
            "executor-idle-seconds": count(self.executor_idle_seconds),
        })
    }
}
