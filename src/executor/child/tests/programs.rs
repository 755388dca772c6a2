//! Building, compiling, linking, intermediate language, built-in kernels and clones.

use paragpu_protocol::command::{
    BuildProgram, CloneKernel, CompileProgram, CreateBuiltInProgram, CreateKernel, CreateProgram,
    CreateProgramWithIl, CreateSharedBuffer, EnqueueKernel, GetInfo, LinkProgram, Marker, Release,
    ReleaseShared, SetExecInfo, SetSpecConstant,
};
use paragpu_protocol::fault::Fault;
use paragpu_protocol::info::InfoKind;
use paragpu_protocol::kernel::{ArgInfo, ArgKind, KernelInfo};
use paragpu_protocol::limits::MAX_LINK_DEPTH;
use paragpu_protocol::spirv::MAGIC;
use paragpu_protocol::types::{Create, Span};
use zerocopy::FromBytes;
use zerocopy::little_endian::U32;

use super::super::backend::null::{BAD_SOURCE, KERNEL_NAME};
use super::super::builds::Builds;
use super::super::compiler::trial::Bench;
use super::super::record::{ArgRecord, BuildKind, DeviceRecord, OriginRecord, ProgramRecord, Record};
use super::super::region::Budget;
use super::{CONTEXT, KERNEL, PROGRAM, REGION, Rig, create, dim, silent, span};

const OBJECT: u32 = 40;
const HEADER: u32 = 41;
const LINKED: u32 = 42;

fn release(id: u32) -> Release {
    Release { id: id.into(), reserved: U32::ZERO }
}

fn source(rig: &mut Rig, id: u32, text: &[u8]) {
    rig.run(&CreateProgram { create: create(id, CONTEXT), source: Span::NONE }, &[], text).unwrap();
}

fn compile(program: u32) -> CompileProgram {
    CompileProgram { program: program.into(), ..CompileProgram::default() }
}

fn link(id: u32, inputs: &[u32]) -> (LinkProgram, Vec<u8>) {
    let body = LinkProgram {
        create: create(id, CONTEXT),
        input_count: (inputs.len() as u32).into(),
        ..LinkProgram::default()
    };
    (body, inputs.iter().flat_map(|id| id.to_le_bytes()).collect())
}

fn record(rig: &Rig, id: u32) -> ProgramRecord {
    let record = rig.context.records().into_iter().find(|record| record.id == Some(id)).unwrap();
    let Record::Program(program) = record.record else { panic!("{record:?}") };
    program
}

/// A compiled object that includes `HEADER` as `h`.
fn object() -> Rig {
    let mut rig = Rig::empty(Builds::inline());
    rig.prepare();
    source(&mut rig, OBJECT, b"kernel void k2(global int *x, int n) {}");
    source(&mut rig, HEADER, b"header");
    let reply = rig.slot();
    let body = CompileProgram { header_count: 1.into(), reply, ..compile(OBJECT) };
    rig.run(&body, &[], &[&HEADER.to_le_bytes()[..], &1_u32.to_le_bytes(), b"h-DX=1"].concat()).unwrap();
    assert_eq!(rig.status(reply), 0);
    rig
}

#[test]
fn a_linked_program_and_what_it_is_made_of_can_be_made_again_from_the_records() {
    let mut rig = object();
    let (body, data) = link(LINKED, &[OBJECT, OBJECT]);
    rig.run(&body, &[], &[&data[..], b"-O"].concat()).unwrap();
    for id in [OBJECT, HEADER] {
        rig.run(&release(id), &[], &[]).unwrap();
    }
    let kernel = CreateKernel { create: create(KERNEL, LINKED), info: Span::NONE };
    rig.run(&kernel, &[], b"k2").unwrap();
    let linked = record(&rig, LINKED);
    let OriginRecord::Linked { inputs } = linked.origin else { panic!("{linked:?}") };
    assert_eq!((inputs.len(), inputs[0]), (2, inputs[1]));
    assert_eq!((linked.builds[0].kind, &*linked.builds[0].options), (BuildKind::Link, &b"-O"[..]));
    let records = rig.context.records();
    let program = |serial: u64| {
        let record = records.iter().find(|record| record.serial == serial).unwrap();
        assert_eq!(record.id, None, "only the linked program needs it");
        let Record::Program(program) = record.record.clone() else { panic!("{record:?}") };
        program
    };
    let object = program(inputs[0]);
    let build = &object.builds[0];
    assert_eq!((build.kind, &*build.options, build.status), (BuildKind::Compile, &b"-DX=1"[..], Some(0)));
    assert_eq!(build.headers[0].0, b"h");
    assert_eq!(program(build.headers[0].1).origin, OriginRecord::Source(b"header".to_vec()));
    rig.context.tear_down();
    assert_eq!(rig.context.live_objects(), 0);
}

