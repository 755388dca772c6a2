//! How a guest sees folders of the host: by QEMU's own 9p where the guest's kernel knows it, else by virtio-fs, which a
//! virtiofsd beside QEMU serves. Debian's cloud kernels have only the latter.

use crate::packages::Purpose;
use crate::process::{Bound, bound_command};
use crate::{modules, packages, say, workspace};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// The virtiofsd that is built if the host has none.
const VIRTIOFSD: &str = "virtiofsd@1.14.0";
/// Where Debian's package puts it.
const DEBIANS: &str = "/usr/libexec/virtiofsd";
/// How long it may take to make its socket.
const START_LIMIT: Duration = Duration::from_secs(20);

/// Which file system.
#[derive(Serialize, Deserialize)]
pub(crate) enum HostFiles {
    /// 9p.
    NineP,
    /// virtio-fs, served by this program.
    Virtiofs(PathBuf),
}

/// A folder for a guest.
pub(crate) struct Folder {
    /// Where it is on the host.
    pub(crate) path: PathBuf,
    /// What the guest mounts.
    pub(crate) tag: String,
    /// Whether the guest can only read it.
    pub(crate) read_only: bool,
    /// Where it is served, for virtio-fs.
    pub(crate) socket: Option<PathBuf>,
}

impl HostFiles {
    /// What a kernel with these modules knows. A program that is needed and not there is built into `cache`.
    pub(crate) fn known_to(kernel_modules: &Path, cache: &Path) -> Result<HostFiles> {
        if modules::has(kernel_modules, "9p")? {
            return Ok(HostFiles::NineP);
        }
        let tools = cache.join("tools");
        let built = tools.join("bin/virtiofsd");
        let installed = std::env::var_os("PATH").unwrap_or_default();
        let installed = std::env::split_paths(&installed).map(|folder| folder.join("virtiofsd"));
        let mut programs = installed.chain([PathBuf::from(DEBIANS), built.clone()]);
        if let Some(program) = programs.find(|program| program.is_file()) {
            return Ok(HostFiles::Virtiofs(program));
        }
        say::step("vm", "building virtiofsd: this kernel has no 9p");
        packages::ensure(&[Purpose::Virtiofsd], true)?;
        let mut command = workspace::cargo();
        command.args(["install", "--quiet", "--locked", VIRTIOFSD, "--root"]).arg(&tools);
        if !command.status().context("cannot start cargo")?.success() {
            bail!("virtiofsd cannot be built; an installed one in PATH is used as well");
        }
        Ok(HostFiles::Virtiofs(built))
    }

    /// The modules of the guest's kernel that it takes.
    pub(crate) fn drivers(&self) -> &'static [&'static str] {
        match self {
            HostFiles::NineP => &["9pnet_virtio", "9p"],
            HostFiles::Virtiofs(_) => &["virtiofs"],
        }
    }

    /// The name for `mount -t`.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            HostFiles::NineP => "9p",
            HostFiles::Virtiofs(_) => "virtiofs",
        }
    }

    /// The host's root, to be read, as `host`, and folders that can be written to, as `share0` and so on. With them come
    /// the processes that serve them, whose sockets are in `scratch`.
    pub(crate) fn serve(
        &self,
        shares: &[PathBuf],
        scratch: &Path,
        log: &File,
    ) -> Result<(Vec<Folder>, Vec<Bound>)> {
        let root = Folder { path: "/".into(), tag: "host".into(), read_only: true, socket: None };
        let mut folders = vec![root];
        folders.extend(shares.iter().enumerate().map(|(number, path)| Folder {
            path: path.clone(),
            tag: format!("share{number}"),
            read_only: false,
            socket: None,
        }));
        let mut servers = Vec::new();
        if let HostFiles::Virtiofs(program) = self {
            for folder in &mut folders {
                let socket = scratch.join(&folder.tag);
                servers.push(start(program, folder, &socket, log)?);
                folder.socket = Some(socket);
            }
        }
        Ok((folders, servers))
    }
}

fn start(program: &Path, folder: &Folder, socket: &Path, log: &File) -> Result<Bound> {
    let mut command = bound_command(program);
    command.arg("--socket-path").arg(socket).arg("--shared-dir").arg(&folder.path);
    // With a sandbox it has a child, which would outlive this process. The guest sees what its user sees anyway.
    command.args(["--sandbox", "none", "--no-announce-submounts"]);
    command.args(["--cache", if folder.read_only { "always" } else { "auto" }]);
    if folder.read_only {
        command.arg("--readonly");
    }
    let copy = || log.try_clone().context("cannot share a log file");
    command.stdin(Stdio::null()).stdout(copy()?).stderr(copy()?);
    let mut server = Bound::spawn(&mut command, "virtiofsd")?;
    let deadline = Instant::now() + START_LIMIT;
    while !socket.exists() {
        if let Some(status) = server.ended() {
            bail!("virtiofsd ended at once ({status})");
        }
        if Instant::now() > deadline {
            bail!("virtiofsd made no socket within {START_LIMIT:?}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(server)
}
