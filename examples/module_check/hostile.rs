//! A program that means the kernel harm: random calls with random arguments on shared files, from several threads, while
//! others map, unmap, fork and close. Only the kernel's log tells whether it went well.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::node::{
    ALL, CAPSET, FENCE, Memory, Node, REGION_CLOSE, REGION_CREATE, REGION_PIN, SUBMIT, WAIT, Words,
};
use crate::random::Random;

const FILES: usize = 6;
const THREADS: u64 = 6;
const MAPPINGS: usize = 64;

/// What the threads do to each other's files.
struct Field {
    path: String,
    files: Vec<Mutex<Arc<Node>>>,
    /// The addresses that arguments may name: memory of this field's, which nobody looks at.
    grounds: Vec<u64>,
}

/// Does so for some time; prints how many calls succeeded.
pub(crate) fn attack(path: &str, duration: Duration, seed: u64) -> Result<()> {
    let own = Memory::anonymous(16 << 20)?;
    let files = (0..FILES).map(|_| Ok(Mutex::new(Arc::new(Node::open(path)?)))).collect::<Result<_>>()?;
    let start = own.start.addr() as u64;
    let grounds = vec![
        start,
        start + 1,
        start + 4096,
        start + (4 << 20),
        start + own.bytes as u64 - 4096,
        start + own.bytes as u64 - 8,
        0,
        8,
        0xffff_8880_0000_0000,
        0xffff_ffff_8100_0000,
        1 << 47,
        u64::MAX - 4095,
        u64::MAX,
    ];
    let field = Field { path: path.to_owned(), files, grounds };
    let end = Instant::now() + duration;
    let outcomes = std::thread::scope(|scope| {
        let field = &field;
        let threads: Vec<_> = (0..THREADS)
            .map(|number| scope.spawn(move || Attacker::new(field, seed * THREADS + number).run(end)))
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_default()).collect::<Vec<_>>()
    });
    let mut sum = BTreeMap::new();
    for (outcome, count) in outcomes.into_iter().flatten() {
        *sum.entry(outcome).or_insert(0) += count;
    }
    for ((command, error), count) in sum {
        println!("{command:<14} {count:>9}  {error}");
    }
    Ok(())
}

type Outcomes = BTreeMap<(&'static str, String), u64>;

struct Attacker<'a> {
    field: &'a Field,
    random: Random,
    mappings: Vec<Memory>,
    offsets: Vec<u64>,
    fences: Vec<u64>,
    outcomes: Outcomes,
}

