//! Guest memory as the front end shares it.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::io::{FdFlags, fcntl_setfd};
use vm_memory::mmap::MmapRegionError;
use vm_memory::{
    Address, Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion,
    GuestRegionCollectionError, GuestRegionMmap, MmapRegion,
};

use crate::device::extents::GuestView;
use crate::executor::channel::MAX_FDS;
use crate::executor::message::MemoryRegion;
use crate::executor::supervisor::MemoryTable;
use crate::sys::sigbus::Guard;

/// Most memory regions of one guest: each is a descriptor that goes to the executor in one message.
pub const MAX_MEMORY_REGIONS: usize = 64;

const _: () = assert!(MAX_MEMORY_REGIONS <= MAX_FDS);

/// What whoever starts a VM has to say, so that its memory is in files that this process can map too.
pub const SHARE_IT: &str = "the guest's memory must be shared: \
    -object memory-backend-memfd,id=mem,size=…,share=on -machine memory-backend=mem for QEMU, \
    --memory size=…,shared=on for cloud-hypervisor";

/// Why memory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// It cannot be mapped.
    #[error("memory region cannot be mapped: {0} ({SHARE_IT})")]
    Map(#[from] MmapRegionError),
    /// Regions overlap.
    #[error("memory regions do not fit together: {0}")]
    Table(#[from] GuestRegionCollectionError),
    /// A table without regions.
    #[error("no memory: {SHARE_IT}")]
    Nothing,
    /// A region that wraps around.
    #[error("memory region leaves the address space")]
    Overflow,
    /// Too many regions.
    #[error("more than {MAX_MEMORY_REGIONS} memory regions")]
    TooMany,
    /// The region to remove is not there.
    #[error("no such memory region")]
    Unknown,
    /// An operating system call failed.
    #[error("memory region: {0}")]
    Io(#[from] io::Error),
}

/// A memory region as a vhost-user message tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionInfo {
    /// First guest-physical address.
    pub guest_addr: u64,
    /// Length in bytes.
    pub len: u64,
    /// First address in the front end's own address space: what it uses in vring addresses.
    pub user_addr: u64,
    /// Where it starts in its file.
    pub file_offset: u64,
}

/// All of a guest's memory, mapped.
#[derive(Debug, Default)]
pub struct GuestRam {
    regions: Vec<Region>,
    map: GuestMemoryMmap,
}

/// A mapped region. The guard is dropped first, while the memory that it guards is still mapped.
#[derive(Clone, Debug)]
struct Region {
    _guard: Arc<Guard>,
    info: RegionInfo,
    mapped: Arc<GuestRegionMmap>,
}

impl GuestRam {
    /// Maps the regions of a whole table.
    pub fn from_table(table: impl Iterator<Item = (RegionInfo, File)>) -> Result<GuestRam, MemoryError> {
        let regions =
            table.map(|(info, file)| map_region(info, file)).collect::<Result<Vec<_>, MemoryError>>()?;
        if regions.is_empty() {
            return Err(MemoryError::Nothing);
        }
        GuestRam::from_regions(regions)
    }

    /// This memory and one more region.
    pub fn with(&self, info: RegionInfo, file: File) -> Result<GuestRam, MemoryError> {
        let mut regions = self.regions.clone();
        regions.push(map_region(info, file)?);
        GuestRam::from_regions(regions)
    }

    /// This memory without a region.
    pub fn without(&self, guest_addr: u64, len: u64, user_addr: u64) -> Result<GuestRam, MemoryError> {
        let mut regions = self.regions.clone();
        let known = regions.len();
        regions.retain(|Region { info, .. }| {
            (info.guest_addr, info.len, info.user_addr) != (guest_addr, len, user_addr)
        });
        if regions.len() == known { Err(MemoryError::Unknown) } else { GuestRam::from_regions(regions) }
    }

    fn from_regions(mut regions: Vec<Region>) -> Result<GuestRam, MemoryError> {
        if regions.len() > MAX_MEMORY_REGIONS {
            return Err(MemoryError::TooMany);
        }
        regions.sort_by_key(|region| region.info.guest_addr);
        let map = if regions.is_empty() {
            GuestMemoryMmap::default()
        } else {
            GuestMemoryMmap::from_arc_regions(regions.iter().map(|region| region.mapped.clone()).collect())?
        };
        Ok(GuestRam { regions, map })
    }

    /// For queues.
    pub fn map(&self) -> &GuestMemoryMmap {
        &self.map
    }

    /// The guest-physical address of an address in the front end's own address space.
    pub fn translate(&self, user_addr: u64) -> Option<u64> {
        let offset_in =
            |info: &RegionInfo| user_addr.checked_sub(info.user_addr).filter(|offset| *offset < info.len);
        self.regions.iter().find_map(|Region { info, .. }| Some(info.guest_addr + offset_in(info)?))
    }

    /// The regions with their files, for an executor.
    pub fn table(&self) -> MemoryTable<'_> {
        self.regions
            .iter()
            .filter_map(|Region { info, mapped, .. }| {
                let RegionInfo { guest_addr, len, file_offset, .. } = *info;
                let file = mapped.file_offset()?.file();
                Some((MemoryRegion { guest_addr, len, file_offset }, file.as_fd()))
            })
            .collect()
    }
}

