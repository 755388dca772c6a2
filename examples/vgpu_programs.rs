//! Makes programs in every way that OpenCL has, runs them on the vGPU, and compares with this CPU. Exit status 0 only if
//! everything agrees. What the host's device does not have is skipped, with the reason.
//!
//!     paragpu run -- target/debug/examples/vgpu_programs

mod common;
#[path = "common/spirv.rs"]
mod spirv;

use std::ffi::{CStr, c_char, c_void};
use std::ptr;

use anyhow::{Context as _, Result, anyhow, ensure};
use cl3::command_queue::enqueue_nd_range_kernel;
use cl3::kernel::{CL_KERNEL_ARG_NAME, clone_kernel, create_kernel, get_kernel_arg_data, set_kernel_arg};
use cl3::program::{
    CL_PROGRAM_BINARIES, CL_PROGRAM_BINARY_SIZES, CL_PROGRAM_BINARY_TYPE,
    CL_PROGRAM_BINARY_TYPE_COMPILED_OBJECT, CL_PROGRAM_BINARY_TYPE_EXECUTABLE,
    CL_PROGRAM_BINARY_TYPE_LIBRARY, CL_PROGRAM_BUILD_LOG, CL_PROGRAM_IL, build_program,
    create_program_with_builtin_kernels, create_program_with_il, create_program_with_source,
    get_program_build_data, get_program_data, release_program, set_program_specialization_constant,
};
use clap::Parser;
use opencl3::error_codes::{
    CL_BUILD_PROGRAM_FAILURE, CL_DEVICE_NOT_AVAILABLE, CL_INVALID_ARG_VALUE, CL_INVALID_BINARY,
    CL_INVALID_BUILD_OPTIONS, CL_INVALID_OPERATION, CL_INVALID_SPEC_ID, CL_INVALID_VALUE,
    CL_KERNEL_ARG_INFO_NOT_AVAILABLE, CL_LINK_PROGRAM_FAILURE, CL_SUCCESS,
};
use opencl3::event::Event;
use opencl3::kernel::{ExecuteKernel, Kernel};
use opencl3::memory::Buffer;
use opencl3::types::{cl_int, cl_program};

use common::Gpu;
use common::checks::{Check, Choice};

/// Makes programs on the vGPU, and compares what they compute with what this CPU computes.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    choice: Choice,
    /// Instead: crash the compiler, and see that a new context works.
    #[arg(long)]
    crash: bool,
}

/// How a check went: `Some` reason for which it was not made.
type Outcome = Result<Option<String>>;

const CHECKS: &[Check<Gpu, Option<String>>] = &[
    ("compiled with a header, linked with a library", compiled_and_linked),
    ("a link that fails comes with a program", failing_link),
    ("binaries of each type are taken back", binaries_of_each_type),
    ("a clone keeps the arguments of its moment", clones),
    ("intermediate language with a specialization constant", intermediate_language),
    ("intermediate language is linked, and its binary taken back", linked_intermediate_language),
    ("built-in kernels", built_in_kernels),
    ("builds that are refused", refused_builds),
    ("programs of one text are programs of their own", same_text),
    ("argument information is there if it was asked for", argument_information),
    ("a sampler under another name takes no bytes", disguised_sampler),
];

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if arguments.crash {
        return crash_compiler(&arguments.choice.platform);
    }
    let gpu = arguments.choice.open()?;
    arguments.choice.make(CHECKS, &gpu)
}

fn code(status: cl_int) -> anyhow::Error {
    anyhow!("OpenCL error {status}")
}

fn runtime() -> Result<&'static cl3::OpenClRuntime> {
    cl3::load_library().as_ref().map_err(|error| anyhow!("{error}"))
}

/// A program; released when dropped.
struct Made(cl_program);

impl Drop for Made {
    fn drop(&mut self) {
        // SAFETY: a program that was created for this value, and is not used after it.
        let _ = unsafe { release_program(self.0) };
    }
}

