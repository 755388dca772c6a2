//! What the sub-tests of a run say together.

use super::verdict::Verdict;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A sub-test on both sides.
#[derive(Clone, Debug)]
pub(super) struct Compared {
    pub(super) test: String,
    pub(super) native: Verdict,
    /// None where the native side came to no verdict in its time: there is nothing to compare with.
    pub(super) vgpu: Option<Verdict>,
    pub(super) native_seconds: f32,
    pub(super) vgpu_seconds: f32,
}

/// A sub-test whose two verdicts are not the same.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Difference {
    pub(super) test: String,
    pub(super) native: Verdict,
    pub(super) vgpu: Verdict,
}

/// One binary's sub-tests.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Summary {
    pub(super) binary: String,
    /// Sub-tests that pass on the host's own OpenCL.
    pub(super) native_pass: usize,
    /// Sub-tests that pass through the vGPU.
    pub(super) vgpu_pass: usize,
    pub(super) differences: Vec<Difference>,
    /// All sub-tests.
    pub(super) tests: usize,
    pub(super) native: Counts,
    pub(super) vgpu: Counts,
    /// Sub-tests that the host itself fails or crashes in.
    pub(super) native_failures: Vec<String>,
    /// Sub-tests that came to no native verdict in their time.
    pub(super) undecided: Vec<String>,
    pub(super) native_seconds: f32,
    pub(super) vgpu_seconds: f32,
}

/// How many sub-tests ended in which way.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct Counts(BTreeMap<Verdict, usize>);

impl Counts {
    /// How many ended like this.
    pub(super) fn of(&self, verdict: Verdict) -> usize {
        self.0.get(&verdict).copied().unwrap_or(0)
    }

    fn count(verdicts: impl Iterator<Item = Verdict>) -> Counts {
        let mut counts: BTreeMap<_, _> = Verdict::ALL.into_iter().map(|verdict| (verdict, 0)).collect();
        for verdict in verdicts {
            *counts.entry(verdict).or_default() += 1;
        }
        Counts(counts)
    }
}

impl Compared {
    /// Whether the two sides came to different verdicts.
    pub(super) fn differs(&self) -> bool {
        self.vgpu.is_some_and(|vgpu| vgpu != self.native)
    }
}

impl Difference {
    /// Whether the vGPU spoils what the host can do. That it does better, because the guest's driver checks what the host's
    /// does not, is a difference too, but nothing to repair.
    pub(super) fn is_ours(&self) -> bool {
        self.native == Verdict::Pass
    }
}

impl Summary {
    /// Sums up one binary.
    pub(super) fn of(binary: &str, tests: &[Compared]) -> Summary {
        let named = |chosen: &dyn Fn(&Compared) -> bool| -> Vec<String> {
            tests.iter().filter(|test| chosen(test)).map(|test| test.test.clone()).collect()
        };
        let difference = |test: &Compared| {
            let vgpu = test.vgpu.filter(|_| test.differs())?;
            Some(Difference { test: test.test.clone(), native: test.native, vgpu })
        };
        let native = Counts::count(tests.iter().map(|test| test.native));
        let vgpu = Counts::count(tests.iter().filter_map(|test| test.vgpu));
        Summary {
            binary: binary.to_owned(),
            native_pass: native.of(Verdict::Pass),
            vgpu_pass: vgpu.of(Verdict::Pass),
            differences: tests.iter().filter_map(difference).collect(),
            tests: tests.len(),
            native,
            vgpu,
            native_failures: named(&|test| [Verdict::Fail, Verdict::Crash].contains(&test.native)),
            undecided: named(&|test| test.native == Verdict::Timeout),
            native_seconds: tests.iter().map(|test| test.native_seconds).sum(),
            vgpu_seconds: tests.iter().map(|test| test.vgpu_seconds).sum(),
        }
    }

    /// Whether all that passes on the host passes through the vGPU.
    pub(super) fn is_good(&self) -> bool {
        !self.differences.iter().any(Difference::is_ours)
    }
}

#[cfg(test)]
mod tests {
    use super::{Compared, Summary, Verdict};

    fn compared(test: &str, native: Verdict, vgpu: impl Into<Option<Verdict>>) -> Compared {
        Compared { test: test.into(), native, vgpu: vgpu.into(), native_seconds: 1.0, vgpu_seconds: 2.0 }
    }

    #[test]
    fn what_the_host_itself_cannot_do_is_not_ours() {
        use Verdict::{Crash, Fail, Pass, Skip};
        let tests = [
            compared("a", Pass, Pass),
            compared("b", Fail, Pass),
            compared("c", Fail, Crash),
            compared("d", Skip, Fail),
        ];
        let summary = Summary::of("x", &tests);
        assert!(summary.is_good());
        assert_eq!(summary.differences.len(), 3);
        assert_eq!((summary.native_pass, summary.vgpu_pass), (1, 2));
        assert_eq!(summary.native_failures, ["b", "c"]);
    }

    #[test]
    fn a_pass_that_is_lost_in_any_way_is_ours() {
        for lost in [Verdict::Fail, Verdict::Skip, Verdict::Crash, Verdict::Timeout] {
            let summary = Summary::of("x", &[compared("a", Verdict::Pass, lost)]);
            assert!(!summary.is_good(), "{lost}");
        }
    }

    #[test]
    fn a_test_without_a_native_verdict_is_compared_with_nothing() {
        let summary = Summary::of("x", &[compared("a", Verdict::Timeout, None)]);
        assert!(summary.is_good() && summary.differences.is_empty());
        assert_eq!(summary.undecided, ["a"]);
        assert_eq!(summary.vgpu.of(Verdict::Timeout), 0);
    }
}