impl GuestView for GuestRam {
    fn region_end(&self, addr: u64) -> Option<u64> {
        let region = self.map.find_region(GuestAddress(addr))?;
        region.start_addr().raw_value().checked_add(region.len())
    }

    fn load(&self, addr: u64) -> Option<u32> {
        self.map.load::<u32>(GuestAddress(addr), Ordering::Acquire).ok().map(u32::from_le)
    }

    fn store(&self, addr: u64, value: u32) -> bool {
        self.map.store(value.to_le(), GuestAddress(addr), Ordering::Release).is_ok()
    }
}

fn map_region(info: RegionInfo, file: File) -> Result<Region, MemoryError> {
    // The vhost crate receives descriptors without close-on-exec, but executors of other vGPUs are started all
    // the time. (One that is started before this line closes it itself: see `sys::inherited::close`.)
    fcntl_setfd(&file, FdFlags::CLOEXEC).map_err(io::Error::from)?;
    info.guest_addr.checked_add(info.len).ok_or(MemoryError::Overflow)?;
    info.user_addr.checked_add(info.len).ok_or(MemoryError::Overflow)?;
    let len = usize::try_from(info.len).map_err(|_large| MemoryError::Overflow)?;
    let page = page_bytes(&file)?;
    let mapping = MmapRegion::from_file(FileOffset::new(file, info.file_offset), len)?;
    // SAFETY: vm-memory makes no references to what it maps, and the region outlives its guard.
    let guard = unsafe { Guard::new(mapping.as_ptr(), mapping.size(), page) }?;
    let mapped = GuestRegionMmap::new(mapping, GuestAddress(info.guest_addr)).ok_or(MemoryError::Overflow)?;
    Ok(Region { _guard: Arc::new(guard), info, mapped: Arc::new(mapped) })
}

/// Size of the pages that a file is mapped in.
fn page_bytes(file: &File) -> io::Result<usize> {
    const HUGETLBFS_MAGIC: u64 = 0x9584_58f6;
    let system = rustix::fs::fstatfs(file)?;
    let huge = system.f_type as u64 == HUGETLBFS_MAGIC;
    Ok(if huge { system.f_bsize as usize } else { rustix::param::page_size() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    use rustix::fs::{MemfdFlags, memfd_create};

    fn survives_a_cut(flags: MemfdFlags) -> Result<(), MemoryError> {
        let len = 4 << 20;
        let file = File::from(memfd_create("ram", MemfdFlags::CLOEXEC | flags).map_err(io::Error::from)?);
        file.set_len(len)?;
        let info = RegionInfo { guest_addr: 0, len, user_addr: 0, file_offset: 0 };
        let ram = GuestRam::from_table([(info, file.try_clone()?)].into_iter())?;
        file.set_len(0)?;
        assert_eq!(ram.load(0), Some(0));
        assert!(ram.store((3 << 20) + 4096, 7));
        assert_eq!(ram.load((3 << 20) + 4096), Some(7));
        Ok(())
    }

    #[test]
    fn memory_whose_file_is_cut_short_reads_as_zeroes() {
        survives_a_cut(MemfdFlags::empty()).unwrap();
    }

    #[test]
    fn memory_of_huge_pages_too() {
        if let Err(error) = survives_a_cut(MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB) {
            // Not by eprintln, which the test runner keeps to itself.
            let _ = writeln!(io::stderr(), "skipped: this host has no huge pages to give ({error})");
        }
    }
}
