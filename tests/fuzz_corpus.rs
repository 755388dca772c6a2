//! Every seed of the fuzz targets, replayed: recorded sessions get deep, and what was once found stays fixed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use paragpu::device::fuzz::fuzz_requests;
use paragpu::device::step::Step;
use paragpu::executor::child::fuzz::fuzz_frames;
use paragpu::executor::fuzz::fuzz_messages;
use paragpu_protocol::command::Opcode;
use paragpu_protocol::virtio_gpu::Request;

#[path = "fuzz_corpus/handmade.rs"]
mod handmade;

/// Longest seed: a longer one teaches a fuzzer nothing more, and slows every run down.
const MAX_SEED_BYTES: usize = 64 * 1024;

fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

/// Names and contents, sorted.
fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(folder(target)).unwrap();
    let mut seeds: Vec<_> = entries
        .map(|entry| {
            let entry = entry.unwrap();
            (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())
        })
        .collect();
    seeds.sort();
    assert!(seeds.iter().all(|(_, seed)| seed.len() <= MAX_SEED_BYTES), "{target}: seeds are short");
    seeds
}

#[test]
fn recorded_rings_replay_without_a_fault_and_every_command_occurs() {
    let mut executed = BTreeSet::new();
    let mut recorded = 0;
    for (name, seed) in seeds("ring_commands") {
        let replay = fuzz_frames(&seed);
        println!("{name}: {} commands, fault {:?}", replay.executed.len(), replay.fault);
        if name.starts_with("recorded-") {
            recorded += 1;
            assert_eq!(replay.fault, None, "{name}");
            assert!(replay.executed.len() >= 20, "{name}: {} commands", replay.executed.len());
        }
        executed.extend(replay.executed.iter().map(|opcode| opcode.name()));
    }
    assert!(recorded >= 4, "{recorded} recorded sessions");
    let all: BTreeSet<_> = Opcode::ALL.iter().map(|opcode| opcode.name()).collect();
    assert_eq!(executed, all);
}

#[test]
fn recorded_control_queues_replay_without_a_refusal_and_every_request_occurs() {
    let mut kinds = BTreeSet::new();
    let mut recorded = 0;
    for (name, seed) in seeds("control_queue") {
        let replay = fuzz_requests(&seed);
        println!("{name}: {} requests, {} granted", replay.requests, replay.granted);
        if name.starts_with("recorded-") {
            recorded += 1;
            assert_eq!(replay.granted, replay.requests, "{name}");
            assert!(replay.requests >= 20, "{name}");
        }
        kinds.extend(requests(&seed));
    }
    assert!(recorded >= 4, "{recorded} recorded sessions");
    let all: BTreeSet<_> = Request::ALL.iter().map(|request| *request as u32).collect();
    assert_eq!(kinds, all);
}

/// The numbers of the known requests in a seed.
fn requests(mut seed: &[u8]) -> Vec<u32> {
    let steps = std::iter::from_fn(|| Step::decode(&mut seed));
    let kind = |step| match step {
        Step::Request(bytes) => bytes.first_chunk().map(|kind| u32::from_le_bytes(*kind)),
        _ => None,
    };
    steps.filter_map(kind).filter(|kind| Request::from_wire(*kind).is_some()).collect()
}

#[test]
fn executor_messages_replay() {
    let mut messages = 0;
    for (name, seed) in seeds("executor_messages") {
        let understood = fuzz_messages(&seed);
        println!("{name}: {understood} messages");
        messages += understood;
    }
    assert!(messages >= 6, "{messages} messages");
}

/// The seeds that no program recorded are built here, so that they follow the protocol when it changes:
/// `PARAGPU_WRITE_SEEDS=1 cargo test --test fuzz_corpus` writes them anew.
#[test]
fn handmade_seeds_are_as_they_are_built() {
    for (target, name, built) in handmade::all() {
        let path = folder(target).join(name);
        if std::env::var_os("PARAGPU_WRITE_SEEDS").is_some() {
            fs::create_dir_all(folder(target)).unwrap();
            fs::write(&path, &built).unwrap();
        }
        assert_eq!(fs::read(&path).ok(), Some(built), "{target}/{name}: write the seeds anew");
    }
}

/// The fuzz targets are a workspace of their own, which no other check builds: a new dependency must be in its lock file
/// too, or the first `cargo xtask fuzz` chooses versions anew and leaves a changed file behind.
#[test]
fn the_lock_file_of_the_fuzz_targets_has_every_dependency() {
    let root = env!("CARGO_MANIFEST_DIR");
    let lock = std::fs::read_to_string(format!("{root}/fuzz/Cargo.lock")).unwrap();
    let mut cargo = std::process::Command::new(env!("CARGO"));
    cargo.args(["metadata", "--no-deps", "--offline", "--format-version", "1"]).current_dir(root);
    let metadata: serde_json::Value = serde_json::from_slice(&cargo.output().unwrap().stdout).unwrap();
    let mut checked = 0;
    for package in metadata["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        let Some(locked) =
            lock.split("[[package]]").find(|locked| locked.contains(&format!("\nname = \"{name}\"\n")))
        else {
            continue;
        };
        for dependency in package["dependencies"].as_array().unwrap() {
            let needed = dependency["name"].as_str().unwrap();
            // An optional one may be left out; others' development is none of the targets' business.
            if dependency["kind"] == "dev" || dependency["optional"] == true {
                continue;
            }
            let listed = [format!("\n \"{needed}\""), format!("\n \"{needed} ")];
            assert!(
                listed.iter().any(|listed| locked.contains(listed)),
                "fuzz/Cargo.lock lacks {name}'s dependency {needed}: run cargo fuzz build"
            );
            checked += 1;
        }
    }
    assert!(checked > 10, "{checked}");
}
