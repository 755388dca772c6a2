//! The product of two matrices.

use std::time::Duration;

use anyhow::Result;
use opencl3::kernel::Kernel;
use opencl3::memory::Buffer;

use super::{Argument, Gear, floats, forget, memory, must_be_near};
use crate::{Workload, timed};

const N: usize = 512;
const TILE: usize = 16;

pub(super) struct Multiply<'a> {
    gear: Gear<'a>,
    kernel: Kernel,
    inputs: [Vec<f32>; 2],
    buffers: [Buffer<f32>; 3],
    result: Vec<f32>,
    expected: Vec<f64>,
}

impl<'a> Multiply<'a> {
    pub(super) fn new(gear: Gear<'a>) -> Result<Multiply<'a>> {
        let inputs = [floats(N * N, 1), floats(N * N, 2)];
        let mut expected = vec![0.0; N * N];
        for (row, line) in expected.chunks_mut(N).enumerate() {
            for k in 0..N {
                let left = f64::from(inputs[0][row * N + k]);
                for (sum, right) in line.iter_mut().zip(&inputs[1][k * N..]) {
                    *sum += left * f64::from(*right);
                }
            }
        }
        let buffer = || gear.place.buffer(N * N);
        let buffers = [buffer()?, buffer()?, buffer()?];
        let kernel = gear.kernel("multiply")?;
        Ok(Multiply { gear, kernel, inputs, buffers, result: vec![0.0; N * N], expected })
    }
}

impl Workload for Multiply<'_> {
    fn sample(&mut self) -> Result<Duration> {
        forget(&mut self.result);
        let place = self.gear.place;
        timed(|| {
            let [a, b, c] = &mut self.buffers;
            place.write(a, &self.inputs[0])?;
            place.write(b, &self.inputs[1])?;
            let arguments = [memory(a), memory(b), memory(c), Argument::Uint(N as u32)];
            self.gear.launch(&self.kernel, &arguments, &[N, N], &[TILE, TILE])?;
            place.read(c, &mut self.result)
        })
    }

    fn check(&mut self) -> Result<()> {
        must_be_near(&self.result, &self.expected, 1e-5)
    }
}
