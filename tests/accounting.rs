//! Is what a guest program used counted for its vGPU, while it runs and when it has ended?

mod common;
mod configured;

use std::process::Stdio;

use configured::{Daemon, wait_until};
use serde_json::Value;

/// Enough to be counted, and done soon.
const KERNELS: &str = "60";

#[test]
fn a_programs_use_is_its_vgpus_and_stays_counted_when_it_has_ended() {
    let daemon = Daemon::start(
        "[[vgpu]]\nname = \"web\"\nsocket = \"DIR/web\"\n[[vgpu]]\nname = \"idle\"\nsocket = \"DIR/idle\"\n",
    );
    let start = |more: &[&str]| {
        let mut command = common::paragpu();
        command.arg("run").arg("--socket").arg(daemon.at("web")).arg("--");
        command.arg(common::example("device_load")).args(["--iterations", "20000"]).args(more);
        command.env("TMPDIR", daemon.directory.path()).stdout(Stdio::null()).spawn().unwrap()
    };
    let number = |json: &Value, key: &str| json["usage"][key].as_u64().unwrap_or(0);

    // One that does not end by itself meanwhile: it is seen, and kept from the device while the vGPU is paused.
    let mut endless = start(&["--seconds", "300"]);
    let process = || daemon.get("/v1/vgpus/web")["processes"][0].clone();
    wait_until("kernels", || number(&process(), "launches") > 0);
    assert_eq!(process()["name"], "device_load");
    assert_eq!(daemon.ask("POST", "/v1/vgpus/web/pause", "").0, 200);
    let standing = || daemon.get("/v1/vgpus/web")["standing"].clone();
    // What it had begun is waited for.
    wait_until("the pause", || standing() == "paused");
    let time = || number(&daemon.get("/v1/vgpus/web"), "device-ns");
    let mut before = time();
    wait_until("the device to be left alone", || {
        std::thread::sleep(std::time::Duration::from_millis(100));
        time() == std::mem::replace(&mut before, time())
    });
    assert_eq!(daemon.ask("POST", "/v1/vgpus/web/resume", "").0, 200);
    wait_until("it to go on", || time() > before);
    let busy = || daemon.get("/v1/devices")["devices"][0]["busy-ns"].as_u64().unwrap();
    assert!(busy() > 0);
    // It passes that on to the program, which a killed one could not.
    common::signal(endless.id(), rustix::process::Signal::TERM);
    endless.wait().unwrap();
    wait_until("its end", || daemon.connections("web") == 0);

    let before = daemon.get("/v1/vgpus/web");
    assert!(number(&before, "device-ns") > 0 && before["cpu-ns"].as_u64().unwrap() > 0, "{before}");
    assert_eq!((&before["processes"], &before["standing"]), (&Value::Array(Vec::new()), &"offline".into()));
    assert!(start(&["--kernels", KERNELS, "--seconds", "0.1"]).wait().unwrap().success());
    wait_until("its end", || daemon.connections("web") == 0);
    let after = daemon.get("/v1/vgpus/web");
    let launched = number(&after, "launches") - number(&before, "launches");
    assert!(launched > 0, "{after}");
    assert_eq!(number(&after, "memory-bytes"), 0, "what has ended has no memory");
    assert_eq!(number(&daemon.get("/v1/vgpus/idle"), "launches"), 0);
}
