//! Where images have their memory: their own, mapped, the application's, a buffer's.

use std::ffi::c_void;
use std::ptr;

use anyhow::{Context as _, Result, ensure};
use opencl3::memory::{
    CL_MAP_READ, CL_MAP_WRITE, CL_MAP_WRITE_INVALIDATE_REGION, CL_MEM_OBJECT_IMAGE1D,
    CL_MEM_OBJECT_IMAGE1D_ARRAY, CL_MEM_OBJECT_IMAGE1D_BUFFER, CL_MEM_OBJECT_IMAGE2D,
    CL_MEM_OBJECT_IMAGE2D_ARRAY, CL_MEM_OBJECT_IMAGE3D, CL_MEM_READ_WRITE, CL_MEM_USE_HOST_PTR, CL_R,
    CL_RGBA, CL_UNSIGNED_INT8, CL_UNSIGNED_INT32, ClMem, Image,
};
use opencl3::types::{CL_TRUE, cl_map_flags};

use super::{Bench, Model, bytes, description, format};

/// A region as it is mapped, until it is unmapped.
struct Mapped<'a> {
    bench: &'a Bench,
    image: &'a Image,
    at: *mut c_void,
    row_pitch: usize,
    slice_pitch: usize,
    /// Bytes in a row, rows, slices.
    region: [usize; 3],
}

impl<'a> Mapped<'a> {
    fn new(
        bench: &'a Bench,
        image: &'a Image,
        flags: cl_map_flags,
        origin: [usize; 3],
        region: [usize; 3],
    ) -> Result<Mapped<'a>> {
        let (mut at, mut row_pitch, mut slice_pitch) = (ptr::null_mut(), 0, 0);
        // SAFETY: blocking; the pointers are to numbers and a pointer.
        unsafe {
            bench.gpu.queue.enqueue_map_image(
                image,
                CL_TRUE,
                flags,
                origin.as_ptr(),
                region.as_ptr(),
                &mut row_pitch,
                &mut slice_pitch,
                &mut at,
                &[],
            )
        }
        .context("cannot map an image")?;
        let region = [region[0] * image.element_size()?, region[1], region[2]];
        Ok(Mapped { bench, image, at, row_pitch, slice_pitch, region })
    }

    /// First byte of each row.
    fn rows(&self) -> Vec<*mut u8> {
        let at =
            |y: usize, z: usize| self.at.cast::<u8>().wrapping_add(z * self.slice_pitch + y * self.row_pitch);
        (0..self.region[2]).flat_map(|z| (0..self.region[1]).map(move |y| at(y, z))).collect()
    }

    fn get(&self) -> Vec<u8> {
        let len = self.region[0];
        // SAFETY: the rows are mapped, as far apart as the driver said.
        self.rows()
            .into_iter()
            .flat_map(|row| unsafe { std::slice::from_raw_parts(row, len) }.to_vec())
            .collect()
    }

    fn put(&mut self, bytes: &[u8]) {
        for (row, from) in self.rows().into_iter().zip(bytes.chunks(self.region[0])) {
            // SAFETY: as above, and mapped for writing.
            unsafe { ptr::copy_nonoverlapping(from.as_ptr(), row, from.len()) };
        }
    }

    fn unmap(self) -> Result<()> {
        // SAFETY: mapped, and not used any more.
        unsafe { self.bench.gpu.queue.enqueue_unmap_mem_object(self.image.get(), self.at, &[]) }
            .context("cannot unmap an image")?;
        Ok(())
    }
}

pub(crate) fn fresh_images(bench: &Bench) -> Result<()> {
    for (kind, sizes, region) in [
        (CL_MEM_OBJECT_IMAGE1D, [300, 0, 0, 0], [300, 1, 1]),
        (CL_MEM_OBJECT_IMAGE1D_ARRAY, [30, 0, 0, 9], [30, 9, 1]),
        (CL_MEM_OBJECT_IMAGE2D, [30, 20, 0, 0], [30, 20, 1]),
        (CL_MEM_OBJECT_IMAGE2D_ARRAY, [30, 20, 0, 3], [30, 20, 3]),
        (CL_MEM_OBJECT_IMAGE3D, [30, 20, 5, 0], [30, 20, 5]),
    ] {
        // Twice, as memory that was just given back is the next that is handed out.
        for _ in 0..2 {
            let mut image = bench.image(format(CL_RGBA, CL_UNSIGNED_INT8), description(kind, sizes), None)?;
            let fresh = bench.read(&image, [0; 3], region)?;
            ensure!(fresh.iter().all(|byte| *byte == 0), "an image of type {kind:#x} has old contents");
            bench.write(&mut image, [0; 3], region, &bytes(fresh.len()))?;
        }
    }
    Ok(())
}

