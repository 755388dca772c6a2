//! Another OpenCL that takes its turns, and how the vGPU compares with it.

use super::row::{Round, Row};
use super::worker::Worker;
use crate::bench::goal::Goal;
use crate::bench::place::Place;
use anyhow::{Context, Result, ensure};
use clap::Args;
use std::path::{Path, PathBuf};

/// Whether one takes part, and where it is.
#[derive(Args)]
pub(super) struct Options {
    /// Another OpenCL that takes part in turn, by the folder of its vendor files (*.icd).
    #[arg(long, value_name = "NAME=DIR", value_parser = named_folder)]
    peer: Option<(String, String)>,
    /// A variable of the peer's environment that the other sides do not have (repeatable).
    #[arg(long, value_name = "KEY=VALUE", value_parser = variable, requires = "peer")]
    peer_env: Vec<(String, String)>,
}

/// Another OpenCL.
pub(super) struct Peer {
    name: String,
    vendors: PathBuf,
    environment: Vec<(String, String)>,
}

impl Options {
    /// The peer, if one is named; an error if its folder has no vendor file, as then none would be found.
    pub(super) fn peer(&self) -> Result<Option<Peer>> {
        let Some((name, folder)) = &self.peer else { return Ok(None) };
        let vendors =
            Path::new(folder).canonicalize().with_context(|| format!("--peer: no folder {folder}"))?;
        let is_vendor = |path: PathBuf| path.extension().is_some_and(|extension| extension == "icd");
        let mut files = vendors.read_dir().with_context(|| format!("--peer: cannot read {folder}"))?;
        let has_one = files.any(|file| file.is_ok_and(|file| is_vendor(file.path())));
        ensure!(has_one, "--peer: {folder} has no vendor file (*.icd)");
        Ok(Some(Peer { name: name.clone(), vendors, environment: self.peer_env.clone() }))
    }
}

impl Peer {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Starts its worker.
    pub(super) fn start(&self, place: &Place) -> Result<Worker> {
        Worker::peer(place, &self.name, &self.vendors, &self.environment)
    }

    /// How the vGPU compares with it, if it took part in all rounds. The rounds' other side is the peer, not the host's OpenCL.
    pub(super) fn row(&self, workload: &str, rounds: &[Round], goal: Goal) -> Option<Row> {
        let took_part = rounds.iter().all(|round| !round.peer.is_empty());
        let against =
            |round: &Round| Round { native: round.peer.clone(), vgpu: round.vgpu.clone(), peer: Vec::new() };
        let rounds: Vec<Round> = rounds.iter().map(against).collect();
        let row = || Row::of_medians(&format!("{workload}{}", self.suffix()), &rounds, goal);
        took_part.then(row).map(|row| Row { peer: row.native, native: None, ..row })
    }

    /// What the name of such a row has after that of the workload.
    pub(super) fn suffix(&self) -> String {
        format!(" against {}", self.name)
    }
}

fn named_folder(text: &str) -> Result<(String, String), String> {
    pair(text).ok_or_else(|| {
        "not NAME=DIR: a name of your choice, and the folder of its vendor files (*.icd)".to_owned()
    })
}

fn variable(text: &str) -> Result<(String, String), String> {
    pair(text).ok_or_else(|| "not KEY=VALUE".to_owned())
}

/// What is on the two sides of the first equals sign.
fn pair(text: &str) -> Option<(String, String)> {
    let (key, value) = text.split_once('=')?;
    (!key.is_empty()).then(|| (key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::{Options, Peer, named_folder, pair, variable};
    use crate::bench::goal::Goal;
    use crate::bench::speed::row::{Round, Row, Table};

    fn peer() -> Peer {
        Peer { name: "other".to_owned(), vendors: "/".into(), environment: Vec::new() }
    }

    fn round(native: f64, vgpu: f64, peer: f64) -> Round {
        Round { native: vec![native], vgpu: vec![vgpu], peer: vec![peer] }
    }

    #[test]
    fn a_peers_row_compares_with_the_peer_and_not_with_the_host() {
        let rounds = [round(7e3, 1e3, 128e3), round(9e3, 2e3, 256e3)];
        let row = peer().row("x", &rounds, Goal::AtMost(0.01)).unwrap();
        assert_eq!((row.ratio, row.met(), row.native), (Some(1.0 / 128.0), Some(true), None));
        assert_eq!((row.peer, row.vgpu, row.unit), (Some(192.0), 1.5, "µs"));
        assert_eq!(row.name, "x against other");
        assert_eq!(peer().row("x", &rounds, Goal::AtMost(0.005)).unwrap().met(), Some(false));
    }

    #[test]
    fn a_peers_table_tells_how_many_times_as_fast_the_vgpu_is() {
        let rounds = [round(7e3, 1e3, 64e3), round(7e3, 1e3, 128e3), round(7e3, 1e3, 160e3)];
        let native = Row::of_medians("x", &rounds, Goal::None);
        let rows = [native, peer().row("x", &rounds, Goal::AtMost(0.01)).unwrap()];
        let table = Table::against(&rows, &peer()).to_string();
        let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0][2..4], ["other", "VGPU"]);
        assert_eq!(
            lines[1],
            ["x", "µs", "128", "1.00", "128", "(64.0", "to", "160)", "at", "least", "100", "met"]
        );
        assert_eq!(lines.len(), 2);
        assert!(!Table::native(&rows).to_string().contains("128"));
    }

    #[test]
    fn a_peer_that_left_has_no_row() {
        let left = Round { peer: Vec::new(), ..round(1e3, 1e3, 1e3) };
        assert!(peer().row("x", &[round(1e3, 1e3, 1e3), left], Goal::None).is_none());
    }

    #[test]
    fn a_peers_folder_needs_a_vendor_file() {
        let folder = tempfile::tempdir().unwrap();
        let named = |folder: &std::path::Path| Options {
            peer: Some(("other".to_owned(), folder.to_string_lossy().into_owned())),
            peer_env: vec![pair("A=b=c").unwrap()],
        };
        std::fs::write(folder.path().join("other.txt"), "").unwrap();
        let error = named(folder.path()).peer().err().unwrap().to_string();
        assert!(error.contains("no vendor file"), "{error}");
        std::fs::write(folder.path().join("other.icd"), "lib.so").unwrap();
        let found = named(folder.path()).peer().unwrap().unwrap();
        assert_eq!(found.environment, [("A".to_owned(), "b=c".to_owned())]);
        assert!(named(&folder.path().join("none")).peer().is_err());
        assert!(pair("A").is_none() && pair("=b").is_none());
        assert!(named_folder("A").unwrap_err().contains("NAME=DIR"));
        assert!(variable("A").unwrap_err().contains("KEY=VALUE"));
    }
}
