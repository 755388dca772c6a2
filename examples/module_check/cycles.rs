//! Opening, allocating, submitting and closing, again and again, with an eye on what the kernel holds.

use std::fs;
use std::io::Read;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use paragpu_protocol::control::{Doorbell, StartRing, Wait};
use paragpu_protocol::limits::MIN_RING_BYTES;
use paragpu_protocol::ring::{HEADER_BYTES, Status, Word};
use zerocopy::IntoBytes;

use crate::node::{FENCE, Memory, Node, REGION_PIN};
use crate::random::Random;

/// How long the kernel may take to give everything back.
const SETTLE: Duration = Duration::from_secs(60);

/// One process's part: each cycle opens the node, makes regions of some size, maps and touches them, pins memory, starts a
/// ring, waits for the host, and leaves part of the work to the closing of the file.
pub(crate) fn work(path: &str, cycles: u64, seed: u64) -> Result<()> {
    let mut random = Random::new(seed);
    for cycle in 0..cycles {
        one(path, &mut random).with_context(|| format!("in cycle {cycle}"))?;
    }
    Ok(())
}

fn one(path: &str, random: &mut Random) -> Result<()> {
    let node = Node::open(path).context("open")?;
    let ring_bytes = (HEADER_BYTES + MIN_RING_BYTES) as usize;
    let (_handle, id, offset) = node.create(ring_bytes as u64).context("making a ring's region")?;
    let ring = Memory::of(&node, offset, ring_bytes, libc::MAP_SHARED).context("mapping the ring")?;
    let (handle, _, offset) = node.create(random.below(2 << 20) + 1).context("making a region")?;
    let data = Memory::of(&node, offset, 4096, libc::MAP_SHARED).context("mapping the region")?;
    ensure!(data.touch(cycle_byte(random)), "what was written is not there");
    let own = Memory::anonymous(64 << 10)?;
    let mut pin = [own.start.addr() as u64, own.bytes as u64, 0, 0];
    node.call(REGION_PIN, &mut pin).context("pinning memory")?;

    node.submit(&words(StartRing::new(id, MIN_RING_BYTES).as_bytes()), 0).context("starting the ring")?;
    let deadline = Instant::now() + SETTLE;
    while ring.word(Word::Status.offset()) != Status::Running as u32 {
        ensure!(Instant::now() < deadline, "the host does not start the ring");
        let seen = ring.word(Word::WakeSeq.offset());
        let fence = node.submit(&words(Wait::new(seen).as_bytes()), FENCE).context("submitting a wait")?;
        node.wait(fence, 5_000_000_000).context("waiting")?;
    }
    node.submit(&words(Doorbell::new().as_bytes()), 0).context("ringing the doorbell")?;
    if random.below(2) == 0 {
        node.close(handle).context("closing a region")?;
    }
    Ok(())
}

fn cycle_byte(random: &mut Random) -> u8 {
    random.below(256) as u8
}

fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks(4).map(|word| u32::from_le_bytes(std::array::from_fn(|index| word[index]))).collect()
}

/// Runs `work` in processes of its own.
pub(crate) fn start(path: &str, processes: u64, cycles: u64) -> Result<Vec<Child>> {
    let program = std::env::current_exe()?;
    (0..processes)
        .map(|seed| {
            let mut command = Command::new(&program);
            command.args(["--node", path, "work", &cycles.to_string(), &seed.to_string()]);
            command.spawn().context("cannot start a process")
        })
        .collect()
}

/// All of it: a few cycles to fill caches, a look, many cycles, another look.
pub(crate) fn check(path: &str, processes: u64, cycles: u64) -> Result<()> {
    run(path, processes, cycles.min(25))?;
    let before = Held::settled(None)?;
    println!("before: {before:?}");
    run(path, processes, cycles)?;
    let after = Held::settled(Some(&before))?;
    println!("after {cycles} cycles of {processes} processes: {after:?}");
    Ok(())
}

fn run(path: &str, processes: u64, cycles: u64) -> Result<()> {
    for mut child in start(path, processes, cycles)? {
        ensure!(child.wait()?.success(), "a process failed");
    }
    Ok(())
}

