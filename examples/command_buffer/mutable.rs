//! `cl_khr_command_buffer_mutable_dispatch`: launches that change after they are recorded.

use std::ffi::c_void;
use std::ptr;

use anyhow::{Context as _, Result, anyhow, ensure};
use cl3::ext::{
    CL_COMMAND_BUFFER_MUTABLE_KHR, CL_INVALID_MUTABLE_COMMAND_KHR, CL_MUTABLE_COMMAND_COMMAND_BUFFER_KHR,
    CL_MUTABLE_COMMAND_COMMAND_QUEUE_KHR, CL_MUTABLE_COMMAND_COMMAND_TYPE_KHR,
    CL_MUTABLE_COMMAND_PROPERTIES_ARRAY_KHR, CL_MUTABLE_DISPATCH_ARGUMENTS_KHR,
    CL_MUTABLE_DISPATCH_ASSERTS_KHR, CL_MUTABLE_DISPATCH_DIMENSIONS_KHR,
    CL_MUTABLE_DISPATCH_GLOBAL_WORK_OFFSET_KHR, CL_MUTABLE_DISPATCH_GLOBAL_WORK_SIZE_KHR,
    CL_MUTABLE_DISPATCH_KERNEL_KHR, CL_MUTABLE_DISPATCH_LOCAL_WORK_SIZE_KHR,
    CL_MUTABLE_DISPATCH_UPDATABLE_FIELDS_KHR, cl_mutable_dispatch_arg_khr, cl_mutable_dispatch_config_khr,
    cl_mutable_dispatch_exec_info_khr,
};
use opencl3::error_codes::ClError;
use opencl3::event::{create_user_event, set_user_event_status};
use opencl3::kernel::{CL_KERNEL_EXEC_INFO_SVM_PTRS, Kernel};
use opencl3::memory::{Buffer, ClMem};
use opencl3::types::cl_int;

use super::reach::Shared;
use super::recorder::{CommandBuffer, Handle, MutableFunctions, Range};
use super::{Bench, INVALID_OPERATION, LEN, SIMULTANEOUS_USE, step};

const INVALID_VALUE: i32 = -30;

/// What one change holds.
#[derive(Clone, Default)]
struct Change {
    command: Option<Handle>,
    args: Vec<cl_mutable_dispatch_arg_khr>,
    pointers: Vec<cl_mutable_dispatch_arg_khr>,
    infos: Vec<cl_mutable_dispatch_exec_info_khr>,
    dims: u32,
    offset: Option<usize>,
    global: Option<usize>,
    local: Option<usize>,
}

impl Change {
    fn of(command: Handle) -> Change {
        Change { command: Some(command), ..Change::default() }
    }

    /// The same with another argument, which must be there for as long as this is used.
    fn arg<T>(mut self, index: u32, value: &T) -> Change {
        let value = ptr::from_ref(value).cast();
        self.args.push(cl_mutable_dispatch_arg_khr {
            arg_index: index,
            arg_size: size_of::<T>(),
            arg_value: value,
        });
        self
    }

    fn pointer(mut self, index: u32, pointer: *mut c_void) -> Change {
        self.pointers.push(cl_mutable_dispatch_arg_khr { arg_index: index, arg_size: 0, arg_value: pointer });
        self
    }

    fn config(&self) -> cl_mutable_dispatch_config_khr {
        fn list<T>(list: &[T]) -> *const T {
            if list.is_empty() { ptr::null() } else { list.as_ptr() }
        }
        let size = |size: &Option<usize>| size.as_ref().map_or(ptr::null(), ptr::from_ref);
        cl_mutable_dispatch_config_khr {
            command: self.command.unwrap_or(ptr::null_mut()),
            num_args: self.args.len() as u32,
            num_svm_args: self.pointers.len() as u32,
            num_exec_infos: self.infos.len() as u32,
            work_dim: self.dims,
            arg_list: list(&self.args),
            arg_svm_list: list(&self.pointers),
            exec_info_list: list(&self.infos),
            global_work_offset: size(&self.offset),
            global_work_size: size(&self.global),
            local_work_size: size(&self.local),
        }
    }
}

fn functions(bench: &Bench) -> Result<&MutableFunctions> {
    bench.functions.mutable.as_ref().context("no functions")
}

/// `clUpdateMutableCommandsKHR`.
fn update(bench: &Bench, buffer: &CommandBuffer<'_>, changes: &[Change]) -> Result<cl_int> {
    let configs: Vec<_> = changes.iter().map(Change::config).collect();
    let mut pointers: Vec<*const c_void> =
        configs.iter().map(|config| ptr::from_ref(config).cast()).collect();
    let (types, len) = (vec![0; configs.len()], configs.len() as u32);
    // SAFETY: as many types and configurations as are said, which live during the call.
    Ok(unsafe { (functions(bench)?.update)(buffer.raw, len, types.as_ptr(), pointers.as_mut_ptr()) })
}

