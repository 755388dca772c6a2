//! Which vGPUs there are, and what becomes of them when the operator changes something: plain data in, steps out.
//!
//! Every change, be it one vGPU through the admin socket or a whole file, makes the vGPUs as they are to be; these are
//! checked together, and what differs from those that are is what is to be done. So a change happens as a whole or not
//! at all. Sockets, sessions and the scheduler are the [daemon](crate::daemon)'s, which carries the steps out.

pub mod mailbox;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::{
    self, Config, Problems, Settings, SharedDevice, Socket, VgpuSpec, check_vgpus, shares_too_large,
    unsuitable,
};

/// Where a vGPU comes from, and so who may end it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// The configuration file: reloading it sets it anew, or removes it.
    File,
    /// The admin socket: reloading the file leaves it alone.
    Admin,
    /// A connection to the socket at which each becomes a vGPU; it ends with the connection.
    Connection,
}

/// A vGPU.
#[derive(Clone, Debug, PartialEq)]
pub struct Vgpu {
    /// Where it comes from.
    pub origin: Origin,
    /// Where its guest connects, if it has a socket of its own.
    pub socket: Option<Socket>,
    /// What it may do.
    pub settings: Settings,
    /// The operator keeps it from the device.
    pub paused: bool,
}

/// What somebody wants.
#[derive(Clone, Debug)]
pub enum Change {
    /// A new vGPU with these keys, as JSON.
    Add(String, serde_json::Map<String, serde_json::Value>),
    /// Other values for these keys, as JSON.
    Set(String, serde_json::Map<String, serde_json::Value>),
    /// The vGPU ends, with its connections.
    Remove(String),
    /// The vGPU is kept from the device, or may have it again.
    Pause(String, bool),
    /// Other vGPUs and defaults in the configuration file.
    Reload(Box<Config>),
}

/// Why a change is refused.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// There is no such vGPU.
    #[error("there is no vGPU {0:?}{names}", names = named(.1))]
    NoVgpu(String, Vec<String>),
    /// There is such a vGPU already.
    #[error("there is a vGPU {0:?} already: change it (PATCH, `paragpu set`), or choose another name")]
    Taken(String),
    /// What is wanted is wrong.
    #[error("{0}")]
    Wrong(#[from] Problems),
    /// The host does not let us.
    #[error("{0}")]
    Host(String),
    /// The daemon is ending, or too busy to answer.
    #[error("paragpud does not answer; it may be ending")]
    NoAnswer,
}

fn named(names: &[String]) -> String {
    match names {
        [] => "; there is none at all".to_owned(),
        names => format!("; there are {}", names.join(", ")),
    }
}

/// The vGPUs that there are.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    /// What the configuration names; empty if it names none.
    devices: Vec<SharedDevice>,
    default: Settings,
    vgpus: BTreeMap<String, Vgpu>,
    /// Sockets that are not of vGPUs.
    reserved: Vec<PathBuf>,
}

/// What is to be done, in this order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Steps {
    /// Sockets to listen on. If one cannot be bound, nothing of the change happens.
    pub bind: Vec<Socket>,
    /// Sockets that stay where they are, with other permissions. The same goes for these.
    pub permit: Vec<Socket>,
    /// Sockets to close.
    pub close: Vec<PathBuf>,
    /// vGPUs to add to the scheduler.
    pub add: Vec<String>,
    /// vGPUs to end, with their connections.
    pub remove: Vec<String>,
    /// vGPUs whose settings are others.
    pub set: Vec<String>,
    /// Of these, those that may use other devices. If a guest is connected to one, which knows the devices that it has,
    /// nothing of the change happens.
    pub other_devices: Vec<String>,
    /// vGPUs that are paused, or not any more.
    pub pause: Vec<(String, bool)>,
}

impl Registry {
    /// Without vGPUs, for the devices that the configuration names (none: whatever the host has). `reserved` are other
    /// sockets.
    pub fn new(devices: Vec<SharedDevice>, default: Settings, reserved: Vec<PathBuf>) -> Registry {
        Registry { devices, default, vgpus: BTreeMap::new(), reserved }
    }

    /// The vGPUs by name.
    pub fn vgpus(&self) -> &BTreeMap<String, Vgpu> {
        &self.vgpus
    }

