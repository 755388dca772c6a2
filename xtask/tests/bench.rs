//! Does `cargo xtask bench` measure? Short runs on the host's real OpenCL; no figure is held against a goal,
//! as test machines are slow and shared.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

/// The programs that are measured, as `cargo test --workspace` builds them, in one folder: the driver reaches the place of
/// finished programs only with `cargo build`.
fn programs() -> TempDir {
    let built = Path::new(env!("CARGO_BIN_EXE_xtask")).parent().unwrap();
    let folder = tempfile::tempdir().unwrap();
    for name in ["paragpu", "paragpud", "examples", "deps/libparagpu_opencl.so"] {
        let program = built.join(name);
        assert!(program.exists(), "{name} is not built: run `cargo test --workspace`");
        symlink(&program, folder.path().join(program.file_name().unwrap())).unwrap();
    }
    folder
}

fn bench(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_xtask")).args(["bench", "sharing"]).args(arguments).output().unwrap()
}

#[test]
fn weights_are_measured_with_right_results_and_in_their_order() {
    let programs = programs();
    let directory = tempfile::tempdir().unwrap();
    let json = directory.path().join("results.json");
    let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["bench", "sharing", "--only", "weights", "--seconds", "2", "--programs"])
        .arg(programs.path())
        .arg("--json")
        .arg(&json)
        .env("TMPDIR", directory.path())
        .output()
        .unwrap();
    let (table, progress) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{progress}");

    let written: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    let results = written["results"].as_array().unwrap();
    for result in results {
        let keys: Vec<&str> = result.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ["goal", "met", "name", "unit", "value"]);
        assert!(table.contains(result["name"].as_str().unwrap()), "{table}");
    }
    let value = |name: &str| {
        let result = results.iter().find(|result| result["name"] == name);
        result.unwrap_or_else(|| panic!("{name}: {written}"))["value"].as_f64().unwrap()
    };
    assert_eq!(value("weights: all results are right"), 1.0);

    // By the work that was done, which is not our own account.
    let line = progress.lines().find(|line| line.contains("wanted")).unwrap();
    let work: Vec<f64> = line
        .rsplit_once("work ")
        .unwrap()
        .1
        .split(['/', '%'])
        .filter_map(|share| share.trim().parse().ok())
        .collect();
    assert!(work.len() == 3 && work.is_sorted_by(|one, next| one < next), "{line}");

    let left: Vec<_> =
        std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["results.json"], "nothing else stays behind");
}

#[test]
fn what_cannot_be_measured_is_said_at_once() {
    let output = bench(&["--only", "nothing"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(error.contains("there is no scenario nothing; there are weights, "), "{error}");

    let empty = tempfile::tempdir().unwrap();
    let output = bench(&["--programs", empty.path().to_str().unwrap()]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(error.contains("paragpu is missing"), "{error}");

    let (document, nowhere) = (empty.path().join("document.md"), empty.path().join("none/results.json"));
    std::fs::write(&document, "nothing\n").unwrap();
    let (document, nowhere) = (document.to_str().unwrap(), nowhere.to_str().unwrap());
    let mistakes: [(&[&str], &str); 6] = [
        (&["idle", "--rounds", "0"], "--rounds"),
        (&["idle", "--peer", "other"], "NAME=DIR"),
        (&["idle", "--markdown", document], "lacks the lines <!-- bench speed -->"),
        (&["idle", "--json", nowhere], "cannot write"),
        (&["sharing", "--markdown", document], "lacks the lines <!-- bench sharing -->"),
        (&["sharing", "--json", nowhere], "cannot write"),
    ];
    for (arguments, expected) in mistakes {
        let output = Command::new(env!("CARGO_BIN_EXE_xtask")).arg("bench").args(arguments).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && output.stdout.is_empty());
        assert!(error.contains(expected) && !error.contains("Finished"), "{error}");
    }
}

/// Runs `cargo xtask bench` with the programs that were built for these tests.
fn speed(arguments: &[&str], directory: &Path) -> (Output, Value) {
    let programs = programs();
    let json = directory.join("results.json");
    let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["bench", "--short", "--programs"])
        .arg(programs.path())
        .arg("--json")
        .arg(&json)
        .args(arguments)
        .env("TMPDIR", directory)
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    let written: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    (output, written["results"].clone())
}

#[test]
fn workloads_of_every_group_are_measured_on_both_sides_with_right_results() {
    let directory = tempfile::tempdir().unwrap();
    let names = ["latency", "throughput", "data/read/plain/64K", "data/map/use-host/1M", "build/again"];
    let arguments = [&names[..], &["applications/filters"]].concat();
    let (output, results) = speed(&arguments, directory.path());
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(table.contains("all results are right"), "{table}");
    for result in results.as_array().unwrap() {
        let keys: Vec<&str> = result.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ["goal", "met", "name", "native", "ratio", "spread", "unit", "vgpu"]);
        assert!(
            ["native", "vgpu", "ratio"].iter().all(|key| result[key].as_f64().unwrap() > 0.0),
            "{result}"
        );
        assert!(table.contains(result["name"].as_str().unwrap()), "{table}");
    }
    // Of the empty kernel, the 99th percentile too.
    assert_eq!(results.as_array().unwrap().len(), 4 + 1 + 5 + 2 + 1 + 1, "{results}");
    let left: Vec<_> =
        std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["results.json"], "nothing else stays behind");
}

