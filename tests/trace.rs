//! Is what `paragpu trace` writes what happened: who had the device when, and which kernels ran?

mod common;
mod configured;
mod guests;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::thread;

use configured::{Daemon, wait_until};
use guests::{Guest, config, launches};
use serde_json::Value;

/// A stretch of time in microseconds.
#[derive(Clone, Copy, Debug)]
struct Span {
    begin: f64,
    end: f64,
}

impl Span {
    fn length(self) -> f64 {
        self.end - self.begin
    }

    fn shared_with(self, other: Span) -> f64 {
        (self.end.min(other.end) - self.begin.max(other.begin)).max(0.0)
    }
}

/// Spans by vGPU, track and name.
type Spans = BTreeMap<(String, String, String), Vec<Span>>;

fn spans(trace: &Value) -> Spans {
    let events = trace["traceEvents"].as_array().unwrap();
    let mut names = BTreeMap::new();
    for event in events.iter().filter(|event| event["ph"] == "M") {
        if let Some(name) = event["args"]["name"].as_str() {
            names.insert((event["pid"].as_u64().unwrap(), event["tid"].as_u64()), name.to_owned());
        }
    }
    let mut spans = Spans::new();
    for event in events.iter().filter(|event| event["ph"] == "X") {
        let (pid, number) = (event["pid"].as_u64().unwrap(), |key: &str| event[key].as_f64().unwrap());
        let (vgpu, track) = (names[&(pid, None)].clone(), names[&(pid, event["tid"].as_u64())].clone());
        let span = Span { begin: number("ts"), end: number("ts") + number("dur") };
        spans.entry((vgpu, track, event["name"].as_str().unwrap().to_owned())).or_default().push(span);
    }
    spans
}

/// Of a vGPU, those whose tracks and names fit.
fn of<'a>(spans: &'a Spans, vgpu: &'a str, fits: impl Fn(&str, &str) -> bool + 'a) -> Vec<Span> {
    let found = spans.iter().filter(|((owner, track, name), _)| owner == vgpu && fits(track, name));
    found.flat_map(|(_, spans)| spans.iter().copied()).collect()
}

fn total(spans: &[Span]) -> f64 {
    spans.iter().map(|span| span.length()).sum()
}

/// How much of the time of `some` is time of `others`, too.
fn shared(some: &[Span], others: &[Span]) -> f64 {
    some.iter().flat_map(|span| others.iter().map(|other| span.shared_with(*other))).sum()
}

#[test]
fn two_vgpus_on_one_lease_take_turns_and_each_kernel_runs_within_its_vgpus_turn() {
    let daemon = Daemon::start(&config("slice-ms = 20", &[("web", ""), ("ci", "")]));
    let loads = ["web", "ci"].map(|vgpu| Guest::load(&daemon, vgpu, "300"));
    wait_until("both to compute", || ["web", "ci"].iter().all(|vgpu| launches(&daemon, vgpu) > 1));
    let file = daemon.at("trace.json");
    fs::write(&file, "something else").unwrap();
    let path = file.to_str().unwrap();
    let output = daemon.tool(&["trace", "--seconds", "1.5", "-o", path]);
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("https://ui.perfetto.dev"), "{said}");

    let trace: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let spans = spans(&trace);
    let count: usize = spans.values().map(Vec::len).sum();
    assert!(said.starts_with(&format!("{count} events in 1.5 s")), "{said}");
    let leases = |vgpu: &'static str| of(&spans, vgpu, |track, _| track == "has cpu");
    let kernels = |vgpu: &'static str| {
        of(&spans, vgpu, |track, name| track.starts_with("device_load (context ") && name == "spin")
    };
    for vgpu in ["web", "ci"] {
        let (leases, kernels) = (leases(vgpu), kernels(vgpu));
        assert!(leases.len() > 2 && kernels.len() > 2, "{vgpu}: {} {}", leases.len(), kernels.len());
        assert!(!of(&spans, vgpu, |track, _| track == "waits for cpu").is_empty(), "{vgpu} waits");
        // Both sides' clocks are one, but a side may be stopped between what it does and when it looks at the clock.
        let (within, all) = (shared(&kernels, &leases), total(&kernels));
        assert!(within > 0.98 * all, "{vgpu}: {within} µs of {all} µs are within its leases");
        assert!(kernels.iter().all(|kernel| kernel.end <= 1.6e6), "times since the start");
    }
    let of_two = shared(&leases("web"), &leases("ci"));
    assert!(of_two < 0.01 * total(&leases("web")), "both had the one lease for {of_two} µs");
    // What executors say themselves.
    let of_two = shared(&kernels("web"), &kernels("ci"));
    assert!(of_two < 0.02 * total(&kernels("web")), "kernels of both ran at once for {of_two} µs");

    // When nobody wants records any more, nobody pays for them, and the load goes on.
    let before = launches(&daemon, "web");
    wait_until("more kernels", || launches(&daemon, "web") > before);
    drop(loads);
}