    /// Settings of vGPUs that say nothing else.
    pub fn default_settings(&self) -> &Settings {
        &self.default
    }

    /// The vGPU whose socket is at this path.
    pub fn at_socket(&self, path: &std::path::Path) -> Option<&str> {
        let at = |vgpu: &Vgpu| vgpu.socket.as_ref().is_some_and(|socket| socket.path == path);
        self.vgpus.iter().find(|(_, vgpu)| at(vgpu)).map(|(name, _)| name.as_str())
    }

    /// The registry as it is after a change, and what leads there; or why it cannot be.
    pub fn after(&self, change: Change) -> Result<(Registry, Steps), Refusal> {
        let mut next = self.clone();
        let mut always = None;
        match change {
            Change::Add(name, keys) => {
                if self.vgpus.contains_key(&name) {
                    return Err(Refusal::Taken(name));
                }
                let spec = config::read_vgpu(&name, &keys, &self.default, None)?;
                next.vgpus.insert(name, Vgpu::new(spec, Origin::Admin, false));
            }
            Change::Set(name, keys) => {
                let vgpu = self.get(&name)?;
                let changed = match &vgpu.socket {
                    Some(socket) => {
                        let settings = vgpu.settings.clone();
                        let base = VgpuSpec { name: name.clone(), socket: socket.clone(), settings };
                        let spec = config::read_vgpu(&name, &keys, &self.default, Some(&base))?;
                        Vgpu::new(spec, vgpu.origin, vgpu.paused)
                    }
                    None => {
                        let settings = config::read_settings(&keys, &self.default, &vgpu.settings)?;
                        Vgpu { settings, ..vgpu.clone() }
                    }
                };
                next.vgpus.insert(name, changed);
            }
            Change::Remove(name) => {
                self.get(&name)?;
                next.vgpus.remove(&name);
            }
            Change::Pause(name, paused) => {
                let vgpu = self.get(&name)?.clone();
                // The scheduler pauses by itself, too, and then it alone knows.
                always = Some((name.clone(), paused));
                next.vgpus.insert(name, Vgpu { paused, ..vgpu });
            }
            Change::Reload(config) => {
                next.default = config.default;
                next.vgpus.retain(|_, vgpu| vgpu.origin != Origin::File);
                for spec in config.vgpus {
                    let name = spec.name.clone();
                    let before = self.vgpus.get(&name);
                    if before.is_some_and(|vgpu| vgpu.origin == Origin::Connection) {
                        return Err(Refusal::Taken(name));
                    }
                    let paused = before.is_some_and(|vgpu| vgpu.paused);
                    next.vgpus.insert(name, Vgpu::new(spec, Origin::File, paused));
                }
            }
        }
        next.check()?;
        let mut steps = self.steps_to(&next);
        steps.pause.extend(always.filter(|step| !steps.pause.contains(step)));
        Ok((next, steps))
    }

    /// The registry with a vGPU for a connection that is to be one, with its name: the first that is free from
    /// `number` on.
    pub fn with_connection(&self, prefix: &str, number: &mut u64) -> Result<(Registry, String), Problems> {
        let name = loop {
            let name = format!("{prefix}{number}");
            *number += 1;
            if !self.vgpus.contains_key(&name) {
                break name;
            }
        };
        self.with_own(name)
    }

    /// The registry with a vGPU for a connection that is to be one of this name, or if that is taken, of one made of it.
    pub fn with_named(&self, wanted: &str) -> Result<(Registry, String), Problems> {
        let others = (2..).map(|number: u64| format!("{wanted}.{number}"));
        let mut names = std::iter::once(wanted.to_owned()).chain(others);
        let free = names.find(|name| !self.vgpus.contains_key(name));
        self.with_own(free.unwrap_or_default())
    }

    fn with_own(&self, name: String) -> Result<(Registry, String), Problems> {
        let settings = self.default.clone();
        let vgpu = Vgpu { origin: Origin::Connection, socket: None, settings, paused: false };
        let mut next = self.clone();
        next.vgpus.insert(name.clone(), vgpu);
        next.check()?;
        Ok((next, name))
    }

