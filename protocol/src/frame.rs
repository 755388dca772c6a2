//! Frames: how one command lies in a ring.
//!
//! ```text
//! 0   u16 opcode
//! 2   u16 wait_count    events in the wait list
//! 4   u32 len           whole frame with header and padding; a multiple of 16
//! 8   u32 data_len      inline data bytes
//! 12  u32 reserved      zero
//! 16  the opcode's body, of fixed size
//!     wait_count x u32  event ids
//!     data_len bytes    inline data
//!     padding           0 to 15 bytes, ignored
//! ```
//!
//! A frame never wraps around the end of the ring: where it would, a [`Nop`](crate::command::Nop) frame fills
//! the rest.

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::fault::Fault;
use crate::limits::{MAX_FRAME_BYTES, MAX_INLINE_BYTES, MAX_WAIT_EVENTS};

/// Alignment of frames in the ring, and of their lengths.
pub const FRAME_ALIGN: u32 = 16;

/// Size of [`FrameHeader`] in bytes.
pub const HEADER_BYTES: u32 = 16;

const _: () = assert!(size_of::<FrameHeader>() == HEADER_BYTES as usize);

/// The first bytes of every frame.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct FrameHeader {
    /// Number of an [`Opcode`](crate::command::Opcode).
    pub opcode: U16,
    /// Events in the wait list.
    pub wait_count: U16,
    /// Whole length in bytes, header and padding included.
    pub len: U32,
    /// Inline data bytes.
    pub data_len: U32,
    /// Reserved, zero.
    pub reserved: U32,
}

impl FrameHeader {
    /// The whole length, if it is one that a frame can have at all.
    pub fn checked_len(&self) -> Result<u32, Fault> {
        let len = self.len.get();
        if len.is_multiple_of(FRAME_ALIGN) && (HEADER_BYTES..=MAX_FRAME_BYTES).contains(&len) {
            Ok(len)
        } else {
            Err(Fault::BadFrame)
        }
    }
}

/// The variable parts of a frame, behind its body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tail<'a> {
    /// Ids of the events that the command waits for.
    pub wait: &'a [U32],
    /// Inline data.
    pub data: &'a [u8],
}

/// A frame taken apart, its opcode not yet looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The header.
    pub header: FrameHeader,
    rest: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Takes apart the bytes of exactly one frame.
    pub fn parse(bytes: &'a [u8]) -> Result<Frame<'a>, Fault> {
        let (header, rest) = FrameHeader::read_from_prefix(bytes).map_err(|_short| Fault::BadFrame)?;
        if header.checked_len()? as usize != bytes.len() {
            return Err(Fault::BadFrame);
        }
        if header.reserved.get() != 0 {
            return Err(Fault::Reserved);
        }
        if header.wait_count.get() > MAX_WAIT_EVENTS || header.data_len.get() > MAX_INLINE_BYTES {
            return Err(Fault::Limit);
        }
        Ok(Frame { header, rest })
    }

    /// The body and the variable parts; the frame must hold exactly these and less than 16 bytes of padding.
    pub fn split<B: FromBytes + Immutable + KnownLayout + Unaligned>(
        &self,
    ) -> Result<(&'a B, Tail<'a>), Fault> {
        let (body, rest) = B::ref_from_prefix(self.rest).map_err(|_short| Fault::BadFrame)?;
        let (wait, rest) =
            <[U32]>::ref_from_prefix_with_elems(rest, usize::from(self.header.wait_count.get()))
                .map_err(|_short| Fault::BadFrame)?;
        let (data, padding) =
            rest.split_at_checked(self.header.data_len.get() as usize).ok_or(Fault::BadFrame)?;
        if padding.len() >= FRAME_ALIGN as usize {
            return Err(Fault::BadFrame);
        }
        Ok((body, Tail { wait, data }))
    }
}

/// Length in bytes of a frame with these parts, or `None` if there is no such frame.
pub fn frame_len(body_len: usize, wait_count: usize, data_len: usize) -> Option<usize> {
    if wait_count > usize::from(MAX_WAIT_EVENTS) || data_len > MAX_INLINE_BYTES as usize {
        return None;
    }
    let len = HEADER_BYTES as usize + body_len + 4 * wait_count + data_len;
    let len = len.next_multiple_of(FRAME_ALIGN as usize);
    (len <= MAX_FRAME_BYTES as usize).then_some(len)
}

/// Writes a frame to the start of `out` and returns its length, or `None` if there is no such frame or `out`
/// is too short.
pub fn write_frame(out: &mut [u8], opcode: u16, body: &[u8], wait: &[u32], data: &[u8]) -> Option<usize> {
    let len = frame_len(body.len(), wait.len(), data.len())?;
    let out = out.get_mut(..len)?;
    let header = FrameHeader {
        opcode: opcode.into(),
        wait_count: u16::try_from(wait.len()).ok()?.into(),
        len: u32::try_from(len).ok()?.into(),
        data_len: u32::try_from(data.len()).ok()?.into(),
        reserved: U32::ZERO,
    };
    let (head, rest) = out.split_at_mut(HEADER_BYTES as usize);
    head.copy_from_slice(header.as_bytes());
    let (to, rest) = rest.split_at_mut(body.len());
    to.copy_from_slice(body);
    let (to, rest) = rest.split_at_mut(4 * wait.len());
    for (to, id) in to.chunks_exact_mut(4).zip(wait) {
        to.copy_from_slice(&id.to_le_bytes());
    }
    let (to, padding) = rest.split_at_mut(data.len());
    to.copy_from_slice(data);
    padding.fill(0);
    Some(len)
}
