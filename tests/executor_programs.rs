//! Are a kernel's arguments what they are, wherever the kernel comes from? On the host's real OpenCL. A guest that
//! passes bytes for a handle is stopped before the driver sees them.

mod executor_guest;
#[path = "../examples/common/spirv.rs"]
mod spirv;

use std::io::Write;

use executor_guest::Guest;
use executor_guest::session::backend;
use paragpu::executor::child::backend::opencl::OpenCl;
use paragpu_protocol::command::{
    BuildProgram, CompileProgram, CreateContext, CreateKernel, CreateProgram, CreateProgramWithIl, GetInfo,
    LinkProgram, SetArgValue,
};
use paragpu_protocol::fault::Fault;
use paragpu_protocol::info::InfoKind;
use paragpu_protocol::kernel::{ArgInfo, ArgKind, KernelInfo};
use paragpu_protocol::ring::{RingMemory, Status, Word};
use paragpu_protocol::types::{SlotRef, Span};
use zerocopy::FromBytes;

struct Session {
    guest: Guest<OpenCl>,
    context: u32,
}

impl Session {
    fn new() -> Session {
        let mut guest = Guest::new(backend());
        let (context, create) = guest.create(0);
        guest.send(&CreateContext { create }, &[], &0_u32.to_le_bytes());
        guest.done(create.reply);
        Session { guest, context }
    }

    fn source(&mut self, text: &str) -> u32 {
        let (program, create) = self.guest.create(self.context);
        self.guest.send(&CreateProgram { create, source: Span::NONE }, &[], text.as_bytes());
        self.guest.done(create.reply);
        program
    }

    fn build(&mut self, program: u32) {
        let reply = self.guest.slot();
        let body = BuildProgram { program: program.into(), device_count: 0.into(), reply };
        self.guest.send(&body, &[], b"");
        self.guest.done(reply);
    }

    fn object(&mut self, text: &str) -> u32 {
        let program = self.source(text);
        let reply = self.guest.slot();
        let body = CompileProgram { program: program.into(), reply, ..CompileProgram::default() };
        self.guest.send(&body, &[], b"");
        self.guest.done(reply);
        program
    }

    /// A kernel, and its arguments' kinds and sizes.
    fn kernel(&mut self, program: u32, name: &str) -> (u32, Vec<(ArgKind, u32)>) {
        let (kernel, create) = self.guest.create(program);
        let info = self.guest.span(0, 4096);
        self.guest.send(&CreateKernel { create, info }, &[], name.as_bytes());
        self.guest.done(create.reply);
        let bytes = self.guest.read(0, 4096);
        let (info, rest) = KernelInfo::read_from_prefix(&bytes).unwrap();
        let count = info.num_args.get() as usize;
        let (args, _) = <[ArgInfo]>::ref_from_prefix_with_elems(rest, count).unwrap();
        let args = args.iter().map(|arg| (ArgKind::from_wire(arg.kind).unwrap(), arg.size.get()));
        (kernel, args.collect())
    }

    /// What becomes of a guest that sets argument 0 to an address of its choice.
    fn forge(&mut self, kernel: u32) -> Option<Fault> {
        let body = SetArgValue { kernel: kernel.into(), index: 0.into(), reply: SlotRef::NONE };
        self.guest.send(&body, &[], &0x4141_4141_4141_4141_u64.to_le_bytes());
        self.guest.until("failed", |guest| guest.status() == Some(Status::Failed));
        Fault::from_code(self.guest.ring.load(Word::Reason))
    }

    fn takes_il(&mut self) -> bool {
        const IL_VERSION: u32 = 0x105b;
        let (dst, reply) = (self.guest.span(0, 64), self.guest.slot());
        let body = GetInfo {
            kind: (InfoKind::Device as u32).into(),
            param: IL_VERSION.into(),
            dst,
            reply,
            ..GetInfo::default()
        };
        self.guest.send(&body, &[], &[]);
        let slot = self.guest.wait(reply);
        let takes = slot.status.get() == 0 && slot.len.get() > 1;
        if !takes {
            let _ = writeln!(std::io::stderr(), "skipped: the host's device takes no intermediate language");
        }
        takes
    }

