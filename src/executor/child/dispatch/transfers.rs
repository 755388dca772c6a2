//! Reads, writes, copies and fills.

use paragpu_protocol::command::{
    CopyBuffer, CopyBufferRect, FillBuffer, Opcode, ReadBuffer, ReadBufferRect, WriteBuffer, WriteBufferRect,
};
use paragpu_protocol::fault::Fault;
use paragpu_protocol::frame::Tail;
use paragpu_protocol::types::Dim3;
use zerocopy::little_endian::U64;

use super::super::backend::{Backend, ClError, HostBytes, Rect, Work};
use super::super::context::Context;
use super::super::objects::{BufferObject, handle};
use super::{require, reserved, size, sizes};
use crate::executor::message::INLINE_COPIES;

pub(super) fn check_range<B: Backend>(
    buffer: &BufferObject<B>,
    offset: usize,
    len: usize,
) -> Result<(), Fault> {
    let end = offset.checked_add(len).ok_or(Fault::BadValue)?;
    require(end as u64 <= buffer.record.size, Fault::BadValue)
}

fn rect(origin: &Dim3, row_pitch: U64, slice_pitch: U64) -> Result<Rect, Fault> {
    Ok(Rect { origin: sizes(origin)?, row_pitch: size(row_pitch)?, slice_pitch: size(slice_pitch)? })
}

/// Checks a rectangle against its buffer, and returns how many bytes it has.
fn check_rect<B: Backend>(buffer: &BufferObject<B>, rect: &Rect, extent: [usize; 3]) -> Result<usize, Fault> {
    let (_, end) = rect.bounds(extent).ok_or(Fault::BadValue)?;
    require(end as u64 <= buffer.record.size, Fault::BadValue)?;
    let area = extent[0].checked_mul(extent[1]).ok_or(Fault::BadValue)?;
    area.checked_mul(extent[2]).ok_or(Fault::BadValue)
}

impl<B: Backend> Context<B> {
    pub(crate) fn read_buffer(&mut self, body: &ReadBuffer, tail: Tail<'_>) -> Result<(), Fault> {
        reserved(body.reserved)?;
        let buffer = self.objects.buffer(body.buffer.get())?;
        let offset = size(body.offset)?;
        let to = self.regions.window(&body.dst)?;
        let len = to.len();
        check_range(&buffer, offset, len)?;
        let mut plan = self.plan(&body.enqueue, tail.wait)?;
        plan.touch(&buffer);
        let work = handle(&buffer.host).map(|buffer| Work::Read { buffer, offset, to });
        if self.submit(Opcode::ReadBuffer, plan, &[&buffer.context], work) {
            self.usage.read(len);
        }
        Ok(())
    }

    pub(crate) fn write_buffer(&mut self, body: &WriteBuffer, tail: Tail<'_>) -> Result<(), Fault> {
        reserved(body.reserved)?;
        let buffer = self.objects.buffer(body.buffer.get())?;
        let offset = size(body.offset)?;
        let (from, copies) = if tail.data.is_empty() {
            (HostBytes::Window(self.regions.window(&body.src)?), 1)
        } else {
            require(body.src.is_none(), Fault::BadValue)?;
            (HostBytes::Heap(tail.data.into()), INLINE_COPIES)
        };
        let len = from.len();
        check_range(&buffer, offset, len)?;
        let mut plan = self.plan(&body.enqueue, tail.wait)?;
        plan.touch(&buffer);
        let work = handle(&buffer.host).map(|buffer| Work::Write { buffer, offset, from });
        if self.submit(Opcode::WriteBuffer, plan, &[&buffer.context], work) {
            self.usage.wrote(len, copies);
        }
        Ok(())
    }

    pub(crate) fn copy_buffer(&mut self, body: &CopyBuffer, tail: Tail<'_>) -> Result<(), Fault> {
        let (from, to) = (self.objects.buffer(body.src.get())?, self.objects.buffer(body.dst.get())?);
        let (from_offset, to_offset) = (size(body.src_offset)?, size(body.dst_offset)?);
        let len = size(body.size)?;
        check_range(&from, from_offset, len)?;
        check_range(&to, to_offset, len)?;
        let mut plan = self.plan(&body.enqueue, tail.wait)?;
        plan.touch(&from);
        plan.touch(&to);
        let work = match (&from.host, &to.host) {
            (Err(error), _) | (_, Err(error)) => Err(*error),
            _ if overlap(&from, from_offset, &to, to_offset, len) => Err(ClError::COPY_OVERLAP),
            (Ok(from), Ok(to)) => Ok(Work::Copy { from, to, offsets: (from_offset, to_offset), size: len }),
        };
        self.submit(Opcode::CopyBuffer, plan, &[&from.context, &to.context], work);
        Ok(())
    }

