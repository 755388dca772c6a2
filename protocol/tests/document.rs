//! docs/protocol.md says the same as the code.

use paragpu_protocol::command::Opcode;

#[test]
fn the_document_lists_every_command_as_it_is() {
    let document = include_str!("../../docs/protocol.md");
    for &opcode in Opcode::ALL {
        let wait = if opcode.may_wait() { "yes" } else { "no" };
        let row = format!(
            "| {:#06x} | {} | {} | {wait} | {} |",
            opcode as u16,
            opcode.name(),
            opcode.body_len(),
            opcode.max_data()
        );
        assert!(document.contains(&row), "docs/protocol.md lacks the row: {row}");
    }
    let rows = document.lines().filter(|line| line.starts_with("| 0x00") && line.contains("| no |")).count()
        + document.lines().filter(|line| line.starts_with("| 0x00") && line.contains("| yes |")).count();
    assert_eq!(rows, Opcode::ALL.len(), "docs/protocol.md lists a command that does not exist");
}
