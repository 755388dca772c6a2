//! Elements to and from memory, buffers and other images.

use std::ptr;

use anyhow::{Context as _, Result, ensure};
use opencl3::error_codes::{
    CL_IMAGE_FORMAT_MISMATCH, CL_INVALID_IMAGE_DESCRIPTOR, CL_INVALID_IMAGE_FORMAT_DESCRIPTOR,
    CL_INVALID_IMAGE_SIZE, CL_INVALID_VALUE, CL_MEM_COPY_OVERLAP,
};
use opencl3::memory::{
    CL_FLOAT, CL_MEM_OBJECT_IMAGE1D_ARRAY, CL_MEM_OBJECT_IMAGE2D, CL_MEM_OBJECT_IMAGE2D_ARRAY,
    CL_MEM_OBJECT_IMAGE3D, CL_MEM_READ_WRITE, CL_R, CL_RGBA, CL_SIGNED_INT16, CL_UNORM_INT8,
    CL_UNSIGNED_INT8, CL_UNSIGNED_INT32, Image,
};
use opencl3::types::{CL_TRUE, cl_image_format};

use super::{Bench, Model, bytes, description, format};

const BYTES: cl_image_format = format(CL_RGBA, CL_UNSIGNED_INT8);

pub(crate) fn every_format(bench: &Bench) -> Result<()> {
    for kind in [CL_MEM_OBJECT_IMAGE2D, CL_MEM_OBJECT_IMAGE3D] {
        let formats = bench.gpu.context.get_supported_image_formats(CL_MEM_READ_WRITE, kind)?;
        ensure!(!formats.is_empty(), "no formats");
        for format in formats {
            let (sizes, region) = match kind {
                CL_MEM_OBJECT_IMAGE2D => ([13, 9, 0, 0], [13, 9, 1]),
                _ => ([7, 5, 3, 0], [7, 5, 3]),
            };
            let mut image = bench.image(format, description(kind, sizes), None)?;
            let elements = bytes(region.iter().product::<usize>() * image.element_size()?);
            bench.write(&mut image, [0; 3], region, &elements)?;
            ensure!(bench.read(&image, [0; 3], region)? == elements, "{format:?} comes back different");
            let given = bench.image(format, description(kind, sizes), Some(&elements))?;
            ensure!(bench.read(&given, [0; 3], region)? == elements, "{format:?} is created different");
        }
    }
    Ok(())
}

/// Copies a box both on the vGPU and here.
fn copy(
    bench: &Bench,
    (from, source): (&Image, &Model),
    (to, target): (&mut Image, &mut Model),
    [from_origin, to_origin, region]: [[usize; 3]; 3],
) -> Result<()> {
    let (origins, extent) = ((from_origin.as_ptr(), to_origin.as_ptr()), region.as_ptr());
    // SAFETY: three numbers each.
    unsafe { bench.gpu.queue.enqueue_copy_image(from, to, origins.0, origins.1, extent, &[]) }
        .context("cannot copy an image")?;
    target.put(to_origin, region, &source.get(from_origin, region));
    Ok(())
}

pub(crate) fn copies(bench: &Bench) -> Result<()> {
    let model = |size: [usize; 3]| Model::new(size, 4, bytes(4 * size.iter().product::<usize>()));
    let mut volume = model([12, 10, 6]);
    let mut array = Model::new([12, 10, 4], 4, vec![0; 4 * 480]);
    let mut lines = Model::new([12, 4, 1], 4, vec![0; 4 * 48]);
    let mut d_volume =
        bench.image(BYTES, description(CL_MEM_OBJECT_IMAGE3D, [12, 10, 6, 0]), Some(&volume.bytes))?;
    let mut d_array = bench.image(BYTES, description(CL_MEM_OBJECT_IMAGE2D_ARRAY, [12, 10, 0, 4]), None)?;
    let mut d_lines = bench.image(BYTES, description(CL_MEM_OBJECT_IMAGE1D_ARRAY, [12, 0, 0, 4]), None)?;
    let to_array = [[2, 3, 1], [1, 1, 1], [9, 5, 3]];
    copy(bench, (&d_volume, &volume), (&mut d_array, &mut array), to_array)?;
    let to_lines = [[0, 2, 2], [0, 1, 0], [12, 3, 1]];
    copy(bench, (&d_array, &array), (&mut d_lines, &mut lines), to_lines)?;
    let back = [[1, 0, 0], [3, 5, 5], [7, 4, 1]];
    copy(bench, (&d_lines, &lines), (&mut d_volume, &mut volume), back)?;
    for (name, image, model) in
        [("volume", &d_volume, &volume), ("array", &d_array, &array), ("array of lines", &d_lines, &lines)]
    {
        ensure!(bench.read(image, [0; 3], model.size)? == model.bytes, "the {name} differs");
    }
    Ok(())
}

