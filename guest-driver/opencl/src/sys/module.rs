//! The ioctls of paragpu's own kernel module, `/dev/paragpu*`. Structures and numbers are those of
//! `guest-driver/linux/uapi/paragpu.h`, which says what each does.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::ioctl::{Opcode, Setter, Updater, ioctl, opcode};

use crate::sys::mapping::Mapping;

/// Type byte of the module's ioctls.
const TYPE: u8 = 0xb9;

const CAPSET: Opcode = opcode::read_write::<Capset>(TYPE, 0x40);
const REGION_CREATE: Opcode = opcode::read_write::<RegionCreate>(TYPE, 0x41);
const REGION_PIN: Opcode = opcode::read_write::<RegionPin>(TYPE, 0x42);
const REGION_CLOSE: Opcode = opcode::write::<RegionClose>(TYPE, 0x43);
const SUBMIT: Opcode = opcode::read_write::<Submit>(TYPE, 0x44);
const WAIT: Opcode = opcode::write::<Wait>(TYPE, 0x45);

/// `PARAGPU_SUBMIT_FENCE`
const SUBMIT_FENCE: u32 = 1;

#[repr(C)]
struct Capset {
    addr: u64,
    bytes: u32,
    reserved: u32,
}

#[repr(C)]
#[derive(Default)]
struct RegionCreate {
    bytes: u64,
    flags: u32,
    handle: u32,
    id: u32,
    reserved: u32,
    mmap_offset: u64,
}

#[repr(C)]
#[derive(Default)]
struct RegionPin {
    addr: u64,
    bytes: u64,
    flags: u32,
    handle: u32,
    id: u32,
    reserved: u32,
}

#[repr(C)]
struct RegionClose {
    handle: u32,
    reserved: u32,
}

#[repr(C)]
struct Submit {
    addr: u64,
    bytes: u32,
    flags: u32,
    fence: u64,
}

#[repr(C)]
struct Wait {
    fence: u64,
    timeout_ns: i64,
}

// The sizes are part of the ioctls' numbers.
const _: () = assert!(size_of::<Capset>() == 16);
const _: () = assert!(size_of::<RegionCreate>() == 32);
const _: () = assert!(size_of::<RegionPin>() == 32);
const _: () = assert!(size_of::<RegionClose>() == 8);
const _: () = assert!(size_of::<Submit>() == 24);
const _: () = assert!(size_of::<Wait>() == 16);

/// Calls the ioctl again while a signal interrupts it; the module gives up then before it does anything.
macro_rules! update {
    ($fd:expr, $code:ident, $value:expr) => {
        loop {
            // SAFETY: the structure is the one that the ioctl's number was made from, so the kernel reads and
            // writes exactly its bytes. Each caller says above the call what the addresses inside name, if any,
            // and holds those borrows until the ioctl has returned.
            match unsafe { ioctl(&$fd, Updater::<$code, _>::new($value)) } {
                Err(rustix::io::Errno::INTR) => {}
                result => break result,
            }
        }
    };
}

/// Reads a capset's first bytes into `into`; the answer is the capset's whole length. A file that is not the module's
/// answers `ENOTTY`.
pub(crate) fn capset(node: impl AsFd, into: &mut [u8]) -> io::Result<usize> {
    let bytes = u32::try_from(into.len()).unwrap_or(u32::MAX);
    let mut request = Capset { addr: into.as_mut_ptr() as u64, bytes, reserved: 0 };
    // The kernel writes at most `bytes` bytes to `addr`.
    update!(node.as_fd(), CAPSET, &mut request)?;
    Ok(request.bytes as usize)
}

/// A region, in its two names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Names {
    /// This file's name for it.
    pub(crate) handle: u32,
    /// The device's name for it.
    pub(crate) id: u32,
}

