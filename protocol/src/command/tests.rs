use super::*;
use crate::frame;
use crate::limits::MAX_FRAME_BYTES;
use proptest::prelude::{any, prop};
use proptest::{prop_assert, prop_assert_eq, proptest};
use std::vec;

#[test]
fn opcodes_round_trip_and_have_distinct_names() {
    let mut names = std::collections::BTreeSet::new();
    for &opcode in Opcode::ALL {
        assert_eq!(Opcode::from_wire(opcode as u16), Some(opcode));
        assert!(names.insert(opcode.name()), "{opcode:?}");
        // The longest possible frame of each command fits a frame and the smallest ring.
        let wait = if opcode.may_wait() { usize::from(crate::limits::MAX_WAIT_EVENTS) } else { 0 };
        assert!(
            frame::frame_len(opcode.body_len(), wait, opcode.max_data() as usize).is_some(),
            "{opcode:?}"
        );
    }
    assert_eq!(Opcode::from_wire(0xffff), None);
}

#[test]
fn a_wait_list_where_none_belongs_is_a_fault() {
    let mut out = [0; 256];
    let body = Release { id: 3.into(), reserved: U32::ZERO };
    let len = write_frame(&mut out, Opcode::Release as u16, body.as_bytes(), &[1], &[]).unwrap();
    let frame = Frame::parse(&out[..len]).unwrap();
    assert_eq!(Command::parse(&frame), Err(Fault::BadFrame));
}

proptest! {
    /// Any body, wait list and data of any command survive the way through a frame.
    #[test]
    fn commands_round_trip(
        index in 0..Opcode::ALL.len(),
        body in prop::collection::vec(any::<u8>(), 256),
        wait in prop::collection::vec(any::<u32>(), 0..40),
        data in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let opcode = Opcode::ALL[index];
        let wait = if opcode.may_wait() { &wait[..] } else { &[] };
        let data = &data[..data.len().min(opcode.max_data() as usize)];
        let mut out = vec![0; MAX_FRAME_BYTES as usize];
        let len = write_frame(&mut out, opcode as u16, &body[..opcode.body_len()], wait, data).unwrap();
        let command = Command::parse(&Frame::parse(&out[..len]).unwrap()).unwrap();
        prop_assert_eq!(command.opcode(), opcode);
        let mut again = vec![0xff; MAX_FRAME_BYTES as usize];
        prop_assert_eq!(command.encode(&mut again), Some(len));
        prop_assert_eq!(&again[..len], &out[..len]);
    }

    /// Garbage is refused or understood, never a panic; what is understood encodes to the same meaning.
    #[test]
    fn garbage_never_panics(mut bytes in prop::collection::vec(any::<u8>(), 16..400)) {
        bytes.truncate(bytes.len() & !15);
        let len = bytes.len() as u32;
        bytes[4..8].copy_from_slice(&len.to_le_bytes());
        bytes[1] = 0;
        bytes[3] = 0;
        bytes[9..16].fill(0);
        if let Ok(command) = Frame::parse(&bytes).and_then(|frame| Command::parse(&frame)) {
            let mut again = vec![0; MAX_FRAME_BYTES as usize];
            let len = command.encode(&mut again).unwrap();
            prop_assert!(len <= bytes.len());
            let frame = Frame::parse(&again[..len]).unwrap();
            prop_assert_eq!(Command::parse(&frame), Ok(command));
        }
    }
}