#[test]
fn what_others_were_made_of_stays_as_it_is() {
    let fault = |body: &dyn Fn(&mut Rig) -> Result<(), Fault>| {
        let mut rig = object();
        let (linked, data) = link(LINKED, &[OBJECT]);
        rig.run(&linked, &[], &data).unwrap();
        body(&mut rig).unwrap_err()
    };
    let build = |program: u32| BuildProgram { program: program.into(), ..BuildProgram::default() };
    for program in [OBJECT, HEADER, LINKED] {
        assert_eq!(fault(&|rig| rig.run(&build(program), &[], b"")), Fault::BadValue, "{program}");
        assert_eq!(fault(&|rig| rig.run(&compile(program), &[], b"")), Fault::BadValue, "{program}");
    }
    // A header that has been compiled, and a program that includes itself: they would keep each other for ever.
    for header in [OBJECT, PROGRAM] {
        let body = CompileProgram { header_count: 1.into(), ..compile(PROGRAM) };
        let data = [header.to_le_bytes(), 0_u32.to_le_bytes()].concat();
        assert_eq!(fault(&|rig| rig.run(&body, &[], &data)), Fault::BadValue, "{header}");
    }
}

#[test]
fn links_behind_each_other_have_a_limit() {
    let mut rig = object();
    let mut last = OBJECT;
    let mut more = || {
        let (body, data) = link(last + 100, &[last, last]);
        last += 100;
        rig.run(&body, &[], &data)
    };
    for _ in 0..MAX_LINK_DEPTH {
        more().unwrap();
    }
    assert_eq!(more(), Err(Fault::Limit));
    // Each is linked of the one before twice: whoever followed all ways would take for ever.
    let programs = rig.context.records().into_iter().filter(|it| matches!(it.record, Record::Program(_)));
    assert_eq!(programs.count(), MAX_LINK_DEPTH + 3);
}

#[test]
fn a_link_that_fails_is_an_error_and_poisons_what_it_would_have_made() {
    let mut rig = object();
    source(&mut rig, 50, BAD_SOURCE);
    let reply = rig.slot();
    rig.run(&CompileProgram { reply, ..compile(50) }, &[], b"").unwrap();
    assert_eq!(rig.status(reply), -11);
    let (mut body, data) = link(LINKED, &[OBJECT, 50]);
    body.create.reply = rig.slot();
    rig.run(&body, &[], &data).unwrap();
    assert_eq!(rig.status(body.create.reply), -17);
    let reply = rig.slot();
    let mut kernel = CreateKernel { create: create(KERNEL, LINKED), info: Span::NONE };
    kernel.create.reply = reply;
    rig.run(&kernel, &[], b"k2").unwrap();
    assert_eq!(rig.status(reply), -17);
}

#[test]
fn lists_that_are_cut_off_and_strangers_in_them_are_faults() {
    let fault = |body: &dyn Fn(&mut Rig) -> Result<(), Fault>| body(&mut object()).unwrap_err();
    let bad = Fault::BadValue;
    let many = CompileProgram { header_count: u32::MAX.into(), ..compile(PROGRAM) };
    assert_eq!(fault(&|rig| rig.run(&many, &[], b"1234")), bad);
    let devices = CompileProgram { device_count: u32::MAX.into(), ..compile(PROGRAM) };
    assert_eq!(fault(&|rig| rig.run(&devices, &[], b"1234")), bad);
    let long_name = CompileProgram { header_count: 1.into(), ..compile(PROGRAM) };
    let data = [HEADER.to_le_bytes(), 2_u32.to_le_bytes()].concat();
    assert_eq!(fault(&|rig| rig.run(&long_name, &[], &data)), bad);
    assert_eq!(fault(&|rig| rig.run(&compile(PROGRAM), &[], b"-D\0")), bad);
    let both = CompileProgram { list: span(4), ..compile(PROGRAM) };
    assert_eq!(fault(&|rig| rig.run(&both, &[], b"-D")), bad);
    let reserved = CompileProgram { reserved: 1.into(), ..compile(PROGRAM) };
    assert_eq!(fault(&|rig| rig.run(&reserved, &[], b"")), Fault::Reserved);
    let (none, _) = link(LINKED, &[]);
    assert_eq!(fault(&|rig| rig.run(&none, &[], b"")), bad);
    let (stranger, data) = link(LINKED, &[OBJECT, 99]);
    assert_eq!(fault(&|rig| rig.run(&stranger, &[], &data)), Fault::UnknownObject);
    let (taken, data) = link(PROGRAM, &[OBJECT]);
    assert_eq!(fault(&|rig| rig.run(&taken, &[], &data)), Fault::IdInUse);
}

