//! Reads, writes, copies and fills of images.

use paragpu_protocol::command::{
    CopyBufferToImage, CopyImage, CopyImageToBuffer, FillImage, Opcode, ReadImage, WriteImage,
};
use paragpu_protocol::fault::Fault;
use paragpu_protocol::frame::Tail;
use paragpu_protocol::types::Dim3;

use super::super::backend::{Area, Backend, ClError, HostBytes, ImageWork, Work};
use super::super::context::Context;
use super::super::objects::{ImageObject, handle};
use super::transfers::check_range;
use super::{require, reserved, size, sizes};
use crate::executor::message::INLINE_COPIES;

/// A box of an image, and how many bytes it has.
fn area<B: Backend>(image: &ImageObject<B>, origin: &Dim3, extent: &Dim3) -> Result<(Area, usize), Fault> {
    let area = Area { origin: sizes(origin)?, extent: sizes(extent)? };
    let bytes = image.layout.bytes_of(&area).ok_or(Fault::BadValue)?;
    Ok((area, bytes))
}

impl<B: Backend> Context<B> {
    pub(crate) fn read_image(&mut self, body: &ReadImage, tail: Tail<'_>) -> Result<(), Fault> {
        reserved(body.reserved)?;
        let image = self.objects.image(body.image.get())?;
        let (area, len) = area(&image, &body.origin, &body.extent)?;
        let to = self.regions.window(&body.dst)?;
        require(to.len() == len, Fault::BadValue)?;
        let mut plan = self.plan(&body.enqueue, tail.wait)?;
        plan.touch_image(&image);
        let work = handle(&image.host).map(|image| Work::Image(ImageWork::Read { image, area, to }));
        if self.submit(Opcode::ReadImage, plan, &[&image.context], work) {
            self.usage.read(len);
        }
        Ok(())
    }

    pub(crate) fn write_image(&mut self, body: &WriteImage, tail: Tail<'_>) -> Result<(), Fault> {
        reserved(body.reserved)?;
        let image = self.objects.image(body.image.get())?;
        let (area, len) = area(&image, &body.origin, &body.extent)?;
        let (from, copies) = if tail.data.is_empty() {
            (HostBytes::Window(self.regions.window(&body.src)?), 1)
        } else {
            require(body.src.is_none(), Fault::BadValue)?;
            (HostBytes::Heap(tail.data.into()), INLINE_COPIES)
        };
        require(from.len() == len, Fault::BadValue)?;
        let mut plan = self.plan(&body.enqueue, tail.wait)?;
        plan.touch_image(&image);
        let work = handle(&image.host).map(|image| Work::Image(ImageWork::Write { image, area, from }));
        if self.submit(Opcode::WriteImage, plan, &[&image.context], work) {
            self.usage.wrote(len, copies);
        }
        Ok(())
    }

    pub(crate) fn copy_image(&mut self, body: &CopyImage, tail: Tail<'_>) -> Result<(), Fault> {
        let (from, to) = (self.objects.image(body.src.get())?, self.objects.image(body.dst.get())?);
        let (source, _) = area(&from, &body.src_origin, &body.extent)?;
        let (target, _) = area(&to, &body.dst_origin, &body.extent)?;
        let mut plan = self.plan(&body.enqueue, tail.wait)?;
        plan.touch_image(&from);
        plan.touch_image(&to);
        let work = if from.record.format != to.record.format {
            Err(ClError::IMAGE_FORMAT_MISMATCH)
        } else if from.common.serial == to.common.serial && overlap(&source, &target) {
            Err(ClError::COPY_OVERLAP)
        } else {
            handle(&from.host).and_then(|from| {
                let to = handle(&to.host)?;
                let origins = (source.origin, target.origin);
                Ok(Work::Image(ImageWork::Copy { from, to, origins, extent: source.extent }))
            })
        };
        self.submit(Opcode::CopyImage, plan, &[&from.context, &to.context], work);
        Ok(())
    }

    pub(crate) fn fill_image(&mut self, body: &FillImage, tail: Tail<'_>) -> Result<(), Fault> {
        reserved(body.reserved)?;
        let image = self.objects.image(body.image.get())?;
        let (area, _) = area(&image, &body.origin, &body.extent)?;
        let color = tail.data.try_into().map_err(|_short| Fault::BadValue)?;
        let mut plan = self.plan(&body.enqueue, tail.wait)?;
        plan.touch_image(&image);
        let work = handle(&image.host).map(|image| Work::Image(ImageWork::Fill { image, area, color }));
        self.submit(Opcode::FillImage, plan, &[&image.context], work);
        Ok(())
    }

    pub(crate) fn copy_image_to_buffer(
        &mut self,
        body: &CopyImageToBuffer,
        tail: Tail<'_>,
    ) -> Result<(), Fault> {
        let (image, buffer) =
            (self.objects.image(body.image.get())?, self.objects.buffer(body.buffer.get())?);
        let (area, len) = area(&image, &body.origin, &body.extent)?;
        let offset = size(body.offset)?;
        check_range(&buffer, offset, len)?;
        let mut plan = self.plan(&body.enqueue, tail.wait)?;
        plan.touch_image(&image);
        plan.touch(&buffer);
        let contexts = [&*image.context, &*buffer.context];
        let work = handle(&image.host).and_then(|image| {
            let buffer = handle(&buffer.host)?;
            Ok(Work::Image(ImageWork::ToBuffer { image, area, buffer, offset }))
        });
        self.submit(Opcode::CopyImageToBuffer, plan, &contexts, work);
        Ok(())
    }

    pub(crate) fn copy_buffer_to_image(
        &mut self,
        body: &CopyBufferToImage,
        tail: Tail<'_>,
    ) -> Result<(), Fault> {
        let (image, buffer) =
            (self.objects.image(body.image.get())?, self.objects.buffer(body.buffer.get())?);
        let (area, len) = area(&image, &body.origin, &body.extent)?;
        let offset = size(body.offset)?;
        check_range(&buffer, offset, len)?;
        let mut plan = self.plan(&body.enqueue, tail.wait)?;
        plan.touch_image(&image);
        plan.touch(&buffer);
        let contexts = [&*image.context, &*buffer.context];
        let work = handle(&image.host).and_then(|image| {
            let buffer = handle(&buffer.host)?;
            Ok(Work::Image(ImageWork::FromBuffer { image, area, buffer, offset }))
        });
        self.submit(Opcode::CopyBufferToImage, plan, &contexts, work);
        Ok(())
    }
}

/// True if two boxes of one extent in one image share elements. Both lie in the image.
fn overlap(source: &Area, target: &Area) -> bool {
    (0..3).all(|dim| source.origin[dim].abs_diff(target.origin[dim]) < source.extent[dim])
}
