//! Small wire types that many commands share. All integers are little-endian, nothing needs alignment.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes in a shared region: `len` bytes from `offset` of region `region`.
///
/// A region is a virtio-gpu resource with guest pages behind it, attached to the context; `region` is its
/// resource id. Region 0 means "none" where a command allows that.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Span {
    /// virtio-gpu resource id; 0 for none.
    pub region: U32,
    /// Reserved, zero.
    pub reserved: U32,
    /// First byte, from the start of the region.
    pub offset: U64,
    /// Length in bytes.
    pub len: U64,
}

impl Span {
    /// No bytes at all.
    pub const NONE: Span = Span { region: U32::ZERO, reserved: U32::ZERO, offset: U64::ZERO, len: U64::ZERO };

    /// `len` bytes from `offset` of `region`.
    pub fn new(region: u32, offset: u64, len: u64) -> Span {
        Span { region: region.into(), reserved: U32::ZERO, offset: offset.into(), len: len.into() }
    }

    /// True if this names no region.
    pub fn is_none(&self) -> bool {
        self.region.get() == 0
    }
}

/// Where a [slot](crate::slot) lies: 64 bytes at `offset` (a multiple of 64) of region `region`.
/// Region 0 means that nobody waits.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct SlotRef {
    /// virtio-gpu resource id; 0 for none.
    pub region: U32,
    /// First byte, from the start of the region; a multiple of [`SLOT_BYTES`](crate::slot::SLOT_BYTES).
    pub offset: U32,
}

impl SlotRef {
    /// Nobody waits.
    pub const NONE: SlotRef = SlotRef { region: U32::ZERO, offset: U32::ZERO };

    /// The slot at `offset` of `region`.
    pub fn new(region: u32, offset: u32) -> SlotRef {
        SlotRef { region: region.into(), offset: offset.into() }
    }

    /// True if nobody waits.
    pub fn is_none(&self) -> bool {
        self.region.get() == 0
    }
}

/// What every command that makes an object starts with.
///
/// Object ids are chosen by the guest: non-zero, one name space for all kinds of objects of a context, never
/// reused while the object lives. A creation is posted: if it fails on the host, the object exists but is
/// poisoned, and every command that uses it fails with the creation's error.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Create {
    /// The new object's id.
    pub id: U32,
    /// The object that it belongs to (a context for a queue, a program for a kernel); 0 where there is none.
    pub parent: U32,
    /// Where the outcome is written; none if nobody wants it.
    pub reply: SlotRef,
}

/// What every command that goes into a command queue starts with.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Enqueue {
    /// The command queue's id.
    pub queue: U32,
    /// Id of the event object to make for this command; 0 for none.
    pub event: U32,
    /// Slot that is completed with the command; none if nobody waits.
    pub slot: SlotRef,
}

/// An origin or an extent in up to three dimensions; for the first dimension of buffer rectangles, in bytes.
pub type Dim3 = [U64; 3];
