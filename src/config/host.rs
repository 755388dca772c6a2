//! Does the host have what a configuration names, and what of it is whose?

use super::problem::Problems;
use super::{Config, Device, Quota, Settings};
use crate::executor::devices::{DeviceChoice, HostDeviceInfo, Part};
use crate::sched::policy::Sharing;

/// A device, or a partition of one, that vGPUs share.
#[derive(Clone, Debug, PartialEq)]
pub struct SharedDevice {
    /// What vGPUs and the tool call it.
    pub name: String,
    /// How it is shared.
    pub sharing: Sharing,
    /// What executors are told of it; nothing if it is one of those that are shared where nothing is said.
    pub choice: Option<DeviceChoice>,
    /// Its memory in bytes, if that is known.
    pub memory_bytes: Option<u64>,
}

/// The devices that a configuration shares, found on the host: each is there and is one, its partitions fit into it, and no
/// vGPU has a quota beyond the memory of a device that it may use, or devices of several platforms, which no OpenCL context
/// could have.
pub fn check_against_host(config: &Config, host: &[HostDeviceInfo]) -> Result<Vec<SharedDevice>, Problems> {
    let mut problems = Problems::none();
    let mut shared = Vec::new();
    for device in &config.devices {
        match find(device, host) {
            Ok(found) => {
                shared.extend(shares(device, found));
                let units: u64 = device.partitions.iter().map(|units| u64::from(*units)).sum();
                if units > u64::from(found.compute_units) {
                    let key = format!("device.{}.partitions", device.name);
                    let has = found.compute_units;
                    let message =
                        format!("these are {units} compute units in all, and {} has {has}", found.name);
                    problems.push(config.problem(key, message));
                }
            }
            Err(message) => {
                let key = if device.device.is_empty() { "platform" } else { "device" };
                problems.push(config.problem(format!("device.{}.{key}", device.name), message));
            }
        }
    }
    if config.devices.is_empty() {
        shared.extend(host.iter().filter(|info| info.is_default).map(|info| SharedDevice {
            name: info.name.clone(),
            sharing: Sharing::default(),
            choice: None,
            memory_bytes: Some(info.memory_bytes),
        }));
    }
    let vgpus = config.vgpus.iter().map(|vgpu| (format!("vgpu.{}", vgpu.name), &vgpu.settings));
    // What vGPUs have from [default] is wrong there, once; where nobody has it, nothing is wrong.
    let default = Some(("default".to_owned(), &config.default)).filter(|_| config.socket.is_some());
    for (table, settings) in default.into_iter().chain(vgpus) {
        if let Some((key, message)) = unsuitable(settings, &shared) {
            problems.push(config.problem(format!("{table}.{key}"), message));
        }
    }
    problems.or(shared)
}

/// The devices that a vGPU may use.
pub fn devices_of<'d>(
    settings: &Settings,
    devices: &'d [SharedDevice],
) -> impl Iterator<Item = &'d SharedDevice> {
    let named = settings.devices.clone();
    devices.iter().filter(move |device| named.is_empty() || named.contains(&device.name))
}

/// What of a vGPU's settings does not go with the devices that it may use: the key, and why.
pub fn unsuitable(settings: &Settings, devices: &[SharedDevice]) -> Option<(&'static str, String)> {
    let mut platform: Option<(&str, &str)> = None;
    for device in devices_of(settings, devices) {
        if let (Some(Quota::Bytes(quota)), Some(has)) = (settings.memory, device.memory_bytes)
            && quota > has
        {
            let has = super::show_bytes(has);
            return Some((
                "memory",
                format!("device {} has {has}: a quota must be within that", device.name),
            ));
        }
        let Some(choice) = &device.choice else { continue };
        match platform {
            Some((name, other)) if other != choice.platform => {
                let message = format!(
                    "devices {name} and {} are of different OpenCL platforms: name those of one platform",
                    device.name
                );
                return Some(("devices", message));
            }
            _ => platform = Some((&device.name, &choice.platform)),
        }
    }
    None
}

fn find<'h>(device: &Device, host: &'h [HostDeviceInfo]) -> Result<&'h HostDeviceInfo, String> {
    let fits = |info: &&HostDeviceInfo| {
        info.platform.contains(&device.platform) && info.name.contains(&device.device)
    };
    let found: Vec<&HostDeviceInfo> = host.iter().filter(fits).collect();
    let list = |devices: &[&HostDeviceInfo]| {
        let names = devices.iter().map(|info| format!("{:?} of platform {:?}", info.name, info.platform));
        names.collect::<Vec<_>>().join(", ")
    };
    match found.as_slice() {
        [one] => Ok(one),
        [] if host.is_empty() => Err("this host has no OpenCL device".to_owned()),
        [] => Err(format!(
            "no device of this host fits (platform {:?}, device {:?}); there are {}",
            device.platform,
            device.device,
            list(&host.iter().collect::<Vec<_>>())
        )),
        several => Err(format!("several devices fit: {}; say which with platform and device", list(several))),
    }
}

fn shares<'d>(device: &'d Device, found: &'d HostDeviceInfo) -> impl Iterator<Item = SharedDevice> + 'd {
    device.names().into_iter().zip(0..).map(|(name, index)| {
        let units = device.partitions.clone();
        let part = (!units.is_empty()).then_some(Part { units, index });
        SharedDevice {
            name,
            sharing: device.sharing,
            choice: Some(DeviceChoice { platform: found.platform.clone(), index: found.index, part }),
            memory_bytes: Some(found.memory_bytes),
        }
    })
}
