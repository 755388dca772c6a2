//! Heat that spreads on a plate: a stencil, many times over.

use std::time::Duration;

use anyhow::Result;
use opencl3::kernel::Kernel;
use opencl3::memory::Buffer;

use super::{Gear, floats, forget, memory, must_be_near};
use crate::{Workload, timed};

const N: usize = 1024;
const STEPS: usize = 40;

pub(super) struct Plate<'a> {
    gear: Gear<'a>,
    kernel: Kernel,
    input: Vec<f32>,
    buffers: [Buffer<f32>; 2],
    result: Vec<f32>,
    expected: Vec<f64>,
}

impl<'a> Plate<'a> {
    pub(super) fn new(gear: Gear<'a>) -> Result<Plate<'a>> {
        let input = floats(N * N, 3);
        let mut expected: Vec<f64> = input.iter().copied().map(f64::from).collect();
        for _ in 0..STEPS {
            let from = expected.clone();
            for y in 1..N - 1 {
                for x in 1..N - 1 {
                    let i = y * N + x;
                    let around = from[i - 1] + from[i + 1] + from[i - N] + from[i + N];
                    expected[i] = from[i] + 0.2 * (around - 4.0 * from[i]);
                }
            }
        }
        let buffers = [gear.place.buffer(N * N)?, gear.place.buffer(N * N)?];
        let kernel = gear.kernel("spread")?;
        Ok(Plate { gear, kernel, input, buffers, result: vec![0.0; N * N], expected })
    }
}

impl Workload for Plate<'_> {
    fn sample(&mut self) -> Result<Duration> {
        forget(&mut self.result);
        timed(|| {
            self.gear.place.write(&mut self.buffers[0], &self.input)?;
            for step in 0..STEPS {
                let (from, to) = (&self.buffers[step % 2], &self.buffers[(step + 1) % 2]);
                self.gear.launch(&self.kernel, &[memory(from), memory(to)], &[N, N], &[64, 4])?;
            }
            self.gear.place.read(&self.buffers[STEPS % 2], &mut self.result)
        })
    }

    fn check(&mut self) -> Result<()> {
        must_be_near(&self.result, &self.expected, 1e-5)
    }
}