#[test]
fn a_linked_program_is_busy_until_the_linker_ends() {
    let (builds, jobs) = Builds::held();
    let mut rig = Rig::empty(builds);
    rig.prepare();
    rig.run(&compile(PROGRAM), &[], b"").unwrap();
    let job = jobs.lock().unwrap().pop().unwrap();
    job(&Bench::default());
    let (mut body, data) = link(LINKED, &[PROGRAM]);
    body.create.reply = rig.slot();
    rig.run(&body, &[], &data).unwrap();
    // Giving up everything that it needs is allowed.
    rig.run(&release(PROGRAM), &[], &[]).unwrap();
    assert!(rig.peek(body.create.reply).is_none());
    let kernel = CreateKernel { create: create(KERNEL, LINKED), info: Span::NONE };
    let job = jobs.lock().unwrap().pop().unwrap();
    job(&Bench::default());
    assert_eq!(rig.status(body.create.reply), 0);
    rig.run(&kernel, &[], KERNEL_NAME.as_bytes()).unwrap();
    let (again, data) = link(LINKED + 1, &[LINKED]);
    rig.run(&again, &[], &data).unwrap();
    let kernel = CreateKernel { create: create(KERNEL + 50, LINKED + 1), info: Span::NONE };
    assert_eq!(rig.run(&kernel, &[], KERNEL_NAME.as_bytes()), Err(Fault::Busy));
    let job = jobs.lock().unwrap().pop().unwrap();
    job(&Bench::default());
}

/// A module with one kernel `abc` of one argument, a 32-bit number, and a specialization constant 7 of that type.
pub(in crate::executor::child) fn module() -> Vec<u8> {
    let instructions: [&[u32]; 7] = [
        &[15, 6, 50, u32::from_le_bytes(*b"abc\0")],
        &[71, 2, 1, 7],
        &[21, 1, 32, 0],
        &[50, 1, 2, 0],
        &[33, 40, 1, 1],
        &[54, 1, 50, 0, 40],
        &[55, 1, 60],
    ];
    let mut words = vec![MAGIC, 0x1_0000, 0, 100, 0];
    for instruction in instructions {
        words.push(instruction[0] | (instruction.len() as u32) << 16);
        words.extend(&instruction[1..]);
    }
    words.into_iter().flat_map(u32::to_le_bytes).collect()
}

#[test]
fn kernels_of_intermediate_language_have_the_arguments_that_it_declares() {
    let mut rig = Rig::empty(Builds::inline());
    rig.prepare();
    let body = CreateProgramWithIl { create: create(60, CONTEXT), il: Span::NONE };
    rig.run(&body, &[], &module()).unwrap();
    let constant = SetSpecConstant { program: 60.into(), spec_id: 7.into(), reply: rig.slot() };
    rig.run(&constant, &[], &[1, 2, 3, 4]).unwrap();
    assert_eq!(rig.status(constant.reply), 0);
    rig.run(&compile(60), &[], b"").unwrap();
    let program = record(&rig, 60);
    assert_eq!(program.origin, OriginRecord::Il(module()));
    assert_eq!(program.builds[0].constants, program.constants);
    assert_eq!(program.constants[&7], [1, 2, 3, 4]);
    // Also where it was linked with others.
    source(&mut rig, 61, b"source");
    rig.run(&compile(61), &[], b"").unwrap();
    let (body, data) = link(LINKED, &[60, 61]);
    rig.run(&body, &[], &data).unwrap();
    let kernel = CreateKernel { create: create(KERNEL, LINKED), info: span(64) };
    rig.run(&kernel, &[], b"abc").unwrap();
    let mut bytes = [0; 16];
    assert!(rig.memory.read(32768, &mut bytes));
    let (info, rest) = KernelInfo::read_from_prefix(&bytes).unwrap();
    let (arg, _) = ArgInfo::read_from_prefix(rest).unwrap();
    assert_eq!((info.num_args.get(), arg.kind, arg.size.get()), (1, ArgKind::Value as u8, 4));
}

