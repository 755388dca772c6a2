use super::extents::tests::FakeMemory;
use super::*;
use crate::executor::message::{ContextUsage, Extent, ToBroker};
use crate::limits::Limits;
use paragpu_protocol::capset::Capset;
use paragpu_protocol::control::{Doorbell, Wait};
use paragpu_protocol::limits::MIN_RING_BYTES;
use paragpu_protocol::virtio_gpu::{
    CtxCreate, GetCapset, GetCapsetInfo, Request, ResourceAttachBacking, ResourceCreate3d, ResourceRef,
    Submit3d,
};
use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// A device with its memory and clock, driven by whole requests.
struct Bench {
    device: Device,
    memory: FakeMemory,
    now: Instant,
    next: u64,
}

const CONTEXT: u32 = 5;
const REGION: u32 = 9;
const REGION_ADDR: u64 = 0x10_0000;
const REGION_BYTES: u32 = 4096 + MIN_RING_BYTES;

impl Bench {
    fn new() -> Bench {
        let device = Device::new("test".into(), Limits::default());
        Bench { device, memory: FakeMemory::new(), now: Instant::now(), next: 0 }
    }

    /// With a context, and a region attached to it.
    fn with_region() -> Bench {
        let mut bench = Bench::new();
        bench.ok(Request::CtxCreate, &CtxCreate::default());
        bench.ok(Request::ResourceCreate3d, &create(REGION, REGION_BYTES));
        bench.backing(REGION_ADDR);
        bench.ok(Request::CtxAttachResource, &region());
        bench
    }

    fn with_ring() -> Bench {
        let mut bench = Bench::with_region();
        let actions = bench.submit(&StartRing::new(REGION, MIN_RING_BYTES), 0);
        let start = ToExecutor::StartRing { context: CONTEXT, region: REGION, data_bytes: MIN_RING_BYTES };
        assert!(actions.contains(&Action::Send(start)), "{actions:?}");
        bench
    }

    fn send(&mut self, request: Request, flags: u32, body: &[u8]) -> Vec<Action> {
        self.send_as(request, CONTEXT, flags, body)
    }

    fn send_as(&mut self, request: Request, context: u32, flags: u32, body: &[u8]) -> Vec<Action> {
        let header = Header {
            kind: (request as u32).into(),
            flags: flags.into(),
            fence_id: self.next.into(),
            ctx_id: context.into(),
            ..Header::default()
        };
        let bytes = [header.as_bytes(), body].concat();
        self.device.handle(Token(self.next), &bytes, &self.memory, self.now);
        self.next += 1;
        self.device.take_actions()
    }

    fn ok<T: IntoBytes + Immutable>(&mut self, request: Request, body: &T) -> Vec<Action> {
        let actions = self.send(request, 0, body.as_bytes());
        assert_eq!(responses(&actions), [(self.next - 1, Response::OkNodata)], "{request:?}: {actions:?}");
        actions
    }

    fn backing(&mut self, addr: u64) -> Vec<Action> {
        let attach = ResourceAttachBacking { resource_id: REGION.into(), nr_entries: 1.into() };
        let entry = MemEntry { addr: addr.into(), length: REGION_BYTES.into(), padding: 0.into() };
        self.send(Request::ResourceAttachBacking, 0, &[attach.as_bytes(), entry.as_bytes()].concat())
    }

    fn submit<T: IntoBytes + Immutable>(&mut self, control: &T, flags: u32) -> Vec<Action> {
        let bytes = control.as_bytes();
        let submit = Submit3d { size: (bytes.len() as u32).into(), padding: 0.into() };
        self.send(Request::Submit3d, flags, &[submit.as_bytes(), bytes].concat())
    }

    fn executor(&mut self, message: ToBroker) -> Vec<Action> {
        self.device.on_message(message, &self.memory);
        self.device.take_actions()
    }

    fn word(&self, word: Word) -> u32 {
        self.memory.load(REGION_ADDR + word.offset() as u64).unwrap()
    }
}

