//! A run as a table, as JSON, and as a part of a document.

use super::summary::{Counts, Difference, Summary};
use super::verdict::Verdict;
use super::write_in_one_piece;
use crate::sides::Platform;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use std::path::Path;

/// All that a run found.
#[derive(Deserialize, Serialize)]
pub(super) struct Report {
    pub(super) platform: Platform,
    pub(super) results: Vec<Summary>,
    /// Binaries of the list that the suite lacks.
    pub(super) not_built: Vec<String>,
    /// The sub-tests that were asked for, where not all were; then each binary's results are a part.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) only: Vec<String>,
}

impl Report {
    /// A run on `platform` that has found nothing yet.
    pub(super) fn new(platform: Platform) -> Report {
        Report { platform, results: Vec::new(), not_built: Vec::new(), only: Vec::new() }
    }

    /// What an earlier run on `platform` wrote as JSON, or nothing if the file does not exist yet.
    pub(super) fn read_earlier(file: &Path, platform: &Platform) -> Result<Report> {
        if !file.exists() {
            return Ok(Report::new(platform.clone()));
        }
        let text = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        let earlier: Report = serde_json::from_slice(&text)
            .with_context(|| format!("{} has no results of such a run", file.display()))?;
        let (theirs, ours) = (earlier.platform.identity(), platform.identity());
        if theirs != ours {
            bail!(
                "{} is of another platform, {theirs}, and the host has {ours}: \
                 choose another file, or leave --update out to replace it",
                file.display()
            );
        }
        if !earlier.only.is_empty() {
            bail!(
                "{} has results of some sub-tests only, {}: leave --update out to replace it",
                file.display(),
                earlier.only.join(", ")
            );
        }
        Ok(earlier)
    }

    /// Whether it has results of the binary.
    pub(super) fn has(&self, binary: &str) -> bool {
        self.results.iter().any(|summary| summary.binary == binary)
    }

    /// This run with what an `earlier` one found of other binaries, in the order of the list; what is on the list no longer
    /// comes last.
    pub(super) fn completing(&self, earlier: &Report, order: &[String]) -> Report {
        let kept = earlier.results.iter().filter(|summary| !self.has(&summary.binary));
        let mut results: Vec<_> = self.results.iter().chain(kept).cloned().collect();
        let place = |path: &String| order.iter().position(|listed| listed == path).unwrap_or(order.len());
        results.sort_by_key(|summary| place(&summary.binary));
        let mut whole = Report { results, ..Report::new(self.platform.clone()) };

        let missed = self.not_built.iter().chain(&earlier.not_built);
        whole.not_built = missed.filter(|path| !whole.has(path)).cloned().collect();
        whole.not_built.sort_by_key(place);
        whole.not_built.dedup();
        whole
    }

    /// Whether all that passes on the host passes through the vGPU.
    pub(super) fn is_good(&self) -> bool {
        self.results.iter().all(Summary::is_good)
    }

    /// Writes it as JSON.
    pub(super) fn write_json(&self, file: &Path) -> Result<()> {
        write_in_one_piece(file, serde_json::to_string_pretty(self)? + "\n")
    }

    /// Puts it into a document, instead of what an earlier run on this platform put there.
    pub(super) fn write_markdown(&self, file: &Path) -> Result<()> {
        let before = match file.exists() {
            true => {
                std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?
            }
            false => String::new(),
        };
        let document = replace_block(&before, &self.platform.title(), &self.markdown());
        write_in_one_piece(file, document)
    }

    fn markdown(&self) -> String {
        let passing = match self.differences(Difference::is_ours).len() {
            0 => "all of these".to_owned(),
            lost => format!("all but {lost} of these"),
        };
        let mut text = format!(
            "{} on {}: of {} sub-tests {} pass natively, and {passing} through the vGPU.\n\n\
             | binary | sub-tests | native passes | vGPU passes | skipped | fail natively | no native verdict |\n\
             |---|---|---|---|---|---|---|\n",
            self.platform.title(),
            self.platform.device,
            self.total(|summary| summary.tests),
            self.total(|summary| summary.native_pass),
        );
        let mut total = [0; COLUMNS];
        let mut write_row = |name: &str, row: [usize; COLUMNS]| {
            let cells: Vec<_> = row.iter().map(usize::to_string).collect();
            let _infallible = writeln!(text, "| {name} | {} |", cells.join(" | "));
        };
        for summary in &self.results {
            let row = columns(summary);
            total = std::array::from_fn(|column| total[column] + row[column]);
            write_row(&summary.binary, row);
        }
        write_row("all", total);
        for (what, ours) in [("Pass natively and not through the vGPU", true), ("Differ otherwise", false)] {
            let found = self.differences(|difference| difference.is_ours() == ours);
            if !found.is_empty() {
                let _infallible = write!(text, "\n{what}: {}.\n", found.join(", "));
            }
        }
        text
    }

