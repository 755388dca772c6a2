//! Images and samplers: making them, and what formats there are.

use std::sync::Arc;

use paragpu_protocol::command::{CreateImage, CreateSampler, GetImageFormats};
use paragpu_protocol::fault::Fault;
use paragpu_protocol::image::{ImageFormat, ImageType};
use paragpu_protocol::limits::{MAX_IMAGE_DEPTH, MAX_INFO_BYTES};
use zerocopy::IntoBytes;

use super::super::backend::{
    Backend, ClError, ImageBase, ImageLayout, ImageLimits, ImageSpec, Outcome, SamplerSpec,
};
use super::super::context::Context;
use super::super::objects::{
    ContextObject, ImageObject, ImageParent, Object, SamplerObject, creation, handle,
};
use super::super::record::{ImageRecord, SamplerRecord};
use super::objects::{KERNEL_ACCESS, check_flags, split};
use super::{require, reserved, same_context, size};
use crate::sys::map::Window;

/// `CL_MEM_KERNEL_READ_AND_WRITE`, which is for asking about formats only.
const KERNEL_READ_AND_WRITE: u64 = 1 << 12;

/// `CL_ADDRESS_NONE` to `CL_ADDRESS_MIRRORED_REPEAT`.
const ADDRESSING_MODES: std::ops::RangeInclusive<u32> = 0x1130..=0x1134;
/// `CL_FILTER_NEAREST`, `CL_FILTER_LINEAR`.
const FILTER_MODES: std::ops::RangeInclusive<u32> = 0x1140..=0x1141;

impl<B: Backend> Context<B> {
    pub(crate) fn get_image_formats(&mut self, body: &GetImageFormats) -> Result<(), Fault> {
        let context = self.objects.context(body.context.get())?;
        let kind = ImageType::from_wire(body.kind.get()).ok_or(Fault::BadValue)?;
        let flags = body.flags.get();
        let known = KERNEL_ACCESS | KERNEL_READ_AND_WRITE;
        require(flags & !known == 0 && flags.count_ones() <= 1, Fault::BadValue)?;
        let dst = self.regions.window(&body.dst)?;
        let reply = self.reply(&body.reply)?;
        let formats =
            handle(&context.host).and_then(|context| self.backend.image_formats(context, flags, kind));
        match formats {
            Ok(mut formats) => {
                // What is not counted here cannot be used here.
                formats.retain(|format| format.element_size().is_some());
                formats.truncate(MAX_INFO_BYTES / size_of::<ImageFormat>());
                let answer = formats.as_bytes();
                let whole = dst.write(0, &answer[..answer.len().min(dst.len())]);
                debug_assert!(whole, "cut to what fits");
                reply.complete(Outcome::SUCCESS, answer.len() as u32);
            }
            Err(error) => reply.status(Err(error)),
        }
        Ok(())
    }

    pub(crate) fn create_image(&mut self, body: &CreateImage) -> Result<(), Fault> {
        let context = self.objects.context(body.create.parent.get())?;
        let spec = ImageSpec {
            flags: body.flags.get(),
            format: body.format,
            kind: ImageType::from_wire(body.kind.get()).ok_or(Fault::BadValue)?,
            shape: body.shape,
            row_pitch: size(body.row_pitch)?,
        };
        check_flags(spec.flags)?;
        let layout = spec.layout().ok_or(Fault::BadValue)?;
        let parent = self.image_parent(body.memory.get(), &context, &spec, &layout)?;
        let init = if body.init.is_none() { None } else { Some(self.regions.window(&body.init)?) };
        if let Some(init) = &init {
            require(parent.is_none() && init.len() == layout.bytes(), Fault::BadValue)?;
        }
        let reply = self.reply(&body.create.reply)?;
        let id = body.create.id.get();
        let common = self.objects.admit(id)?;
        // What shows other memory has none of its own.
        let own = if parent.is_none() { layout.bytes() as u64 } else { 0 };
        let (host, charge) = split(
            self.charged(own, || self.host_image(&context, &spec, &layout, parent.as_ref(), init.as_ref())),
        );
        if host.is_ok() && init.is_some() {
            self.usage.wrote(layout.bytes(), 1);
        }
        let outcome = creation(&host);
        let object = ImageObject {
            common,
            record: ImageRecord {
                context: context.common.serial,
                flags: spec.flags,
                format: (spec.format.order.get(), spec.format.data_type.get()),
                kind: spec.kind as u32,
                shape: [spec.shape.width, spec.shape.height, spec.shape.depth, spec.shape.array_size]
                    .map(|size| size.get()),
                row_pitch: spec.row_pitch as u64,
                parent: parent.as_ref().map(ImageParent::serial),
            },
            context,
            parent,
            layout,
            _charge: charge,
            host,
        };
        self.objects.insert(id, Object::Image(Arc::new(object)));
        reply.status(outcome);
        Ok(())
    }

