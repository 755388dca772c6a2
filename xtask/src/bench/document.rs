//! Tables in documents, between marks.

use anyhow::{Context, Result};
use std::path::Path;

/// Puts a table into a document, in place of the one of this name that is there.
pub(crate) fn replace(file: &Path, name: &str, table: &str) -> Result<()> {
    let path = file.display();
    let before = std::fs::read_to_string(file).with_context(|| format!("cannot read {path}"))?;
    let [begin, end] = marks(name);
    let document = with_table(&before, name, table)
        .with_context(|| format!("{path} lacks the lines {} and {end}", begin.trim()))?;
    std::fs::write(file, document).with_context(|| format!("cannot write {path}"))
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
    use super::with_table;

    #[test]
    fn a_documents_table_is_replaced_and_nothing_else() {
        let document = "before\n<!-- bench it -->\nold\n<!-- end of bench it -->\nafter\n";
        let once = with_table(document, "it", "| a |\n").unwrap();
        assert_eq!(once, "before\n<!-- bench it -->\n\n| a |\n\n<!-- end of bench it -->\nafter\n");
        assert_eq!(with_table(&once, "it", "| a |\n").unwrap(), once);
        assert_eq!(with_table(document, "other", ""), None);
    }
}