fn updated(bench: &Bench, buffer: &CommandBuffer<'_>, changes: &[Change]) -> Result<()> {
    let status = update(bench, buffer, changes)?;
    ensure!(status == 0, "update: {status}");
    Ok(())
}

fn info(bench: &Bench, command: Handle, what: u32) -> Result<Vec<u64>> {
    let (mut answer, mut size) = ([0_u64; 8], 0);
    let to = answer.as_mut_ptr().cast();
    // SAFETY: room for as many bytes as are said.
    let status = unsafe { (functions(bench)?.info)(command, what, size_of_val(&answer), to, &mut size) };
    ensure!(status == 0, "query {what:#x}: {status}");
    Ok(answer[..size.div_ceil(8)].to_vec())
}

const ALL: Range = Range { offset: None, size: LEN, local: None };

/// Records the launch of a kernel with these properties. Returns its handle.
fn record(buffer: &CommandBuffer<'_>, kernel: &Kernel, range: Range, properties: &[u64]) -> Result<Handle> {
    let mut handle = ptr::null_mut();
    let recorded = buffer.launch_with(kernel, range, &[], properties, Some(&mut handle));
    recorded.map_err(|status| anyhow!("launch: {status}"))?;
    ensure!(!handle.is_null(), "no handle");
    Ok(handle)
}

/// Arguments and index spaces change, and stay so; the kernel that was recorded is another one.
pub(crate) fn changes(bench: &Bench) -> Result<()> {
    let gpu = &bench.gpu;
    let (x, y) = (gpu.upload(&[1_u32; LEN])?, gpu.upload(&[2_u32; LEN])?);
    let buffer = CommandBuffer::new(bench, &gpu.queue, CL_COMMAND_BUFFER_MUTABLE_KHR)?;
    let kernel = bench.step(&x, 3)?;
    let first = record(&buffer, &kernel, ALL, &[])?;
    let second = record(&buffer, &kernel, Range { local: Some(64), ..ALL }, &[])?;
    buffer.finalize()?;
    let (mut in_x, mut in_y) = (vec![1; LEN], vec![2; LEN]);
    let run = |in_x: &[u32], in_y: &[u32], when: &str| -> Result<()> {
        buffer.enqueue(&[])?.wait()?;
        ensure!(gpu.download(&x, LEN)? == in_x, "numbers differ {when}");
        ensure!(gpu.download(&y, LEN)? == in_y, "other numbers differ {when}");
        Ok(())
    };
    step(&mut in_x, 3);
    step(&mut in_x, 3);
    run(&in_x, &in_y, "as recorded")?;

    // Both at once, one of them twice: what is last counts.
    let (five, seven, to_y) = (5_u32, 7_u32, y.get());
    let all = [
        Change::of(first).arg(1, &seven),
        Change::of(second).arg(0, &to_y),
        Change { global: Some(LEN / 2), dims: 1, ..Change::of(first).arg(1, &five) },
    ];
    updated(bench, &buffer, &all)?;
    for round in 0..2 {
        step(&mut in_x[..LEN / 2], 5);
        step(&mut in_y, 3);
        run(&in_x, &in_y, &format!("after changes, round {round}"))?;
    }

    // The kernel that was recorded is not changed, nor does it change what is recorded.
    super::set(&kernel, &x, 11)?;
    let space = Change { offset: Some(64), global: Some(128), local: Some(32), ..Change::of(second) };
    updated(bench, &buffer, &[space])?;
    step(&mut in_x[..LEN / 2], 5);
    for (i, x) in in_y.iter_mut().enumerate().skip(64).take(128) {
        *x = x.wrapping_mul(3).wrapping_add(i as u32);
    }
    run(&in_x, &in_y, "in another space")?;
    ensure!(info(bench, second, CL_MUTABLE_DISPATCH_GLOBAL_WORK_OFFSET_KHR)? == [64], "its offset");
    ensure!(info(bench, second, CL_MUTABLE_DISPATCH_GLOBAL_WORK_SIZE_KHR)? == [128], "its size");
    ensure!(info(bench, second, CL_MUTABLE_DISPATCH_LOCAL_WORK_SIZE_KHR)? == [32], "its work-groups");
    Ok(())
}

