//! Is a vGPU held to its limits, with one line in the log that says which, and at nobody else's cost?

mod common;
mod configured;
mod guests;

use configured::{Daemon, wait_until};
use guests::{Guest, command, config, usage};

const MIB: u64 = 1 << 20;

/// What a program says that must end well.
#[track_caller]
fn says(daemon: &Daemon, vgpu: &str, arguments: &[&str]) -> String {
    common::succeeds(&mut command(daemon, vgpu, "limits_check", arguments))
}

/// Lines of the log that start with a vGPU's name and hold a word.
fn logged(daemon: &Daemon, vgpu: &str, what: &str) -> Vec<String> {
    let of = format!(" {vgpu}");
    let log = daemon.log();
    let lines = log.lines().filter(|line| line.contains(what));
    lines
        .filter(|line| line.split(']').nth(1).is_some_and(|rest| rest.starts_with(&of)))
        .map(str::to_owned)
        .collect()
}

fn memory(daemon: &Daemon, vgpu: &str) -> u64 {
    usage(daemon, vgpu, "memory-bytes")
}

#[test]
fn a_vgpus_devices_have_the_memory_that_it_may_have_however_it_is_taken() {
    let daemon = Daemon::start(&config("", &[("small", "memory = \"256 MiB\""), ("large", "")]));
    let facts = says(&daemon, "small", &["facts"]);
    let size = 256 * MIB;
    assert!(facts.contains(&format!("global memory {size}\n")), "{facts}");
    assert!(facts.contains(&format!("largest allocation {size}\n")), "{facts}");
    let said = says(&daemon, "small", &["memory"]);
    assert!(said.contains("memory: ok") && said.contains("pipes: "), "{said}");
    assert_eq!(memory(&daemon, "small"), 0);
    // Its last words may come a little later.
    let lines = || logged(&daemon, "small", &format!("of {size} are used (memory)")).len();
    wait_until("one line for many refusals", || lines() > 0);
    assert_eq!(lines(), 1, "{}", daemon.log());

    // Two connections share it, and it comes back from one that is killed.
    let hold =
        |vgpu, mib: u64| Guest::start(&daemon, vgpu, "limits_check", &["hold", &(mib * MIB).to_string()]);
    let mut first = hold("small", 160);
    assert_eq!(first.says(), "held");
    assert_eq!(memory(&daemon, "small"), 160 * MIB);
    let second = hold("small", 128).end();
    assert!(!second.success && second.complained.contains("CL_MEM_OBJECT_ALLOCATION_FAILURE"), "{second:?}");
    let mut third = hold("small", 96);
    assert_eq!(third.says(), "held");
    let mut other = hold("large", 512);
    assert_eq!(other.says(), "held");
    assert_eq!((memory(&daemon, "small"), memory(&daemon, "large")), (256 * MIB, 512 * MIB));
    first.kill();
    wait_until("its memory to come back", || memory(&daemon, "small") == 96 * MIB);
    let mut fourth = hold("small", 160);
    assert_eq!(fourth.says(), "held");
    // So does that of executors that end.
    assert!(daemon.tool(&["kill", "small"]).status.success());
    wait_until("all memory to come back", || memory(&daemon, "small") == 0);
    let mut all = hold("small", 256);
    assert_eq!(all.says(), "held");
    assert_eq!(memory(&daemon, "large"), 512 * MIB);
}

#[test]
fn more_objects_than_it_may_have_cost_one_context() {
    let daemon = Daemon::start(&config("", &[("few", "[vgpu.limits]\nobjects = 64")]));
    let bystander = Guest::load(&daemon, "few", "2");
    assert_eq!(says(&daemon, "few", &["buffers", "40"]), "buffers: ok\n");
    assert_eq!(logged(&daemon, "few", "failed").len(), 0);
    let said = says(&daemon, "few", &["buffers", "200"]);
    assert!(said.contains("CL_DEVICE_NOT_AVAILABLE"), "{said}");
    let lines = logged(&daemon, "few", "limit exceeded: 64 objects (limits.objects)");
    assert!(lines.len() == 1 && lines[0].contains("limits_check"), "{}", daemon.log());
    bystander.end().is_right();
    assert_eq!(says(&daemon, "few", &["buffers", "40"]), "buffers: ok\n");
}

#[test]
fn more_shared_memory_than_it_may_have_is_refused_to_whoever_asks_and_no_more() {
    let daemon = Daemon::start(&config("", &[("tight", "[vgpu.limits]\nstaging = \"16 MiB\"")]));
    let bystander = Guest::load(&daemon, "tight", "2");
    assert_eq!(says(&daemon, "tight", &["send", "4000000"]), "send: ok\n");
    assert_eq!(logged(&daemon, "tight", "limits.staging").len(), 0);
    let said = says(&daemon, "tight", &["send", "64000000"]);
    assert!(said.contains("CL_OUT_OF_RESOURCES"), "{said}");
    // The driver tries again when it has given up what it had cached.
    let lines = logged(&daemon, "tight", "too many bytes of shared regions (limits.staging)");
    assert!((1..=2).contains(&lines.len()), "{}", daemon.log());
    bystander.end().is_right();
}

#[test]
fn the_least_shared_memory_that_may_be_configured_is_enough_for_a_program() {
    let daemon = Daemon::start(&config("", &[("least", "[vgpu.limits]\nstaging = \"16 MiB\"")]));
    for bytes in ["4000", "200000", "3000000"] {
        assert_eq!(says(&daemon, "least", &["send", bytes]), "send: ok\n");
    }
}

#[test]
fn commands_and_requests_come_no_faster_than_they_may() {
    let daemon = Daemon::start(&config(
        "",
        &[
            ("slow", "[vgpu.limits]\ncommands-per-second = 400\ncommand-burst = 100"),
            ("quiet", "[vgpu.limits]\nrequests-per-second = 50"),
            ("free", ""),
        ],
    ));
    let kernels = ["--kernels", "300", "--iterations", "1000"];
    let run = |vgpu, arguments: &[&str]| {
        let said = common::succeeds(&mut command(&daemon, vgpu, "device_load", arguments));
        let json: serde_json::Value = serde_json::from_str(&said).unwrap();
        json["seconds"].as_f64().unwrap()
    };
    // Each launch is a command at least.
    let slow = Guest::start(&daemon, "slow", "device_load", &kernels);
    let free = run("free", &kernels);
    let slow = slow.end().is_right();
    assert!(slow > (300.0 - 100.0) / 400.0 * 0.9, "{slow} s for 300 kernels");
    assert!(free < slow, "{free} s without a limit, {slow} s with one");

    // How many requests it made, the daemon says. Those of two seconds may come at once.
    let begin = std::time::Instant::now();
    run("quiet", &["--every-ms", "5", "--seconds", "2", "--iterations", "1000"]);
    let took = begin.elapsed().as_secs_f64();
    wait_until("the session's end", || !logged(&daemon, "quiet", "session ended").is_empty());
    let line = logged(&daemon, "quiet", "session ended").remove(0);
    let requests: f64 = line.split(" by ring, ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    if requests < 170.0 {
        return eprintln!("skipped: {requests} requests are too few to say anything; was the host busy?");
    }
    // A turn of requests that has begun may go beyond.
    let least = (requests - 100.0 - 64.0) / 50.0;
    assert!(took > least, "{requests} requests in {took} s");
}
