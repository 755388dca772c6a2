//! Devices, queues, events and contexts of a vGPU, on the host's real OpenCL.

mod common;

use common::{Daemon, example, succeeds, wait_until};

#[test]
fn devices_queues_events_and_contexts_are_as_the_specification_says() {
    let daemon = Daemon::start();
    let output = succeeds(&mut daemon.run(&example("device_check")));
    assert!(output.contains(" passed, 0 failed"), "{output}");
}

/// PoCL has neither, and the example says what it skips; with Intel's OpenCL for processors there is nothing to skip.
#[test]
fn pipes_and_queues_on_the_device_work_or_are_refused() {
    let daemon = Daemon::start();
    let output = succeeds(&mut daemon.run(&example("device_side")));
    print!("{output}");
    for what in ["pipes", "queues"] {
        assert_eq!(output.lines().filter(|line| line.contains(what)).count(), 1, "{output}");
    }
    assert!(!daemon.log().contains("ERROR"), "{}", daemon.log());
}

/// Runs one of `life_check`'s lives, and waits until nothing of it is left on the host.
fn live(life: &str) -> String {
    let daemon = Daemon::start();
    let output = succeeds(daemon.run(&example("life_check")).arg(life));
    wait_until("the end of the executor", || daemon.executors().is_empty());
    let log = daemon.log();
    assert!(!log.contains("fail") && !log.contains("ERROR"), "{log}");
    output
}

#[test]
fn a_process_that_forks_computes_on_both_sides() {
    assert_eq!(live("fork"), "parent and children computed\n");
}

#[test]
fn the_driver_outlives_being_unloaded() {
    assert!(live("unload").ends_with("was loaded and unloaded\n"));
}

#[test]
fn a_process_may_end_with_commands_and_callbacks_under_way() {
    for life in ["exit", "quick-exit", "exit-in-thread"] {
        assert_eq!(live(life), "leaving\n", "{life}");
    }
}

#[test]
fn hundreds_of_threads_compute_at_once() {
    assert_eq!(live("threads"), "300 threads computed\n");
}

#[test]
fn tens_of_thousands_of_objects_live_at_once() {
    assert_eq!(live("objects"), "objects lived and died\n");
}

#[test]
fn gigabytes_of_buffers_hold_what_was_put_into_them() {
    assert!(live("gigabytes").contains(" buffers of "));
}
