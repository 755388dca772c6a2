//! The capability set: how a guest learns that a virtio-gpu is a paragpu (virtio 1.2, section 5.7.6.8,
//! `VIRTIO_GPU_CMD_GET_CAPSET`).
//!
//! The mainline driver asks once and caches the answer for its whole life, and an error answer goes
//! unnoticed there. So a capset holds only what never changes, and starts with a magic number that the guest
//! must check.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{VERSION_MAJOR, VERSION_MINOR, limits};

/// Capset id. The mainline driver takes ids up to 63 and builds its mask in an `int`; 1 to 10 are taken.
pub const CAPSET_ID: u32 = 27;

/// Version number in `GET_CAPSET_INFO` and `GET_CAPSET`; the protocol's own version is inside the capset.
pub const CAPSET_VERSION: u32 = 0;

/// First bytes of every capset.
pub const MAGIC: [u8; 8] = *b"paragpu\0";

/// The capset's contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Capset {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// The host's [`VERSION_MAJOR`].
    pub version_major: U16,
    /// The host's [`VERSION_MINOR`].
    pub version_minor: U16,
    /// Reserved, zero.
    pub flags: U32,
    /// Largest ring data area in bytes.
    pub max_ring_bytes: U32,
    /// Reserved, zero.
    pub reserved: U32,
    /// Largest region in bytes.
    pub max_region_bytes: U64,
    /// Most bytes of all regions of a connection together; 0 if there is no limit but the guest's memory.
    pub max_shared_bytes: U64,
    /// Reserved, zero.
    pub reserved2: [U64; 3],
}

impl Capset {
    /// What this version of the host says of itself.
    pub fn current() -> Capset {
        Capset {
            magic: MAGIC,
            version_major: VERSION_MAJOR.into(),
            version_minor: VERSION_MINOR.into(),
            flags: U32::ZERO,
            max_ring_bytes: limits::MAX_RING_BYTES.into(),
            reserved: U32::ZERO,
            max_region_bytes: limits::MAX_REGION_BYTES.into(),
            max_shared_bytes: U64::ZERO,
            reserved2: [U64::ZERO; 3],
        }
    }

    /// Reads a capset as a guest must: the magic number and the version decide, the rest may grow.
    pub fn read(bytes: &[u8]) -> Result<Capset, CapsetError> {
        let (capset, _) = Capset::read_from_prefix(bytes).map_err(|_short| CapsetError::NotParagpu)?;
        if capset.magic != MAGIC {
            return Err(CapsetError::NotParagpu);
        }
        let host = (capset.version_major.get(), capset.version_minor.get());
        let guest = (VERSION_MAJOR, VERSION_MINOR);
        // Of the same major version, a newer host understands an older guest, but not the other way round.
        if host.0 != guest.0 || host < guest {
            return Err(CapsetError::Version { host, guest });
        }
        Ok(capset)
    }
}

/// Why a capset is of no use to a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CapsetError {
    /// The device is some other virtio-gpu.
    #[error("the device is not a paragpu (no magic number in its capset)")]
    NotParagpu,
    /// The host speaks another protocol.
    #[error(
        "the host speaks paragpu protocol {}.{}, this driver {}.{}; update the older side",
        host.0, host.1, guest.0, guest.1
    )]
    Version {
        /// Major and minor version of the host.
        host: (u16, u16),
        /// Major and minor version of this crate.
        guest: (u16, u16),
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_accepts_the_host_it_was_built_with() {
        let capset = Capset::current();
        assert_eq!(Capset::read(capset.as_bytes()), Ok(capset));
    }

    #[test]
    fn zeroes_and_short_answers_are_not_a_paragpu() {
        assert_eq!(Capset::read(&[0; 64]), Err(CapsetError::NotParagpu));
        assert_eq!(Capset::read(&MAGIC), Err(CapsetError::NotParagpu));
    }

    #[test]
    fn another_major_version_is_refused_by_name() {
        let mut capset = Capset::current();
        capset.version_major = 9.into();
        assert!(matches!(Capset::read(capset.as_bytes()), Err(CapsetError::Version { host: (9, _), .. })));
    }
}
