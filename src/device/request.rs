//! From the bytes of a request to a typed command. Nothing here knows what exists or is allowed.

use paragpu_protocol::control::Control;
use paragpu_protocol::fault::Fault;
use paragpu_protocol::limits::{MAX_CONTROL_BYTES, MAX_MAPPINGS};
use paragpu_protocol::virtio_gpu::{
    CtxCreate, GetCapset, GetCapsetInfo, GetEdid, Header, MemEntry, Request, ResourceAttachBacking,
    ResourceCreate2d, ResourceCreate3d, ResourceRef, Submit3d,
};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// Longest request in bytes that is looked at: the fixed part and a full list of extents.
pub const MAX_REQUEST_BYTES: usize = 4096 + MAX_MAPPINGS * size_of::<MemEntry>();

/// A request, understood.
#[derive(Clone, Debug, PartialEq)]
pub enum Command<'a> {
    /// Display outputs.
    GetDisplayInfo,
    /// Monitor description.
    GetEdid,
    /// A capset's id, by index.
    GetCapsetInfo {
        /// The index.
        index: u32,
    },
    /// A capset.
    GetCapset {
        /// Its id.
        id: u32,
        /// Its version.
        version: u32,
    },
    /// New resource.
    ResourceCreate {
        /// Its id.
        resource: u32,
        /// Its size.
        bytes: u64,
    },
    /// End of a resource.
    ResourceUnref {
        /// Its id.
        resource: u32,
    },
    /// Gives a resource pages.
    AttachBacking {
        /// Its id.
        resource: u32,
        /// The extents, as the guest claims them.
        entries: &'a [MemEntry],
    },
    /// Takes a resource's pages away.
    DetachBacking {
        /// Its id.
        resource: u32,
    },
    /// New context.
    CtxCreate {
        /// The guest's name for it, made printable.
        name: String,
    },
    /// End of the context.
    CtxDestroy,
    /// Lets the context use a resource.
    CtxAttach {
        /// The resource.
        resource: u32,
    },
    /// Ends that.
    CtxDetach {
        /// The resource.
        resource: u32,
    },
    /// A submission to the context.
    Submit(Result<Control, Fault>),
    /// What a device without display and host copies may answer with a plain yes.
    Nothing,
}

/// Why a request could not be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// It ends before its fixed part does, or its counts say more than is there.
    #[error("truncated request")]
    Truncated,
    /// A number that is no request of virtio-gpu.
    #[error("unknown request {0:#x}")]
    Unknown(u32),
    /// A request of virtio-gpu that this device does not offer.
    #[error("request {0:?} is not offered")]
    NotOffered(Request),
}

/// Reads the header of a request.
pub fn header(bytes: &[u8]) -> Result<(Header, &[u8]), RequestError> {
    Header::read_from_prefix(bytes).map_err(|_short| RequestError::Truncated)
}

