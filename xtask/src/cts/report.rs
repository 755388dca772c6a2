//! A run as a table, as JSON, and as a part of a document.

use super::summary::{Counts, Difference, Summary};
use super::verdict::Verdict;
use crate::sides::Platform;
use anyhow::{Context, Result};
use serde::Serialize;
use std::fmt::Write as _;
use std::path::Path;

/// All that a run found.
#[derive(Serialize)]
pub(super) struct Report {
    pub(super) platform: Platform,
    pub(super) results: Vec<Summary>,
    /// Binaries of the list that the suite lacks.
    pub(super) not_built: Vec<String>,
}

impl Report {
    /// Whether all that passes on the host passes through the vGPU.
    pub(super) fn is_good(&self) -> bool {
        self.results.iter().all(Summary::is_good)
    }

    /// Writes it as JSON.
    pub(super) fn write_json(&self, file: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
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
        std::fs::write(file, document).with_context(|| format!("cannot write {}", file.display()))
    }

    fn markdown(&self) -> String {
        let mut text = format!(
            "{} on {}, {} sub-tests:\n\n\
             | binary | sub-tests | native passes | vGPU passes | skipped | fail natively | no native verdict |\n\
             |---|---|---|---|---|---|---|\n",
            self.platform.title(),
            self.platform.device,
            self.total(|summary| summary.tests)
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

    fn report() -> Report {
        let compared = |test: &str, native, vgpu| Compared {
            test: test.into(),
            native,
            vgpu,
            native_seconds: 1.0,
            vgpu_seconds: 1.0,
        };
        let tests = [
            compared("a", Verdict::Pass, Some(Verdict::Pass)),
            compared("b", Verdict::Pass, Some(Verdict::Crash)),
            compared("c", Verdict::Timeout, None),
        ];
        let platform = Platform {
            name: "P".into(),
            version: "OpenCL 3.0 PoCL 3.1".into(),
            device: "cpu".into(),
            driver: "3.1".into(),
        };
        Report { platform, results: vec![Summary::of("x/test_x", &tests)], not_built: vec!["y".into()] }
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
    fn a_later_run_replaces_its_own_part_of_a_document_and_no_other() {
        let first = replace_block("# Title\n", "PoCL 3.1", "old\n");
        let both = replace_block(&first, "PoCL 6.0", "other\n");
        let later = replace_block(&both, "PoCL 3.1", "new\n");
        assert_eq!(later, both.replace("old", "new"));
        assert!(later.starts_with("# Title\n\n<!-- cts: PoCL 3.1 -->\nnew\n"));
    }
}
