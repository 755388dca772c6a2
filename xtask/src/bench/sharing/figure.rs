//! Figures, and how they are told.

use crate::bench::document;
use crate::bench::goal::Goal;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::Path;

/// What documents call the table.
const TABLE: &str = "sharing";

/// One figure.
#[derive(Clone, Debug)]
pub(super) struct Figure {
    name: String,
    value: f64,
    unit: &'static str,
    goal: Goal,
}

impl Figure {
    pub(super) fn new(name: impl Into<String>, value: f64, unit: &'static str, goal: Goal) -> Figure {
        Figure { name: name.into(), value, unit, goal }
    }

    /// Whether the goal is met, if there is one.
    pub(super) fn met(&self) -> Option<bool> {
        self.goal.met(self.value)
    }

    fn json(&self) -> Value {
        json!({
            "name": self.name,
            // More would be noise.
            "value": (self.value * 1000.0).round() / 1000.0,
            "unit": self.unit,
            "goal": self.goal.json(),
            "met": self.met(),
        })
    }
}

/// A table for people.
pub(super) fn table(figures: &[Figure]) -> String {
    let width = figures.iter().map(|figure| figure.name.chars().count()).max().unwrap_or(0).max(6);
    let mut table = String::new();
    let mut row = |name: &str, value: &str, unit: &str, goal: &str, met: &str| {
        let line = format!("{name:width$}  {value:>10}  {unit:<7}  {goal:<14}  {met}");
        let _infallible = writeln!(table, "{}", line.trim_end());
    };
    row("FIGURE", "VALUE", "UNIT", "GOAL", "");
    for figure in figures {
        let met = match figure.met() {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "",
        };
        row(&figure.name, &format!("{:.2}", figure.value), figure.unit, &figure.goal.to_string(), met);
    }
    table
}

/// Says at once if the table could not be put into a document.
pub(super) fn check_markdown(file: &Path) -> Result<()> {
    document::check(file, TABLE)
}

/// Puts the table into a document, in place of the one that is there.
pub(super) fn write_markdown(file: &Path, figures: &[Figure]) -> Result<()> {
    document::replace(file, TABLE, &markdown(figures))
}

fn markdown(figures: &[Figure]) -> String {
    let mut table = "| figure | value | goal | |\n|---|---|---|---|\n".to_owned();
    for figure in figures {
        let Figure { name, value, unit, goal } = figure;
        let met = figure.met().map_or("", |met| if met { "met" } else { "missed" });
        let _infallible = writeln!(table, "| {name} | {value:.2} {unit} | {goal} | {met} |");
    }
    table
}

/// All that programs want to know.
pub(super) fn write_json(file: &Path, figures: &[Figure]) -> Result<()> {
    let results: Vec<Value> = figures.iter().map(Figure::json).collect();
    let text = serde_json::to_string_pretty(&json!({ "results": results }))? + "\n";
    std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::{Figure, Goal, markdown, table, write_json};
    use serde_json::{Value, json};

    fn figures() -> [Figure; 3] {
        [
            Figure::new("deviation", 2.0004, "points", Goal::AtMost(2.0)),
            Figure::new("ratio", 97.0, "%", Goal::AtLeast(97.0)),
            Figure::new("alone", 1234.5678, "kernels", Goal::None),
        ]
    }

    #[test]
    fn a_goal_is_held_against_the_value_before_it_is_rounded() {
        assert_eq!(figures().map(|figure| figure.met()), [Some(false), Some(true), None]);
        assert_eq!(Figure::new("", f64::NAN, "", Goal::AtMost(1.0)).met(), Some(false));
    }

    #[test]
    fn the_json_has_five_keys_for_each_figure() {
        let file = tempfile::NamedTempFile::new().unwrap();
        write_json(file.path(), &figures()).unwrap();
        let written: Value = serde_json::from_slice(&std::fs::read(file.path()).unwrap()).unwrap();
        let expected = json!({"results": [
            {"name": "deviation", "value": 2.0, "unit": "points", "goal": "at most 2", "met": false},
            {"name": "ratio", "value": 97.0, "unit": "%", "goal": "at least 97", "met": true},
            {"name": "alone", "value": 1234.568, "unit": "kernels", "goal": null, "met": null},
        ]});
        assert_eq!(written, expected);
    }

    #[test]
    fn a_figure_is_a_line_of_the_documents_table() {
        let table = markdown(&figures());
        assert!(table.starts_with("| figure |"), "{table}");
        assert!(table.contains("| ratio | 97.00 % | at least 97 | met |\n"), "{table}");
    }

    #[test]
    fn what_is_missed_stands_out_in_the_table() {
        let table = table(&figures());
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 4);
        assert!(lines[1].ends_with("MISSED") && lines[2].ends_with("met"), "{table}");
        assert!(lines[3].ends_with("kernels"), "{table}");
    }
}
