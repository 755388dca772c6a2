//! What a guest can do wrong, one variant per mistake. A fault fails the context that made it; its number is
//! written to the ring's header so that the guest's driver can say what happened.

/// A guest's mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[repr(u32)]
pub enum Fault {
    /// A submission that is no [control command](crate::control).
    #[error("malformed control submission")]
    BadControl = 1,
    /// The guest's protocol version is not one that this host speaks.
    #[error("unsupported protocol version")]
    Version = 2,
    /// A ring of a size that is not allowed, outside of its region, or started twice.
    #[error("bad ring geometry, or ring started twice")]
    BadRing = 3,
    /// The ring's tail moved by more than the ring holds, or not by whole frames.
    #[error("ring index jumped")]
    RingIndex = 4,
    /// A frame whose length does not fit the ring, its opcode or its own fields.
    #[error("malformed frame")]
    BadFrame = 5,
    /// An opcode that this version does not have.
    #[error("unknown opcode")]
    UnknownOpcode = 6,
    /// A reserved field that is not zero.
    #[error("reserved field is not zero")]
    Reserved = 7,
    /// A region that is not attached to the context.
    #[error("unknown region")]
    UnknownRegion = 8,
    /// A span or slot that leaves its region, or a slot that is not aligned.
    #[error("span or slot outside of its region")]
    OutOfRegion = 9,
    /// An object id that names nothing, or an object of another kind.
    #[error("unknown object, or object of another kind")]
    UnknownObject = 10,
    /// A new object's id is zero or taken.
    #[error("object id is zero or in use")]
    IdInUse = 11,
    /// More of something than the [limits](crate::limits) allow.
    #[error("limit exceeded")]
    Limit = 12,
    /// A value outside of what the command allows.
    #[error("value out of range")]
    BadValue = 13,
    /// An object was used while a build that it depends on is running.
    #[error("object is busy building")]
    Busy = 14,
}

impl Fault {
    /// Every fault.
    pub const ALL: [Fault; 14] = [
        Fault::BadControl,
        Fault::Version,
        Fault::BadRing,
        Fault::RingIndex,
        Fault::BadFrame,
        Fault::UnknownOpcode,
        Fault::Reserved,
        Fault::UnknownRegion,
        Fault::OutOfRegion,
        Fault::UnknownObject,
        Fault::IdInUse,
        Fault::Limit,
        Fault::BadValue,
        Fault::Busy,
    ];

    /// The number in the ring's header.
    pub fn code(self) -> u32 {
        self as u32
    }

    /// The fault with this number; unknown numbers stay unknown.
    pub fn from_code(code: u32) -> Option<Fault> {
        Fault::ALL.into_iter().find(|fault| fault.code() == code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_and_round_trip() {
        for (index, fault) in Fault::ALL.into_iter().enumerate() {
            assert_eq!(fault.code() as usize, index + 1);
            assert_eq!(Fault::from_code(fault.code()), Some(fault));
        }
        assert_eq!(Fault::from_code(0), None);
    }
}
