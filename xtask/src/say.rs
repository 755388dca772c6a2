//! What the developer commands tell the person who runs them: always on stderr, so that stdout stays the commands' own.

use std::fmt::Display;

/// Tells what is being done, as `topic: text`.
pub(crate) fn step(topic: &str, text: impl Display) {
    eprintln!("{topic}: {text}");
}

/// Tells of an error with all its causes.
pub(crate) fn error(error: &anyhow::Error) {
    eprintln!("error: {error:#}");
}
