//! Does nothing stay behind when the broker is killed, and does another one serve the same vGPUs at once?

mod common;
mod configured;
mod guests;

use std::collections::BTreeSet;
use std::fs;

use common::children_of;
use configured::{Daemon, wait_until};
use guests::{Guest, config, launches};

/// A process and all that it started, and what those started.
fn descendants(pid: u32) -> BTreeSet<u32> {
    let mut all = BTreeSet::new();
    let mut new = vec![pid];
    while let Some(parent) = new.pop() {
        new.extend(children_of(parent).into_iter().filter(|child| all.insert(*child)));
    }
    all
}

fn is_alive(pid: u32) -> bool {
    // One that nobody waits for, as the init of a container may not, has ended all the same.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| !stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('Z')))
}

#[test]
fn executors_and_compilers_end_with_the_broker_and_the_next_one_serves_their_vgpus() {
    let vgpus = ["a", "b", "c"];
    let mut daemon = Daemon::start(&config("", &vgpus.map(|name| (name, ""))));
    let guests = vgpus.map(|vgpu| Guest::load(&daemon, vgpu, "300"));
    wait_until("all to compute", || vgpus.iter().all(|vgpu| launches(&daemon, vgpu) > 0));
    let started = descendants(daemon.child.id());
    // Compilers are kept for a while after a build; each vGPU has just built one.
    assert!(started.len() > vgpus.len(), "{started:?}");
    daemon.crash_and_restart();
    assert!(!daemon.log().contains("ERROR"), "{}", daemon.log());
    assert_eq!(daemon.names(), vgpus);
    for vgpu in vgpus {
        Guest::load(&daemon, vgpu, "0.2").end().is_right();
    }
    for pid in started {
        wait_until("the end of what the killed one had started", || !is_alive(pid));
    }
    drop(guests);
}