    pub(crate) fn fill_buffer(&mut self, body: &FillBuffer, tail: Tail<'_>) -> Result<(), Fault> {
        reserved(body.reserved)?;
        let buffer = self.objects.buffer(body.buffer.get())?;
        let (offset, len, pattern) = (size(body.offset)?, size(body.size)?, tail.data);
        // No longer than its opcode allows; that has been checked.
        require(pattern.len().is_power_of_two(), Fault::BadValue)?;
        let whole = offset.is_multiple_of(pattern.len()) && len.is_multiple_of(pattern.len());
        require(whole, Fault::BadValue)?;
        check_range(&buffer, offset, len)?;
        let mut plan = self.plan(&body.enqueue, tail.wait)?;
        plan.touch(&buffer);
        let work = handle(&buffer.host).map(|buffer| Work::Fill { buffer, pattern, offset, size: len });
        self.submit(Opcode::FillBuffer, plan, &[&buffer.context], work);
        Ok(())
    }

    pub(crate) fn read_buffer_rect(&mut self, body: &ReadBufferRect, tail: Tail<'_>) -> Result<(), Fault> {
        reserved(body.reserved)?;
        let buffer = self.objects.buffer(body.buffer.get())?;
        let rect = rect(&body.origin, body.row_pitch, body.slice_pitch)?;
        let extent = sizes(&body.extent)?;
        let len = check_rect(&buffer, &rect, extent)?;
        let to = self.regions.window(&body.dst)?;
        require(to.len() == len, Fault::BadValue)?;
        let mut plan = self.plan(&body.enqueue, tail.wait)?;
        plan.touch(&buffer);
        let work = handle(&buffer.host).map(|buffer| Work::ReadRect { buffer, rect, extent, to });
        if self.submit(Opcode::ReadBufferRect, plan, &[&buffer.context], work) {
            self.usage.read(len);
        }
        Ok(())
    }

    pub(crate) fn write_buffer_rect(&mut self, body: &WriteBufferRect, tail: Tail<'_>) -> Result<(), Fault> {
        reserved(body.reserved)?;
        let buffer = self.objects.buffer(body.buffer.get())?;
        let rect = rect(&body.origin, body.row_pitch, body.slice_pitch)?;
        let extent = sizes(&body.extent)?;
        let len = check_rect(&buffer, &rect, extent)?;
        let from = self.regions.window(&body.src)?;
        require(from.len() == len, Fault::BadValue)?;
        let from = HostBytes::Window(from);
        let mut plan = self.plan(&body.enqueue, tail.wait)?;
        plan.touch(&buffer);
        let work = handle(&buffer.host).map(|buffer| Work::WriteRect { buffer, rect, extent, from });
        if self.submit(Opcode::WriteBufferRect, plan, &[&buffer.context], work) {
            self.usage.wrote(len, 1);
        }
        Ok(())
    }

    pub(crate) fn copy_buffer_rect(&mut self, body: &CopyBufferRect, tail: Tail<'_>) -> Result<(), Fault> {
        let (from, to) = (self.objects.buffer(body.src.get())?, self.objects.buffer(body.dst.get())?);
        let source = rect(&body.src_origin, body.src_row_pitch, body.src_slice_pitch)?;
        let target = rect(&body.dst_origin, body.dst_row_pitch, body.dst_slice_pitch)?;
        let extent = sizes(&body.extent)?;
        check_rect(&from, &source, extent)?;
        check_rect(&to, &target, extent)?;
        let mut plan = self.plan(&body.enqueue, tail.wait)?;
        plan.touch(&from);
        plan.touch(&to);
        // Whether two rectangles of one buffer overlap is left to the driver, which must look anyway.
        let work = handle(&from.host).and_then(|from| {
            Ok(Work::CopyRect { from, to: handle(&to.host)?, rects: (source, target), extent })
        });
        self.submit(Opcode::CopyBufferRect, plan, &[&from.context, &to.context], work);
        Ok(())
    }
}

/// True if the two ranges share bytes, sub-buffers of one buffer included. Both have been checked.
fn overlap<B: Backend>(
    from: &BufferObject<B>,
    from_offset: usize,
    to: &BufferObject<B>,
    to_offset: usize,
    len: usize,
) -> bool {
    let ((from_root, from_origin), (to_root, to_origin)) = (from.root(), to.root());
    let start = from_origin.saturating_add(from_offset as u64);
    let other = to_origin.saturating_add(to_offset as u64);
    from_root == to_root && start.abs_diff(other) < len as u64
}
