//! How a sub-test ended.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::process::ExitStatus;

/// How a sub-test ended on one side.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    /// It ran and found nothing wrong.
    Pass,
    /// It ran and found a mistake.
    Fail,
    /// It found that the device lacks what it tests.
    Skip,
    /// A signal ended its process, or it could not be started.
    Crash,
    /// It had not ended when its time was over, which says nothing.
    Timeout,
}

impl Verdict {
    /// All of them, in the order of tables.
    pub(super) const ALL: [Verdict; 5] =
        [Verdict::Pass, Verdict::Fail, Verdict::Skip, Verdict::Crash, Verdict::Timeout];

    /// The verdict of a process that ended with `status`, or did not in its time, and wrote `results`.
    ///
    /// The suite's harness writes what it found as JSON where CL_CONFORMANCE_RESULTS_FILENAME says, and this tells a skip
    /// from a pass. The exit status can only make it worse: a process can still fail or crash after it wrote.
    pub(super) fn of(status: Option<ExitStatus>, results: Option<&str>, test: &str) -> Verdict {
        let Some(status) = status else { return Verdict::Timeout };
        match status.code() {
            None => Verdict::Crash,
            Some(0) => results.and_then(|results| written(results, test)).unwrap_or(Verdict::Pass),
            // `env`, `chroot` and `paragpu run` say with 125 to 127 that they could not run the program, and the last
            // with higher numbers that a signal ended it. The harness ends with 0, 1 or, for -1, 255.
            Some(code) if (125..=128 + 64).contains(&code) => Verdict::Crash,
            Some(_) => Verdict::Fail,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.pad(match self {
            Verdict::Pass => "pass",
            Verdict::Fail => "fail",
            Verdict::Skip => "skip",
            Verdict::Crash => "crash",
            Verdict::Timeout => "timeout",
        })
    }
}

/// The file that the harness writes.
#[derive(Deserialize)]
struct Results {
    results: BTreeMap<String, Verdict>,
}

/// What the harness wrote of `test`. A binary whose sub-tests are arguments of ours, not its own, has one result.
fn written(results: &str, test: &str) -> Option<Verdict> {
    let Results { results } = serde_json::from_str(results).ok()?;
    match results.get(test) {
        Some(verdict) => Some(*verdict),
        None if results.len() == 1 => results.into_values().next(),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::Verdict;
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    const SKIPPED: &str = "{\"cmd\": \"x\", \"args\": \"\", \"results\": {\n\t\t\"a\": \"skip\"\n\t}\n}";

    fn exited(code: i32) -> Option<ExitStatus> {
        Some(ExitStatus::from_raw(code << 8))
    }

    #[test]
    fn the_harness_tells_a_skip_from_a_pass() {
        assert_eq!(Verdict::of(exited(0), Some(SKIPPED), "a"), Verdict::Skip);
        assert_eq!(Verdict::of(exited(0), Some(&SKIPPED.replace("skip", "pass")), "a"), Verdict::Pass);
    }

    #[test]
    fn without_its_results_the_exit_status_counts() {
        assert_eq!(Verdict::of(exited(0), None, "a"), Verdict::Pass);
        assert_eq!(Verdict::of(exited(0), Some("{\"results\": {"), "a"), Verdict::Pass);
        assert_eq!(Verdict::of(exited(1), None, "a"), Verdict::Fail);
        assert_eq!(Verdict::of(exited(255), None, "a"), Verdict::Fail);
    }

    #[test]
    fn a_process_that_fails_or_dies_after_it_wrote_a_pass_has_not_passed() {
        let passed = SKIPPED.replace("skip", "pass");
        assert_eq!(Verdict::of(exited(1), Some(&passed), "a"), Verdict::Fail);
        assert_eq!(Verdict::of(Some(ExitStatus::from_raw(11)), Some(&passed), "a"), Verdict::Crash);
        assert_eq!(Verdict::of(None, Some(&passed), "a"), Verdict::Timeout);
    }

    #[test]
    fn a_signal_is_a_crash_also_where_paragpu_run_reports_it() {
        assert_eq!(Verdict::of(exited(128 + 6), None, "a"), Verdict::Crash);
        assert_eq!(Verdict::of(exited(125), None, "a"), Verdict::Crash);
    }

    #[test]
    fn a_test_that_the_harness_knows_by_another_name_has_the_only_result() {
        assert_eq!(Verdict::of(exited(0), Some(SKIPPED), "uchar_float"), Verdict::Skip);
        let two = SKIPPED.replace("\"a\"", "\"b\": \"fail\", \"a\"");
        assert_eq!(Verdict::of(exited(0), Some(&two), "uchar_float"), Verdict::Pass);
    }
}
