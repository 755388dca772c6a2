//! Moving data.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use opencl3::memory::{
    Buffer, CL_MAP_READ, CL_MAP_WRITE, CL_MEM_ALLOC_HOST_PTR, CL_MEM_READ_WRITE, CL_MEM_USE_HOST_PTR,
    ClMem as _,
};

use crate::place::Place;
use crate::{Workload, timed};

const PAGE: usize = 4096;
const WORDS: usize = PAGE / 4;

/// `OPERATION/KIND/SIZE`, such as `read/plain/64K`.
pub(crate) fn open<'a>(name: &str, place: &'a Place) -> Result<Option<Box<dyn Workload + 'a>>> {
    let [operation, kind, size] = name.split('/').collect::<Vec<_>>()[..] else { return Ok(None) };
    let operation = match operation {
        "read" => Operation::Read,
        "write" => Operation::Write,
        "copy" => Operation::Copy,
        "fill" => Operation::Fill,
        "map" => Operation::Map,
        _ => return Ok(None),
    };
    let kind = match kind {
        "plain" => Kind::Plain,
        "alloc-host" => Kind::AllocHost,
        "use-host" => Kind::UseHost,
        _ => return Ok(None),
    };
    let (number, shift) = match (size.strip_suffix('K'), size.strip_suffix('M')) {
        (Some(number), _) => (number, 10),
        (_, Some(number)) => (number, 20),
        _ => return Ok(None),
    };
    let size = number.parse::<usize>()? << shift;
    Ok(Some(Box::new(Transfer::new(place, operation, kind, size)?)))
}

#[derive(Clone, Copy, PartialEq)]
enum Operation {
    Read,
    Write,
    Copy,
    Fill,
    Map,
}

/// Which memory a buffer lies in.
#[derive(Clone, Copy)]
enum Kind {
    /// What the driver takes.
    Plain,
    /// What the driver takes for the host to reach.
    AllocHost,
    /// The program's.
    UseHost,
}

/// A page of memory, where pages begin.
#[derive(Clone)]
#[repr(C, align(4096))]
struct Page([u32; WORDS]);

/// Memory of the program's.
struct Memory(Vec<Page>);

impl Memory {
    fn new(size: usize) -> Memory {
        Memory(vec![Page([0; WORDS]); size / PAGE])
    }

    fn word(&mut self, index: usize) -> &mut u32 {
        &mut self.0[index / WORDS].0[index % WORDS]
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: pages are words without padding, and lie one after the other.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len() * PAGE) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, any bytes are words, and this is the only way to them for as long.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), self.0.len() * PAGE) }
    }
}

/// What one buffer has in it.
struct Store {
    // First, so that it goes before the memory that it may lie in.
    buffer: Buffer<u8>,
    _memory: Option<Memory>,
}

impl Store {
    fn new(place: &Place, kind: Kind, size: usize) -> Result<Store> {
        Ok(match kind {
            Kind::Plain => Store { buffer: place.buffer(size)?, _memory: None },
            Kind::AllocHost => {
                let flags = CL_MEM_READ_WRITE | CL_MEM_ALLOC_HOST_PTR;
                Store { buffer: place.buffer_with(flags, size)?, _memory: None }
            }
            Kind::UseHost => {
                let mut memory = Memory::new(size);
                let flags = CL_MEM_READ_WRITE | CL_MEM_USE_HOST_PTR;
                let pointer = memory.0.as_mut_ptr().cast();
                // SAFETY: the memory is that long and outlives the buffer, and nothing else uses it.
                let buffer = unsafe { Buffer::create(&place.context, flags, size, pointer) };
                Store { buffer: buffer.context("cannot create a buffer")?, _memory: Some(memory) }
            }
        })
    }
}

struct Transfer<'a> {
    place: &'a Place,
    operation: Operation,
    /// What the operation reads or writes.
    store: Store,
    /// Where it copies to.
    copy: Option<Store>,
    /// Where it reads to or writes from; what the buffers must have in them, otherwise.
    memory: Memory,
    /// Words that are different each time: at the begin, in the middle and at the end.
    stamped: [usize; 3],
    stamp: u32,
}

