//! Can a guest's program keep its compiler busy for ever, eat the host's memory, or crash more than its own build?
//! On a backend that has no device, whose compiler falls into traps.

mod building_guest;
mod common;
mod fake_driver;

use std::sync::Arc;
use std::time::{Duration, Instant};

use building_guest::{VGpu, directory_of};
use common::wait_until;
use paragpu::executor::child::backend::traps::{CRASHES, EATS, HANGS, LINK_HANGS, SLOW};
use paragpu::executor::supervisor::SharedBuilds;
use paragpu::limits::BuildLimits;
use paragpu_protocol::ring::Status;

const TRAPS: &str = "PARAGPU_BACKEND=traps";
/// Where there are no compilers, only what is known can be built.
const WITHOUT_COMPILERS: &str = "test \"$1\" != compiler || exit 1; PARAGPU_BACKEND=traps";

const BUILD_FAILURE: i32 = -11;
const COMPILE_FAILURE: i32 = -15;
const LINK_FAILURE: i32 = -17;
const INVALID_EXECUTABLE: i32 = -45;
const INVALID_OPERATION: i32 = -59;

/// The number is a test's own.
fn limits(number: u64, seconds: u32) -> BuildLimits {
    BuildLimits { seconds, memory_bytes: (64 << 20) + number, ..BuildLimits::default() }
}

#[test]
fn a_build_that_never_ends_is_ended_and_everything_else_goes_on() {
    let mut vgpu = VGpu::new("hanging", TRAPS, limits(1, 2));
    let (mut one, mut other) = (vgpu.process(1), vgpu.process(2));
    let (good, status) = vgpu.build(&mut one, "before");
    assert_eq!((status, vgpu.kernel(&mut one, good)), (0, 0));
    let hanging = vgpu.source(&mut one, HANGS);
    let slot = vgpu.begin(&mut one, hanging);
    for _ in 0..10 {
        vgpu.finish(&mut one);
        vgpu.finish(&mut other);
        assert_eq!(vgpu.build(&mut other, "beside").1, 0);
    }
    assert!(!one.is_done(slot), "everything beside it was done while it hung");
    assert_eq!(one.status(slot), BUILD_FAILURE);
    let reason = "the build was ended: it took longer than 2 s, which is this vGPU's limit (build-time)";
    assert_eq!(vgpu.build_log(&mut one, hanging), format!("paragpu: {reason}"));
    assert_eq!(vgpu.logged(reason).len(), 1);
    assert_eq!(vgpu.kernel(&mut one, hanging), INVALID_EXECUTABLE);
    assert_eq!(vgpu.kernel(&mut one, good), 0);
    assert_eq!(vgpu.build(&mut one, "after").1, 0);
    assert_eq!([&one, &other].map(|process| process.ring_status()), [Some(Status::Running); 2]);
    vgpu.hang_up();
}

#[test]
fn compilations_and_links_that_never_end_are_ended_too() {
    let mut vgpu = VGpu::new("linking", TRAPS, limits(2, 1));
    let mut process = vgpu.process(1);
    let (hanging, status) = vgpu.compile(&mut process, HANGS);
    assert_eq!(status, COMPILE_FAILURE);
    assert_eq!(vgpu.link(&mut process, hanging).1, INVALID_OPERATION, "there is nothing to link");
    let (object, status) = vgpu.compile(&mut process, LINK_HANGS);
    assert_eq!(status, 0);
    let (linked, status) = vgpu.link(&mut process, object);
    assert_eq!(status, LINK_FAILURE);
    assert!(vgpu.build_log(&mut process, linked).contains("build-time"));
    let (object, status) = vgpu.compile(&mut process, "good");
    assert_eq!(status, 0);
    let (linked, status) = vgpu.link(&mut process, object);
    assert_eq!((status, vgpu.kernel(&mut process, linked)), (0, 0));
    vgpu.hang_up();
}

