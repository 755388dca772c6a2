//! Does what a kernel prints come out of the program that launched it, and of no other? On the host's real OpenCL.

mod common;
mod printing_executor;

use std::collections::BTreeSet;
use std::fs;
use std::process::Stdio;

use common::{Daemon, example, succeeds, wait_until};
use printing_executor::PrintingExecutor;

/// What the example prints, in the order of the launches; the items of one launch may come in any order.
fn expected(launches: usize, items: usize) -> Vec<BTreeSet<String>> {
    let launch = |launch| (0..items).map(|item| format!("{launch}: item {item} of {items}")).collect();
    (0..launches).map(launch).collect()
}

#[track_caller]
fn check(output: &str, launches: usize, items: usize) {
    let text = output.strip_suffix("end\n").expect("everything before the end");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), launches * items);
    for (lines, expected) in lines.chunks(items).zip(expected(launches, items)) {
        assert_eq!(lines.iter().map(|line| (*line).to_owned()).collect::<BTreeSet<_>>(), expected);
    }
}

#[test]
fn lines_come_in_the_order_of_the_launches_and_are_there_before_the_program_knows_that_they_are_over() {
    let daemon = Daemon::start();
    for wait in ["finish", "event", "status", "read"] {
        println!("{wait}");
        let mut command = daemon.run(&example("printing"));
        check(&succeeds(command.args(["--launches", "50", "--items", "8", "--wait", wait])), 50, 8);
    }
    assert!(!daemon.log().contains("item"), "{}", daemon.log());
}

#[test]
fn a_program_that_does_not_wait_sees_them_too() {
    let daemon = Daemon::start();
    let mut command = daemon.run(&example("printing"));
    check(&succeeds(command.args(["--launches", "3", "--items", "4", "--wait", "sleep"])), 3, 4);
}

#[test]
fn a_megabyte_comes_whole() {
    let daemon = Daemon::start();
    // More than 1 MiB: at least 21 bytes a line.
    let output = succeeds(daemon.run(&example("printing")).args(["--items", "50000"]));
    assert!(output.len() > 1 << 20);
    check(&output, 1, 50_000);
}

#[test]
fn a_program_may_hide_printf_in_a_header_or_an_option_and_leave_out_the_newline() {
    let daemon = Daemon::start();
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("k.cl");
    fs::write(directory.path().join("say.h"), "#define SAY(x) printf(\"<%d>\", x)\n").unwrap();
    fs::write(&source, "#include \"say.h\"\nkernel void k(int launch) { SAY(launch); }\n").unwrap();
    let run = |options: &str| {
        let mut command = daemon.run(&example("printing"));
        command.arg("--source").arg(&source).args(["--options", options, "--launches", "3", "--items", "1"]);
        succeeds(&mut command)
    };
    assert_eq!(run(&format!("-I {}", directory.path().display())), "<0><1><2>end\n");
    fs::write(&source, "kernel void k(int launch) { SAY(\"[%d]\", launch); }\n").unwrap();
    assert_eq!(run("-DSAY=printf"), "[0][1][2]end\n");
}

#[test]
fn a_program_without_standard_output_goes_on() {
    let daemon = Daemon::start();
    let printing = example("printing");
    let mut command = daemon.run("sh".as_ref());
    succeeds(command.args(["-c", "exec \"$0\" --launches 20 >&-"]).arg(&printing));
    // Somebody who goes away ends it, as anybody who writes to a pipe.
    let mut command = daemon.run(&printing);
    let mut child = command
        .args(["--launches", "20", "--items", "20000"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    child.wait().unwrap();
    wait_until("its executor to end", || daemon.executors().is_empty());
    check(&succeeds(&mut daemon.run(&printing)), 1, 4);
}

#[test]
fn two_processes_of_one_executor_get_their_own_lines_each() {
    let executor = PrintingExecutor::start();
    let texts: Vec<String> = std::thread::scope(|scope| {
        let guests = [(1, "one"), (2, "two")].map(|(context, tag)| {
            let mut guest = executor.guest(context);
            scope.spawn(move || {
                let source = format!(
                    "kernel void k() {{ printf(\"{tag} %d\\n\", (int)get_global_id(0)); \
                     for (volatile int i = 0; i < 20000; i++) {{}} printf(\"{tag} end\\n\"); }}"
                );
                let kernel = guest.kernel(&source);
                let mut text = String::new();
                for _ in 0..15 {
                    // Two at a time, so that launches are in flight when the other one's turn comes.
                    let first = guest.launch(kernel, 2);
                    let second = guest.launch(kernel, 2);
                    guest.done(first);
                    guest.done(second);
                    text += &guest.printed();
                }
                text
            })
        });
        guests.map(|guest| guest.join().unwrap()).into()
    });
    for (text, tag) in texts.iter().zip(["one", "two"]) {
        let mut lines: Vec<&str> = text.lines().collect();
        lines.sort_unstable();
        let mut expected = Vec::new();
        for what in ["0", "1", "end", "end"] {
            expected.extend(vec![format!("{tag} {what}"); 30]);
        }
        expected.sort_unstable();
        assert_eq!(lines, expected);
    }
}

#[test]
fn what_a_context_has_not_fetched_is_bounded_and_goes_with_it() {
    use paragpu_protocol::limits::MAX_PRINT_BYTES;
    let executor = PrintingExecutor::start();
    let mut guest = executor.guest(1);
    // 32 bytes a line.
    let kernel = guest.kernel("kernel void k() { printf(\"%31d\\n\", (int)get_global_id(0)); }");
    for _ in 0..2 {
        let launch = guest.launch(kernel, MAX_PRINT_BYTES as u64 * 3 / 4 / 32);
        guest.done(launch);
    }
    let text = guest.printed();
    assert_eq!(text.len(), MAX_PRINT_BYTES, "what came first is kept");
    let launch = guest.launch(kernel, 1);
    guest.done(launch);
    let mut other = executor.guest(2);
    executor.end_context(1);
    let kernel = other.kernel("kernel void k() { printf(\"other\\n\"); }");
    let launch = other.launch(kernel, 1);
    other.done(launch);
    assert_eq!(other.printed(), "other\n");
}