    /// The memory that an image is to have instead of its own; long enough for it.
    fn image_parent(
        &self,
        id: u32,
        context: &ContextObject<B>,
        spec: &ImageSpec,
        layout: &ImageLayout,
    ) -> Result<Option<ImageParent<B>>, Fault> {
        let needs_buffer = spec.kind == ImageType::Image1dBuffer;
        let may_have_one = needs_buffer || spec.kind == ImageType::Image2d;
        if id == 0 {
            require(!needs_buffer && spec.row_pitch == 0, Fault::BadValue)?;
            return Ok(None);
        }
        require(may_have_one, Fault::BadValue)?;
        if let Ok(image) = self.objects.image(id) {
            let same = image.layout == *layout && image.record.kind == spec.kind as u32;
            require(!needs_buffer && same && spec.row_pitch == 0, Fault::BadValue)?;
            require(same_context(&image.context, context), Fault::BadValue)?;
            return Ok(Some(ImageParent::Image(image)));
        }
        let buffer = self.objects.buffer(id)?;
        require(same_context(&buffer.context, context), Fault::BadValue)?;
        require(!needs_buffer || spec.row_pitch == 0, Fault::BadValue)?;
        let row_pitch = layout.row_pitch(spec.row_pitch).ok_or(Fault::BadValue)?;
        let bytes = row_pitch.checked_mul(layout.extent[1]).ok_or(Fault::BadValue)?;
        require(bytes as u64 <= buffer.record.size, Fault::BadValue)?;
        Ok(Some(ImageParent::Buffer(buffer)))
    }

    fn host_image(
        &self,
        context: &ContextObject<B>,
        spec: &ImageSpec,
        layout: &ImageLayout,
        parent: Option<&ImageParent<B>>,
        init: Option<&Window>,
    ) -> Result<B::Image, ClError> {
        let host = handle(&context.host)?;
        let devices = context.devices.iter().filter_map(|device| device.host.as_ref().ok());
        let images: Vec<ImageLimits> = devices.filter_map(|device| device.limits.images).collect();
        if images.is_empty() {
            return Err(ClError::INVALID_OPERATION);
        }
        if !images.iter().any(|limits| limits.allow(spec.kind, &spec.shape)) {
            return Err(ClError::INVALID_IMAGE_SIZE);
        }
        let base = match parent {
            None => {
                if layout.bytes() as u64 > context.max_alloc() {
                    return Err(ClError::ALLOCATION_FAILURE);
                }
                ImageBase::Own(init)
            }
            Some(ImageParent::Buffer(buffer)) => ImageBase::Buffer(handle(&buffer.host)?),
            Some(ImageParent::Image(image)) if image.depth() >= MAX_IMAGE_DEPTH => {
                return Err(ClError::OUT_OF_RESOURCES);
            }
            Some(ImageParent::Image(image)) => ImageBase::Image(handle(&image.host)?),
        };
        self.backend.create_image(host, spec, base)
    }

    pub(crate) fn create_sampler(&mut self, body: &CreateSampler) -> Result<(), Fault> {
        reserved(body.reserved)?;
        let context = self.objects.context(body.create.parent.get())?;
        let (normalized, addressing, filter) =
            (body.normalized.get(), body.addressing.get(), body.filter.get());
        require(normalized <= 1, Fault::BadValue)?;
        require(ADDRESSING_MODES.contains(&addressing) && FILTER_MODES.contains(&filter), Fault::BadValue)?;
        let reply = self.reply(&body.create.reply)?;
        let id = body.create.id.get();
        let common = self.objects.admit(id)?;
        let spec = SamplerSpec { normalized: normalized == 1, addressing, filter };
        let host = handle(&context.host).and_then(|context| self.backend.create_sampler(context, spec));
        let outcome = creation(&host);
        let record =
            SamplerRecord { context: context.common.serial, normalized: spec.normalized, addressing, filter };
        let object = SamplerObject { common, context, record, host };
        self.objects.insert(id, Object::Sampler(Arc::new(object)));
        reply.status(outcome);
        Ok(())
    }
}