#[test]
fn a_build_that_eats_memory_or_crashes_is_ended_alone() {
    let mut vgpu = VGpu::new("greedy", TRAPS, limits(3, 60));
    let (mut one, mut other) = (vgpu.process(1), vgpu.process(2));
    for (trap, reason) in [
        (EATS, "it needed more than 64 MiB of memory, which is this vGPU's limit (build-memory)"),
        (CRASHES, "the compiler crashed"),
    ] {
        // Begun first, so that it runs beside.
        let slow = vgpu.source(&mut other, SLOW);
        let slow = vgpu.begin(&mut other, slow);
        let (program, status) = vgpu.build(&mut one, trap);
        assert_eq!(status, BUILD_FAILURE, "{trap}");
        let log = vgpu.build_log(&mut one, program);
        assert!(log.starts_with("paragpu: the build was ended") && log.contains(reason), "{trap}: {log}");
        wait_until("a line in the log", || vgpu.logged(reason).len() == 1);
        assert_eq!(other.status(slow), 0, "beside: {trap}");
        assert_eq!(vgpu.build(&mut one, "after").1, 0);
    }
    // By which signal depends: the first process of a namespace takes none of its own.
    assert!(vgpu.logged("(signal: ").len() == 1, "{:?}", vgpu.logged(""));
    vgpu.hang_up();
}

#[test]
fn no_more_builds_run_at_once_than_allowed_and_waiting_ones_get_their_turn() {
    let mut vgpu = VGpu::new("crowd", TRAPS, BuildLimits { concurrent: 2, ..limits(4, 2) });
    let mut process = vgpu.process(1);
    let mut begin = |text| {
        let program = vgpu.source(&mut process, text);
        vgpu.begin(&mut process, program)
    };
    let slots = [HANGS, SLOW, CRASHES, SLOW, HANGS, "good"].map(&mut begin);
    let mut most = 0;
    wait_until("all of them to end", || {
        most = most.max(vgpu.compilers().len());
        slots.iter().all(|slot| process.is_done(*slot))
    });
    let outcomes = slots.map(|slot| process.status(slot));
    assert_eq!(outcomes, [BUILD_FAILURE, 0, BUILD_FAILURE, 0, BUILD_FAILURE, 0]);
    assert_eq!(most, 2);
    vgpu.hang_up();
}

#[test]
fn a_compiler_with_nothing_to_do_ends() {
    let mut vgpu = VGpu::new("idle", TRAPS, BuildLimits { idle_seconds: 5, ..limits(5, 60) });
    let mut process = vgpu.process(1);
    assert_eq!(vgpu.build(&mut process, "one").1, 0);
    let compilers = vgpu.compilers();
    assert_eq!(compilers.len(), 1);
    assert_eq!(vgpu.build(&mut process, "two").1, 0);
    assert_eq!(vgpu.compilers(), compilers, "it is used again");
    wait_until("it to end", || vgpu.compilers().is_empty());
    assert_eq!(vgpu.build(&mut process, "three").1, 0);
    assert_eq!(vgpu.logged("WARN"), [""; 0]);
    vgpu.hang_up();
}

#[test]
fn what_a_vgpu_has_built_it_does_not_build_again_and_another_one_does() {
    let mut vgpu = VGpu::new("builder", TRAPS, limits(14, 60));
    let mut other = VGpu::new("stranger", TRAPS, limits(15, 60));
    let mut process = vgpu.process(1);
    for name in [SLOW, "good"] {
        assert_eq!(vgpu.build(&mut process, name).1, 0);
    }
    // Without a compiler, nothing new can be built.
    vgpu.compilers().into_iter().for_each(common::kill);
    for name in ["good", SLOW, SLOW] {
        let (program, status) = vgpu.build(&mut process, name);
        assert_eq!((status, vgpu.kernel(&mut process, program)), (0, 0));
    }
    assert_eq!(vgpu.compilers(), [0; 0]);
    let mut stranger = other.process(1);
    assert_eq!(other.build(&mut stranger, "good").1, 0);
    assert_eq!(other.compilers().len(), 1);
    vgpu.hang_up();
    other.hang_up();
}

