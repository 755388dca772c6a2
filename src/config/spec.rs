//! The other tables of a configuration: devices, vGPUs with their sockets, the sandbox.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, json};

use super::reader::{Reader, is_name, name_rule};
use super::settings::Settings;
use super::tree::Value;
use super::value;
use crate::sched::policy::Sharing;

/// Most vGPUs that run on a device at once: beyond that, none of them has any of it to speak of.
pub(super) const MAX_LEASES: u32 = 64;
/// Shortest slice in milliseconds: what it costs to pass the device on shows below that.
pub(super) const MIN_SLICE_MS: f64 = 0.5;
/// Longest slice in milliseconds.
pub(super) const MAX_SLICE_MS: f64 = 1000.0;
/// Most parts of one device.
pub(super) const MAX_PARTITIONS: usize = 64;
/// Least address space in which an executor starts, in bytes.
pub(super) const MIN_ADDRESS_SPACE: u64 = 1 << 30;
/// Most compute units of a partition.
pub(super) const MAX_UNITS: u32 = 65_536;

/// A device of the host that is shared.
#[derive(Clone, Debug, PartialEq)]
pub struct Device {
    /// What vGPUs and the tool call it.
    pub name: String,
    /// A part of its platform's name; empty for any.
    pub platform: String,
    /// A part of its own name; empty for any.
    pub device: String,
    /// How it, or each of its partitions, is shared.
    pub sharing: Sharing,
    /// Compute units of each partition; empty if it is not divided.
    pub partitions: Vec<u32>,
}

impl Device {
    /// The names that vGPUs may use: its own, or those of its partitions.
    pub fn names(&self) -> Vec<String> {
        if self.partitions.is_empty() {
            return vec![self.name.clone()];
        }
        (0..self.partitions.len()).map(|index| format!("{}/{index}", self.name)).collect()
    }

    pub(super) fn read(mut reader: Reader<'_>) -> Device {
        let default = Sharing::default();
        let name = read_name(&mut reader);
        let platform = reader.take("platform", value::text).unwrap_or_default();
        let device = reader.take("device", value::text).unwrap_or_default();
        let leases = reader.take("leases", value::integer(1..=MAX_LEASES)).unwrap_or(default.leases);
        let slice = value::time(Duration::from_millis(1), MIN_SLICE_MS..=MAX_SLICE_MS);
        let slice = reader.take("slice-ms", slice).unwrap_or(default.slice);
        let partitions = reader.take("partitions", value::list(value::integer(1..=MAX_UNITS)));
        if partitions.as_ref().is_some_and(|parts| parts.is_empty() || parts.len() > MAX_PARTITIONS) {
            reader.problem(
                "partitions",
                format!("list the compute units of 1 to {MAX_PARTITIONS} partitions, or leave the key out"),
            );
        }
        reader.finish();
        let partitions = partitions.unwrap_or_default();
        Device { name, platform, device, sharing: Sharing { leases, slice }, partitions }
    }
}

/// Who owns a socket: a number, or a name that the host knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// A user's or group's number.
    Id(u32),
    /// A user's or group's name.
    Name(String),
}

impl Identity {
    pub(super) fn read(value: &Value) -> Result<Identity, String> {
        match value {
            // The last number means "nobody in particular" to the kernel.
            Value::Integer(_) => value::integer(0..=u32::MAX - 1)(value).map(Identity::Id),
            Value::Text(name) if !name.is_empty() && !name.contains('\0') => Ok(Identity::Name(name.clone())),
            _ => Err("a name in quotes or a number is wanted".to_owned()),
        }
    }

    fn to_json(&self) -> serde_json::Value {
        match self {
            Identity::Id(id) => json!(id),
            Identity::Name(name) => json!(name),
        }
    }
}

/// A socket in the file system, and who may connect to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket {
    /// Where it is.
    pub path: PathBuf,
    /// Its permission bits: connecting needs write permission.
    pub mode: u32,
    /// Its owner; the daemon's user, if there is none.
    pub owner: Option<Identity>,
    /// Its group; the daemon's, if there is none.
    pub group: Option<Identity>,
}

/// Permission bits of a socket of which nothing is said: its owner alone.
pub(super) const DEFAULT_MODE: u32 = 0o600;
/// The same, if a group is named.
pub(super) const GROUP_MODE: u32 = 0o660;

impl Socket {
    /// One that only the daemon's user may connect to.
    pub fn private(path: PathBuf) -> Socket {
        Socket { path, mode: DEFAULT_MODE, owner: None, group: None }
    }

