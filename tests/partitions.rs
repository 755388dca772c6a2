//! Does each vGPU have the part of a device that it is to have, beside the others, and does a policy count from when it is
//! changed?

mod common;
mod configured;
mod guests;

use std::time::{Duration, Instant};

use configured::{Daemon, wait_until};
use guests::{Guest, command, config, launches, usage};
use serde_json::Value;

/// Who has a device, by its name.
fn holders(devices: &Value, name: &str) -> Vec<String> {
    let device = devices["devices"].as_array().unwrap().iter().find(|device| device["name"] == name).unwrap();
    let holders = device["holders"].as_array().unwrap();
    holders.iter().map(|holder| holder.as_str().unwrap().to_owned()).collect()
}

#[test]
fn each_part_is_a_device_of_its_own_and_both_compute_at_once() {
    let parts = [("a", "devices = [\"cpu/0\"]"), ("b", "devices = [\"cpu/1\"]")];
    let daemon = Daemon::start(&config("partitions = [1, 1]", &parts));
    for vgpu in ["a", "b"] {
        let facts = common::succeeds(&mut command(&daemon, vgpu, "limits_check", &["facts"]));
        assert!(facts.starts_with("compute units 1\n"), "{facts}");
    }
    let loads = ["a", "b"].map(|vgpu| Guest::load(&daemon, vgpu, "300"));
    wait_until("both to have their parts", || {
        let devices = daemon.get("/v1/devices");
        holders(&devices, "cpu/0") == ["a"] && holders(&devices, "cpu/1") == ["b"]
    });
    drop(loads);
    wait_until("nobody to have them", || {
        let devices = daemon.get("/v1/devices");
        holders(&devices, "cpu/0").len() + holders(&devices, "cpu/1").len() == 0
    });
    for load in ["a", "b"].map(|vgpu| Guest::load(&daemon, vgpu, "0.5")) {
        load.end().is_right();
    }
}

#[test]
fn as_many_as_a_device_has_leases_compute_on_it_at_once() {
    let daemon = Daemon::start(&config("leases = 2", &[("a", ""), ("b", ""), ("c", "")]));
    let loads = ["a", "b", "c"].map(|vgpu| Guest::load(&daemon, vgpu, "300"));
    let mut pairs = std::collections::BTreeSet::new();
    wait_until("each to have it with each other", || {
        let mut holders = holders(&daemon.get("/v1/devices"), "cpu");
        holders.sort();
        assert!(holders.len() <= 2, "{holders:?}");
        if holders.len() == 2 {
            pairs.insert(holders);
        }
        pairs.len() == 3
    });
    drop(loads);
    for load in ["a", "b", "c"].map(|vgpu| Guest::load(&daemon, vgpu, "0.5")) {
        load.end().is_right();
    }
}

/// How much more device time `a` gets than `b`, from now on for a while.
fn ratio(daemon: &Daemon) -> f64 {
    // What was begun under other terms passes.
    std::thread::sleep(Duration::from_millis(300));
    let times = || ["a", "b"].map(|vgpu| usage(daemon, vgpu, "device-ns") as f64);
    let (before, begin) = (times(), Instant::now());
    // Enough turns of both, on a slow host too.
    wait_until("device time", || {
        let sum: f64 = times().iter().sum();
        sum - before.iter().sum::<f64>() > 8e8 && begin.elapsed() > Duration::from_millis(800)
    });
    let after = times();
    (after[0] - before[0]) / (after[1] - before[1]).max(1.0)
}

#[test]
fn shares_move_as_soon_as_policies_do() {
    let daemon = Daemon::start(&config("", &[("a", ""), ("b", "")]));
    let _loads = ["a", "b"].map(|vgpu| Guest::load(&daemon, vgpu, "300"));
    wait_until("both to compute", || ["a", "b"].iter().all(|vgpu| launches(&daemon, vgpu) > 1));
    let set = |vgpu: &str, keys: &[&str]| {
        let output = daemon.tool(&[&["set", vgpu], keys].concat());
        assert!(output.status.success(), "{output:?}");
    };
    let equal = ratio(&daemon);
    assert!((0.5..2.0).contains(&equal), "equal weights: {equal}");
    set("a", &["weight=800"]);
    let heavy = ratio(&daemon);
    assert!(heavy > 2.5 * equal, "eight times the weight: {heavy} instead of {equal}");
    set("a", &["policy=best-effort"]);
    let light = ratio(&daemon);
    assert!(light < equal / 2.5, "what is left over: {light} instead of {equal}");
    set("a", &["policy=fixed-share", "share=75"]);
    let fixed = ratio(&daemon);
    assert!(fixed > 1.5 * equal, "three quarters: {fixed}");
    set("a", &["share=10"]);
    let little = ratio(&daemon);
    assert!(little < equal / 2.5, "a tenth: {little}");
}
