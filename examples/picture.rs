//! Renders a picture on the vGPU, sharpens it there, checks both against this CPU, and writes a PNG.
//!
//!     paragpu run -- target/release/examples/picture --output picture.png

mod common;

use std::fs::File;
use std::io::BufWriter;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;

use common::Gpu;

/// Renders a picture with OpenCL and writes it as a PNG.
#[derive(Parser)]
struct Arguments {
    /// Where the PNG goes.
    #[arg(long)]
    output: PathBuf,
    /// Width in pixels.
    #[arg(long, default_value_t = 960)]
    width: usize,
    /// Height in pixels.
    #[arg(long, default_value_t = 540)]
    height: usize,
    /// Name of the OpenCL platform.
    #[arg(long, default_value = "paragpu")]
    platform: String,
}

/// Share of the checked pixels that may differ by more than rounding. Where a ray just hits or just misses an
/// edge, the last bit of a float decides which colour a pixel gets, and devices differ in it.
const EDGE_SHARE: f64 = 0.02;

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let (width, height) = (arguments.width, arguments.height);
    let gpu = Gpu::open(&arguments.platform)?;
    println!("device: {}", gpu.device.name()?);

    let started = Instant::now();
    let program = gpu.program(include_str!("picture.cl"), "")?;
    println!("built in {:.2} s", started.elapsed().as_secs_f64());

    let started = Instant::now();
    let bytes = 4 * width * height;
    let (rendered, sharpened) = (gpu.buffer::<u8>(bytes)?, gpu.buffer::<u8>(bytes)?);
    let (w, h) = (i32::try_from(width)?, i32::try_from(height)?);
    // SAFETY: the arguments have the kernels' types, and the buffers hold four bytes for each work-item.
    gpu.run(&program, "render", &[width, height], &[], |call| unsafe {
        call.set_arg(&rendered).set_arg(&w).set_arg(&h);
    })?;
    // SAFETY: as above.
    gpu.run(&program, "sharpen", &[width, height], &[], |call| unsafe {
        call.set_arg(&rendered).set_arg(&sharpened).set_arg(&w).set_arg(&h);
    })?;
    let (rendered, sharpened) = (gpu.download(&rendered, bytes)?, gpu.download(&sharpened, bytes)?);
    println!("rendered {width} x {height} pixels in {:.2} s", started.elapsed().as_secs_f64());

    ensure!(
        sharpened == reference::sharpen(&rendered, width, height),
        "the sharpened picture differs from what this CPU computes"
    );
    // One row in sixteen: this CPU may be an emulated one.
    let (mut checked, mut differ) = (0_usize, 0_usize);
    for y in (8..height).step_by(16) {
        for x in (0..width).step_by(4) {
            let expected = reference::render(x, y, width, height);
            let got = &rendered[4 * (y * width + x)..][..3];
            checked += 1;
            differ += usize::from(expected.iter().zip(got).any(|(a, b)| a.abs_diff(*b) > 2));
        }
    }
    ensure!(
        (differ as f64) <= EDGE_SHARE * checked as f64,
        "{differ} of {checked} checked pixels differ from what this CPU computes"
    );
    println!("checked {checked} pixels and the whole filter against the CPU: ok ({differ} on edges differ)");

    let file = File::create(&arguments.output)
        .with_context(|| format!("cannot create {}", arguments.output.display()))?;
    let mut encoder = png::Encoder::new(BufWriter::new(file), u32::try_from(width)?, u32::try_from(height)?);
    encoder.set_color(png::ColorType::Rgba);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&sharpened)?;
    writer.finish()?;
    println!("wrote {}", arguments.output.display());
    Ok(())
}

/// The same picture, computed here: written from the description, in other terms than the kernel's where that
/// is possible.
mod reference {
    type V = [f32; 3];

    fn add(a: V, b: V) -> V {
        std::array::from_fn(|i| a[i] + b[i])
    }
    fn scale(k: f32, a: V) -> V {
        a.map(|x| k * x)
    }
    fn dot(a: V, b: V) -> f32 {
        a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
    }

    struct Sphere {
        centre: V,
        radius: f32,
        colour: V,
        mirror: f32,
    }

