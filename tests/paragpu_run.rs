//! Programs without a VM: `paragpu run` and `paragpu doctor`, on the host's real OpenCL.

mod common;

use std::io::Write;
use std::path::Path;

use common::{Daemon, example, paragpu, succeeds, wait_until};

#[test]
fn what_the_vgpu_computes_is_what_the_cpu_computes() {
    let daemon = Daemon::start();
    let output = succeeds(&mut daemon.run(&example("vgpu_check")));
    assert!(output.contains(" passed, 0 failed"), "{output}");
}

#[test]
fn command_buffers_do_what_the_cpu_computes() {
    let daemon = Daemon::start();
    let output = succeeds(&mut daemon.run(&example("command_buffer")));
    assert!(output.contains(" passed, 0 failed"), "{output}");
    for line in output.lines().filter(|line| line.starts_with("skip")) {
        say(line);
    }
}

#[test]
fn programs_of_every_kind_compute_what_the_cpu_computes() {
    let daemon = Daemon::start();
    let output = succeeds(&mut daemon.run(&example("vgpu_programs")));
    assert!(output.contains(" passed, 0 failed"), "{output}");
    for line in output.lines().filter(|line| line.starts_with("skip")) {
        say(line);
    }
}

#[test]
fn a_compiler_that_crashes_takes_its_vgpus_contexts_along_and_nothing_else() {
    let daemon = Daemon::start();
    let output = succeeds(daemon.run(&example("vgpu_programs")).arg("--crash"));
    if let Some(line) = output.lines().find(|line| line.starts_with("skip")) {
        return say(line);
    }
    assert!(output.contains("a new context works"), "{output}");
    let lost = daemon.log().lines().filter(|line| line.contains("contexts lost")).count();
    assert_eq!(lost, 1, "{}", daemon.log());
    succeeds(daemon.run(&example("vgpu_check")).args(["--only", "vector addition"]));
}

/// Past the test runner, which keeps what a test that passes has to say.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