fn create(resource: u32, bytes: u32) -> ResourceCreate3d {
    ResourceCreate3d { resource_id: resource.into(), width: bytes.into(), ..ResourceCreate3d::default() }
}

fn region() -> ResourceRef {
    ResourceRef { resource_id: REGION.into(), padding: 0.into() }
}

fn responses(actions: &[Action]) -> Vec<(u64, Response)> {
    let response = |action: &Action| match action {
        Action::Respond { token, response } => {
            let (header, _) = Header::read_from_prefix(response).unwrap();
            Some((token.0, Response::from_wire(header.kind.get()).unwrap()))
        }
        _ => None,
    };
    actions.iter().filter_map(response).collect()
}

fn removed() -> ToBroker {
    ToBroker::RegionRemoved { context: CONTEXT, region: REGION }
}

#[test]
fn a_driver_finds_the_capset() {
    let mut bench = Bench::new();
    let info = bench.send(Request::GetCapsetInfo, 0, GetCapsetInfo::default().as_bytes());
    assert_eq!(responses(&info), [(0, Response::OkCapsetInfo)]);
    let get = GetCapset { capset_id: CAPSET_ID.into(), capset_version: CAPSET_VERSION.into() };
    let actions = bench.send(Request::GetCapset, 0, get.as_bytes());
    let Some(Action::Respond { response, .. }) = actions.first() else { panic!("{actions:?}") };
    assert!(Capset::read(&response[size_of::<Header>()..]).is_ok());
    let other = GetCapset { capset_id: 1.into(), capset_version: 0.into() };
    let actions = bench.send(Request::GetCapset, 0, other.as_bytes());
    assert_eq!(responses(&actions), [(2, Response::ErrInvalidParameter)]);
}

#[test]
fn the_executor_learns_of_a_region_when_it_is_both_backed_and_attached() {
    let mut bench = Bench::new();
    bench.ok(Request::CtxCreate, &CtxCreate::default());
    bench.ok(Request::ResourceCreate3d, &create(REGION, REGION_BYTES));
    let attached = bench.ok(Request::CtxAttachResource, &region());
    assert!(!attached.iter().any(|action| matches!(action, Action::Send(_))));
    let extents = vec![Extent { guest_addr: REGION_ADDR, len: REGION_BYTES.into() }];
    let add = ToExecutor::AddRegion { context: CONTEXT, region: REGION, extents };
    assert!(bench.backing(REGION_ADDR).contains(&Action::Send(add)));
}

#[test]
fn pages_go_back_only_when_the_executor_has_let_go() {
    for request in [Request::ResourceUnref, Request::ResourceDetachBacking, Request::CtxDetachResource] {
        let mut bench = Bench::with_region();
        let actions = bench.send(request, 0, region().as_bytes());
        let remove = ToExecutor::RemoveRegion { context: CONTEXT, region: REGION };
        assert_eq!(actions, [Action::Send(remove)], "{request:?}");
        let token = bench.next - 1;
        // Another request is not held up, and the id stays taken.
        let again = bench.send(Request::ResourceCreate3d, 0, create(REGION, 4096).as_bytes());
        assert!(responses(&again).contains(&(token + 1, Response::ErrInvalidResourceId)));
        assert_eq!(responses(&bench.executor(removed())), [(token, Response::OkNodata)], "{request:?}");
    }
}

#[test]
fn an_executor_that_answers_unasked_frees_nothing() {
    let mut bench = Bench::with_region();
    bench.executor(removed());
    let usage = ContextUsage::default();
    bench.executor(ToBroker::ContextDestroyed { context: CONTEXT, usage });
    assert_eq!(bench.device.vgpu().resources[&REGION].contexts[&CONTEXT], Attachment::Mapped);
    assert!(bench.device.vgpu().contexts[&CONTEXT].on_executor);
}

