//! Memory that kernels and the application see at the same addresses.
//!
//! On devices that share memory with the host, a buffer can be a region of guest pages itself. The host maps every region
//! where this process is likely to have room too, and says where; mapped there a second time, a pointer into the region
//! means the same to kernels and to the application.

use std::sync::Arc;

use paragpu_protocol::command::CreateSharedBuffer;
use paragpu_protocol::svm::SharedInfo;
use paragpu_protocol::types::{Create, Span};
use zerocopy::FromBytes;

use crate::core::connection::Connection;
use crate::core::context::{self, Context};
use crate::core::error::{ClError, ClResult};
use crate::sys::region::View;
use crate::sys::shared::Shared;

/// Places that the host may offer before this process gives up: each that is taken already costs a region.
const MAX_PLACES: usize = 16;

/// A region that is mapped here where the host has it.
#[derive(Debug)]
pub(crate) struct SharedRegion {
    address: usize,
    // Unmapped before the region is given up.
    _view: Box<dyn View>,
    region: Shared,
}

/// A part of one, for a buffer.
#[derive(Clone, Debug)]
pub(crate) struct SharedBytes {
    region: Arc<SharedRegion>,
    offset: usize,
}

impl SharedBytes {
    /// Address of the first byte, for kernels and for the application.
    pub(crate) fn address(&self) -> usize {
        self.region.address + self.offset
    }

    /// The bytes from `offset` on.
    pub(crate) fn part(&self, offset: usize) -> SharedBytes {
        SharedBytes { region: self.region.clone(), offset: self.offset + offset }
    }

    /// What must stay until the host says that nothing uses it.
    pub(crate) fn region(&self) -> Arc<SharedRegion> {
        self.region.clone()
    }

    fn span(&self, len: usize) -> Span {
        Span::new(self.region.region.id(), self.offset as u64, len as u64)
    }
}

/// Makes a region of `len` bytes, zeroed, and a buffer on the host of all its bytes. Returns the buffer's id.
pub(crate) fn allocate(context: &Context, flags: u64, len: usize) -> ClResult<(u32, SharedBytes)> {
    let connection = context.connection();
    for _ in 0..MAX_PLACES {
        let region = connection.region(len)?;
        let span = Span::new(region.id(), 0, len as u64);
        let (id, address) = create(connection, context.id(), flags, span)?;
        match region.map_at(address) {
            Ok(view) => {
                let region = Arc::new(SharedRegion { address, _view: view, region });
                return Ok((id, SharedBytes { region, offset: 0 }));
            }
            Err(error) => {
                crate::debug::debug!("shared memory at {address:#x}: {error}");
                connection.release_with(id, region);
                if error.kind() != std::io::ErrorKind::AlreadyExists {
                    break;
                }
            }
        }
    }
    Err(ClError::MEM_OBJECT_ALLOCATION_FAILURE)
}

/// Makes a buffer on the host of bytes that are shared already. Returns its id.
pub(crate) fn buffer_of(context: &Context, flags: u64, bytes: &SharedBytes, len: usize) -> ClResult<u32> {
    create(context.connection(), context.id(), flags, bytes.span(len)).map(|(id, _)| id)
}

fn create(connection: &Connection, context: u32, flags: u64, memory: Span) -> ClResult<(u32, usize)> {
    let info = connection.staging(size_of::<SharedInfo>())?;
    let slot = connection.slot()?;
    let id = connection.new_id();
    let create = Create { reply: slot.to_ref(), ..context::create(id, context) };
    let body = CreateSharedBuffer { create, flags: flags.into(), memory, info: info.span() };
    connection.send(&body, &[], &[])?;
    if let Err(error) = connection.wait(&slot).ok() {
        connection.release(id);
        return Err(error);
    }
    let mut answer = [0; size_of::<SharedInfo>()];
    info.read(0, &mut answer);
    let answer = SharedInfo::read_from_bytes(&answer).or(Err(ClError::OUT_OF_RESOURCES))?;
    Ok((id, answer.address.get() as usize))
}
