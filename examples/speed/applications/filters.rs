//! A picture that goes through filters.

use std::ffi::c_void;
use std::ptr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use opencl3::kernel::Kernel;
use opencl3::memory::{
    CL_MEM_OBJECT_IMAGE2D, CL_MEM_READ_WRITE, CL_RGBA, CL_UNSIGNED_INT8, ClMem as _, Image,
};
use opencl3::types::{CL_TRUE, cl_image_desc, cl_image_format};

use super::{Argument, Gear, forget};
use crate::{Workload, timed};

const N: usize = 512;
const BYTES: usize = 4 * N * N;

pub(super) struct Filters<'a> {
    gear: Gear<'a>,
    soften: Kernel,
    sharpen: Kernel,
    invert: Kernel,
    input: Vec<u8>,
    images: [Image; 2],
    result: Vec<u8>,
    expected: Vec<u8>,
}

impl<'a> Filters<'a> {
    pub(super) fn new(gear: Gear<'a>) -> Result<Filters<'a>> {
        let input: Vec<u8> = crate::common::checks::numbers(BYTES).iter().map(|x| *x as u8).collect();
        let softened = |from: &[u8], dx: isize, dy: isize| {
            filtered(from, |at| {
                let sum: u32 = (-2..=2).map(|i| u32::from(at(dx * i, dy * i))).sum();
                ((sum + 2) / 5) as u8
            })
        };
        let soft = softened(&softened(&input, 1, 0), 0, 1);
        let sharp = filtered(&soft, |at| {
            let around: i32 =
                [(-1, 0), (1, 0), (0, -1), (0, 1)].iter().map(|(dx, dy)| i32::from(at(*dx, *dy))).sum();
            (5 * i32::from(at(0, 0)) - around).clamp(0, 255) as u8
        });
        let expected = sharp.iter().map(|value| 255 - value).collect();
        let images = [image(&gear)?, image(&gear)?];
        Ok(Filters {
            soften: gear.kernel("soften")?,
            sharpen: gear.kernel("sharpen")?,
            invert: gear.kernel("invert")?,
            gear,
            input,
            images,
            result: vec![0; BYTES],
            expected,
        })
    }
}

/// What a filter makes of each channel of each pixel, from those around it; beyond the edge they are as on it.
fn filtered(from: &[u8], filter: impl Fn(&dyn Fn(isize, isize) -> u8) -> u8) -> Vec<u8> {
    let clamped = |at: isize| at.clamp(0, N as isize - 1) as usize;
    let value = |index: usize| {
        let (x, y, channel) = (index / 4 % N, index / 4 / N, index % 4);
        filter(&|dx, dy| {
            let (x, y) = (clamped(x as isize + dx), clamped(y as isize + dy));
            from[(y * N + x) * 4 + channel]
        })
    };
    (0..BYTES).map(value).collect()
}

fn image(gear: &Gear<'_>) -> Result<Image> {
    let format = cl_image_format { image_channel_order: CL_RGBA, image_channel_data_type: CL_UNSIGNED_INT8 };
    let shape = cl_image_desc {
        image_type: CL_MEM_OBJECT_IMAGE2D,
        image_width: N,
        image_height: N,
        image_depth: 0,
        image_array_size: 0,
        image_row_pitch: 0,
        image_slice_pitch: 0,
        num_mip_levels: 0,
        num_samples: 0,
        buffer: ptr::null_mut(),
    };
    // SAFETY: no host pointer is given.
    let image =
        unsafe { Image::create(&gear.place.context, CL_MEM_READ_WRITE, &format, &shape, ptr::null_mut()) };
    image.context("cannot create an image")
}

impl Workload for Filters<'_> {
    fn sample(&mut self) -> Result<Duration> {
        forget(&mut self.result);
        let (origin, region) = ([0_usize; 3].as_ptr(), [N, N, 1].as_ptr());
        let [one, other] = &mut self.images;
        let queue = &self.gear.place.queue;
        timed(|| {
            let input = self.input.as_ptr().cast_mut().cast::<c_void>();
            // SAFETY: the write is blocking, and the input has all of the image's pixels.
            unsafe { queue.enqueue_write_image(one, CL_TRUE, origin, region, 0, 0, input, &[]) }?;
            let way = |from: &Image, to: &Image| [from, to].map(|image| Argument::Memory(image.get()));
            let run = |kernel: &Kernel, images: [Argument; 2], more: &[Argument]| {
                self.gear.launch(kernel, &[&images, more].concat(), &[N, N], &[16, 16])
            };
            run(&self.soften, way(one, other), &[Argument::Int(1), Argument::Int(0)])?;
            run(&self.soften, way(other, one), &[Argument::Int(0), Argument::Int(1)])?;
            run(&self.sharpen, way(one, other), &[])?;
            run(&self.invert, way(other, one), &[])?;
            let result = self.result.as_mut_ptr().cast::<c_void>();
            // SAFETY: the read is blocking, and there is room for all pixels.
            unsafe { queue.enqueue_read_image(one, CL_TRUE, origin, region, 0, 0, result, &[]) }?;
            Ok(())
        })
    }

    fn check(&mut self) -> Result<()> {
        let wrong = self.result.iter().zip(&self.expected).filter(|(found, expected)| found != expected);
        let wrong = wrong.count();
        ensure!(wrong == 0, "{wrong} of {BYTES} values are wrong");
        Ok(())
    }
}
