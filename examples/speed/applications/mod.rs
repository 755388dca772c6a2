//! Small programs as users write them, from data that goes to the device to results that come back.

mod bodies;
mod filters;
mod fourier;
mod matrix;
mod network;
mod plate;
mod reduction;

use anyhow::{Context as _, Result, ensure};
use opencl3::kernel::Kernel;
use opencl3::memory::{Buffer, ClMem as _};
use opencl3::program::Program;
use opencl3::types::cl_mem;

use crate::Workload;
use crate::common::Number;
use crate::place::Place;

const SOURCE: &str = include_str!("kernels.cl");

/// One of them, if it is one.
pub(crate) fn open<'a>(name: &str, place: &'a Place) -> Result<Option<Box<dyn Workload + 'a>>> {
    Ok(match name {
        "matmul" => Some(Box::new(matrix::Multiply::new(Gear::new(place)?)?)),
        "stencil" => Some(Box::new(plate::Plate::new(Gear::new(place)?)?)),
        "reduction" => Some(Box::new(reduction::Reduction::new(Gear::new(place)?)?)),
        "fft" => Some(Box::new(fourier::Fourier::new(Gear::new(place)?)?)),
        "nbody" => Some(Box::new(bodies::Bodies::new(Gear::new(place)?)?)),
        "filters" => Some(Box::new(filters::Filters::new(Gear::new(place)?)?)),
        "training" => Some(Box::new(network::Network::new(Gear::new(place)?)?)),
        _ => None,
    })
}

/// A place with the applications' kernels.
struct Gear<'a> {
    place: &'a Place,
    program: Program,
}

/// What a kernel is given.
#[derive(Clone, Copy)]
enum Argument {
    Memory(cl_mem),
    Uint(u32),
    Int(i32),
    Float(f32),
    /// Local memory of so many bytes.
    Local(usize),
}

impl<'a> Gear<'a> {
    fn new(place: &'a Place) -> Result<Gear<'a>> {
        Ok(Gear { place, program: place.program(SOURCE)? })
    }

    fn kernel(&self, name: &str) -> Result<Kernel> {
        Kernel::create(&self.program, name).with_context(|| format!("no kernel {name}"))
    }

    /// Sets a kernel's arguments and enqueues it.
    fn launch(
        &self,
        kernel: &Kernel,
        arguments: &[Argument],
        global: &[usize],
        local: &[usize],
    ) -> Result<()> {
        for (index, argument) in (0..).zip(arguments) {
            // SAFETY: the callers give what the kernel declares, and memory that lives until they have read its results.
            unsafe {
                match argument {
                    Argument::Memory(memory) => kernel.set_arg(index, memory),
                    Argument::Uint(value) => kernel.set_arg(index, value),
                    Argument::Int(value) => kernel.set_arg(index, value),
                    Argument::Float(value) => kernel.set_arg(index, value),
                    Argument::Local(size) => kernel.set_arg_local_buffer(index, *size),
                }
                .with_context(|| format!("argument {index}"))?;
            }
        }
        // SAFETY: all arguments are set, to memory that is large enough for these sizes.
        unsafe { self.place.direct.launch(self.place.queue.get(), kernel.get(), global, local) }
    }
}

fn memory<T>(buffer: &Buffer<T>) -> Argument {
    Argument::Memory(buffer.get())
}

/// Numbers between -1 and 1 that look random and are the same in every run.
fn floats(len: usize, salt: u32) -> Vec<f32> {
    let number = |index: usize| {
        let mut x = (index as u32).wrapping_mul(0x9e37_79b9) ^ salt;
        x = (x ^ x >> 16).wrapping_mul(0x85eb_ca6b);
        x = (x ^ x >> 13).wrapping_mul(0xc2b2_ae35);
        f64::from(x ^ x >> 16) / f64::from(u32::MAX) * 2.0 - 1.0
    };
    (0..len).map(|index| number(index) as f32).collect()
}

/// Compares numbers with what they must be, give or take a part of the largest.
fn must_be_near(found: &[f32], expected: &[f64], tolerance: f64) -> Result<()> {
    ensure!(found.len() == expected.len(), "{} numbers instead of {}", found.len(), expected.len());
    let largest = expected.iter().fold(0.0_f64, |largest, x| largest.max(x.abs()));
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let is_near = (f64::from(*found) - expected).abs() <= tolerance * largest;
        ensure!(is_near, "number {index} is {found} and not {expected}");
    }
    Ok(())
}

/// No result of before is taken for one.
fn forget<T: Number>(results: &mut [T]) {
    results.fill(T::default());
}
