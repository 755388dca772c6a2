//! The module's node, by its raw interface (guest-driver/linux/uapi/paragpu.h).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::ptr;

/// The ioctls, as the header's macros make them: direction, size, type, number.
pub(crate) const CAPSET: u32 = number(3, 16, 0x40);
pub(crate) const REGION_CREATE: u32 = number(3, 32, 0x41);
pub(crate) const REGION_PIN: u32 = number(3, 32, 0x42);
pub(crate) const REGION_CLOSE: u32 = number(1, 8, 0x43);
pub(crate) const SUBMIT: u32 = number(3, 24, 0x44);
pub(crate) const WAIT: u32 = number(1, 16, 0x45);
pub(crate) const ALL: [u32; 6] = [CAPSET, REGION_CREATE, REGION_PIN, REGION_CLOSE, SUBMIT, WAIT];

/// `PARAGPU_SUBMIT_FENCE`, in the upper half of the word that starts with the length.
pub(crate) const FENCE: u64 = 1 << 32;

const fn number(direction: u32, bytes: u32, number: u32) -> u32 {
    direction << 30 | bytes << 16 | 0xb9 << 8 | number
}

/// An argument: as many words as the longest has.
pub(crate) type Words = [u64; 4];

/// An open node.
pub(crate) struct Node(pub(crate) File);

impl Node {
    pub(crate) fn open(path: &str) -> io::Result<Node> {
        OpenOptions::new().read(true).write(true).open(path).map(Node)
    }

    /// Any ioctl with any argument.
    pub(crate) fn call(&self, command: u32, words: &mut Words) -> io::Result<()> {
        self.call_at(command, words.as_mut_ptr().addr() as u64)
    }

    /// The same, with the argument anywhere.
    pub(crate) fn call_at(&self, command: u32, address: u64) -> io::Result<()> {
        // SAFETY: the kernel writes at most the argument's 32 bytes, and what a capset's address names. Callers pass
        // addresses of `Words`, of memory that nothing else in this program looks at, or of nothing.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), command.into(), address) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Makes a region: its handle, the host's name for it, and where to map it.
    pub(crate) fn create(&self, bytes: u64) -> io::Result<(u32, u32, u64)> {
        let mut words = [bytes, 0, 0, 0];
        self.call(REGION_CREATE, &mut words)?;
        Ok(((words[1] >> 32) as u32, words[2] as u32, words[3]))
    }

    pub(crate) fn close(&self, handle: u32) -> io::Result<()> {
        self.call(REGION_CLOSE, &mut [handle.into(), 0, 0, 0])
    }

    /// Submits a command; the answer is the fence, or 0.
    pub(crate) fn submit(&self, command: &[u32], flags: u64) -> io::Result<u64> {
        let mut words = [command.as_ptr().addr() as u64, size_of_val(command) as u64 | flags, 0, 0];
        self.call(SUBMIT, &mut words)?;
        Ok(words[2])
    }

    pub(crate) fn wait(&self, fence: u64, nanoseconds: u64) -> io::Result<()> {
        self.call(WAIT, &mut [fence, nanoseconds, 0, 0])
    }
}

/// Memory of this process's, unmapped when dropped.
pub(crate) struct Memory {
    pub(crate) start: *mut u8,
    pub(crate) bytes: usize,
}

// SAFETY: a mapping is the process's, not a thread's.
unsafe impl Send for Memory {}

impl Memory {
    /// A region, or anything else of a node's.
    pub(crate) fn of(node: &Node, offset: u64, bytes: usize, flags: i32) -> io::Result<Memory> {
        Memory::map(node.0.as_raw_fd(), offset, bytes, flags)
    }

    /// Memory of nobody else's.
    pub(crate) fn anonymous(bytes: usize) -> io::Result<Memory> {
        Memory::map(-1, 0, bytes, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS)
    }

    fn map(file: i32, offset: u64, bytes: usize, flags: i32) -> io::Result<Memory> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: without MAP_FIXED nothing that is mapped is replaced.
        let start =
            unsafe { libc::mmap(ptr::null_mut(), bytes, protection, flags, file, offset.cast_signed()) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Memory { start: start.cast(), bytes })
    }

    /// Writes and reads a byte of each page; the first page is the host's. False if a byte is not what was written.
    pub(crate) fn touch(&self, value: u8) -> bool {
        (4096..self.bytes).step_by(4096).all(|at| {
            // SAFETY: inside of the mapping, of which this program has no references.
            unsafe {
                self.start.add(at).write_volatile(value);
                self.start.add(at).read_volatile() == value
            }
        })
    }

    /// The word at `at`, which the host writes.
    pub(crate) fn word(&self, at: usize) -> u32 {
        assert!(at + 4 <= self.bytes);
        // SAFETY: inside of the mapping, checked above, and aligned as all offsets that callers use.
        unsafe { self.start.add(at).cast::<u32>().read_volatile() }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the range is the one that mmap returned, and nothing refers into it.
        unsafe { libc::munmap(self.start.cast(), self.bytes) };
    }
}