/// Reads what follows the header.
pub fn parse<'a>(header: &Header, body: &'a [u8]) -> Result<Command<'a>, RequestError> {
    let number = header.kind.get();
    let request = Request::from_wire(number).ok_or(RequestError::Unknown(number))?;
    Ok(match request {
        Request::GetDisplayInfo => Command::GetDisplayInfo,
        Request::GetEdid => fixed::<GetEdid>(body).map(|_| Command::GetEdid)?,
        Request::GetCapsetInfo => {
            Command::GetCapsetInfo { index: fixed::<GetCapsetInfo>(body)?.0.capset_index.get() }
        }
        Request::GetCapset => {
            let (get, _) = fixed::<GetCapset>(body)?;
            Command::GetCapset { id: get.capset_id.get(), version: get.capset_version.get() }
        }
        Request::ResourceCreate2d => {
            let (create, _) = fixed::<ResourceCreate2d>(body)?;
            // The product of two 32-bit numbers fits; the third factor may not.
            let pixels = u64::from(create.width.get()) * u64::from(create.height.get());
            Command::ResourceCreate { resource: create.resource_id.get(), bytes: pixels.saturating_mul(4) }
        }
        Request::ResourceCreate3d => {
            let (create, _) = fixed::<ResourceCreate3d>(body)?;
            Command::ResourceCreate { resource: create.resource_id.get(), bytes: create.width.get().into() }
        }
        Request::ResourceUnref => Command::ResourceUnref { resource: resource(body)? },
        Request::ResourceAttachBacking => {
            let (attach, rest) = fixed::<ResourceAttachBacking>(body)?;
            let (entries, _) =
                <[MemEntry]>::ref_from_prefix_with_elems(rest, attach.nr_entries.get() as usize)
                    .map_err(|_short| RequestError::Truncated)?;
            Command::AttachBacking { resource: attach.resource_id.get(), entries }
        }
        Request::ResourceDetachBacking => Command::DetachBacking { resource: resource(body)? },
        Request::CtxCreate => Command::CtxCreate { name: printable_name(&fixed::<CtxCreate>(body)?.0) },
        Request::CtxDestroy => Command::CtxDestroy,
        Request::CtxAttachResource => Command::CtxAttach { resource: resource(body)? },
        Request::CtxDetachResource => Command::CtxDetach { resource: resource(body)? },
        Request::Submit3d => {
            let (submit, rest) = fixed::<Submit3d>(body)?;
            let size = submit.size.get();
            if size > MAX_CONTROL_BYTES {
                return Ok(Command::Submit(Err(Fault::BadControl)));
            }
            let payload = rest.get(..size as usize).ok_or(RequestError::Truncated)?;
            Command::Submit(Control::parse(payload))
        }
        Request::SetScanout
        | Request::ResourceFlush
        | Request::TransferToHost2d
        | Request::TransferToHost3d
        | Request::TransferFromHost3d
        | Request::UpdateCursor
        | Request::MoveCursor => Command::Nothing,
        Request::ResourceAssignUuid
        | Request::ResourceCreateBlob
        | Request::SetScanoutBlob
        | Request::ResourceMapBlob
        | Request::ResourceUnmapBlob => return Err(RequestError::NotOffered(request)),
    })
}

fn fixed<T: FromBytes + Immutable + KnownLayout + Unaligned>(
    body: &[u8],
) -> Result<(T, &[u8]), RequestError> {
    T::read_from_prefix(body).map_err(|_short| RequestError::Truncated)
}

fn resource(body: &[u8]) -> Result<u32, RequestError> {
    Ok(fixed::<ResourceRef>(body)?.0.resource_id.get())
}

/// The name goes into logs, so nothing in it may look like a line or an escape of ours.
fn printable_name(create: &CtxCreate) -> String {
    let bytes = create.debug_name.as_flattened();
    let len = (create.nlen.get() as usize).min(bytes.len());
    let name = bytes[..len].iter().take_while(|byte| **byte != 0);
    name.map(|byte| if byte.is_ascii_graphic() || *byte == b' ' { char::from(*byte) } else { '?' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, proptest};
    use zerocopy::IntoBytes;

    fn header_of(request: Request) -> Header {
        Header { kind: (request as u32).into(), ..Header::default() }
    }

    #[test]
    fn every_request_survives_every_truncation() {
        for request in Request::ALL {
            for len in 0..128 {
                let _ = parse(&header_of(*request), &vec![0xff; len]);
                let _ = parse(&header_of(*request), &vec![0; len]);
            }
        }
    }

    #[test]
    fn more_entries_than_bytes_is_truncation_not_allocation() {
        let body = ResourceAttachBacking { resource_id: 1.into(), nr_entries: u32::MAX.into() };
        let parsed = parse(&header_of(Request::ResourceAttachBacking), body.as_bytes());
        assert_eq!(parsed, Err(RequestError::Truncated));
    }

    #[test]
    fn context_names_are_made_printable() {
        let mut create = CtxCreate { nlen: u32::MAX.into(), ..CtxCreate::default() };
        create.debug_name[0][..6].copy_from_slice(b"a b\n\x1bz");
        assert_eq!(printable_name(&create), "a b??z");
        create.nlen = 1.into();
        assert_eq!(printable_name(&create), "a");
    }

    proptest! {
        #[test]
        fn garbage_is_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok((header, body)) = header(&bytes) {
                let _ = parse(&header, body);
            }
        }
    }
}
