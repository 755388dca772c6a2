//! How long one small thing takes.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use opencl3::command_queue::CommandQueue;
use opencl3::error_codes::ClError;
use opencl3::event::{CL_COMPLETE, Event, create_user_event, set_user_event_status};
use opencl3::kernel::{ExecuteKernel, Kernel};
use opencl3::memory::{Buffer, ClMem as _};

use crate::place::Place;
use crate::{Workload, timed};

/// One of them, if it is one.
pub(crate) fn open<'a>(name: &str, place: &'a Place) -> Result<Option<Box<dyn Workload + 'a>>> {
    Ok(match name {
        "empty-kernel" => Some(Box::new(EmptyKernel { place, kernel: place.kernel("empty")? })),
        "read-4-bytes" => Some(Box::new(SmallRead { place, word: place.buffer(1)?, written: 0 })),
        "two-queues" => Some(Box::new(TwoQueues::new(place)?)),
        "user-event" => Some(Box::new(UserEvent::new(place)?)),
        _ => None,
    })
}

/// An empty kernel, and waiting for it.
struct EmptyKernel<'a> {
    place: &'a Place,
    kernel: Kernel,
}

impl Workload for EmptyKernel<'_> {
    fn sample(&mut self) -> Result<Duration> {
        let queue = &self.place.queue;
        timed(|| {
            // SAFETY: the kernel has no arguments.
            unsafe { self.place.direct.launch(queue.get(), self.kernel.get(), &[1], &[1])? };
            queue.finish().context("clFinish")
        })
    }

    /// What is empty leaves nothing, so kernels that count are launched the same way.
    fn check(&mut self) -> Result<()> {
        let mut counter = Counter::new(self.place)?;
        for _ in 0..100 {
            // SAFETY: its one argument is set to a buffer of the word that it writes.
            unsafe { self.place.direct.launch(self.place.queue.get(), counter.kernel.get(), &[1], &[1])? };
            self.place.queue.finish()?;
        }
        counter.must_be(self.place, 100)
    }
}

/// A kernel that counts its launches.
pub(crate) struct Counter {
    pub(crate) kernel: Kernel,
    count: Buffer<u32>,
}

impl Counter {
    pub(crate) fn new(place: &Place) -> Result<Counter> {
        let (kernel, mut count) = (place.kernel("tick")?, place.buffer(1)?);
        place.write(&mut count, &[0])?;
        // SAFETY: the argument is a buffer, as the kernel declares it, and lives as long as the kernel.
        unsafe { kernel.set_arg(0, &count.get()) }?;
        Ok(Counter { kernel, count })
    }

    /// A launch, which can have events.
    fn call(&self) -> ExecuteKernel<'_> {
        let mut call = ExecuteKernel::new(&self.kernel);
        // SAFETY: the argument is a buffer, as the kernel declares it, and lives as long as the kernel.
        unsafe { call.set_arg(&self.count) };
        call.set_global_work_size(1).set_local_work_size(1);
        call
    }

    pub(crate) fn must_be(&mut self, place: &Place, launches: u32) -> Result<()> {
        let mut counted = [0];
        place.read(&self.count, &mut counted)?;
        ensure!(counted[0] == launches, "{} of {launches} kernels ran", counted[0]);
        Ok(())
    }
}

/// Reading four bytes.
struct SmallRead<'a> {
    place: &'a Place,
    word: Buffer<u32>,
    written: u32,
}

impl Workload for SmallRead<'_> {
    fn prepare(&mut self) -> Result<()> {
        self.written = self.written.wrapping_add(0x9e37_79b9);
        self.place.write(&mut self.word, &[self.written])
    }

    fn sample(&mut self) -> Result<Duration> {
        let mut read = [0; 4];
        let (queue, word) = (self.place.queue.get(), self.word.get());
        // SAFETY: a queue and a buffer that live.
        let took = timed(|| unsafe { self.place.direct.read(queue, word, &mut read) })?;
        let read = u32::from_ne_bytes(read);
        ensure!(read == self.written, "read {read:#x} instead of {:#x}", self.written);
        Ok(took)
    }

    fn check(&mut self) -> Result<()> {
        Ok(())
    }
}

/// A kernel on one queue, and one on another that waits for it by its event.
struct TwoQueues<'a> {
    place: &'a Place,
    other: CommandQueue,
    counter: Counter,
    launched: u32,
}

impl<'a> TwoQueues<'a> {
    fn new(place: &'a Place) -> Result<TwoQueues<'a>> {
        Ok(TwoQueues { place, other: place.another_queue()?, counter: Counter::new(place)?, launched: 0 })
    }
}

impl Workload for TwoQueues<'_> {
    fn sample(&mut self) -> Result<Duration> {
        self.launched += 2;
        let (mut first, mut second) = (self.counter.call(), self.counter.call());
        timed(|| {
            // SAFETY: the argument is the buffer of the word that the kernel writes.
            let event = unsafe { first.enqueue_nd_range(&self.place.queue) }.context("the first")?;
            self.place.queue.flush()?;
            second.set_wait_event(&event);
            // SAFETY: as above.
            unsafe { second.enqueue_nd_range(&self.other) }.context("the second")?;
            self.other.finish().context("clFinish")
        })
    }

    fn check(&mut self) -> Result<()> {
        self.counter.must_be(self.place, self.launched)
    }
}

/// A kernel that waits for the program's event: from the event's end to the kernel's.
struct UserEvent<'a> {
    place: &'a Place,
    counter: Counter,
    launched: u32,
}

impl<'a> UserEvent<'a> {
    fn new(place: &'a Place) -> Result<UserEvent<'a>> {
        Ok(UserEvent { place, counter: Counter::new(place)?, launched: 0 })
    }
}

impl Workload for UserEvent<'_> {
    fn sample(&mut self) -> Result<Duration> {
        self.launched += 1;
        let event = create_user_event(self.place.context.get()).map_err(ClError)?;
        // It is released with this.
        let event = Event::new(event);
        let mut call = self.counter.call();
        call.set_wait_event(&event);
        // SAFETY: the argument is the buffer of the word that the kernel writes.
        unsafe { call.enqueue_nd_range(&self.place.queue) }.context("cannot enqueue")?;
        self.place.queue.flush()?;
        timed(|| {
            set_user_event_status(event.get(), CL_COMPLETE)
                .map_err(ClError)
                .context("clSetUserEventStatus")?;
            self.place.queue.finish().context("clFinish")
        })
    }

    fn check(&mut self) -> Result<()> {
        self.counter.must_be(self.place, self.launched)
    }
}