impl Made {
    fn source(gpu: &Gpu, text: &str) -> Result<Made> {
        create_program_with_source(gpu.context.get(), &[text]).map(Made).map_err(code)
    }

    fn build(&self, gpu: &Gpu, options: &CStr) -> Result<(), cl_int> {
        build_program(self.0, &[gpu.device.id()], options, None, ptr::null_mut())
    }

    fn compile(&self, options: &CStr, headers: &[(&CStr, &Made)]) -> Result<()> {
        let programs: Vec<cl_program> = headers.iter().map(|(_, program)| program.0).collect();
        let names: Vec<*const c_char> = headers.iter().map(|(name, _)| name.as_ptr()).collect();
        let is_none = headers.is_empty();
        let status = runtime()?.clCompileProgram(
            self.0,
            0,
            ptr::null(),
            options.as_ptr(),
            headers.len() as u32,
            if is_none { ptr::null() } else { programs.as_ptr() },
            if is_none { ptr::null() } else { names.as_ptr() },
            None,
            ptr::null_mut(),
        );
        ensure!(status == Some(CL_SUCCESS), "clCompileProgram: {status:?}");
        Ok(())
    }

    /// A program compiled from source.
    fn object(gpu: &Gpu, text: &str) -> Result<Made> {
        let object = Made::source(gpu, text)?;
        object.compile(c"", &[])?;
        Ok(object)
    }

    fn try_link(gpu: &Gpu, options: &CStr, inputs: &[&Made]) -> Result<(Option<Made>, cl_int)> {
        let programs: Vec<cl_program> = inputs.iter().map(|program| program.0).collect();
        let mut status = CL_SUCCESS;
        let program = runtime()?.clLinkProgram(
            gpu.context.get(),
            0,
            ptr::null(),
            options.as_ptr(),
            programs.len() as u32,
            programs.as_ptr(),
            None,
            ptr::null_mut(),
            &mut status,
        );
        let program = program.context("no clLinkProgram")?;
        Ok(((!program.is_null()).then_some(Made(program)), status))
    }

    fn link(gpu: &Gpu, options: &CStr, inputs: &[&Made]) -> Result<Made> {
        let (program, status) = Made::try_link(gpu, options, inputs)?;
        ensure!(status == CL_SUCCESS, "clLinkProgram: {status}");
        program.context("no program of a link that succeeded")
    }

    fn binary_type(&self, gpu: &Gpu) -> Result<u32> {
        let answer = get_program_build_data(self.0, gpu.device.id(), CL_PROGRAM_BINARY_TYPE);
        let answer = answer.map_err(code)?;
        Ok(u32::from_ne_bytes(answer.as_slice().try_into()?))
    }

    fn log(&self, gpu: &Gpu) -> Result<Vec<u8>> {
        get_program_build_data(self.0, gpu.device.id(), CL_PROGRAM_BUILD_LOG).map_err(code)
    }

    /// The binary of the first device. An array with only NULL gets nothing and is no mistake.
    fn binary(&self) -> Result<Vec<u8>> {
        let sizes = get_program_data(self.0, CL_PROGRAM_BINARY_SIZES).map_err(code)?;
        let size = usize::from_ne_bytes(*sizes.first_chunk().context("no size")?);
        ensure!(size > 0, "there is no binary");
        let mut binary = vec![0_u8; size];
        for pointer in [ptr::null_mut(), binary.as_mut_ptr()] {
            let mut pointers: [*mut u8; 1] = [pointer];
            let status = runtime()?.clGetProgramInfo(
                self.0,
                CL_PROGRAM_BINARIES,
                size_of_val(&pointers),
                pointers.as_mut_ptr().cast(),
                ptr::null_mut(),
            );
            ensure!(status == Some(CL_SUCCESS), "CL_PROGRAM_BINARIES: {status:?}");
        }
        Ok(binary)
    }