#[test]
fn what_one_connection_has_built_the_next_of_the_same_vgpu_builds_without_a_compiler() {
    let shared = Arc::new(SharedBuilds::default());
    let mut first = VGpu::sharing("first", TRAPS, limits(16, 2), Some(&shared));
    let mut process = first.process(1);
    let (object, status) = first.compile(&mut process, "object");
    assert_eq!((status, first.build(&mut process, "good").1), (0, 0));
    assert_eq!(first.link(&mut process, object).1, 0);
    // This one starts while the first is there, and the next when it has gone.
    let mut beside = VGpu::sharing("beside", WITHOUT_COMPILERS, limits(17, 2), Some(&shared));
    let mut other_limit = beside.process(1);
    assert_eq!(
        beside.build(&mut other_limit, "good").1,
        BUILD_FAILURE,
        "with less memory it may not end well"
    );
    for trap in [HANGS, EATS, CRASHES] {
        assert_eq!(first.build(&mut process, trap).1, BUILD_FAILURE);
    }
    first.hang_up();
    beside.hang_up();

    let mut next = VGpu::sharing("next", WITHOUT_COMPILERS, limits(16, 2), Some(&shared));
    let mut process = next.process(1);
    let (program, status) = next.build(&mut process, "good");
    assert_eq!((status, next.kernel(&mut process, program)), (0, 0));
    let (object, status) = next.compile(&mut process, "object");
    assert_eq!((status, next.link(&mut process, object).1), (0, 0));
    // Otherwise its executor would hang, or be gone.
    for text in ["new", HANGS, EATS, CRASHES] {
        let (program, status) = next.build(&mut process, text);
        assert_eq!(status, BUILD_FAILURE, "{text}");
        assert!(next.build_log(&mut process, program).contains("could not be started"), "{text}");
    }
    next.hang_up();

    for (name, shared) in [("alone", None), ("elsewhere", Some(Arc::new(SharedBuilds::default())))] {
        let mut stranger = VGpu::sharing(name, WITHOUT_COMPILERS, limits(16, 2), shared.as_ref());
        let mut process = stranger.process(1);
        assert_eq!(stranger.build(&mut process, "good").1, BUILD_FAILURE);
        stranger.hang_up();
    }
}

#[test]
fn after_a_crash_of_an_executor_its_vgpu_begins_anew() {
    let shared = Arc::new(SharedBuilds::default());
    let mut vgpu = VGpu::sharing("before-a-crash", TRAPS, limits(18, 60), Some(&shared));
    let mut process = vgpu.process(1);
    assert_eq!(vgpu.build(&mut process, "good").1, 0);
    let directory = directory_of(vgpu.compilers()[0]);
    vgpu.hang_up();
    assert!(directory.exists());
    let limits = |trial| BuildLimits { trial, ..limits(18, 60) };
    let mut crashing = VGpu::sharing("crashing", TRAPS, limits(false), Some(&shared));
    let mut process = crashing.process(1);
    let program = crashing.source(&mut process, CRASHES);
    crashing.begin(&mut process, program);
    wait_until("the context to be lost", || process.ring_status() == Some(Status::Lost));
    crashing.hang_up();
    assert!(!directory.exists());
    let mut next = VGpu::sharing("after-a-crash", WITHOUT_COMPILERS, limits(true), Some(&shared));
    let mut process = next.process(1);
    assert_eq!(next.build(&mut process, "good").1, BUILD_FAILURE);
    next.hang_up();
}

/// The executor that has this directory.
fn executor_in(directory: &std::path::Path) -> u32 {
    let children = common::children_of(std::process::id());
    let executor = children.into_iter().find(|pid| {
        let is_executor = std::fs::read_to_string(format!("/proc/{pid}/cmdline"));
        is_executor.is_ok_and(|line| line.ends_with("\0executor\0")) && directory_of(*pid) == directory
    });
    executor.unwrap()
}

#[test]
fn a_compiler_that_was_killed_while_it_had_nothing_to_do_is_replaced() {
    let mut vgpu = VGpu::new("killed", TRAPS, limits(6, 60));
    let mut process = vgpu.process(1);
    assert_eq!(vgpu.build(&mut process, "one").1, 0);
    vgpu.compilers().into_iter().for_each(common::kill);
    assert_eq!(vgpu.build(&mut process, "two").1, 0);
    vgpu.hang_up();
}

