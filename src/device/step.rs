//! What happens to a device, as bytes: so sessions are recorded, and so fuzzers invent them.

use std::borrow::Cow;

use crate::executor::message::ToBroker;

/// Bytes before each step's payload: its number, and the payload's length.
const PREFIX_BYTES: usize = 3;

/// One thing that happens to a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// The guest sends a request.
    Request(&'a [u8]),
    /// The executor sends a message, as on its socket.
    Message(Cow<'a, [u8]>),
    /// The executor wakes somebody.
    Wake,
    /// So many milliseconds pass.
    Tick(u16),
    /// The executor ends.
    ExecutorGone,
    /// The control queue starts anew.
    NewDriver,
    /// The session ends.
    EndContexts,
    /// The guest writes a word of its memory.
    Store {
        /// Its guest-physical address.
        addr: u64,
        /// The word.
        value: u32,
    },
}

impl<'a> Step<'a> {
    /// A message as a step; `None` if it does not encode.
    pub fn message(message: &ToBroker) -> Option<Step<'static>> {
        Some(Step::Message(postcard::to_stdvec(message).ok()?.into()))
    }

    /// Its bytes; `None` if the payload is too long.
    pub fn encode(&self) -> Option<Vec<u8>> {
        let (number, payload): (u8, Cow<'_, [u8]>) = match self {
            Step::Request(bytes) => (0, (*bytes).into()),
            Step::Message(bytes) => (1, bytes.as_ref().into()),
            Step::Wake => (2, Cow::default()),
            Step::Tick(millis) => (3, millis.to_le_bytes().to_vec().into()),
            Step::ExecutorGone => (4, Cow::default()),
            Step::NewDriver => (5, Cow::default()),
            Step::EndContexts => (6, Cow::default()),
            Step::Store { addr, value } => {
                (7, [&addr.to_le_bytes()[..], &value.to_le_bytes()].concat().into())
            }
        };
        let len = u16::try_from(payload.len()).ok()?;
        Some([&[number][..], &len.to_le_bytes(), &payload].concat())
    }

    /// Takes one step off the front of `data`. Every input has a meaning: a payload that is too long ends with
    /// the input, and a number that is no step is a request.
    pub fn decode(data: &mut &'a [u8]) -> Option<Step<'a>> {
        let (prefix, rest) = data.split_at_checked(PREFIX_BYTES)?;
        let len = usize::from(u16::from_le_bytes([prefix[1], prefix[2]]));
        let (payload, rest) = rest.split_at(len.min(rest.len()));
        *data = rest;
        let byte = |at: usize| payload.get(at).copied().unwrap_or(0);
        Some(match prefix[0] {
            1 => Step::Message(payload.into()),
            2 => Step::Wake,
            3 => Step::Tick(u16::from_le_bytes([byte(0), byte(1)])),
            4 => Step::ExecutorGone,
            5 => Step::NewDriver,
            6 => Step::EndContexts,
            7 => Step::Store {
                addr: u64::from_le_bytes(std::array::from_fn(byte)),
                value: u32::from_le_bytes(std::array::from_fn(|at| byte(8 + at))),
            },
            _ => Step::Request(payload),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_survive_being_recorded() {
        let message = ToBroker::RegionRemoved { context: 3, region: 700 };
        let steps = [
            Step::Request(b"request"),
            Step::message(&message).unwrap(),
            Step::Wake,
            Step::Tick(1000),
            Step::ExecutorGone,
            Step::NewDriver,
            Step::EndContexts,
            Step::Store { addr: 0x1_0000_0100, value: 9 },
        ];
        let bytes: Vec<u8> = steps.iter().flat_map(|step| step.encode().unwrap()).collect();
        let mut rest = &bytes[..];
        for step in steps {
            assert_eq!(Step::decode(&mut rest), Some(step));
        }
        assert_eq!(Step::decode(&mut rest), None);
    }
}