/// An execution that has begun to wait keeps what it was enqueued with.
pub(crate) fn behind_user_event(bench: &Bench) -> Result<()> {
    let gpu = &bench.gpu;
    let x = gpu.upload(&[1_u32; LEN])?;
    let flags = CL_COMMAND_BUFFER_MUTABLE_KHR | SIMULTANEOUS_USE;
    let buffer = CommandBuffer::new(bench, &gpu.queue, flags)?;
    let command = record(&buffer, &bench.step(&x, 3)?, ALL, &[])?;
    buffer.finalize()?;
    let gate = create_user_event(gpu.context.get()).map_err(ClError)?;
    buffer.enqueue(&[gate])?;
    updated(bench, &buffer, &[Change::of(command).arg(1, &5_u32)])?;
    let last = buffer.enqueue(&[])?;
    set_user_event_status(gate, 0).map_err(ClError)?;
    last.wait()?;
    // SAFETY: nobody uses it any more.
    unsafe { cl3::event::release_event(gate).map_err(ClError)? };
    let mut expected = vec![1; LEN];
    step(&mut expected, 3);
    step(&mut expected, 5);
    ensure!(gpu.download(&x, LEN)? == expected, "numbers differ");
    Ok(())
}

/// Shared virtual memory as an argument, and what a kernel reaches besides.
pub(crate) fn shared_memory(bench: &Bench) -> Result<()> {
    let gpu = &bench.gpu;
    let (near, far) = (Shared::new(bench, 1)?, Shared::new(bench, 5)?);
    let place = |shared: &Shared<'_>| gpu.upload(&shared.address().to_ne_bytes());
    let (here, there): (Buffer<u8>, Buffer<u8>) = (place(&near)?, place(&far)?);
    let buffer = CommandBuffer::new(bench, &gpu.queue, CL_COMMAND_BUFFER_MUTABLE_KHR)?;
    let x = gpu.buffer::<u32>(LEN)?;
    let direct = record(&buffer, &bench.step(&x, 3)?, ALL, &[])?;
    let kernel = Kernel::create(&bench.program, "advance_there")?;
    // SAFETY: a buffer with an address, and a uint, as the kernel declares.
    unsafe {
        kernel.set_arg(0, &here.get())?;
        kernel.set_arg(1, &7_u32)?;
    }
    let indirect = record(&buffer, &kernel, ALL, &[])?;
    buffer.finalize()?;
    let list = [far.pointer];
    let reached = cl_mutable_dispatch_exec_info_khr {
        param_name: CL_KERNEL_EXEC_INFO_SVM_PTRS,
        param_value_size: size_of_val(&list),
        param_value: list.as_ptr().cast(),
    };
    let there = there.get();
    let change = Change { infos: vec![reached], ..Change::of(indirect).arg(0, &there) };
    updated(bench, &buffer, &[Change::of(direct).pointer(0, near.pointer), change])?;
    buffer.enqueue(&[])?.wait()?;
    let (mut in_near, mut in_far) = (vec![1; LEN], vec![5; LEN]);
    step(&mut in_near, 3);
    step(&mut in_far, 7);
    ensure!(near.numbers()? == in_near, "numbers of the argument differ");
    ensure!(far.numbers()? == in_far, "numbers that it points to differ");
    Ok(())
}

pub(crate) fn queries(bench: &Bench) -> Result<()> {
    let gpu = &bench.gpu;
    let x = gpu.buffer::<u32>(LEN)?;
    let kernel = bench.step(&x, 3)?;
    let buffer = CommandBuffer::new(bench, &gpu.queue, CL_COMMAND_BUFFER_MUTABLE_KHR)?;
    let plain = record(&buffer, &kernel, ALL, &[])?;
    let properties = [
        CL_MUTABLE_DISPATCH_UPDATABLE_FIELDS_KHR,
        CL_MUTABLE_DISPATCH_ARGUMENTS_KHR,
        CL_MUTABLE_DISPATCH_ASSERTS_KHR,
        1,
        0,
    ];
    let range = Range { offset: Some(8), size: 64, local: Some(16) };
    let command = record(&buffer, &kernel, range, &properties)?;
    for (what, plain_answer, answer) in [
        (CL_MUTABLE_COMMAND_COMMAND_QUEUE_KHR, &[gpu.queue.get() as u64][..], &[gpu.queue.get() as u64][..]),
        (CL_MUTABLE_COMMAND_COMMAND_BUFFER_KHR, &[buffer.raw as u64], &[buffer.raw as u64]),
        (CL_MUTABLE_COMMAND_COMMAND_TYPE_KHR, &[0x11f0], &[0x11f0]),
        (CL_MUTABLE_COMMAND_PROPERTIES_ARRAY_KHR, &[], &properties),
        (CL_MUTABLE_DISPATCH_KERNEL_KHR, &[kernel.get() as u64], &[kernel.get() as u64]),
        (CL_MUTABLE_DISPATCH_DIMENSIONS_KHR, &[1], &[1]),
        (CL_MUTABLE_DISPATCH_GLOBAL_WORK_OFFSET_KHR, &[0], &[8]),
        (CL_MUTABLE_DISPATCH_GLOBAL_WORK_SIZE_KHR, &[LEN as u64], &[64]),
        (CL_MUTABLE_DISPATCH_LOCAL_WORK_SIZE_KHR, &[0], &[16]),
    ] {
        for (command, expected) in [(plain, plain_answer), (command, answer)] {
            let got = info(bench, command, what)?;
            ensure!(got == expected, "query {what:#x}: {got:?} instead of {expected:?}");
        }
    }
    Ok(())
}

