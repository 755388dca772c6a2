//! Debian's package tools: asking what there is, installing as root, downloading without installing.

use crate::say;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The version of `package` that is installed, if it is.
pub(crate) fn installed(package: &str) -> Option<String> {
    let arguments = ["-W", "-f", "${db:Status-Status} ${Version}", package];
    let output = Command::new("dpkg-query").args(arguments).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Some(text.strip_prefix("installed ")?.to_owned())
}

/// The version of `package` that apt would install, if it knows one.
pub(crate) fn candidate(package: &str) -> Result<Option<String>> {
    let policy = read(Command::new("apt-cache").env("LC_ALL", "C").args(["policy", package]))?;
    let version = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "));
    Ok(version.filter(|version| *version != "(none)").map(str::to_owned))
}

/// What apt knows of the candidates of `packages`: paragraphs of `Field: value` lines, none for what it does not know.
pub(crate) fn describe(packages: &[&str]) -> Result<String> {
    let mut command = Command::new("apt-cache");
    let output = command.args(["show", "--no-all-versions"]).args(packages).output();
    let output = output.context("cannot start apt-cache: this needs a Debian system")?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Refreshes apt's lists.
pub(crate) fn update() -> Result<()> {
    Plan { update: true, ..Plan::default() }.carry_out()
}

/// Downloads the candidate of `package` into `directory` without installing it; needs no privilege.
pub(crate) fn download(package: &str, directory: &Path) -> Result<PathBuf> {
    let mut command = Command::new("apt-get");
    if rustix::process::geteuid().is_root() {
        // Root's apt would warn that its unprivileged helper cannot write here.
        command.args(["-o", "APT::Sandbox::User=root"]);
    }
    let status =
        command.args(["-q", "download", package]).current_dir(directory).stdout(std::io::stderr()).status();
    if !status.context("cannot start apt-get: this needs a Debian system")?.success() {
        bail!("apt-get download {package} failed; if its lists are old, `apt-get update` as root helps");
    }
    let entries = std::fs::read_dir(directory)?.filter_map(|entry| Some(entry.ok()?.path()));
    let mut packages = entries.filter(|path| path.extension().is_some_and(|extension| extension == "deb"));
    packages.next().with_context(|| format!("apt-get download {package} left no file"))
}

/// Unpacks a package file into a folder.
pub(crate) fn unpack(package: &Path, directory: &Path) -> Result<()> {
    let status = Command::new("dpkg-deb").arg("-x").arg(package).arg(directory).status();
    if !status.context("cannot start dpkg-deb: this needs a Debian system")?.success() {
        bail!("dpkg-deb cannot unpack {}", package.display());
    }
    Ok(())
}

/// What is to be done to the host as root.
#[derive(Default)]
pub(crate) struct Plan {
    /// Refresh the lists first.
    pub(crate) update: bool,
    /// Packages of the release.
    pub(crate) install: Vec<&'static str>,
    /// Packages of the release's backports.
    pub(crate) from_backports: Vec<&'static str>,
}

impl Plan {
    /// Refreshes apt's lists now if they do not know of `package` (a new container has none).
    pub(crate) fn update_if_unknown(&mut self, package: &str) -> Result<()> {
        if candidate(package)?.is_none() {
            update()?;
        }
        Ok(())
    }

    /// Does it all, saying so; without the right to, says what the user can do instead.
    pub(crate) fn carry_out(&self) -> Result<()> {
        let commands = self.commands()?;
        let Some(prefix) = privilege() else {
            let lines: Vec<_> = commands.iter().map(|command| format!("    {command}")).collect();
            bail!(
                "Debian packages are missing and there is neither root nor passwordless sudo; run as root:\n{}",
                lines.join("\n")
            );
        };
        for command in commands {
            say::step("packages", format!("{prefix}{command}"));
            run(prefix, &command)?;
        }
        Ok(())
    }

    /// The shell commands that carry the plan out.
    fn commands(&self) -> Result<Vec<String>> {
        const INSTALL: &str = "apt-get install -y -qq -o Dpkg::Use-Pty=0 --no-install-recommends";
        let mut commands = Vec::new();
        let mut update = self.update;
        let mut suite = String::new();
        if !self.from_backports.is_empty() {
            suite = format!("{}-backports", codename()?);
            if !knows_suite(&suite)? {
                commands.push(add_source(&suite)?);
                update = true;
            }
        }
        if update {
            commands.push("apt-get update -qq".to_owned());
        }
        if !self.install.is_empty() {
            commands.push(format!("{INSTALL} {}", self.install.join(" ")));
        }
        if !self.from_backports.is_empty() {
            commands.push(format!("{INSTALL} -t {suite} {}", self.from_backports.join(" ")));
        }
        Ok(commands)
    }
}

/// What to put before a command that needs root, or nothing if there is no way.
fn privilege() -> Option<&'static str> {
    if rustix::process::geteuid().is_root() {
        return Some("");
    }
    let sudo = Command::new("sudo").args(["-n", "true"]).output();
    sudo.is_ok_and(|output| output.status.success()).then_some("sudo ")
}

fn run(prefix: &str, command: &str) -> Result<()> {
    if attempt(prefix, command)? {
        return Ok(());
    }
    // The lists may be older than the mirror; fetch them and try once more.
    if command.starts_with("apt-get install")
        && attempt(prefix, "apt-get update -qq")?
        && attempt(prefix, command)?
    {
        return Ok(());
    }
    bail!("`{prefix}{command}` failed; apt's messages above say why")
}

fn attempt(prefix: &str, command: &str) -> Result<bool> {
    let line = format!("{prefix}sh -c '{command}'");
    let mut shell = Command::new("sh");
    shell.args(["-c", &line]).env("DEBIAN_FRONTEND", "noninteractive").stdout(std::io::stderr());
    Ok(shell.status().context("cannot start sh")?.success())
}

/// The release's name, such as `bookworm`.
fn codename() -> Result<String> {
    let release = std::fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
    let name = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    Ok(name
        .context("/etc/os-release names no VERSION_CODENAME: is this Debian?")?
        .trim_matches('"')
        .to_owned())
}

/// The (URI, suite) pairs that apt is configured with.
fn sources() -> Result<Vec<(String, String)>> {
    let targets = read(Command::new("apt-get").args(["indextargets", "--format", "$(REPO_URI) $(RELEASE)"]))?;
    let pairs = targets.lines().filter_map(|line| line.split_once(' '));
    Ok(pairs.map(|(uri, suite)| (uri.to_owned(), suite.to_owned())).collect())
}

fn knows_suite(suite: &str) -> Result<bool> {
    Ok(sources()?.iter().any(|(_, known)| known == suite))
}

/// A command that makes apt know of `suite`, at the same mirror as the release itself.
fn add_source(suite: &str) -> Result<String> {
    let release = codename()?;
    let mirror = sources()?.into_iter().find(|(_, known)| *known == release).map(|(uri, _)| uri);
    let mirror = mirror.unwrap_or_else(|| "http://deb.debian.org/debian".to_owned());
    let line =
        format!("deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {mirror} {suite} main");
    Ok(format!("echo \"{line}\" > /etc/apt/sources.list.d/paragpu-{suite}.list"))
}

fn read(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output =
        command.output().with_context(|| format!("cannot start {name}: this needs a Debian system"))?;
    if !output.status.success() {
        bail!("{name} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
