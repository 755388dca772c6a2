//! Are front ends served that speak otherwise than QEMU does? Each test says what one does, as its sources have it.

mod fake_driver;

use std::time::{Duration, Instant};

use fake_driver::{Guest, Manners, QUEUE_SIZE, TIMEOUT, ThreadLauncher, addresses, request};
use paragpu::vhost::orders::Assignment;
use paragpu_protocol::capset::{CAPSET_ID, CAPSET_VERSION, Capset};
use paragpu_protocol::virtio_gpu::{CtxCreate, F_VIRGL, GetCapset, Request, Response};
use vhost::VhostBackend;
use vhost::vhost_user::VhostUserFrontend;
use vhost::vhost_user::message::{
    VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserProtocolFeatures, VhostUserVirtioFeatures,
};
use vmm_sys_util::eventfd::EventFd;
use zerocopy::IntoBytes;

const VERSION_1: u64 = 1 << 32;

fn connect() -> Guest {
    Guest::connect_only(Assignment::alone("test").unwrap(), ThreadLauncher(Manners::Obedient))
}

/// What the guest's driver acks: without event-idx, to be told of everything.
fn acked() -> u64 {
    F_VIRGL | VERSION_1 | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
}

fn read_capset(guest: &mut Guest) {
    let get = GetCapset { capset_id: CAPSET_ID.into(), capset_version: CAPSET_VERSION.into() };
    let (response, body) = guest.ask(&request(Request::GetCapset, 0, 0, get.as_bytes()));
    assert_eq!(response, Response::OkCapset);
    Capset::read(&body).unwrap();
}

fn create_context(guest: &mut Guest) -> Response {
    guest.ask(&request(Request::CtxCreate, 1, 0, CtxCreate::default().as_bytes())).0
}