/// A folder whose vendor file is that of Debian's PoCL, to be a peer of itself, if it is there.
fn pocl(directory: &Path) -> Option<String> {
    let folder = directory.join("vendors");
    std::fs::create_dir(&folder).unwrap();
    let Err(error) = std::fs::copy("/etc/OpenCL/vendors/pocl.icd", folder.join("pocl.icd")) else {
        return Some(format!("--peer=twin={}", folder.display()));
    };
    println!("skipped: no PoCL to be a peer: {error}");
    None
}

fn named<'a>(results: &'a Value, name: &str) -> Option<&'a Value> {
    results.as_array().unwrap().iter().find(|result| result["name"] == name)
}

#[test]
fn a_peer_takes_part_until_it_fails_and_the_others_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let Some(peer) = pocl(directory.path()) else { return };
    // One workload's groups are larger than PoCL takes them then. The other sides do not hear of it.
    let small = "--peer-env=POCL_MAX_WORK_GROUP_SIZE=64";
    let failing = "applications/stencil";
    let names = ["data/map/plain/1M", failing, "applications/nbody"];
    let arguments = [&names[..], &[&peer, small]].concat();
    let (output, results) = speed(&arguments, directory.path());
    let (table, progress) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(table.contains("all results are right"), "{table}");
    let told = format!("goes on without a peer: twin fails: Error: {failing}");
    assert_eq!(progress.matches(&told).count(), 1, "{progress}");
    for name in names {
        let beside = named(&results, name).unwrap();
        assert!(["native", "vgpu"].iter().all(|side| beside[side].as_f64().unwrap() > 0.0), "{beside}");
        let against = named(&results, &format!("{name} against twin"));
        assert_eq!(against.is_some(), name != failing, "{results}");
        let Some(against) = against else { continue };
        assert!(against["native"].is_null() && against["peer"].as_f64().unwrap() > 0.0, "{against}");
        assert_eq!(against["peer"], beside["peer"]);
        let goal = if name.contains("map") { "at most 0.02" } else { "at most 1" };
        assert_eq!(against["goal"], goal);
    }
}

#[test]
fn a_peer_that_cannot_take_part_is_told_before_anything_is_measured() {
    let directory = tempfile::tempdir().unwrap();
    let (programs, vendors) = (programs(), directory.path().join("vendors"));
    std::fs::create_dir(&vendors).unwrap();
    let run = || {
        Command::new(env!("CARGO_BIN_EXE_xtask"))
            .args(["bench", "latency", "--short", "--programs"])
            .arg(programs.path())
            .arg(format!("--peer=none={}", vendors.display()))
            .env("TMPDIR", directory.path())
            .output()
            .unwrap()
    };
    let output = run();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && error.contains("has no vendor file (*.icd)"), "{error}");
    std::fs::write(vendors.join("none.icd"), "/nonexistent.so\n").unwrap();
    let output = run();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && error.contains("none fails: Error: no OpenCL platform"), "{error}");
    assert!(output.stdout.is_empty());
}

/// Bounds for counts that do not depend on how the programs were built. `cargo xtask bench` holds a stream to 5 kicks on a quiet
/// machine, and measures 0.1; a test machine's host side may fall asleep a few times.
const BOUNDS: [(&str, f64); 5] = [
    ("counts/throughput/one-queue: kicks for 1000 commands", 20.0),
    ("counts/throughput/one-queue: interrupts for 1000 commands", 20.0),
    ("counts/data/read/plain/64K: bytes copied for each byte", 1.01),
    ("apart/data/write/plain/64K: copies for 1000 commands", 2020.0),
    ("apart/data/write/plain/64K: bytes copied for each byte", 2.01),
];

#[test]
fn a_count_that_is_worse_than_its_bound_fails_and_is_named() {
    let programs = programs();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("bounds.json");
    let check = |bounds: &[(&str, f64)]| {
        let bounds: serde_json::Map<_, _> =
            bounds.iter().map(|(name, most)| ((*name).to_owned(), Value::from(*most))).collect();
        std::fs::write(&file, Value::Object(bounds).to_string()).unwrap();
        let mut option = std::ffi::OsString::from("--bounds=");
        option.push(&file);
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command
            .args(["bench", "--programs"])
            .arg(programs.path())
            .arg(option)
            .env("TMPDIR", directory.path());
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let complaints =
            text.lines().filter_map(|line| line.strip_prefix("WORSE: ")).map(str::to_owned).collect();
        (output.status.code(), complaints)
    };
    assert_eq!(check(&BOUNDS), (Some(0), Vec::<String>::new()));

    let (copied, queue) =
        ("apart/data/write/plain/64K: bytes copied for each byte", "counts/throughput/one-queue");
    let worse = [(copied, 1.9), (&format!("{queue}: nothing"), 1.0)];
    let complaints =
        [format!("{copied} is 2.00, and may be 1.9 at most"), format!("{queue}: nothing was not measured")];
    assert_eq!(check(&worse), (Some(1), complaints.to_vec()));
}

#[test]
fn every_workload_has_a_name_that_the_list_tells() {
    let list = |names: &[&str]| {
        let output =
            Command::new(env!("CARGO_BIN_EXE_xtask")).args(["bench", "--list"]).args(names).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(list(&["latency/two-queues", "idle"]), "latency/two-queues\nidle\n");
    assert!(list(&[]).lines().count() > 100);
    let output =
        Command::new(env!("CARGO_BIN_EXE_xtask")).args(["bench", "data/rea", "--short"]).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && error.contains("there is no workload data/rea; --list"), "{error}");
}