/// Makes a region of `bytes` zeroed bytes, attached to this file's context. With it comes the offset at which the node
/// must be mapped to reach it.
pub(crate) fn region_create(node: impl AsFd, bytes: u64) -> io::Result<(Names, u64)> {
    let mut request = RegionCreate { bytes, ..RegionCreate::default() };
    update!(node.as_fd(), REGION_CREATE, &mut request)?;
    Ok((Names { handle: request.handle, id: request.id }, request.mmap_offset))
}

/// Shares memory that is mapped already with this file's context. It must stay mapped until the region is closed, or
/// what the host writes reaches nobody.
pub(crate) fn region_pin(node: impl AsFd, memory: &Mapping) -> io::Result<Names> {
    let addr = memory.ptr().as_ptr().expose_provenance() as u64;
    let mut request = RegionPin { addr, bytes: memory.len() as u64, ..RegionPin::default() };
    // The kernel takes references of its own to the pages of the mapping, which is borrowed here. That others write to
    // them is what a `Mapping` is for.
    update!(node.as_fd(), REGION_PIN, &mut request)?;
    Ok(Names { handle: request.handle, id: request.id })
}

/// Gives a region up.
pub(crate) fn region_close(node: impl AsFd, handle: u32) -> io::Result<()> {
    let request = RegionClose { handle, reserved: 0 };
    // SAFETY: as in `update`: the kernel reads exactly the structure's bytes. It holds no address.
    unsafe { ioctl(node.as_fd(), Setter::<REGION_CLOSE, _>::new(request)) }?;
    Ok(())
}

/// Sends a command to the context. With `fence`, the answer is the number of a fence that is passed when the device has
/// answered.
pub(crate) fn submit(node: impl AsFd, command: &[u8], fence: bool) -> io::Result<u64> {
    let mut request = Submit {
        addr: command.as_ptr() as u64,
        bytes: u32::try_from(command.len()).map_err(|_long| io::ErrorKind::InvalidInput)?,
        flags: if fence { SUBMIT_FENCE } else { 0 },
        fence: 0,
    };
    // The kernel copies `bytes` bytes from `addr` before it returns, and keeps no address.
    update!(node.as_fd(), SUBMIT, &mut request)?;
    Ok(request.fence)
}

/// Waits until the device has answered; false if it has not within `timeout`, or a signal came.
pub(crate) fn wait(node: impl AsFd, fence: u64, timeout: Duration) -> io::Result<bool> {
    let timeout_ns = i64::try_from(timeout.as_nanos()).unwrap_or(i64::MAX);
    // SAFETY: as in `region_close`.
    match unsafe { ioctl(node.as_fd(), Setter::<WAIT, _>::new(Wait { fence, timeout_ns })) } {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::TIMEDOUT | rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ioctl_numbers_are_those_of_the_modules_header() {
        let header = include_str!("../../../linux/uapi/paragpu.h");
        for (name, number, direction) in [
            ("CAPSET", CAPSET, "_IOWR"),
            ("REGION_CREATE", REGION_CREATE, "_IOWR"),
            ("REGION_PIN", REGION_PIN, "_IOWR"),
            ("REGION_CLOSE", REGION_CLOSE, "_IOW"),
            ("SUBMIT", SUBMIT, "_IOWR"),
            ("WAIT", WAIT, "_IOW"),
        ] {
            let line =
                header.lines().find(|line| line.starts_with(&format!("#define PARAGPU_IOCTL_{name}\t")));
            let line = line.unwrap_or_else(|| panic!("no {name}"));
            assert!(
                line.contains(&format!("{direction}({:#x}, {:#x},", number >> 8 & 0xff, number & 0xff)),
                "{line}"
            );
        }
    }

    #[test]
    fn a_file_that_is_not_the_modules_is_an_error() {
        let null = std::fs::File::open("/dev/null").unwrap();
        assert!(capset(&null, &mut [0; 64]).is_err());
        assert!(region_create(&null, 4096).is_err());
        assert!(region_close(&null, 1).is_err());
        assert!(submit(&null, &[0; 8], true).is_err());
        assert!(wait(&null, 1, Duration::ZERO).is_err());
    }
}
