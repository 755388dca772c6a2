//! Results: the two sides of a workload, how they compare, and how that is told.

use super::peer::Peer;
use crate::bench::document;
use crate::bench::goal::Goal;
use crate::bench::numbers::{median, percentile};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::fmt::{self, Write as _};
use std::iter;
use std::path::Path;

/// One result.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) unit: &'static str,
    /// What it is on the host's own OpenCL; nothing where that has no such thing, or where the vGPU is compared with a peer.
    pub(super) native: Option<f64>,
    pub(super) vgpu: f64,
    /// Of the two: the vGPU's, in native ones or, where there is none, in the peer's.
    pub(super) ratio: Option<f64>,
    /// The quartiles of the ratio, over the rounds.
    pub(super) spread: Option<[f64; 2]>,
    pub(super) goal: Goal,
    /// The other OpenCL's, if one takes part.
    pub(super) peer: Option<f64>,
}

/// Samples of one round, in nanoseconds.
#[derive(Clone, Debug, Default)]
pub(super) struct Round {
    pub(super) native: Vec<f64>,
    pub(super) vgpu: Vec<f64>,
    pub(super) peer: Vec<f64>,
}

impl Row {
    /// Of medians: that of all samples of each side, and the ratio's of the rounds, each of which is of neighbours in time.
    pub(super) fn of_medians(name: &str, rounds: &[Round], goal: Goal) -> Row {
        Row::of(name, rounds, goal, median)
    }

    /// Of 99th percentiles. A round has too few samples for that: the ratio is that of all, and its spread of quarters.
    pub(super) fn of_tails(name: &str, rounds: &[Round], goal: Goal) -> Row {
        let tail = |samples: &[f64]| percentile(samples, 99.0);
        let quarters: Vec<Round> = rounds.chunks(rounds.len().div_ceil(4).max(1)).map(together).collect();
        let row = Row::of(&format!("{name}, 99th percentile"), &quarters, goal, tail);
        Row { ratio: row.native.map(|native| row.vgpu / native), ..row }
    }

    /// Of what a program says of itself. Of a rate, the ratio is that of the times.
    pub(super) fn of_printed(name: &str, rounds: &[Round], unit: &'static str, is_rate: bool) -> Row {
        let row = Row::of(name, rounds, Goal::None, median);
        let all = together(rounds);
        let turned = |ratio: f64| if is_rate { 1.0 / ratio } else { ratio };
        let spread = row.spread.map(|[low, high]| {
            let [one, other] = [turned(low), turned(high)];
            [one.min(other), one.max(other)]
        });
        Row {
            unit,
            native: Some(median(&all.native)),
            vgpu: median(&all.vgpu),
            ratio: row.ratio.map(turned),
            spread,
            ..row
        }
    }

    fn of(name: &str, rounds: &[Round], goal: Goal, figure: impl Fn(&[f64]) -> f64) -> Row {
        let all = together(rounds);
        let ratios: Vec<f64> =
            rounds.iter().map(|Round { native, vgpu, .. }| figure(vgpu) / figure(native)).collect();
        let (native, vgpu) = (figure(&all.native), figure(&all.vgpu));
        // The smaller one keeps its digits, however far behind the other is.
        let (unit, scale) = match native.min(vgpu) {
            ns if ns < 1e6 => ("µs", 1e3),
            ns if ns < 1e9 => ("ms", 1e6),
            _ => ("s", 1e9),
        };
        Row {
            name: name.to_owned(),
            unit,
            native: Some(native / scale),
            vgpu: vgpu / scale,
            ratio: Some(median(&ratios)),
            spread: Some([percentile(&ratios, 25.0), percentile(&ratios, 75.0)]),
            goal,
            peer: (!all.peer.is_empty()).then(|| figure(&all.peer) / scale),
        }
    }

    /// Whether the goal is met, if there is one: the ratio's, or what the vGPU has where there is nothing to compare.
    pub(super) fn met(&self) -> Option<bool> {
        self.goal.met(self.ratio.unwrap_or(self.vgpu))
    }

    fn json(&self) -> Value {
        let mut result = json!({
            "name": self.name,
            "unit": self.unit,
            "native": self.native.map(rounded),
            "vgpu": rounded(self.vgpu),
            "ratio": self.ratio.map(rounded),
            "spread": self.spread.map(|spread| spread.map(rounded)),
            "goal": self.goal.json(),
            "met": self.met(),
        });
        if let Some(peer) = self.peer {
            result["peer"] = json!(rounded(peer));
        }
        result
    }

    /// Whether it compares the vGPU with a peer.
    pub(super) fn is_against_peer(&self) -> bool {
        self.native.is_none() && self.peer.is_some()
    }

    /// In one line.
    pub(super) fn line(&self) -> String {
        let Row { name, unit, vgpu, .. } = self;
        if let (true, Some(peer), Some(ratio)) = (self.is_against_peer(), self.peer, self.ratio) {
            return format!(
                "{name}: peer {}, vGPU {} {unit}, {} times as fast",
                short(peer),
                short(*vgpu),
                short(1.0 / ratio)
            );
        }
        let native = self.native.map(|native| format!("native {}, vGPU ", short(native))).unwrap_or_default();
        let unit = if unit.is_empty() { String::new() } else { format!(" {unit}") };
        let ratio = self.ratio.map(|ratio| format!(", ratio {ratio:.3}")).unwrap_or_default();
        format!("{name}: {native}{}{unit}{ratio}", short(*vgpu))
    }

