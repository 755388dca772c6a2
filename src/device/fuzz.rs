//! The body of the fuzz target for the control queue: any requests, and an executor that says anything.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use paragpu_protocol::limits::{MAX_CONTEXTS, MAX_MAPPINGS, MAX_RESOURCES};
use paragpu_protocol::virtio_gpu::{FLAG_FENCE, Header, Response};
use zerocopy::FromBytes;

use super::extents::{GuestView, PAGE_BYTES};
use super::pending::Token;
use super::request::MAX_REQUEST_BYTES;
use super::step::Step;
use super::{Action, Device};
use crate::executor::message::{ToBroker, ToExecutor};
use crate::limits::Limits;
use crate::vgpu::{Attachment, ContextState, Vgpu};

/// Requests that a guest can have out: the descriptors of both queues.
const MAX_IN_FLIGHT: usize = 512;

/// Guest memory as (start, end): two regions that touch, a hole, and one more. A `paragpu run` session has its
/// memory at 0, and so has a VM.
const MEMORY: [(u64, u64); 3] =
    [(0, 0x8000_0000), (0x8000_0000, 0x1_0000_0000), (0x1_4000_0000, 0x10_0000_0000)];

/// What came of an input.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replay {
    /// Requests.
    pub requests: usize,
    /// Requests that were not refused.
    pub granted: usize,
    /// Numbers of the requests that were not refused.
    pub kinds: BTreeSet<u32>,
}

/// Gives `data` to a device as [steps](Step).
///
/// # Panics
/// If a request is not answered exactly once in the end, if fenced responses are out of order, if the control
/// block contradicts itself, its limits, or what the executor has been told and has said.
pub fn fuzz_requests(mut data: &[u8]) -> Replay {
    let mut driver = Driver::new();
    while let Some(step) = Step::decode(&mut data) {
        driver.step(&step);
        if driver.in_flight.len() > MAX_IN_FLIGHT {
            driver.step(&Step::ExecutorGone);
            assert!(driver.in_flight.is_empty(), "without an executor nothing is held back");
        }
    }
    driver.step(&Step::EndContexts);
    driver.step(&Step::ExecutorGone);
    assert!(driver.device.is_settled() && driver.in_flight.is_empty(), "every request is answered");
    assert!(driver.device.contexts_ended());
    let written = postcard::to_stdvec(driver.device.vgpu()).expect("plain data");
    assert_eq!(postcard::from_bytes::<Vgpu>(&written).as_ref(), Ok(driver.device.vgpu()));
    driver.replay
}

/// What stands around a device: a guest's memory, a clock, and what an executor must believe.
struct Driver {
    device: Device,
    memory: Memory,
    now: Instant,
    in_flight: BTreeMap<Token, Header>,
    next_token: u64,
    last_fenced: Option<Token>,
    executor: ModelExecutor,
    replay: Replay,
}

/// An executor as one can tell from the messages.
#[derive(Debug, Default)]
struct ModelExecutor {
    contexts: BTreeSet<u32>,
    ending: BTreeSet<u32>,
    /// Regions that it may touch, and whether it has been told to let go.
    mapped: BTreeMap<(u32, u32), bool>,
}

impl Driver {
    fn new() -> Driver {
        Driver {
            device: Device::new("fuzz".into(), Limits::default()),
            memory: Memory::default(),
            now: Instant::now(),
            in_flight: BTreeMap::new(),
            next_token: 0,
            last_fenced: None,
            executor: ModelExecutor::default(),
            replay: Replay::default(),
        }
    }

    fn step(&mut self, step: &Step<'_>) {
        match step {
            Step::Request(bytes) => self.request(&bytes[..bytes.len().min(MAX_REQUEST_BYTES)]),
            Step::Message(bytes) => match postcard::from_bytes::<ToBroker>(bytes) {
                Ok(message) => {
                    self.executor.says(&message);
                    self.device.on_message(message, &self.memory);
                }
                // The session takes such an executor for dead.
                Err(_) => self.executor_gone(),
            },
            Step::Wake => self.device.wake(),
            Step::Tick(millis) => {
                self.now += Duration::from_millis((*millis).into());
                if self.device.tick(self.now).is_err() {
                    self.executor_gone();
                }
                let overdue = self.device.next_deadline().is_some_and(|deadline| deadline <= self.now);
                assert!(!overdue, "a tick leaves nothing overdue");
            }
            Step::ExecutorGone => self.executor_gone(),
            Step::NewDriver => self.device.new_driver(),
            Step::EndContexts => self.device.end_contexts(),
            Step::Store { addr, value } => {
                self.memory.store(*addr & !3, *value);
            }
        }
        self.act();
        self.check();
    }

    fn request(&mut self, bytes: &[u8]) {
        let token = Token(self.next_token);
        self.next_token += 1;
        let header = Header::read_from_prefix(bytes).map(|(header, _)| header).unwrap_or_default();
        self.in_flight.insert(token, header);
        self.replay.requests += 1;
        self.device.handle(token, bytes, &self.memory, self.now);
    }

    fn executor_gone(&mut self) {
        self.executor = ModelExecutor::default();
        self.device.executor_gone(&self.memory);
    }

    fn act(&mut self) {
        for action in self.device.take_actions() {
            match action {
                Action::Respond { token, response } => self.respond(token, &response),
                Action::CreateContext { context, .. } => {
                    assert!(self.executor.contexts.insert(context), "context {context} exists");
                }
                Action::Send(message) => self.executor.hears(&message),
                Action::Doorbell { .. } => {}
                Action::KillExecutor => self.executor = ModelExecutor::default(),
                Action::Log(_, line) => assert!(!line.contains(['\n', '\x1b']), "{line:?}"),
            }
        }
        assert!(self.device.take_actions().is_empty());
    }

