//! Native kernels: functions of the application that take their turn in a queue.
//!
//! They run in this process, where the application is. Around the function go ordinary commands: the buffers are read
//! into staging memory, a user event holds the queue, and then the buffers are written back. A thread of this driver waits
//! for the reads, calls the function with the addresses of the staging memory, and ends the user event.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use opencl_sys::{CL_COMPLETE, CL_MEM_READ_ONLY};
use paragpu_protocol::command::{Marker, ReadBuffer, WriteBuffer};

use super::{Payload, Queue, Request, State, Taken};
use crate::boundary::callback::NativeCall;
use crate::boundary::object::Object;
use crate::boundary::pointer::AppMemory;
use crate::core::buffer::Buffer;
use crate::core::completion::Completion;
use crate::core::copies::Copies;
use crate::core::error::{ClError, ClResult};
use crate::core::event::Event;
use crate::core::lock;
use crate::core::staging::Staging;

/// A buffer among a native kernel's arguments, and where in them its address goes.
#[derive(Debug)]
pub(crate) struct Argument {
    /// Nothing for NULL.
    pub(crate) buffer: Option<Arc<Object<Buffer>>>,
    pub(crate) offset: usize,
}

/// The range of a buffer that the function sees: of a buffer and its sub-buffers one, so that they are the same memory.
#[derive(Debug)]
struct Block {
    buffer: Arc<Object<Buffer>>,
    start: usize,
    end: usize,
    /// True if the function may write to it.
    is_written: bool,
}

impl Block {
    fn of(buffer: &Object<Buffer>) -> Block {
        let (_, start) = buffer.root();
        let is_written = buffer.flags() & CL_MEM_READ_ONLY == 0;
        Block { buffer: buffer.whole(), start, end: start + buffer.size(), is_written }
    }

    fn widen(&mut self, other: &Block) {
        self.start = self.start.min(other.start);
        self.end = self.end.max(other.end);
        self.is_written |= other.is_written;
    }
}

fn blocks(arguments: &[Argument]) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    for block in arguments.iter().filter_map(|argument| argument.buffer.as_deref()).map(Block::of) {
        match blocks.iter_mut().find(|known| known.buffer.handle() == block.buffer.handle()) {
            Some(known) => known.widen(&block),
            None => blocks.push(block),
        }
    }
    blocks
}

/// The commands around a function.
#[derive(Debug)]
struct Around {
    /// What must be complete before the function is called. The first are the reads, one for each block.
    before: Vec<Arc<Completion>>,
    /// What the function may rely on to be where it belongs.
    copies: Copies,
    /// Holds back what comes after.
    gate: Arc<Object<Event>>,
    /// The writes, for blocks that are written back.
    after: Vec<Option<Arc<Completion>>>,
}

impl Around {
    /// Lets go what waits for the function.
    fn open(&self, status: i32) {
        // Only a lost connection fails this, and then nothing waits.
        let _ = self.gate.set_user_status(status);
    }
}

/// A function that waits for its turn.
#[derive(Debug)]
struct Job {
    call: NativeCall,
    /// The application's, if it wants one.
    event: Option<Arc<Object<Event>>>,
    /// What the function sees of each block.
    memory: Vec<Staging>,
    around: Around,
}

impl Job {
    fn run(self) {
        let Job { call, event, memory, around } = self;
        let failed = around.before.iter().map(|before| before.wait().status).find(|status| *status < 0);
        around.copies.perform();
        if failed.is_none() {
            event.inspect(|event| event.begin());
            call.call();
        }
        around.open(failed.unwrap_or(CL_COMPLETE));
        for (staging, write) in memory.into_iter().zip(&around.after) {
            if let Some(write) = write {
                write.leave_staging(staging);
            }
        }
    }
}

/// Runs the native kernels of an in-order queue, one after the other. Its thread ends when there are none.
#[derive(Debug, Default)]
pub(super) struct Runner(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    is_running: bool,
}

impl Runner {
    fn add(self: &Arc<Self>, job: Job) {
        let mut waiting = lock(&self.0);
        waiting.jobs.push_back(job);
        if !std::mem::replace(&mut waiting.is_running, true) {
            drop(waiting);
            let runner = self.clone();
            in_thread(move || runner.run());
        }
    }

    fn run(&self) {
        loop {
            let mut waiting = lock(&self.0);
            let Some(job) = waiting.jobs.pop_front() else {
                waiting.is_running = false;
                return;
            };
            drop(waiting);
            job.run();
        }
    }
}

/// In a thread, or if there can be none, here: the queue would stand still for ever.
fn in_thread<W: FnOnce() + Send + 'static>(work: W) {
    let work = Arc::new(Mutex::new(Some(work)));
    let in_thread = work.clone();
    let run = |work: &Mutex<Option<W>>| {
        let work = lock(work).take();
        work.into_iter().for_each(|work| work());
    };
    let thread = std::thread::Builder::new().name("paragpu-native".into());
    if let Err(error) = thread.spawn(move || run(&in_thread)) {
        crate::debug::debug!("no thread for a native kernel: {error}");
        run(&work);
    }
}

