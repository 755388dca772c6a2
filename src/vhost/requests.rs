//! What the front end asks over the vhost-user socket.

use std::fs::File;
use std::io;

use log::Level;
use paragpu_protocol::virtio_gpu::{CONTROL_QUEUE, F_EDID, F_VIRGL, QUEUES};
use vhost::VhostUserMemoryRegionBase;
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight,
    VhostUserLog, VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig, VhostUserSharedMsg,
    VhostUserSingleMemoryRegion, VhostUserVirtioFeatures, VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{Backend, Error, GpuBackend, Result, VhostUserBackendReqHandlerMut};

use super::inflight::Area;
use super::memory::{GuestRam, MAX_MEMORY_REGIONS, MemoryError, RegionInfo, SHARE_IT};
use super::queue::{QueueAddresses, Vring};
use super::session::Session;
use crate::device::response::{CONFIG_SPACE_BYTES, config_space};

/// virtio feature bits of the transport (virtio 1.2, section 6), and two legacy ones.
const VIRTIO_F_NOTIFY_ON_EMPTY: u64 = 1 << 24;
const VIRTIO_F_ANY_LAYOUT: u64 = 1 << 27;
const VIRTIO_F_INDIRECT_DESC: u64 = 1 << 28;
const VIRTIO_F_EVENT_IDX: u64 = 1 << 29;
const VIRTIO_F_VERSION_1: u64 = 1 << 32;
const VIRTIO_F_RING_RESET: u64 = 1 << 40;

/// What is offered. QEMU acks the transport's bits whether they are offered or not, so they all work.
const FEATURES: u64 = F_VIRGL
    | F_EDID
    | VIRTIO_F_NOTIFY_ON_EMPTY
    | VIRTIO_F_ANY_LAYOUT
    | VIRTIO_F_INDIRECT_DESC
    | VIRTIO_F_EVENT_IDX
    | VIRTIO_F_VERSION_1
    | VIRTIO_F_RING_RESET
    | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();

/// What a front end has to say that has another number of queues.
const TWO_QUEUES: &str = "there are two: queue_sizes=[256,16] for cloud-hypervisor, num_vqs=2 for QEMU";

/// A queue's address that no memory region has.
#[derive(Debug, thiserror::Error)]
#[error("queue {0} is not in the memory that the front end has shared: {SHARE_IT}")]
struct NotInMemory(u32);

impl Session {
    fn vring(&mut self, index: u32) -> Result<&mut Vring> {
        if index as usize >= QUEUES {
            self.log.line(Level::Warn, format_args!("front end has a queue {index}: {TWO_QUEUES}"));
        }
        self.vrings.get_mut(index as usize).ok_or(Error::InvalidParam)
    }

    /// Starts a queue that has a kick, if it has not been started.
    fn start_vring(&mut self, index: usize) -> Result<()> {
        let event_idx = self.features & VIRTIO_F_EVENT_IDX != 0;
        // Without protocol features queues are enabled from the start.
        if self.features & VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits() == 0 {
            self.vrings[index].set_enabled(true);
        }
        let was_running = self.vrings[index].is_running();
        self.vrings[index].start(self.memory.map(), event_idx).map_err(handler_error)?;
        let left_over = self.vrings[index].left_over();
        if left_over > 0 {
            let line =
                format_args!("queue {index} starts with {left_over} requests that were in flight before");
            self.log.line(Level::Info, line);
        }
        self.after_change(index, was_running);
        Ok(())
    }

    fn after_change(&mut self, index: usize, was_running: bool) {
        if was_running || !self.vrings[index].is_running() {
            return;
        }
        if index == CONTROL_QUEUE {
            self.control_started();
        }
        // What came before the start was announced to nobody.
        self.more_requests = true;
    }

    fn new_memory(&mut self, memory: std::result::Result<GuestRam, MemoryError>) -> Result<()> {
        self.replace_memory(memory.map_err(handler_error)?);
        Ok(())
    }
}

impl VhostUserBackendReqHandlerMut for Session {
    fn set_owner(&mut self) -> Result<()> {
        // QEMU keeps the connection of a device that was unplugged, and a device that is plugged in there tells of all
        // memory anew. An executor has what it had until then.
        if !self.vrings.iter().any(Vring::is_running) {
            self.memory = GuestRam::default();
        }
        Ok(())
    }

    fn reset_owner(&mut self) -> Result<()> {
        self.reset_device()
    }