#[test]
fn what_no_driver_sends_with_intermediate_language_is_a_fault() {
    let fault = |body: &dyn Fn(&mut Rig) -> Result<(), Fault>| {
        let mut rig = Rig::empty(Builds::inline());
        rig.prepare();
        let il = CreateProgramWithIl { create: create(60, CONTEXT), il: Span::NONE };
        rig.run(&il, &[], &module()).unwrap();
        body(&mut rig).unwrap_err()
    };
    let il = CreateProgramWithIl { create: create(61, CONTEXT), il: Span::NONE };
    assert_eq!(fault(&|rig| rig.run(&il, &[], b"no SPIR-V")), Fault::BadValue);
    assert_eq!(fault(&|rig| rig.run(&il, &[], b"")), Fault::BadValue);
    let constant = |program: u32, spec_id: u32| SetSpecConstant {
        program: program.into(),
        spec_id: spec_id.into(),
        ..SetSpecConstant::default()
    };
    assert_eq!(fault(&|rig| rig.run(&constant(60, 7), &[], &[1, 2])), Fault::BadValue);
    assert_eq!(fault(&|rig| rig.run(&constant(60, 8), &[], &[1, 2, 3, 4])), Fault::BadValue);
    assert_eq!(fault(&|rig| rig.run(&constant(PROGRAM, 7), &[], &[1, 2, 3, 4])), Fault::BadValue);
    let built_in = CreateBuiltInProgram { create: create(61, CONTEXT), ..CreateBuiltInProgram::default() };
    assert_eq!(fault(&|rig| rig.run(&built_in, &[], b"k")), Fault::BadValue, "for no device");
    let unknown = CreateBuiltInProgram { device_count: 1.into(), ..built_in };
    assert_eq!(fault(&|rig| rig.run(&unknown, &[], &[9, 0, 0, 0])), Fault::BadValue);
}

#[test]
fn built_in_kernels_are_made_by_name() {
    let mut rig = Rig::empty(Builds::inline());
    rig.prepare();
    let mut make = |id: u32, names: &[u8]| {
        let reply = rig.slot();
        let mut body = CreateBuiltInProgram {
            create: create(id, CONTEXT),
            device_count: 1.into(),
            ..CreateBuiltInProgram::default()
        };
        body.create.reply = reply;
        rig.run(&body, &[], &[&[0; 4], names].concat()).unwrap();
        rig.status(reply)
    };
    assert_eq!((make(60, b"k"), make(61, b"k;other")), (0, -30));
    let names = b"k".to_vec();
    assert_eq!(
        record(&rig, 60).origin,
        OriginRecord::BuiltIn { devices: vec![DeviceRecord::Root(0)], names }
    );
}

#[test]
fn a_clone_reaches_what_the_kernel_reached_and_keeps_it() {
    let mut rig = Rig::new();
    for (id, offset) in [(20_u32, 40960), (21, 45056)] {
        let memory = Span::new(REGION, offset, 4096);
        let create = create(id, CONTEXT);
        let shared = CreateSharedBuffer { create, flags: 1.into(), memory, info: Span::NONE };
        rig.run(&shared, &[], &[]).unwrap();
    }
    let reaches = |id: u32| (SetExecInfo { kernel: KERNEL.into(), reserved: U32::ZERO }, id.to_le_bytes());
    let (body, ids) = reaches(20);
    rig.run(&body, &[], &ids).unwrap();
    rig.run(&CloneKernel { create: create(70, KERNEL) }, &[], &[]).unwrap();
    let (body, ids) = reaches(21);
    rig.run(&body, &[], &ids).unwrap();
    rig.run(&release(KERNEL), &[], &[]).unwrap();
    let replies = [20_u32, 21].map(|id| {
        let reply = rig.slot();
        rig.run(&ReleaseShared { id: id.into(), reserved: 0.into(), reply }, &[], &[]).unwrap();
        reply
    });
    assert!(rig.peek(replies[0]).is_none(), "the clone reaches it");
    assert_eq!(rig.status(replies[1]), 0, "what the kernel reached later went with it");
    rig.run(&release(70), &[], &[]).unwrap();
    assert_eq!(rig.status(replies[0]), 0);
}

