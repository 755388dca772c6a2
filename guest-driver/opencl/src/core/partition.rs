//! Partitions: a device divided into sub-devices.
//!
//! Sub-devices outlive the connection in which they were first made: one that is lost, or that stayed with the parent
//! process of a fork. So a partition remembers how it was made, and is made again where it is used next.

use std::sync::{Arc, Mutex};

use paragpu_protocol::command::CreateSubDevices;
use paragpu_protocol::device::DeviceRef;
use paragpu_protocol::limits::MAX_SUB_DEVICES;

use crate::boundary::object::Object;
use crate::core::connection::Connection;
use crate::core::device::Device;
use crate::core::error::{ClError, ClResult, refuse_if};
use crate::core::lock;
use crate::core::slots::Slot;

/// How a device is divided.
#[derive(Clone, Debug)]
pub(crate) struct Scheme {
    /// `CL_DEVICE_PARTITION_…`.
    pub(crate) name: u32,
    /// What follows the name.
    pub(crate) values: Vec<u32>,
}

/// A device that is divided. Its parts go together, when nothing refers to any of them.
#[derive(Debug)]
pub(crate) struct Partition {
    parent: Arc<Object<Device>>,
    scheme: Scheme,
    count: usize,
    made: Mutex<Option<Made>>,
}

/// The parts in one connection.
#[derive(Debug)]
struct Made {
    connection: Arc<Connection>,
    ids: Vec<u32>,
}

impl Partition {
    /// Asks the host how many parts there would be.
    pub(crate) fn new(parent: &Object<Device>, scheme: Scheme) -> ClResult<Arc<Partition>> {
        let connection = Connection::current()?;
        let slot = post(&connection, parent, &scheme, &[])?;
        let count = connection.wait(&slot).ok()?.len as usize;
        // CL_DEVICE_PARTITION_FAILED if the partition name is supported by the implementation but in_device could not be
        // further partitioned.
        refuse_if(count == 0, ClError::DEVICE_PARTITION_FAILED)?;
        // CL_OUT_OF_RESOURCES if there is a failure to allocate resources required by the OpenCL implementation on the
        // device.
        refuse_if(count > MAX_SUB_DEVICES, ClError::OUT_OF_RESOURCES)?;
        Ok(Arc::new(Partition { parent: parent.arc(), scheme, count, made: Mutex::default() }))
    }

    /// Makes the sub-devices.
    pub(crate) fn make(this: Arc<Partition>) -> ClResult<Vec<Arc<Object<Device>>>> {
        let connection = Connection::current()?;
        this.reference(0, &connection)?;
        Ok((0..this.count).map(|index| Object::new(Device::part(this.clone(), index))).collect())
    }

    /// The device that is divided.
    pub(crate) fn parent(&self) -> &Arc<Object<Device>> {
        &self.parent
    }

    /// How many parts it has.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// What the host calls a part in this connection.
    pub(crate) fn reference(&self, index: usize, connection: &Arc<Connection>) -> ClResult<u32> {
        let mut made = lock(&self.made);
        let ids = match &*made {
            Some(made) if Arc::ptr_eq(&made.connection, connection) => &made.ids,
            _ => {
                let ids: Vec<u32> = (0..self.count).map(|_| connection.new_id()).collect();
                let slot = post(connection, &self.parent, &self.scheme, &ids)?;
                // From here on the host knows the ids, even if it cannot make the parts: dropping this releases them.
                let fresh = Made { connection: connection.clone(), ids };
                connection.wait(&slot).ok()?;
                &made.insert(fresh).ids
            }
        };
        Ok(DeviceRef::Sub(ids[index]).to_wire())
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        self.ids.iter().for_each(|id| self.connection.release(*id));
    }
}

/// Posts the division of a device into parts with these ids, or the question into how many if there are none.
fn post(
    connection: &Arc<Connection>,
    parent: &Object<Device>,
    scheme: &Scheme,
    ids: &[u32],
) -> ClResult<Slot> {
    let slot = connection.slot()?;
    let body = CreateSubDevices {
        parent: parent.reference(connection)?.into(),
        partition: scheme.name.into(),
        count: (ids.len() as u32).into(),
        reserved: 0.into(),
        reply: slot.to_ref(),
    };
    let data: Vec<u8> = ids.iter().chain(&scheme.values).flat_map(|number| number.to_le_bytes()).collect();
    connection.send(&body, &[], &data)?;
    Ok(slot)
}