fn is_interrupted(guest: &Guest) -> bool {
    let until = Instant::now() + TIMEOUT;
    while Instant::now() < until {
        if guest.call.read().is_ok() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    false
}

/// When its guest's driver is ready, libkrun says who it is, and gives all queues one eventfd to interrupt it by, after the
/// kicks; and the base before the addresses.
fn activate_as_libkrun(guest: &mut Guest) {
    let front_end = &mut guest.front_end;
    front_end.set_owner().unwrap();
    guest.share_memory();
    let front_end = &mut guest.front_end;
    front_end.set_features(acked()).unwrap();
    let cursor = EventFd::new(0).unwrap();
    let kick = |queue| if queue == 0 { &guest.kick } else { &cursor };
    for queue in 0..2 {
        front_end.set_vring_num(queue, QUEUE_SIZE).unwrap();
        front_end.set_vring_base(queue, 0).unwrap();
        front_end.set_vring_addr(queue, &addresses(queue as u64)).unwrap();
        front_end.set_vring_kick(queue, kick(queue)).unwrap();
        front_end.set_vring_call(queue, &guest.call).unwrap();
        front_end.set_vring_enable(queue, true).unwrap();
    }
}

#[test]
fn libkrun_asks_first_owns_late_and_resets_by_disabling() {
    let mut guest = connect();
    // It asks for nothing but configuration and the number of queues, and waits for no replies.
    let front_end = &mut guest.front_end;
    assert_ne!(front_end.get_features().unwrap() & F_VIRGL, 0);
    let ours = VhostUserProtocolFeatures::CONFIG | VhostUserProtocolFeatures::MQ;
    assert!(front_end.get_protocol_features().unwrap().contains(ours));
    front_end.set_protocol_features(ours).unwrap();
    assert_eq!(front_end.get_queue_num().unwrap(), 2);
    let (_, config) = front_end.get_config(8, 4, VhostUserConfigFlags::empty(), &[0; 4]).unwrap();
    assert_eq!(config, 1_u32.to_le_bytes(), "one scanout");

    activate_as_libkrun(&mut guest);
    read_capset(&mut guest);
    assert!(is_interrupted(&guest));
    assert_eq!(create_context(&mut guest), Response::OkNodata);
    assert_eq!(create_context(&mut guest), Response::ErrInvalidContextId, "it is there");

    // The guest resets the device: queues are disabled, and nobody asks where they were.
    for queue in 0..2 {
        guest.front_end.set_vring_enable(queue, false).unwrap();
    }
    guest.forget_queue();
    activate_as_libkrun(&mut guest);
    read_capset(&mut guest);
    assert_eq!(create_context(&mut guest), Response::OkNodata, "a new driver finds an empty device");
    guest.hang_up();
}

/// crosvm sets the base after the addresses, the interrupt before the kick, and asks for no replies although it could.
fn activate_as_crosvm(guest: &mut Guest, base: u16) {
    guest.share_memory();
    let front_end = &mut guest.front_end;
    let cursor = EventFd::new(0).unwrap();
    let kick = |queue| if queue == 0 { &guest.kick } else { &cursor };
    for queue in 0..2 {
        front_end.set_vring_num(queue, QUEUE_SIZE).unwrap();
        front_end.set_vring_addr(queue, &addresses(queue as u64)).unwrap();
        front_end.set_vring_base(queue, if queue == 0 { base } else { 0 }).unwrap();
        front_end.set_vring_call(queue, &guest.call).unwrap();
        front_end.set_vring_kick(queue, kick(queue)).unwrap();
        front_end.set_vring_enable(queue, true).unwrap();
    }
}

#[test]
fn crosvm_stops_queues_one_by_one_and_goes_on_where_they_were() {
    let mut guest = connect();
    let front_end = &mut guest.front_end;
    front_end.set_owner().unwrap();
    front_end.get_features().unwrap();
    let ours = VhostUserProtocolFeatures::CONFIG
        | VhostUserProtocolFeatures::MQ
        | VhostUserProtocolFeatures::REPLY_ACK;
    front_end.get_protocol_features().unwrap();
    front_end.set_protocol_features(ours).unwrap();
    assert_eq!(front_end.get_queue_num().unwrap(), 2);
    front_end.set_features(acked()).unwrap();
    activate_as_crosvm(&mut guest, 0);
    read_capset(&mut guest);
    assert!(is_interrupted(&guest));
    assert_eq!(create_context(&mut guest), Response::OkNodata);

    // Suspended and resumed: each queue is disabled, asked where it is, and set up again there.
    let mut base = [0; 2];
    for (queue, base) in base.iter_mut().enumerate() {
        guest.front_end.set_vring_enable(queue, false).unwrap();
        *base = guest.front_end.get_vring_base(queue).unwrap() as u16;
    }
    assert_eq!(base, [2, 0]);
    activate_as_crosvm(&mut guest, base[0]);
    assert_eq!(create_context(&mut guest), Response::ErrInvalidContextId, "it is still there");
    read_capset(&mut guest);
    guest.hang_up();
}

/// QEMU's device that is plugged in: it adds the guest's memory to what it thinks is none.
fn plug_in_as_qemu(guest: &mut Guest) {
    let front_end = &mut guest.front_end;
    front_end.set_owner().unwrap();
    let features = front_end.get_features().unwrap();
    let protocol = front_end.get_protocol_features().unwrap();
    front_end.set_protocol_features(protocol & !VhostUserProtocolFeatures::BACKEND_REQ).unwrap();
    front_end.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
    front_end.set_features(features & acked()).unwrap();
    let region = guest.ram_region();
    guest.front_end.add_mem_region(&region).unwrap();
    guest.start(0);
}

#[test]
fn a_device_of_qemus_that_is_plugged_in_again_on_the_same_connection_is_a_new_one() {
    let mut guest = connect();
    plug_in_as_qemu(&mut guest);
    read_capset(&mut guest);
    assert_eq!(create_context(&mut guest), Response::OkNodata);

    guest.stop();
    guest.forget_queue();
    plug_in_as_qemu(&mut guest);
    read_capset(&mut guest);
    assert_eq!(create_context(&mut guest), Response::OkNodata, "the old one is gone");
    guest.hang_up();
}

#[test]
fn a_kick_that_two_queues_share_holds_nobody_up() {
    let mut guest = connect();
    let front_end = &mut guest.front_end;
    front_end.set_owner().unwrap();
    front_end.get_features().unwrap();
    front_end.set_features(F_VIRGL | VERSION_1).unwrap();
    guest.share_memory();
    let front_end = &mut guest.front_end;
    for queue in 0..2 {
        front_end.set_vring_num(queue, QUEUE_SIZE).unwrap();
        front_end.set_vring_addr(queue, &addresses(queue as u64)).unwrap();
        front_end.set_vring_base(queue, 0).unwrap();
        front_end.set_vring_call(queue, &guest.call).unwrap();
        front_end.set_vring_kick(queue, &guest.kick).unwrap();
    }
    read_capset(&mut guest);
    guest.hang_up();
}

#[test]
fn a_call_that_is_full_and_blocks_holds_nobody_up() {
    let mut guest = Guest::connect(ThreadLauncher(Manners::Obedient));
    let full = EventFd::new(0).unwrap();
    full.write(u64::MAX - 1).unwrap();
    guest.front_end.set_vring_call(0, &full).unwrap();
    for _ in 0..2 {
        read_capset(&mut guest);
    }
    guest.hang_up();
}
