//! What is shown: two samples, and what happened between them.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::admin::api::{Device, Vgpu};
use crate::cli::format;
use crate::config::parse_bytes;
use crate::sched::usage::Standing;

/// How many busy values of a device are kept: as many as a wide terminal shows.
const HISTORY: usize = 400;

/// What the daemon said at a time.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) at: Instant,
    pub(super) vgpus: Vec<Vgpu>,
    pub(super) devices: Vec<Device>,
}

/// What rows are sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Sort {
    #[default]
    Device,
    Memory,
    Launches,
    Wait,
    Name,
}

impl Sort {
    const ALL: [(Sort, &'static str); 5] = [
        (Sort::Device, "device"),
        (Sort::Memory, "memory"),
        (Sort::Launches, "launches"),
        (Sort::Wait, "wait"),
        (Sort::Name, "name"),
    ];

    pub(super) fn name(self) -> &'static str {
        Sort::ALL.iter().find(|(sort, _)| *sort == self).map_or("", |(_, name)| name)
    }
}

/// A vGPU's row.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) standing: Standing,
    pub(super) connected: bool,
    pub(super) policy: String,
    /// Part of a device that it used, between 0 and 1; more with several devices.
    pub(super) device: f64,
    pub(super) memory: u64,
    /// Its quota in bytes, if it has one in bytes.
    pub(super) quota: Option<u64>,
    /// Per second.
    pub(super) launches: f64,
    pub(super) to_device: f64,
    pub(super) from_device: f64,
    pub(super) wait: Option<Wait>,
    pub(super) evictions: u64,
}

/// A time within which 99 of 100 waits for the device ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wait {
    /// Microseconds.
    Within(u64),
    /// More than so many microseconds.
    Beyond(u64),
}

/// A device's line.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct DeviceLine {
    pub(super) name: String,
    /// Part of the time for which somebody was running on it.
    pub(super) busy: f64,
    /// The same over time, in per cent, the newest last.
    pub(super) history: Vec<u64>,
    pub(super) holders: Vec<String>,
    pub(super) waiting: Vec<String>,
}

/// Everything that a frame is made of.
#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    before: Option<Sample>,
    now: Option<Sample>,
    histories: BTreeMap<String, VecDeque<u64>>,
    sort: Sort,
    selected: Option<String>,
    /// What went wrong, until something goes right.
    pub(super) message: Option<String>,
}

impl Model {
    /// Time has passed.
    pub(super) fn add(&mut self, sample: Sample) {
        self.before = self.now.replace(sample);
        self.message = None;
        if self.before.is_none() {
            return;
        }
        for line in self.devices() {
            let history = self.histories.entry(line.name).or_default();
            history.push_back((line.busy * 100.0).round() as u64);
            if history.len() > HISTORY {
                history.pop_front();
            }
        }
    }

    /// The same time, but something has been changed.
    pub(super) fn replace(&mut self, sample: Sample) {
        self.message = None;
        if let Some(now) = &mut self.now {
            // Rates would be over a moment.
            let at = now.at;
            *now = Sample { at, ..sample };
        }
    }

    pub(super) fn sort(&self) -> Sort {
        self.sort
    }

    pub(super) fn sort_by_next(&mut self) {
        let at = Sort::ALL.iter().position(|(sort, _)| *sort == self.sort).unwrap_or(0);
        self.sort = Sort::ALL[(at + 1) % Sort::ALL.len()].0;
    }

    /// The selected row.
    pub(super) fn selected_row(&self, rows: &[Row]) -> Option<usize> {
        rows.iter().position(|row| Some(&row.name) == self.selected.as_ref())
    }

    /// The selected vGPU, and whether it is paused.
    pub(super) fn selected(&self) -> Option<(String, bool)> {
        let vgpu = self.now.as_ref()?.vgpus.iter().find(|vgpu| Some(&vgpu.name) == self.selected.as_ref())?;
        Some((vgpu.name.clone(), vgpu.paused))
    }

    /// Selects a row before or after the selected one.
    pub(super) fn select(&mut self, by: isize) {
        let rows = self.rows();
        let at = self.selected_row(&rows).map_or(0, |at| at.saturating_add_signed(by));
        self.selected = rows.get(at.min(rows.len().saturating_sub(1))).map(|row| row.name.clone());
    }

