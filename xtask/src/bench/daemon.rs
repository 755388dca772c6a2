//! A paragpud with a configuration of its own.

use super::memory;
use super::place::Place;
use crate::proc_count::children;
use crate::sides::Group;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{ChildStdin, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long it may take to start. Generous: nothing depends on it but what hangs.
const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// A running paragpud; it ends with this.
pub(crate) struct Daemon {
    group: Option<Group>,
    id: u32,
    /// It ends when this does, however this process ends.
    _stdin: Option<ChildStdin>,
    files: TempDir,
    show: (PathBuf, PathBuf),
}

/// A vGPU of the configuration: its name, and what is said of it.
pub(crate) type Vgpu = (String, String);

/// vGPUs of which nothing is said but this, called v0, v1 and so on.
pub(crate) fn vgpus<'a>(settings: impl IntoIterator<Item = &'a str>) -> Vec<Vgpu> {
    settings.into_iter().enumerate().map(|(n, setting)| (format!("v{n}"), setting.to_owned())).collect()
}

impl Daemon {
    /// Starts one with these vGPUs.
    pub(crate) fn start(place: &Place, vgpus: &[Vgpu]) -> Result<Daemon> {
        Daemon::start_with(place, vgpus, &[])
    }

    /// The same, with variables in its environment.
    pub(crate) fn start_with(place: &Place, vgpus: &[Vgpu], variables: &[(&str, &str)]) -> Result<Daemon> {
        let files = tempfile::Builder::new().prefix("d").tempdir_in(place.files())?;
        let at = |name: &str| files.path().join(name);
        // Launchers on this host hand their VMs over to others.
        let mut config = format!(
            "admin-socket = {:?}\nhand-over = \"none\"\n[[device]]\nname = \"device\"\nplatform = {:?}\n",
            at("admin"),
            place.platform
        );
        for (name, settings) in vgpus {
            write!(config, "[[vgpu]]\nname = {name:?}\nsocket = {:?}\n{settings}\n", at(name))?;
        }
        fs::write(at("config.toml"), config)?;
        let mut command = place.command(place.program("paragpud"));
        command.arg("--config").arg(at("config.toml")).args(["--until-stdin-ends", "--log-level", "info"]);
        command.stdin(Stdio::piped()).stderr(File::create(at("log"))?).envs(variables.iter().copied());
        let mut group = Group::spawn(&mut command)?;
        let stdin = group.leader().stdin.take();
        let id = group.leader().id();
        let show = (place.program("paragpu"), at("admin"));
        let daemon = Daemon { group: Some(group), id, _stdin: stdin, files, show };
        let until = Instant::now() + START_LIMIT;
        while !daemon.log().contains("admin socket at") {
            if Instant::now() > until || daemon.log().contains("ERROR") || memory::resident(id).is_err() {
                bail!("paragpud does not start:\n{}", daemon.log());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(daemon)
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// A vGPU's socket.
    pub(crate) fn socket(&self, vgpu: &str) -> PathBuf {
        self.files.path().join(vgpu)
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.files.path().join("log")).unwrap_or_default()
    }

    /// The executors that run.
    pub(crate) fn executors(&self) -> Vec<u32> {
        let is_executor =
            |id: &u32| memory::arguments(*id).get(1).is_some_and(|argument| argument == "executor");
        children(self.id).into_iter().filter(is_executor).collect()
    }

    /// What `paragpu ps` says of the vGPUs, by their names: for all at once what `paragpu show` says of one.
    pub(crate) fn show(&self) -> Result<BTreeMap<String, Value>> {
        let (program, socket) = &self.show;
        let output = std::process::Command::new(program)
            .args(["ps", "--json", "--socket"])
            .arg(socket)
            .output()
            .context("cannot start paragpu")?;
        if !output.status.success() {
            bail!("paragpu ps: {}", String::from_utf8_lossy(&output.stderr));
        }
        let answer: Value = serde_json::from_slice(&output.stdout).context("paragpu ps")?;
        let vgpus = answer["vgpus"].as_array().context("paragpu ps names no vGPUs")?;
        Ok(vgpus.iter().filter_map(|vgpu| Some((vgpu["name"].as_str()?.to_owned(), vgpu.clone()))).collect())
    }

    /// Device time that each vGPU has had so far, in milliseconds.
    pub(crate) fn device_times(&self) -> Result<BTreeMap<String, f64>> {
        let time = |vgpu: &Value| vgpu["usage"]["device-ns"].as_f64().unwrap_or(0.0) / 1e6;
        Ok(self.show()?.iter().map(|(name, vgpu)| (name.clone(), time(vgpu))).collect())
    }

    /// Waits until nobody is connected, so that nothing of one run is left for the next.
    pub(crate) fn await_quiet(&self) -> Result<()> {
        let until = Instant::now() + START_LIMIT;
        while self.show()?.values().any(|vgpu| vgpu["standing"] != "offline" && vgpu["standing"] != "paused")
        {
            if Instant::now() > until {
                bail!("connections do not end:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(group) = self.group.take() {
            // What is left is killed.
            let _ended = group.terminate(STOP_LIMIT);
        }
    }
}