pub(crate) fn mistakes(bench: &Bench) -> Result<()> {
    let gpu = &bench.gpu;
    let x = gpu.upload(&[1_u32; LEN])?;
    let kernel = bench.step(&x, 3)?;
    let buffer = CommandBuffer::new(bench, &gpu.queue, CL_COMMAND_BUFFER_MUTABLE_KHR)?;
    let command = record(&buffer, &kernel, Range { local: Some(16), ..ALL }, &[])?;
    let fields = CL_MUTABLE_DISPATCH_UPDATABLE_FIELDS_KHR;
    let fixed = record(&buffer, &kernel, Range { size: 1, ..ALL }, &[fields, 0, 0])?;
    for (properties, expected) in [
        (&[7, 1, 0][..], INVALID_VALUE),
        (&[fields, 1, fields, 1, 0], INVALID_VALUE),
        (&[fields, 1 << 40, 0], INVALID_VALUE),
        (&[CL_MUTABLE_DISPATCH_ASSERTS_KHR, 1, 0], INVALID_VALUE),
    ] {
        let got = buffer.launch_with(&kernel, ALL, &[], properties, None);
        ensure!(got == Err(expected), "properties {properties:?}: {got:?} instead of {expected}");
    }
    let (five, to) = (5_u32, x.get());
    let good = Change::of(command).arg(1, &five);
    let early = update(bench, &buffer, std::slice::from_ref(&good))?;
    ensure!(early == INVALID_OPERATION, "an update while recording: {early}");
    buffer.finalize()?;
    let other = CommandBuffer::new(bench, &gpu.queue, CL_COMMAND_BUFFER_MUTABLE_KHR)?;
    let stranger = record(&other, &kernel, ALL, &[])?;
    let rigid = CommandBuffer::new(bench, &gpu.queue, 0)?;
    rigid.finalize()?;
    let of_rigid = update(bench, &rigid, std::slice::from_ref(&good))?;
    ensure!(of_rigid == INVALID_OPERATION, "of a buffer that is not mutable: {of_rigid}");
    let none = ptr::null_mut();
    for (what, change, expected) in [
        ("no command", Change::of(none), CL_INVALID_MUTABLE_COMMAND_KHR),
        ("another buffer's", Change::of(stranger), CL_INVALID_MUTABLE_COMMAND_KHR),
        ("other dimensions", Change { dims: 2, ..Change::of(command) }, INVALID_OPERATION),
        ("an argument that is fixed", Change::of(fixed).arg(1, &five), INVALID_OPERATION),
        ("a size that is fixed", Change { global: Some(2), ..Change::of(fixed) }, INVALID_OPERATION),
        ("an offset that is fixed", Change { offset: Some(2), ..Change::of(fixed) }, INVALID_OPERATION),
        ("a work-group that is fixed", Change { local: Some(1), ..Change::of(fixed) }, INVALID_OPERATION),
        ("no such argument", Change::of(command).arg(2, &five), -49),
        ("an argument of another size", Change::of(command).arg(1, &5_u64), -51),
        ("a number for a buffer", Change::of(command).arg(1, &to), -51),
        ("huge work-groups", Change { local: Some(1 << 20), ..Change::of(command) }, -55),
    ] {
        // What is right in the same update is not done either.
        let got = update(bench, &buffer, &[good.clone(), change])?;
        ensure!(got == expected, "{what}: {got} instead of {expected}");
    }
    let update = functions(bench)?.update;
    let (config, kind) = (good.config(), 0);
    let mut list = [ptr::from_ref(&config).cast::<c_void>()];
    let mut empty = [ptr::null::<c_void>()];
    // SAFETY: NULL, or one of each.
    let lists = unsafe {
        [
            update(buffer.raw, 1, ptr::null(), list.as_mut_ptr()),
            update(buffer.raw, 1, &kind, ptr::null_mut()),
            update(buffer.raw, 0, &kind, list.as_mut_ptr()),
            update(buffer.raw, 1, &77, list.as_mut_ptr()),
            update(buffer.raw, 1, &kind, empty.as_mut_ptr()),
        ]
    };
    ensure!(lists == [INVALID_VALUE; 5], "lists: {lists:?}");

    let mut expected = vec![1; LEN];
    buffer.enqueue(&[])?.wait()?;
    step(&mut expected, 3);
    step(&mut expected[..1], 3);
    ensure!(gpu.download(&x, LEN)? == expected, "something was changed");
    Ok(())
}