    /// A table for people, with the differences below.
    pub(super) fn table(&self) -> String {
        let width = self.results.iter().map(|summary| summary.binary.len()).max().unwrap_or(0).max(6);
        let mut text = format!("{:width$}  sub-  ------- native -------  ------- vGPU --------\n", "");
        let heads = "pass fail skip oth.    s";
        let _infallible = writeln!(text, "{:width$} tests  {heads}  {heads}  differ", "binary");
        for summary in &self.results {
            let side = |counts: &Counts, seconds: f32| {
                let others = counts.of(Verdict::Crash) + counts.of(Verdict::Timeout);
                let [pass, fail, skip] = [Verdict::Pass, Verdict::Fail, Verdict::Skip].map(|v| counts.of(v));
                format!("{pass:4} {fail:4} {skip:4} {others:4} {seconds:4.0}")
            };
            let differ = match summary.differences.len() {
                0 => String::new(),
                many => format!("{many:6}"),
            };
            let _infallible = writeln!(
                text,
                "{:width$} {:5}  {}  {}  {differ}",
                summary.binary,
                summary.tests,
                side(&summary.native, summary.native_seconds),
                side(&summary.vgpu, summary.vgpu_seconds),
            );
        }
        self.write_lists(&mut text);
        text
    }

    fn write_lists(&self, text: &mut String) {
        let lists = [
            ("pass natively and not through the vGPU", self.differences(|difference| difference.is_ours())),
            ("differ otherwise", self.differences(|difference| !difference.is_ours())),
            ("came to no native verdict in their time", self.named(|summary| &summary.undecided)),
            ("are of binaries that are not built", self.not_built.clone()),
        ];
        for (what, names) in lists {
            if !names.is_empty() {
                let _infallible = writeln!(text, "\nThese {what}:\n    {}", names.join("\n    "));
            }
        }
        let _infallible = write!(
            text,
            "\n{}: of {} sub-tests {} pass natively and {} through the vGPU\n",
            self.platform.title(),
            self.total(|summary| summary.tests),
            self.total(|summary| summary.native_pass),
            self.total(|summary| summary.vgpu_pass),
        );
    }

    fn total(&self, what: impl Fn(&Summary) -> usize) -> usize {
        self.results.iter().map(what).sum()
    }

    fn named(&self, names: impl Fn(&Summary) -> &Vec<String>) -> Vec<String> {
        let of_binary = |summary: &Summary| -> Vec<String> {
            names(summary).iter().map(|test| format!("{} {test}", summary.binary)).collect()
        };
        self.results.iter().flat_map(of_binary).collect()
    }

    fn differences(&self, chosen: impl Fn(&Difference) -> bool) -> Vec<String> {
        let mut lines = Vec::new();
        for summary in &self.results {
            for difference in summary.differences.iter().filter(|difference| chosen(difference)) {
                let Difference { test, native, vgpu } = difference;
                lines.push(format!("{} {test} ({native}, vGPU {vgpu})", summary.binary));
            }
        }
        lines
    }
}

/// The numbers in a row of the document's table.
const COLUMNS: usize = 6;

fn columns(summary: &Summary) -> [usize; COLUMNS] {
    [
        summary.tests,
        summary.native_pass,
        summary.vgpu_pass,
        summary.native.of(Verdict::Skip),
        summary.native_failures.len(),
        summary.undecided.len(),
    ]
}