    /// What a line of a table has.
    fn cells(&self) -> Vec<String> {
        let ratio = match (self.ratio, self.spread) {
            (Some(ratio), Some([low, high])) => format!("{ratio:.3} ({low:.3} to {high:.3})"),
            (Some(ratio), None) => format!("{ratio:.3}"),
            _ => String::new(),
        };
        let goal = self.goal.to_string();
        self.cells_of(&self.name, self.native, ratio, goal)
    }

    /// What a line of the table of a peer has, in which more is better.
    fn cells_against(&self, peer: &Peer) -> Vec<String> {
        let times = |ratio: f64| short(1.0 / ratio);
        let ratio = match (self.ratio, self.spread) {
            (Some(ratio), Some([low, high])) => {
                format!("{} ({} to {})", times(ratio), times(high), times(low))
            }
            _ => String::new(),
        };
        let goal = match self.goal {
            Goal::AtMost(most) => Goal::AtLeast(1.0 / most),
            goal => goal,
        };
        let name = self.name.strip_suffix(&peer.suffix()).unwrap_or(&self.name);
        self.cells_of(name, self.peer, ratio, goal.to_string())
    }

    fn cells_of(&self, name: &str, other: Option<f64>, ratio: String, goal: String) -> Vec<String> {
        let met = match self.met() {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "",
        };
        let other = other.map(short).unwrap_or_default();
        let unit = self.unit.to_owned();
        vec![name.to_owned(), unit, other, short(self.vgpu), ratio, goal, met.to_owned()]
    }
}

fn together(rounds: &[Round]) -> Round {
    let mut all = Round::default();
    for Round { native, vgpu, peer } in rounds {
        all.native.extend(native);
        all.vgpu.extend(vgpu);
        all.peer.extend(peer);
    }
    all
}

/// More would be noise.
fn rounded(value: f64) -> f64 {
    let digits = if value == 0.0 || !value.is_finite() { 0 } else { 4 - value.abs().log10().ceil() as i32 };
    let scale = 10_f64.powi(digits);
    (value * scale).round() / scale
}