#[test]
fn a_destroyed_context_is_answered_late_counted_and_lets_go_of_its_regions() {
    let mut bench = Bench::with_ring();
    assert_eq!(responses(&bench.send(Request::CtxDestroy, 0, &[])), []);
    let destroy = bench.next - 1;
    assert_eq!(responses(&bench.send(Request::ResourceUnref, 0, region().as_bytes())), []);
    assert_eq!(bench.device.tick(bench.now + CONFIRM_TIMEOUT / 2), Ok(()));
    let usage = ContextUsage { commands: 42, ..ContextUsage::default() };
    let actions = bench.executor(ToBroker::ContextDestroyed { context: CONTEXT, usage });
    assert_eq!(responses(&actions), [(destroy, Response::OkNodata), (destroy + 1, Response::OkNodata)]);
    assert_eq!(bench.device.vgpu().counters.ring.commands, 42);
    assert!(bench.device.vgpu().contexts.is_empty() && bench.device.vgpu().resources.is_empty());
}

#[test]
fn a_context_that_does_not_end_costs_the_executor_its_life() {
    let mut bench = Bench::with_ring();
    bench.send(Request::CtxDestroy, 0, &[]);
    let until = bench.device.next_deadline().unwrap();
    assert_eq!(bench.device.tick(until), Err(ExecutorStuck));
    bench.device.executor_gone(&bench.memory);
    assert_eq!(responses(&bench.device.take_actions()).len(), 1);
    assert!(bench.device.is_settled());
}

#[test]
fn a_wait_is_held_until_something_happens() {
    let mut bench = Bench::with_ring();
    let hold = |bench: &mut Bench| {
        assert_eq!(bench.submit(&Wait::new(0), FLAG_FENCE), []);
        bench.next - 1
    };
    // The host woke somebody.
    let token = hold(&mut bench);
    bench.device.wake();
    assert_eq!(responses(&bench.device.take_actions()), [(token, Response::OkNodata)]);
    // A later fenced command.
    let token = hold(&mut bench);
    let doorbell = bench.submit(&Doorbell::new(), FLAG_FENCE);
    assert_eq!(responses(&doorbell), [(token, Response::OkNodata), (token + 1, Response::OkNodata)]);
    // Time.
    let token = hold(&mut bench);
    bench.device.tick(bench.now + Duration::from_millis(MAX_WAIT_MILLIS - 1)).unwrap();
    assert_eq!(bench.device.take_actions(), []);
    bench.device.tick(bench.now + Duration::from_millis(MAX_WAIT_MILLIS)).unwrap();
    assert_eq!(responses(&bench.device.take_actions()), [(token, Response::OkNodata)]);
    // Its context fails.
    let token = hold(&mut bench);
    let failed = ToBroker::ContextFailed { context: CONTEXT, reason: "bad\nframe".into() };
    assert_eq!(responses(&bench.executor(failed)), [(token, Response::OkNodata)]);
    assert_eq!(bench.word(Word::Status), Status::Failed as u32);
}

#[test]
fn a_wait_for_what_has_happened_is_answered_at_once() {
    let mut bench = Bench::with_ring();
    bench.memory.store(REGION_ADDR + Word::WakeSeq.offset() as u64, 8);
    assert_eq!(responses(&bench.submit(&Wait::new(7), FLAG_FENCE)).len(), 1);
    assert_eq!(responses(&bench.submit(&Wait::new(8), FLAG_FENCE)).len(), 0);
}

#[test]
fn a_ring_that_cannot_start_says_so_in_its_header() {
    let mut version = StartRing::new(REGION, MIN_RING_BYTES);
    version.version_major = 9.into();
    let cases = [
        (version, Fault::Version),
        (StartRing::new(REGION, MIN_RING_BYTES + 16), Fault::BadRing),
        (StartRing::new(REGION, MIN_RING_BYTES * 2), Fault::BadRing),
    ];
    for (start, fault) in cases {
        let mut bench = Bench::with_region();
        let actions = bench.submit(&start, 0);
        assert_eq!(responses(&actions), [(bench.next - 1, Response::ErrInvalidParameter)]);
        assert_eq!(bench.word(Word::Status), Status::Failed as u32);
        assert_eq!(bench.word(Word::Reason), fault.code());
    }
    let mut bench = Bench::with_ring();
    bench.submit(&StartRing::new(REGION, MIN_RING_BYTES), 0);
    assert_eq!(bench.word(Word::Status), 0, "a running ring is not disturbed");
}