    fn reset_device(&mut self) -> Result<()> {
        self.quiesce();
        for vring in &mut self.vrings {
            vring.stop();
            vring.set_enabled(false);
        }
        self.reset();
        Ok(())
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(FEATURES)
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        let unknown = features & !FEATURES;
        if unknown != 0 {
            self.log.line(Level::Debug, format_args!("front end acked unknown features {unknown:#x}"));
        }
        self.features = features & FEATURES;
        Ok(())
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _postcopy: Option<bool>,
    ) -> Result<Option<Vec<VhostUserMemoryRegionBase>>> {
        let table = regions.iter().zip(files).map(|(region, file)| {
            let info = RegionInfo {
                guest_addr: region.guest_phys_addr,
                len: region.memory_size,
                user_addr: region.user_addr,
                file_offset: region.mmap_offset,
            };
            (info, file)
        });
        self.new_memory(GuestRam::from_table(table))?;
        Ok(None)
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        let size = u16::try_from(num).map_err(|_large| Error::InvalidParam)?;
        self.vring(index)?.set_size(size).map_err(handler_error)
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        _flags: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        _log: u64,
    ) -> Result<()> {
        let translate = |address| {
            let translated = self.memory.translate(address).ok_or(NotInMemory(index));
            translated.map_err(handler_error)
        };
        let addresses = QueueAddresses {
            descriptors: translate(descriptor)?,
            available: translate(available)?,
            used: translate(used)?,
        };
        self.vring(index)?.set_addresses(addresses).map_err(handler_error)
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        self.vring(index)?.set_base(base as u16);
        Ok(())
    }

    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        self.vring(index)?;
        // The answer promises that guest memory is left alone.
        self.quiesce();
        let vring = self.vring(index)?;
        vring.stop();
        Ok(VhostUserVringState::new(index, vring.base().into()))
    }

    fn set_vring_kick(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        self.vring(index.into())?.set_kick(fd);
        self.start_vring(index.into())
    }

    fn set_vring_call(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        self.vring(index.into())?.set_call(fd);
        Ok(())
    }

    fn set_vring_err(&mut self, index: u8, _fd: Option<File>) -> Result<()> {
        self.vring(index.into())?;
        Ok(())
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        Ok(VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
            | VhostUserProtocolFeatures::INFLIGHT_SHMFD
            | VhostUserProtocolFeatures::BACKEND_REQ
            | VhostUserProtocolFeatures::RESET_DEVICE)
    }

    fn set_protocol_features(&mut self, _features: u64) -> Result<()> {
        Ok(())
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(QUEUES as u64)
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        let was_running = self.vring(index)?.is_running();
        if was_running && !enable && index as usize == CONTROL_QUEUE {
            // A pause, for front ends that do not ask for the base then.
            self.quiesce();
        }
        self.vring(index)?.set_enabled(enable);
        self.after_change(index as usize, was_running);
        Ok(())
    }

    fn get_config(&mut self, offset: u32, size: u32, _flags: VhostUserConfigFlags) -> Result<Vec<u8>> {
        let (offset, size) = (offset as usize, size as usize);
        let end = offset.checked_add(size).filter(|end| *end <= CONFIG_SPACE_BYTES);
        let end = end.ok_or(Error::InvalidParam)?;
        Ok(config_space()[offset..end].to_vec())
    }

    fn set_config(&mut self, _offset: u32, _bytes: &[u8], _flags: VhostUserConfigFlags) -> Result<()> {
        // The one writable field acknowledges display events, of which there are none.
        Ok(())
    }

    fn set_backend_req_fd(&mut self, backend: Backend) {
        self.backend_requests = Some(backend);
    }

    fn set_gpu_socket(&mut self, gpu_backend: GpuBackend) -> Result<()> {
        self.gpu_socket = Some(gpu_backend);
        Ok(())
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        Ok(MAX_MEMORY_REGIONS as u64)
    }

    fn add_mem_region(
        &mut self,
        region: &VhostUserSingleMemoryRegion,
        file: File,
        _postcopy: Option<bool>,
    ) -> Result<Option<VhostUserMemoryRegionBase>> {
        let info = RegionInfo {
            guest_addr: region.guest_phys_addr,
            len: region.memory_size,
            user_addr: region.user_addr,
            file_offset: region.mmap_offset,
        };
        self.new_memory(self.memory.with(info, file))?;
        Ok(None)
    }

    fn remove_mem_region(&mut self, region: &VhostUserSingleMemoryRegion) -> Result<()> {
        self.new_memory(self.memory.without(region.guest_phys_addr, region.memory_size, region.user_addr))
    }

    fn get_shared_object(&mut self, _uuid: VhostUserSharedMsg) -> Result<File> {
        Err(Error::InvalidOperation("shared objects"))
    }

    fn get_inflight_fd(&mut self, inflight: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        let VhostUserInflight { num_queues, queue_size, .. } = *inflight;
        let (file, mmap_size) = Area::create(num_queues, queue_size).map_err(handler_error)?;
        Ok((VhostUserInflight { mmap_size, mmap_offset: 0, num_queues, queue_size }, file))
    }

    fn set_inflight_fd(&mut self, inflight: &VhostUserInflight, file: File) -> Result<()> {
        if self.vrings.iter().any(Vring::is_running) {
            return Err(Error::InvalidOperation("in-flight tracking of queues that run"));
        }
        let VhostUserInflight { mmap_size, mmap_offset, num_queues, queue_size } = *inflight;
        let area = Area::map(num_queues, queue_size, file, mmap_offset, mmap_size).map_err(handler_error)?;
        for (index, vring) in self.vrings.iter_mut().enumerate() {
            vring.track(area.queue(index));
        }
        Ok(())
    }

    fn set_device_state_fd(
        &mut self,
        _direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        _fd: File,
    ) -> Result<Option<File>> {
        Err(Error::InvalidOperation("device state"))
    }

    fn check_device_state(&mut self) -> Result<()> {
        Err(Error::InvalidOperation("device state"))
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        Err(Error::InvalidOperation("shared memory regions"))
    }

    fn set_log_base(&mut self, _log: &VhostUserLog, _file: File) -> Result<()> {
        Err(Error::InvalidOperation("dirty logging"))
    }
}

fn handler_error(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::ReqHandlerError(io::Error::other(error))
}
