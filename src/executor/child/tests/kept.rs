//! Builds that are not done, because the context has what would come of them.

use paragpu_protocol::command::{
    BuildProgram, CompileProgram, CreateContext, CreateKernel, CreateProgram, Release,
};
use paragpu_protocol::types::{Create, Span};
use zerocopy::little_endian::U32;

use super::super::backend::null::{BAD_SOURCE, KERNEL_NAME, WITH_VARIABLE};
use super::super::builds::Builds;
use super::super::kept::MAX_KEPT;
use super::super::record::{DeviceRecord, ProgramRecord, Record};
use super::{CONTEXT, Rig, create};

const OTHER_CONTEXT: u32 = 200;

fn rig() -> Rig {
    let mut rig = Rig::empty(Builds::inline());
    rig.prepare();
    rig
}

fn source(rig: &mut Rig, id: u32, context: u32, text: &[u8]) {
    rig.run(&CreateProgram { create: create(id, context), source: Span::NONE }, &[], text).unwrap();
}

fn rebuild(rig: &mut Rig, id: u32, devices: &[u32], options: &[u8]) -> i32 {
    let reply = rig.slot();
    let count = (devices.len() as u32).into();
    let build = BuildProgram { program: id.into(), device_count: count, reply };
    let devices: Vec<u8> = devices.iter().flat_map(|device| device.to_le_bytes()).collect();
    rig.run(&build, &[], &[&devices[..], options].concat()).unwrap();
    rig.status(reply)
}

/// Builds a new program of the first context's. Returns how often the driver was asked.
fn build(rig: &mut Rig, id: u32, text: &[u8], options: &[u8]) -> u64 {
    let before = rig.context.backend.builds();
    source(rig, id, CONTEXT, text);
    assert_eq!(rebuild(rig, id, &[], options), 0);
    rig.context.backend.builds() - before
}

fn kernel(rig: &mut Rig, id: u32, program: u32) -> i32 {
    let create = Create { reply: rig.slot(), ..create(id, program) };
    rig.run(&CreateKernel { create, info: Span::NONE }, &[], KERNEL_NAME.as_bytes()).unwrap();
    rig.status(create.reply)
}

fn release(rig: &mut Rig, id: u32) {
    rig.run(&Release { id: id.into(), reserved: U32::ZERO }, &[], &[]).unwrap();
}

fn record(rig: &Rig, id: u32) -> ProgramRecord {
    let record = rig.context.records().into_iter().find(|record| record.id == Some(id)).unwrap();
    assert_eq!(record.poisoned, None);
    let Record::Program(program) = record.record else { panic!("{record:?}") };
    program
}

#[test]
fn the_same_build_reaches_the_driver_once_and_leaves_the_same_records() {
    let mut rig = rig();
    assert_eq!(build(&mut rig, 20, b"text", b"-DA"), 1);
    assert_eq!(build(&mut rig, 21, b"text", b"-DA"), 0);
    assert_eq!(record(&rig, 20), record(&rig, 21));
    assert_eq!([20, 21].map(|program| kernel(&mut rig, program + 10, program)), [0, 0]);
    for id in [20, 30, 21, 31] {
        release(&mut rig, id);
    }
    assert_eq!(build(&mut rig, 22, b"text", b"-DA"), 0, "also when nobody has it any more");
    assert_eq!(rebuild(&mut rig, 22, &[0], b"-DA"), 0);
    assert_eq!(rig.context.backend.builds(), 1, "all devices by name");
    rig.context.tear_down();
    assert_eq!(rig.context.live_objects(), 0);
}

#[test]
fn other_texts_options_and_contexts_share_nothing() {
    let mut rig = rig();
    for (id, text, options) in
        [(20, &b"text"[..], &b""[..]), (21, b"text", b"-DA"), (22, b"text ", b""), (23, b"tex", b"t")]
    {
        assert_eq!(build(&mut rig, id, text, options), 1);
    }
    // On another device, and on the same once more.
    for (context, device) in [(OTHER_CONTEXT, 1_u32), (OTHER_CONTEXT + 1, 0)] {
        let before = rig.context.backend.builds();
        rig.run(&CreateContext { create: create(context, 0) }, &[], &device.to_le_bytes()).unwrap();
        source(&mut rig, context + 10, context, b"text");
        assert_eq!(rebuild(&mut rig, context + 10, &[], b""), 0);
        assert_eq!(rig.context.backend.builds() - before, 1);
    }
}

