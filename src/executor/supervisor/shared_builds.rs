//! What executors leave for the next ones of the same vGPU, where the operator wants that.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use super::directory::PrivateDirectory;
use crate::executor::known::KnownTable;

/// Most bytes on disk that stay when an executor has ended: a few hundred programs of PoCL's.
const MAX_KEPT_BYTES: u64 = 128 << 20;
/// Most files and directories. To look at them takes some ten milliseconds.
const MAX_KEPT_ENTRIES: usize = 16 * 1024;

/// A directory for what drivers keep, and which builds need no compiler because of it. They go together.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) directory: PrivateDirectory,
    pub(super) known: KnownTable,
}

impl Kept {
    pub(super) fn new() -> io::Result<Kept> {
        Ok(Kept { directory: PrivateDirectory::new()?, known: KnownTable::new()? })
    }
}

/// What the executors of a vGPU share, at once and one after the other. Whatever one of them writes, the others read, and it
/// may be code: all of them must be of one guest, or of guests that trust each other.
#[derive(Debug, Default)]
pub struct SharedBuilds(Mutex<Option<Arc<Kept>>>);

impl SharedBuilds {
    /// For an executor that starts.
    pub(super) fn take_part(&self) -> io::Result<Arc<Kept>> {
        let mut shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = &*shared {
            return Ok(kept.clone());
        }
        Ok(shared.insert(Arc::new(Kept::new()?)).clone())
    }

    /// An executor has ended. If that was no good end, what it ended of may lie in the directory; and none is to stay that is
    /// too large. Then the next executor gets another, and this one goes with the last that has it.
    pub(super) fn executor_ended(&self, kept: &Arc<Kept>, is_good_end: bool) {
        if is_good_end && !kept.directory.has_more_than(MAX_KEPT_BYTES, MAX_KEPT_ENTRIES) {
            return;
        }
        let mut shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let given_up = shared.take_if(|current| Arc::ptr_eq(current, kept));
        // Nobody else waits for its removal.
        drop(shared);
        drop(given_up);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use rustix::fs::{FallocateFlags, Mode, OFlags, fallocate, mkdirat, open, openat};

    use super::*;

    #[test]
    fn one_after_the_other_and_at_once_they_have_the_same_until_an_end_is_no_good_one() {
        let shared = SharedBuilds::default();
        let (one, other) = (shared.take_part().unwrap(), shared.take_part().unwrap());
        assert!(Arc::ptr_eq(&one, &other));
        let path = one.directory.path().to_owned();
        for kept in [one, other] {
            shared.executor_ended(&kept, true);
        }
        let (one, other) = (shared.take_part().unwrap(), shared.take_part().unwrap());
        assert_eq!(one.directory.path(), path);
        shared.executor_ended(&one, false);
        let next = shared.take_part().unwrap();
        assert!(!Arc::ptr_eq(&next, &other));
        // One that had the old one does not take the new one away.
        shared.executor_ended(&other, false);
        assert!(Arc::ptr_eq(&next, &shared.take_part().unwrap()));
        drop(one);
        assert!(path.exists());
        drop(other);
        assert!(!path.exists());
        let path = next.directory.path().to_owned();
        drop(next);
        drop(shared);
        assert!(!path.exists(), "it goes with the vGPU");
    }

    #[test]
    fn what_has_grown_too_large_goes_with_its_last_executor() {
        let shared = SharedBuilds::default();
        let fill = |fill: &dyn Fn(&Path)| {
            let kept = shared.take_part().unwrap();
            fill(kept.directory.path());
            shared.executor_ended(&kept, true);
            let path = kept.directory.path().to_owned();
            drop(kept);
            path.exists()
        };
        assert!(fill(&|path| fs::write(path.join("code"), [1; 1 << 16]).unwrap()));
        assert!(!fill(&|path| {
            let many = path.join("a").join("b");
            fs::create_dir_all(&many).unwrap();
            (0..MAX_KEPT_ENTRIES).for_each(|number| fs::write(many.join(number.to_string()), "").unwrap());
        }));
        assert!(!fill(&|path| {
            let file = fs::File::create(path.join("large")).unwrap();
            fallocate(&file, FallocateFlags::empty(), 0, MAX_KEPT_BYTES + 1).unwrap();
        }));
        // What a link names is not counted.
        assert!(fill(&|path| std::os::unix::fs::symlink("/usr", path.join("link")).unwrap()));
        // Deeper than a path may be.
        assert!(!fill(&|path| {
            let name = "d".repeat(200);
            let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
            let mut at = open(path, flags, Mode::empty()).unwrap();
            for _ in 0..40 {
                mkdirat(&at, &name, Mode::RWXU).unwrap();
                at = openat(&at, &name, flags, Mode::empty()).unwrap();
            }
        }));
    }
}
