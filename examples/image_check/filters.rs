//! Kernels that read through samplers and write to images.

use anyhow::{Context as _, Result, ensure};
use opencl3::memory::{
    CL_ADDRESS_CLAMP_TO_EDGE, CL_FILTER_LINEAR, CL_FILTER_NEAREST, CL_FLOAT, CL_MEM_OBJECT_IMAGE2D,
    CL_MEM_OBJECT_IMAGE2D_ARRAY, CL_MEM_OBJECT_IMAGE3D, CL_R, CL_RGBA, CL_UNSIGNED_INT8, CL_UNSIGNED_INT32,
    Sampler,
};
use opencl3::types::{CL_FALSE, CL_TRUE, cl_bool, cl_filter_mode};

use super::{Bench, bytes, description, floats, format, numbers, to_bytes};

fn sampler(bench: &Bench, normalized: cl_bool, filter: cl_filter_mode) -> Result<Sampler> {
    #[expect(deprecated, reason = "what every version has")]
    Sampler::create(&bench.gpu.context, normalized, CL_ADDRESS_CLAMP_TO_EDGE, filter)
        .context("cannot create a sampler")
}

/// The value between four elements, as the specification has it (OpenCL C 3.0, section 8.2).
fn between(picture: &[f32], [width, height]: [usize; 2], u: f32, v: f32) -> f32 {
    let at = |x: f32, y: f32| {
        let x = (x.max(0.0) as usize).min(width - 1);
        let y = (y.max(0.0) as usize).min(height - 1);
        picture[y * width + x]
    };
    let (x, y) = ((u - 0.5).floor(), (v - 0.5).floor());
    let (a, b) = (u - 0.5 - x, v - 0.5 - y);
    (1.0 - a) * (1.0 - b) * at(x, y)
        + a * (1.0 - b) * at(x + 1.0, y)
        + (1.0 - a) * b * at(x, y + 1.0)
        + a * b * at(x + 1.0, y + 1.0)
}

pub(crate) fn scaling(bench: &Bench) -> Result<()> {
    let ([width, height], [wide, high]) = ([37_usize, 23_usize], [64_usize, 50_usize]);
    let picture: Vec<f32> = numbers(width * height).into_iter().map(|x| (x % 256) as f32).collect();
    let kind = CL_MEM_OBJECT_IMAGE2D;
    let from = bench.image(
        format(CL_R, CL_FLOAT),
        description(kind, [width, height, 0, 0]),
        Some(&to_bytes(&picture)),
    )?;
    let to = bench.image(format(CL_R, CL_FLOAT), description(kind, [wide, high, 0, 0]), None)?;
    let sampler = sampler(bench, CL_TRUE, CL_FILTER_LINEAR)?;
    // SAFETY: two images and a sampler, as the kernel declares.
    bench.gpu.run(&bench.program, "scale", &[wide, high], &[], |call| unsafe {
        call.set_arg(&from).set_arg(&to).set_arg(&sampler.get());
    })?;
    let scaled = floats(&bench.read(&to, [0; 3], [wide, high, 1])?);
    for (index, got) in scaled.into_iter().enumerate() {
        let (x, y) = (index % wide, index / wide);
        let u = (x as f32 + 0.5) / wide as f32 * width as f32;
        let v = (y as f32 + 0.5) / high as f32 * height as f32;
        let expected = between(&picture, [width, height], u, v);
        // Devices may place an element between others in steps of 1/256.
        ensure!((got - expected).abs() <= 2.5, "at {x}, {y}: {got} instead of {expected}");
    }
    Ok(())
}

pub(crate) fn blurring(bench: &Bench) -> Result<()> {
    let (width, height) = (61_usize, 40_usize);
    let picture = bytes(4 * width * height);
    let desc = description(CL_MEM_OBJECT_IMAGE2D, [width, height, 0, 0]);
    let from = bench.image(format(CL_RGBA, CL_UNSIGNED_INT8), desc, Some(&picture))?;
    let to = bench.image(format(CL_RGBA, CL_UNSIGNED_INT8), desc, None)?;
    let sampler = sampler(bench, CL_FALSE, CL_FILTER_NEAREST)?;
    // SAFETY: two images and a sampler, as the kernel declares.
    bench.gpu.run(&bench.program, "blur", &[width, height], &[], |call| unsafe {
        call.set_arg(&from).set_arg(&to).set_arg(&sampler.get());
    })?;
    let near = |at: usize, step: usize, size: usize| (at + step).saturating_sub(1).min(size - 1);
    let mean = |x: usize, y: usize, channel: usize| {
        let all = (0..3).flat_map(|dy| (0..3).map(move |dx| (dx, dy)));
        let sum: u32 = all
            .map(|(dx, dy)| {
                u32::from(picture[4 * (near(y, dy, height) * width + near(x, dx, width)) + channel])
            })
            .sum();
        (sum / 9) as u8
    };
    let expected: Vec<u8> =
        (0..4 * width * height).map(|index| mean(index / 4 % width, index / 4 / width, index % 4)).collect();
    ensure!(bench.read(&to, [0; 3], [width, height, 1])? == expected, "means differ");
    Ok(())
}

pub(crate) fn cutting(bench: &Bench) -> Result<()> {
    let [width, height, depth] = [9_usize, 7, 8];
    let volume: Vec<f32> = numbers(width * height * depth).into_iter().map(|x| x as f32).collect();
    let desc = description(CL_MEM_OBJECT_IMAGE3D, [width, height, depth, 0]);
    let image = bench.image(format(CL_R, CL_FLOAT), desc, Some(&to_bytes(&volume)))?;
    let cut = bench.gpu.buffer::<f32>(width * height)?;
    // SAFETY: an image, and a buffer of a float for each work-item, as the kernel declares.
    bench.gpu.run(&bench.program, "cut", &[width, height], &[], |call| unsafe {
        call.set_arg(&image).set_arg(&cut);
    })?;
    let inside = |x: usize, y: usize, z: usize| {
        if z < depth { volume[(z * height + y) * width + x] } else { 0.0 }
    };
    let expected: Vec<f32> =
        (0..width * height).map(|at| (at % width, at / width)).map(|(x, y)| inside(x, y, x + y)).collect();
    ensure!(bench.gpu.download(&cut, width * height)? == expected, "elements differ");
    Ok(())
}

pub(crate) fn writing_an_array(bench: &Bench) -> Result<()> {
    let [width, height, images] = [5_usize, 6, 4];
    let desc = description(CL_MEM_OBJECT_IMAGE2D_ARRAY, [width, height, 0, images]);
    let array = bench.image(format(CL_RGBA, CL_UNSIGNED_INT32), desc, None)?;
    // SAFETY: an array of images, as the kernel declares.
    bench.gpu.run(&bench.program, "number", &[width, height, images], &[], |call| unsafe {
        call.set_arg(&array);
    })?;
    let all =
        (0..images).flat_map(|z| (0..height).flat_map(move |y| (0..width).map(move |x| [x, y, z, images])));
    let expected: Vec<u8> = all.flatten().flat_map(|number| (number as u32).to_ne_bytes()).collect();
    ensure!(bench.read(&array, [0; 3], [width, height, images])? == expected, "numbers differ");
    Ok(())
}
