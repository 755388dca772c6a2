//! How long many small things take.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use opencl3::command_queue::CommandQueue;
use opencl3::kernel::Kernel;
use opencl3::memory::{Buffer, ClMem as _};

use crate::direct::Direct;
use crate::latency::Counter;
use crate::place::Place;
use crate::{Workload, timed};

/// Of each, in one sample.
const MANY: usize = 10_000;
const THREADS: usize = 4;
/// Elements of each buffer that is created: a page.
const ELEMENTS: usize = 1024;

/// One of them, if it is one.
pub(crate) fn open<'a>(name: &str, place: &'a Place) -> Result<Option<Box<dyn Workload + 'a>>> {
    Ok(match name {
        "one-queue" => Some(Box::new(OneQueue { place, kernel: place.kernel("empty")? })),
        "four-queues" => Some(Box::new(FourQueues::new(place)?)),
        "arguments" => Some(Box::new(Arguments::new(place)?)),
        "buffers-in-turn" => Some(Box::new(Buffers { place, at_once: 1 })),
        "buffers-at-once" => Some(Box::new(Buffers { place, at_once: MANY })),
        _ => None,
    })
}

fn launch(direct: &Direct, queue: &CommandQueue, kernel: &Kernel, count: usize) -> Result<()> {
    for _ in 0..count {
        // SAFETY: the kernel has no arguments, or a counter's, which is set.
        unsafe { direct.launch(queue.get(), kernel.get(), &[1], &[1])? };
    }
    queue.finish().context("clFinish")
}

/// Empty kernels, and waiting for the last.
struct OneQueue<'a> {
    place: &'a Place,
    kernel: Kernel,
}

impl Workload for OneQueue<'_> {
    fn sample(&mut self) -> Result<Duration> {
        timed(|| launch(&self.place.direct, &self.place.queue, &self.kernel, MANY))
    }

    /// What is empty leaves nothing, so kernels that count are launched the same way.
    fn check(&mut self) -> Result<()> {
        let mut counter = Counter::new(self.place)?;
        launch(&self.place.direct, &self.place.queue, &counter.kernel, MANY)?;
        counter.must_be(self.place, MANY as u32)
    }
}

/// The same from four threads, each with a queue and a kernel of its own.
struct FourQueues<'a> {
    place: &'a Place,
    each: Vec<(CommandQueue, Kernel)>,
}

impl<'a> FourQueues<'a> {
    fn new(place: &'a Place) -> Result<FourQueues<'a>> {
        let each = (0..THREADS).map(|_| Ok((place.another_queue()?, place.kernel("empty")?)));
        Ok(FourQueues { place, each: each.collect::<Result<_>>()? })
    }
}

/// From the common begin to the end of the last.
fn launch_from_all<'a>(
    direct: &Direct,
    each: impl Iterator<Item = (&'a CommandQueue, &'a mut Kernel)>,
) -> Result<Duration> {
    let barrier = Barrier::new(THREADS + 1);
    thread::scope(|scope| {
        let threads: Vec<_> = each
            .map(|(queue, kernel)| {
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    launch(direct, queue, kernel, MANY / THREADS)
                })
            })
            .collect();
        barrier.wait();
        let start = Instant::now();
        for thread in threads {
            thread.join().map_err(|_panic| anyhow!("a thread panicked"))??;
        }
        Ok(start.elapsed())
    })
}

impl Workload for FourQueues<'_> {
    fn sample(&mut self) -> Result<Duration> {
        let each = self.each.iter_mut().map(|(queue, kernel)| (&*queue, kernel));
        launch_from_all(&self.place.direct, each)
    }

    fn check(&mut self) -> Result<()> {
        let counters = (0..THREADS).map(|_| Counter::new(self.place));
        let mut counters = counters.collect::<Result<Vec<_>>>()?;
        let each = self.each.iter().zip(&mut counters);
        let each = each.map(|((queue, _), counter)| (queue, &mut counter.kernel));
        launch_from_all(&self.place.direct, each)?;
        counters.iter_mut().try_for_each(|counter| counter.must_be(self.place, (MANY / THREADS) as u32))
    }
}

/// Setting an argument.
struct Arguments<'a> {
    place: &'a Place,
    kernel: Kernel,
    out: Buffer<u32>,
    last: u32,
}

impl<'a> Arguments<'a> {
    fn new(place: &'a Place) -> Result<Arguments<'a>> {
        let (kernel, out) = (place.kernel("keep")?, place.buffer(1)?);
        // SAFETY: the argument is a buffer, as the kernel declares it, and lives as long as the kernel.
        unsafe { kernel.set_arg(0, &out.get()) }?;
        Ok(Arguments { place, kernel, out, last: 0 })
    }
}

impl Workload for Arguments<'_> {
    fn sample(&mut self) -> Result<Duration> {
        let first = self.last + 1;
        self.last += MANY as u32;
        timed(|| {
            for value in first..=self.last {
                // SAFETY: the argument is a uint.
                unsafe { self.kernel.set_arg(1, &value) }.context("clSetKernelArg")?;
            }
            Ok(())
        })
    }

    fn check(&mut self) -> Result<()> {
        launch(&self.place.direct, &self.place.queue, &self.kernel, 1)?;
        let mut found = [0];
        self.place.read(&self.out, &mut found)?;
        ensure!(found[0] == self.last, "the argument is {} and not {}", found[0], self.last);
        Ok(())
    }
}

/// Creating and releasing buffers of a page, so many of which there are at once.
struct Buffers<'a> {
    place: &'a Place,
    at_once: usize,
}

impl Workload for Buffers<'_> {
    fn sample(&mut self) -> Result<Duration> {
        timed(|| {
            for _ in 0..MANY / self.at_once {
                if self.at_once == 1 {
                    self.place.buffer::<u32>(ELEMENTS)?;
                    continue;
                }
                let buffers = (0..self.at_once).map(|_| self.place.buffer::<u32>(ELEMENTS));
                drop(buffers.collect::<Result<Vec<_>>>()?);
            }
            Ok(())
        })
    }

    /// That buffers are there after so many others.
    fn check(&mut self) -> Result<()> {
        let buffers = (0..100).map(|_| self.place.buffer::<u32>(ELEMENTS));
        let mut buffers = buffers.collect::<Result<Vec<_>>>()?;
        for (buffer, value) in buffers.iter_mut().zip(0..) {
            self.place.write(buffer, &[value; ELEMENTS])?;
        }
        for (buffer, value) in buffers.iter().zip(0..) {
            let mut found = [u32::MAX; ELEMENTS];
            self.place.read(buffer, &mut found)?;
            ensure!(found == [value; ELEMENTS], "a buffer does not have what was written");
        }
        Ok(())
    }
}