    /// What becomes of a binary: the program, or the error and the device's.
    fn from_binary(gpu: &Gpu, binary: &[u8]) -> Result<Result<Made, (cl_int, cl_int)>> {
        let (device, length, pointer) = (gpu.device.id(), binary.len(), binary.as_ptr());
        let (mut of_device, mut status) = (CL_SUCCESS, CL_SUCCESS);
        let program = runtime()?.clCreateProgramWithBinary(
            gpu.context.get(),
            1,
            &device,
            &length,
            &pointer,
            &mut of_device,
            &mut status,
        );
        let program = program.context("no clCreateProgramWithBinary")?;
        Ok(if program.is_null() { Err((status, of_device)) } else { Ok(Made(program)) })
    }

    /// The same program, from its binary.
    fn reloaded(&self, gpu: &Gpu) -> Result<Made> {
        let reloaded = Made::from_binary(gpu, &self.binary()?)?;
        let reloaded = reloaded.map_err(|(status, _)| anyhow!("its own binary: {status}"))?;
        ensure!(reloaded.binary_type(gpu)? == self.binary_type(gpu)?, "the type differs at once");
        Ok(reloaded)
    }

    fn kernel(&self, name: &CStr) -> Result<Kernel> {
        Ok(Kernel::new(create_kernel(self.0, name).map_err(code)?))
    }

    /// Runs a kernel of one buffer of numbers, and returns what it made of 0, 1, 2, …, 99.
    fn run(&self, gpu: &Gpu, kernel: &CStr) -> Result<Vec<u32>> {
        let kernel = self.kernel(kernel)?;
        let data = gpu.upload(&(0..100).collect::<Vec<u32>>())?;
        launch(gpu, &kernel, |call| {
            // SAFETY: the callers' kernels have one argument, a buffer of one number per work-item.
            unsafe { call.set_arg(&data) };
        })?;
        gpu.download(&data, 100)
    }
}

