//! Which binaries of the conformance suite run, with which arguments, and how long a sub-test of each may take.

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::time::Duration;

/// What runs unless told otherwise.
pub(super) const DEFAULT: &str = include_str!("../resources/cts.toml");

/// Stands for the sub-test's name in arguments.
const TEST: &str = "{test}";
/// Stands for the suite's folder in arguments.
const SUITE: &str = "{suite}";

/// A list of binaries, as its file has it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct List {
    /// Seconds that a sub-test may take on either side, where its binary says nothing else.
    timeout: u64,
    #[serde(rename = "binary")]
    binaries: Vec<Binary>,
}

/// One binary of the suite.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Binary {
    /// The file below the suite's folder.
    pub(super) path: String,
    /// The arguments of one sub-test's process.
    #[serde(default = "only_the_test")]
    arguments: Vec<String>,
    /// Seconds that a sub-test may take.
    timeout: Option<u64>,
    /// The sub-tests, instead of what the binary lists itself.
    pub(super) tests: Option<Vec<String>>,
}

fn only_the_test() -> Vec<String> {
    vec![TEST.to_owned()]
}

impl List {
    /// Reads a list; `timeout` replaces all limits in it.
    pub(super) fn parse(text: &str, timeout: Option<u64>) -> Result<Vec<Binary>> {
        let list: List = toml::from_str(text).context("not a list of conformance tests")?;
        let mut binaries = list.binaries;
        for binary in &mut binaries {
            if !binary.arguments.iter().any(|argument| argument.contains(TEST)) {
                bail!("{}: its arguments lack {TEST}, so every sub-test would run the same", binary.path);
            }
            binary.timeout = timeout.or(binary.timeout).or(Some(list.timeout));
        }
        Ok(binaries)
    }
}

impl Binary {
    /// How long a sub-test may take.
    pub(super) fn limit(&self) -> Duration {
        Duration::from_secs(self.timeout.unwrap_or(60))
    }

    /// The arguments for one sub-test, with the suite in the folder `suite`.
    pub(super) fn arguments_for(&self, test: &str, suite: &str) -> Vec<String> {
        self.arguments.iter().map(|argument| argument.replace(SUITE, suite).replace(TEST, test)).collect()
    }

    /// Whether a user means this one: by its path, its file, or its file without `test_`.
    pub(super) fn is_called(&self, name: &str) -> bool {
        let file = self.path.rsplit('/').next().unwrap_or(&self.path);
        [self.path.as_str(), file, file.trim_start_matches("test_")].contains(&name)
    }
}

/// The sub-tests in what `BINARY --list` prints: one name a line, indented.
pub(super) fn listed_tests(output: &str) -> Vec<String> {
    let lines = output.lines().filter(|line| line.starts_with([' ', '\t']));
    lines.map(str::trim).filter(|name| is_name(name)).map(str::to_owned).collect()
}

fn is_name(word: &str) -> bool {
    !word.is_empty() && word.chars().all(|char| char.is_ascii_alphanumeric() || "_-.".contains(char))
}

#[cfg(test)]
mod tests {
    use super::{DEFAULT, List, listed_tests};
    use std::collections::HashSet;
    use std::time::Duration;

    #[test]
    fn the_default_list_is_read_and_names_each_binary_once() {
        let binaries = List::parse(DEFAULT, None).unwrap();
        let paths: HashSet<_> = binaries.iter().map(|binary| &binary.path).collect();
        assert_eq!(paths.len(), binaries.len());
        assert!(binaries.len() > 40);
    }

    #[test]
    fn a_binary_has_its_own_limit_or_the_lists_and_a_given_one_replaces_both() {
        let text = "timeout = 7\n[[binary]]\npath = \"a/test_a\"\n\
                    [[binary]]\npath = \"b/test_b\"\ntimeout = 90\narguments = [\"-w\", \"{test}\"]";
        let seconds = |timeout| -> Vec<_> {
            List::parse(text, timeout).unwrap().iter().map(|binary| binary.limit()).collect()
        };
        assert_eq!(seconds(None), [7, 90].map(Duration::from_secs));
        assert_eq!(seconds(Some(1)), [1, 1].map(Duration::from_secs));
    }

    #[test]
    fn arguments_name_the_test_and_the_suites_folder() {
        let text = "timeout = 7\n[[binary]]\npath = \"s/test_s\"\n\
                    arguments = [\"-w\", \"--path\", \"{suite}/bin\", \"{test}\"]";
        let binary = List::parse(text, None).unwrap().remove(0);
        assert_eq!(binary.arguments_for("op", "/cts"), ["-w", "--path", "/cts/bin", "op"]);
        assert!(binary.is_called("s/test_s") && binary.is_called("test_s") && binary.is_called("s"));
        assert!(!binary.is_called("test"));
    }

    #[test]
    fn mistakes_in_a_list_are_refused() {
        for (text, complaint) in [
            ("timeout = 7\n[[binary]]\npath = \"a\"\narguments = [\"-w\"]", "lack {test}"),
            ("timeout = 7\n[[binary]]\npath = \"a\"\ntime_out = 8", "unknown field"),
            ("[[binary]]\npath = \"a\"", "missing field `timeout`"),
            ("buffers/test_buffers", "not a list"),
        ] {
            let error = format!("{:#}", List::parse(text, None).unwrap_err());
            assert!(error.contains(complaint), "{error}");
        }
    }

    #[test]
    fn names_of_tests_are_told_from_what_else_a_binary_prints() {
        let output =
            "Initializing random seed to 0.\n\tbuffer_copy\n\t1Dto2D\n\n\ta sentence\n  indented\nrest\n";
        assert_eq!(listed_tests(output), ["buffer_copy", "1Dto2D", "indented"]);
    }
}