#[test]
fn a_guest_process_that_ends_takes_its_builds_along_at_once() {
    let mut vgpu = VGpu::new("ending", TRAPS, BuildLimits { concurrent: 2, ..limits(7, 600) });
    let (mut one, mut other) = (vgpu.process(1), vgpu.process(2));
    for _ in 0..2 {
        let program = vgpu.source(&mut one, HANGS);
        vgpu.begin(&mut one, program);
    }
    wait_until("both to build", || vgpu.compilers().len() == 2);
    // Behind them, where nothing can start for ten minutes.
    let waiting = vgpu.source(&mut other, "waits");
    vgpu.begin(&mut other, waiting);
    let begun = Instant::now();
    vgpu.end(&other);
    vgpu.end(&one);
    assert!(begun.elapsed() < Duration::from_secs(20));
    wait_until("its compilers to end", || vgpu.compilers().is_empty());
    let mut next = vgpu.process(3);
    assert_eq!(vgpu.build(&mut next, "next").1, 0);
    assert_eq!(vgpu.logged("WARN"), [""; 0]);
    vgpu.hang_up();
}

#[test]
fn a_pause_does_not_wait_for_a_build_nor_end_it() {
    let mut vgpu = VGpu::new("pausing", TRAPS, limits(8, 3));
    let mut process = vgpu.process(1);
    let (slow, hanging) = (vgpu.source(&mut process, SLOW), vgpu.source(&mut process, HANGS));
    let slots = [slow, hanging].map(|program| vgpu.begin(&mut process, program));
    wait_until("both to build", || vgpu.compilers().len() == 2);
    vgpu.pause();
    assert_eq!(slots.map(|slot| process.status(slot)), [0, BUILD_FAILURE]);
    assert_eq!(vgpu.logged("executor killed"), [""; 0]);
    vgpu.hang_up();
}

#[test]
fn a_guest_that_hangs_up_during_a_build_leaves_nothing() {
    let limits = limits(9, 600);
    let mut vgpu = VGpu::new("hanging-up", TRAPS, limits);
    let mut process = vgpu.process(1);
    let program = vgpu.source(&mut process, HANGS);
    vgpu.begin(&mut process, program);
    wait_until("it to build", || vgpu.compilers().len() == 1);
    let directory = directory_of(vgpu.compilers()[0]);
    assert!(directory.exists());
    vgpu.hang_up();
    assert_eq!(building_guest::compilers_of(std::process::id(), limits.memory_bytes), [0; 0]);
    assert!(!directory.exists());
}

#[test]
fn an_executor_that_is_killed_takes_its_compilers_along() {
    let mut vgpu = VGpu::new("lost", TRAPS, limits(10, 600));
    let mut process = vgpu.process(1);
    let program = vgpu.source(&mut process, HANGS);
    vgpu.begin(&mut process, program);
    wait_until("it to build", || vgpu.compilers().len() == 1);
    let directory = directory_of(vgpu.compilers()[0]);
    common::kill(executor_in(&directory));
    wait_until("the context to be lost", || process.ring_status() == Some(Status::Lost));
    wait_until("the compiler to end", || vgpu.compilers().is_empty());
    vgpu.hang_up();
}

#[test]
fn without_a_trial_the_executor_builds_at_once() {
    let mut vgpu = VGpu::new("untried", TRAPS, BuildLimits { trial: false, ..limits(11, 60) });
    let mut process = vgpu.process(1);
    assert_eq!(vgpu.build(&mut process, "good").1, 0);
    assert_eq!(vgpu.compilers(), [0; 0]);
    vgpu.hang_up();
    let environment = format!("PARAGPU_BUILD_TRIAL=no {TRAPS}");
    let mut vgpu = VGpu::new("untried-by-environment", &environment, limits(12, 60));
    let mut process = vgpu.process(1);
    assert_eq!(vgpu.build(&mut process, "good").1, 0);
    assert_eq!(vgpu.compilers(), [0; 0]);
    vgpu.hang_up();
}

#[test]
fn without_a_compiler_nothing_is_built() {
    let mut vgpu = VGpu::new("none", WITHOUT_COMPILERS, limits(13, 60));
    let mut process = vgpu.process(1);
    let (program, status) = vgpu.build(&mut process, "good");
    assert_eq!(status, BUILD_FAILURE);
    assert!(vgpu.build_log(&mut process, program).contains("could not be started"));
    assert!(!vgpu.logged("could not be started").is_empty());
    vgpu.hang_up();
}
