//! `cargo xtask cts`: the Khronos conformance tests, on the host's own OpenCL and through a vGPU.
//!
//! The bar is the host: each sub-test runs on both sides, in a process of its own, and what counts is the difference.

mod cache;
mod list;
mod progress;
mod report;
mod run;
mod summary;
mod verdict;

use crate::say;
use crate::sides::{self, Place, Platform};
use crate::workspace::{self, Profile};
use anyhow::{Context, Result, bail};
use cache::Cache;
use clap::Args;
use list::{Binary, List};
use report::Report;
use run::{Run, Test};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use summary::Summary;

/// Run the Khronos conformance tests natively and through a vGPU, and tell what differs.
///
/// Each sub-test is a process of its own on either side, one after the other. What the host's own OpenCL fails is not held
/// against the vGPU; the exit status is 1 if a sub-test that passes natively does not pass through it. The suite must be built
/// already: docs/conformance.md says how.
#[derive(Args)]
pub(crate) struct Cts {
    /// The folder test_conformance of the suite's build.
    #[arg(long, value_name = "DIR")]
    cts_dir: PathBuf,
    /// The binaries with their arguments and limits, instead of xtask/src/resources/cts.toml.
    #[arg(long, value_name = "FILE")]
    list: Option<PathBuf>,
    /// Only these binaries of the list: by path, or by file name with or without `test_`.
    #[arg(long, value_name = "NAME", num_args = 1..)]
    binary: Vec<String>,
    /// Only these sub-tests. A name that ends in `*` means all that start like it.
    #[arg(long, value_name = "NAME", num_args = 1..)]
    test: Vec<String>,
    /// How long a sub-test may take on the host, instead of what the list says.
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// Take native outcomes from this file, and add what is missing. It is kept by the host platform's version; remove it
    /// when the suite is built anew.
    #[arg(long, value_name = "FILE")]
    native_cache: Option<PathBuf>,
    /// Write the results as JSON, anew after each binary.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Complete the results in the FILE of --json: run what it lacks, or what --binary names, and keep the rest. So an
    /// interrupted run goes on, and what has changed runs again. Not with --test: results are whole binaries'.
    #[arg(long, requires = "json", conflicts_with = "test")]
    update: bool,
    /// Put a table of the results into this document, instead of the one of an earlier run on the same platform. Not with
    /// --test: a row is a whole binary.
    #[arg(long, value_name = "FILE", conflicts_with = "test")]
    markdown: Option<PathBuf>,
    /// Where the output of sub-tests is kept that differ. Default: cts-logs in the target directory.
    #[arg(long, value_name = "DIR")]
    logs: Option<PathBuf>,
    /// How many sub-tests run at a time.
    #[arg(long, value_name = "N", default_value_t = 1)]
    jobs: usize,
    /// Run in this root of another system, with its OpenCL; the suite and paragpu are copied there for the time.
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// The cargo profile of paragpu.
    #[arg(long, value_enum, default_value = "debug")]
    profile: Profile,
    /// The folder of paragpu, paragpud and libparagpu_opencl.so, instead of building them.
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
}

