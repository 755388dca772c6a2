//! Steps of a small neural network's training.

use std::time::Duration;

use anyhow::Result;
use opencl3::kernel::Kernel;
use opencl3::memory::Buffer;

use super::{Argument, Gear, floats, forget, memory, must_be_near};
use crate::{Workload, timed};

const SAMPLES: usize = 128;
const INPUTS: usize = 256;
const HIDDEN: usize = 128;
const OUTPUTS: usize = 10;
const STEPS: usize = 6;
const RATE: f32 = 0.125;

pub(super) struct Network<'a> {
    gear: Gear<'a>,
    kernels: [Kernel; 4],
    weights: [Vec<f32>; 2],
    input: Buffer<f32>,
    labels: Buffer<u32>,
    w1: Buffer<f32>,
    w2: Buffer<f32>,
    hidden: Buffer<f32>,
    off: Buffer<f32>,
    blamed: Buffer<f32>,
    losses: Buffer<f32>,
    /// Weights of the first and the second layer, and the last step's losses.
    results: [Vec<f32>; 3],
    expected: [Vec<f64>; 3],
}

impl<'a> Network<'a> {
    pub(super) fn new(gear: Gear<'a>) -> Result<Network<'a>> {
        let place = gear.place;
        let data = floats(SAMPLES * INPUTS, 6);
        let answers: Vec<u32> =
            crate::common::checks::numbers(SAMPLES).iter().map(|x| x % OUTPUTS as u32).collect();
        let small =
            |len: usize, salt: u32| -> Vec<f32> { floats(len, salt).iter().map(|x| x / 8.0).collect() };
        let weights = [small(INPUTS * HIDDEN, 7), small(HIDDEN * OUTPUTS, 8)];
        let expected = trained(&data, &answers, &weights);
        let (mut input, mut labels) = (place.buffer(data.len())?, place.buffer(answers.len())?);
        place.write(&mut input, &data)?;
        place.write(&mut labels, &answers)?;
        let kernel = |name: &str| gear.kernel(name);
        Ok(Network {
            kernels: [kernel("forward_hidden")?, kernel("judge")?, kernel("blame")?, kernel("learn")?],
            input,
            labels,
            w1: place.buffer(INPUTS * HIDDEN)?,
            w2: place.buffer(HIDDEN * OUTPUTS)?,
            hidden: place.buffer(SAMPLES * HIDDEN)?,
            off: place.buffer(SAMPLES * OUTPUTS)?,
            blamed: place.buffer(SAMPLES * HIDDEN)?,
            losses: place.buffer(SAMPLES)?,
            results: [vec![0.0; INPUTS * HIDDEN], vec![0.0; HIDDEN * OUTPUTS], vec![0.0; SAMPLES]],
            weights,
            gear,
            expected,
        })
    }

    fn step(&self) -> Result<()> {
        let [forward, judge, blame, learn] = &self.kernels;
        let number = |value: usize| Argument::Uint(value as u32);
        let [input, labels] = [memory(&self.input), memory(&self.labels)];
        let [w1, w2, hidden] = [memory(&self.w1), memory(&self.w2), memory(&self.hidden)];
        let [off, blamed, losses] = [memory(&self.off), memory(&self.blamed), memory(&self.losses)];
        let rate = Argument::Float(RATE);
        let launch = |kernel: &Kernel, arguments: &[Argument], global: &[usize], local: &[usize]| {
            self.gear.launch(kernel, arguments, global, local)
        };
        launch(forward, &[input, w1, hidden, number(INPUTS)], &[HIDDEN, SAMPLES], &[16, 4])?;
        launch(
            judge,
            &[hidden, w2, labels, off, losses, number(HIDDEN), number(OUTPUTS)],
            &[SAMPLES],
            &[16],
        )?;
        launch(blame, &[off, w2, hidden, blamed, number(OUTPUTS)], &[HIDDEN, SAMPLES], &[16, 4])?;
        launch(learn, &[w2, hidden, off, number(SAMPLES), rate], &[OUTPUTS, HIDDEN], &[OUTPUTS, 4])?;
        launch(learn, &[w1, input, blamed, number(SAMPLES), rate], &[HIDDEN, INPUTS], &[16, 4])
    }
}

impl Workload for Network<'_> {
    fn sample(&mut self) -> Result<Duration> {
        self.results.iter_mut().for_each(|results| forget(results));
        timed(|| {
            let place = self.gear.place;
            place.write(&mut self.w1, &self.weights[0])?;
            place.write(&mut self.w2, &self.weights[1])?;
            for _ in 0..STEPS {
                self.step()?;
            }
            let [w1, w2, losses] = &mut self.results;
            place.read(&self.w1, w1)?;
            place.read(&self.w2, w2)?;
            place.read(&self.losses, losses)
        })
    }

    fn check(&mut self) -> Result<()> {
        let pairs = self.results.iter().zip(&self.expected);
        pairs.into_iter().try_for_each(|(found, expected)| must_be_near(found, expected, 1e-4))
    }
}

/// The product of two matrices by rows, the first of which may be turned.
fn product(a: &[f64], is_turned: bool, b: &[f64], [rows, inner, columns]: [usize; 3]) -> Vec<f64> {
    let mut result = vec![0.0; rows * columns];
    for row in 0..rows {
        for k in 0..inner {
            let left = if is_turned { a[k * rows + row] } else { a[row * inner + k] };
            for column in 0..columns {
                result[row * columns + column] += left * b[k * columns + column];
            }
        }
    }
    result
}

/// What the network has learnt after all steps.
fn trained(data: &[f32], answers: &[u32], weights: &[Vec<f32>; 2]) -> [Vec<f64>; 3] {
    let wide = |numbers: &[f32]| numbers.iter().copied().map(f64::from).collect::<Vec<f64>>();
    let (data, [mut w1, mut w2]) = (wide(data), [wide(&weights[0]), wide(&weights[1])]);
    let mut losses = Vec::new();
    for _ in 0..STEPS {
        let mut hidden = product(&data, false, &w1, [SAMPLES, INPUTS, HIDDEN]);
        hidden.iter_mut().for_each(|value| *value = value.max(0.0));
        let mut off = product(&hidden, false, &w2, [SAMPLES, HIDDEN, OUTPUTS]);
        losses.clear();
        for (row, label) in off.chunks_mut(OUTPUTS).zip(answers) {
            let sum: f64 = row.iter().map(|value| value.exp()).sum();
            row.iter_mut().for_each(|value| *value = value.exp() / sum);
            losses.push(-row[*label as usize].ln());
            row[*label as usize] -= 1.0;
        }
        let mut turned = vec![0.0; HIDDEN * OUTPUTS];
        for (index, weight) in w2.iter().enumerate() {
            turned[index % OUTPUTS * HIDDEN + index / OUTPUTS] = *weight;
        }
        let mut blamed = product(&off, false, &turned, [SAMPLES, OUTPUTS, HIDDEN]);
        for (blamed, hidden) in blamed.iter_mut().zip(&hidden) {
            *blamed = if *hidden > 0.0 { *blamed } else { 0.0 };
        }
        let learn = |weights: &mut [f64], by: Vec<f64>| {
            for (weight, by) in weights.iter_mut().zip(by) {
                *weight -= f64::from(RATE) / SAMPLES as f64 * by;
            }
        };
        learn(&mut w2, product(&hidden, true, &off, [HIDDEN, SAMPLES, OUTPUTS]));
        learn(&mut w1, product(&data, true, &blamed, [INPUTS, SAMPLES, HIDDEN]));
    }
    [w1, w2, losses]
}
