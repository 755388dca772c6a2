//! How much a process holds of what the kernel gives out, as /proc tells.

use anyhow::{Context, Result};
use std::fmt;
use std::fs::{read_dir, read_to_string};

/// Threads of a paragpud without guests: its main thread, the scheduler's, and that of the admin socket.
const PARAGPUD_THREADS: usize = 3;

/// What a process holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Holdings {
    descriptors: usize,
    mappings: usize,
    /// Those of the mappings that are of a shared file without a name, as a guest's memory is.
    guest_mappings: usize,
    threads: usize,
}

impl Holdings {
    /// What the process `id` holds now.
    pub(crate) fn of(id: u32) -> Result<Holdings> {
        let maps = read_to_string(format!("/proc/{id}/maps")).with_context(|| format!("no process {id}"))?;
        Ok(Holdings {
            descriptors: entries(&format!("/proc/{id}/fd"))?,
            mappings: maps.lines().count(),
            guest_mappings: maps.lines().filter(|line| line.contains("/memfd:")).count(),
            threads: entries(&format!("/proc/{id}/task"))?,
        })
    }

    /// Whether nothing is there for a guest: paragpud has a thread for each, beside its own.
    pub(crate) fn is_of_no_guest(&self) -> bool {
        self.threads == PARAGPUD_THREADS && self.guest_mappings == 0
    }

    /// Whether nothing is more than in `other`.
    pub(crate) fn is_within(&self, other: &Holdings) -> bool {
        self.mappings <= other.mappings && self.is_within_but_for_private_memory(other)
    }

    /// The same for a process that may keep memory of its own for later, as compilers and allocators do.
    pub(crate) fn is_within_but_for_private_memory(&self, other: &Holdings) -> bool {
        self.descriptors <= other.descriptors
            && self.guest_mappings <= other.guest_mappings
            && self.threads <= other.threads
    }
}

impl fmt::Display for Holdings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Holdings { descriptors, mappings, guest_mappings, threads } = self;
        write!(
            f,
            "{descriptors} descriptors, {mappings} mappings, {guest_mappings} of them of guest memory, {threads} threads"
        )
    }
}

/// The processes that `parent` started and that have not been waited for.
pub(crate) fn children(parent: u32) -> Vec<u32> {
    let wanted = format!("PPid:\t{parent}");
    let ids = read_dir("/proc").into_iter().flatten().flatten();
    ids.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|id: &u32| {
            let status = read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
            status.lines().any(|line| line == wanted)
        })
        .collect()
}

fn entries(folder: &str) -> Result<usize> {
    Ok(read_dir(folder).with_context(|| format!("cannot read {folder}"))?.count())
}

#[cfg(test)]
mod tests {
    use super::{Holdings, children};
    use std::process::{Command, Stdio};

    #[test]
    fn a_child_and_its_pipe_are_seen_until_they_are_gone() {
        let me = std::process::id();
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        assert!(children(me).contains(&child.id()));
        assert!(Holdings::of(child.id()).unwrap().descriptors >= 3);
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(!children(me).contains(&child.id()));
        assert!(Holdings::of(child.id()).is_err());
    }
}