#[test]
fn what_one_program_becomes_does_not_touch_the_others() {
    let mut rig = rig();
    build(&mut rig, 20, b"text", b"");
    build(&mut rig, 21, b"text", b"");
    build(&mut rig, 22, b"text", b"");
    // The one that was built itself, and one that was not.
    for changed in [20, 21] {
        let reply = rig.slot();
        let compile = CompileProgram { program: changed.into(), reply, ..CompileProgram::default() };
        rig.run(&compile, &[], b"").unwrap();
        assert_eq!(rig.status(reply), 0);
        assert_eq!(kernel(&mut rig, changed + 10, changed), -45, "it is no executable any more");
        release(&mut rig, changed + 10);
    }
    assert_eq!(kernel(&mut rig, 32, 22), 0);
    let before = rig.context.backend.builds();
    assert_eq!(rebuild(&mut rig, 20, &[], b""), 0);
    assert_eq!(kernel(&mut rig, 30, 20), 0);
    assert_eq!(rig.context.backend.builds(), before);
    assert_eq!(rebuild(&mut rig, 22, &[], b""), -59, "it has a kernel, whoever has the host's program");
}

#[test]
fn a_build_for_one_device_leaves_the_other_devices_what_they_have() {
    let mut rig = rig();
    let both = [0_u32, 1].map(u32::to_le_bytes).concat();
    rig.run(&CreateContext { create: create(OTHER_CONTEXT, 0) }, &[], &both).unwrap();
    for id in [20, 21] {
        source(&mut rig, id, OTHER_CONTEXT, b"text");
        assert_eq!(rebuild(&mut rig, id, &[], b"-DA"), 0);
    }
    assert_eq!(rig.context.backend.builds(), 1);
    assert_eq!(rebuild(&mut rig, 21, &[1], b"-DB"), 0);
    assert_eq!(rig.context.backend.builds(), 3, "what both had is built again for this program");
    let builds: Vec<_> =
        record(&rig, 21).builds.into_iter().map(|build| (build.devices, build.options)).collect();
    let device = |index| vec![DeviceRecord::Root(index)];
    assert_eq!(builds, [(device(0), b"-DA".to_vec()), (device(1), b"-DB".to_vec())]);
    assert_eq!(record(&rig, 20).builds.len(), 1);
    // Nor is a build for one device taken for one of all.
    source(&mut rig, 22, OTHER_CONTEXT, b"text");
    assert_eq!(rebuild(&mut rig, 22, &[1], b"-DA"), 0);
    assert_eq!(rig.context.backend.builds(), 4);
}

#[test]
fn what_fails_varies_or_has_variables_is_built_each_time() {
    let mut rig = rig();
    for (id, text) in [(20, WITH_VARIABLE), (30, b"#include <h>"), (40, b"__TIME__")] {
        assert_eq!([id, id + 1].map(|id| build(&mut rig, id, text, b"")), [1, 1]);
    }
    for id in [50, 51] {
        source(&mut rig, id, CONTEXT, BAD_SOURCE);
        assert_eq!(rebuild(&mut rig, id, &[], b""), -11);
    }
    assert_eq!(rig.context.backend.builds(), 8);
}

#[test]
fn a_flood_of_programs_keeps_no_more_than_the_limit() {
    let mut rig = rig();
    let count = 4 * MAX_KEPT as u32;
    let text = |number: u32| format!("text {number}").into_bytes();
    for number in 0..count {
        assert_eq!(build(&mut rig, 1000 + number, &text(number), b""), 1);
        release(&mut rig, 1000 + number);
    }
    let kept = (0..count).rev().take_while(|number| build(&mut rig, 5000 + number, &text(*number), b"") == 0);
    assert_eq!(kept.count(), MAX_KEPT);
}