pub(crate) fn through_buffers(bench: &Bench) -> Result<()> {
    let queue = &bench.gpu.queue;
    let size = [15, 11, 4];
    let mut model = Model::new(size, 4, bytes(4 * 660));
    let desc = description(CL_MEM_OBJECT_IMAGE3D, [15, 11, 4, 0]);
    let mut image = bench.image(BYTES, desc, Some(&model.bytes))?;
    let mut buffer = bench.gpu.upload(&[0xcc_u8; 1000])?;
    let (origin, other, region) = ([4, 5, 1], [0, 0, 2], [7, 5, 2]);
    // SAFETY: three numbers each; the queue is in-order.
    unsafe {
        queue.enqueue_copy_image_to_buffer(
            &image,
            &mut buffer,
            origin.as_ptr(),
            region.as_ptr(),
            100,
            &[],
        )?;
        queue.enqueue_copy_buffer_to_image(&buffer, &mut image, 96, other.as_ptr(), region.as_ptr(), &[])?;
    }
    let mut expected = vec![0xcc; 1000];
    expected[100..380].copy_from_slice(&model.get(origin, region));
    ensure!(bench.gpu.download(&buffer, 1000)? == expected, "the buffer differs");
    model.put(other, region, &expected[96..376]);
    ensure!(bench.read(&image, [0; 3], size)? == model.bytes, "the image differs");
    Ok(())
}

/// Fills a box, and returns all of the image.
fn filled(bench: &Bench, format: cl_image_format, color: [[u8; 4]; 4]) -> Result<(Model, Vec<u8>)> {
    let desc = description(CL_MEM_OBJECT_IMAGE2D_ARRAY, [9, 8, 0, 3]);
    let mut image = bench.image(format, desc, None)?;
    let element = image.element_size()?;
    let (origin, region) = ([2, 1, 1], [5, 6, 2]);
    // SAFETY: three numbers each, and the four words of a colour.
    unsafe {
        let color = color.as_ptr().cast();
        bench.gpu.queue.enqueue_fill_image(&mut image, color, origin.as_ptr(), region.as_ptr(), &[])
    }
    .context("cannot fill an image")?;
    let mut model = Model::new([9, 8, 3], element, vec![0; 216 * element]);
    let elements = bench.read(&image, [0; 3], model.size)?;
    let one = elements[((8 + 1) * 9 + 2) * element..][..element].to_vec();
    model.put(origin, region, &one.repeat(60));
    ensure!(elements == model.bytes, "something else was filled");
    Ok((model, one))
}

pub(crate) fn fills(bench: &Bench) -> Result<()> {
    let words = [1.0_f32, 0.0, -1.0, 0.25].map(f32::to_ne_bytes);
    let (_, element) = filled(bench, format(CL_RGBA, CL_FLOAT), words)?;
    ensure!(element == words.concat(), "floats differ");
    let (_, element) = filled(bench, format(CL_RGBA, CL_UNORM_INT8), words)?;
    // Out of range is the nearest in range; a quarter is between two.
    ensure!(element[..3] == [255, 0, 0] && matches!(element[3], 63 | 64), "colours differ: {element:?}");
    let words = [7_i32, -8, 40_000, -40_000].map(i32::to_ne_bytes);
    let (_, element) = filled(bench, format(CL_RGBA, CL_SIGNED_INT16), words)?;
    let shorts = [7_i16, -8, i16::MAX, i16::MIN].map(i16::to_ne_bytes).concat();
    ensure!(element == shorts, "integers differ: {element:?}");
    Ok(())
}

pub(crate) fn pitches(bench: &Bench) -> Result<()> {
    let (region, row_pitch, slice_pitch) = ([6, 4, 3], 32, 160);
    let memory = bytes(slice_pitch * 3);
    let desc = description(CL_MEM_OBJECT_IMAGE3D, [8, 5, 4, 0]);
    let mut image = bench.image(BYTES, desc, None)?;
    let mut back = vec![0xee_u8; memory.len()];
    let origin = [1_usize, 1, 1];
    let (at, size) = (origin.as_ptr(), region.as_ptr());
    let (from, to) = (memory.as_ptr().cast_mut().cast(), back.as_mut_ptr().cast());
    let queue = &bench.gpu.queue;
    // SAFETY: blocking; the memory has three slices of that pitch.
    unsafe {
        queue.enqueue_write_image(&mut image, CL_TRUE, at, size, row_pitch, slice_pitch, from, &[])?;
        queue.enqueue_read_image(&image, CL_TRUE, at, size, row_pitch, slice_pitch, to, &[])?;
    }
    let rows = (0..3).flat_map(|z| (0..4).map(move |y| z * slice_pitch + y * row_pitch));
    let mut expected = vec![0xee; memory.len()];
    let mut packed = Vec::new();
    for row in rows {
        expected[row..row + 24].copy_from_slice(&memory[row..row + 24]);
        packed.extend_from_slice(&memory[row..row + 24]);
    }
    ensure!(back == expected, "the memory differs");
    ensure!(bench.read(&image, origin, region)? == packed, "the image differs");
    Ok(())
}

