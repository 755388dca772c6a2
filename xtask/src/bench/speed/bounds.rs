//! What counts may be at most: checked in, so that whoever makes them worse is told. Counts only, as times are the machine's.

use super::row::Row;
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::path::Path;

/// Those of this project.
const CHECKED_IN: &str = include_str!("bounds.json");

/// The most that the rows of these names may be.
pub(super) struct Bounds(BTreeMap<String, f64>);

impl Bounds {
    /// Those of a file, or ours.
    pub(super) fn read(file: Option<&Path>) -> Result<Bounds> {
        let text = match file {
            Some(file) => {
                std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?
            }
            None => CHECKED_IN.to_owned(),
        };
        let bounds: BTreeMap<String, f64> = serde_json::from_str(&text).context("bounds")?;
        ensure!(!bounds.is_empty(), "there are no bounds");
        Ok(Bounds(bounds))
    }

    /// The workloads that have any.
    pub(super) fn workloads(&self) -> Vec<String> {
        let mut names: Vec<String> = self.0.keys().map(|name| workload(name).to_owned()).collect();
        names.dedup();
        names
    }

    /// What is worse than it may be, and what was not measured.
    pub(super) fn complaints(&self, rows: &[Row]) -> Vec<String> {
        let of = |(name, most): (&String, &f64)| match rows.iter().find(|row| row.name == *name) {
            None => Some(format!("{name} was not measured")),
            // Not `>`: what is no number is no good either.
            Some(row) if row.vgpu <= *most => None,
            Some(row) => Some(format!("{name} is {:.2}, and may be {most} at most", row.vgpu)),
        };
        self.0.iter().filter_map(of).collect()
    }
}

/// The workload that a row is of: `a/b` of `a/b: copies`.
fn workload(name: &str) -> &str {
    name.split(':').next().unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::super::counts;
    use super::super::instructions;
    use super::{Bounds, Row, workload};
    use crate::bench::goal::Goal;
    use std::collections::BTreeMap;

    fn row(name: &str, vgpu: f64) -> Row {
        Row {
            name: name.to_owned(),
            unit: "",
            native: None,
            vgpu,
            ratio: None,
            spread: None,
            goal: Goal::None,
            peer: None,
        }
    }

    #[test]
    fn a_bound_holds_what_was_measured_and_that_it_was() {
        let bounds = Bounds(BTreeMap::from([("x/a: kicks".to_owned(), 2.0), ("x/b".to_owned(), 5.0)]));
        assert_eq!(bounds.workloads(), ["x/a", "x/b"]);
        assert!(bounds.complaints(&[row("x/a: kicks", 2.0), row("x/b", 1.0), row("x/c", 9.0)]).is_empty());
        let complaints = bounds.complaints(&[row("x/a: kicks", 2.01)]);
        assert_eq!(
            complaints,
            ["x/a: kicks is 2.01, and may be 2 at most", "x/b was not measured"].map(str::to_owned)
        );
        assert_eq!(bounds.complaints(&[row("x/a: kicks", f64::NAN), row("x/b", 0.0)]).len(), 1);
    }

    #[test]
    fn what_is_checked_in_bounds_workloads_that_there_are_and_instructions_of_all() {
        let bounds = Bounds::read(None).unwrap();
        let mut all: Vec<String> = counts::names(counts::NAME, &counts::WORKLOADS).collect();
        all.extend(counts::names(counts::APART, &counts::WORKLOADS_APART));
        all.extend(instructions::names());
        for name in bounds.0.keys() {
            assert!(all.iter().any(|there| there == workload(name)), "{name}");
        }
        for name in instructions::names() {
            assert!(bounds.0.contains_key(&name), "{name} has no bound");
        }
    }
}
