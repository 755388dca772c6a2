//! Buffers without a device: host memory, or a guest's.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{ClError, HostBytes, Keep, Rect};
use crate::sys::map::Window;

/// Largest buffer: a fuzzer has little memory.
pub(super) const MAX_ALLOC: u64 = 1 << 20;

/// A buffer, or a part of one.
#[derive(Clone, Debug)]
pub struct NullBuffer {
    bytes: Arc<Bytes>,
    origin: usize,
    size: usize,
}

/// Where a buffer's bytes are.
enum Bytes {
    Own(Mutex<Vec<u8>>),
    Shared { window: Window, _keep: Mutex<Keep> },
}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Bytes::Own(_) => "Own",
            Bytes::Shared { .. } => "Shared",
        })
    }
}

impl NullBuffer {
    /// Zeroes, or the bytes of `init`.
    pub(super) fn new(size: usize, init: Option<&Window>) -> Result<NullBuffer, ClError> {
        if size as u64 > MAX_ALLOC {
            return Err(ClError::ALLOCATION_FAILURE);
        }
        let bytes = match init {
            Some(init) if init.len() == size => init.to_vec(),
            Some(_) => return Err(ClError::INVALID_VALUE),
            None => vec![0; size],
        };
        Ok(NullBuffer { bytes: Arc::new(Bytes::Own(Mutex::new(bytes))), origin: 0, size })
    }

    /// Memory of a guest, which `keep` holds.
    pub(super) fn shared(memory: Window, keep: Keep) -> NullBuffer {
        let size = memory.len();
        NullBuffer {
            bytes: Arc::new(Bytes::Shared { window: memory, _keep: Mutex::new(keep) }),
            origin: 0,
            size,
        }
    }

    /// A part, with the same bytes.
    pub(super) fn part(&self, origin: usize, size: usize) -> Result<NullBuffer, ClError> {
        let range = self.range(origin, size)?;
        Ok(NullBuffer { bytes: self.bytes.clone(), origin: range.start, size })
    }

    pub(super) fn len(&self) -> usize {
        self.size
    }

    /// Where `size` bytes from `offset` are, if the buffer has them.
    pub(super) fn range(&self, offset: usize, size: usize) -> Result<std::ops::Range<usize>, ClError> {
        let end = offset.checked_add(size).filter(|end| *end <= self.size).ok_or(ClError::INVALID_VALUE)?;
        Ok(self.origin + offset..self.origin + end)
    }

    pub(super) fn read(&self, offset: usize, to: &mut [u8]) -> Result<(), ClError> {
        let range = self.range(offset, to.len())?;
        match &*self.bytes {
            Bytes::Own(bytes) => to.copy_from_slice(&lock(bytes)[range]),
            Bytes::Shared { window, .. } => move_bytes(window.read(range.start, to))?,
        }
        Ok(())
    }

    pub(super) fn write(&self, offset: usize, from: &[u8]) -> Result<(), ClError> {
        let range = self.range(offset, from.len())?;
        match &*self.bytes {
            Bytes::Own(bytes) => lock(bytes)[range].copy_from_slice(from),
            Bytes::Shared { window, .. } => move_bytes(window.write(range.start, from))?,
        }
        Ok(())
    }
}

fn lock(bytes: &Mutex<Vec<u8>>) -> MutexGuard<'_, Vec<u8>> {
    bytes.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn write_rect(
    buffer: &NullBuffer,
    rect: Rect,
    extent: [usize; 3],
    from: &HostBytes,
) -> Result<(), ClError> {
    rows(rect, extent, buffer.len(), |at, packed, width| {
        let mut row = vec![0; width];
        move_bytes(from.read(packed, &mut row))?;
        buffer.write(at, &row)
    })
}

/// Calls `row` with the offset of each row in the buffer, its offset in packed memory and its width.
pub(super) fn rows(
    rect: Rect,
    extent: [usize; 3],
    size: usize,
    mut row: impl FnMut(usize, usize, usize) -> Result<(), ClError>,
) -> Result<(), ClError> {
    let [width, height, depth] = extent;
    rect.bounds(extent).filter(|bounds| bounds.1 <= size).ok_or(ClError::INVALID_VALUE)?;
    for z in 0..depth {
        for y in 0..height {
            row(rect.row(y, z), (z * height + y) * width, width)?;
        }
    }
    Ok(())
}

pub(super) fn move_bytes(whole: bool) -> Result<(), ClError> {
    if whole { Ok(()) } else { Err(ClError::INVALID_VALUE) }
}
