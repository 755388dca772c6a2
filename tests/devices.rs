//! Devices, queues, events and contexts of a vGPU, on the host's real OpenCL.

mod common;

use common::{Daemon, example, succeeds};

#[test]
fn devices_queues_events_and_contexts_are_as_the_specification_says() {
    let daemon = Daemon::start();
    let output = succeeds(&mut daemon.run(&example("device_check")));
    assert!(output.contains(" passed, 0 failed"), "{output}");
}
