//! The ioctls of a DRM render node that the driver needs: `DRM_IOCTL_VERSION`, `DRM_IOCTL_GEM_CLOSE` and four
//! of virtio-gpu's own. Structures and numbers are those of Linux's user interface (`drm.h`,
//! `virtgpu_drm.h`).

use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};

use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

/// Type byte of every DRM ioctl.
const DRM: u8 = b'd';
/// First number of the driver's own ioctls (`DRM_COMMAND_BASE`).
const DRIVER: u8 = 0x40;

const VERSION: Opcode = opcode::read_write::<Version>(DRM, 0x00);
const GEM_CLOSE: Opcode = opcode::write::<GemClose>(DRM, 0x09);
const MAP: Opcode = opcode::read_write::<Map>(DRM, DRIVER + 0x01);
const EXECBUFFER: Opcode = opcode::read_write::<Execbuffer>(DRM, DRIVER + 0x02);
const RESOURCE_CREATE: Opcode = opcode::read_write::<ResourceCreate>(DRM, DRIVER + 0x04);
const GET_CAPS: Opcode = opcode::read_write::<GetCaps>(DRM, DRIVER + 0x09);

/// `VIRTGPU_EXECBUF_FENCE_FD_OUT`: a sync file that becomes readable with the host's answer.
const FENCE_FD_OUT: u32 = 0x02;

/// Gallium's `PIPE_BUFFER`: the resource is plain bytes.
const PIPE_BUFFER: u32 = 0;
/// virgl's `VIRGL_FORMAT_R8_UNORM`, one byte per element.
const FORMAT_R8: u32 = 64;
/// virgl's `VIRGL_BIND_CUSTOM`. The host ignores it, but a resource without any use looks like a mistake.
const BIND_CUSTOM: u32 = 1 << 17;

/// `struct drm_version`.
#[repr(C)]
struct Version {
    major: i32,
    minor: i32,
    patch: i32,
    name_len: usize,
    name: *mut u8,
    date_len: usize,
    date: *mut u8,
    desc_len: usize,
    desc: *mut u8,
}

/// `struct drm_gem_close`.
#[repr(C)]
struct GemClose {
    handle: u32,
    pad: u32,
}

/// `struct drm_virtgpu_map`.
#[repr(C)]
#[derive(Default)]
struct Map {
    offset: u64,
    handle: u32,
    pad: u32,
}

/// `struct drm_virtgpu_execbuffer` as of Linux 6.1. Later fields (sync objects) are zero for us, and the kernel
/// takes what a shorter structure lacks as zero.
#[repr(C)]
struct Execbuffer {
    flags: u32,
    size: u32,
    command: u64,
    bo_handles: u64,
    num_bo_handles: u32,
    fence_fd: i32,
    ring_idx: u32,
    pad: u32,
}

/// `struct drm_virtgpu_resource_create`.
#[repr(C)]
#[derive(Default)]
struct ResourceCreate {
    target: u32,
    format: u32,
    bind: u32,
    width: u32,
    height: u32,
    depth: u32,
    array_size: u32,
    last_level: u32,
    nr_samples: u32,
    flags: u32,
    bo_handle: u32,
    res_handle: u32,
    size: u32,
    stride: u32,
}

/// `struct drm_virtgpu_get_caps`.
#[repr(C)]
struct GetCaps {
    cap_set_id: u32,
    cap_set_ver: u32,
    addr: u64,
    size: u32,
    pad: u32,
}

// The sizes are part of the ioctls' numbers.
#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<Version>() == 64);
const _: () = assert!(size_of::<GemClose>() == 8);
const _: () = assert!(size_of::<Map>() == 16);
const _: () = assert!(size_of::<Execbuffer>() == 40);
const _: () = assert!(size_of::<ResourceCreate>() == 56);
const _: () = assert!(size_of::<GetCaps>() == 24);

/// Calls the ioctl again while a signal interrupts it; the kernel gives up then before it does anything.
macro_rules! call {
    ($fd:expr, $code:ident, $value:expr) => {
        loop {
            // SAFETY: the structure is the one that the ioctl's number was made from, so the kernel reads and
            // writes exactly its bytes. Each caller says above the call what the pointers inside name, if any,
            // and holds those borrows until the ioctl has returned.
            match unsafe { ioctl(&$fd, Updater::<$code, _>::new($value)) } {
                Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
                result => break result,
            }
        }
    };
}

