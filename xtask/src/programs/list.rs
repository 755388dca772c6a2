//! The list of programs.

use super::is_there;
use anyhow::{Context, Result};
use serde::Deserialize;
use std::path::Path;
use std::process::{Command, Stdio};

const LIST: &str = include_str!("../resources/programs.toml");

const SCRIPTS: &str = "{scripts}";
const PYTHON: &str = "{python}";
const PROGRAM: &str = "{program}";

/// A list, as its file has it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    #[serde(rename = "program")]
    programs: Vec<Program>,
}

/// A program that is run on both sides.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Program {
    pub(super) name: String,
    /// The command that builds it, if it must be built.
    #[serde(default)]
    pub(super) build: Vec<String>,
    pub(super) command: Vec<String>,
    /// Python modules that it needs.
    #[serde(default)]
    modules: Vec<String>,
    /// Files that it needs.
    #[serde(default)]
    files: Vec<String>,
    /// Debian packages that have all of it.
    #[serde(default)]
    debian: Vec<String>,
    /// Packages of PyPI that have the modules.
    #[serde(default)]
    pub(super) pypi: Vec<String>,
    #[serde(default)]
    pub(super) compare: Compare,
    /// What its output must have in it.
    pub(super) expect: Option<String>,
    /// A file beside the scripts that has the output.
    pub(super) expected: Option<String>,
    /// Words of lines that are left out of the comparison.
    #[serde(default)]
    ignore: Vec<String>,
    /// Whether `cargo xtask test` runs it.
    #[serde(default)]
    pub(super) ci: bool,
}

/// What must be the same on both sides.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Compare {
    /// What it prints on stdout.
    #[default]
    Output,
    /// That it ends well.
    Status,
}

impl Program {
    /// All programs of the list.
    pub(super) fn all() -> Result<Vec<Program>> {
        let list: List = toml::from_str(LIST).context("resources/programs.toml")?;
        Ok(list.programs)
    }

    /// Where its packages come from.
    pub(super) fn packages(&self) -> String {
        let sources = [("Debian", &self.debian), ("PyPI", &self.pypi)];
        let sources = sources.into_iter().filter(|(_, packages)| !packages.is_empty());
        let sources: Vec<_> =
            sources.map(|(name, packages)| format!("{} ({name})", packages.join(", "))).collect();
        sources.join(" or ")
    }

    /// A Python that has its modules, which is of no meaning if it needs none; or else what is missing.
    pub(super) fn find(&self, venv: &Path) -> Result<String, String> {
        let missing = |what: &str| Err(format!("no {what}: install {}", self.packages()));
        let program = self.build.first().or(self.command.first());
        let fixed = program.into_iter().filter(|word| !word.starts_with('{'));
        if let Some(file) = fixed.chain(&self.files).find(|file| !is_there(file)) {
            return missing(file);
        }
        // Debian's modules are for Debian's Python, which need not be the first in PATH.
        let venv = venv.join("bin/python").to_string_lossy().into_owned();
        let pythons = [venv, "python3".to_owned(), "/usr/bin/python3".to_owned()];
        let suitable =
            pythons.into_iter().filter(|python| is_there(python)).find(|python| self.suits(python));
        match suitable {
            Some(python) => Ok(python),
            None if self.command.iter().any(|word| word == PYTHON) => {
                missing(&format!("Python with {}", self.modules.join(", ")))
            }
            None => Ok(String::new()),
        }
    }

    fn suits(&self, python: &str) -> bool {
        let script = self
            .modules
            .iter()
            .map(|module| format!("assert importlib.util.find_spec('{module}'), '{module}'\n"));
        let script = "import importlib.util\n".to_owned() + &script.collect::<String>();
        let status =
            Command::new(python).args(["-c", &script]).stdout(Stdio::null()).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    }

    /// The words of a command with what they stand for.
    pub(super) fn fill(&self, words: &[String], scripts: &Path, python: &str, program: &Path) -> Vec<String> {
        let fill = |word: &String| {
            word.replace(SCRIPTS, &scripts.to_string_lossy())
                .replace(PYTHON, python)
                .replace(PROGRAM, &program.to_string_lossy())
        };
        words.iter().map(fill).collect()
    }

    /// The first lines of two outputs that should be the same and are not.
    pub(super) fn first_difference(&self, expected: &str, got: &str) -> Option<(String, String)> {
        let counts = |line: &&str| !self.ignore.iter().any(|word| line.contains(word));
        let (mut expected, mut got) = (expected.lines().filter(counts), got.lines().filter(counts));
        loop {
            let (there, here) = (expected.next(), got.next());
            if there.is_none() && here.is_none() {
                return None;
            }
            if there != here {
                let show = |line: Option<&str>| line.unwrap_or("nothing more").to_owned();
                return Some((show(there), show(here)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Program;
    use std::path::Path;

    fn programs() -> Vec<Program> {
        Program::all().unwrap()
    }

    #[test]
    fn the_list_names_scripts_that_are_there() {
        let scripts = crate::workspace::root().join("tests/programs");
        for program in programs() {
            for word in program.build.iter().chain(&program.command) {
                if let Some(script) = word.strip_prefix("{scripts}/") {
                    assert!(scripts.join(script).is_file(), "{script}");
                }
            }
            assert!(program.expected.iter().all(|file| scripts.join(file).is_file()), "{}", program.name);
            assert!(!program.packages().is_empty(), "{}", program.name);
        }
    }

    #[test]
    fn what_every_run_of_the_checks_needs_is_debians() {
        for program in programs().iter().filter(|program| program.ci) {
            assert!(!program.debian.is_empty(), "{}", program.name);
        }
    }

    #[test]
    fn a_program_that_is_not_installed_says_what_to_install() {
        let mut program = programs().into_iter().find(|program| program.name == "pyopencl").unwrap();
        program.modules.push("no_such_module".to_owned());
        let reason = program.find(Path::new("/nowhere")).unwrap_err();
        assert!(
            reason.contains("no_such_module: install python3-pyopencl (Debian) or pyopencl, "),
            "{reason}"
        );
        program.command[0] = "no-such-program".to_owned();
        assert!(program.find(Path::new("/nowhere")).unwrap_err().starts_with("no no-such-program: "));
    }

    #[test]
    fn outputs_differ_by_lines_that_are_not_ignored() {
        let mut program = programs().remove(0);
        let differs = |program: &Program, got: &str| program.first_difference("a\ntime 1\nb\n", got);
        assert_eq!(differs(&program, "a\ntime 1\nb\n"), None);
        assert!(differs(&program, "a\ntime 2\nb\n").is_some());
        program.ignore.push("time".to_owned());
        assert_eq!(differs(&program, "a\ntime 2\nb\n"), None);
        assert_eq!(differs(&program, "a\n"), Some(("b".to_owned(), "nothing more".to_owned())));
        assert_eq!(differs(&program, "a\nb\nc\n"), Some(("nothing more".to_owned(), "c".to_owned())));
    }
}
