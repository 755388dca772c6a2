//! Pipes and queues on the device on the null backend: what a guest may do with them, and what it may not.

use paragpu_protocol::command::{
    CreateDeviceQueue, CreatePipe, EnqueueKernel, Finish, Marker, ReadBuffer, Release, SetDefaultQueue,
};
use paragpu_protocol::fault::Fault;
use paragpu_protocol::types::Enqueue;

use super::record::{DeviceQueueRecord, DeviceRecord, PipeRecord, Record, Serial};
use super::rig::{
    CONTEXT, DEVICE_QUEUE, PIPE, QUEUE, Rig, create, device_queue, fault, object, pipe, silent, span,
};

const BAD: Option<Fault> = Some(Fault::BadValue);
const UNKNOWN: Option<Fault> = Some(Fault::UnknownObject);

/// `CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE`
const OUT_OF_ORDER: u64 = 1;
/// `CL_QUEUE_PROFILING_ENABLE`
const PROFILING: u64 = 2;
/// `CL_QUEUE_ON_DEVICE`
const ON_DEVICE: u64 = 4;
/// `CL_QUEUE_ON_DEVICE_DEFAULT`
const DEFAULT: u64 = 8;

fn with_properties(properties: u64) -> CreateDeviceQueue {
    CreateDeviceQueue { properties: properties.into(), ..device_queue(20) }
}

fn set_default(queue: u32) -> SetDefaultQueue {
    SetDefaultQueue { queue: queue.into(), reserved: 0.into() }
}

/// Serial and record of the object with this id.
fn record(rig: &Rig, id: u32) -> (Serial, Record) {
    let records = rig.context.records();
    let found = records.into_iter().find(|record| record.id == Some(id)).unwrap();
    (found.serial, found.record)
}

fn default_queues(rig: &Rig) -> Vec<(DeviceRecord, Serial)> {
    match record(rig, CONTEXT).1 {
        Record::Context(record) => record.default_queues,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_a_guest_sees_of_them_is_in_their_records() {
    let mut rig = Rig::new();
    let (context, _) = record(&rig, CONTEXT);
    let expected = PipeRecord { context, packet_size: 4, max_packets: 16 };
    assert_eq!(record(&rig, PIPE).1, Record::Pipe(expected));
    let device = DeviceRecord::Root(0);
    let expected = DeviceQueueRecord { context, device, properties: ON_DEVICE | OUT_OF_ORDER, size: None };
    assert_eq!(record(&rig, DEVICE_QUEUE).1, Record::DeviceQueue(expected));
    assert_eq!(default_queues(&rig), []);

    let properties = ON_DEVICE | OUT_OF_ORDER | DEFAULT | PROFILING;
    let default = CreateDeviceQueue { size: 4096.into(), ..with_properties(properties) };
    rig.run(&default, &[], &[]).unwrap();
    let (serial, made) = record(&rig, 20);
    let expected = DeviceQueueRecord { context, device, properties, size: Some(4096) };
    assert_eq!((default_queues(&rig), made), (vec![(device, serial)], Record::DeviceQueue(expected)));

    rig.run(&set_default(DEVICE_QUEUE), &[], &[]).unwrap();
    let (serial, _) = record(&rig, DEVICE_QUEUE);
    assert_eq!(default_queues(&rig), [(device, serial)]);
}

#[test]
fn the_default_stays_when_its_id_is_given_up() {
    let mut rig = Rig::new();
    rig.run(&set_default(DEVICE_QUEUE), &[], &[]).unwrap();
    let before = default_queues(&rig);
    rig.run(&Release { id: DEVICE_QUEUE.into(), ..Release::default() }, &[], &[]).unwrap();
    assert_eq!((default_queues(&rig), before.len()), (before, 1));
}

#[test]
fn sizes_and_properties_that_no_such_object_has_are_faults() {
    assert_eq!(fault(&pipe(20), &[], &[]), None);
    assert_eq!(fault(&CreatePipe { packet_size: 0.into(), ..pipe(20) }, &[], &[]), BAD);
    assert_eq!(fault(&CreatePipe { max_packets: 0.into(), ..pipe(20) }, &[], &[]), BAD);
    for wrong in [0, ON_DEVICE, OUT_OF_ORDER, DEFAULT | OUT_OF_ORDER, ON_DEVICE | OUT_OF_ORDER | 16, !0] {
        assert_eq!(fault(&with_properties(wrong), &[], &[]), BAD, "{wrong:#x}");
    }
    for device in [1, 2, 0x7fff_ffff] {
        let queue = CreateDeviceQueue { device: device.into(), ..device_queue(20) };
        assert_eq!(fault(&queue, &[], &[]), BAD, "a device that the context does not have: {device}");
    }
    assert_eq!(
        fault(&SetDefaultQueue { reserved: 1.into(), ..set_default(DEVICE_QUEUE) }, &[], &[]),
        Some(Fault::Reserved)
    );
}

#[test]
fn a_pipe_larger_than_any_memory_object_is_not_asked_for() {
    let mut rig = Rig::new();
    let reply = rig.slot();
    let mut huge = CreatePipe { packet_size: u32::MAX.into(), max_packets: u32::MAX.into(), ..pipe(20) };
    huge.create.reply = reply;
    rig.run(&huge, &[], &[]).unwrap();
    assert_eq!(rig.status(reply), -69, "CL_INVALID_PIPE_SIZE");
}

#[test]
fn a_queue_on_the_device_takes_no_commands_and_a_pipe_has_no_bytes() {
    let there = || Enqueue { queue: DEVICE_QUEUE.into(), ..silent() };
    assert_eq!(fault(&Marker { enqueue: there() }, &[], &[]), UNKNOWN);
    assert_eq!(fault(&EnqueueKernel { enqueue: there(), ..EnqueueKernel::default() }, &[], &[]), UNKNOWN);
    assert_eq!(fault(&Finish { queue: DEVICE_QUEUE.into(), ..Finish::default() }, &[], &[]), UNKNOWN);
    let read = ReadBuffer { enqueue: silent(), buffer: PIPE.into(), dst: span(4), ..ReadBuffer::default() };
    assert_eq!(fault(&read, &[], &[]), UNKNOWN);
    assert_eq!(fault(&set_default(QUEUE), &[], &[]), UNKNOWN);
    assert_eq!(fault(&set_default(PIPE), &[], &[]), UNKNOWN);
    assert_eq!(fault(&CreatePipe { create: create(20, QUEUE), ..pipe(20) }, &[], &[]), UNKNOWN);
}

#[test]
fn a_kernel_keeps_what_it_is_set_to() {
    let mut rig = Rig::new();
    rig.run(&object(6, PIPE), &[], &[]).unwrap();
    rig.run(&object(7, DEVICE_QUEUE), &[], &[]).unwrap();
    let serials = [PIPE, DEVICE_QUEUE].map(|id| record(&rig, id).0);
    for id in [PIPE, DEVICE_QUEUE] {
        rig.run(&Release { id: id.into(), ..Release::default() }, &[], &[]).unwrap();
    }
    for serial in serials {
        let records = rig.context.records();
        assert!(records.iter().any(|record| record.serial == serial && record.id.is_none()), "{serial}");
    }
}