impl Object<Queue> {
    /// `clEnqueueNativeKernel`.
    pub(crate) fn enqueue_native(
        &self,
        request: &Request<'_>,
        mut call: NativeCall,
        arguments: Vec<Argument>,
    ) -> ClResult<Option<Arc<Object<Event>>>> {
        let blocks = blocks(&arguments);
        let memory = blocks
            .iter()
            .map(|block| self.staging(block.end - block.start))
            .collect::<ClResult<Vec<Staging>>>()
            // CL_MEM_OBJECT_ALLOCATION_FAILURE if there is a failure to allocate memory for data store associated with
            // buffer objects specified as arguments to kernel.
            .or(Err(ClError::MEM_OBJECT_ALLOCATION_FAILURE))?;
        for Argument { buffer, offset } in &arguments {
            let address = match buffer {
                None => AppMemory::at(std::ptr::null_mut()),
                Some(buffer) => {
                    let (root, start) = buffer.root();
                    let index = blocks.iter().position(|block| block.buffer.handle() == root);
                    let index = index.ok_or(ClError::INVALID_MEM_OBJECT)?;
                    AppMemory::at(memory[index].as_ptr()).offset(start - blocks[index].start)
                }
            };
            if !call.put(*offset, address) {
                return Err(ClError::INVALID_VALUE);
            }
        }
        let gate = Event::user(self.context())?;
        let mut around = Around { before: Vec::new(), copies: Copies::default(), gate, after: Vec::new() };
        let posted = {
            let _alone = self.post_alone();
            self.post(&mut lock(&self.state), request, (&blocks, &memory), &mut around)
        };
        let last = match posted {
            Ok(last) => last,
            Err(error) => {
                // What has been posted must not hold the queue up, nor find its memory used for something else.
                around.open(error.0);
                for (staging, read) in memory.into_iter().zip(&around.before) {
                    read.leave_staging(staging);
                }
                self.context.tell_if_lost();
                return Err(error);
            }
        };
        let event = last.completion.filter(|_| last.event_id != 0).map(|completion| {
            let span = (around.before.last().cloned(), completion);
            Event::of_call(self.arc(), last.event_id, request.command, span, last.copies)
        });
        let job = Job { call, event: event.clone(), memory, around };
        if self.is_in_order() {
            self.natives.add(job);
        } else {
            in_thread(move || job.run());
        }
        Ok(event)
    }

    /// Posts what goes around the function, with nothing of other threads in between. Returns the last command.
    fn post(
        &self,
        state: &mut State,
        request: &Request<'_>,
        (blocks, memory): (&[Block], &[Staging]),
        around: &mut Around,
    ) -> ClResult<Taken> {
        let first = Request { wants_event: false, ..*request };
        for (block, staging) in blocks.iter().zip(memory) {
            let taken = self.take(state, &first, Payload::Elsewhere, &[], |enqueue| ReadBuffer {
                enqueue,
                buffer: block.buffer.id().into(),
                reserved: 0.into(),
                offset: (block.start as u64).into(),
                dst: staging.span(),
            })?;
            around.before.extend(taken.completion);
            around.copies.add(&taken.copies);
        }
        // A marker that waits for nothing in particular would wait for everything, which only an in-order queue does.
        if blocks.is_empty() && (self.is_in_order() || !request.wait.is_empty()) {
            let taken = self.take(state, &first, Payload::Elsewhere, &[], |enqueue| Marker { enqueue })?;
            around.before.extend(taken.completion);
            around.copies.add(&taken.copies);
        }
        let gate = std::slice::from_ref(&around.gate);
        // An out-of-order queue's writes end in any order, so that their end is gathered.
        let write = Request { wait: gate, wants_event: !self.is_in_order(), ..*request };
        let mut written = Vec::new();
        for (block, staging) in blocks.iter().zip(memory) {
            if !block.is_written {
                around.after.push(None);
                continue;
            }
            let taken = self.take(state, &write, Payload::Elsewhere, &[], |enqueue| WriteBuffer {
                enqueue,
                buffer: block.buffer.id().into(),
                reserved: 0.into(),
                offset: (block.start as u64).into(),
                src: staging.span(),
            })?;
            if let Some(completion) = taken.completion.clone().filter(|_| taken.event_id != 0) {
                let copies = taken.copies;
                let event =
                    Event::of_command(self.arc(), taken.event_id, request.command, completion, copies);
                written.push(event);
            }
            around.after.push(taken.completion);
        }
        let wait = if written.is_empty() { gate } else { &written[..] };
        let end = Request { wait, ..*request };
        let mut last = self.take(state, &end, Payload::Elsewhere, &[], |enqueue| Marker { enqueue })?;
        last.copies.add(&around.copies);
        Ok(last)
    }
}
