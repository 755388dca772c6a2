//! From values to what keys want: numbers in their range, sizes, lists of names.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::tree::Value;

/// An integer within `range`.
pub(super) fn integer<T>(range: RangeInclusive<T>) -> impl Fn(&Value) -> Result<T, String>
where
    T: TryFrom<i64> + PartialOrd + Display,
{
    move |value| {
        let wanted = || format!("allowed are integers from {} to {}", range.start(), range.end());
        match value {
            Value::Integer(integer) => {
                T::try_from(*integer).ok().filter(|integer| range.contains(integer)).ok_or_else(wanted)
            }
            other => Err(format!("this is {}; {}", other.kind(), wanted())),
        }
    }
}

/// A number within `range`.
pub(super) fn number(range: RangeInclusive<f64>) -> impl Fn(&Value) -> Result<f64, String> {
    move |value| {
        let wanted = || format!("allowed are numbers from {} to {}", range.start(), range.end());
        let number = match value {
            Value::Integer(integer) => *integer as f64,
            Value::Number(number) => *number,
            other => return Err(format!("this is {}; {}", other.kind(), wanted())),
        };
        if range.contains(&number) { Ok(number) } else { Err(wanted()) }
    }
}

/// Smallest part of a device, in per cent, that can be asked for.
pub(super) const MIN_PER_CENT: f64 = 0.1;

/// Per cent of something.
pub(super) fn per_cent(value: &Value) -> Result<f64, String> {
    number(MIN_PER_CENT..=100.0)(value).map_err(|error| format!("{error} (per cent)"))
}

/// A time in units of `unit`; parts of one are allowed.
pub(super) fn time(
    unit: Duration,
    range: RangeInclusive<f64>,
) -> impl Fn(&Value) -> Result<Duration, String> {
    move |value| {
        // To microseconds: what is written out again is then what was read.
        let micros = number(range.clone())(value)? * unit.as_micros() as f64;
        Ok(Duration::from_micros(micros.round() as u64))
    }
}

/// Yes or no.
pub(super) fn truth(value: &Value) -> Result<bool, String> {
    match value {
        Value::Bool(truth) => Ok(*truth),
        other => Err(format!("this is {}; allowed are true and false", other.kind())),
    }
}

/// Text.
pub(super) fn text(value: &Value) -> Result<String, String> {
    match value {
        Value::Text(text) => Ok(text.clone()),
        other => Err(format!("this is {}; text in quotes is wanted", other.kind())),
    }
}

/// One of some words.
pub(super) fn word<T: Clone>(words: &[(&'static str, T)]) -> impl Fn(&Value) -> Result<T, String> {
    let words = words.to_vec();
    move |value| {
        let found = match value {
            Value::Text(text) => words.iter().find(|(word, _)| word == text),
            _ => None,
        };
        let allowed = || words.iter().map(|(word, _)| format!("{word:?}")).collect::<Vec<_>>().join(", ");
        found.map(|(_, meaning)| meaning.clone()).ok_or_else(|| format!("allowed are {}", allowed()))
    }
}

/// The list of `read`'s values.
pub(super) fn list<T>(
    read: impl Fn(&Value) -> Result<T, String>,
) -> impl FnOnce(&Value) -> Result<Vec<T>, String> {
    move |value| match value {
        Value::List(items) => items.iter().map(|item| read(&item.value)).collect(),
        other => Err(format!("this is {}; a list in [ ] is wanted", other.kind())),
    }
}

/// `read`'s value, or `"none"`.
pub(super) fn or_none<T>(
    read: impl Fn(&Value) -> Result<T, String>,
) -> impl FnOnce(&Value) -> Result<Option<T>, String> {
    move |value| match value {
        Value::Text(text) if text == NONE => Ok(None),
        value => read(value).map(Some).map_err(|error| format!("{error}; or {NONE:?}")),
    }
}

/// The word for a limit that is not set.
pub(super) const NONE: &str = "none";

/// A path from the root on.
pub(super) fn path(value: &Value) -> Result<PathBuf, String> {
    let path = text(value)?;
    if !path.starts_with('/') {
        return Err("a path must begin with /".to_owned());
    }
    if path.contains('\0') || path.ends_with('/') {
        return Err("this names no file".to_owned());
    }
    Ok(PathBuf::from(path))
}

/// Longest path of a socket in bytes, as Linux has it.
const MAX_SOCKET_PATH: usize = 107;

/// Where a socket is.
pub(super) fn socket_path(value: &Value) -> Result<PathBuf, String> {
    let path = path(value)?;
    if path.as_os_str().len() > MAX_SOCKET_PATH {
        return Err(format!("the path of a socket has at most {MAX_SOCKET_PATH} bytes"));
    }
    Ok(path)
}

const UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("kB", 1000),
    ("KiB", 1 << 10),
    ("MB", 1_000_000),
    ("MiB", 1 << 20),
    ("GB", 1_000_000_000),
    ("GiB", 1 << 30),
    ("TB", 1_000_000_000_000),
    ("TiB", 1 << 40),
];

/// A number of bytes: an integer, or text as `"2 GiB"`.
pub(super) fn bytes(range: RangeInclusive<u64>) -> impl Fn(&Value) -> Result<u64, String> {
    move |value| {
        let bytes = match value {
            Value::Integer(integer) => u64::try_from(*integer).ok(),
            Value::Text(text) => parse_bytes(text),
            _ => None,
        };
        bytes.filter(|bytes| range.contains(bytes)).ok_or_else(|| {
            let (least, most) = (show_bytes(*range.start()), show_bytes(*range.end()));
            format!("allowed are sizes such as \"2 GiB\" from {least} to {most}")
        })
    }
}

/// The bytes that a text such as `2 GiB` says.
pub fn parse_bytes(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim();
    let (_, factor) = UNITS.iter().find(|(name, _)| unit.eq_ignore_ascii_case(name))?;
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    // Six digits of a TiB are about a MB, which is as precise as anybody says it.
    if part.is_empty() || part.len() > 6 || !part.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let scale = 10_u64.pow(part.len() as u32);
    let part = u128::from(part.parse::<u64>().ok()?) * u128::from(*factor) / u128::from(scale);
    whole.parse::<u64>().ok()?.checked_mul(*factor)?.checked_add(u64::try_from(part).ok()?)
}

/// A number of bytes in the largest unit that says it exactly.
pub fn show_bytes(bytes: u64) -> String {
    let unit = UNITS.iter().rev().find(|(name, factor)| {
        bytes >= *factor && bytes.is_multiple_of(*factor) && (name.ends_with("iB") || *factor == 1)
    });
    let (name, factor) = unit.unwrap_or(&UNITS[0]);
    format!("{} {name}", bytes / factor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, prop_assert_eq, proptest};

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("0 B", 0),
            ("12B", 12),
            ("2 GiB", 2 << 30),
            ("1.5 MiB", 3 << 19),
            ("3 kb", 3000),
            ("1 TB", 10_u64.pow(12)),
        ] {
            assert_eq!(parse_bytes(text), Some(bytes), "{text}");
        }
        for text in [
            "",
            "GiB",
            "1",
            "1.MiB",
            "-1 MiB",
            "1 XiB",
            "99999999 TiB",
            "1.2.3 MiB",
            "1.1234567 MiB",
            "१ MiB",
        ] {
            assert_eq!(parse_bytes(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_size_that_is_shown_is_read_as_the_same(bytes in any::<u64>(), shift in 0..64_u32) {
            let bytes = bytes >> shift << (shift / 2);
            prop_assert_eq!(parse_bytes(&show_bytes(bytes)), Some(bytes));
        }
    }
}
