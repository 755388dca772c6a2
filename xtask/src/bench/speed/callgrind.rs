//! Instructions, as valgrind's callgrind counts them: the same each time for the same work, on any machine.
//!
//! Of a function there are the instructions from each call until its return, whatever it calls. So what threads do that wait, or
//! work beside it, does not count. That of the kernel does not either.

use super::super::place::Place;
use anyhow::{Context, Result, ensure};
use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Programs call functions of this beginning before and after what is counted.
const MARKS: &str = "speed_samples_*";

/// Calls of a function, and instructions in all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Called {
    pub(super) calls: f64,
    pub(super) instructions: f64,
}

/// What was called between two marks, by the file that has the function, and its name.
pub(super) type Profile = HashMap<(String, String), Called>;

/// Where callgrind writes.
pub(super) struct Callgrind {
    file: PathBuf,
}

impl Callgrind {
    /// One that writes files of this name.
    pub(super) fn new(place: &Place, name: &str) -> Callgrind {
        Callgrind { file: place.files().join(name) }
    }

    /// What precedes a program's words, to have it counted.
    pub(super) fn words(&self) -> Vec<OsString> {
        let mut file = OsString::from("--callgrind-out-file=");
        file.push(&self.file);
        let words = ["valgrind", "--quiet", "--tool=callgrind"].map(OsString::from);
        words.into_iter().chain([format!("--dump-before={MARKS}").into(), file]).collect()
    }

    /// What was called between the marks of the run with this number, from 0 on, after the program's end.
    pub(super) fn profile(&self, run: usize) -> Result<Profile> {
        // Each mark ends a file: before each run, and after it.
        let file = self.part(2 * run + 2);
        let text = std::fs::read_to_string(&file);
        let text = text.with_context(|| format!("callgrind has not written {}", file.display()))?;
        parse(&text).with_context(|| format!("in {}", file.display()))
    }

    fn part(&self, number: usize) -> PathBuf {
        let mut file = self.file.clone().into_os_string();
        file.push(format!(".{number}"));
        file.into()
    }
}

/// What precedes a program's words to run it as callgrind does, but quicker: a driver that compiles for the processor that it
/// sees then finds what it has compiled.
pub(super) fn dry_run() -> Vec<OsString> {
    ["valgrind", "--quiet", "--tool=none"].map(OsString::from).into()
}

/// Of the functions whose names these are, in a file of which this is the beginning.
pub(super) fn sum(profile: &Profile, file: &str, functions: &[&str]) -> Called {
    let of = |((in_file, name), _): &(&(String, String), &Called)| {
        in_file.starts_with(file) && functions.contains(&name.as_str())
    };
    profile.iter().filter(of).fold(Called::default(), |sum, (_, called)| Called {
        calls: sum.calls + called.calls,
        instructions: sum.instructions + called.instructions,
    })
}

/// Names that were told once, with a number, and are only numbers afterwards.
#[derive(Default)]
struct Names(HashMap<String, String>);

impl Names {
    /// The name in `(7) name` or `(7)`.
    fn of(&mut self, text: &str) -> Result<String> {
        let (number, name) = text.split_once(')').with_context(|| format!("{text:?} is no name"))?;
        if name.is_empty() {
            return self.0.get(number).cloned().with_context(|| format!("{text:?} was not told before"));
        }
        self.0.insert(number.to_owned(), name.trim().to_owned());
        Ok(name.trim().to_owned())
    }
}

/// Reads callgrind's format: calls are `cob=` (unless it is the caller's file) and `cfn=` of the function that is called, `calls=`,
/// and then a line of the caller's with the instructions of all of it.
fn parse(text: &str) -> Result<Profile> {
    let (mut files, mut functions) = (Names::default(), Names::default());
    let (mut file, mut called_file, mut called) = (String::new(), None, String::new());
    let mut calls = None;
    let mut profile = Profile::new();
    for line in text.lines() {
        if let Some(calls) = calls.take() {
            let instructions = line.split_whitespace().nth(1).and_then(|word| word.parse::<f64>().ok());
            let instructions = instructions.with_context(|| format!("{line:?} has no instructions"))?;
            let of = called_file.take().map_or_else(|| base(&file), |file: String| base(&file));
            let sum = profile.entry((of, called.clone())).or_default();
            sum.calls += calls;
            sum.instructions += instructions;
        } else if let Some(name) = line.strip_prefix("ob=") {
            file = files.of(name)?;
        } else if let Some(name) = line.strip_prefix("cob=") {
            called_file = Some(files.of(name)?);
        } else if let Some(name) = line.strip_prefix("cfn=") {
            called = functions.of(name)?;
        } else if let Some(name) = line.strip_prefix("fn=") {
            functions.of(name)?;
        } else if let Some(count) = line.strip_prefix("calls=") {
            let count = count.split_whitespace().next().and_then(|word| word.parse::<f64>().ok());
            calls = Some(count.with_context(|| format!("{line:?} has no number"))?);
        }
    }
    ensure!(text.lines().any(|line| line.starts_with("events: Ir")), "it does not count instructions");
    Ok(profile)
}

fn base(file: &str) -> String {
    Path::new(file).file_name().map_or_else(|| file.to_owned(), |name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::{Called, parse, sum};

    const TEXT: &str = "# callgrind format
events: Ir
summary: 999

ob=(1) /bin/speed
fl=(1) main.rs
fn=(1) main
10 4
cob=(2) /lib/libOpenCL.so.1.0.0
cfi=(2) ???
cfn=(2) clFinish
calls=2 0
11 70
cfn=(3) helper
calls=1 +3
* 9

fn=(3)
3 9
cob=(2)
cfn=(2)
calls=3 -2
+1 30
";

    #[test]
    fn a_functions_calls_are_those_of_all_callers_in_its_own_file() {
        let profile = parse(TEXT).unwrap();
        let finish = Called { calls: 5.0, instructions: 100.0 };
        assert_eq!(sum(&profile, "libOpenCL.so", &["clFinish", "clFlush"]), finish);
        assert_eq!(sum(&profile, "speed", &["helper"]), Called { calls: 1.0, instructions: 9.0 });
        assert_eq!(sum(&profile, "speed", &["clFinish"]), Called::default());
    }

    #[test]
    fn what_is_no_profile_is_said() {
        for (text, error) in [
            ("", "it does not count instructions"),
            ("events: Ir\ncfn=(7)\n", "was not told before"),
            ("events: Ir\ncfn=(7) x\ncalls=1 2\n", ""),
            ("events: Ir\ncfn=(7) x\ncalls=1 2\n3", "has no instructions"),
        ] {
            let told = parse(text).map_or_else(|error| format!("{error:#}"), |_| String::new());
            assert!(told.contains(error) && told.is_empty() == error.is_empty(), "{text:?}: {told}");
        }
    }
}