impl Cts {
    /// Runs the tests; the exit status says whether all that passes natively passes through the vGPU.
    pub(crate) fn run(self) -> Result<ExitCode> {
        let list = self.list()?;
        let mut binaries = self.chosen_binaries(&list)?;
        if !self.cts_dir.is_dir() {
            bail!(
                "{} is no folder: it is to be test_conformance of a build of the suite, which docs/conformance.md tells how \
                 to get",
                self.cts_dir.display()
            );
        }
        let programs = self.programs()?;
        let place = match &self.root {
            None => Place::here(&self.cts_dir, &programs)?,
            Some(root) => Place::in_root(root, &self.cts_dir, &programs)?,
        };
        let _listening = sides::clean_up_when_interrupted(&place)?;
        let platform = Platform::of(&place)?;
        say::step("cts", format!("the host has {}, {}", platform.title(), platform.device));

        let earlier = match &self.json {
            Some(file) if self.update => Report::read_earlier(file, &platform)?,
            _ => Report::new(platform.clone()),
        };
        // What was asked for by name runs again.
        if self.binary.is_empty() {
            binaries.retain(|binary| !earlier.has(&binary.path));
        }
        let order: Vec<_> = list.into_iter().map(|binary| binary.path).collect();

        let (binaries, not_built) = self.divide(binaries, &place, &earlier)?;
        let tests = self.chosen_tests(&binaries, &place)?;
        let logs = match &self.logs {
            Some(folder) => folder.clone(),
            None => workspace::target_directory()?.join("cts-logs"),
        };
        say::step("cts", format!("the output of sub-tests that differ is kept in {}", logs.display()));
        let cache = Cache::open(self.native_cache.clone(), &platform.identity())?;
        let mut report = Report { not_built, only: self.test.clone(), ..Report::new(platform) };
        let run = Run { place: &place, logs: &logs, jobs: self.jobs.max(1) };
        run.all(&tests, cache, |binary, compared| {
            report.results.push(Summary::of(binary, compared));
            self.json.as_ref().map_or(Ok(()), |file| report.completing(&earlier, &order).write_json(file))
        })?;

        print!("{}", report.table());
        if let Some(file) = &self.markdown {
            report.completing(&earlier, &order).write_markdown(file)?;
        }
        Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// All binaries of the list.
    fn list(&self) -> Result<Vec<Binary>> {
        let text = match &self.list {
            None => list::DEFAULT.to_owned(),
            Some(file) => {
                std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?
            }
        };
        List::parse(&text, self.timeout)
    }

    /// The binaries of the list that were asked for, or all.
    fn chosen_binaries(&self, list: &[Binary]) -> Result<Vec<Binary>> {
        for name in &self.binary {
            if !list.iter().any(|binary| binary.is_called(name)) {
                bail!("no binary of the list is called {name}");
            }
        }
        let is_chosen =
            |binary: &Binary| self.binary.is_empty() || self.binary.iter().any(|name| binary.is_called(name));
        Ok(list.iter().filter(|binary| is_chosen(binary)).cloned().collect())
    }

    /// The folder with our programs, which are built first unless told where they are.
    fn programs(&self) -> Result<PathBuf> {
        if let Some(folder) = &self.programs {
            return Ok(folder.clone());
        }
        workspace::build(self.profile, &["-p", "paragpu", "-p", "paragpu-opencl"])?;
        Ok(workspace::target_directory()?.join(self.profile.folder()))
    }

    /// The binaries that are there, and the paths of the others. One that was asked for by name must be there, and
    /// something must be there unless it has run earlier.
    fn divide(
        &self,
        binaries: Vec<Binary>,
        place: &Place,
        earlier: &Report,
    ) -> Result<(Vec<Binary>, Vec<String>)> {
        let (there, missing): (Vec<_>, Vec<_>) =
            binaries.into_iter().partition(|binary| place.has(&binary.path));
        let missing: Vec<_> = missing.into_iter().map(|binary| binary.path).collect();
        let nothing = there.is_empty() && earlier.results.is_empty();
        if nothing || !self.binary.is_empty() && !missing.is_empty() {
            bail!("{} lacks {}", self.cts_dir.display(), missing.join(", "));
        }
        for path in &missing {
            say::step("cts", format!("{path} is not built"));
        }
        Ok((there, missing))
    }

    /// The sub-tests of all binaries, in order.
    fn chosen_tests(&self, binaries: &[Binary], place: &Place) -> Result<Vec<Test>> {
        let mut tests = Vec::new();
        for binary in binaries {
            let names = match &binary.tests {
                Some(names) => names.clone(),
                None => {
                    let output = sides::output_of(place, place.folder.join(&binary.path), &["--list"])?;
                    list::listed_tests(&output)
                }
            };
            if names.is_empty() {
                bail!("{} --list names no sub-test", binary.path);
            }
            let chosen = names.into_iter().filter(|name| self.is_chosen(name));
            tests.extend(chosen.map(|name| Test { binary: binary.clone(), name }));
        }
        if tests.is_empty() && !self.test.is_empty() {
            bail!("no sub-test is called {}", self.test.join(" or "));
        }
        Ok(tests)
    }

    fn is_chosen(&self, test: &str) -> bool {
        let fits = |name: &String| match name.strip_suffix('*') {
            Some(start) => test.starts_with(start),
            None => test == name,
        };
        self.test.is_empty() || self.test.iter().any(fits)
    }
}

/// Writes a file in one piece: a run may be interrupted at any time, and a later one goes on with what it left.
fn write_in_one_piece(file: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    let mut partial = file.as_os_str().to_owned();
    partial.push(".partial");
    std::fs::write(&partial, content)
        .and_then(|()| std::fs::rename(&partial, file))
        .with_context(|| format!("cannot write {}", file.display()))
}
