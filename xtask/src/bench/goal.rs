//! What a figure is to be.

use serde_json::Value;
use std::fmt;

/// What a figure is to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Goal {
    /// Not above this.
    AtMost(f64),
    /// Not below this.
    AtLeast(f64),
    /// Told to judge the others.
    None,
}

impl Goal {
    /// Whether this value meets it, if there is one.
    pub(crate) fn met(self, value: f64) -> Option<bool> {
        match self {
            Goal::AtMost(most) => Some(value <= most),
            Goal::AtLeast(least) => Some(value >= least),
            Goal::None => None,
        }
    }

    /// In words, or null.
    pub(crate) fn json(self) -> Value {
        match self {
            Goal::None => Value::Null,
            goal => Value::String(goal.to_string()),
        }
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
