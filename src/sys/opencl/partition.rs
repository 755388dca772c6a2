//! Parts of devices.

use std::ffi::c_void;
use std::ptr;
use std::sync::{Mutex, PoisonError};

use cl3::device::{
    CL_DEVICE_PARTITION_BY_AFFINITY_DOMAIN, CL_DEVICE_PARTITION_BY_COUNTS,
    CL_DEVICE_PARTITION_BY_COUNTS_LIST_END, CL_DEVICE_PARTITION_EQUALLY,
};

use super::handle::SubDevice;
use super::query::Device;
use super::{checked, cl};
use crate::sys::compute::{ClError, Partition};

/// Parts that nobody uses any more are kept, up to this number of sub-devices, and given out again.
const MAX_KEPT: usize = 4096;

/// Partitions that were made. PoCL 3.1's contexts and queues do not keep their devices alive, and its threads let go of
/// a command's event, and with it of the queue and the device, some time after the command is complete. So sub-devices
/// are not released when they are given up.
#[derive(Debug, Default)]
pub struct Partitions(Mutex<Vec<Kept>>);

#[derive(Debug)]
struct Kept {
    /// The address of the device that is divided. If it is a sub-device, it is kept here too, and goes with its parts.
    parent: usize,
    partition: Partition,
    parts: Vec<Device>,
}

impl Partitions {
    /// Makes sub-devices, or gives those out again that an equal partition had; an error if there would not be `count`.
    pub fn divide(
        &self,
        parent: &Device,
        partition: &Partition,
        count: usize,
    ) -> Result<Vec<Device>, ClError> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let address = parent.raw().addr();
        let is_same = |kept: &&Kept| {
            (kept.parent, &kept.partition, kept.parts.len()) == (address, partition, count)
                && kept.is_unused()
        };
        if let Some(same) = kept.iter().find(is_same) {
            return Ok(same.parts.clone());
        }
        let parts = parent.divide(partition, count)?;
        make_room(&mut kept, count);
        kept.push(Kept { parent: address, partition: partition.clone(), parts: parts.clone() });
        Ok(parts)
    }
}

impl Kept {
    fn is_unused(&self) -> bool {
        self.parts.iter().all(Device::is_only)
    }
}

/// Releases the oldest unused ones, if there will be too many.
fn make_room(kept: &mut Vec<Kept>, more: usize) {
    while kept.iter().map(|kept| kept.parts.len()).sum::<usize>() + more > MAX_KEPT {
        let Some(oldest) = kept.iter().position(Kept::is_unused) else { return };
        let parts = kept.remove(oldest).parts;
        // Nobody uses a part of one of them: it would keep that in use.
        kept.retain(|kept| !parts.iter().any(|part| part.raw().addr() == kept.parent));
    }
}

impl Device {
    /// How many sub-devices there would be.
    pub fn count_parts(&self, partition: &Partition) -> Result<usize, ClError> {
        // Loaders call through the driver's table without looking, and older tables end before this entry.
        if self.version() < (1, 2) {
            return Err(ClError::INVALID_VALUE);
        }
        let properties = properties(partition);
        let mut count = 0;
        // SAFETY: a live device, a terminated property list, and no room, for which the count alone is written.
        checked(unsafe {
            cl!(clCreateSubDevices(self.raw(), properties.as_ptr(), 0, ptr::null_mut(), &mut count))
        })?;
        Ok(count as usize)
    }

    /// Makes sub-devices; an error if there would not be `count`.
    pub fn divide(&self, partition: &Partition, count: usize) -> Result<Vec<Device>, ClError> {
        // Drivers say otherwise if the room is too small, but not all of them if it is too large.
        if self.count_parts(partition)? != count {
            return Err(ClError::INVALID_VALUE);
        }
        let properties = properties(partition);
        let room = u32::try_from(count).map_err(|_many| ClError::INVALID_VALUE)?;
        let mut raw: Vec<*mut c_void> = vec![ptr::null_mut(); count];
        // SAFETY: a live device, a terminated property list, and room for `count` ids.
        checked(unsafe {
            cl!(clCreateSubDevices(self.raw(), properties.as_ptr(), room, raw.as_mut_ptr(), ptr::null_mut()))
        })?;
        raw.into_iter().map(|raw| SubDevice::created(Ok(raw), 0).map(Device::sub)).collect()
    }
}

/// The property list, with the zeroes at its end.
fn properties(partition: &Partition) -> Vec<isize> {
    let widen = |value: u32| value as isize;
    match partition {
        Partition::Equally(units) => vec![CL_DEVICE_PARTITION_EQUALLY, widen(*units), 0],
        Partition::ByCounts(counts) => [CL_DEVICE_PARTITION_BY_COUNTS]
            .into_iter()
            .chain(counts.iter().copied().map(widen))
            .chain([CL_DEVICE_PARTITION_BY_COUNTS_LIST_END, 0])
            .collect(),
        Partition::ByAffinityDomain(domain) => {
            vec![CL_DEVICE_PARTITION_BY_AFFINITY_DOMAIN, widen(*domain), 0]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn property_lists_end_as_the_specification_says() {
        assert_eq!(properties(&Partition::Equally(2)), [0x1086, 2, 0]);
        assert_eq!(properties(&Partition::ByCounts(vec![1, 3])), [0x1087, 1, 3, 0, 0]);
        assert_eq!(properties(&Partition::ByAffinityDomain(1 << 1)), [0x1088, 2, 0]);
    }
}