/// Three or four digits.
fn short(value: f64) -> String {
    match value.abs() {
        small if small < 10.0 => format!("{value:.2}"),
        middle if middle < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// The geometric mean of the ratios of these rows.
pub(super) fn geometric_mean(name: &str, rows: &[&Row], goal: Goal) -> Option<Row> {
    let mean = |of: &dyn Fn(&Row) -> Option<f64>| {
        let logarithms: Option<Vec<f64>> = rows.iter().map(|row| Some(of(row)?.ln())).collect();
        logarithms.map(|of| (of.iter().sum::<f64>() / of.len() as f64).exp())
    };
    let (ratio, low) = (mean(&|row| row.ratio)?, mean(&|row| Some(row.spread?[0]))?);
    let high = mean(&|row| Some(row.spread?[1]))?;
    let row = Row {
        name: name.to_owned(),
        unit: "",
        native: Some(1.0),
        vgpu: ratio,
        ratio: Some(ratio),
        spread: Some([low, high]),
        goal,
        peer: None,
    };
    (!rows.is_empty()).then_some(row)
}

/// What documents call the tables.
const NATIVE: &str = "speed";
const AGAINST: &str = "peer";

/// Results for people: those beside the host's own OpenCL, or those beside a peer.
pub(super) struct Table {
    /// What documents call it.
    name: &'static str,
    heads: [String; 7],
    lines: Vec<Vec<String>>,
}

impl Table {
    /// The vGPU beside the host's own OpenCL.
    pub(super) fn native(rows: &[Row]) -> Table {
        let lines = rows.iter().filter(|row| !row.is_against_peer()).map(Row::cells).collect();
        Table { name: NATIVE, heads: heads("NATIVE", "RATIO (QUARTILES)"), lines }
    }

    /// The vGPU beside a peer.
    pub(super) fn against(rows: &[Row], peer: &Peer) -> Table {
        let rows = rows.iter().filter(|row| row.is_against_peer());
        let lines = rows.map(|row| row.cells_against(peer)).collect();
        Table { name: AGAINST, heads: heads(peer.name(), "TIMES AS FAST (QUARTILES)"), lines }
    }

    /// Says at once if it could not be put into a document.
    pub(super) fn check_markdown(file: &Path, peer: Option<&Peer>) -> Result<()> {
        document::check(file, if peer.is_some() { AGAINST } else { NATIVE })
    }

    /// Puts it into a document, in place of the one that is there.
    pub(super) fn write_markdown(&self, file: &Path) -> Result<()> {
        let mut table = format!("| {} |\n", self.heads.join(" | ").to_lowercase());
        table += &format!("|{}\n", "---|".repeat(self.heads.len()));
        for line in &self.lines {
            let _infallible = writeln!(table, "| {} |", line.join(" | "));
        }
        document::replace(file, self.name, &table)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = || iter::once(&self.heads[..]).chain(self.lines.iter().map(Vec::as_slice));
        let width = |column: usize| lines().map(|line| line[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.heads.len()).map(width).collect();
        for line in lines() {
            let cells = line.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
                let width = *width;
                // Numbers.
                if (2..4).contains(&column) { format!("{cell:>width$}") } else { format!("{cell:width$}") }
            });
            writeln!(f, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
        }
        Ok(())
    }
}

fn heads(other: &str, ratio: &str) -> [String; 7] {
    ["WORKLOAD", "UNIT", other, "VGPU", ratio, "GOAL", ""].map(str::to_owned)
}

/// All that programs want to know.
pub(super) fn write_json(file: &Path, rows: &[Row]) -> Result<()> {
    let results: Vec<Value> = rows.iter().map(Row::json).collect();
    let text = serde_json::to_string_pretty(&json!({ "results": results }))? + "\n";
    std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::{Round, Row, Table, geometric_mean, rounded};
    use crate::bench::goal::Goal;

    fn round(native: f64, vgpu: f64) -> Round {
        Round { native: vec![native; 3], vgpu: vec![vgpu; 3], peer: Vec::new() }
    }

    #[test]
    fn a_machine_that_becomes_slower_changes_both_sides_and_not_the_ratio() {
        let rounds: Vec<Round> = (1..=8).map(|n| round(f64::from(n) * 1e6, f64::from(n) * 1.5e6)).collect();
        let row = Row::of_medians("x", &rounds, Goal::AtMost(1.5));
        assert_eq!((row.ratio, row.spread, row.met()), (Some(1.5), Some([1.5, 1.5]), Some(true)));
        assert_eq!((row.native, row.unit), (Some(4.5), "ms"));
    }

    #[test]
    fn a_side_that_is_far_behind_does_not_take_the_others_digits() {
        let row = Row::of_medians("x", &[round(1.2e9, 9.5e6)], Goal::None);
        assert_eq!((row.native, row.vgpu, row.unit), (Some(1200.0), 9.5, "ms"));
    }

    #[test]
    fn a_tail_is_that_of_all_rounds_and_none_is_left_out() {
        let mut rounds = vec![round(1e3, 1e3); 40];
        rounds[7].vgpu = vec![9e3; 3];
        let row = Row::of_tails("x", &rounds, Goal::AtMost(1.2));
        assert_eq!((row.ratio, row.met()), (Some(9.0), Some(false)));
        assert_eq!(row.name, "x, 99th percentile");
    }

    #[test]
    fn half_the_rate_is_twice_the_time() {
        let rounds = [round(10.0, 5.0), round(10.0, 4.0), round(12.0, 6.0)];
        let row = Row::of_printed("x", &rounds, "GB/s", true);
        assert_eq!((row.native, row.vgpu, row.ratio), (Some(10.0), 5.0, Some(2.0)));
        assert_eq!(row.spread, Some([2.0, 2.5]));
        assert_eq!(Row::of_printed("x", &rounds, "µs", false).ratio, Some(0.5));
    }

    #[test]
    fn a_mean_of_ratios_is_geometric() {
        let rows = [2.0, 0.5, 8.0].map(|ratio| Row::of_medians("x", &[round(1.0, ratio)], Goal::None));
        let mean = geometric_mean("mean", &rows.iter().collect::<Vec<_>>(), Goal::AtMost(1.9)).unwrap();
        assert!((mean.ratio.unwrap() - 2.0).abs() < 1e-9 && mean.met() == Some(false));
        assert!(geometric_mean("mean", &[], Goal::None).is_none());
    }

    #[test]
    fn figures_keep_four_digits() {
        assert_eq!([123_456.0, 1.234_56, 0.001_234_56].map(rounded), [123_500.0, 1.235, 0.001_235]);
        assert_eq!(rounded(0.0), 0.0);
    }

    #[test]
    fn a_result_is_told_in_a_line_that_says_whose_each_number_is() {
        let row = Row::of_medians("x", &[round(20e3, 30e3)], Goal::None);
        assert_eq!(row.line(), "x: native 20.0, vGPU 30.0 µs, ratio 1.500");
        let count = Row { native: None, ratio: None, unit: "", vgpu: 0.13, ..row.clone() };
        assert_eq!(count.line(), "x: 0.13");
        let beside = Row { native: None, peer: Some(60.0), ratio: Some(0.5), ..row };
        assert_eq!(beside.line(), "x: peer 60.0, vGPU 30.0 µs, 2.00 times as fast");
    }

    #[test]
    fn what_is_missed_stands_out_in_the_table() {
        let rows = [Row::of_medians("slow", &[round(1e3, 2e3)], Goal::AtMost(1.0))];
        let table = Table::native(&rows).to_string();
        assert!(table.lines().nth(1).unwrap().ends_with("at most 1  MISSED"), "{table}");
        assert!(table.contains("2.000 (2.000 to 2.000)"), "{table}");
    }
}