/// The document with `content` between the markers of `title`; they are added at its end if it lacks them.
fn replace_block(document: &str, title: &str, content: &str) -> String {
    let (start, end) = (format!("<!-- cts: {title} -->\n"), format!("<!-- end of cts: {title} -->\n"));
    let block = format!("{start}{content}{end}");
    let found = document.find(&start).and_then(|from| {
        let to = document[from..].find(&end)? + from + end.len();
        Some((&document[..from], &document[to..]))
    });
    match found {
        Some((before, after)) => format!("{before}{block}{after}"),
        None if document.is_empty() => block,
        None => format!("{}\n\n{block}", document.trim_end()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::summary::Compared;
    use super::{Platform, Report, Summary, Verdict, replace_block};

    fn platform(version: &str) -> Platform {
        Platform {
            name: "P".into(),
            version: format!("OpenCL 3.0 {version}"),
            device: "cpu".into(),
            driver: "3.1".into(),
        }
    }

    /// A report of binaries with one passing sub-test each.
    fn report_of(binaries: &[&str], not_built: &[&str]) -> Report {
        let summary =
            |binary: &&str| Summary::of(binary, &[compared("a", Verdict::Pass, Some(Verdict::Pass))]);
        let not_built = not_built.iter().map(|&path| path.to_owned()).collect();
        let results = binaries.iter().map(summary).collect();
        Report { results, not_built, ..Report::new(platform("PoCL 3.1")) }
    }

    fn compared(test: &str, native: Verdict, vgpu: Option<Verdict>) -> Compared {
        Compared { test: test.into(), native, vgpu, native_seconds: 1.0, vgpu_seconds: 1.0 }
    }

    fn report() -> Report {
        let tests = [
            compared("a", Verdict::Pass, Some(Verdict::Pass)),
            compared("b", Verdict::Pass, Some(Verdict::Crash)),
            compared("c", Verdict::Timeout, None),
        ];
        let results = vec![Summary::of("x/test_x", &tests)];
        Report { results, not_built: vec!["y".into()], ..Report::new(platform("PoCL 3.1")) }
    }

    #[test]
    fn the_json_has_for_each_binary_its_passes_and_differences() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("report.json");
        report().write_json(&file).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        let result = &json["results"][0];
        assert_eq!(result["binary"], "x/test_x");
        assert_eq!((&result["native_pass"], &result["vgpu_pass"]), (&2.into(), &1.into()));
        let difference = serde_json::json!([{"test": "b", "native": "pass", "vgpu": "crash"}]);
        assert_eq!(result["differences"], difference);
        assert_eq!(result["native"]["timeout"], 1);
    }

    #[test]
    fn the_table_names_what_differs_and_what_is_not_known() {
        let table = report().table();
        for line in
            ["x/test_x b (pass, vGPU crash)", "    x/test_x c", "of 3 sub-tests 2 pass natively and 1 "]
        {
            assert!(table.contains(line), "{table}");
        }
    }

    #[test]
    fn the_document_says_how_much_of_what_passes_natively_passes_through_the_vgpu() {
        let sentence =
            "PoCL 3.1 on cpu: of 3 sub-tests 2 pass natively, and all but 1 of these through the vGPU.";
        assert!(report().markdown().starts_with(sentence), "{}", report().markdown());
        let good = report_of(&["x", "y"], &[]).markdown();
        assert!(
            good.contains("of 2 sub-tests 2 pass natively, and all of these through the vGPU."),
            "{good}"
        );
    }

    #[test]
    fn a_run_of_some_binaries_completes_an_earlier_one() {
        let order = ["a", "b", "c", "d"].map(str::to_owned);
        let paths = |report: &Report| -> Vec<_> {
            report.results.iter().map(|summary| summary.binary.clone()).collect()
        };
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("report.json");
        report_of(&["gone", "c", "a"], &["b", "d"]).write_json(&file).unwrap();
        let earlier = Report::read_earlier(&file, &platform("PoCL 3.1")).unwrap();

        let mut run = report_of(&["b"], &["d"]);
        run.results.push(Summary::of("c", &[compared("new", Verdict::Pass, Some(Verdict::Fail))]));
        let whole = run.completing(&earlier, &order);
        assert_eq!(paths(&whole), ["a", "b", "c", "gone"]);
        assert_eq!(whole.not_built, ["d"]);
        assert_eq!(whole.results[2].differences.len(), 1, "the new row");
        assert!(!whole.is_good() && earlier.is_good());

        let nothing = report_of(&[], &[]);
        assert_eq!(paths(&nothing.completing(&earlier, &order)), ["a", "c", "gone"]);
        assert_eq!(paths(&run.completing(&nothing, &order)), ["b", "c"]);
    }

    #[test]
    fn only_results_of_the_same_platform_and_of_whole_binaries_are_completed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("report.json");
        assert!(Report::read_earlier(&file, &platform("PoCL 6.0")).unwrap().results.is_empty());
        report().write_json(&file).unwrap();
        let error = |file, version| {
            Report::read_earlier(file, &platform(version)).map(|_| ()).unwrap_err().to_string()
        };
        let message = error(&file, "PoCL 6.0");
        assert!(message.contains("PoCL 3.1") && message.contains("leave --update out"), "{message}");
        Report { only: vec!["a".into()], ..report() }.write_json(&file).unwrap();
        assert!(error(&file, "PoCL 3.1").contains("some sub-tests only, a:"));
        std::fs::write(&file, "{}").unwrap();
        assert!(error(&file, "PoCL 3.1").contains("no results"));
    }

    #[test]
    fn a_later_run_replaces_its_own_part_of_a_document_and_no_other() {
        let first = replace_block("# Title\n", "PoCL 3.1", "old\n");
        let both = replace_block(&first, "PoCL 6.0", "other\n");
        let later = replace_block(&both, "PoCL 3.1", "new\n");
        assert_eq!(later, both.replace("old", "new"));
        assert!(later.starts_with("# Title\n\n<!-- cts: PoCL 3.1 -->\nnew\n"));
    }
}
