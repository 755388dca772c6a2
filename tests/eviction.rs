//! What becomes of a vGPU whose kernel never ends, or that an operator stops, and of the others meanwhile?

mod common;
mod configured;
mod guests;

use std::collections::BTreeSet;
use std::time::Instant;

use configured::{Daemon, wait_until};
use guests::{Guest, config, launches, standing, usage};

const HANGS: &str = "limits_check";

fn hang(daemon: &Daemon, vgpu: &str) -> Guest {
    Guest::start(daemon, vgpu, HANGS, &["endless"])
}

fn evictions(daemon: &Daemon, vgpu: &str) -> u64 {
    daemon.get(&format!("/v1/vgpus/{vgpu}"))["evictions"].as_u64().unwrap()
}

/// Its program is told that its device is gone.
#[track_caller]
fn is_lost(guest: Guest) {
    let ended = guest.end();
    assert!(ended.said.contains("endless: -2 CL_DEVICE_NOT_AVAILABLE"), "{ended:?}");
}

#[test]
fn a_kernel_that_never_ends_costs_its_vgpu_its_contexts_then_time_then_the_device() {
    let eviction = "[vgpu.eviction]\nlimit-s = 1\nback-off-ms = 2000\npause-after = 3";
    let daemon = Daemon::start(&config("", &[("bad", eviction), ("good", "")]));
    let mut bystander = Guest::load(&daemon, "good", "2");
    wait_until("the bystander to compute", || launches(&daemon, "good") > 0);
    // All its results are right, and another one comes as soon as it has ended.
    let mut goes_on = |than: u64| {
        if bystander.has_ended() {
            std::mem::replace(&mut bystander, Guest::load(&daemon, "good", "2")).end().is_right();
        }
        launches(&daemon, "good") > than
    };
    // All of one vGPU, so that each wants the device before its predecessor is evicted.
    let mut guests: Vec<Guest> = (0..4).map(|_| hang(&daemon, "bad")).collect();
    let mut times = Vec::new();
    for count in 1..=3 {
        let before = launches(&daemon, "good");
        let mut stood = BTreeSet::new();
        wait_until("an eviction", || {
            stood.insert(standing(&daemon, "bad"));
            goes_on(0) && evictions(&daemon, "bad") >= count
        });
        times.push(Instant::now());
        assert!(count == 1 || stood.contains("backed-off"), "between evictions: {stood:?}");
        wait_until("the bystander to go on", || goes_on(before));
    }
    // Each runs for a second, the second one two seconds after the first's end, and the third one four: at least.
    let waited = [1, 2].map(|index| (times[index] - times[index - 1]).as_secs_f64());
    assert!(waited[0] > 2.5 && waited[1] > 4.5, "{waited:?}");
    let of_bad =
        |what: &str| daemon.log().lines().filter(|line| line.contains(" bad") && line.contains(what)).count();
    let paused = "the vGPU is paused, `paragpu resume` lets it go on";
    wait_until("the last line", || of_bad(paused) == 1);
    let limit = "a submission ran longer than 1 s, this vGPU's limit (eviction.limit)";
    assert_eq!(of_bad(&format!("executor ended, its contexts are lost: {limit}")), 3);
    let shown = daemon.tool(&["show", "bad", "--json"]);
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert!(shown["standing"] == "paused" && shown["paused"] == true, "{shown}");

    // One is left, which waits for as long as nobody resumes the vGPU.
    wait_until("the three to end", || {
        guests.iter_mut().map(Guest::has_ended).filter(|ended| *ended).count() == 3
    });
    let last = guests.iter_mut().position(|guest| !guest.has_ended()).unwrap();
    let last = guests.remove(last);
    assert_eq!(evictions(&daemon, "bad"), 3);
    assert!(daemon.tool(&["resume", "bad"]).status.success());
    wait_until("the last eviction", || evictions(&daemon, "bad") == 4);
    assert_ne!(standing(&daemon, "bad"), "paused", "what was before is forgotten");
    is_lost(last);
    guests.into_iter().for_each(is_lost);
    bystander.end().is_right();
}

#[test]
fn nobody_else_need_want_the_device_for_that() {
    let daemon = Daemon::start(&config("", &[("bad", "[vgpu.eviction]\nlimit-s = 1\nback-off-ms = 1")]));
    is_lost(hang(&daemon, "bad"));
    assert_eq!(evictions(&daemon, "bad"), 1);
    // What ends is served again. A slow host must not make it too long.
    assert!(daemon.tool(&["set", "bad", "eviction.limit-s=60"]).status.success());
    Guest::load(&daemon, "bad", "0.2").end().is_right();
}

#[test]
fn a_paused_vgpus_kernels_wait_and_are_right_when_it_goes_on() {
    let daemon = Daemon::start(&config("", &[("web", ""), ("other", "")]));
    // Its time may pass while it is paused: what it has launched by then must end all the same.
    let mut guest = Guest::load(&daemon, "web", "3");
    wait_until("its first kernels", || launches(&daemon, "web") > 3);
    assert!(daemon.tool(&["pause", "web"]).status.success());
    wait_until("the pause", || standing(&daemon, "web") == "paused");
    let time = || usage(&daemon, "web", "device-ns");
    let mut before = (time(), launches(&daemon, "web"));
    wait_until("the device to be left alone", || {
        std::thread::sleep(std::time::Duration::from_millis(200));
        let now = (time(), launches(&daemon, "web"));
        now == std::mem::replace(&mut before, now)
    });
    assert!(!guest.has_ended());
    Guest::load(&daemon, "other", "0.3").end().is_right();
    assert_eq!((time(), launches(&daemon, "web")), before);
    assert!(daemon.tool(&["resume", "web"]).status.success());
    guest.end().is_right();
}

#[test]
fn killing_a_vgpu_ends_its_contexts_and_no_others() {
    let daemon = Daemon::start(&config("", &[("web", ""), ("other", "")]));
    let (killed, other) = (Guest::load(&daemon, "web", "60"), Guest::load(&daemon, "other", "4"));
    wait_until("both to compute", || ["web", "other"].iter().all(|vgpu| launches(&daemon, vgpu) > 1));
    assert!(daemon.tool(&["kill", "web"]).status.success());
    let ended = killed.end();
    // Whatever it did just then: it posted a kernel, or waited for one.
    let errors = ["CL_DEVICE_NOT_AVAILABLE", "CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST"];
    assert!(!ended.success && errors.iter().any(|error| ended.complained.contains(error)), "{ended:?}");
    other.end().is_right();
    Guest::load(&daemon, "web", "0.2").end().is_right();
}
