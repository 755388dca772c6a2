//! How much memory processes take, as /proc tells.

use anyhow::{Context, Result};
use std::fs::read_to_string;

/// Proportional memory of a process in bytes: its own pages, and its part of those that it shares.
pub(crate) fn proportional(id: u32) -> Result<u64> {
    field(&format!("/proc/{id}/smaps_rollup"), "Pss")
}

/// Resident memory of a process in bytes.
pub(crate) fn resident(id: u32) -> Result<u64> {
    field(&format!("/proc/{id}/status"), "VmRSS")
}

/// What the host can give without taking it from anybody, in bytes.
pub(crate) fn available() -> Result<u64> {
    field("/proc/meminfo", "MemAvailable")
}

/// The arguments that a process was started with; nothing if it is gone.
pub(crate) fn arguments(id: u32) -> Vec<String> {
    let line = read_to_string(format!("/proc/{id}/cmdline")).unwrap_or_default();
    line.split_terminator('\0').map(str::to_owned).collect()
}

pub(crate) fn mib(bytes: f64) -> f64 {
    bytes / f64::from(1 << 20)
}

fn field(file: &str, name: &str) -> Result<u64> {
    let content = read_to_string(file).with_context(|| format!("cannot read {file}"))?;
    let kib = content.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key == name).then(|| value.trim().trim_end_matches("kB").trim().parse::<u64>().ok())?
    });
    Ok(kib.with_context(|| format!("{file} has no {name}"))? * 1024)
}

#[cfg(test)]
mod tests {
    use super::{arguments, available, proportional, resident};
    use std::process::{Command, Stdio};

    #[test]
    fn the_memory_of_this_process_is_told_and_less_than_there_is() {
        let me = std::process::id();
        let (part, all) = (proportional(me).unwrap(), resident(me).unwrap());
        assert!(part > 0 && all > 0 && available().unwrap() > 0);
        assert!(proportional(u32::MAX).is_err());
    }

    #[test]
    fn the_arguments_of_a_process_are_told_while_it_lives() {
        let mut child =
            Command::new("cat").arg("-").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let id = child.id();
        // Until it has become the program, it is a copy of this one.
        while arguments(id) != ["cat", "-"] {
            std::thread::yield_now();
        }
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(arguments(id).is_empty());
    }
}
