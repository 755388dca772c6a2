//! What there is to see of everything.

use std::collections::BTreeMap;

use super::connections::Connections;
use crate::config::SharedDevice;
use crate::registry::Registry;
use crate::registry::mailbox::{DeviceView, VgpuView, View};
use crate::sched::usage::{DeviceUsage, Standing, VgpuUsage};
use crate::sched::{Scheduler, VgpuId};

pub(super) fn view(
    registry: &Registry,
    ids: &BTreeMap<String, VgpuId>,
    connections: &Connections,
    scheduler: &Scheduler,
    devices: &[SharedDevice],
    named: bool,
) -> View {
    let mut vgpus = Vec::new();
    for (name, vgpu) in registry.vgpus() {
        let Some(id) = ids.get(name) else { continue };
        let connected = connections.view(*id);
        let mut usage = scheduler.usage(*id).unwrap_or_default();
        usage.standing = standing(&usage, vgpu.paused, connected.is_empty());
        vgpus.push(VgpuView {
            name: name.clone(),
            origin: vgpu.origin,
            // Also by the scheduler, after too many evictions.
            paused: vgpu.paused || usage.standing == Standing::Paused,
            keys: vgpu.to_json(name),
            settings: vgpu.settings.clone(),
            connections: connected,
            usage,
        });
    }
    let counted = scheduler.devices();
    let device = |SharedDevice { name, sharing, .. }: &SharedDevice| {
        let of_name = counted.iter().find(|usage| usage.name == *name).cloned();
        let usage = of_name.unwrap_or_else(|| DeviceUsage { name: name.clone(), ..DeviceUsage::default() });
        DeviceView { sharing: *sharing, usage }
    };
    let all = devices.iter().map(device).enumerate();
    // Of devices that nobody named there may be fewer than there are numbers.
    let is_there = |(index, device): &(usize, DeviceView)| {
        let usage = &device.usage;
        named || *index == 0 || usage.busy_ns > 0 || !usage.holders.is_empty() || !usage.waiting.is_empty()
    };
    View { vgpus, devices: all.filter(is_there).map(|(_, device)| device).collect() }
}

/// How a vGPU stands: what the operator and the connections say goes before what the scheduler, which learns of a
/// connection only when that wants the device, says.
fn standing(usage: &VgpuUsage, paused: bool, nobody: bool) -> Standing {
    match usage.standing {
        Standing::Running => Standing::Running,
        _ if paused => Standing::Paused,
        Standing::Offline if !nobody => Standing::Idle,
        Standing::Idle if nobody => Standing::Offline,
        other => other,
    }
}
