//! What most guests do first: a context, a queue, buffers and kernels, on the host's real OpenCL.

use std::sync::{Arc, OnceLock};

use paragpu::executor::child::backend::opencl::OpenCl;
use paragpu::executor::message::{ToBroker, ToExecutor};
use paragpu_protocol::command::{
    BuildProgram, CreateBuffer, CreateContext, CreateKernel, CreateProgram, CreateQueue, CreateUserEvent,
    EnqueueKernel, Finish, ReadBuffer, SetArgObject, SetUserEvent, WriteBuffer,
};
use paragpu_protocol::types::{Dim3, Enqueue, Span};
use zerocopy::little_endian::U32;

use super::{CONTEXT, Guest};

/// The host's OpenCL, opened once.
pub fn backend() -> Arc<OpenCl> {
    static BACKEND: OnceLock<Arc<OpenCl>> = OnceLock::new();
    BACKEND.get_or_init(|| Arc::new(OpenCl::open(&[]).expect("the host's OpenCL"))).clone()
}

pub const ADD: &str =
    "kernel void add(global const float *a, global const float *b, global float *c, float scale) {
    size_t i = get_global_id(0);
    c[i] = a[i] + scale * b[i];
}";

pub fn dim(numbers: [u64; 3]) -> Dim3 {
    numbers.map(Into::into)
}

/// A guest with a context and an in-order queue.
pub struct Session {
    pub guest: Guest<OpenCl>,
    pub context: u32,
    pub queue: u32,
}

impl Session {
    pub fn new(properties: u64) -> Session {
        let mut guest = Guest::new(backend());
        let (context, create) = guest.create(0);
        guest.send(&CreateContext { create }, &[], &0_u32.to_le_bytes());
        guest.done(create.reply);
        let mut session = Session { guest, context, queue: 0 };
        session.queue = session.queue(properties);
        session
    }

    pub fn queue(&mut self, properties: u64) -> u32 {
        let (queue, create) = self.guest.create(self.context);
        let body = CreateQueue { create, properties: properties.into(), ..CreateQueue::default() };
        self.guest.send(&body, &[], &[]);
        self.guest.done(create.reply);
        queue
    }

    pub fn buffer(&mut self, size: u64) -> u32 {
        let (buffer, create) = self.guest.create(self.context);
        let body = CreateBuffer { create, flags: 1.into(), size: size.into(), init: Span::NONE };
        self.guest.send(&body, &[], &[]);
        self.guest.done(create.reply);
        buffer
    }

    pub fn program(&mut self, source: &str) -> (u32, i32) {
        let (program, create) = self.guest.create(self.context);
        self.guest.send(&CreateProgram { create, source: Span::NONE }, &[], source.as_bytes());
        self.guest.done(create.reply);
        let reply = self.guest.slot();
        let body = BuildProgram { program: program.into(), device_count: 0.into(), reply };
        self.guest.send(&body, &[], b"-DBY_TEST=1");
        let status = self.guest.wait(reply).status.get();
        (program, status)
    }

    pub fn kernel(&mut self, source: &str, name: &str) -> u32 {
        let (program, status) = self.program(source);
        assert_eq!(status, 0);
        let (kernel, create) = self.guest.create(program);
        self.guest.send(&CreateKernel { create, info: Span::NONE }, &[], name.as_bytes());
        self.guest.done(create.reply);
        kernel
    }

    pub fn write(&mut self, buffer: u32, contents: &[u8]) {
        self.guest.write(0, contents);
        let enqueue = self.guest.enqueue(self.queue, 0);
        let src = self.guest.span(0, contents.len() as u64);
        let body = WriteBuffer { enqueue, buffer: buffer.into(), src, ..WriteBuffer::default() };
        self.guest.send(&body, &[], &[]);
        self.guest.done(enqueue.slot);
    }

    pub fn read(&mut self, buffer: u32, offset: u64, len: u64) -> Vec<u8> {
        let enqueue = self.guest.enqueue(self.queue, 0);
        let dst = self.guest.span(0, len);
        let body = ReadBuffer {
            enqueue,
            buffer: buffer.into(),
            offset: offset.into(),
            dst,
            ..ReadBuffer::default()
        };
        self.guest.send(&body, &[], &[]);
        self.guest.done(enqueue.slot);
        self.guest.read(0, len as usize)
    }

    pub fn set_buffer(&mut self, kernel: u32, index: u32, buffer: u32) {
        let body = SetArgObject {
            kernel: kernel.into(),
            index: index.into(),
            object: buffer.into(),
            reserved: U32::ZERO,
        };
        self.guest.send(&body, &[], &[]);
    }

    pub fn launch(&mut self, kernel: u32, global: u64, enqueue: Enqueue, wait: &[u32]) {
        let body = EnqueueKernel {
            enqueue,
            kernel: kernel.into(),
            dims: 1.into(),
            global: dim([global, 1, 1]),
            ..EnqueueKernel::default()
        };
        self.guest.send(&body, wait, &[]);
    }

    pub fn finish(&mut self) -> i32 {
        let reply = self.guest.slot();
        self.guest.send(&Finish { queue: self.queue.into(), reserved: U32::ZERO, reply }, &[], &[]);
        self.guest.wait(reply).status.get()
    }

    pub fn user_event(&mut self) -> u32 {
        let (event, create) = self.guest.create(self.context);
        self.guest.send(&CreateUserEvent { create }, &[], &[]);
        self.guest.done(create.reply);
        event
    }

    pub fn set_event(&mut self, event: u32, status: i32) {
        self.guest.send(&SetUserEvent { event: event.into(), status: status.into() }, &[], &[]);
    }

    /// Ends the context, and returns how many kernels it ran.
    pub fn destroy(&mut self) -> u64 {
        self.guest.tell(ToExecutor::DestroyContext { context: CONTEXT });
        match self.guest.message() {
            ToBroker::ContextDestroyed { context: CONTEXT, usage } => usage.kernels,
            other => panic!("{other:?}"),
        }
    }
}
