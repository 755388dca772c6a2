//! Programs that a real compiler does not survive: are their builds ended, and nothing else? On the host's real OpenCL.

mod building_guest;
mod common;
mod fake_driver;

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use building_guest::{VGpu, compilers_of};
use common::{Daemon, wait_until};
use paragpu::limits::BuildLimits;
use paragpu_opencl::transport::direct::{Direct, Options};
use paragpu_opencl::transport::{Shared, Transport};
use paragpu_protocol::command::{Body, BuildProgram, CreateContext, CreateProgram};
use paragpu_protocol::control::{Doorbell, StartRing};
use paragpu_protocol::limits::MIN_RING_BYTES;
use paragpu_protocol::ring::Producer;
use paragpu_protocol::types::{Create, SlotRef, Span};
use zerocopy::IntoBytes;

const BUILD_FAILURE: i32 = -11;

/// Nested macros: 2^30 statements.
fn bomb() -> String {
    let mut text = "#define X0 a[i] += i;\n".to_owned();
    for level in 1..=30 {
        writeln!(text, "#define X{level} X{0} X{0}", level - 1).unwrap();
    }
    text + "kernel void k(global int *a) { int i = get_global_id(0); X30 }\n"
}

fn good(number: usize) -> String {
    format!("kernel void k(global int *a) {{ a[get_global_id(0)] = {number}; }}")
}

#[test]
fn a_bomb_is_ended_by_time_while_other_programs_are_built() {
    let limits = BuildLimits { seconds: 10, memory_bytes: 16 << 30, ..BuildLimits::default() };
    let mut vgpu = VGpu::new("bomb-time", "", limits);
    let (mut one, mut other) = (vgpu.process(1), vgpu.process(2));
    let program = vgpu.source(&mut one, &bomb());
    let begun = Instant::now();
    let slot = vgpu.begin(&mut one, program);
    assert_eq!(vgpu.build(&mut other, &good(1)).1, 0);
    vgpu.finish(&mut one);
    assert!(!one.is_done(slot), "the bomb is too small for this test");
    assert_eq!(one.status(slot), BUILD_FAILURE);
    assert!(begun.elapsed() >= Duration::from_secs(10));
    assert!(vgpu.build_log(&mut one, program).contains("longer than 10 s"));
    let (program, status) = vgpu.build(&mut one, &good(2));
    assert_eq!((status, vgpu.kernel(&mut one, program)), (0, 0));
    vgpu.hang_up();
}

#[test]
fn a_bomb_is_ended_by_memory() {
    let limits = BuildLimits { memory_bytes: 200 << 20, ..BuildLimits::default() };
    let mut vgpu = VGpu::new("bomb-memory", "", limits);
    let mut process = vgpu.process(1);
    let (program, status) = vgpu.build(&mut process, &bomb());
    assert_eq!(status, BUILD_FAILURE);
    let log = vgpu.build_log(&mut process, program);
    assert!(log.contains("more than 200 MiB"), "{log}");
    let (program, status) = vgpu.build(&mut process, &good(3));
    assert_eq!((status, vgpu.kernel(&mut process, program)), (0, 0));
    vgpu.hang_up();
}

#[test]
fn what_the_compiler_says_of_a_mistake_reaches_the_guest() {
    let mut vgpu = VGpu::new("mistake", "", BuildLimits::default());
    let mut process = vgpu.process(1);
    let (program, status) = vgpu.build(&mut process, "kernel void k() { mistake; }");
    assert_eq!(status, BUILD_FAILURE);
    let log = vgpu.build_log(&mut process, program);
    assert!(log.contains("mistake") && !log.contains("paragpu:"), "{log}");
    let (object, status) = vgpu.compile(&mut process, &good(4));
    assert_eq!(status, 0);
    let (linked, status) = vgpu.link(&mut process, object);
    assert_eq!((status, vgpu.kernel(&mut process, linked)), (0, 0));
    vgpu.hang_up();
}

