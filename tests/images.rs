//! Images and samplers of a vGPU, on the host's real OpenCL.

mod common;

use common::{Daemon, example, succeeds};

#[test]
fn what_becomes_of_images_is_what_the_cpu_makes_of_them() {
    let daemon = Daemon::start();
    let output = succeeds(&mut daemon.run(&example("image_check")));
    assert!(output.contains(" passed, 0 failed"), "{output}");
}