/// Kills processes in the middle of their work; afterwards nothing of theirs may be left.
pub(crate) fn kill(path: &str, rounds: u64) -> Result<()> {
    let mut random = Random::new(99);
    run(path, 4, 10)?;
    let before = Held::settled(None)?;
    let mut killed = 0;
    for _ in 0..rounds {
        let mut children = start(path, 4, u64::MAX)?;
        std::thread::sleep(Duration::from_millis(20 + random.below(300)));
        for child in &mut children {
            child.kill()?;
        }
        for mut child in children {
            killed += u64::from(!child.wait()?.success());
        }
    }
    ensure!(killed == rounds * 4, "only {killed} processes were there to be killed");
    run(path, 4, 1).context("after the kills")?;
    let after = Held::settled(Some(&before))?;
    println!("before: {before:?}");
    println!("after {killed} kills: {after:?}");
    Ok(())
}

/// Keeps a file with a region open, says so, and when standard input ends checks that it has been lost.
pub(crate) fn hold(path: &str) -> Result<()> {
    let node = Node::open(path)?;
    let (handle, _, offset) = node.create(1 << 20)?;
    let memory = Memory::of(&node, offset, 1 << 20, libc::MAP_SHARED)?;
    println!("held");
    std::io::stdin().read_to_end(&mut Vec::new())?;
    ensure!(memory.touch(7), "the mapping lost its bytes");
    let error = |result: std::io::Result<()>| result.err().and_then(|error| error.raw_os_error());
    ensure!(error(node.create(4096).map(drop)) == Some(libc::ENODEV), "a lost file makes regions");
    ensure!(error(node.submit(&[2, 0], 0).map(drop)) == Some(libc::ENODEV), "a lost file submits");
    ensure!(Memory::of(&node, offset, 4096, libc::MAP_SHARED).is_err(), "a lost file can be mapped");
    node.close(handle).context("a lost file's regions cannot be closed")?;
    println!("lost, as it should be");
    Ok(())
}

/// How many pages of programs the kernel holds for devices.
pub(crate) fn pinned_pages() -> Result<u64> {
    Held::now().map(|held| held.pinned_pages)
}

/// What the kernel holds, in KiB and pages.
#[derive(Debug)]
struct Held {
    /// What the module says.
    shared_bytes: u64,
    free_kib: u64,
    slab_kib: u64,
    pinned_pages: u64,
    locked_kib: u64,
}

impl Held {
    /// How far it may go up without being a leak: other caches come and go.
    const NOISE_KIB: u64 = 32 << 10;
    const SLAB_NOISE_KIB: u64 = 2 << 10;

    fn now() -> Result<Held> {
        // Only root may; without, the noise may be too much.
        let _ = fs::write("/proc/sys/vm/drop_caches", "3");
        // Processors keep counts of their own, and add them now and then.
        let _ = fs::write("/proc/sys/vm/stat_refresh", "1");
        let (memory, pages) = (fs::read_to_string("/proc/meminfo")?, fs::read_to_string("/proc/vmstat")?);
        let value = |text: &str, name: &str| -> Result<u64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let word = line.and_then(|rest| rest.split_whitespace().find(|word| *word != ":"));
            word.with_context(|| format!("no {name}"))?.parse().with_context(|| format!("strange {name}"))
        };
        // The module says nothing while it has no device.
        let shared = fs::read_to_string("/sys/class/misc/paragpu0/shared_bytes").unwrap_or("0".to_owned());
        Ok(Held {
            shared_bytes: shared.trim().parse().context("strange shared_bytes")?,
            free_kib: value(&memory, "MemFree:")?,
            slab_kib: value(&memory, "SUnreclaim:")?,
            pinned_pages: value(&pages, "nr_foll_pin_acquired ")?
                .saturating_sub(value(&pages, "nr_foll_pin_released ")?),
            locked_kib: value(&memory, "Mlocked:")?,
        })
    }

    /// Looks until nothing more than in `before` is held.
    fn settled(before: Option<&Held>) -> Result<Held> {
        let deadline = Instant::now() + SETTLE;
        loop {
            std::thread::sleep(Duration::from_millis(500));
            let now = Held::now()?;
            let settled = now.pinned_pages == 0
                && now.shared_bytes == 0
                && before.is_none_or(|before| {
                    now.free_kib + Held::NOISE_KIB >= before.free_kib
                        && now.slab_kib <= before.slab_kib + Held::SLAB_NOISE_KIB
                        && now.locked_kib <= before.locked_kib
                });
            if settled {
                return Ok(now);
            }
            if Instant::now() > deadline {
                bail!("the kernel holds more than it should: {now:?}, before {before:?}");
            }
        }
    }
}