    fn spheres() -> Vec<Sphere> {
        let ring = (0..5).map(|i| {
            let angle = std::f32::consts::FRAC_PI_3 * i as f32;
            Sphere {
                centre: [2.3 * angle.cos(), 0.7, 2.3 * angle.sin() + 6.0],
                radius: 0.7,
                colour: [0.0, 2.1, 4.2].map(|shift| 0.55 + 0.4 * (angle + shift).cos()),
                mirror: 0.25,
            }
        });
        let middle = Sphere { centre: [0.0, 1.3, 6.0], radius: 1.3, colour: [0.9, 0.9, 0.95], mirror: 0.75 };
        ring.chain([middle]).collect()
    }

    fn hit(origin: V, direction: V, sphere: &Sphere) -> Option<f32> {
        let to = add(origin, scale(-1.0, sphere.centre));
        let b = dot(to, direction);
        let d = b * b - (dot(to, to) - sphere.radius * sphere.radius);
        let t = -b - if d < 0.0 { return None } else { d.sqrt() };
        (t > 0.001).then_some(t)
    }

    fn trace(spheres: &[Sphere], mut origin: V, mut direction: V) -> V {
        let sun = [0.48038, 0.76861, -0.42273];
        let mut light = [0.0; 3];
        let mut weight = 1.0;
        for _ in 0..4 {
            let ball = spheres
                .iter()
                .filter_map(|sphere| Some((hit(origin, direction, sphere)?, Some(sphere))))
                .min_by(|a, b| a.0.total_cmp(&b.0));
            let floor = (direction[1] < -0.0001).then(|| (-origin[1] / direction[1], None));
            let nearest = match (ball, floor) {
                (Some(ball), Some(floor)) => Some(if floor.0 < ball.0 { floor } else { ball }),
                (ball, floor) => ball.or(floor),
            };
            let Some((t, sphere)) = nearest.filter(|(t, _)| *t <= 60.0) else {
                let up = direction[1].clamp(0.0, 1.0);
                let sky = [0.75 - 0.55 * up, 0.85 - 0.45 * up, 1.0 - 0.2 * up];
                return add(light, scale(weight, sky));
            };
            let at = add(origin, scale(t, direction));
            let (normal, colour, mirror) = match sphere {
                Some(s) => (scale(1.0 / s.radius, add(at, scale(-1.0, s.centre))), s.colour, s.mirror),
                None => {
                    let odd = (at[0].floor() as i32 + at[2].floor() as i32) & 1 == 1;
                    ([0.0, 1.0, 0.0], if odd { [0.9, 0.88, 0.82] } else { [0.16, 0.2, 0.26] }, 0.12)
                }
            };
            let lifted = add(at, scale(0.002, normal));
            let shadow = spheres.iter().any(|sphere| hit(lifted, sun, sphere).is_some());
            let lit = if shadow { 0.0 } else { dot(normal, sun).max(0.0) };
            light = add(light, scale(weight * (1.0 - mirror) * (0.25 + 0.75 * lit), colour));
            weight *= mirror;
            direction = add(direction, scale(-2.0 * dot(direction, normal), normal));
            origin = lifted;
        }
        light
    }

    /// One pixel of the picture.
    pub(crate) fn render(x: usize, y: usize, width: usize, height: usize) -> [u8; 3] {
        let spheres = spheres();
        let mut sum = [0.0; 3];
        for (dx, dy) in [(0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75)] {
            let u = (x as f32 + dx - 0.5 * width as f32) / height as f32;
            let v = (y as f32 + dy - 0.5 * height as f32) / height as f32;
            let direction = [u, -v - 0.12, 1.0];
            let direction = scale(1.0 / dot(direction, direction).sqrt(), direction);
            sum = add(sum, trace(&spheres, [0.0, 2.0, 0.0], direction));
        }
        sum.map(|value| (255.0 * (0.25 * value).clamp(0.0, 1.0).sqrt() + 0.5) as u8)
    }

    /// The filter, on all pixels.
    pub(crate) fn sharpen(picture: &[u8], width: usize, height: usize) -> Vec<u8> {
        let pixel = |x: usize, y: usize, c: usize| i32::from(picture[4 * (y * width + x) + c]);
        let mut out = vec![255; picture.len()];
        for y in 0..height {
            for x in 0..width {
                for c in 0..3 {
                    let around = pixel(x.saturating_sub(1), y, c)
                        + pixel((x + 1).min(width - 1), y, c)
                        + pixel(x, y.saturating_sub(1), c)
                        + pixel(x, (y + 1).min(height - 1), c);
                    let value = (8 * pixel(x, y, c) - around + 2) / 4;
                    out[4 * (y * width + x) + c] = value.clamp(0, 255) as u8;
                }
            }
        }
        out
    }
}
