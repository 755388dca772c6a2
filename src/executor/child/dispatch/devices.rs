//! Sub-devices, and lists of devices.

use std::collections::HashSet;
use std::sync::Arc;

use paragpu_protocol::command::CreateSubDevices;
use paragpu_protocol::device::DeviceRef;
use paragpu_protocol::fault::Fault;
use paragpu_protocol::frame::Tail;
use paragpu_protocol::limits::MAX_SUB_DEVICES;

use super::super::backend::{Backend, ClError, HostDevice, Outcome, Partition};
use super::super::context::Context;
use super::super::objects::{Common, DeviceObject, Object, Part, Place, handle};
use super::super::record::SubDeviceRecord;
use super::{numbers, require, reserved};

/// `CL_DEVICE_PARTITION_EQUALLY`
const EQUALLY: u32 = 0x1086;
/// `CL_DEVICE_PARTITION_BY_COUNTS`
const BY_COUNTS: u32 = 0x1087;
/// `CL_DEVICE_PARTITION_BY_AFFINITY_DOMAIN`
const BY_AFFINITY_DOMAIN: u32 = 0x1088;

fn partition(name: u32, values: Vec<u32>) -> Result<Partition, Fault> {
    // A zero would end the list of counts, and is no count or domain either.
    require(!values.is_empty() && !values.contains(&0), Fault::BadValue)?;
    match (name, values[..].as_ref()) {
        (EQUALLY, [units]) => Ok(Partition::Equally(*units)),
        (BY_AFFINITY_DOMAIN, [domain]) => Ok(Partition::ByAffinityDomain(*domain)),
        (BY_COUNTS, counts) if counts.len() <= MAX_SUB_DEVICES => Ok(Partition::ByCounts(values)),
        _ => Err(Fault::BadValue),
    }
}

impl<B: Backend> Context<B> {
    pub(crate) fn create_sub_devices(
        &mut self,
        body: &CreateSubDevices,
        tail: Tail<'_>,
    ) -> Result<(), Fault> {
        reserved(body.reserved)?;
        let parent = self.objects.device(body.parent.get())?;
        let count = body.count.get() as usize;
        require(count <= MAX_SUB_DEVICES, Fault::Limit)?;
        let (ids, values) = tail.data.split_at_checked(count * size_of::<u32>()).ok_or(Fault::BadValue)?;
        let (ids, partition) = (numbers(ids)?, partition(body.partition.get(), numbers(values)?)?);
        let reply = self.reply(&body.reply)?;
        if ids.is_empty() {
            let parts = handle(&parent.host)
                .and_then(|parent| self.backend.count_sub_devices(&parent.handle, &partition));
            match parts {
                Ok(parts) => reply.complete(Outcome::SUCCESS, u32::try_from(parts).unwrap_or(u32::MAX)),
                Err(error) => reply.status(Err(error)),
            }
            return Ok(());
        }
        let distinct: HashSet<u32> = ids.iter().copied().collect();
        require(distinct.len() == ids.len(), Fault::IdInUse)?;
        let commons: Vec<Common> = ids.iter().map(|id| self.objects.admit(*id)).collect::<Result<_, _>>()?;
        require(ids.iter().all(|id| DeviceRef::may_name(*id)), Fault::BadValue)?;
        let rooms: Option<Vec<_>> = ids.iter().map(|_| self.sub_devices.take(1)).collect();
        let made = match &rooms {
            None => Err(ClError::OUT_OF_RESOURCES),
            Some(_) => self.divide(&parent, &partition, ids.len()),
        };
        let outcome = made.as_ref().map(|_| ids.len()).map_err(|error| *error);
        let hosts = match made {
            Ok(parts) => parts.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error); ids.len()],
        };
        let mut rooms = rooms.unwrap_or_default().into_iter();
        for (index, ((id, common), host)) in ids.iter().zip(commons).zip(hosts).enumerate() {
            let record = SubDeviceRecord { parent: parent.name(), partition: partition.clone(), index };
            let part = Part { common, parent: parent.clone(), record, _room: rooms.next() };
            let device = DeviceObject { place: Place::Part(part), host };
            self.objects.insert(*id, Object::SubDevice(Arc::new(device)));
        }
        match outcome {
            Ok(parts) => reply.complete(Outcome::SUCCESS, parts as u32),
            Err(error) => reply.status(Err(error)),
        }
        Ok(())
    }

    fn divide(
        &self,
        parent: &DeviceObject<B>,
        partition: &Partition,
        count: usize,
    ) -> Result<Vec<HostDevice<B::Device>>, ClError> {
        let parent = handle(&parent.host)?;
        let parts = self.backend.create_sub_devices(&parent.handle, partition, count)?;
        if parts.len() == count { Ok(parts) } else { Err(ClError::INVALID_VALUE) }
    }

    /// The devices whose references (`u32` each) are the data, none of them twice.
    pub(super) fn device_list(&self, data: &[u8]) -> Result<Vec<Arc<DeviceObject<B>>>, Fault> {
        let references = numbers(data)?;
        let distinct: HashSet<u32> = references.iter().copied().collect();
        require(distinct.len() == references.len(), Fault::BadValue)?;
        references.into_iter().map(|reference| self.objects.device(reference)).collect()
    }
}