/// Name of the kernel driver behind the node, at most 64 bytes of it.
pub(crate) fn driver_name(node: impl AsFd) -> io::Result<String> {
    let mut name = [0u8; 64];
    let mut version = Version {
        major: 0,
        minor: 0,
        patch: 0,
        name_len: name.len(),
        name: name.as_mut_ptr(),
        date_len: 0,
        date: std::ptr::null_mut(),
        desc_len: 0,
        desc: std::ptr::null_mut(),
    };
    // The kernel writes at most `name_len` bytes to `name`, and nothing where a length is 0.
    call!(node.as_fd(), VERSION, &mut version)?;
    // On return `name_len` is the name's full length.
    let name = &name[..version.name_len.min(name.len())];
    Ok(String::from_utf8_lossy(name).into_owned())
}

/// Reads a capset's first bytes into `into`. A node that has no such capset answers `EINVAL` or `ENOSYS`.
pub(crate) fn get_caps(node: impl AsFd, id: u32, version: u32, into: &mut [u8]) -> io::Result<()> {
    let size = u32::try_from(into.len()).unwrap_or(u32::MAX);
    let mut request =
        GetCaps { cap_set_id: id, cap_set_ver: version, addr: into.as_mut_ptr() as u64, size, pad: 0 };
    // The kernel writes at most `size` bytes to `addr`.
    call!(node.as_fd(), GET_CAPS, &mut request)?;
    Ok(())
}

/// A resource, in its two names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Resource {
    /// This DRM file's name for it.
    pub(crate) bo_handle: u32,
    /// The device's name for it.
    pub(crate) id: u32,
}

/// Makes a resource of `bytes` bytes with zeroed guest pages, attached to this file's context.
pub(crate) fn resource_create(node: impl AsFd, bytes: u32) -> io::Result<Resource> {
    let mut request = ResourceCreate {
        target: PIPE_BUFFER,
        format: FORMAT_R8,
        bind: BIND_CUSTOM,
        // RESOURCE_CREATE_3D carries no size in bytes, so the host takes the width for it.
        width: bytes,
        height: 1,
        depth: 1,
        array_size: 1,
        size: bytes,
        ..ResourceCreate::default()
    };
    call!(node.as_fd(), RESOURCE_CREATE, &mut request)?;
    Ok(Resource { bo_handle: request.bo_handle, id: request.res_handle })
}

/// The offset at which the node must be mapped to reach a resource's pages.
pub(crate) fn map_offset(node: impl AsFd, bo_handle: u32) -> io::Result<u64> {
    let mut request = Map { handle: bo_handle, ..Map::default() };
    call!(node.as_fd(), MAP, &mut request)?;
    Ok(request.offset)
}

/// Gives up a resource.
pub(crate) fn gem_close(node: impl AsFd, bo_handle: u32) -> io::Result<()> {
    let mut request = GemClose { handle: bo_handle, pad: 0 };
    call!(node.as_fd(), GEM_CLOSE, &mut request)?;
    Ok(())
}

/// Queues a command for the device; with `fence`, returns a sync file that becomes readable when the device has
/// answered it.
pub(crate) fn execbuffer(node: impl AsFd, command: &[u8], fence: bool) -> io::Result<Option<OwnedFd>> {
    let mut request = Execbuffer {
        flags: if fence { FENCE_FD_OUT } else { 0 },
        size: u32::try_from(command.len()).map_err(|_long| io::ErrorKind::InvalidInput)?,
        command: command.as_ptr() as u64,
        bo_handles: 0,
        num_bo_handles: 0,
        fence_fd: -1,
        ring_idx: 0,
        pad: 0,
    };
    // The kernel copies `size` bytes from `command` before it returns, and keeps no pointer.
    call!(node.as_fd(), EXECBUFFER, &mut request)?;
    if !fence {
        return Ok(None);
    }
    if request.fence_fd < 0 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    // SAFETY: with FENCE_FD_OUT a successful EXECBUFFER has installed a new descriptor for the caller and put
    // its number here; nobody else knows it.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(request.fence_fd) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers as strace prints them for other users of the interface.
    #[test]
    fn ioctl_numbers_are_the_kernels() {
        #[cfg(target_pointer_width = "64")]
        assert_eq!(VERSION, 0xc040_6400);
        assert_eq!(GEM_CLOSE, 0x4008_6409);
        assert_eq!(MAP, 0xc010_6441);
        assert_eq!(EXECBUFFER, 0xc028_6442);
        assert_eq!(RESOURCE_CREATE, 0xc038_6444);
        assert_eq!(GET_CAPS, 0xc018_6449);
    }

    #[test]
    fn a_file_that_is_no_render_node_is_an_error() {
        let null = std::fs::File::open("/dev/null").unwrap();
        assert!(driver_name(&null).is_err());
        assert!(get_caps(&null, 27, 0, &mut [0; 64]).is_err());
        assert!(resource_create(&null, 4096).is_err());
        assert!(map_offset(&null, 1).is_err());
        assert!(gem_close(&null, 1).is_err());
        assert!(execbuffer(&null, &[0; 8], true).is_err());
    }
}