    fn read(reader: &mut Reader<'_>, base: Option<&Socket>) -> Option<Socket> {
        let path = reader.take("socket", value::socket_path);
        let mode = reader.take("mode", mode);
        let owner = reader.take("owner", Identity::read);
        let group = reader.take("group", Identity::read);
        let path = path.or_else(|| Some(base?.path.clone()));
        if path.is_none() && !reader.has("socket") {
            reader.problem("socket", "missing: say where this vGPU's socket is");
        }
        let group = group.or_else(|| base?.group.clone());
        let usual = if group.is_some() { GROUP_MODE } else { DEFAULT_MODE };
        Some(Socket {
            path: path?,
            mode: mode.or_else(|| Some(base?.mode)).unwrap_or(usual),
            owner: owner.or_else(|| base?.owner.clone()),
            group,
        })
    }
}

/// Permission bits, in octal as `chmod` takes them.
fn mode(value: &Value) -> Result<u32, String> {
    let bits = match value {
        Value::Text(text) => u32::from_str_radix(text, 8).ok(),
        _ => None,
    };
    bits.filter(|bits| bits & !0o666 == 0)
        .ok_or_else(|| "permissions are octal in quotes, such as \"0660\", of read and write bits".to_owned())
}

/// A vGPU as the operator wants it.
#[derive(Clone, Debug, PartialEq)]
pub struct VgpuSpec {
    /// Its name.
    pub name: String,
    /// Where its guest connects.
    pub socket: Socket,
    /// The rest.
    pub settings: Settings,
}

impl VgpuSpec {
    pub(super) fn read(mut reader: Reader<'_>, default: &Settings) -> Option<VgpuSpec> {
        let name = read_name(&mut reader);
        VgpuSpec::read_named(reader, name, default, None)
    }

    pub(super) fn read_named(
        mut reader: Reader<'_>,
        name: String,
        default: &Settings,
        base: Option<&VgpuSpec>,
    ) -> Option<VgpuSpec> {
        let socket = Socket::read(&mut reader, base.map(|base| &base.socket));
        let settings = Settings::read(&mut reader, base.map_or(default, |base| &base.settings), default);
        reader.finish();
        Some(VgpuSpec { name, socket: socket?, settings })
    }

    /// As the keys of a `[[vgpu]]` table that says everything, without the name.
    pub fn to_json(&self) -> Map<String, serde_json::Value> {
        let mut json = Map::new();
        json.insert("socket".to_owned(), json!(self.socket.path));
        json.insert("mode".to_owned(), json!(format!("{:04o}", self.socket.mode)));
        for (key, identity) in [("owner", &self.socket.owner), ("group", &self.socket.group)] {
            if let Some(identity) = identity {
                json.insert(key.to_owned(), identity.to_json());
            }
        }
        json.extend(self.settings.to_json());
        json
    }
}

fn read_name(reader: &mut Reader<'_>) -> String {
    let named = |value: &Value| value::text(value).and_then(|name| name_checked(&name));
    let name = reader.take("name", named);
    if !reader.has("name") {
        reader.problem("name", "missing: give it a name");
    }
    name.unwrap_or_default()
}

/// A name as vGPUs and devices may have it; otherwise the rule.
pub(super) fn name_checked(name: &str) -> Result<String, String> {
    if is_name(name) { Ok(name.to_owned()) } else { Err(name_rule()) }
}

/// What executors may reach beyond what they need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SandboxSettings {
    /// Files and directories that they may read.
    pub read: Vec<PathBuf>,
    /// Device nodes that they may use.
    pub devices: Vec<PathBuf>,
    /// System calls that they may make, by name or `@group`.
    pub system_calls: Vec<String>,
    /// Most bytes of address space.
    pub address_space: Option<u64>,
}

impl SandboxSettings {
    pub(super) fn read(mut reader: Reader<'_>) -> SandboxSettings {
        let read = reader.take("read", value::list(value::path)).unwrap_or_default();
        let devices = reader.take("devices", value::list(value::path)).unwrap_or_default();
        let system_calls = reader.take("system-calls", value::list(value::text)).unwrap_or_default();
        let size = value::bytes(MIN_ADDRESS_SPACE..=u64::MAX >> 1);
        let address_space = reader.take("address-space", value::or_none(size)).flatten();
        reader.finish();
        SandboxSettings { read, devices, system_calls, address_space }
    }
}
