//! Shared virtual memory that recorded kernels reach through pointers in memory.

use std::ffi::c_void;
use std::ptr;

use anyhow::{Result, ensure};
use opencl3::error_codes::ClError;
use opencl3::kernel::{CL_KERNEL_EXEC_INFO_SVM_PTRS, Kernel};
use opencl3::memory::ClMem;
use opencl3::types::{CL_TRUE, cl_context};

use super::recorder::CommandBuffer;
use super::{Bench, LEN, step};

const BYTES: usize = 4 * LEN;

/// An allocation, freed when dropped.
pub(crate) struct Shared<'a> {
    bench: &'a Bench,
    pub(crate) pointer: *mut c_void,
}

impl Drop for Shared<'_> {
    fn drop(&mut self) {
        // SAFETY: allocated in this context; the checks wait for the commands that use it.
        let _ = unsafe { cl3::memory::svm_free(self.context(), self.pointer) };
    }
}

impl<'a> Shared<'a> {
    /// Room for `LEN` numbers, each of them `number`.
    pub(crate) fn new(bench: &'a Bench, number: u32) -> Result<Shared<'a>> {
        let context = bench.gpu.context.get();
        // SAFETY: a live context.
        let pointer = unsafe { cl3::memory::svm_alloc(context, 0, BYTES, 0) }.map_err(ClError)?;
        let shared = Shared { bench, pointer };
        let (queue, pattern) = (bench.gpu.queue.get(), ptr::from_ref(&number).cast());
        // SAFETY: as many bytes as there are; the pattern is copied during the call.
        unsafe {
            let event =
                cl3::command_queue::enqueue_svm_mem_fill(queue, pointer, pattern, 4, BYTES, 0, ptr::null());
            cl3::event::release_event(event.map_err(ClError)?).map_err(ClError)?;
        }
        Ok(shared)
    }

    fn context(&self) -> cl_context {
        self.bench.gpu.context.get()
    }

    /// The address, as a kernel finds it in memory.
    pub(crate) fn address(&self) -> u64 {
        self.pointer as u64
    }

    pub(crate) fn numbers(&self) -> Result<Vec<u32>> {
        let (mut numbers, queue) = (vec![0_u32; LEN], self.bench.gpu.queue.get());
        let to = numbers.as_mut_ptr().cast();
        // SAFETY: the copy is blocking, and both have as many bytes.
        unsafe {
            let event = cl3::command_queue::enqueue_svm_mem_cpy(
                queue,
                CL_TRUE,
                to,
                self.pointer,
                BYTES,
                0,
                ptr::null(),
            );
            cl3::event::release_event(event.map_err(ClError)?).map_err(ClError)?;
        }
        Ok(numbers)
    }
}

/// Says what a kernel reaches.
fn reaches(kernel: &Kernel, memory: &Shared<'_>) -> Result<()> {
    let list = [memory.pointer];
    // SAFETY: a list of one pointer, to a live allocation.
    let set = unsafe {
        cl3::kernel::set_kernel_exec_info(
            kernel.get(),
            CL_KERNEL_EXEC_INFO_SVM_PTRS,
            size_of_val(&list),
            list.as_ptr().cast(),
        )
    };
    set.map_err(ClError)?;
    Ok(())
}

/// What a kernel reaches is that of when it was recorded or cloned.
pub(crate) fn pointers(bench: &Bench) -> Result<()> {
    let gpu = &bench.gpu;
    let (near, far) = (Shared::new(bench, 1)?, Shared::new(bench, 5)?);
    // SAFETY: eight bytes for each address.
    let place = gpu.upload(&near.address().to_ne_bytes())?;
    let other = gpu.upload(&far.address().to_ne_bytes())?;
    let kernel = Kernel::create(&bench.program, "advance_there")?;
    let set = |place: &opencl3::memory::Buffer<u8>, a: u32| -> Result<()> {
        // SAFETY: a buffer with an address, and a uint, as the kernel declares.
        unsafe {
            kernel.set_arg(0, &place.get())?;
            kernel.set_arg(1, &a)?;
        }
        Ok(())
    };
    set(&place, 3)?;
    reaches(&kernel, &near)?;
    let buffer = CommandBuffer::new(bench, &gpu.queue, 0)?;
    buffer.launch(&kernel, &[])?;
    let copy = kernel.clone();
    set(&other, 7)?;
    reaches(&kernel, &far)?;
    buffer.launch(&kernel, &[])?;
    buffer.finalize()?;
    drop(kernel);

    let (mut expected, mut elsewhere) = (vec![1; LEN], vec![5; LEN]);
    for _ in 0..2 {
        buffer.enqueue(&[])?.wait()?;
        step(&mut expected, 3);
        step(&mut elsewhere, 7);
        ensure!(near.numbers()? == expected, "numbers of the first differ");
        ensure!(far.numbers()? == elsewhere, "numbers of the second differ");
    }
    // SAFETY: its arguments are set, and what it reaches is there.
    let event =
        unsafe { gpu.queue.enqueue_nd_range_kernel(copy.get(), 1, ptr::null(), &LEN, ptr::null(), &[]) }?;
    event.wait()?;
    step(&mut expected, 3);
    ensure!(near.numbers()? == expected, "numbers of the clone differ");
    Ok(())
}