impl<'a> Transfer<'a> {
    fn new(place: &'a Place, operation: Operation, kind: Kind, size: usize) -> Result<Transfer<'a>> {
        let mut store = Store::new(place, kind, size)?;
        let is_copy = operation == Operation::Copy;
        let copy = is_copy.then(|| Store::new(place, kind, size)).transpose()?;
        let mut memory = Memory::new(size);
        let words = size / 4;
        for index in 0..words {
            *memory.word(index) = pattern(index);
        }
        place.write(&mut store.buffer, memory.bytes())?;
        let stamped = [0, words / 2, words - 1];
        Ok(Transfer { place, operation, store, copy, memory, stamped, stamp: 0 })
    }

    /// Makes the stamped words of the program's memory other ones than before.
    fn stamp(&mut self) {
        self.stamp = self.stamp.wrapping_add(0x9e37_79b9);
        for index in self.stamped {
            *self.memory.word(index) = self.stamp;
        }
    }

    fn map(&mut self) -> Result<Duration> {
        let (queue, buffer, size) = (&self.place.queue, self.store.buffer.get(), self.memory.bytes().len());
        let (old, new) = (self.stamp, self.stamp.wrapping_add(0x9e37_79b9));
        self.stamp = new;
        let mut found = 0;
        let took = timed(|| {
            // SAFETY: the mapping is that long and aligned for words; what it has is read and written until it ends.
            unsafe {
                let flags = CL_MAP_READ | CL_MAP_WRITE;
                let mapped = self.place.direct.map(queue.get(), buffer, flags, size)?;
                for index in self.stamped {
                    let word = mapped.cast::<u32>().add(index);
                    found = word.read();
                    word.write(new);
                }
                self.place.direct.unmap(queue.get(), buffer, mapped)?;
            }
            queue.finish().context("clFinish")
        })?;
        ensure!(found == old, "mapped {found:#x} instead of {old:#x}");
        self.stamped.into_iter().for_each(|index| *self.memory.word(index) = new);
        Ok(took)
    }
}

/// A word that depends on where it is.
fn pattern(index: usize) -> u32 {
    (index as u32).wrapping_mul(2_654_435_761) ^ 0x5bd1_e995
}

impl Workload for Transfer<'_> {
    /// What is read, copied or mapped is other data than before.
    fn prepare(&mut self) -> Result<()> {
        self.stamp();
        self.place.write(&mut self.store.buffer, self.memory.bytes())?;
        self.place.queue.finish().context("clFinish")
    }

    fn sample(&mut self) -> Result<Duration> {
        let (queue, direct) = (&self.place.queue, &self.place.direct);
        let (buffer, size) = (self.store.buffer.get(), self.memory.bytes().len());
        match self.operation {
            Operation::Read => {
                self.stamped.into_iter().for_each(|index| *self.memory.word(index) = 0);
                // SAFETY: a queue and a buffer that live.
                let took = timed(|| unsafe { direct.read(queue.get(), buffer, self.memory.bytes_mut()) })?;
                for index in self.stamped {
                    let found = *self.memory.word(index);
                    ensure!(found == self.stamp, "read {found:#x} instead of {:#x}", self.stamp);
                }
                Ok(took)
            }
            Operation::Write => {
                self.stamp();
                // SAFETY: as above.
                timed(|| unsafe { direct.write(queue.get(), buffer, self.memory.bytes()) })
            }
            Operation::Copy => {
                let to = self.copy.as_ref().context("no copy")?.buffer.get();
                timed(|| {
                    // SAFETY: as above.
                    unsafe { direct.copy(queue.get(), buffer, to, size)? };
                    queue.finish().context("clFinish")
                })
            }
            Operation::Fill => {
                self.stamp = self.stamp.wrapping_add(0x9e37_79b9);
                timed(|| {
                    // SAFETY: as above.
                    unsafe { direct.fill(queue.get(), buffer, self.stamp, size)? };
                    queue.finish().context("clFinish")
                })
            }
            Operation::Map => self.map(),
        }
    }

    fn check(&mut self) -> Result<()> {
        let mut found = Memory::new(self.memory.bytes().len());
        let store = self.copy.as_ref().unwrap_or(&self.store);
        self.place.read(&store.buffer, found.bytes_mut())?;
        for index in 0..found.0.len() * WORDS {
            let is_stamped = self.operation == Operation::Fill || self.stamped.contains(&index);
            let expected = if is_stamped { self.stamp } else { pattern(index) };
            let found = *found.word(index);
            ensure!(found == expected, "word {index} is {found:#x} and not {expected:#x}");
        }
        Ok(())
    }
}
