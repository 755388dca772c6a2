//! The logs of the latest VM, in a folder below the target directory.

use anyhow::{Context, Result};
use std::fs::File;
use std::path::Path;

const KERNEL: &str = "kernel.log";
const VMM: &str = "vmm.log";
const BROKER: &str = "paragpud.log";

/// How many lines of a log an error shows.
const TAIL: usize = 25;

/// New, empty logs.
pub(crate) struct Logs {
    /// For what the guest's kernel writes to its console.
    pub(crate) kernel: File,
    /// For the VMM's stdout and stderr.
    pub(crate) vmm: File,
    /// For paragpud's stderr.
    pub(crate) broker: File,
}

impl Logs {
    /// Starts all logs afresh, so that none is of an earlier VM.
    pub(crate) fn create(folder: &Path) -> Result<Logs> {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let create = |name| {
            let path = folder.join(name);
            File::create(&path).with_context(|| format!("cannot write {}", path.display()))
        };
        Ok(Logs { kernel: create(KERNEL)?, vmm: create(VMM)?, broker: create(BROKER)? })
    }
}

/// The ends of all logs that have something in them, to be put after an error.
pub(crate) fn ends(folder: &Path) -> String {
    let logs = [("the VMM's messages", VMM), ("the guest's kernel log", KERNEL), ("paragpud's log", BROKER)];
    logs.map(|(title, name)| end(title, &folder.join(name))).concat()
}

/// The end of one log, if it has something in it.
pub(crate) fn end(title: &str, file: &Path) -> String {
    let content = std::fs::read(file).unwrap_or_default();
    let text = String::from_utf8_lossy(&content);
    let lines: Vec<_> = text.lines().collect();
    if lines.is_empty() {
        return String::new();
    }
    let lines = lines[lines.len().saturating_sub(TAIL)..].join("\n    ");
    format!("\nthe end of {title} ({}):\n    {lines}", file.display())
}

#[cfg(test)]
mod tests {
    use super::{Logs, ends};
    use std::io::Write;

    #[test]
    fn only_the_last_lines_of_logs_with_content_are_shown() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = Logs::create(folder.path()).unwrap().kernel;
        (0..100).for_each(|number| writeln!(log, "line {number}.").unwrap());
        let text = ends(folder.path());
        assert!(!text.contains("VMM"));
        assert!(text.contains("line 99.") && text.contains("line 75.") && !text.contains("line 74."));
    }
}
