use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use paragpu_protocol::limits::MAX_PRINT_BYTES;
use rustix::pipe::{PipeFlags, pipe_with};

use super::{Launch, PrintClient, Printer, Settle, may_print};
use crate::sys::map::{Mapping, Window};

const SHORT: Duration = Duration::from_millis(1);

/// A printer, and what its drivers print to.
fn printer() -> (Printer, OwnedFd) {
    let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    (Printer::listening(ours).unwrap(), theirs)
}

fn print(to: &OwnedFd, text: &str) {
    let mut text = text.as_bytes();
    while !text.is_empty() {
        text = &text[rustix::io::write(to, text).unwrap()..];
    }
}

fn read(client: &PrintClient, most: u64) -> String {
    let memory = Arc::new(Mapping::anonymous(2 * MAX_PRINT_BYTES).unwrap());
    let window = Window::new(memory.clone(), 0, most).unwrap();
    let mut bytes = vec![0; client.read(&window)];
    assert!(memory.read(0, &mut bytes));
    String::from_utf8(bytes).unwrap()
}

/// The client's turn, which must have come.
#[track_caller]
fn turn(client: &PrintClient) -> Launch {
    client.turn(SHORT).expect("a turn")
}

#[test]
fn what_is_printed_goes_to_whose_turn_it_was() {
    let (printer, stdout) = printer();
    let (a, b) = (printer.client(), printer.client());
    let launch = turn(&a);
    assert!(b.turn(SHORT).is_none());
    print(&stdout, "of a");
    drop(launch);
    let launch = turn(&b);
    print(&stdout, "of b");
    drop(launch);
    assert_eq!(read(&b, 3), "of ");
    assert_eq!(read(&a, 100), "of a");
    assert_eq!(read(&b, 100), "b");
    assert_eq!(read(&b, 100), "");
}

#[test]
fn a_turn_comes_as_soon_as_the_other_ones_launch_has_landed() {
    let (printer, _stdout) = printer();
    let (a, b) = (printer.client(), printer.client());
    let launch = turn(&a);
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| b.turn(Duration::from_secs(60)).is_some());
        while !printer.0.lock().turns.is_awaited() {
            std::thread::sleep(SHORT);
        }
        drop(launch);
        assert!(waits.join().unwrap());
    });
}

#[test]
fn a_driver_that_prints_late_is_made_to_before_somebody_elses_turn_and_before_reading() {
    let (printer, stdout) = printer();
    let stdout = Arc::new(stdout);
    let (a, b) = (printer.client(), printer.client());
    let late = || -> Settle {
        let stdout = stdout.clone();
        Arc::new(move || print(&stdout, "late "))
    };
    drop(turn(&a));
    a.at(1, late);
    a.at(1, || panic!("that place is known"));
    assert_eq!(read(&a, 100), "late ");
    drop(turn(&b));
    assert_eq!(read(&a, 100), "late ");
    assert_eq!((read(&a, 100), read(&b, 100)), (String::new(), String::new()), "a is not asked any more");
    a.at(1, || panic!("it is not its turn"));
}

#[test]
fn more_than_a_pipe_holds_keeps_no_kernel_waiting_and_beyond_the_limit_the_end_is_lost() {
    let (printer, stdout) = printer();
    let client = printer.client();
    let launch = turn(&client);
    let text: String = (0..MAX_PRINT_BYTES / 8 + 1000).map(|line| format!("{line:7}\n")).collect();
    print(&stdout, &text);
    drop(launch);
    assert_eq!(read(&client, 2 * MAX_PRINT_BYTES as u64), text[..MAX_PRINT_BYTES]);
    print(&stdout, "again");
    assert_eq!(read(&client, 100), "again");
}

#[test]
fn what_nobody_has_launched_and_what_is_left_of_the_dead_goes_to_nobody() {
    let (printer, stdout) = printer();
    print(&stdout, "before");
    let (a, b) = (printer.client(), printer.client());
    let launch = turn(&a);
    print(&stdout, "of a");
    drop((launch, a));
    print(&stdout, "after a");
    drop(turn(&b));
    print(&stdout, "of b");
    assert_eq!(read(&b, 100), "of b");
}

#[test]
fn programs_that_may_print_are_told_by_their_text() {
    assert!(may_print(b"kernel void k() { printf(\"\"); }"));
    assert!(may_print(b"-DP=printf"));
    assert!(!may_print(b"kernel void k(global int *print) { f(print); }"));
    assert!(!may_print(b""));
}
