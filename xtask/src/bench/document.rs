//! Tables in documents, between marks.

use anyhow::{Context, Result};
use std::path::Path;

/// Says at once if a table could not be put into a document, and not when it has been measured.
pub(crate) fn check(file: &Path, name: &str) -> Result<()> {
    put(file, name, "").map(drop)
}

/// Puts a table into a document, in place of the one of this name that is there.
pub(crate) fn replace(file: &Path, name: &str, table: &str) -> Result<()> {
    let document = put(file, name, table)?;
    std::fs::write(file, document).with_context(|| format!("cannot write {}", file.display()))
}

/// The document with it.
fn put(file: &Path, name: &str, table: &str) -> Result<String> {
    let path = file.display();
    let before = std::fs::read_to_string(file).with_context(|| format!("cannot read {path}"))?;
    let [begin, end] = marks(name);
    with_table(&before, name, table)
        .with_context(|| format!("{path} lacks the lines {} and {end}", begin.trim()))
}

/// Where a table is.
fn marks(name: &str) -> [String; 2] {
    [format!("<!-- bench {name} -->\n"), format!("<!-- end of bench {name} -->")]
}

fn with_table(document: &str, name: &str, table: &str) -> Option<String> {
    let [begin, end] = marks(name);
    let (head, rest) = document.split_once(&begin)?;
    let (_, tail) = rest.split_once(&end)?;
    Some([head, &begin, "\n", table, "\n", &end, tail].concat())
}

#[cfg(test)]
mod tests {
    use super::{check, with_table};

    #[test]
    fn a_documents_table_is_replaced_and_nothing_else() {
        let document = "before\n<!-- bench it -->\nold\n<!-- end of bench it -->\nafter\n";
        let once = with_table(document, "it", "| a |\n").unwrap();
        assert_eq!(once, "before\n<!-- bench it -->\n\n| a |\n\n<!-- end of bench it -->\nafter\n");
        assert_eq!(with_table(&once, "it", "| a |\n").unwrap(), once);
        assert_eq!(with_table(document, "other", ""), None);
    }

    #[test]
    fn a_document_without_its_marks_is_told_and_one_that_is_checked_stays_as_it_was() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = check(file.path(), "it").unwrap_err().to_string();
        assert!(error.contains("lacks the lines <!-- bench it -->"), "{error}");
        let document = "<!-- bench it -->\nold\n<!-- end of bench it -->\n";
        std::fs::write(file.path(), document).unwrap();
        check(file.path(), "it").unwrap();
        assert_eq!(std::fs::read_to_string(file.path()).unwrap(), document);
    }
}
