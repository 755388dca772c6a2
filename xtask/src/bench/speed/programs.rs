//! Other people's programs, run whole on each side in turn.

use super::row::{Round, Row};
use crate::bench::goal::Goal;
use crate::bench::place::Place as Programs;
use crate::sides::{Place, Session, Side};
use crate::workspace;
use anyhow::{Context, Result, ensure};
use std::path::PathBuf;
use std::time::Duration;

/// The beginning of their names.
pub(super) const NAME: &str = "programs";

/// How long one may take.
const LIMIT: Duration = Duration::from_secs(300);

/// A program, with figures that it prints.
pub(super) struct Program {
    /// What comes after the beginning.
    pub(super) name: &'static str,
    /// The words of its command; `{python}` is a Python that has what it needs.
    command: &'static [&'static str],
    /// What it needs, if it is not there.
    needs: &'static str,
    figures: &'static [Figure],
}

/// A number that it prints.
struct Figure {
    name: &'static str,
    /// The words before it: the title of its part, and those on its line.
    part: &'static str,
    words: &'static str,
    unit: &'static str,
    /// Whether more is better, so that the ratio is that of the times.
    is_rate: bool,
}

const PYTHON: &str = "{python}";
const SCRIPTS: &str = "{scripts}";

pub(super) const PROGRAMS: [Program; 2] = [
    Program {
        name: "clpeak",
        command: &["clpeak", "--kernel-latency", "--global-bandwidth", "--transfer-bandwidth"],
        needs: "clpeak (Debian's package)",
        figures: &[
            Figure {
                name: "kernel launch latency",
                part: "",
                words: "Kernel launch latency",
                unit: "µs",
                is_rate: false,
            },
            Figure {
                name: "global bandwidth, float16",
                part: "Global memory bandwidth",
                words: "float16",
                unit: "GB/s",
                is_rate: true,
            },
            Figure {
                name: "enqueueWriteBuffer",
                part: "Transfer bandwidth",
                words: "enqueueWriteBuffer",
                unit: "GB/s",
                is_rate: true,
            },
            Figure {
                name: "enqueueReadBuffer",
                part: "Transfer bandwidth",
                words: "enqueueReadBuffer",
                unit: "GB/s",
                is_rate: true,
            },
        ],
    },
    Program {
        name: "tinygrad",
        command: &[PYTHON, "{scripts}/tinygrad_network.py"],
        needs: "tinygrad (`cargo xtask programs tinygrad --install`)",
        figures: &[],
    },
];

impl Program {
    /// Why it cannot run here, if so.
    pub(super) fn missing(&self) -> Result<Option<String>> {
        let program = self.command.first().context("no command")?;
        let is_there = if *program == PYTHON {
            python()?.exists()
        } else {
            let path = std::env::var_os("PATH").unwrap_or_default();
            std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
        };
        Ok((!is_there).then(|| format!("no {}", self.needs)))
    }

    /// Runs it so often on each side.
    pub(super) fn measure(&self, programs: &Programs, rounds: usize) -> Result<Vec<Row>> {
        let scripts = workspace::root().join("tests/programs");
        let place = Place::here(&scripts, programs.programs())?;
        let mut times = Vec::new();
        let mut figures: Vec<Vec<Round>> = self.figures.iter().map(|_| Vec::new()).collect();
        // The first round fills the files' caches.
        for round in 0..=rounds {
            let native = self.run(Side::Native, &place)?;
            let vgpu = self.run(Side::Vgpu, &place)?;
            if round == 0 {
                continue;
            }
            times.push(round_of(native.0, vgpu.0));
            for (index, rounds) in figures.iter_mut().enumerate() {
                rounds.push(round_of(native.1[index], vgpu.1[index]));
            }
        }
        let mut rows = vec![Row::of_medians(&format!("{NAME}/{}", self.name), &times, Goal::None)];
        for (figure, rounds) in self.figures.iter().zip(&figures) {
            let name = format!("{NAME}/{}: {}", self.name, figure.name);
            rows.push(Row::of_printed(&name, rounds, figure.unit, figure.is_rate));
        }
        Ok(rows)
    }

    /// How long it takes in nanoseconds, and the figures that it prints.
    fn run(&self, side: Side, place: &Place) -> Result<(f64, Vec<f64>)> {
        let session = Session::start(side, place)?;
        let scripts = place.folder.to_string_lossy();
        let python = python()?;
        let mut words = self
            .command
            .iter()
            .map(|word| word.replace(SCRIPTS, &scripts).replace(PYTHON, &python.to_string_lossy()));
        let mut command = session.command(words.next().context("no command")?);
        command.args(words).env("HOME", &session.room.inside);
        command.stdout(session.file("stdout")?).stderr(session.file("stderr")?);
        let ended = session.run(&mut command, LIMIT)?;
        let output = String::from_utf8_lossy(&session.end_of("stdout")).into_owned();
        let errors = String::from_utf8_lossy(&session.end_of("stderr")).into_owned();
        session.finish()?;
        ensure!(ended.well(), "{} {}:\n{output}{errors}", self.name, ended.describe());
        let figures = self
            .figures
            .iter()
            .map(|figure| figure.find(&output).with_context(|| format!("no {} in:\n{output}", figure.name)));
        Ok((ended.time.as_nanos() as f64, figures.collect::<Result<_>>()?))
    }
}

impl Figure {
    fn find(&self, output: &str) -> Option<f64> {
        let part = output.get(output.find(self.part)?..)?;
        part.lines().find_map(|line| {
            let (words, value) = line.split_once(':')?;
            (words.trim() == self.words).then(|| value.split_whitespace().next()?.parse().ok())?
        })
    }
}

fn round_of(native: f64, vgpu: f64) -> Round {
    Round { native: vec![native], vgpu: vec![vgpu], peer: Vec::new() }
}

fn python() -> Result<PathBuf> {
    Ok(workspace::target_directory()?.join("programs-venv/bin/python"))
}

#[cfg(test)]
mod tests {
    use super::PROGRAMS;

    #[test]
    fn a_figure_is_found_in_its_part_of_what_a_program_prints() {
        let output = "\n    Global memory bandwidth (GBPS)\n      float   : 6.35\n      float16 : 10.89\n\n\
            \x20   Transfer bandwidth (GBPS)\n      enqueueWriteBuffer              : 7.1\n\
            \x20     enqueueReadBuffer               : 7.2\n        memcpy to mapped ptr          : 7.6\n\n\
            \x20   Kernel launch latency : 31.66 us\n";
        let found: Vec<f64> = PROGRAMS[0].figures.iter().map(|figure| figure.find(output).unwrap()).collect();
        assert_eq!(found, [31.66, 10.89, 7.1, 7.2]);
        assert!(PROGRAMS[0].figures.iter().all(|figure| figure.find("nothing: 1").is_none()));
    }
}
