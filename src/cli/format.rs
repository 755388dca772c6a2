//! Numbers and tables for people.

use serde_json::Value;

use crate::admin::api::Vgpu;
use crate::sched::usage::Standing;

/// Bytes with three digits or so.
pub(super) fn bytes(bytes: f64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 || value >= 99.95 {
        format!("{value:.0} {}", units[unit])
    } else {
        format!("{value:.1} {}", units[unit])
    }
}

/// A count with three digits or so.
pub(super) fn count(count: f64) -> String {
    let units = ["", "k", "M", "G", "T"];
    let mut value = count;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 || value >= 99.95 {
        format!("{value:.0}{}", units[unit])
    } else {
        format!("{value:.1}{}", units[unit])
    }
}

/// A time in nanoseconds.
pub(super) fn time(nanos: u64) -> String {
    let seconds = nanos as f64 / 1e9;
    match nanos {
        0 => "0 s".to_owned(),
        1..1_000_000 => format!("{:.0} µs", seconds * 1e6),
        1_000_000..1_000_000_000 => format!("{:.1} ms", seconds * 1e3),
        _ if seconds < 100.0 => format!("{seconds:.2} s"),
        _ if seconds < 36_000.0 => format!("{:.0} min {:.0} s", (seconds / 60.0).floor(), seconds % 60.0),
        _ => format!("{:.1} h", seconds / 3600.0),
    }
}

/// How a vGPU stands, in a word.
pub(super) fn standing(standing: Standing) -> &'static str {
    match standing {
        Standing::Offline => "offline",
        Standing::Idle => "idle",
        Standing::Waiting => "waiting",
        Standing::Running => "running",
        Standing::BackedOff => "backed-off",
        Standing::Paused => "paused",
    }
}

/// A vGPU's policy with its numbers.
pub(super) fn policy(vgpu: &Vgpu) -> String {
    let key = |key: &str| vgpu.settings.get(key).map(plain).unwrap_or_default();
    let policy = match key("policy").as_str() {
        "weighted" => format!("weighted {}", key("weight")),
        "fixed-share" => format!("fixed-share {}%", key("share")),
        "deadline" => format!("deadline {}ms", key("deadline-ms")),
        other => other.to_owned(),
    };
    match key("cap").as_str() {
        "" | "none" => policy,
        cap => format!("{policy}, cap {cap}%"),
    }
}

/// A value without quotes and needless decimals.
pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        Value::Number(number) => {
            number.as_f64().map_or_else(|| number.to_string(), |number| number.to_string())
        }
        other => other.to_string(),
    }
}

/// Which side of its column a cell is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Left,
    Right,
}

/// Rows under their headings, each column as wide as it must be.
pub(super) fn table(headings: &[(&str, Side)], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([headings[column].0.chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let cells = cells.zip(headings).zip(&widths).map(|((cell, (_, side)), width)| match side {
            Side::Left => format!("{cell:<width$}"),
            Side::Right => format!("{cell:>width$}"),
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    let mut text = line(&mut headings.iter().map(|(heading, _)| *heading));
    for row in rows {
        text += &line(&mut row.iter().map(String::as_str));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_or_so() {
        for (value, text) in
            [(0.0, "0 B"), (999.0, "999 B"), (1024.0, "1.0 KiB"), (2.5e9, "2.3 GiB"), (1.1e8, "105 MiB")]
        {
            assert_eq!(bytes(value), text);
        }
        for (value, text) in
            [(0.0, "0"), (999.0, "999"), (1500.0, "1.5k"), (123_456.0, "123k"), (2e7, "20.0M")]
        {
            assert_eq!(count(value), text);
        }
        for (value, text) in [
            (0, "0 s"),
            (1500, "2 µs"),
            (2_500_000, "2.5 ms"),
            (12_345_000_000, "12.35 s"),
            (200_000_000_000, "3 min 20 s"),
        ] {
            assert_eq!(time(value), text);
        }
    }

    #[test]
    fn columns_are_as_wide_as_they_must_be() {
        let rows = [vec!["a".to_owned(), "100".to_owned()], vec!["longer".to_owned(), "7".to_owned()]];
        let text = table(&[("NAME", Side::Left), ("N", Side::Right)], &rows);
        assert_eq!(text, "NAME      N\na       100\nlonger    7\n");
    }
}
