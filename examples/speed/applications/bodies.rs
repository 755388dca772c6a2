//! Bodies that attract each other.

use std::time::Duration;

use anyhow::Result;
use opencl3::kernel::Kernel;
use opencl3::memory::Buffer;

use super::{Argument, Gear, floats, forget, memory, must_be_near};
use crate::{Workload, timed};

const COUNT: usize = 2048;
const STEPS: usize = 4;
const STEP: f32 = 1.0 / 1024.0;

pub(super) struct Bodies<'a> {
    gear: Gear<'a>,
    kernel: Kernel,
    /// Places and masses, four numbers each.
    input: Vec<f32>,
    buffers: [Buffer<f32>; 2],
    speeds: Buffer<f32>,
    result: Vec<f32>,
    expected: Vec<f64>,
}

impl<'a> Bodies<'a> {
    pub(super) fn new(gear: Gear<'a>) -> Result<Bodies<'a>> {
        let mut input = floats(4 * COUNT, 5);
        // Masses are not negative.
        input.iter_mut().skip(3).step_by(4).for_each(|mass| *mass = mass.abs());
        let expected = moved(&input);
        let buffer = || gear.place.buffer(4 * COUNT);
        let (buffers, speeds) = ([buffer()?, buffer()?], buffer()?);
        let kernel = gear.kernel("attract")?;
        Ok(Bodies { gear, kernel, input, buffers, speeds, result: vec![0.0; 4 * COUNT], expected })
    }
}

/// Where they are after all steps.
fn moved(input: &[f32]) -> Vec<f64> {
    let (bodies, _) = input.as_chunks::<4>();
    let mut bodies: Vec<[f64; 4]> = bodies.iter().map(|body| body.map(f64::from)).collect();
    let mut speeds = vec![[0.0; 3]; bodies.len()];
    for _ in 0..STEPS {
        let from = bodies.clone();
        for (body, speed) in bodies.iter_mut().zip(&mut speeds) {
            let mut pull = [0.0; 3];
            for there in &from {
                let way: [f64; 3] = std::array::from_fn(|axis| there[axis] - body[axis]);
                let square: f64 = way.iter().map(|x| x * x).sum();
                let factor = there[3] * (square + 0.01).powf(-1.5);
                (0..3).for_each(|axis| pull[axis] += way[axis] * factor);
            }
            for axis in 0..3 {
                speed[axis] += pull[axis] * f64::from(STEP);
                body[axis] += speed[axis] * f64::from(STEP);
            }
        }
    }
    bodies.concat()
}

impl Workload for Bodies<'_> {
    fn sample(&mut self) -> Result<Duration> {
        forget(&mut self.result);
        let still = [0.0; 4 * COUNT];
        timed(|| {
            self.gear.place.write(&mut self.buffers[0], &self.input)?;
            self.gear.place.write(&mut self.speeds, &still)?;
            for step in 0..STEPS {
                let (from, to) = (&self.buffers[step % 2], &self.buffers[(step + 1) % 2]);
                let arguments = [memory(from), memory(to), memory(&self.speeds), Argument::Float(STEP)];
                self.gear.launch(&self.kernel, &arguments, &[COUNT], &[64])?;
            }
            self.gear.place.read(&self.buffers[STEPS % 2], &mut self.result)
        })
    }

    fn check(&mut self) -> Result<()> {
        must_be_near(&self.result, &self.expected, 1e-4)
    }
}