#[test]
fn a_clone_has_the_arguments_of_the_moment_and_keeps_what_they_name() {
    let mut rig = Rig::new();
    rig.set_all_args();
    let body = CloneKernel { create: create(70, KERNEL) };
    rig.run(&body, &[], &[]).unwrap();
    // Of the original only what it gave is left.
    rig.run(&super::object(2, 0), &[], &[]).unwrap();
    rig.run(&release(KERNEL), &[], &[]).unwrap();
    rig.run(&release(super::BUFFER), &[], &[]).unwrap();
    let records = rig.context.records();
    let clone = records.iter().find(|record| record.id == Some(70)).unwrap();
    let Record::Kernel(kernel) = &clone.record else { panic!("{clone:?}") };
    let buffer = kernel.args.iter().find_map(|arg| match arg {
        ArgRecord::Buffer(Some(serial)) => Some(*serial),
        _ => None,
    });
    assert!(records.iter().any(|record| Some(record.serial) == buffer), "{kernel:?}");
    let launch = EnqueueKernel {
        enqueue: rig.enqueue(),
        kernel: 70.into(),
        dims: 1.into(),
        global: dim([4, 1, 1]),
        ..EnqueueKernel::default()
    };
    rig.run(&launch, &[], &[]).unwrap();
    assert_eq!(rig.status(launch.enqueue.slot), 0);
    let build = BuildProgram { program: PROGRAM.into(), reply: rig.slot(), ..BuildProgram::default() };
    rig.run(&build, &[], b"").unwrap();
    assert_eq!(rig.status(build.reply), -59, "the clone is attached to its program");
}

#[test]
fn sources_have_a_limit_and_give_their_room_back() {
    let mut rig = Rig::new();
    rig.context.sources = Budget::new(2 * b"source".len());
    let mut make = |id: u32| {
        let program =
            CreateProgram { create: Create { reply: rig.slot(), ..create(id, CONTEXT) }, source: Span::NONE };
        rig.run(&program, &[], b"source").unwrap();
        let status = rig.status(program.create.reply);
        if id == 21 {
            rig.run(&Release { id: 20.into(), reserved: U32::ZERO }, &[], &[]).unwrap();
        }
        status
    };
    assert_eq!([20, 21, 22, 23].map(&mut make), [0, 0, 0, -6]);
}

#[test]
fn a_program_is_busy_until_its_build_ends() {
    let (builds, jobs) = Builds::held();
    let busy = |body: &dyn Fn(&mut Rig) -> Result<(), Fault>| {
        let mut rig = Rig::empty(builds.clone());
        rig.prepare();
        let reply = rig.slot();
        let build = BuildProgram { program: PROGRAM.into(), device_count: U32::ZERO, reply };
        rig.run(&build, &[], b"").unwrap();
        let job = jobs.lock().unwrap().pop().unwrap();
        assert!(rig.peek(reply).is_none());
        let outcome = body(&mut rig);
        job(&Bench::default());
        assert_eq!(rig.peek(reply).is_some(), outcome.is_ok(), "a failed context completes nothing");
        outcome
    };
    let kernel = CreateKernel { create: create(KERNEL, PROGRAM), info: Span::NONE };
    let build = BuildProgram { program: PROGRAM.into(), ..BuildProgram::default() };
    let ask = GetInfo {
        kind: (InfoKind::ProgramBuild as u32).into(),
        object: PROGRAM.into(),
        param: 0x1183.into(),
        ..GetInfo::default()
    };
    assert_eq!(busy(&|rig| rig.run(&kernel, &[], b"k")), Err(Fault::Busy));
    assert_eq!(busy(&|rig| rig.run(&build, &[], b"")), Err(Fault::Busy));
    assert_eq!(busy(&|rig| rig.run(&ask, &[], &[])), Err(Fault::Busy));
    // Other commands go on, and giving up the id is allowed.
    assert_eq!(busy(&|rig| rig.run(&Marker { enqueue: silent() }, &[], &[])), Ok(()));
    assert_eq!(busy(&|rig| rig.run(&Release { id: PROGRAM.into(), ..Release::default() }, &[], &[])), Ok(()));
}

#[test]
fn a_build_that_fails_is_recorded_with_its_options() {
    let mut rig = Rig::new();
    let program = CreateProgram { create: create(20, CONTEXT), source: Span::NONE };
    rig.run(&program, &[], BAD_SOURCE).unwrap();
    let reply = rig.slot();
    let build = BuildProgram { program: 20.into(), device_count: U32::ZERO, reply };
    rig.run(&build, &[], b"-O").unwrap();
    assert_eq!(rig.status(reply), -11);
    let record = rig.context.records().into_iter().find(|record| record.id == Some(20)).unwrap();
    let Record::Program(program) = record.record else { panic!("{record:?}") };
    let builds: Vec<_> = program.builds.into_iter().map(|build| (build.options, build.status)).collect();
    assert_eq!(builds, [(b"-O".to_vec(), Some(-11))]);
    // A program whose kernels live is not built again.
    let reply = rig.slot();
    rig.run(&BuildProgram { program: PROGRAM.into(), device_count: U32::ZERO, reply }, &[], b"").unwrap();
    assert_eq!(rig.status(reply), -59);
}