    fn il(&mut self, module: &[u8]) -> u32 {
        let (program, create) = self.guest.create(self.context);
        self.guest.send(&CreateProgramWithIl { create, il: Span::NONE }, &[], module);
        self.guest.done(create.reply);
        self.build(program);
        program
    }
}

#[test]
fn the_arguments_of_a_linked_kernel_are_known() {
    let mut it = Session::new();
    let objects = [
        it.object("int helper(int x) { return x + 1; }"),
        it.object(
            "int helper(int); kernel void f(global int *o, int x, local float *l) { o[0] = helper(x); }",
        ),
    ];
    // With an option also: then PoCL says nothing, and the program is loaded from its binary.
    for options in ["", "-g"] {
        let (linked, create) = it.guest.create(it.context);
        let body = LinkProgram { create, input_count: 2.into(), ..LinkProgram::default() };
        let data = [objects[0].to_le_bytes(), objects[1].to_le_bytes()].concat();
        it.guest.send(&body, &[], &[&data, options.as_bytes()].concat());
        it.guest.done(create.reply);
        let (_, args) = it.kernel(linked, "f");
        assert_eq!(args, [(ArgKind::Buffer, 0), (ArgKind::Value, 4), (ArgKind::Local, 0)], "{options:?}");
    }
}

#[test]
fn a_sampler_under_another_name_takes_no_bytes() {
    let mut it = Session::new();
    let program = it.source("typedef sampler_t number; kernel void f(number n, global int *o) { o[0] = 1; }");
    it.build(program);
    let (kernel, args) = it.kernel(program, "f");
    assert_eq!(args, [(ArgKind::Other, 0), (ArgKind::Buffer, 0)]);
    assert_eq!(it.forge(kernel), Some(Fault::BadValue));
}

/// `kernel void f(ulong n)`, which says of itself that the argument's type is `called`.
fn module(called: &str) -> Vec<u8> {
    const F: u32 = 1;
    const VOID: u32 = 2;
    const ULONG: u32 = 3;
    const SIGNATURE: u32 = 4;
    let mut module = spirv::Module::new(8);
    module.op(15, &[&[6, F], &spirv::string("f")[..]].concat());
    // OpString, in which translators look for what the types are called.
    module.op(7, &[&[7], &spirv::string(&format!("kernel_arg_type.f.{called},"))[..]].concat());
    module.op(19, &[VOID]);
    module.op(21, &[ULONG, 64, 0]);
    module.op(33, &[SIGNATURE, VOID, ULONG]);
    module.op(54, &[VOID, F, 0, SIGNATURE]);
    module.op(55, &[ULONG, 5]);
    module.op(248, &[6]);
    module.op(253, &[]);
    module.op(56, &[]);
    module.bytes()
}

#[test]
fn the_arguments_of_a_kernel_from_intermediate_language_are_known() {
    let mut it = Session::new();
    if it.takes_il() {
        let program = it.il(&spirv::scale_module());
        assert_eq!(it.kernel(program, "scale").1, [(ArgKind::Buffer, 0), (ArgKind::Value, 4)]);
        let program = it.il(&module("ulong"));
        assert_eq!(it.kernel(program, "f").1, [(ArgKind::Value, 8)]);
    }
}

#[test]
fn a_number_that_intermediate_language_calls_a_sampler_takes_no_bytes() {
    let mut it = Session::new();
    if it.takes_il() {
        let program = it.il(&module("sampler_t"));
        let (kernel, args) = it.kernel(program, "f");
        // Whatever the driver makes of the name: it is not both.
        if args != [(ArgKind::Value, 8)] {
            assert_eq!(args, [(ArgKind::Other, 0)]);
            assert_eq!(it.forge(kernel), Some(Fault::BadValue));
        }
    }
}
