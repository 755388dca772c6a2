//! The sub-tests of a run, on both sides.

use super::cache::{Cache, Native};
use super::list::Binary;
use super::progress::Progress;
use super::summary::Compared;
use super::verdict::Verdict;
use crate::sides::{Place, Session, Side};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Files in the folder of a sub-test's process.
const OUTPUT: &str = "output";
const RESULTS: &str = "results.json";

/// One sub-test.
pub(super) struct Test {
    pub(super) binary: Binary,
    pub(super) name: String,
}

/// How sub-tests run.
pub(super) struct Run<'a> {
    pub(super) place: &'a Place,
    pub(super) logs: &'a Path,
    pub(super) jobs: usize,
}

impl Run<'_> {
    /// Runs all `tests`, which stand binary by binary, and gives each binary's outcomes to `take` when it is through.
    pub(super) fn all(
        &self,
        tests: &[Test],
        cache: Cache,
        mut take: impl FnMut(&str, &[Compared]) -> Result<()>,
    ) -> Result<()> {
        let cache = Mutex::new(cache);
        let next = AtomicUsize::new(0);
        let mut progress = Progress::start(tests.len());
        let mut outcomes: Vec<Option<Compared>> = tests.iter().map(|_| None).collect();
        let mut reported = 0;
        std::thread::scope(|scope| {
            let (sender, receiver) = channel();
            for _ in 0..self.jobs.min(tests.len()) {
                let (sender, next, cache) = (sender.clone(), &next, &cache);
                scope.spawn(move || {
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        let Some(test) = tests.get(index) else { return };
                        if sender.send((index, self.one(test, cache))).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(sender);
            for (index, outcome) in receiver {
                let compared = outcome
                    .inspect_err(|_| next.store(tests.len(), Ordering::Relaxed))
                    .with_context(|| format!("{} {}", tests[index].binary.path, tests[index].name))?;
                progress.take(&tests[index].binary.path, &compared);
                outcomes[index] = Some(compared);
                reported += report_complete(&tests[reported..], &outcomes[reported..], &mut take)?;
            }
            anyhow::Ok(())
        })?;
        progress.finish();
        Ok(())
    }

    fn one(&self, test: &Test, cache: &Mutex<Cache>) -> Result<Compared> {
        let Test { binary, name } = test;
        // Without the suite's folder in it, which may be elsewhere next time.
        let key = format!("{} {}", binary.path, binary.arguments_for(name, "").join(" "));
        let known = lock(cache).get(&key, binary.limit());
        let (native, native_log) = match known {
            Some(native) => (native, None),
            None => {
                let (verdict, time, log) = self.side(Side::Native, test, binary.limit())?;
                let native = Native { verdict, seconds: time.as_secs_f32() };
                lock(cache).put(key, native)?;
                (native, Some(log))
            }
        };
        let mut compared = Compared {
            test: name.clone(),
            native: native.verdict,
            vgpu: None,
            native_seconds: native.seconds,
            vgpu_seconds: 0.0,
        };
        if native.verdict == Verdict::Timeout {
            return Ok(compared);
        }
        let (verdict, time, log) = self.side(Side::Vgpu, test, vgpu_limit(binary.limit(), native))?;
        compared.vgpu = Some(verdict);
        compared.vgpu_seconds = time.as_secs_f32();
        if compared.differs() {
            if let Some(native_log) = native_log {
                self.keep(test, Side::Native, &native_log)?;
            }
            self.keep(test, Side::Vgpu, &log)?;
        }
        Ok(compared)
    }

    /// Runs a sub-test on one side. The log is the end of what it printed, how it ended, and the end of paragpud's log.
    fn side(&self, side: Side, test: &Test, limit: Duration) -> Result<(Verdict, Duration, Vec<u8>)> {
        let session = Session::start(side, self.place)?;
        let mut command = session.command(self.place.folder.join(&test.binary.path));
        command.args(test.binary.arguments_for(&test.name, &self.place.folder.to_string_lossy()));
        command.env("CL_CONFORMANCE_RESULTS_FILENAME", session.room.inside.join(RESULTS));
        let output = session.file(OUTPUT)?;
        command.stdout(output.try_clone()?).stderr(output);
        let ended = session.run(&mut command, limit)?;
        let results = std::fs::read_to_string(session.room.outside.join(RESULTS)).ok();
        let verdict = Verdict::of(ended.status, results.as_deref(), &test.name);
        let mut log = session.end_of(OUTPUT);
        log.extend(format!("\n== {}\n", ended.describe()).as_bytes());
        log.extend(session.finish()?);
        Ok((verdict, ended.time, log))
    }

    fn keep(&self, test: &Test, side: Side, log: &[u8]) -> Result<()> {
        let file = log_file(self.logs, &test.binary.path, &test.name, side);
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        std::fs::write(&file, log).with_context(|| format!("cannot write {}", file.display()))
    }
}

/// The vGPU gets the same limit and twice what the native side took on top of it, so that one that was close to its limit
/// does not become a time-out by accident.
fn vgpu_limit(limit: Duration, native: Native) -> Duration {
    limit + Duration::from_secs_f32(native.seconds.max(0.0)) * 2
}

/// Reports the binaries at the start of `tests` whose sub-tests have all ended; returns how many sub-tests they have.
fn report_complete(
    tests: &[Test],
    outcomes: &[Option<Compared>],
    take: &mut impl FnMut(&str, &[Compared]) -> Result<()>,
) -> Result<usize> {
    let mut reported = 0;
    while let Some(first) = tests.get(reported) {
        let path = &first.binary.path;
        let count = tests[reported..].iter().take_while(|test| test.binary.path == *path).count();
        let ended: Vec<_> = outcomes[reported..reported + count].iter().flatten().cloned().collect();
        if ended.len() < count {
            break;
        }
        take(path, &ended)?;
        reported += count;
    }
    Ok(reported)
}

fn lock(cache: &Mutex<Cache>) -> std::sync::MutexGuard<'_, Cache> {
    cache.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The log of one side of a sub-test.
fn log_file(logs: &Path, binary: &str, test: &str, side: Side) -> PathBuf {
    let as_file = |name: &str| name.replace('/', ".");
    logs.join(as_file(binary)).join(format!("{}.{}.log", as_file(test), side.name()))
}
