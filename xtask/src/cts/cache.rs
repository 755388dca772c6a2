//! What the host's own OpenCL made of sub-tests in earlier runs.

use super::verdict::Verdict;
use super::write_in_one_piece;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A sub-test's native outcome.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub(super) struct Native {
    pub(super) verdict: Verdict,
    /// How long it took, or the limit that ended it.
    pub(super) seconds: f32,
}

/// By platform, and by binary and arguments.
type Entries = BTreeMap<String, BTreeMap<String, Native>>;

/// A file of native outcomes. Nothing in it is used for another version of the host's platform.
pub(super) struct Cache {
    file: Option<PathBuf>,
    platform: String,
    entries: Entries,
}

impl Cache {
    /// The cache in `file`, which need not exist yet, for the host's `platform`. Without a file it remembers nothing.
    pub(super) fn open(file: Option<PathBuf>, platform: &str) -> Result<Cache> {
        let entries = match &file {
            Some(file) if file.exists() => read(file)?,
            _ => Entries::new(),
        };
        Ok(Cache { file, platform: platform.to_owned(), entries })
    }

    /// The outcome of these arguments, if it is known. A sub-test that was cut off is only known under limits up to that.
    pub(super) fn get(&self, key: &str, limit: Duration) -> Option<Native> {
        let native = *self.entries.get(&self.platform)?.get(key)?;
        let holds = native.verdict != Verdict::Timeout || native.seconds >= limit.as_secs_f32();
        holds.then_some(native)
    }

    /// Remembers an outcome, in the file too.
    pub(super) fn put(&mut self, key: String, native: Native) -> Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        self.entries.entry(self.platform.clone()).or_default().insert(key, native);
        write_in_one_piece(file, serde_json::to_vec_pretty(&self.entries)?)
    }
}

fn read(file: &Path) -> Result<Entries> {
    let text = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is no native cache", file.display()))
}

#[cfg(test)]
mod tests {
    use super::{Cache, Native, Verdict};
    use std::time::Duration;

    const LIMIT: Duration = Duration::from_secs(10);

    fn native(verdict: Verdict, seconds: f32) -> Native {
        Native { verdict, seconds }
    }

    #[test]
    fn outcomes_are_known_to_later_runs_on_the_same_platform() {
        let folder = tempfile::tempdir().unwrap();
        let file = Some(folder.path().join("cache.json"));
        let passed = native(Verdict::Pass, 1.5);
        Cache::open(file.clone(), "PoCL 3.1").unwrap().put("b -w t".into(), passed).unwrap();
        let open = |platform| Cache::open(file.clone(), platform).unwrap();
        assert_eq!(open("PoCL 3.1").get("b -w t", LIMIT), Some(passed));
        assert_eq!(open("PoCL 3.1").get("b t", LIMIT), None);
        assert_eq!(open("PoCL 6.0").get("b -w t", LIMIT), None);
    }

    #[test]
    fn a_test_that_was_cut_off_runs_again_under_a_longer_limit() {
        let folder = tempfile::tempdir().unwrap();
        let mut cache = Cache::open(Some(folder.path().join("cache.json")), "PoCL").unwrap();
        cache.put("t".into(), native(Verdict::Timeout, 10.0)).unwrap();
        assert!(cache.get("t", LIMIT).is_some() && cache.get("t", LIMIT * 2).is_none());
    }

    #[test]
    fn without_a_file_every_test_runs() {
        let mut cache = Cache::open(None, "PoCL").unwrap();
        cache.put("t".into(), native(Verdict::Pass, 1.0)).unwrap();
        assert_eq!(cache.get("t", LIMIT), None);
    }
}
