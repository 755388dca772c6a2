//! Frames about programs and kernels, for the seed with every command.

use paragpu_protocol::command::{
    CloneKernel, CompileProgram, CreateBuiltInProgram, CreateKernel, CreateProgram, CreateProgramWithIl,
    LinkProgram, SetSpecConstant,
};
use paragpu_protocol::spirv::MAGIC;
use paragpu_protocol::types::Span;

use super::{CONTEXT, Frames, KERNEL, create, slot};

const IL: u32 = 130;
const SOURCE: u32 = 131;
const HEADER: u32 = 132;
const LINKED: u32 = 133;

/// Compiles, links and clones: with a kernel from intermediate language, built-in ones, and a clone of `KERNEL`.
pub(super) fn add(frames: &mut Frames) {
    frames.add(&CreateProgramWithIl { create: create(IL, CONTEXT), il: Span::NONE }, &[], &module());
    let constant = SetSpecConstant { program: IL.into(), spec_id: 7.into(), reply: slot(140) };
    frames.add(&constant, &[], &[1, 2, 3, 4]);
    let compile = CompileProgram { program: IL.into(), reply: slot(141), ..CompileProgram::default() };
    frames.add(&compile, &[], b"-cl-opt-disable");
    for (id, text) in [(SOURCE, &b"#include \"h\"\n"[..]), (HEADER, b"header")] {
        frames.add(&CreateProgram { create: create(id, CONTEXT), source: Span::NONE }, &[], text);
    }
    let compile = CompileProgram {
        program: SOURCE.into(),
        device_count: 1.into(),
        header_count: 1.into(),
        reply: slot(142),
        ..CompileProgram::default()
    };
    frames.add(&compile, &[], &[&[0; 4], &HEADER.to_le_bytes()[..], &[1, 0, 0, 0], b"h-DA=1"].concat());
    let link =
        LinkProgram { create: create(LINKED, CONTEXT), input_count: 2.into(), ..LinkProgram::default() };
    frames.add(&link, &[], &[IL.to_le_bytes(), SOURCE.to_le_bytes()].concat());
    let kernel = CreateKernel { create: create(134, LINKED), info: Span::new(2, 4096, 64) };
    frames.add(&kernel, &[], b"abc");
    let built_in = CreateBuiltInProgram {
        create: create(135, CONTEXT),
        device_count: 1.into(),
        ..CreateBuiltInProgram::default()
    };
    frames.add(&built_in, &[], b"\0\0\0\0k");
    frames.add(&CloneKernel { create: create(136, KERNEL) }, &[], &[]);
}

/// A module with one kernel `abc` of one argument for each way of passing one, and a specialization constant 7.
fn module() -> Vec<u8> {
    let instructions: [&[u32]; 19] = [
        &[15, 6, 50, u32::from_le_bytes(*b"abc\0")],
        &[71, 2, 1, 7],
        &[71, 63, 38, 2],
        &[21, 1, 32, 0],
        &[50, 1, 2, 0],
        &[23, 3, 1, 3],
        &[30, 4, 1, 1],
        &[32, 5, 5, 1],
        &[32, 6, 4, 1],
        &[32, 7, 7, 4],
        &[26, 8],
        &[25, 9, 1, 0, 0, 0, 0, 0, 0],
        &[33, 40, 1, 3, 5, 6, 7, 8],
        &[54, 1, 50, 0, 40],
        &[55, 3, 60],
        &[55, 5, 61],
        &[55, 6, 62],
        &[55, 7, 63],
        &[55, 8, 64],
    ];
    let mut words = vec![MAGIC, 0x1_0000, 0, 100, 0];
    for instruction in instructions {
        words.push(instruction[0] | (instruction.len() as u32) << 16);
        words.extend(&instruction[1..]);
    }
    words.into_iter().flat_map(u32::to_le_bytes).collect()
}
