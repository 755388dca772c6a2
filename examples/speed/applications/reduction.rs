//! One number made of many.

use std::time::Duration;

use anyhow::{Result, ensure};
use opencl3::kernel::Kernel;
use opencl3::memory::Buffer;

use super::{Argument, Gear, memory};
use crate::{Workload, timed};

const COUNT: usize = 1 << 24;
const GROUP: usize = 256;
const GROUPS: usize = 64;

pub(super) struct Reduction<'a> {
    gear: Gear<'a>,
    kernels: [Kernel; 2],
    input: Vec<u32>,
    from: Buffer<u32>,
    sums: Buffer<u32>,
    result: [u32; 1],
    expected: u32,
}

impl<'a> Reduction<'a> {
    pub(super) fn new(gear: Gear<'a>) -> Result<Reduction<'a>> {
        let input = crate::common::checks::numbers(COUNT);
        let term = |x: &u32| x.wrapping_mul(x ^ 0x5a5a_5a5a);
        let expected = input.iter().map(term).fold(0, u32::wrapping_add);
        let kernels = [gear.kernel("sum")?, gear.kernel("add_up")?];
        let (from, sums) = (gear.place.buffer(COUNT)?, gear.place.buffer(GROUPS)?);
        Ok(Reduction { gear, kernels, input, from, sums, result: [0], expected })
    }
}

impl Workload for Reduction<'_> {
    fn sample(&mut self) -> Result<Duration> {
        self.result = [0];
        timed(|| {
            self.gear.place.write(&mut self.from, &self.input)?;
            let [sum, add_up] = &self.kernels;
            let (count, part) = (Argument::Uint(COUNT as u32), Argument::Local(GROUP * 4));
            let arguments = [memory(&self.from), count, memory(&self.sums), part];
            self.gear.launch(sum, &arguments, &[GROUP * GROUPS], &[GROUP])?;
            self.gear.launch(add_up, &[memory(&self.sums), Argument::Uint(GROUPS as u32)], &[1], &[1])?;
            self.gear.place.read(&self.sums, &mut self.result)
        })
    }

    fn check(&mut self) -> Result<()> {
        ensure!(self.result == [self.expected], "{} and not {}", self.result[0], self.expected);
        Ok(())
    }
}
