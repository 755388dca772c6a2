//! Slots: 64 bytes of shared memory in which the host reports that one command is complete.
//!
//! The guest clears a slot, names it in a command and polls `state`. The host writes the other fields first
//! and `state` last, with release order. A slot is written once per command that names it.

use zerocopy::little_endian::{I32, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Size and alignment of a slot in bytes.
pub const SLOT_BYTES: u32 = 64;

/// `state` of a slot whose command is not complete.
pub const PENDING: u32 = 0;
/// `state` of a slot whose command is complete, with success or not.
pub const DONE: u32 = 1;

/// A slot as it lies in shared memory.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Slot {
    /// [`PENDING`] or [`DONE`].
    pub state: U32,
    /// 0 (`CL_SUCCESS`) or a negative OpenCL error.
    pub status: I32,
    /// Full length in bytes of the answer, where the command has one; may exceed the space that was given.
    pub len: U32,
    /// Reserved, zero.
    pub reserved: U32,
    /// `CL_PROFILING_COMMAND_QUEUED`, `SUBMIT`, `START`, `END` in nanoseconds of the host device's clock;
    /// zero if the queue does not profile.
    pub profile: [U64; 4],
    /// Reserved, zero.
    pub reserved2: [U64; 2],
}

/// Byte offset of `state`.
pub const STATE: usize = 0;

const _: () = assert!(size_of::<Slot>() == SLOT_BYTES as usize);
