//! From the command line and the configuration file to what the daemon serves.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::{Options, socket};
use crate::config::{Config, Identity, MAX_CONFIG_BYTES, SidePath, Socket};

/// Where the daemon listens, and what for.
#[derive(Debug)]
pub(super) struct Setup {
    /// The configuration; that of an empty file, if there is none.
    pub(super) config: Config,
    /// Where each connection becomes a vGPU of its own.
    pub(super) socket: Option<PathBuf>,
    /// The admin socket.
    pub(super) admin: Option<SideSocket>,
    /// Where launchers hand connections over.
    pub(super) hand_over: Option<SideSocket>,
}

/// A socket beside those of guests.
#[derive(Debug)]
pub(super) struct SideSocket {
    pub(super) socket: Socket,
    /// The operator named it; otherwise the daemon can do without.
    pub(super) wanted: bool,
}

impl Setup {
    pub(super) fn new(options: &Options) -> anyhow::Result<Setup> {
        let config = match &options.config {
            Some(file) => read(file)?,
            None => Config::default(),
        };
        let socket = match (&options.socket_path, &config.socket) {
            (Some(path), _) | (None, Some(path)) => Some(path.clone()),
            (None, None) if options.fd.is_some() || options.config.is_some() => None,
            (None, None) => Some(socket::default_path().context("pass --socket-path")?),
        };
        let socket = socket.filter(|_| options.fd.is_none());
        let usual = match &socket {
            Some(path) => Some(path.clone()),
            None if options.config.is_some() => socket::default_path().ok(),
            None => None,
        };
        let usual = usual.as_deref();
        let admin = beside(
            options.admin_socket.as_deref(),
            config.admin_socket.as_ref(),
            config.admin_group.as_ref(),
            usual.map(socket::admin_path),
        );
        let hand_over = beside(
            options.hand_over.as_deref(),
            config.hand_over.as_ref(),
            config.hand_over_group.as_ref(),
            usual.map(socket::hand_over_path),
        );
        // With a descriptor, the option names another daemon's.
        let hand_over = hand_over.filter(|_| options.fd.is_none());
        Ok(Setup { config, socket, admin, hand_over })
    }
}

/// A socket beside those of guests, as the command line or the configuration says, or else at the usual path.
fn beside(
    option: Option<&Path>,
    configured: Option<&SidePath>,
    group: Option<&Identity>,
    usual: Option<PathBuf>,
) -> Option<SideSocket> {
    let named = match (option, configured) {
        (Some(path), _) if path.as_os_str() == "none" => return None,
        (Some(path), _) => Some(path.to_owned()),
        (None, Some(SidePath::None)) => return None,
        (None, Some(SidePath::At(path))) => Some(path.clone()),
        (None, None) => None,
    };
    let wanted = named.is_some();
    let path = named.or(usual)?;
    let group = group.cloned();
    let mode = if group.is_some() { 0o660 } else { 0o600 };
    Some(SideSocket { socket: Socket { mode, group, ..Socket::private(path) }, wanted })
}

/// Keys that differ, and that count only when the daemon starts.
pub(super) fn unchangeable(before: &Config, now: &Config) -> Vec<&'static str> {
    let differs = [
        ("admin-socket", before.admin_socket != now.admin_socket),
        ("admin-group", before.admin_group != now.admin_group),
        ("hand-over", before.hand_over != now.hand_over),
        ("hand-over-group", before.hand_over_group != now.hand_over_group),
        ("metrics", before.metrics != now.metrics),
        ("socket", before.socket != now.socket),
        ("device", before.devices != now.devices),
        ("sandbox", before.sandbox != now.sandbox),
    ];
    differs.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
}

/// Reads a configuration file; the error has a line for each mistake.
pub(super) fn read(file: &Path) -> anyhow::Result<Config> {
    let mut text = String::new();
    let opened = File::open(file).with_context(|| format!("cannot open {}", file.display()))?;
    let read = opened.take(MAX_CONFIG_BYTES + 1).read_to_string(&mut text);
    read.with_context(|| format!("cannot read {}", file.display()))?;
    if text.len() as u64 > MAX_CONFIG_BYTES {
        bail!("{} is longer than {}", file.display(), crate::config::show_bytes(MAX_CONFIG_BYTES));
    }
    match Config::parse(&text) {
        Ok(config) => Ok(config),
        Err(problems) => bail!("{}", problems.in_file(file).join("\n")),
    }
}