#[test]
fn one_at_a_time_records_and_one_who_hangs_up_makes_room() {
    let daemon = Daemon::start(&config("", &[("web", "")]));
    let path = daemon.at("admin.sock");
    let long = thread::spawn({
        let path = path.clone();
        move || configured::ask(&path, "GET", "/v1/trace?seconds=1.5", "")
    });
    wait_until("the first to begin", || daemon.log().contains("a timeline of 1.5 s is recorded"));
    let (status, refused) = daemon.ask("GET", "/v1/trace?seconds=1", "");
    assert!(status == 409 && refused["error"].as_str().unwrap().contains("recorded already"), "{refused}");
    let (status, trace) = long.join().unwrap();
    let trace: Value = serde_json::from_str(&trace).unwrap();
    assert_eq!(
        (status, &trace["traceEvents"], &trace["lostEvents"]),
        (200, &Value::Array(vec![]), &0.into())
    );

    {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.write_all(b"GET /v1/trace?seconds=59 HTTP/1.1\r\n\r\n").unwrap();
        wait_until("it to begin", || daemon.log().contains("a timeline of 59 s is recorded"));
    }
    wait_until("room", || daemon.ask("GET", "/v1/trace?seconds=0.1", "").0 == 200);

    for query in ["", "?seconds=", "?seconds=0", "?seconds=61", "?seconds=NaN", "?seconds=1&x=2", "?s=1"] {
        let (status, wrong) = daemon.ask("GET", &format!("/v1/trace{query}"), "");
        let error = wrong["error"].as_str().unwrap();
        assert!(status == 400 && error.contains("from 0.1 to 60 seconds"), "{query}: {wrong}");
    }
}

#[test]
fn the_tool_says_at_once_where_it_cannot_write_and_replaces_only_files() {
    let daemon = Daemon::start(&config("", &[("web", "")]));
    let trace = |seconds: &str, path: &str| daemon.tool(&["trace", "--seconds", seconds, "-o", path]);
    let directory = daemon.at("");
    for path in [daemon.at("nowhere/trace.json"), directory.clone()] {
        // It would take longer than a test's patience otherwise.
        let output = trace("60", path.to_str().unwrap());
        assert_eq!(output.status.code(), Some(1), "{output:?}");
    }
    assert!(!daemon.log().contains("is recorded"), "nobody was asked");
    let output = trace("0.1", "-");
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(output.status.success() && json["traceEvents"].is_array());
    assert!(trace("0.1", "/dev/null").status.success());
    // A link stays a link.
    let (link, target) = (daemon.at("link"), daemon.at("target"));
    fs::write(&target, "").unwrap();
    std::os::unix::fs::symlink(&target, &link).unwrap();
    assert!(trace("0.1", link.to_str().unwrap()).status.success());
    assert!(link.is_symlink() && fs::metadata(&target).unwrap().len() > 0);
    // Without an answer, what is there stays.
    fs::write(&target, "kept").unwrap();
    fs::set_permissions(&target, fs::Permissions::from_mode(0o600)).unwrap();
    let refused = |seconds: &str, reason: &str| {
        let output = trace(seconds, target.to_str().unwrap());
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && said.contains(reason), "{said}");
        assert_eq!(fs::read_to_string(&target).unwrap(), "kept");
    };
    refused("99", "allowed are 0.1 to 60 seconds");
    let mut other = UnixStream::connect(daemon.at("admin.sock")).unwrap();
    other.write_all(b"GET /v1/trace?seconds=59 HTTP/1.1\r\n\r\n").unwrap();
    wait_until("another to begin", || daemon.log().contains("a timeline of 59 s is recorded"));
    refused("1", "recorded already");
    let left = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(left.into_iter().all(|name| !name.to_str().unwrap().starts_with(".paragpu")));
}