#[test]
fn a_busy_stream_of_kernels_goes_over_the_ring_without_a_kick_per_command() {
    let daemon = Daemon::start();
    succeeds(daemon.run(&example("vgpu_check")).args(["--only", "ten thousand kernels"]));
    let mut line = None;
    wait_until("the session's summary", || {
        line = daemon.log().lines().find(|line| line.contains("commands: ")).map(str::to_owned);
        line.is_some()
    });
    let line = line.unwrap();
    let number_before = |what: &str| -> u64 {
        let before = line.split(what).next().unwrap().trim_end();
        before.rsplit(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
    };
    // 10,000 launches, and an argument set before each.
    assert!(number_before("by ring") >= 20_000, "{line}");
    assert!(number_before("doorbells") * 20 <= number_before("by ring"), "{line}");
}

#[test]
fn without_a_daemon_a_private_one_serves_the_command() {
    let output =
        succeeds(paragpu().args(["run", "--"]).arg(example("vgpu_check")).env("XDG_RUNTIME_DIR", "/nowhere"));
    assert!(output.contains(" passed, 0 failed"), "{output}");
}

#[test]
fn memory_is_shared_with_a_device_that_reaches_the_hosts() {
    let daemon = Daemon::start();
    let output = succeeds(&mut daemon.run(&example("vgpu_memory")));
    assert!(output.contains("ok    a kernel that runs sees what is written meanwhile"), "{output}");
}

#[test]
fn buffers_hold_what_they_must_whoever_reads_and_writes_them() {
    let daemon = Daemon::start();
    let output = succeeds(&mut daemon.run(&example("vgpu_buffers")));
    assert!(output.contains(" passed, 0 failed"), "{output}");
    let mut apart = paragpu();
    apart.args(["run", "--"]).arg(example("vgpu_buffers"));
    apart.env("XDG_RUNTIME_DIR", "/nowhere").env("PARAGPU_SHARE_MEMORY", "no");
    let output = succeeds(&mut apart);
    assert!(output.contains(" passed, 0 failed"), "{output}");
}

#[test]
fn memory_is_shared_coarsely_with_a_device_that_has_its_own() {
    let mut command = paragpu();
    command.args(["run", "--"]).arg(example("vgpu_memory"));
    command.env("XDG_RUNTIME_DIR", "/nowhere").env("PARAGPU_SHARE_MEMORY", "no");
    let output = succeeds(&mut command);
    assert!(output.contains("shared virtual memory: 0x1\n"), "{output}");
    assert!(output.contains("ok    a list built here is walked by a kernel"), "{output}");
}

#[test]
fn the_picture_is_rendered_and_checked() {
    let daemon = Daemon::start();
    let directory = tempfile::tempdir().unwrap();
    let png = directory.path().join("picture.png");
    let size = ["--width", "160", "--height", "96"];
    let output = succeeds(daemon.run(&example("picture")).arg("--output").arg(&png).args(size));
    assert!(output.contains("against the CPU: ok"), "{output}");
    assert!(std::fs::read(&png).unwrap().starts_with(b"\x89PNG\r\n"));
}

#[test]
fn clinfo_shows_one_platform_with_the_hosts_devices() {
    let daemon = Daemon::start();
    let output = succeeds(daemon.run(Path::new("clinfo")).arg("--raw"));
    let value = |key: &str| {
        let line = output
            .lines()
            .find(|line| line.contains(key))
            .unwrap_or_else(|| panic!("no {key} in:\n{output}"));
        line.split_whitespace().skip_while(|word| *word != key).skip(1).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(value("#PLATFORMS"), "1");
    assert_eq!(value("CL_PLATFORM_NAME"), "paragpu");
    let native = succeeds(std::process::Command::new("clinfo").arg("--raw"));
    let name = native.lines().find(|line| line.contains("CL_DEVICE_NAME ")).unwrap();
    let name = name.split_once("CL_DEVICE_NAME").unwrap().1.trim();
    assert_eq!(value("CL_DEVICE_NAME"), name);
}

#[test]
fn the_driver_is_disabled_by_a_word_and_not_by_a_zero() {
    let daemon = Daemon::start();
    for (value, is_there) in [("0", true), ("1", false)] {
        let variable = format!("PARAGPU_DISABLE={value}");
        let output = daemon.run(Path::new("env")).args([&variable, "clinfo", "-l"]).output().unwrap();
        let list = String::from_utf8_lossy(&output.stdout);
        assert_eq!(list.contains("paragpu"), is_there, "{variable}: {list}");
    }
}

#[test]
fn exit_status_and_output_pass_through() {
    let daemon = Daemon::start();
    let output = daemon.run(Path::new("sh")).args(["-c", "echo out; echo err >&2; exit 7"]).output().unwrap();
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(output.stdout, b"out\n");
    assert!(String::from_utf8_lossy(&output.stderr).ends_with("err\n"));
}

#[test]
fn a_socket_that_is_not_there_is_an_error_that_says_so() {
    let output = paragpu().args(["run", "--socket", "/nowhere/socket", "--", "true"]).output().unwrap();
    assert!(!output.status.success());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("/nowhere/socket"), "{stderr}");
}

#[test]
fn a_program_whose_daemon_is_gone_finds_no_device_and_does_not_crash() {
    let daemon = Daemon::start();
    let script = format!("kill -9 {}; sleep 0.2; clinfo -l; echo status $?", daemon.pid());
    let output = daemon.run(Path::new("sh")).args(["-c", &script]).output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    // clinfo itself ends with 0 where there is no platform, or 1 in newer versions; a signal would be above 128.
    let status = stdout.lines().last().unwrap().strip_prefix("status ").unwrap().parse::<u32>().unwrap();
    assert!(status <= 1, "{stdout}");
    assert!(!stdout.contains("paragpu"), "{stdout}");
}

#[test]
fn the_doctor_finds_that_this_host_computes() {
    let output = succeeds(paragpu().args(["doctor", "--place", "host", "--json"]));
    let report: serde_json::Value = serde_json::from_str(&output).unwrap();
    assert_eq!(report["computes"], true, "{output}");
    let test = report["findings"].as_array().unwrap().last().unwrap();
    assert_eq!(test["state"], "ok", "{output}");
}

#[test]
fn the_doctor_says_what_is_missing_where_there_is_no_opencl() {
    let empty = tempfile::tempdir().unwrap();
    let output =
        paragpu().args(["doctor", "--place", "host"]).env("OCL_ICD_VENDORS", empty.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("MISSING  OpenCL devices") && text.contains("pocl-opencl-icd"), "{text}");
}