#[test]
fn a_dead_executor_takes_its_contexts_along_and_a_new_context_works() {
    let mut bench = Bench::with_ring();
    bench.submit(&Wait::new(0), FLAG_FENCE);
    bench.device.executor_gone(&bench.memory);
    assert_eq!(responses(&bench.device.take_actions()).len(), 1);
    assert_eq!(bench.word(Word::Status), Status::Lost as u32);
    assert_eq!(responses(&bench.submit(&Wait::new(0), FLAG_FENCE)).len(), 1, "nothing to wait for");
    bench.ok(Request::ResourceUnref, &region());
    bench.ok(Request::CtxDestroy, &[0_u8; 0]);
    let actions = bench.ok(Request::CtxCreate, &CtxCreate::default());
    assert!(matches!(actions[0], Action::CreateContext { context: CONTEXT, .. }));
}

#[test]
fn a_new_context_may_have_the_id_of_one_that_still_ends() {
    let mut bench = Bench::with_ring();
    bench.send(Request::CtxDestroy, 0, &[]);
    let destroy = bench.next - 1;
    let actions = bench.ok(Request::CtxCreate, &CtxCreate::default());
    let Action::CreateContext { context: new, .. } = actions[0] else { panic!("{actions:?}") };
    assert_ne!(new, CONTEXT, "the executor still knows the old one");
    // What the guest asks now is for the new one.
    let doorbell = bench.submit(&Doorbell::new(), 0);
    assert!(doorbell.contains(&Action::Doorbell { context: new }), "{doorbell:?}");
    let again = bench.send(Request::CtxCreate, 0, CtxCreate::default().as_bytes());
    assert_eq!(responses(&again)[0].1, Response::ErrInvalidContextId);
    let usage = ContextUsage::default();
    let actions = bench.executor(ToBroker::ContextDestroyed { context: CONTEXT, usage });
    assert_eq!(responses(&actions), [(destroy, Response::OkNodata)]);
    assert_eq!(bench.device.vgpu().contexts.keys().copied().collect::<Vec<_>>(), [new]);
    bench.send(Request::CtxDestroy, 0, &[]);
    bench.executor(ToBroker::ContextDestroyed { context: new, usage });
    let vgpu = bench.device.vgpu();
    assert!(vgpu.contexts.is_empty() && vgpu.context_ids.is_empty());
}

#[test]
fn a_new_driver_finds_nothing_and_its_pages_untouched() {
    let mut bench = Bench::with_ring();
    bench.submit(&Wait::new(0), FLAG_FENCE);
    let actions = bench.send(Request::GetCapsetInfo, 0, GetCapsetInfo::default().as_bytes());
    let kill = actions.iter().position(|action| *action == Action::KillExecutor).unwrap();
    let respond = actions.iter().position(|action| matches!(action, Action::Respond { .. })).unwrap();
    assert!(kill < respond, "the executor is gone before anything is answered");
    assert_eq!(responses(&actions).len(), 2);
    assert!(bench.device.vgpu().contexts.is_empty() && bench.device.vgpu().resources.is_empty());
    assert_eq!(bench.word(Word::Status), 0);
}

#[test]
fn limits_hold() {
    let mut bench = Bench::new();
    for bytes in [0, u32::MAX] {
        let actions = bench.send(Request::ResourceCreate3d, 0, create(1, bytes).as_bytes());
        assert_eq!(responses(&actions)[0].1, Response::ErrOutOfMemory);
    }
    for id in 1..=MAX_RESOURCES as u32 {
        bench.ok(Request::ResourceCreate3d, &create(id, 4096));
    }
    let actions = bench.send(Request::ResourceCreate3d, 0, create(u32::MAX, 4096).as_bytes());
    assert_eq!(responses(&actions)[0].1, Response::ErrOutOfMemory);
}

