//! Figures, and how they are told.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::fmt::{self, Write};
use std::path::Path;

/// What a figure is to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Goal {
    /// Not above this.
    AtMost(f64),
    /// Not below this.
    AtLeast(f64),
    /// Told to judge the others.
    None,
}

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
        match self.goal {
            Goal::AtMost(most) => Some(self.value <= most),
            Goal::AtLeast(least) => Some(self.value >= least),
            Goal::None => None,
        }
    }

    fn json(&self) -> Value {
        let goal = match self.goal {
            Goal::None => Value::Null,
            goal => Value::String(goal.to_string()),
        };
        json!({
            "name": self.name,
            // More would be noise.
            "value": (self.value * 1000.0).round() / 1000.0,
            "unit": self.unit,
            "goal": goal,
            "met": self.met(),
        })
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Goal::AtMost(most) => write!(f, "at most {most}"),
            Goal::AtLeast(least) => write!(f, "at least {least}"),
            Goal::None => Ok(()),
        }
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

/// Where the table is in a document.
const MARKS: [&str; 2] = ["<!-- bench sharing -->\n", "<!-- end of bench sharing -->"];

/// Puts the table into a document, in place of the one that is there.
pub(super) fn write_markdown(file: &Path, figures: &[Figure]) -> Result<()> {
    let name = file.display();
    let before = std::fs::read_to_string(file).with_context(|| format!("cannot read {name}"))?;
    let document = with_table(&before, figures)
        .with_context(|| format!("{name} lacks the lines {} and {}", MARKS[0].trim(), MARKS[1]))?;
    std::fs::write(file, document).with_context(|| format!("cannot write {name}"))
}

fn with_table(document: &str, figures: &[Figure]) -> Option<String> {
    let (head, rest) = document.split_once(MARKS[0])?;
    let (_, tail) = rest.split_once(MARKS[1])?;
    let mut table = "\n| figure | value | goal | |\n|---|---|---|---|\n".to_owned();
    for figure in figures {
        let Figure { name, value, unit, goal } = figure;
        let met = figure.met().map_or("", |met| if met { "met" } else { "missed" });
        let _infallible = writeln!(table, "| {name} | {value:.2} {unit} | {goal} | {met} |");
    }
    Some([head, MARKS[0], &table, "\n", MARKS[1], tail].concat())
}

/// All that programs want to know.
pub(super) fn write_json(file: &Path, figures: &[Figure]) -> Result<()> {
    let results: Vec<Value> = figures.iter().map(Figure::json).collect();
    let text = serde_json::to_string_pretty(&json!({ "results": results }))? + "\n";
    std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::{Figure, Goal, table, with_table, write_json};
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
    fn a_documents_table_is_replaced_and_nothing_else() {
        let document = "before\n<!-- bench sharing -->\nold\n<!-- end of bench sharing -->\nafter\n";
        let once = with_table(document, &figures()).unwrap();
        assert!(once.starts_with("before\n<!-- bench sharing -->\n\n| figure |"), "{once}");
        assert!(once.contains("| ratio | 97.00 % | at least 97 | met |\n"), "{once}");
        assert!(
            once.ends_with("|\n\n<!-- end of bench sharing -->\nafter\n") && !once.contains("old"),
            "{once}"
        );
        assert_eq!(with_table(&once, &figures()).unwrap(), once);
        assert_eq!(with_table("nothing", &figures()), None);
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
