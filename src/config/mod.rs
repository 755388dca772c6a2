//! What the operator wants: text in, [`Config`] out, or everything that is wrong with it. No file, socket or device is
//! touched here.
//!
//! The same keys come as TOML from a file and as JSON through the admin socket, so both are read by the same code
//! (`reader.rs`), which keeps every mistake with its place instead of the first one.

mod check;
mod host;
mod problem;
mod reader;
pub mod settings;
mod spec;
mod tree;
mod value;

use std::net::SocketAddr;
use std::path::PathBuf;

use toml::de::DeTable;

pub use check::{check_vgpus, shares_too_large};
pub use host::{SharedDevice, check_against_host, devices_of, unsuitable};
pub use problem::{Place, Problem, Problems};
pub use reader::name_made_of;
pub use settings::{Limits, Quota, Settings};
pub use spec::{Device, Identity, SandboxSettings, Socket, VgpuSpec};
pub use value::{parse_bytes, show_bytes};

use reader::{Places, Reader, Source};
use tree::{Table, Value};

/// Most vGPUs that a configuration may have: each is a socket that the daemon polls.
pub const MAX_VGPUS: usize = 1024;

/// Longest configuration that is read, in bytes.
pub const MAX_CONFIG_BYTES: u64 = 4 << 20;

/// A whole configuration.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Where the admin socket is, if that is said.
    pub admin_socket: Option<SidePath>,
    /// Group that may read through the admin socket.
    pub admin_group: Option<Identity>,
    /// Where launchers hand VMs' connections over, if that is said.
    pub hand_over: Option<SidePath>,
    /// Group that may hand over.
    pub hand_over_group: Option<Identity>,
    /// Where Prometheus may fetch metrics over TCP.
    pub metrics: Option<SocketAddr>,
    /// Where each connection becomes a vGPU of its own.
    pub socket: Option<PathBuf>,
    /// The devices that are shared; empty for all of the chosen platform.
    pub devices: Vec<Device>,
    /// Settings of vGPUs that say nothing else.
    pub default: Settings,
    /// The vGPUs.
    pub vgpus: Vec<VgpuSpec>,
    /// What executors may reach.
    pub sandbox: SandboxSettings,
    places: Places,
}

/// Where a socket is that is no guest's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SidePath {
    /// Nowhere.
    None,
    /// At this path.
    At(PathBuf),
}

impl Config {
    /// Reads a configuration and checks all that can be checked without the host.
    pub fn parse(text: &str) -> Result<Config, Problems> {
        let table = parse_toml(text)?;
        let source = Source::new(Some(text));
        let mut config = read_config(Reader::new(&source, String::new(), &table, None));
        let (mut problems, places) = source.finish();
        config.places = places;
        check::check(&config, &mut problems);
        problems.or(config)
    }

    /// Names of the devices that vGPUs may use: of each device, or of each of its partitions.
    pub fn device_names(&self) -> Vec<String> {
        self.devices.iter().flat_map(Device::names).collect()
    }

    /// A mistake about a key, with its place if the text has it.
    fn problem(&self, key: String, message: String) -> Problem {
        let found = self.places.get(&key);
        Problem {
            place: found.map(|(place, _)| *place),
            value: found.map(|(_, value)| value.clone()),
            key,
            message,
        }
    }
}

fn parse_toml(text: &str) -> Result<Table, Problems> {
    match DeTable::parse(text) {
        Ok(table) => Ok(tree::from_toml(table.get_ref())),
        Err(error) => {
            let place = error.span().map(|span| Place::of(text, span.start));
            let message = format!("this is not TOML: {}", error.message().replace('\n', ", "));
            let mut problems = Problems::none();
            problems.push(Problem { place, message, ..Problem::default() });
            Err(problems)
        }
    }
}

fn read_config(mut reader: Reader<'_>) -> Config {
    let side_path = |value: &Value| match value {
        Value::Text(text) if text == value::NONE => Ok(SidePath::None),
        value => value::socket_path(value).map(SidePath::At),
    };
    let admin_socket = reader.take("admin-socket", side_path);
    let admin_group = reader.take("admin-group", Identity::read);
    let hand_over = reader.take("hand-over", side_path);
    let hand_over_group = reader.take("hand-over-group", Identity::read);
    let metrics = reader.take("metrics", |value| {
        let address = value::text(value)?.parse::<SocketAddr>();
        address
            .map_err(|error| format!("{error}: an address and a port are wanted, such as \"127.0.0.1:9920\""))
    });
    let socket = reader.take("socket", value::socket_path);
    let devices = reader.each("device").into_iter().map(Device::read).collect();
    let built_in = Settings::default();
    let default = match reader.below("default") {
        Some(Ok(mut table)) => {
            let settings = Settings::read(&mut table, &built_in, &built_in);
            table.finish();
            settings
        }
        _ => built_in,
    };
    let vgpus = reader.each("vgpu").into_iter().filter_map(|table| VgpuSpec::read(table, &default)).collect();
    let sandbox = match reader.below("sandbox") {
        Some(Ok(table)) => SandboxSettings::read(table),
        _ => SandboxSettings::default(),
    };
    reader.finish();
    let places = Places::new();
    Config {
        admin_socket,
        admin_group,
        hand_over,
        hand_over_group,
        metrics,
        socket,
        devices,
        default,
        vgpus,
        sandbox,
        places,
    }
}

/// Reads a vGPU that comes as a JSON object: a new one, or what changes of `base`. What the object does not say is as
/// in `base` or else in `default`; `null` means as in `default`.
pub fn read_vgpu(
    name: &str,
    object: &serde_json::Map<String, serde_json::Value>,
    default: &Settings,
    base: Option<&VgpuSpec>,
) -> Result<VgpuSpec, Problems> {
    let name = spec::name_checked(name).map_err(|rule| Problems::one("name", rule))?;
    let table = tree::from_json(object);
    let source = Source::new(None);
    let reader = Reader::new(&source, String::new(), &table, None);
    let spec = VgpuSpec::read_named(reader, name, default, base);
    match (source.finish().0.or(()), spec) {
        (Ok(()), Some(spec)) => Ok(spec),
        (Ok(()), None) => Err(Problems::one("socket", "missing: say where this vGPU's socket is")),
        (Err(problems), _) => Err(problems),
    }
}

/// Reads what changes of the settings of a vGPU that has no socket of its own, as [`read_vgpu`] does.
pub fn read_settings(
    object: &serde_json::Map<String, serde_json::Value>,
    default: &Settings,
    base: &Settings,
) -> Result<Settings, Problems> {
    let table = tree::from_json(object);
    let source = Source::new(None);
    let mut reader = Reader::new(&source, String::new(), &table, None);
    let settings = Settings::read(&mut reader, base, default);
    reader.finish();
    source.finish().0.or(settings)
}

#[cfg(test)]
mod tests;