    fn get(&self, name: &str) -> Result<&Vgpu, Refusal> {
        let names = || self.vgpus.keys().take(20).cloned().collect();
        self.vgpus.get(name).ok_or_else(|| Refusal::NoVgpu(name.to_owned(), names()))
    }

    /// What is wrong with all vGPUs together.
    fn check(&self) -> Result<(), Problems> {
        let specs: Vec<VgpuSpec> = self.vgpus.iter().filter_map(|(name, vgpu)| vgpu.spec(name)).collect();
        let devices: Vec<String> = self.devices.iter().map(|device| device.name.clone()).collect();
        let mut wrong = check_vgpus(&specs, &devices);
        let all = || self.vgpus.iter().map(|(name, vgpu)| (name.as_str(), &vgpu.settings));
        if wrong.is_empty() {
            wrong = shares_too_large(all(), &devices);
        }
        wrong.extend(all().filter_map(|(name, settings)| {
            let (key, message) = unsuitable(settings, &self.devices)?;
            Some((format!("vgpu.{name}.{key}"), message))
        }));
        let taken = |spec: &&VgpuSpec| self.reserved.contains(&spec.socket.path);
        if let Some(spec) = specs.iter().find(taken) {
            let key = format!("vgpu.{}.socket", spec.name);
            wrong.push((key, "this path is the daemon's own: choose another".to_owned()));
        }
        if self.vgpus.len() > config::MAX_VGPUS {
            wrong.push(("vgpu".to_owned(), format!("at most {} vGPUs are possible", config::MAX_VGPUS)));
        }
        match wrong.into_iter().next() {
            None => Ok(()),
            Some((key, message)) => Err(Problems::one(key, message)),
        }
    }

    fn steps_to(&self, next: &Registry) -> Steps {
        let sockets = |registry: &Registry| -> BTreeMap<PathBuf, Socket> {
            let sockets = registry.vgpus.values().filter_map(|vgpu| vgpu.socket.clone());
            sockets.map(|socket| (socket.path.clone(), socket)).collect()
        };
        let (ours, theirs) = (sockets(self), sockets(next));
        let mut steps = Steps::default();
        for (path, socket) in &theirs {
            match ours.get(path) {
                None => steps.bind.push(socket.clone()),
                Some(before) if before != socket => steps.permit.push(socket.clone()),
                Some(_) => {}
            }
        }
        steps.close = ours.into_keys().filter(|path| !theirs.contains_key(path)).collect();
        for (name, vgpu) in &next.vgpus {
            let before = self.vgpus.get(name);
            if before.is_none() {
                steps.add.push(name.clone());
            } else if before.is_some_and(|before| before.settings != vgpu.settings) {
                steps.set.push(name.clone());
            }
            if before.is_some_and(|before| before.settings.devices != vgpu.settings.devices) {
                steps.other_devices.push(name.clone());
            }
            if before.is_some_and(|before| before.paused) != vgpu.paused {
                steps.pause.push((name.clone(), vgpu.paused));
            }
        }
        steps.remove = self.vgpus.keys().filter(|name| !next.vgpus.contains_key(*name)).cloned().collect();
        steps
    }
}

impl Vgpu {
    fn new(spec: VgpuSpec, origin: Origin, paused: bool) -> Vgpu {
        Vgpu { origin, socket: Some(spec.socket), settings: spec.settings, paused }
    }

    fn spec(&self, name: &str) -> Option<VgpuSpec> {
        let socket = self.socket.clone()?;
        Some(VgpuSpec { name: name.to_owned(), socket, settings: self.settings.clone() })
    }

