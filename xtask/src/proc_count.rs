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
    /// But for private memory without a file, of which an allocator keeps some for later.
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
            mappings: maps.lines().filter(|line| !is_private_memory(line)).count(),
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
            "{descriptors} descriptors, {mappings} mappings of files, {guest_mappings} of them of guest memory, {threads} threads"
        )
    }
}

/// Whether a line of /proc/PID/maps is of memory that has neither a file nor another process.
fn is_private_memory(line: &str) -> bool {
    let mut words = line.split_whitespace().skip(1);
    let is_shared = words.next().is_some_and(|permissions| permissions.ends_with('s'));
    // What follows are offset, device, inode and, where there is one, the name.
    !is_shared && words.nth(3).is_none()
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
    use super::{Holdings, children, is_private_memory};
    use std::process::{Command, Stdio};

    #[test]
    fn memory_without_a_name_is_private_unless_it_is_shared() {
        for (line, is_private) in [
            ("7f0000000000-7f0000021000 rw-p 00000000 00:00 0", true),
            ("7f0000000000-7f0000021000 rw-s 00000000 00:01 4 /memfd:guest (deleted)", false),
            ("7f0000000000-7f0000021000 rw-s 00000000 00:00 0", false),
            ("7f0000000000-7f0000021000 r-xp 00000000 fe:00 99 /usr/lib/libc.so.6", false),
            ("7f0000000000-7f0000021000 rw-p 00000000 00:00 0 [heap]", false),
        ] {
            assert_eq!(is_private_memory(line), is_private, "{line}");
        }
    }

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