pub(crate) fn large_image(bench: &Bench) -> Result<()> {
    let (width, height) = (2000_usize, 1500_usize);
    let contents: Vec<u8> = (0..16 * width * height).map(|at| (at / 16 * 7 + at) as u8).collect();
    let desc = description(CL_MEM_OBJECT_IMAGE2D, [width, height, 0, 0]);
    let mut image = bench.image(format(CL_RGBA, CL_UNSIGNED_INT32), desc, None)?;
    bench.write(&mut image, [0; 3], [width, height, 1], &contents)?;
    ensure!(bench.read(&image, [0; 3], [width, height, 1])? == contents, "48 MB come back different");
    Ok(())
}

/// Each of these is for the driver to refuse: what got through would be a fault to the host, and end the context.
pub(crate) fn mistakes(bench: &Bench) -> Result<()> {
    let status = |format, desc| {
        // SAFETY: the description is complete, and there is no memory.
        let image =
            unsafe { Image::create(&bench.gpu.context, CL_MEM_READ_WRITE, &format, &desc, ptr::null_mut()) };
        image.err().map(|error| error.0)
    };
    let kind = CL_MEM_OBJECT_IMAGE2D;
    for (what, got, expected) in [
        ("no width", status(BYTES, description(kind, [0, 4, 0, 0])), CL_INVALID_IMAGE_DESCRIPTOR),
        ("no image", status(BYTES, description(0x10f0, [4, 4, 0, 0])), CL_INVALID_IMAGE_DESCRIPTOR),
        ("too wide", status(BYTES, description(kind, [1 << 40, 4, 0, 0])), CL_INVALID_IMAGE_SIZE),
        ("too much", status(BYTES, description(kind, [usize::MAX, usize::MAX, 0, 0])), CL_INVALID_IMAGE_SIZE),
        (
            "no format",
            status(format(CL_RGBA, 0x1234), description(kind, [4, 4, 0, 0])),
            CL_INVALID_IMAGE_FORMAT_DESCRIPTOR,
        ),
    ] {
        ensure!(got == Some(expected), "{what}: {got:?}");
    }
    let contents = bytes(4 * 16);
    let mut image = bench.image(BYTES, description(kind, [4, 4, 0, 0]), Some(&contents))?;
    let mut other = bench.image(format(CL_R, CL_UNSIGNED_INT32), description(kind, [4, 4, 0, 0]), None)?;
    let mut room = [0_u8; 64];
    for (origin, region) in [
        ([1_usize, 0, 0], [4_usize, 4, 1]),
        ([0, 0, 1], [1, 1, 1]),
        ([0, 0, 0], [4, 0, 1]),
        ([usize::MAX, 0, 0], [2, 1, 1]),
    ] {
        let (at, size, to) = (origin.as_ptr(), region.as_ptr(), room.as_mut_ptr().cast());
        // SAFETY: more room than any of these would take if it were in the image.
        let read = unsafe { bench.gpu.queue.enqueue_read_image(&image, CL_TRUE, at, size, 0, 0, to, &[]) };
        let got = read.err().map(|error| error.0);
        ensure!(got == Some(CL_INVALID_VALUE), "a box at {origin:?} of {region:?}: {got:?}");
    }
    let copied = |from: &Image, to: &mut Image| {
        let (origin, one, region) = ([0_usize; 3], [1_usize, 1, 0], [2_usize, 2, 1]);
        let (origins, extent) = ((origin.as_ptr(), one.as_ptr()), region.as_ptr());
        // SAFETY: three numbers each.
        let event =
            unsafe { bench.gpu.queue.enqueue_copy_image(from, to, origins.0, origins.1, extent, &[]) };
        event.err().map(|error| error.0)
    };
    let got = copied(&image, &mut other);
    ensure!(got == Some(CL_IMAGE_FORMAT_MISMATCH), "a copy between formats: {got:?}");
    // SAFETY: the same handle once more; it is not released twice.
    let same = std::mem::ManuallyDrop::new(Image::new(opencl3::memory::ClMem::get(&image)));
    let got = copied(&same, &mut image);
    ensure!(got == Some(CL_MEM_COPY_OVERLAP), "a copy onto itself: {got:?}");
    ensure!(bench.read(&image, [0; 3], [4, 4, 1])? == contents, "the image has changed");
    Ok(())
}
