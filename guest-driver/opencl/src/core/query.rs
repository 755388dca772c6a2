//! Questions to the host that are waited for.

use paragpu_protocol::command::GetInfo;
use paragpu_protocol::info::InfoKind;
use paragpu_protocol::limits::MAX_INFO_BYTES;

use crate::core::connection::Connection;
use crate::core::error::{ClError, ClResult};

/// Room for an answer at first; most are a few bytes.
const FIRST_TRY_BYTES: usize = 4096;

/// What is asked: see [`GetInfo`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question {
    pub(crate) kind: InfoKind,
    pub(crate) object: u32,
    pub(crate) param: u32,
    pub(crate) index: u32,
}

impl Question {
    /// A question about a device.
    pub(crate) fn device(param: u32, index: u32) -> Question {
        Question { kind: InfoKind::Device, object: 0, param, index }
    }

    /// Asks the host and waits for the answer.
    pub(crate) fn ask(&self, connection: &Connection) -> ClResult<Vec<u8>> {
        self.ask_with(connection, &[])
    }

    /// Asks a question that has an input value.
    pub(crate) fn ask_with(&self, connection: &Connection, input: &[u8]) -> ClResult<Vec<u8>> {
        // CL_INVALID_VALUE if param_name is not one of the supported values. The host has the same list.
        if !self.kind.allows(self.param) {
            return Err(ClError::INVALID_VALUE);
        }
        let mut room = FIRST_TRY_BYTES;
        loop {
            let (answer, len) = self.ask_once(connection, input, room)?;
            if len <= room {
                return Ok(answer);
            }
            room = len;
        }
    }

    /// Asks a question to whose meaning the room for the answer belongs. What there is no room for is zero.
    pub(crate) fn ask_with_room(
        &self,
        connection: &Connection,
        input: &[u8],
        room: usize,
    ) -> ClResult<Vec<u8>> {
        if !self.kind.allows(self.param) {
            return Err(ClError::INVALID_VALUE);
        }
        let (mut answer, len) = self.ask_once(connection, input, room)?;
        answer.resize(len, 0);
        Ok(answer)
    }

    /// The answer, as far as there is room for it, and its full length.
    fn ask_once(&self, connection: &Connection, input: &[u8], room: usize) -> ClResult<(Vec<u8>, usize)> {
        let staging = connection.staging(room)?;
        let slot = connection.slot()?;
        let body = GetInfo {
            kind: (self.kind as u32).into(),
            object: self.object.into(),
            param: self.param.into(),
            index: self.index.into(),
            dst: staging.span(),
            reply: slot.to_ref(),
        };
        connection.send(&body, &[], input)?;
        let len = connection.wait(&slot).ok()?.len as usize;
        if len > MAX_INFO_BYTES {
            return Err(ClError::OUT_OF_RESOURCES);
        }
        let mut answer = vec![0; len.min(room)];
        staging.read(0, &mut answer);
        Ok((answer, len))
    }
}
