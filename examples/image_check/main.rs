//! Images and samplers: what a vGPU makes of them, compared with this CPU. Exit status 0 only if everything agrees.
//!
//!     paragpu run -- target/debug/examples/image_check

#[path = "../common/mod.rs"]
mod common;
mod filters;
mod memory;
mod transfers;

use std::ffi::c_void;
use std::ptr;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use common::Gpu;
use common::checks::{Check, Choice, numbers};
use opencl3::memory::{CL_MEM_COPY_HOST_PTR, CL_MEM_READ_WRITE, Image};
use opencl3::program::Program;
use opencl3::types::{CL_TRUE, cl_image_desc, cl_image_format, cl_mem_flags};

/// Compares what the vGPU does with images with what this CPU does.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    choice: Choice,
}

/// What every check gets.
struct Bench {
    gpu: Gpu,
    program: Program,
}

const CHECKS: &[Check<Bench>] = &[
    ("a picture is scaled through a linear sampler", filters::scaling),
    ("a picture is blurred through a sampler that clamps", filters::blurring),
    ("a volume is cut through a sampler", filters::cutting),
    ("a kernel writes to an array of pictures", filters::writing_an_array),
    ("fresh images are zero", memory::fresh_images),
    ("a region is mapped, changed and unmapped", memory::mapped_region),
    ("a region that is mapped for writing only", memory::write_only_map),
    ("an image lies in the application's memory", memory::application_memory),
    ("an image lies in a buffer, which it keeps", memory::image_in_buffer),
    ("every format goes both ways", transfers::every_format),
    ("boxes of volumes and arrays are copied", transfers::copies),
    ("boxes go to buffers and come back", transfers::through_buffers),
    ("boxes are filled with colours", transfers::fills),
    ("pitches of the application's are kept", transfers::pitches),
    ("a large image goes both ways", transfers::large_image),
    ("mistakes are errors and cost the context nothing", transfers::mistakes),
];

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let gpu = arguments.choice.open()?;
    ensure!(gpu.device.image_support()?, "the device has no images");
    let program = gpu.program(include_str!("kernels.cl"), "-cl-std=CL1.2")?;
    let bench = Bench { gpu, program };
    arguments.choice.make(CHECKS, &bench)
}

/// Bytes that look random and are the same in every run.
fn bytes(len: usize) -> Vec<u8> {
    numbers(len).into_iter().map(|number| number as u8).collect()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|float| f32::from_ne_bytes(*float)).collect()
}

fn to_bytes(floats: &[f32]) -> Vec<u8> {
    floats.iter().flat_map(|float| float.to_ne_bytes()).collect()
}

const fn format(order: u32, data_type: u32) -> cl_image_format {
    cl_image_format { image_channel_order: order, image_channel_data_type: data_type }
}

/// A description without pitches and without other memory. `sizes`: width, height, depth, images of an array.
fn description(kind: u32, [width, height, depth, images]: [usize; 4]) -> cl_image_desc {
    cl_image_desc {
        image_type: kind,
        image_width: width,
        image_height: height,
        image_depth: depth,
        image_array_size: images,
        image_row_pitch: 0,
        image_slice_pitch: 0,
        num_mip_levels: 0,
        num_samples: 0,
        buffer: ptr::null_mut(),
    }
}

impl Bench {
    /// An image with these contents, or none.
    fn image(&self, format: cl_image_format, desc: cl_image_desc, contents: Option<&[u8]>) -> Result<Image> {
        let flags = if contents.is_some() { CL_MEM_COPY_HOST_PTR } else { 0 };
        let at = contents.map_or(ptr::null_mut(), |contents| contents.as_ptr().cast_mut().cast());
        self.image_over(CL_MEM_READ_WRITE | flags, format, desc, at)
    }

    fn image_over(
        &self,
        flags: cl_mem_flags,
        format: cl_image_format,
        desc: cl_image_desc,
        memory: *mut c_void,
    ) -> Result<Image> {
        // SAFETY: the callers give as much memory as the description asks for, for as long as the flags ask for it.
        unsafe { Image::create(&self.gpu.context, flags, &format, &desc, memory) }
            .context("cannot create an image")
    }

    /// The elements of a box, without gaps.
    fn read(&self, image: &Image, origin: [usize; 3], region: [usize; 3]) -> Result<Vec<u8>> {
        let len = region.iter().product::<usize>() * image.element_size()?;
        let mut elements = vec![0xee; len];
        let to = elements.as_mut_ptr().cast();
        // SAFETY: blocking; pitches of 0 mean no gaps, and that is how much room there is.
        unsafe {
            self.gpu.queue.enqueue_read_image(image, CL_TRUE, origin.as_ptr(), region.as_ptr(), 0, 0, to, &[])
        }
        .context("cannot read an image")?;
        Ok(elements)
    }

    /// Writes the elements of a box, which lie without gaps.
    fn write(&self, image: &mut Image, origin: [usize; 3], region: [usize; 3], from: &[u8]) -> Result<()> {
        ensure!(from.len() == region.iter().product::<usize>() * image.element_size()?, "as many bytes");
        let (at, queue) = (from.as_ptr().cast_mut().cast(), &self.gpu.queue);
        // SAFETY: blocking; pitches of 0 mean no gaps, and that is how many bytes there are.
        unsafe { queue.enqueue_write_image(image, CL_TRUE, origin.as_ptr(), region.as_ptr(), 0, 0, at, &[]) }
            .context("cannot write an image")?;
        Ok(())
    }
}

/// An image on this CPU: its elements without gaps.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Model {
    size: [usize; 3],
    element: usize,
    bytes: Vec<u8>,
}

impl Model {
    fn new(size: [usize; 3], element: usize, bytes: Vec<u8>) -> Model {
        assert_eq!(bytes.len(), size.iter().product::<usize>() * element);
        Model { size, element, bytes }
    }

    /// First byte of each row of a box, and bytes in a row.
    fn rows(&self, origin: [usize; 3], region: [usize; 3]) -> (Vec<usize>, usize) {
        let [width, height, _] = self.size;
        let row = |y: usize, z: usize| {
            (((origin[2] + z) * height + origin[1] + y) * width + origin[0]) * self.element
        };
        let rows = (0..region[2]).flat_map(|z| (0..region[1]).map(move |y| (y, z)));
        (rows.map(|(y, z)| row(y, z)).collect(), region[0] * self.element)
    }

    fn get(&self, origin: [usize; 3], region: [usize; 3]) -> Vec<u8> {
        let (rows, len) = self.rows(origin, region);
        rows.into_iter().flat_map(|at| self.bytes[at..at + len].to_vec()).collect()
    }

    fn put(&mut self, origin: [usize; 3], region: [usize; 3], from: &[u8]) {
        let (rows, len) = self.rows(origin, region);
        for (at, row) in rows.into_iter().zip(from.chunks(len)) {
            self.bytes[at..at + len].copy_from_slice(row);
        }
    }
}
