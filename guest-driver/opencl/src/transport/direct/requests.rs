//! virtio-gpu's requests as this transport sends them. One connection is one context, and the device is this
//! connection's alone, so the context's id can be fixed.

use paragpu_protocol::virtio_gpu::{CtxCreate, Header, MemEntry, Request, ResourceAttachBacking};
use paragpu_protocol::virtio_gpu::{ResourceCreate3d, ResourceRef, Submit3d};

/// The context's id.
const CONTEXT: u32 = 1;

/// `VIRGL_FORMAT_R8_UNORM`, as the other transport says it.
const FORMAT_R8: u32 = 64;

/// A request's header. Requests that are about no context leave the id alone.
pub(super) fn header(request: Request) -> Header {
    let ctx_id = match request {
        Request::CtxCreate
        | Request::CtxDestroy
        | Request::CtxAttachResource
        | Request::CtxDetachResource
        | Request::Submit3d => CONTEXT,
        _ => 0,
    };
    Header { kind: (request as u32).into(), ctx_id: ctx_id.into(), ..Header::default() }
}

/// The body of `CTX_CREATE`, with this process's name for the host's logs.
pub(super) fn context_body() -> CtxCreate {
    let comm = std::fs::read("/proc/self/comm").unwrap_or_default();
    let name = comm.trim_ascii_end();
    let mut body = CtxCreate::default();
    let room = body.debug_name.as_flattened_mut();
    // One byte stays zero: the other end may take this for a C string.
    let len = name.len().min(room.len() - 1);
    room[..len].copy_from_slice(&name[..len]);
    body.nlen = (len as u32).into();
    body
}

/// The body of `RESOURCE_CREATE_3D` for a region.
pub(super) fn region_body(id: u32, bytes: u32) -> ResourceCreate3d {
    ResourceCreate3d {
        resource_id: id.into(),
        format: FORMAT_R8.into(),
        width: bytes.into(),
        height: 1.into(),
        depth: 1.into(),
        array_size: 1.into(),
        ..ResourceCreate3d::default()
    }
}

/// The body of `RESOURCE_ATTACH_BACKING` for pages that lie in one piece, with what follows it.
pub(super) fn backing_body(id: u32, address: u64, bytes: u32) -> (ResourceAttachBacking, MemEntry) {
    let body = ResourceAttachBacking { resource_id: id.into(), nr_entries: 1.into() };
    let entry = MemEntry { addr: address.into(), length: bytes.into(), ..MemEntry::default() };
    (body, entry)
}

/// The body of a request about one resource.
pub(super) fn resource_body(id: u32) -> ResourceRef {
    ResourceRef { resource_id: id.into(), ..ResourceRef::default() }
}

/// The body of `SUBMIT_3D`; the command follows.
pub(super) fn submit_body(command: &[u8]) -> Submit3d {
    Submit3d { size: (command.len() as u32).into(), ..Submit3d::default() }
}
