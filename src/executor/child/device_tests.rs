//! Sub-devices, what is asked about launches, and who waits for their start, on the null backend.

use paragpu_protocol::command::{
    CreateContext, CreateQueue, CreateSubDevices, GetInfo, Marker, Release, WatchEvent,
};
use paragpu_protocol::fault::Fault;
use paragpu_protocol::info::InfoKind;
use paragpu_protocol::types::{Create, Enqueue, SlotRef};
use zerocopy::little_endian::U32;

use super::record::ArgRecord;
use super::region::Budget;
use super::rig::{EVENT, KERNEL, QUEUE, Rig, create, fault, launch, silent, span};

fn divide(rig: &Rig, parent: u32, count: u32) -> CreateSubDevices {
    CreateSubDevices {
        parent: parent.into(),
        partition: 0x1086.into(),
        count: count.into(),
        reserved: U32::ZERO,
        reply: rig.slot(),
    }
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

#[test]
fn sub_devices_work_as_devices_and_live_as_long_as_they_are_used() {
    let mut rig = Rig::new();
    let question = divide(&rig, 0, 0);
    rig.run(&question, &[], &words(&[2])).unwrap();
    assert_eq!(rig.peek(question.reply).unwrap().len.get(), 4);
    let before = rig.context.live_objects();
    let parts = divide(&rig, 0, 4);
    rig.run(&parts, &[], &words(&[20, 21, 22, 23, 2])).unwrap();
    assert_eq!(rig.status(parts.reply), 0);
    let halves = divide(&rig, 0x8000_0000 | 21, 2);
    rig.run(&halves, &[], &words(&[24, 25, 1])).unwrap();
    assert_eq!(rig.status(halves.reply), 0);
    let device = 0x8000_0000 | 25;
    rig.run(&CreateContext { create: create(30, 0) }, &[], &words(&[device, 1])).unwrap();
    let queue = CreateQueue { create: create(31, 30), device: device.into(), ..CreateQueue::default() };
    rig.run(&queue, &[], &[]).unwrap();
    for id in 20..26_u32 {
        rig.run(&Release { id: id.into(), reserved: U32::ZERO }, &[], &[]).unwrap();
    }
    // The context needs one half, and that the part which it is a half of.
    assert_eq!(rig.context.live_objects(), before + 4);
    let hidden = rig.context.records().into_iter().filter(|record| record.id.is_none()).count();
    assert_eq!(hidden, 2);
    rig.run(&Marker { enqueue: Enqueue { queue: 31.into(), ..silent() } }, &[], &[]).unwrap();
    rig.context.flush();
    for id in [31_u32, 30] {
        rig.run(&Release { id: id.into(), reserved: U32::ZERO }, &[], &[]).unwrap();
    }
    assert_eq!(rig.context.live_objects(), before);
}

#[test]
fn sub_devices_that_cannot_be_are_errors_or_faults() {
    let mut rig = Rig::new();
    // More than the device has, and another number of parts than there would be.
    for (count, data) in [(1, &[20, 9][..]), (2, &[21, 22, 2])] {
        let body = divide(&rig, 0, count);
        rig.run(&body, &[], &words(data)).unwrap();
        assert_eq!(rig.status(body.reply), -30);
    }
    let poisoned = rig.context.records().into_iter().filter(|record| record.poisoned.is_some()).count();
    assert_eq!(poisoned, 3);
    let context = CreateContext { create: Create { reply: rig.slot(), ..create(30, 0) } };
    rig.run(&context, &[], &words(&[0x8000_0000 | 20])).unwrap();
    assert_eq!(rig.status(context.create.reply), -30);
    rig.context.sub_devices = Budget::new(3);
    let body = divide(&rig, 0, 4);
    rig.run(&body, &[], &words(&[40, 41, 42, 43, 2])).unwrap();
    assert_eq!(rig.status(body.reply), -5, "more than one context may have");

    let good = divide(&Rig::new(), 0, 1);
    let bad = Some(Fault::BadValue);
    assert_eq!(fault(&good, &[], &words(&[20, 8])), None);
    assert_eq!(fault(&good, &[], &words(&[0x8000_0014, 8])), bad);
    assert_eq!(fault(&good, &[], &words(&[20, 0])), bad);
    assert_eq!(fault(&good, &[], &words(&[20, 4, 4])), bad);
    assert_eq!(fault(&good, &[], &words(&[20])), bad);
    assert_eq!(fault(&good, &[], &words(&[])), bad);
    assert_eq!(fault(&good, &[], &words(&[0, 8])), Some(Fault::IdInUse));
    assert_eq!(fault(&good, &[], &words(&[QUEUE, 8])), Some(Fault::IdInUse));
    assert_eq!(
        fault(&CreateSubDevices { count: 2.into(), ..good }, &[], &words(&[20, 20, 4])),
        Some(Fault::IdInUse)
    );
    assert_eq!(fault(&CreateSubDevices { count: u32::MAX.into(), ..good }, &[], &[]), Some(Fault::Limit));
    assert_eq!(fault(&CreateSubDevices { partition: 0x1089.into(), ..good }, &[], &words(&[20, 8])), bad);
    assert_eq!(fault(&CreateSubDevices { parent: 2.into(), ..good }, &[], &words(&[20, 8])), bad);
    assert_eq!(
        fault(&CreateSubDevices { reserved: 1.into(), ..good }, &[], &words(&[20, 8])),
        Some(Fault::Reserved)
    );
    let of_queue = CreateSubDevices { parent: (0x8000_0000 | QUEUE).into(), ..good };
    assert_eq!(fault(&of_queue, &[], &words(&[20, 8])), Some(Fault::UnknownObject));
}

#[test]
fn who_waits_for_a_start_hears_of_it_once_and_also_of_an_end() {
    let mut rig = Rig::new();
    let watch =
        |rig: &Rig, event: u32| WatchEvent { event: event.into(), reserved: U32::ZERO, reply: rig.slot() };
    let marker = Marker { enqueue: Enqueue { event: 30.into(), ..silent() } };
    rig.run(&marker, &[], &[]).unwrap();
    let body = watch(&rig, 30);
    rig.run(&body, &[], &[]).unwrap();
    assert_eq!(rig.status(body.reply), 0);
    // A launch that failed has ended without a start.
    rig.run(&launch(Enqueue { event: 31.into(), ..silent() }), &[], &[]).unwrap();
    let body = watch(&rig, 31);
    rig.run(&body, &[], &[]).unwrap();
    assert_eq!(rig.status(body.reply), 0);
    let nobody = WatchEvent { reply: SlotRef::NONE, ..body };
    assert_eq!(rig.run(&nobody, &[], &[]), Ok(()));
    assert_eq!(fault(&watch(&rig, EVENT), &[], &[]), Some(Fault::BadValue), "a user event does not run");
    assert_eq!(fault(&watch(&rig, KERNEL), &[], &[]), Some(Fault::UnknownObject));
    let reserved = WatchEvent { reserved: 1.into(), ..watch(&rig, 30) };
    assert_eq!(fault(&reserved, &[], &[]), Some(Fault::Reserved));
}

#[test]
fn a_local_size_is_suggested_for_what_could_be_launched() {
    let mut rig = Rig::new();
    let ask = |rig: &mut Rig, dims: u32, global: [u64; 3]| {
        let body = GetInfo {
            kind: (InfoKind::SuggestedLocalSize as u32).into(),
            object: KERNEL.into(),
            param: dims.into(),
            index: QUEUE.into(),
            dst: span(24),
            reply: rig.slot(),
        };
        let data = [[0; 3], global].concat();
        let data: Vec<u8> = data.into_iter().flat_map(u64::to_le_bytes).collect();
        rig.run(&body, &[], &data).map(|()| rig.status(body.reply))
    };
    assert_eq!(ask(&mut rig, 2, [64, 4, 1]), Ok(-52), "arguments are not set");
    rig.set_all_args();
    rig.context.objects.kernel(KERNEL).unwrap().state().record.args[4] = ArgRecord::Value(Vec::new());
    assert_eq!(ask(&mut rig, 2, [64, 4, 1]), Ok(0));
    let mut answer = [0; 24];
    assert!(rig.memory.read(32768, &mut answer));
    assert_eq!(
        answer.as_chunks().0.iter().map(|size| u64::from_le_bytes(*size)).collect::<Vec<_>>(),
        [8, 4, 1]
    );
    assert_eq!(ask(&mut rig, 4, [64, 4, 1]), Ok(-30));
    assert_eq!(ask(&mut rig, 1, [64, 4, 1]), Err(Fault::BadValue));
}