    fn respond(&mut self, token: Token, response: &[u8]) {
        let request = self.in_flight.remove(&token).expect("a request is answered once");
        let (header, _) = Header::read_from_prefix(response).expect("a response has a header");
        let kind = Response::from_wire(header.kind.get()).expect("a response of virtio-gpu");
        if (kind as u32) < Response::ErrUnspec as u32 {
            self.replay.granted += 1;
            self.replay.kinds.insert(request.kind.get());
        }
        let fenced = request.flags.get() & FLAG_FENCE != 0;
        assert_eq!(header.flags.get() & FLAG_FENCE != 0, fenced);
        if fenced {
            assert_eq!((header.fence_id, header.ctx_id), (request.fence_id, request.ctx_id));
            assert!(self.last_fenced < Some(token), "fenced responses keep their order");
            self.last_fenced = Some(token);
        }
    }

    /// The control block against its limits, itself, and the executor.
    fn check(&self) {
        let vgpu = self.device.vgpu();
        assert!(vgpu.contexts.len() <= MAX_CONTEXTS && vgpu.resources.len() <= MAX_RESOURCES);
        assert!(vgpu.has_room_for_mappings(0), "at most {MAX_MAPPINGS} mappings");
        assert!(!vgpu.contexts.contains_key(&0) && !vgpu.resources.contains_key(&0));
        let mut mapped = BTreeMap::new();
        for (id, resource) in &vgpu.resources {
            for (context, attachment) in &resource.contexts {
                let context_entry = vgpu.contexts.get(context).expect("attached to a context that exists");
                match attachment {
                    Attachment::Attached => {}
                    Attachment::Mapped | Attachment::Leaving => {
                        assert!(context_entry.on_executor && resource.extents.is_some());
                        mapped.insert((*context, *id), *attachment == Attachment::Leaving);
                    }
                }
            }
            let Some(extents) = &resource.extents else { continue };
            let mut bytes = 0;
            for extent in extents {
                let end = self.memory.region_end(extent.guest_addr).expect("extents are guest memory");
                assert!(extent.len > 0 && extent.len <= end - extent.guest_addr);
                assert!((extent.guest_addr | extent.len).is_multiple_of(PAGE_BYTES));
                bytes += extent.len;
            }
            assert_eq!(bytes, resource.bytes.next_multiple_of(PAGE_BYTES));
        }
        let there = vgpu.contexts.iter().filter(|(_, context)| context.on_executor);
        assert_eq!(there.map(|(id, _)| *id).collect::<BTreeSet<_>>(), self.executor.contexts);
        assert_eq!(mapped, self.executor.mapped, "the executor's regions");
        for (id, context) in &vgpu.contexts {
            let ending = self.executor.ending.contains(id);
            assert_eq!(context.on_executor && context.state == ContextState::Ending, ending);
            assert!(context.on_executor || context.state != ContextState::Live);
        }
    }
}

impl ModelExecutor {
    fn hears(&mut self, message: &ToExecutor) {
        match message {
            ToExecutor::AddRegion { context, region, .. } => {
                assert!(self.contexts.contains(context), "a region for a context that it knows");
                assert!(self.mapped.insert((*context, *region), false).is_none(), "a region is added once");
            }
            ToExecutor::RemoveRegion { context, region } => {
                assert_eq!(self.mapped.insert((*context, *region), true), Some(false), "and removed once");
            }
            ToExecutor::StartRing { context, region, .. } => {
                assert!(self.mapped.contains_key(&(*context, *region)), "a ring lies in a region");
            }
            ToExecutor::DestroyContext { context } => {
                assert!(self.contexts.contains(context) && self.ending.insert(*context));
            }
            ToExecutor::Probe
            | ToExecutor::Hello { .. }
            | ToExecutor::Memory { .. }
            | ToExecutor::CreateContext { .. }
            | ToExecutor::Quiesce
            | ToExecutor::Resume
            | ToExecutor::Known
            | ToExecutor::Compiler { .. } => panic!("a device does not say {message:?}"),
        }
    }

    /// It is believed where it was asked.
    fn says(&mut self, message: &ToBroker) {
        match message {
            ToBroker::RegionRemoved { context, region }
                if self.mapped.get(&(*context, *region)) == Some(&true) =>
            {
                self.mapped.remove(&(*context, *region));
            }
            ToBroker::ContextDestroyed { context, .. } if self.ending.remove(context) => {
                self.contexts.remove(context);
                self.mapped.retain(|(of, _), _| of != context);
            }
            _ => {}
        }
    }
}

/// Guest memory of which only the words exist that were stored.
#[derive(Debug, Default)]
struct Memory(RefCell<BTreeMap<u64, u32>>);

impl GuestView for Memory {
    fn region_end(&self, addr: u64) -> Option<u64> {
        MEMORY.iter().find(|(start, end)| (*start..*end).contains(&addr)).map(|(_, end)| *end)
    }

    fn load(&self, addr: u64) -> Option<u32> {
        assert!(addr.is_multiple_of(4));
        self.region_end(addr)?;
        Some(self.0.borrow().get(&addr).copied().unwrap_or(0))
    }

    fn store(&self, addr: u64, value: u32) -> bool {
        assert!(addr.is_multiple_of(4));
        let there = self.region_end(addr).is_some();
        if there {
            self.0.borrow_mut().insert(addr, value);
        }
        there
    }
}