/// A guest that connects to a daemon, and begins to build a bomb.
fn connect_and_build(daemon: &Daemon) -> (Direct, Shared) {
    let transport = Direct::open(&daemon.socket(), &Options::default()).unwrap();
    let ring = Shared::new(transport.create_region(u64::from(4096 + MIN_RING_BYTES)).unwrap());
    transport.submit(StartRing::new(ring.id(), MIN_RING_BYTES).as_bytes()).unwrap();
    let mut producer = Producer::new(MIN_RING_BYTES);
    let mut frame = vec![0; 65536];
    let mut send = |len: Option<usize>, frame: &[u8]| {
        producer.push(&ring, &frame[..len.unwrap()]);
        transport.submit(Doorbell::new().as_bytes()).unwrap();
    };
    let create = |id: u32, parent: u32| Create { id: id.into(), parent: parent.into(), reply: SlotRef::NONE };
    let context = CreateContext { create: create(1, 0) };
    send(context.encode(&mut frame, &[], &[0; 4]), &frame);
    let program = CreateProgram { create: create(2, 1), source: Span::NONE };
    send(program.encode(&mut frame, &[], bomb().as_bytes()), &frame);
    let build = BuildProgram { program: 2.into(), ..BuildProgram::default() };
    send(build.encode(&mut frame, &[], b""), &frame);
    (transport, ring)
}

#[test]
fn a_daemon_that_is_killed_during_a_build_leaves_no_process() {
    let daemon = Daemon::start();
    let guest = connect_and_build(&daemon);
    // The executor and its compiler.
    wait_until("it to build", || daemon.executors().len() == 2);
    let processes = daemon.executors();
    common::kill(daemon.pid());
    let is_gone = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        // Not everything that runs as the first process collects orphans.
        !stat.is_ok_and(|stat| !stat.contains(") Z "))
    };
    wait_until("both to end", || processes.iter().all(is_gone));
    drop(guest);
}

/// Prints what a build takes. For who compares: `cargo test --release --test compile_bombs -- --ignored --nocapture`.
#[test]
#[ignore = "measures"]
fn times_of_builds() {
    let limits = BuildLimits { memory_bytes: (2 << 30) + 7, ..BuildLimits::default() };
    let mut times = [const { [const { Vec::new() }; 2] }; 2];
    for round in 0..8 {
        for trial in [true, false] {
            let mut vgpu = VGpu::new("times", "", BuildLimits { trial, ..limits });
            let mut process = vgpu.process(1);
            for number in 0..2 {
                for cached in [false, true] {
                    let program = vgpu.source(&mut process, &good(100 * round + number));
                    let begun = Instant::now();
                    let slot = vgpu.begin(&mut process, program);
                    assert_eq!(process.status(slot), 0);
                    let time = begun.elapsed().as_secs_f64() * 1e3;
                    println!("trial {trial}, program {number}, cached {cached}: {time:.1} ms");
                    if number == 1 {
                        times[usize::from(trial)][usize::from(cached)].push(time);
                    }
                }
            }
            let compilers = compilers_of(std::process::id(), limits.memory_bytes);
            for pid in common::children_of(std::process::id()) {
                let is_compiler = compilers.contains(&pid);
                let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
                let memory = status.lines().filter(|line| {
                    ["VmRSS", "RssAnon", "VmHWM", "VmData"].iter().any(|name| line.starts_with(name))
                });
                println!("compiler {is_compiler}: {:?}", memory.collect::<Vec<_>>());
            }
            let begun = Instant::now();
            let (object, status) = vgpu.compile(&mut process, &good(100 * round + 50));
            let compiled = begun.elapsed();
            let (_, linked) = vgpu.link(&mut process, object);
            assert_eq!((status, linked), (0, 0));
            println!("trial {trial}, compiled {compiled:.1?}, linked {:.1?}", begun.elapsed() - compiled);
            vgpu.hang_up();
        }
    }
    for (trial, times) in times.iter_mut().enumerate() {
        for (cached, times) in times.iter_mut().enumerate() {
            times.sort_by(f64::total_cmp);
            println!(
                "trial {trial}, cached {cached}: median {:.1} ms of {times:.0?}",
                times[times.len() / 2]
            );
        }
    }
}
