//! How commands name a device: one of the host's by its index, or a part of one that the guest has made.

use crate::limits::MAX_DEVICES;

/// The bit that tells the two apart.
const SUB_DEVICE: u32 = 0x8000_0000;

/// A device on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeviceRef {
    /// One of the host's devices, by its index: a number below [`MAX_DEVICES`].
    Root(u32),
    /// A sub-device, by its object's id, which must be below 2^31: the id with bit 31 set.
    Sub(u32),
}

impl DeviceRef {
    /// The device with this number; nothing for a number that is neither.
    pub fn from_wire(number: u32) -> Option<DeviceRef> {
        if (number as usize) < MAX_DEVICES {
            return Some(DeviceRef::Root(number));
        }
        let id = number ^ SUB_DEVICE;
        (DeviceRef::may_name(id)).then_some(DeviceRef::Sub(id))
    }

    /// The number in a command.
    pub fn to_wire(self) -> u32 {
        match self {
            DeviceRef::Root(index) => index,
            DeviceRef::Sub(id) => id | SUB_DEVICE,
        }
    }

    /// True if a sub-device may have this id.
    pub fn may_name(id: u32) -> bool {
        id != 0 && id < SUB_DEVICE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_round_trip_and_nothing_lies_between_the_two_kinds() {
        for device in
            [DeviceRef::Root(0), DeviceRef::Root(63), DeviceRef::Sub(1), DeviceRef::Sub(0x7fff_ffff)]
        {
            assert_eq!(DeviceRef::from_wire(device.to_wire()), Some(device));
        }
        for number in [64, 0x7fff_ffff, 0x8000_0000] {
            assert_eq!(DeviceRef::from_wire(number), None, "{number:#x}");
        }
    }
}
