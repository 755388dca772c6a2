//! What no single key can be wrong about: names and sockets that meet, shares that do not fit, devices that are not
//! there.

use std::collections::BTreeMap;
use std::path::Path;

use super::problem::{Problem, Problems};
use super::{Config, MAX_VGPUS, Settings, SidePath, VgpuSpec};
use crate::sched::policy::Policy;

/// Most of a device that fixed shares may take together, in per cent, with room for rounding.
const WHOLE: f64 = 100.0 + 1e-6;

pub(super) fn check(config: &Config, problems: &mut Problems) {
    check_devices(config, problems);
    let names = config.device_names();
    if let Some((key, message)) = unknown_devices("default", &config.default, &names) {
        problems.push(config.problem(key, message));
    }
    for (key, message) in check_vgpus(&config.vgpus, &names) {
        problems.push(config.problem(key, message));
    }
    let mut sockets: BTreeMap<&Path, String> = BTreeMap::new();
    let beside = |path: &'_ Option<SidePath>| match path {
        Some(SidePath::At(path)) => Some(path.clone()),
        _ => None,
    };
    let named = [
        ("admin-socket", beside(&config.admin_socket)),
        ("hand-over", beside(&config.hand_over)),
        ("socket", config.socket.clone()),
    ];
    for (key, path) in &named {
        if let Some(path) = path
            && let Some(other) = sockets.insert(path, (*key).to_owned())
        {
            problems.push(config.problem((*key).to_owned(), format!("{other} has this path already")));
        }
    }
    for vgpu in &config.vgpus {
        if let Some(other) = sockets.get(vgpu.socket.path.as_path()) {
            let key = format!("vgpu.{}.socket", vgpu.name);
            problems.push(config.problem(key, format!("{other} has this path already")));
        }
    }
    if config.vgpus.len() > MAX_VGPUS {
        let message = format!("{} vGPUs are too many: at most {MAX_VGPUS}", config.vgpus.len());
        problems.push(Problem { key: "vgpu".to_owned(), message, ..Problem::default() });
    }
}

fn check_devices(config: &Config, problems: &mut Problems) {
    let mut names = Vec::new();
    for device in &config.devices {
        if !device.name.is_empty() && names.contains(&&device.name) {
            let key = format!("device.{}.name", device.name);
            problems.push(config.problem(key, "two devices have this name: give one another".to_owned()));
        }
        names.push(&device.name);
    }
}

/// What is wrong with these vGPUs together, on devices of these names (none: all of the host's, which have no names
/// here): keys and messages.
pub fn check_vgpus(vgpus: &[VgpuSpec], devices: &[String]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut names: BTreeMap<&str, ()> = BTreeMap::new();
    let mut sockets: BTreeMap<&Path, &str> = BTreeMap::new();
    for vgpu in vgpus {
        let key = |key: &str| format!("vgpu.{}.{key}", vgpu.name);
        if !vgpu.name.is_empty() && names.insert(&vgpu.name, ()).is_some() {
            found.push((key("name"), "two vGPUs have this name: give one another".to_owned()));
        } else if let Some(other) = sockets.insert(&vgpu.socket.path, &vgpu.name) {
            found.push((key("socket"), format!("vGPU {other} has this path already: each needs its own")));
        }
        found.extend(unknown_devices(&format!("vgpu.{}", vgpu.name), &vgpu.settings, devices));
    }
    found.extend(shares_too_large(vgpus.iter().map(|vgpu| (vgpu.name.as_str(), &vgpu.settings)), devices));
    found
}

fn unknown_devices(table: &str, settings: &Settings, devices: &[String]) -> Option<(String, String)> {
    let unknown = settings.devices.iter().find(|device| !devices.contains(device))?;
    let message = match devices {
        [] => format!(
            "no [[device]] is named {unknown:?}: there is none at all; leave the key out for all devices"
        ),
        devices => format!("no [[device]] is named {unknown:?}; there are {}", devices.join(", ")),
    };
    Some((format!("{table}.devices"), message))
}

/// Devices of which fixed shares promise more than there is.
pub fn shares_too_large<'a>(
    vgpus: impl Iterator<Item = (&'a str, &'a Settings)>,
    devices: &[String],
) -> Vec<(String, String)> {
    let mut sums: BTreeMap<&str, f64> = BTreeMap::new();
    let mut found = Vec::new();
    for (name, settings) in vgpus {
        let Policy::FixedShare { share } = settings.terms.policy else { continue };
        let all: Vec<&str> = match (settings.devices.as_slice(), devices) {
            ([], []) => vec!["the host"],
            ([], devices) => devices.iter().map(String::as_str).collect(),
            (of_its_own, _) => of_its_own.iter().map(String::as_str).collect(),
        };
        for device in all {
            let sum = sums.entry(device).or_insert(0.0);
            let before = *sum;
            *sum += share;
            // Said once, of the first that does not fit.
            if *sum > WHOLE && before <= WHOLE {
                let message = format!(
                    "the fixed shares on device {device} are {sum} % with this one: lower one so that they are at most 100 %"
                );
                found.push((format!("vgpu.{name}.share"), message));
            }
        }
    }
    found
}