    /// Its keys, as JSON.
    pub fn to_json(&self, name: &str) -> serde_json::Map<String, serde_json::Value> {
        self.spec(name).map_or_else(|| self.settings.to_json(), |spec| spec.to_json())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn keys(json: serde_json::Value) -> serde_json::Map<String, serde_json::Value> {
        json.as_object().unwrap().clone()
    }

    fn reload(text: &str) -> Change {
        Change::Reload(Box::new(Config::parse(text).unwrap()))
    }

    fn vgpu(name: &str, rest: &str) -> String {
        format!("[[vgpu]]\nname = \"{name}\"\nsocket = \"/r/{name}\"\n{rest}\n")
    }

    fn with(text: &str) -> Registry {
        Registry::default().after(reload(text)).unwrap().0
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_reload_does_what_differs_and_nothing_else() {
        let before = with(&(vgpu("a", "") + &vgpu("b", "weight = 5") + &vgpu("c", "")));
        let (before, _) = before.after(Change::Add("d".to_owned(), keys(json!({"socket": "/r/d"})))).unwrap();
        let (before, _) = before.after(Change::Pause("a".to_owned(), true)).unwrap();
        // c goes, and e gets its socket; b changes; a and d stay as they are.
        let text = vgpu("a", "")
            + &vgpu("b", "weight = 6\nmode = \"0666\"")
            + &vgpu("e", "").replace("/r/e", "/r/c");
        let (after, steps) = before.after(reload(&text)).unwrap();
        assert_eq!(steps.permit.iter().map(|socket| socket.mode).collect::<Vec<_>>(), [0o666]);
        let expected = Steps {
            permit: steps.permit.clone(),
            add: names(&["e"]),
            remove: names(&["c"]),
            set: names(&["b"]),
            ..Steps::default()
        };
        assert_eq!(steps, expected);
        assert!(after.vgpus["a"].paused);
        assert_eq!(after.vgpus["d"].origin, Origin::Admin);
        assert_eq!(after.after(reload(&text)).unwrap().1, Steps::default());
    }

    #[test]
    fn resuming_reaches_the_scheduler_also_where_nobody_paused() {
        let before = with(&vgpu("a", ""));
        let (_, steps) = before.after(Change::Pause("a".to_owned(), false)).unwrap();
        assert_eq!(steps.pause, [("a".to_owned(), false)]);
        let (paused, steps) = before.after(Change::Pause("a".to_owned(), true)).unwrap();
        assert_eq!(steps.pause, [("a".to_owned(), true)]);
        assert!(paused.vgpus["a"].paused);
    }

    #[test]
    fn what_is_wrong_leaves_everything_as_it_was() {
        let before = with(&(vgpu("a", "policy = \"fixed-share\"\nshare = 60") + &vgpu("b", "")));
        let wrong: [(Change, &str); 7] = [
            (Change::Add("a".to_owned(), keys(json!({"socket": "/r/x"}))), "there is a vGPU \"a\" already"),
            (Change::Add("x".to_owned(), keys(json!({"socket": "/r/a"}))), "vGPU a has this path already"),
            (Change::Add("x".to_owned(), keys(json!({}))), "missing: say where"),
            (Change::Set("b".to_owned(), keys(json!({"policy": "fixed-share", "share": 41}))), "are 101 %"),
            (Change::Set("b".to_owned(), keys(json!({"colour": 1}))), "colour: unknown key"),
            (Change::Remove("c".to_owned()), "there is no vGPU \"c\"; there are a, b"),
            (
                Change::Set("b".to_owned(), keys(json!({"devices": ["gpu"]}))),
                "no [[device]] is named \"gpu\"",
            ),
        ];
        for (change, expected) in wrong {
            let error = before.after(change).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn connections_become_vgpus_with_free_names_within_the_shares() {
        let text = "[default]\npolicy = \"fixed-share\"\nshare = 40\n".to_owned()
            + &vgpu("v1", "policy = \"weighted\"");
        let mut number = 0;
        let (registry, first) = with(&text).with_connection("v", &mut number).unwrap();
        let (registry, second) = registry.with_connection("v", &mut number).unwrap();
        assert_eq!((first.as_str(), second.as_str()), ("v0", "v2"));
        let full = registry.with_connection("v", &mut number).unwrap_err();
        assert!(full.to_string().contains("120 %"), "{full}");
        let (named, first) = with("").with_named("vm-a").unwrap();
        let second = named.with_named("vm-a").unwrap().1;
        assert_eq!((first.as_str(), second.as_str()), ("vm-a", "vm-a.2"));
        let taken = registry.after(reload(
            &(text + &vgpu("v0", "weight = 1").replace("weight", "policy = \"weighted\"\nweight")),
        ));
        assert!(taken.unwrap_err().to_string().contains("there is a vGPU \"v0\" already"));
    }
}
