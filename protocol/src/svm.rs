//! What the host tells of a shared buffer, and whether there can be any.

use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The answer to `CreateSharedBuffer`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct SharedInfo {
    /// Address at which kernels find the first byte. A guest that maps the region there too can share pointers with
    /// them.
    pub address: U64,
}

/// With [`InfoKind::Memory`](crate::info::InfoKind::Memory): whether a device shares memory with the host, as a `u32`
/// (0 or 1).
pub const SHARES_MEMORY: u32 = 0;
