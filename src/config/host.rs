//! Does the host have what a configuration names?

use super::problem::Problems;
use super::{Config, Device, Quota, Settings};

/// A device of the host, as its OpenCL describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostDeviceInfo {
    /// Its platform's name.
    pub platform: String,
    /// Its own name.
    pub name: String,
    /// Its memory in bytes.
    pub memory_bytes: u64,
    /// Its compute units.
    pub compute_units: u32,
}

/// Checks what depends on the host: that each device is there and is one, that its partitions fit into it, and that no
/// vGPU has a quota beyond the memory of a device that it may use.
pub fn check_against_host(config: &Config, host: &[HostDeviceInfo]) -> Result<(), Problems> {
    let mut problems = Problems::none();
    // What a vGPU may name, and the memory of that.
    let mut named: Vec<(String, u64)> = Vec::new();
    for device in &config.devices {
        match find(device, host) {
            Ok(found) => {
                named.extend(device.names().into_iter().map(|name| (name, found.memory_bytes)));
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
        named.extend(host.iter().map(|device| (device.name.clone(), device.memory_bytes)));
    }
    let default = std::iter::once(("default".to_owned(), &config.default));
    let vgpus = config.vgpus.iter().map(|vgpu| (format!("vgpu.{}", vgpu.name), &vgpu.settings));
    // A quota that vGPUs have from [default] is wrong there, once.
    for (table, settings) in default.chain(vgpus) {
        let inherited = table != "default" && settings.memory == config.default.memory;
        if let Some(message) = quota_too_large(settings, &named).filter(|_| !inherited) {
            problems.push(config.problem(format!("{table}.memory"), message));
        }
    }
    problems.or(())
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

fn quota_too_large(settings: &Settings, named: &[(String, u64)]) -> Option<String> {
    let Some(Quota::Bytes(quota)) = settings.memory else { return None };
    let may_use = |name: &String| settings.devices.is_empty() || settings.devices.contains(name);
    let (name, has) = named.iter().find(|(name, has)| may_use(name) && quota > *has)?;
    Some(format!("device {name} has {}: a quota must be within that", super::show_bytes(*has)))
}
