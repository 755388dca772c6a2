//! Checks what a vGPU says and does about devices, queues, events and contexts. Exit status 0 only if everything is as
//! the specification has it.
//!
//!     paragpu run -- target/debug/examples/device_check

#[path = "../common/mod.rs"]
mod common;
mod events;
mod native;
mod sub_devices;

use anyhow::Result;
use clap::Parser;
use common::Gpu;
use common::checks::{Check, Choice};

/// Checks devices, queues, events and contexts.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    choice: Choice,
}

/// What every check gets.
struct Bench {
    gpu: Gpu,
}

/// `bump` adds 1 to each of a buffer's numbers.
const SOURCE: &str = "kernel void bump(global uint *x) { x[get_global_id(0)] += 1; }";

const CHECKS: &[Check<Bench>] = &[
    ("sub-devices of equal size compute", sub_devices::equally),
    ("sub-devices by counts, and what they say", sub_devices::by_counts),
    ("sub-devices come and go", sub_devices::come_and_go),
    ("partitions that cannot be are errors", sub_devices::mistakes),
    ("a native kernel takes its turn", native::takes_its_turn),
    (
        "a native kernel waits, and fails with what it waits for",
        native::waits_and_fails_with_what_it_waits_for,
    ),
    ("a native kernel sees buffers and sub-buffers as one memory", native::shares_memory),
    ("a native kernel sees what was read before", native::sees_what_was_read_before),
    ("many native kernels from many threads", native::many_from_many_threads),
    ("native kernels that cannot be are errors", native::mistakes),
    ("event callbacks are called in order", events::callbacks_in_order),
    ("a kernel is seen running", events::running),
    ("a failed event fails what waits for it", events::failures_spread),
    ("a user event is released before it ends", events::released_before_it_ends),
    ("events of other contexts are refused", events::contexts_are_kept_apart),
];

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let bench = Bench { gpu: arguments.choice.open()? };
    arguments.choice.make(CHECKS, &bench)
}
