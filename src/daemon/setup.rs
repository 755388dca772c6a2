//! From the command line and the configuration file to what the daemon serves.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::{Options, socket};
use crate::config::{AdminSocket, Config, MAX_CONFIG_BYTES, Socket};

/// Where the daemon listens, and what for.
#[derive(Debug)]
pub(super) struct Setup {
    /// The configuration; that of an empty file, if there is none.
    pub(super) config: Config,
    /// Where each connection becomes a vGPU of its own.
    pub(super) socket: Option<PathBuf>,
    /// The admin socket.
    pub(super) admin: Option<Admin>,
}

/// The admin socket.
#[derive(Debug)]
pub(super) struct Admin {
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
        let admin = admin(options, &config, socket.as_deref());
        Ok(Setup { config, socket, admin })
    }
}

fn admin(options: &Options, config: &Config, listens_at: Option<&Path>) -> Option<Admin> {
    let named = match (&options.admin_socket, &config.admin_socket) {
        (Some(path), _) if path.as_os_str() == "none" => return None,
        (Some(path), _) => Some(path.clone()),
        (None, Some(AdminSocket::None)) => return None,
        (None, Some(AdminSocket::At(path))) => Some(path.clone()),
        (None, None) => None,
    };
    let wanted = named.is_some();
    let usual = || match listens_at {
        Some(path) => Some(socket::admin_path(path)),
        None if options.config.is_some() => Some(socket::admin_path(&socket::default_path().ok()?)),
        None => None,
    };
    let path = named.or_else(usual)?;
    let group = config.admin_group.clone();
    let mode = if group.is_some() { 0o660 } else { 0o600 };
    Some(Admin { socket: Socket { mode, group, ..Socket::private(path) }, wanted })
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