    fn elapsed(&self) -> Option<(&Sample, &Sample, f64)> {
        let (before, now) = (self.before.as_ref()?, self.now.as_ref()?);
        let elapsed = now.at.saturating_duration_since(before.at).max(Duration::from_millis(1));
        Some((before, now, elapsed.as_secs_f64()))
    }

    pub(super) fn devices(&self) -> Vec<DeviceLine> {
        let Some(now) = &self.now else { return Vec::new() };
        let line = |device: &Device| {
            let busy = self.elapsed().and_then(|(before, _, seconds)| {
                let earlier = before.devices.iter().find(|earlier| earlier.name == device.name)?;
                Some(device.busy_ns.saturating_sub(earlier.busy_ns) as f64 / 1e9 / seconds)
            });
            DeviceLine {
                name: device.name.clone(),
                busy: busy.unwrap_or(0.0).min(1.0),
                history: self
                    .histories
                    .get(&device.name)
                    .map(|all| all.iter().copied().collect())
                    .unwrap_or_default(),
                holders: device.holders.clone(),
                waiting: device.waiting.clone(),
            }
        };
        now.devices.iter().map(line).collect()
    }

    /// The rows, sorted.
    pub(super) fn rows(&self) -> Vec<Row> {
        let Some(now) = &self.now else { return Vec::new() };
        let mut rows: Vec<Row> = now.vgpus.iter().map(|vgpu| self.row(vgpu)).collect();
        // By name where there is nothing between them.
        rows.sort_by(|a, b| {
            let order = match self.sort {
                Sort::Device => b.device.total_cmp(&a.device),
                Sort::Memory => b.memory.cmp(&a.memory),
                Sort::Launches => b.launches.total_cmp(&a.launches),
                Sort::Wait => b.wait.cmp(&a.wait),
                Sort::Name => std::cmp::Ordering::Equal,
            };
            order.then_with(|| a.name.cmp(&b.name))
        });
        rows
    }

    fn row(&self, vgpu: &Vgpu) -> Row {
        let earlier = self.elapsed().and_then(|(before, _, seconds)| {
            before.vgpus.iter().find(|earlier| earlier.name == vgpu.name).map(|earlier| (earlier, seconds))
        });
        // A vGPU that was removed and added begins anew: there is nothing between the two.
        let rate = |total: fn(&Vgpu) -> u64| {
            earlier
                .map_or(0.0, |(earlier, seconds)| total(vgpu).saturating_sub(total(earlier)) as f64 / seconds)
        };
        let quota = vgpu.settings.get("memory").and_then(|memory| parse_bytes(memory.as_str()?));
        Row {
            name: vgpu.name.clone(),
            standing: vgpu.standing,
            connected: !vgpu.connections.is_empty(),
            policy: format::policy(vgpu),
            device: rate(|vgpu| vgpu.usage.device_ns) / 1e9,
            memory: vgpu.usage.memory_bytes,
            quota,
            launches: rate(|vgpu| vgpu.usage.launches),
            to_device: rate(|vgpu| vgpu.usage.bytes_to_device),
            from_device: rate(|vgpu| vgpu.usage.bytes_from_device),
            wait: earlier.and_then(|(earlier, _)| wait(earlier, vgpu)),
            evictions: vgpu.evictions,
        }
    }
}

/// Of the waits between two samples, what 99 of 100 stayed within.
fn wait(before: &Vgpu, now: &Vgpu) -> Option<Wait> {
    let earlier = before.queueing.counts.iter().chain(std::iter::repeat(&0));
    let counts: Vec<u64> =
        now.queueing.counts.iter().zip(earlier).map(|(now, before)| now.saturating_sub(*before)).collect();
    let all: u64 = counts.iter().sum();
    if all == 0 {
        return None;
    }
    let mut left = all - all / 100;
    let bucket = counts.iter().position(|count| {
        left = left.saturating_sub(*count);
        left == 0
    })?;
    match now.queueing.bounds_us.get(bucket) {
        Some(bound) => Some(Wait::Within(*bound)),
        None => now.queueing.bounds_us.last().map(|bound| Wait::Beyond(*bound)),
    }
}
