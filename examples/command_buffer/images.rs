//! Commands on images.

use std::ptr;

use anyhow::{Context as _, Result, anyhow, ensure};
use opencl3::memory::{CL_FLOAT, CL_MEM_OBJECT_IMAGE2D, CL_MEM_READ_WRITE, CL_R, CL_RGBA, ClMem, Image};
use opencl3::types::{cl_image_desc, cl_image_format};

use super::common::Gpu;
use super::recorder::{Box3, CommandBuffer};
use super::{Bench, INVALID_OPERATION};

const WIDTH: usize = 9;
const HEIGHT: usize = 7;
const WHOLE: Box3 = Box3 { at: [0; 3], size: [WIDTH, HEIGHT, 1] };
const INVALID_VALUE: i32 = -30;

type Picture = [[[f32; 4]; WIDTH]; HEIGHT];

fn image(gpu: &Gpu, order: u32) -> Result<Image> {
    let format = cl_image_format { image_channel_order: order, image_channel_data_type: CL_FLOAT };
    let desc = cl_image_desc {
        image_type: CL_MEM_OBJECT_IMAGE2D,
        image_width: WIDTH,
        image_height: HEIGHT,
        image_depth: 0,
        image_array_size: 0,
        image_row_pitch: 0,
        image_slice_pitch: 0,
        num_mip_levels: 0,
        num_samples: 0,
        buffer: ptr::null_mut(),
    };
    // SAFETY: no host pointer is given.
    unsafe { Image::create(&gpu.context, CL_MEM_READ_WRITE, &format, &desc, ptr::null_mut()) }
        .context("cannot create an image")
}

fn fill(picture: &mut Picture, color: [f32; 4], place: &Box3) {
    for row in &mut picture[place.at[1]..place.at[1] + place.size[1]] {
        row[place.at[0]..place.at[0] + place.size[0]].fill(color);
    }
}

/// Fills a picture twice, copies a box of it to another one, and elements of a buffer over that, which goes to a buffer.
pub(crate) fn commands(bench: &Bench) -> Result<()> {
    let gpu = &bench.gpu;
    let (a, b) = (image(gpu, CL_RGBA)?, image(gpu, CL_RGBA)?);
    let numbers: Vec<f32> = (0..64).map(|i| (i * i) as f32).collect();
    let (from, to) = (gpu.upload(&numbers)?, gpu.upload(&[-1.0_f32; 4 * WIDTH * HEIGHT + 8])?);
    let part = Box3 { at: [2, 1, 0], size: [3, 4, 1] };
    let copied = Box3 { at: [1, 1, 0], size: [4, 5, 1] };
    let written = Box3 { at: [3, 4, 0], size: [5, 2, 1] };

    let buffer = CommandBuffer::new(bench, &gpu.queue, 0)?;
    let recorded = || {
        buffer.fill_image(a.get(), [1.0, 2.0, 3.0, 4.0], &WHOLE)?;
        buffer.fill_image(a.get(), [0.5; 4], &part)?;
        buffer.fill_image(b.get(), [9.0; 4], &WHOLE)?;
        buffer.copy_image(a.get(), b.get(), copied.at, &Box3 { at: [4, 2, 0], ..copied })?;
        buffer.copy_buffer_to_image(from.get(), 16, b.get(), &written)?;
        buffer.copy_image_to_buffer(b.get(), &WHOLE, to.get(), 32)
    };
    recorded().map_err(|status| anyhow!("recording: {status}"))?;
    buffer.finalize()?;

    let (mut first, mut second) = ([[[0.0; 4]; WIDTH]; HEIGHT], [[[9.0; 4]; WIDTH]; HEIGHT]);
    fill(&mut first, [1.0, 2.0, 3.0, 4.0], &WHOLE);
    fill(&mut first, [0.5; 4], &part);
    for (y, x) in (0..5).flat_map(|y| (0..4).map(move |x| (y, x))) {
        second[2 + y][4 + x] = first[1 + y][1 + x];
    }
    for (index, element) in numbers[4..44].as_chunks::<4>().0.iter().enumerate() {
        second[4 + index / 5][3 + index % 5] = *element;
    }
    let mut expected = vec![-1.0; 8];
    expected.extend(second.as_flattened().as_flattened());
    for _ in 0..2 {
        buffer.enqueue(&[])?.wait()?;
        ensure!(gpu.download(&to, expected.len())? == expected, "elements differ");
    }
    Ok(())
}

pub(crate) fn mistakes(bench: &Bench) -> Result<()> {
    let gpu = &bench.gpu;
    let stranger = Gpu::on(&gpu.device)?;
    let (a, b, red) = (image(gpu, CL_RGBA)?, image(gpu, CL_RGBA)?, image(gpu, CL_R)?);
    let foreign = image(&stranger, CL_RGBA)?;
    let memory = gpu.buffer::<f32>(4 * WIDTH * HEIGHT)?;
    let buffer = CommandBuffer::new(bench, &gpu.queue, 0)?;
    let (color, at) = ([0.0; 4], [0; 3]);
    let outside = Box3 { at: [1, 0, 0], size: WHOLE.size };
    let empty = Box3 { at, size: [1, 0, 1] };
    let left = Box3 { at, size: [4, HEIGHT, 1] };
    let late = CommandBuffer::new(bench, &gpu.queue, 0)?;
    late.finalize()?;
    let (invalid_context, invalid_object) = (-34, -38);
    for (what, got, expected) in [
        ("filling outside", buffer.fill_image(a.get(), color, &outside), INVALID_VALUE),
        ("filling nothing", buffer.fill_image(a.get(), color, &empty), INVALID_VALUE),
        ("filling a buffer", buffer.fill_image(memory.get(), color, &WHOLE), invalid_object),
        ("filling another context's", buffer.fill_image(foreign.get(), color, &WHOLE), invalid_context),
        ("copying from outside", buffer.copy_image(a.get(), b.get(), [1, 0, 0], &WHOLE), INVALID_VALUE),
        ("copying to another format", buffer.copy_image(a.get(), red.get(), at, &WHOLE), -9),
        ("copying onto itself", buffer.copy_image(a.get(), a.get(), [1, 0, 0], &left), -8),
        (
            "copying to another context's",
            buffer.copy_image(a.get(), foreign.get(), at, &WHOLE),
            invalid_context,
        ),
        (
            "more than the buffer has room for",
            buffer.copy_image_to_buffer(a.get(), &WHOLE, memory.get(), 16),
            INVALID_VALUE,
        ),
        (
            "more than is in the buffer",
            buffer.copy_buffer_to_image(memory.get(), 16, a.get(), &WHOLE),
            INVALID_VALUE,
        ),
        ("an image for a buffer", buffer.copy_buffer_to_image(a.get(), 0, b.get(), &WHOLE), invalid_object),
        ("recording too late", late.fill_image(a.get(), color, &WHOLE), INVALID_OPERATION),
    ] {
        ensure!(got == Err(expected), "{what}: {got:?} instead of {expected}");
    }
    // None of them is in the buffer.
    buffer.finalize()?;
    buffer.enqueue(&[])?.wait()?;
    Ok(())
}
