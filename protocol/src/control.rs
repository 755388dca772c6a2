//! The payload of `VIRTIO_GPU_CMD_SUBMIT_3D`: exactly one of these commands per submission.
//!
//! None of them returns anything in the response; what the guest must know comes through the ring's header.

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::fault::Fault;
use crate::ring::HEADER_BYTES;
use crate::{VERSION_MAJOR, VERSION_MINOR, limits};

const START_RING: u32 = 1;
const DOORBELL: u32 = 2;
const WAIT: u32 = 3;

/// Starts the context's ring in a region attached to the context. A context has one ring, started once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct StartRing {
    opcode: U32,
    /// Protocol version of the guest.
    pub version_major: U16,
    /// Protocol version of the guest.
    pub version_minor: U16,
    /// Resource id of the ring's region: a header of one page, then the data area.
    pub region: U32,
    /// Length of the data area in bytes: a power of two.
    pub data_bytes: U32,
}

impl StartRing {
    /// Starts the ring in `region` with `data_bytes` of data area.
    pub fn new(region: u32, data_bytes: u32) -> StartRing {
        StartRing {
            opcode: START_RING.into(),
            version_major: VERSION_MAJOR.into(),
            version_minor: VERSION_MINOR.into(),
            region: region.into(),
            data_bytes: data_bytes.into(),
        }
    }

    /// The data area's length if it is one that the protocol allows.
    pub fn checked_data_bytes(&self) -> Result<u32, Fault> {
        let bytes = self.data_bytes.get();
        if bytes.is_power_of_two() && (limits::MIN_RING_BYTES..=limits::MAX_RING_BYTES).contains(&bytes) {
            Ok(bytes)
        } else {
            Err(Fault::BadRing)
        }
    }

    /// Bytes that the ring's region must have at least.
    pub fn region_bytes(&self) -> u64 {
        u64::from(HEADER_BYTES) + u64::from(self.data_bytes.get())
    }
}

/// Wakes the host's ring consumer, after its `kick_wanted` word was found set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Doorbell {
    opcode: U32,
    reserved: U32,
}

impl Doorbell {
    /// A doorbell.
    pub fn new() -> Doorbell {
        Doorbell { opcode: DOORBELL.into(), reserved: U32::ZERO }
    }
}

impl Default for Doorbell {
    fn default() -> Self {
        Self::new()
    }
}

/// Sleeps: the host answers this (fenced) submission when the ring's `wake_seq` differs from `seen`, when
/// something else of this vGPU happens, or after [`MAX_WAIT_MILLIS`]. The guest then looks again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Wait {
    opcode: U32,
    /// `wake_seq` as the guest saw it before it last looked for what it waits for.
    pub seen: U32,
}

/// Longest time for which the host holds a [`Wait`], in milliseconds. Far below the 15 s after which the
/// mainline driver's own wait gives up.
pub const MAX_WAIT_MILLIS: u64 = 1000;

impl Wait {
    /// Waits for `wake_seq` to differ from `seen`.
    pub fn new(seen: u32) -> Wait {
        Wait { opcode: WAIT.into(), seen: seen.into() }
    }
}

/// A submission, understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// See [`StartRing`].
    StartRing(StartRing),
    /// See [`Doorbell`].
    Doorbell,
    /// See [`Wait`].
    Wait(Wait),
}

impl Control {
    /// Reads the payload of one submission; every byte must be accounted for.
    pub fn parse(bytes: &[u8]) -> Result<Control, Fault> {
        let (opcode, _) = U32::read_from_prefix(bytes).map_err(|_short| Fault::BadControl)?;
        let whole = |ok: Option<Control>| ok.ok_or(Fault::BadControl);
        match opcode.get() {
            START_RING => whole(StartRing::read_from_bytes(bytes).ok().map(Control::StartRing)),
            DOORBELL => whole(Doorbell::read_from_bytes(bytes).ok().map(|_| Control::Doorbell)),
            WAIT => whole(Wait::read_from_bytes(bytes).ok().map(Control::Wait)),
            _ => Err(Fault::BadControl),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_guest_writes_is_what_the_host_reads() {
        let start = StartRing::new(7, limits::MIN_RING_BYTES);
        assert_eq!(Control::parse(start.as_bytes()), Ok(Control::StartRing(start)));
        assert_eq!(Control::parse(Doorbell::new().as_bytes()), Ok(Control::Doorbell));
        let wait = Wait::new(99);
        assert_eq!(Control::parse(wait.as_bytes()), Ok(Control::Wait(wait)));
    }

    #[test]
    fn truncated_trailing_and_unknown_submissions_are_faults() {
        let start = StartRing::new(7, 4096);
        for cut in 0..start.as_bytes().len() {
            assert_eq!(Control::parse(&start.as_bytes()[..cut]), Err(Fault::BadControl), "{cut} bytes");
        }
        assert_eq!(Control::parse(&[9, 0, 0, 0, 0, 0, 0, 0]), Err(Fault::BadControl));
        assert_eq!(Control::parse(&[2, 0, 0, 0, 0, 0, 0, 0, 0]), Err(Fault::BadControl));
    }

    #[test]
    fn ring_sizes_are_powers_of_two_within_the_limits() {
        for bad in [0, 1, 4096, limits::MIN_RING_BYTES + 16, limits::MAX_RING_BYTES * 2, u32::MAX] {
            assert_eq!(StartRing::new(1, bad).checked_data_bytes(), Err(Fault::BadRing), "{bad}");
        }
        assert_eq!(
            StartRing::new(1, limits::MAX_RING_BYTES).checked_data_bytes(),
            Ok(limits::MAX_RING_BYTES)
        );
    }
}
