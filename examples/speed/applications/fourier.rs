//! A fast Fourier transform.

use std::f64::consts::PI;
use std::time::Duration;

use anyhow::Result;
use opencl3::kernel::Kernel;
use opencl3::memory::Buffer;

use super::{Argument, Gear, floats, forget, memory, must_be_near};
use crate::{Workload, timed};

const PASSES: usize = 20;
const N: usize = 1 << PASSES;

pub(super) struct Fourier<'a> {
    gear: Gear<'a>,
    kernel: Kernel,
    /// Real and imaginary parts in turn.
    input: Vec<f32>,
    buffers: [Buffer<f32>; 2],
    result: Vec<f32>,
    expected: Vec<f64>,
}

impl<'a> Fourier<'a> {
    pub(super) fn new(gear: Gear<'a>) -> Result<Fourier<'a>> {
        let input = floats(2 * N, 4);
        let (pairs, _) = input.as_chunks::<2>();
        let points: Vec<[f64; 2]> = pairs.iter().map(|pair| pair.map(f64::from)).collect();
        let expected = transformed(&points, 1).concat();
        let buffers = [gear.place.buffer(2 * N)?, gear.place.buffer(2 * N)?];
        let kernel = gear.kernel("transform")?;
        Ok(Fourier { gear, kernel, input, buffers, result: vec![0.0; 2 * N], expected })
    }
}

/// The transform of every `stride`th of these points, by halves: those of even and of odd numbers.
fn transformed(points: &[[f64; 2]], stride: usize) -> Vec<[f64; 2]> {
    let count = points.len().div_ceil(stride);
    if count == 1 {
        return vec![points[0]];
    }
    let (even, odd) = (transformed(points, stride * 2), transformed(&points[stride..], stride * 2));
    let mut result = vec![[0.0; 2]; count];
    for k in 0..count / 2 {
        let (sine, cosine) = (-2.0 * PI * k as f64 / count as f64).sin_cos();
        let [x, y] = odd[k];
        let turned = [x * cosine - y * sine, x * sine + y * cosine];
        result[k] = [even[k][0] + turned[0], even[k][1] + turned[1]];
        result[k + count / 2] = [even[k][0] - turned[0], even[k][1] - turned[1]];
    }
    result
}

impl Workload for Fourier<'_> {
    fn sample(&mut self) -> Result<Duration> {
        forget(&mut self.result);
        timed(|| {
            self.gear.place.write(&mut self.buffers[0], &self.input)?;
            for pass in 0..PASSES {
                let (from, to) = (&self.buffers[pass % 2], &self.buffers[(pass + 1) % 2]);
                let arguments = [memory(from), memory(to), Argument::Uint(1 << pass)];
                self.gear.launch(&self.kernel, &arguments, &[N / 2], &[64])?;
            }
            self.gear.place.read(&self.buffers[PASSES % 2], &mut self.result)
        })
    }

    fn check(&mut self) -> Result<()> {
        must_be_near(&self.result, &self.expected, 1e-4)
    }
}