impl<'a> Attacker<'a> {
    fn new(field: &'a Field, seed: u64) -> Attacker<'a> {
        Attacker {
            field,
            random: Random::new(seed),
            mappings: Vec::new(),
            offsets: vec![0, 1 << 32],
            fences: vec![0, 1],
            outcomes: Outcomes::new(),
        }
    }

    fn run(mut self, end: Instant) -> Outcomes {
        while Instant::now() < end {
            match self.random.below(100) {
                0..70 => self.call(),
                70..85 => self.map(),
                85..94 => drop(self.take_mapping()),
                94..96 => self.rearrange(),
                96..97 => self.fork(),
                _ => self.reopen(),
            }
        }
        self.outcomes
    }

    fn node(&mut self) -> Arc<Node> {
        let slot = self.random.pick(&self.field.files);
        Arc::clone(&slot.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn count(&mut self, name: &'static str, result: std::io::Result<()>) {
        let text = result.map_or_else(|error| error.to_string(), |()| "ok".to_owned());
        *self.outcomes.entry((name, text)).or_insert(0) += 1;
    }

    fn call(&mut self) {
        let mut command = *self.random.pick(&ALL);
        let mut words = self.plausible(command);
        // One thing is wrong in many calls; more would not get as far. Where a capset goes is always a ground, since
        // this program's own memory is to stay as it is.
        let first = u64::from(command == CAPSET);
        let at = (first + self.random.below(4 - first)) as usize;
        match self.random.below(12) {
            0 => words[at] = self.random.next(),
            1 => words[at] = self.number(),
            2 => words[at] ^= 1 << self.random.below(64),
            3 => command ^= 1 << self.random.below(32),
            4 => command = self.random.next() as u32,
            _ => {}
        }
        let node = self.node();
        let name = name(command);
        if self.random.below(20) == 0 {
            let address = *self.random.pick(&self.field.grounds);
            self.count(name, node.call_at(command, address));
            return;
        }
        let result = node.call(command, &mut words);
        if result.is_ok() && command == REGION_CREATE {
            self.remember(words[3]);
        }
        if result.is_ok() && command == SUBMIT {
            self.fences.push(words[2]);
            let oldest = self.fences.len().saturating_sub(64);
            self.fences.drain(..oldest);
        }
        self.count(name, result);
    }

    fn remember(&mut self, offset: u64) {
        self.offsets.push(offset);
        let oldest = self.offsets.len().saturating_sub(64);
        self.offsets.drain(..oldest);
    }

    fn plausible(&mut self, command: u32) -> Words {
        let ground = *self.random.pick(&self.field.grounds);
        match command {
            CAPSET => [ground, self.random.below(300), 0, 0],
            REGION_CREATE => [self.random.below(4 << 20), 0, 0, 0],
            REGION_PIN => {
                let pages = self.random.below(64) + 1;
                let mapping = self.mappings.last().map(|mapping| mapping.start.addr() as u64);
                let address = mapping.filter(|_| pages.is_multiple_of(2)).unwrap_or(ground & !4095);
                [address, pages << 12, 0, 0]
            }
            REGION_CLOSE => [self.random.below(24), 0, 0, 0],
            SUBMIT => {
                let flags = if self.random.below(2) == 0 { FENCE } else { 0 };
                let bytes = *self.random.pick(&[4, 8, 16, 64, 256, 4096, 65536, 65537]);
                [self.field.grounds[0], bytes | flags, 0, 0]
            }
            WAIT => [*self.random.pick(&self.fences), self.random.below(2_000_000), 0, 0],
            _ => [0; 4],
        }
    }

    /// A number at which something may be off by one.
    fn number(&mut self) -> u64 {
        let base = 1_u64 << self.random.below(64);
        let ground = *self.random.pick(&self.field.grounds);
        *self.random.pick(&[0, 1, base, base - 1, base.wrapping_add(1), !base, u64::MAX, ground])
    }

    fn map(&mut self) {
        let offset = match self.random.below(8) {
            0 => self.number() & !4095,
            1 => *self.random.pick(&self.offsets) + 4096,
            _ => *self.random.pick(&self.offsets),
        };
        let bytes = (self.random.below(300) as usize + 1) << 12;
        let flags =
            *self.random.pick(&[libc::MAP_SHARED, libc::MAP_SHARED, libc::MAP_SHARED, libc::MAP_PRIVATE]);
        let node = self.node();
        let result = Memory::of(&node, offset, bytes, flags).map(|memory| {
            memory.touch(1);
            self.mappings.push(memory);
        });
        self.count("mmap", result);
        if self.mappings.len() > MAPPINGS {
            drop(self.take_mapping());
        }
    }

    fn take_mapping(&mut self) -> Option<Memory> {
        let at = self.random.below(self.mappings.len().max(1) as u64) as usize;
        (at < self.mappings.len()).then(|| self.mappings.swap_remove(at))
    }

    /// Splits, moves and protects a mapping, then lets go of it.
    fn rearrange(&mut self) {
        let Some(memory) = self.take_mapping() else { return };
        let memory = std::mem::ManuallyDrop::new(memory);
        let half = (memory.bytes / 2) & !4095;
        let start = memory.start.cast::<libc::c_void>();
        // SAFETY: the range is this mapping's alone, which nothing refers into and which nobody else unmaps. Of what
        // mremap has moved away, the old place may be somebody else's at once, and only the new one is unmapped.
        unsafe {
            libc::mprotect(start, half, libc::PROT_READ);
            libc::madvise(start, memory.bytes, *self.random.pick(&[libc::MADV_DONTNEED, libc::MADV_REMOVE]));
            let larger = memory.bytes + 8192;
            let moved = libc::mremap(start, half, larger, libc::MREMAP_MAYMOVE);
            if moved != libc::MAP_FAILED {
                libc::munmap(moved, larger);
                libc::munmap(start.byte_add(half), memory.bytes - half);
            } else {
                libc::munmap(start, memory.bytes);
            }
        }
    }

    /// A child that has everything, and ends at once.
    fn fork(&mut self) {
        // SAFETY: the child only ends; it takes no lock and touches no memory that threads of its parent share.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: ends the child without running anything of its parent's.
            unsafe { libc::_exit(0) };
        }
        if child > 0 {
            // SAFETY: waits for the child that was made above; no status is wanted.
            unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
        }
    }

    /// Closes a file, perhaps while another thread is in it, and opens it anew.
    fn reopen(&mut self) {
        let node = Node::open(&self.field.path);
        let result = node.map(|node| {
            let slot = self.random.pick(&self.field.files);
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(node);
        });
        self.count("open", result);
    }
}

fn name(command: u32) -> &'static str {
    match command {
        CAPSET => "CAPSET",
        REGION_CREATE => "REGION_CREATE",
        REGION_PIN => "REGION_PIN",
        REGION_CLOSE => "REGION_CLOSE",
        SUBMIT => "SUBMIT",
        WAIT => "WAIT",
        _ => "other",
    }
}
