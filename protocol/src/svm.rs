//! What the host tells of a buffer with an address, and of how a device's memory relates to the host's.

use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The answer to `CreateSharedBuffer` and `CreateCoarseBuffer`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct SharedInfo {
    /// Address at which kernels find the first byte. A guest that has the memory there too can share pointers with them.
    pub address: U64,
}

/// With [`InfoKind::Memory`](crate::info::InfoKind::Memory): the number of a [`MemoryModel`], as a `u32`.
pub const MEMORY_MODEL: u32 = 0;

/// With [`InfoKind::Memory`](crate::info::InfoKind::Memory) and a context as object: 1 if `CreatePlacedBuffer` works there,
/// otherwise 0, as a `u32`.
pub const PLACES: u32 = 1;

/// How a device's memory relates to the host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum MemoryModel {
    /// Kernels and the host have nothing in common.
    Apart = 0,
    /// Kernels reach the host's memory, at the host's addresses: `CreateSharedBuffer` works.
    Shared = 1,
    /// Kernels reach memory that was allocated for it at the same address as the host, which sees it when it is mapped
    /// (coarse-grain shared virtual memory): `CreateCoarseBuffer` works.
    Coarse = 2,
}

impl MemoryModel {
    /// The model with this number.
    pub fn from_wire(number: u32) -> Option<MemoryModel> {
        [MemoryModel::Apart, MemoryModel::Shared, MemoryModel::Coarse]
            .into_iter()
            .find(|model| *model as u32 == number)
    }
}

#[cfg(test)]
mod tests {
    use super::MemoryModel;

    #[test]
    fn models_round_trip() {
        for model in [MemoryModel::Apart, MemoryModel::Shared, MemoryModel::Coarse] {
            assert_eq!(MemoryModel::from_wire(model as u32), Some(model));
        }
        assert_eq!(MemoryModel::from_wire(3), None);
    }
}
