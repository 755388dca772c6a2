//! What is wrong with a configuration, in words that say what to change.

use std::fmt;
use std::path::Path;

/// Longest value that an error shows, in characters.
const MAX_SHOWN: usize = 60;

/// Most mistakes that are listed; the first ones are what matters.
const MAX_PROBLEMS: usize = 100;

/// One mistake.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problem {
    /// The key, from the outermost table on: `vgpu.web.weight`. Empty for the text as a whole.
    pub key: String,
    /// Where it is, if it came from a text.
    pub place: Option<Place>,
    /// The value as written, shortened.
    pub value: Option<String>,
    /// What is wrong, and what is allowed.
    pub message: String,
}

/// A place in a text, from 1 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Line.
    pub line: usize,
    /// Column, in characters.
    pub column: usize,
}

impl Place {
    /// Where a byte of a text is.
    pub(super) fn of(text: &str, byte: usize) -> Place {
        let before = text.get(..byte).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Place {
            line: before.matches('\n').count() + 1,
            column: before.get(line_start..).map_or(0, |line| line.chars().count()) + 1,
        }
    }
}

/// A value for an error: one line, not endless.
pub(super) fn shown(value: &str) -> String {
    let line: String = value.chars().take(MAX_SHOWN).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if value.chars().count() > MAX_SHOWN { format!("{line}…") } else { line }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(Place { line, column }) = self.place {
            write!(f, "line {line}, column {column}: ")?;
        }
        self.write_rest(f)
    }
}

impl Problem {
    fn write_rest(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.key.as_str(), &self.value) {
            ("", _) => write!(f, "{}", self.message),
            (key, None) => write!(f, "{key}: {}", self.message),
            (key, Some(value)) => write!(f, "{key} = {value}: {}", self.message),
        }
    }
}

/// At least one mistake.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// Nothing is wrong yet.
    pub(super) fn none() -> Problems {
        Problems(Vec::new())
    }

    /// One mistake.
    pub fn one(key: impl Into<String>, message: impl Into<String>) -> Problems {
        Problems(vec![Problem { key: key.into(), message: message.into(), ..Problem::default() }])
    }

    pub(super) fn push(&mut self, problem: Problem) {
        if self.0.len() < MAX_PROBLEMS {
            self.0.push(problem);
        }
    }

    /// `Err` if anything is wrong.
    pub(super) fn or<T>(mut self, value: T) -> Result<T, Problems> {
        if self.0.is_empty() {
            return Ok(value);
        }
        self.0.sort_by_key(|problem| problem.place);
        Err(self)
    }

    /// The mistakes, in the order of the text.
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.0.iter()
    }

    /// The mistakes as compilers write them: `FILE:LINE:COLUMN: …`.
    pub fn in_file(&self, file: &Path) -> Vec<String> {
        let line = |problem: &Problem| {
            let mut line = file.display().to_string();
            if let Some(Place { line: number, column }) = problem.place {
                line += &format!(":{number}:{column}");
            }
            let rest = Problem { place: None, ..problem.clone() };
            format!("{line}: {rest}")
        };
        self.0.iter().map(line).collect()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            write!(f, "{}{problem}", if index == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