fn launch(gpu: &Gpu, kernel: &Kernel, set: impl FnOnce(&mut ExecuteKernel<'_>)) -> Result<()> {
    let mut call = ExecuteKernel::new(kernel);
    set(&mut call);
    call.set_global_work_size(100);
    // SAFETY: the callers set every argument, and buffers of a hundred numbers.
    unsafe { call.enqueue_nd_range(&gpu.queue) }.context("cannot enqueue the kernel")?;
    Ok(gpu.queue.finish()?)
}

const USER: &str = "#include <lib/twice.h>
kernel void f(global uint *x) { size_t i = get_global_id(0); x[i] = twice(x[i]) + ONE; }";
const HEADER: &str = "uint twice(uint x);\n#define ONE 1\n";
const LIBRARY: &str = "uint twice(uint x) { return 2 * x; }";

/// What the linked program makes of 0, 1, 2, …
fn expected() -> Vec<u32> {
    (0..100).map(|x| 2 * x + 1).collect()
}

fn user(gpu: &Gpu) -> Result<Made> {
    let program = Made::source(gpu, USER)?;
    // The program that is the header may be one like others, built itself and released early.
    let header = Made::source(gpu, HEADER)?;
    header.build(gpu, c"").map_err(code)?;
    program.compile(c"-w", &[(c"lib/twice.h", &header)])?;
    Ok(program)
}

fn compiled_and_linked(gpu: &Gpu) -> Outcome {
    let user = user(gpu)?;
    ensure!(user.binary_type(gpu)? == CL_PROGRAM_BINARY_TYPE_COMPILED_OBJECT, "no compiled object");
    let library = Made::link(gpu, c"-create-library", &[&Made::object(gpu, LIBRARY)?])?;
    ensure!(library.binary_type(gpu)? == CL_PROGRAM_BINARY_TYPE_LIBRARY, "no library");
    let linked = Made::link(gpu, c"", &[&user, &library])?;
    ensure!(linked.binary_type(gpu)? == CL_PROGRAM_BINARY_TYPE_EXECUTABLE, "no executable");
    ensure!(linked.run(gpu, c"f")? == expected(), "results differ");
    // What it was linked of may change now: it does not.
    let kernel = linked.kernel(c"f")?;
    user.compile(c"-DONE=2 -w", &[(c"lib/twice.h", &Made::source(gpu, "uint twice(uint x);")?)])?;
    drop((user, library, kernel));
    ensure!(linked.run(gpu, c"f")? == expected(), "results differ after its parts changed");
    Ok(None)
}

fn failing_link(gpu: &Gpu) -> Outcome {
    let (program, status) = Made::try_link(gpu, c"", &[&user(gpu)?])?;
    ensure!(status == CL_LINK_PROGRAM_FAILURE, "a function is missing: {status}");
    let program = program.context("no program of a link that failed")?;
    ensure!(!program.log(gpu)?.is_empty(), "no log, not even an empty one");
    ensure!(create_kernel(program.0, c"f").is_err(), "a kernel of a program that was not linked");
    Ok(None)
}

fn binaries_of_each_type(gpu: &Gpu) -> Outcome {
    let user = user(gpu)?.reloaded(gpu)?;
    let library = Made::link(gpu, c"-create-library", &[&Made::object(gpu, LIBRARY)?.reloaded(gpu)?])?;
    let library = library.reloaded(gpu)?;
    let linked = Made::link(gpu, c"", &[&user, &library])?;
    ensure!(linked.run(gpu, c"f")? == expected(), "results differ when linked of what was reloaded");
    // As a cache of an application's would: another program, later.
    let binary = linked.binary()?;
    drop((user, library, linked));
    let again = Made::from_binary(gpu, &binary)?.map_err(|(status, _)| code(status))?;
    ensure!(create_kernel(again.0, c"f").is_err(), "a kernel before clBuildProgram");
    again.build(gpu, c"").map_err(code)?;
    ensure!(again.run(gpu, c"f")? == expected(), "results differ when the executable was reloaded");
    ensure!(again.binary()? == binary, "the binary of a binary differs");
    for damaged in [&binary[..binary.len() - 1], b"junk"] {
        let refused = Made::from_binary(gpu, damaged)?.err();
        ensure!(refused == Some((CL_INVALID_BINARY, CL_INVALID_BINARY)), "a damaged binary: {refused:?}");
    }
    let refused = Made::from_binary(gpu, &[])?.err();
    ensure!(refused == Some((CL_INVALID_VALUE, CL_INVALID_VALUE)), "an empty binary: {refused:?}");
    Ok(None)
}

fn clones(gpu: &Gpu) -> Outcome {
    let program = Made::source(
        gpu,
        "typedef struct { uint a, b; } pair;
        kernel void f(global uint *from, global uint *to, pair p, local uint *l) {
            size_t i = get_global_id(0);
            l[get_local_id(0)] = from[i] * p.a + p.b;
            to[i] = l[get_local_id(0)];
        }",
    )?;
    program.build(gpu, c"").map_err(code)?;
    let kernel = program.kernel(c"f")?;
    let from = gpu.upload(&(0..100).collect::<Vec<u32>>())?;
    let to = gpu.upload(&[0_u32; 100])?;
    let set = |kernel: &Kernel, pair: [u32; 2]| {
        // SAFETY: as the kernel declares; two numbers are laid out as its structure.
        unsafe {
            kernel.set_arg(0, &from)?;
            kernel.set_arg(1, &to)?;
            kernel.set_arg(2, &pair)?;
            kernel.set_arg_local_buffer(3, 4 * 100)
        }
    };
    set(&kernel, [3, 4])?;
    let clone = Kernel::new(clone_kernel(kernel.get()).map_err(code)?);
    // The original goes its own way, and what the clone reads from is kept by it alone.
    set(&kernel, [5, 6])?;
    // SAFETY: a null pointer is allowed for a buffer.
    unsafe { set_kernel_arg(kernel.get(), 0, size_of::<usize>(), ptr::null()) }.map_err(code)?;
    drop((from, kernel));
    let global = 100_usize;
    // SAFETY: every argument is set, with buffers of a hundred numbers.
    unsafe {
        let (offset, local) = (ptr::null(), ptr::null());
        enqueue_nd_range_kernel(gpu.queue.get(), clone.get(), 1, offset, &global, local, 0, ptr::null())
    }
    .map(Event::new)
    .map_err(code)?;
    let expected: Vec<u32> = (0..100).map(|x| 3 * x + 4).collect();
    ensure!(gpu.download(&to, 100)? == expected, "results differ");
    let rebuilt = program.build(gpu, c"");
    ensure!(rebuilt == Err(CL_INVALID_OPERATION), "a program with a clone is built again: {rebuilt:?}");
    Ok(None)
}

/// A program of the module, unless the device takes none.
fn module(gpu: &Gpu) -> Result<Result<Made, String>> {
    let versions = gpu.device.il_version().unwrap_or_default();
    if versions.is_empty() {
        let refused = create_program_with_il(gpu.context.get(), &spirv::scale_module()).err();
        ensure!(refused == Some(CL_INVALID_OPERATION), "a device without intermediate language: {refused:?}");
        return Ok(Err("the device takes no intermediate language".into()));
    }
    let refused = create_program_with_il(gpu.context.get(), b"no module at all....").err();
    ensure!(refused == Some(CL_INVALID_VALUE), "what is no module: {refused:?}");
    create_program_with_il(gpu.context.get(), &spirv::scale_module()).map(|it| Ok(Made(it))).map_err(code)
}

/// Runs the module's kernel with a factor of 3.
fn scaled(gpu: &Gpu, program: &Made) -> Result<Vec<u32>> {
    let kernel = program.kernel(c"scale")?;
    let data = gpu.upload(&(0..100).collect::<Vec<u32>>())?;
    launch(gpu, &kernel, |call| {
        // SAFETY: a buffer of one number per work-item, and a number, as the kernel declares.
        unsafe { call.set_arg(&data).set_arg(&3_u32) };
    })?;
    gpu.download(&data, 100)
}

fn intermediate_language(gpu: &Gpu) -> Outcome {
    let program = match module(gpu)? {
        Ok(program) => program,
        Err(reason) => return Ok(Some(reason)),
    };
    let il = get_program_data(program.0, CL_PROGRAM_IL).map_err(code)?;
    ensure!(il == spirv::scale_module(), "CL_PROGRAM_IL differs");
    program.build(gpu, c"").map_err(code)?;
    let expected = |addend: u32| (0..100).map(|x| 3 * x + addend).collect::<Vec<u32>>();
    ensure!(scaled(gpu, &program)? == expected(spirv::ADDEND), "results differ");
    let set = |id: u32, size: usize, value: u64| {
        let value = ptr::from_ref(&value).cast::<c_void>();
        // SAFETY: eight bytes at least.
        unsafe { set_program_specialization_constant(program.0, id, size, value) }
    };
    ensure!(set(99, 4, 0) == Err(CL_INVALID_SPEC_ID), "a constant that there is not");
    ensure!(set(spirv::ADDEND_ID, 8, 0) == Err(CL_INVALID_VALUE), "a constant of another size");
    set(spirv::ADDEND_ID, 4, 1000).map_err(code)?;
    ensure!(scaled(gpu, &program)? == expected(spirv::ADDEND), "what is built changed with the constant");
    program.build(gpu, c"").map_err(code)?;
    ensure!(scaled(gpu, &program)? == expected(1000), "results differ with the constant");
    let reloaded = program.reloaded(gpu)?;
    reloaded.build(gpu, c"").map_err(code)?;
    ensure!(scaled(gpu, &reloaded)? == expected(1000), "results differ when it was reloaded");
    Ok(None)
}

fn linked_intermediate_language(gpu: &Gpu) -> Outcome {
    let program = match module(gpu)? {
        Ok(program) => program,
        Err(reason) => return Ok(Some(reason)),
    };
    program.compile(c"", &[])?;
    let linked = Made::link(gpu, c"", &[&program.reloaded(gpu)?])?;
    let expected: Vec<u32> = (0..100).map(|x| 3 * x + spirv::ADDEND).collect();
    ensure!(scaled(gpu, &linked)? == expected, "results differ");
    let reloaded = linked.reloaded(gpu)?;
    reloaded.build(gpu, c"").map_err(code)?;
    ensure!(scaled(gpu, &reloaded)? == expected, "results differ when it was reloaded");
    Ok(None)
}

fn built_in_kernels(gpu: &Gpu) -> Outcome {
    let create = |names: &CStr| {
        // SAFETY: the context's device.
        unsafe { create_program_with_builtin_kernels(gpu.context.get(), &[gpu.device.id()], names).map(Made) }
    };
    let unknown = create(c"no.such.kernel").err();
    ensure!(unknown == Some(CL_INVALID_VALUE), "a kernel that there is not: {unknown:?}");
    const ADD: &str = "pocl.add.i8";
    let offered = gpu.device.built_in_kernels()?;
    if !offered.split(';').any(|name| name == ADD) {
        return Ok(Some(format!("the device has no {ADD}, only {offered:?}")));
    }
    let program = create(c"pocl.add.i8").map_err(code)?;
    program.build(gpu, c"").map_err(code)?;
    let kernel = program.kernel(c"pocl.add.i8")?;
    let (a, b) = (gpu.upload(&[3_u8; 100])?, gpu.upload(&[4_u8; 100])?);
    let sum: Buffer<u8> = gpu.buffer(100)?;
    launch(gpu, &kernel, |call| {
        // SAFETY: two buffers to add, and one for the sum, of a byte per work-item.
        unsafe { call.set_arg(&a).set_arg(&b).set_arg(&sum) };
    })?;
    ensure!(gpu.download(&sum, 100)? == [7; 100], "sums differ");
    Ok(None)
}

fn refused_builds(gpu: &Gpu) -> Outcome {
    let program = Made::source(gpu, "kernel void f(global uint *x) { x[get_global_id(0)] += ONE; }")?;
    program.build(gpu, c"-DONE=1").map_err(code)?;
    let refused = program.build(gpu, c"--no-such-option");
    ensure!(refused == Err(CL_INVALID_BUILD_OPTIONS), "an option that there is not: {refused:?}");
    program.build(gpu, c"-DONE=1").map_err(code)?;
    let binary = program.binary()?;
    let kernel = program.kernel(c"f")?;
    let refused = program.build(gpu, c"");
    ensure!(refused == Err(CL_INVALID_OPERATION), "a program that has kernels is built again: {refused:?}");
    drop(kernel);
    let failed = program.build(gpu, c"");
    ensure!(failed == Err(CL_BUILD_PROGRAM_FAILURE), "ONE is not defined: {failed:?}");
    ensure!(program.binary().is_err(), "a program that was not built has a binary");
    program.build(gpu, c"-DONE=1").map_err(code)?;
    ensure!(program.binary()? == binary, "the same build has another binary");
    let expected: Vec<u32> = (1..101).collect();
    ensure!(program.run(gpu, c"f")? == expected, "results differ");
    Ok(None)
}

/// Whatever of the first is used for the others.
fn same_text(gpu: &Gpu) -> Outcome {
    const TEXT: &str = "kernel void f(global uint *x) { x[get_global_id(0)] += N; }";
    let built = |options: &CStr| {
        let program = Made::source(gpu, TEXT)?;
        program.build(gpu, options).map_err(code)?;
        Ok::<_, anyhow::Error>(program)
    };
    let adds = |program: &Made, n: u32| -> Result<()> {
        ensure!(program.run(gpu, c"f")? == (n..100 + n).collect::<Vec<_>>(), "it does not add {n}");
        Ok(())
    };
    let (one, again, two) = (built(c"-DN=1")?, built(c"-DN=1")?, built(c"-DN=2")?);
    let kernel = again.kernel(c"f")?;
    one.build(gpu, c"-DN=3").map_err(code)?;
    for (program, n) in [(&one, 3), (&again, 1), (&two, 2)] {
        adds(program, n)?;
    }
    let refused = again.build(gpu, c"-DN=3");
    ensure!(refused == Err(CL_INVALID_OPERATION), "it has a kernel: {refused:?}");
    drop((one, kernel));
    let failed = two.build(gpu, c"");
    ensure!(failed == Err(CL_BUILD_PROGRAM_FAILURE), "N is not defined: {failed:?}");
    ensure!(!two.log(gpu)?.is_empty() && two.kernel(c"f").is_err(), "it is there all the same");
    adds(&again, 1)?;
    adds(&built(c"-DN=3")?, 3)?;
    again.compile(c"-DN=4", &[])?;
    adds(&Made::link(gpu, c"", &[&again])?, 4)?;
    adds(&built(c"-DN=1")?, 1)?;
    Ok(None)
}

fn argument_information(gpu: &Gpu) -> Outcome {
    let program = Made::source(gpu, "kernel void f(global uint *numbers) { numbers[0] = 1; }")?;
    for (options, expected) in [
        (c"-cl-opt-disable", Err(CL_KERNEL_ARG_INFO_NOT_AVAILABLE)),
        (c"-cl-kernel-arg-info", Ok(b"numbers\0".to_vec())),
    ] {
        program.build(gpu, options).map_err(code)?;
        let kernel = program.kernel(c"f")?;
        let name = get_kernel_arg_data(kernel.get(), 0, CL_KERNEL_ARG_NAME);
        ensure!(name == expected, "built with {options:?}: {name:?}");
    }
    Ok(None)
}

/// To the host's driver this argument is a pointer of the host's, which a guest must not choose.
fn disguised_sampler(gpu: &Gpu) -> Outcome {
    let text = "typedef sampler_t number;
        kernel void f(number s, global uint *x) { x[get_global_id(0)] = 7; }";
    let program = Made::source(gpu, text)?;
    if program.build(gpu, c"").is_err() {
        return Ok(Some("the compiler takes no sampler under another name".into()));
    }
    let kernel = program.kernel(c"f")?;
    let address = 0x4141_4141_4141_4141_u64;
    let value = ptr::from_ref(&address).cast::<c_void>();
    // SAFETY: eight bytes.
    let set = unsafe { set_kernel_arg(kernel.get(), 0, size_of::<u64>(), value) };
    ensure!(set == Err(CL_INVALID_ARG_VALUE), "bytes are taken for a sampler: {set:?}");
    compiled_and_linked(gpu)
}

/// A term so deep that a compiler which descends into it has no stack left.
fn crash_compiler(platform: &str) -> Result<()> {
    let gpu = Gpu::open(platform)?;
    let deep = "- ".repeat(20_000);
    let program = Made::source(&gpu, &format!("kernel void f(global int *x) {{ x[0] = {deep}1; }}"))?;
    match program.build(&gpu, c"") {
        Err(CL_DEVICE_NOT_AVAILABLE) => {}
        survived => {
            println!("skip  the compiler does not crash: {survived:?}");
            return Ok(());
        }
    }
    ensure!(gpu.buffer::<u8>(100).is_err(), "the context goes on");
    drop((program, gpu));
    compiled_and_linked(&Gpu::open(platform)?)?;
    println!("ok    a new context works");
    Ok(())
}