pub(crate) fn mapped_region(bench: &Bench) -> Result<()> {
    for (kind, sizes, size) in [
        (CL_MEM_OBJECT_IMAGE2D, [20, 12, 0, 0], [20, 12, 1]),
        (CL_MEM_OBJECT_IMAGE2D_ARRAY, [20, 12, 0, 5], [20, 12, 5]),
        (CL_MEM_OBJECT_IMAGE3D, [20, 12, 5, 0], [20, 12, 5]),
    ] {
        let mut model = Model::new(size, 4, bytes(4 * size.iter().product::<usize>()));
        let image =
            bench.image(format(CL_RGBA, CL_UNSIGNED_INT8), description(kind, sizes), Some(&model.bytes))?;
        let (origin, region) = ([3, 2, size[2] / 2], [11, 7, size[2] - size[2] / 2]);
        let mut mapped = Mapped::new(bench, &image, CL_MAP_READ | CL_MAP_WRITE, origin, region)?;
        ensure!(mapped.get() == model.get(origin, region), "what is mapped of type {kind:#x} differs");
        let changed: Vec<u8> = mapped.get().into_iter().map(|byte| byte.wrapping_mul(3)).collect();
        mapped.put(&changed);
        mapped.unmap()?;
        model.put(origin, region, &changed);
        ensure!(
            bench.read(&image, [0; 3], size)? == model.bytes,
            "what was written to type {kind:#x} differs"
        );
    }
    Ok(())
}

pub(crate) fn write_only_map(bench: &Bench) -> Result<()> {
    let size = [16, 8, 1];
    let mut model = Model::new(size, 4, bytes(512));
    let desc = description(CL_MEM_OBJECT_IMAGE2D, [16, 8, 0, 0]);
    let image = bench.image(format(CL_RGBA, CL_UNSIGNED_INT8), desc, Some(&model.bytes))?;
    let (origin, region) = ([1, 1, 0], [4, 3, 1]);
    // Everything that is not written may be lost.
    let mut mapped = Mapped::new(bench, &image, CL_MAP_WRITE_INVALIDATE_REGION, origin, region)?;
    mapped.put(&[7; 48]);
    mapped.unmap()?;
    model.put(origin, region, &[7; 48]);
    // Nothing that is not written may be lost.
    Mapped::new(bench, &image, CL_MAP_WRITE, [8, 0, 0], [8, 8, 1])?.unmap()?;
    ensure!(bench.read(&image, [0; 3], size)? == model.bytes, "contents differ");
    Ok(())
}

pub(crate) fn application_memory(bench: &Bench) -> Result<()> {
    let (size, pitch) = ([10, 6, 1], 48);
    let mut memory = bytes(pitch * 6);
    let packed = memory.chunks(pitch).flat_map(|row| row[..40].to_vec()).collect();
    let mut model = Model::new(size, 4, packed);
    let gaps = |memory: &[u8]| memory.chunks(pitch).flat_map(|row| row[40..].to_vec()).collect::<Vec<u8>>();
    let before = gaps(&memory);
    let mut desc = description(CL_MEM_OBJECT_IMAGE2D, [10, 6, 0, 0]);
    desc.image_row_pitch = pitch;
    let (flags, first) = (CL_MEM_READ_WRITE | CL_MEM_USE_HOST_PTR, memory.as_mut_ptr());
    let mut image = bench.image_over(flags, format(CL_RGBA, CL_UNSIGNED_INT8), desc, first.cast())?;
    ensure!(image.row_pitch()? == pitch, "the row pitch is {}", image.row_pitch()?);
    ensure!(bench.read(&image, [0; 3], size)? == model.bytes, "the contents differ");
    let (origin, region) = ([2, 1, 0], [5, 4, 1]);
    bench.write(&mut image, origin, region, &[9; 80])?;
    model.put(origin, region, &[9; 80]);
    let mut mapped = Mapped::new(bench, &image, CL_MAP_READ | CL_MAP_WRITE, [1, 2, 0], [8, 3, 1])?;
    ensure!(mapped.at.cast() == first.wrapping_add(2 * pitch + 4), "mapped elsewhere");
    ensure!(mapped.row_pitch == pitch, "mapped with a row pitch of {}", mapped.row_pitch);
    ensure!(mapped.get() == model.get([1, 2, 0], [8, 3, 1]), "what is mapped differs");
    mapped.put(&[5; 96]);
    mapped.unmap()?;
    model.put([1, 2, 0], [8, 3, 1], &[5; 96]);
    ensure!(bench.read(&image, [0; 3], size)? == model.bytes, "what was written while mapped differs");
    drop(image);
    ensure!(gaps(&memory) == before, "bytes between the rows were written");
    Ok(())
}

pub(crate) fn image_in_buffer(bench: &Bench) -> Result<()> {
    let count = 1000;
    let buffer = bench.gpu.upload(&vec![1_u32; count + 1])?;
    let mut desc = description(CL_MEM_OBJECT_IMAGE1D_BUFFER, [count, 0, 0, 0]);
    desc.buffer = buffer.get();
    let image =
        bench.image_over(CL_MEM_READ_WRITE, format(CL_R, CL_UNSIGNED_INT32), desc, ptr::null_mut())?;
    ensure!(image.buffer()? == buffer.get(), "another buffer");
    let factor = bench.gpu.upload(&[3_u32])?;
    // SAFETY: an image in a buffer, and a buffer of a uint, as the kernel declares.
    bench.gpu.run(&bench.program, "count", &[count], &[], |call| unsafe {
        call.set_arg(&image).set_arg(&factor);
    })?;
    let mut expected: Vec<u32> = (0..count as u32).map(|at| at * 3).chain([1]).collect();
    ensure!(bench.gpu.download(&buffer, count + 1)? == expected, "the buffer's elements differ");
    drop(buffer);
    expected.pop();
    let expected: Vec<u8> = expected.into_iter().flat_map(u32::to_ne_bytes).collect();
    ensure!(bench.read(&image, [0; 3], [count, 1, 1])? == expected, "the image's elements differ");
    Ok(())
}