#[test]
fn an_operators_limits_hold_and_are_named_in_the_log() {
    let mut bench = Bench::new();
    bench.device.vgpu_mut().limits = Limits { contexts: 1, staging_bytes: Some(8192), ..Limits::default() };
    bench.ok(Request::CtxCreate, &CtxCreate::default());
    bench.ok(Request::ResourceCreate3d, &create(1, 8192));
    let mut refused = |request, context: u32, body: &[u8], limit: &str| {
        let actions = bench.send_as(request, context, 0, body);
        assert_eq!(responses(&actions)[0].1, Response::ErrOutOfMemory);
        let named = |action: &Action| matches!(action, Action::Log(_, line) if line.contains(limit));
        assert_eq!(actions.iter().filter(|action| named(action)).count(), 1, "{actions:?}");
    };
    refused(Request::CtxCreate, CONTEXT + 1, CtxCreate::default().as_bytes(), "limits.contexts");
    refused(Request::ResourceCreate3d, CONTEXT, create(2, 4096).as_bytes(), "limits.staging");
    bench.ok(Request::ResourceUnref, &ResourceRef { resource_id: 1.into(), padding: 0.into() });
    bench.ok(Request::ResourceCreate3d, &create(2, 4096));
}

proptest! {
    /// Whatever a guest and an executor say in whatever order: no panic, every request is answered exactly once
    /// in the end, and no resource loses its pages or its id while the executor may touch them.
    #[test]
    fn no_order_of_events_loses_a_response_or_a_page(
        steps in proptest::collection::vec((0_u8..16, 1_u32..4, any::<bool>()), 1..80),
    ) {
        let mut bench = Bench::new();
        let mut answered = Vec::new();
        for (step, id, fenced) in steps {
            let flags = u32::from(fenced);
            let named = ResourceRef { resource_id: id.into(), padding: 0.into() };
            let actions = match step {
                0 => bench.send(Request::CtxCreate, flags, CtxCreate::default().as_bytes()),
                1 => bench.send(Request::CtxDestroy, flags, &[]),
                2 | 3 => bench.send(Request::ResourceCreate3d, flags, create(id, 4096).as_bytes()),
                4 | 5 => {
                    let attach = ResourceAttachBacking { resource_id: id.into(), nr_entries: 1.into() };
                    let entry =
                        MemEntry { addr: 0x1000.into(), length: 4096.into(), padding: 0.into() };
                    let body = [attach.as_bytes(), entry.as_bytes()].concat();
                    bench.send(Request::ResourceAttachBacking, flags, &body)
                }
                6 | 7 => bench.send(Request::CtxAttachResource, flags, named.as_bytes()),
                8 => bench.send(Request::CtxDetachResource, flags, named.as_bytes()),
                9 => bench.send(Request::ResourceDetachBacking, flags, named.as_bytes()),
                10 => bench.send(Request::ResourceUnref, flags, named.as_bytes()),
                11 => bench.submit(&Wait::new(0), FLAG_FENCE),
                12 | 13 => bench.executor(ToBroker::RegionRemoved { context: CONTEXT, region: id }),
                14 => {
                    let usage = ContextUsage::default();
                    bench.executor(ToBroker::ContextDestroyed { context: CONTEXT, usage })
                }
                _ => bench.executor(ToBroker::ContextFailed { context: CONTEXT, reason: String::new() }),
            };
            answered.extend(responses(&actions));
            for resource in bench.device.vgpu().resources.values() {
                prop_assert!(resource.is_free() || resource.extents.is_some());
            }
        }
        bench.device.executor_gone(&bench.memory);
        answered.extend(responses(&bench.device.take_actions()));
        prop_assert!(bench.device.is_settled());
        let mut tokens: Vec<u64> = answered.iter().map(|(token, _)| *token).collect();
        tokens.sort_unstable();
        prop_assert_eq!(tokens, (0..bench.next).collect::<Vec<_>>());
    }
}
