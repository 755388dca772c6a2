//! Memory that kernels and the application see at the same addresses.
//!
//! On devices that share memory with the host, a buffer can be a region of guest pages itself. The host maps every region
//! where this process is likely to have room too, and says where; mapped there a second time, a pointer into the region
//! means the same to kernels and to the application.
//!
//! On devices with memory of their own, the address is one that the driver has chosen. This process has private memory
//! there, which commands bring up to date when the application maps it.

use std::sync::Arc;

use paragpu_protocol::command::{Body, CreateCoarseBuffer, CreateSharedBuffer};
use paragpu_protocol::svm::SharedInfo;
use paragpu_protocol::types::{Create, Span};
use zerocopy::FromBytes;

use crate::core::context::{self, Context};
use crate::core::error::{ClError, ClResult};
use crate::sys::mapping::Mapping;
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
        let (id, address) = create_shared(context, flags, span)?;
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

/// Memory of this process at an address that kernels of a device with memory of its own use for theirs.
#[derive(Clone, Debug)]
pub(crate) struct CoarseBytes {
    address: usize,
    /// Of the allocation that they are of: its buffer on the host, and where in it they start.
    of: (u32, usize),
    _memory: Arc<dyn View>,
}

impl CoarseBytes {
    /// Address of the first byte.
    pub(crate) fn address(&self) -> usize {
        self.address
    }

    /// The bytes from `offset` on.
    pub(crate) fn part(&self, offset: usize) -> CoarseBytes {
        CoarseBytes { address: self.address + offset, of: (self.of.0, self.of.1 + offset), ..self.clone() }
    }
}

/// Makes a buffer of `len` bytes, zeroed, on devices with memory of their own, and has memory here at its address. Returns
/// the buffer's id.
pub(crate) fn allocate_coarse(context: &Context, flags: u64, len: usize) -> ClResult<(u32, CoarseBytes)> {
    let connection = context.connection();
    // Kept until there is a good one, so that the host does not give the same place twice.
    let mut bad = Vec::new();
    let found = loop {
        let (id, address) = match create_coarse(context, flags, len, (0, 0)) {
            Ok(made) => made,
            Err(error) => break Err(error),
        };
        match Mapping::private_at(len, address) {
            Ok(memory) => {
                break Ok((id, CoarseBytes { address, of: (id, 0), _memory: Arc::new(memory) }));
            }
            Err(error) => {
                crate::debug::debug!("memory at {address:#x}: {error}");
                bad.push(id);
                if bad.len() >= MAX_PLACES {
                    break Err(ClError::MEM_OBJECT_ALLOCATION_FAILURE);
                }
            }
        }
    };
    bad.into_iter().for_each(|id| connection.release(id));
    found
}

/// Makes a buffer on the host of bytes that are coarse-grain memory already. Returns its id.
pub(crate) fn buffer_of_coarse(
    context: &Context,
    flags: u64,
    bytes: &CoarseBytes,
    len: usize,
) -> ClResult<u32> {
    create_coarse(context, flags, len, bytes.of).map(|(id, _)| id)
}

fn create_coarse(
    context: &Context,
    flags: u64,
    len: usize,
    (of, offset): (u32, usize),
) -> ClResult<(u32, usize)> {
    create(context, |create, info| CreateCoarseBuffer {
        create,
        flags: flags.into(),
        size: (len as u64).into(),
        of: of.into(),
        reserved: 0.into(),
        offset: (offset as u64).into(),
        info,
    })
}

/// Makes a buffer on the host of bytes that are shared already. Returns its id.
pub(crate) fn buffer_of(context: &Context, flags: u64, bytes: &SharedBytes, len: usize) -> ClResult<u32> {
    create_shared(context, flags, bytes.span(len)).map(|(id, _)| id)
}

fn create_shared(context: &Context, flags: u64, memory: Span) -> ClResult<(u32, usize)> {
    create(context, |create, info| CreateSharedBuffer { create, flags: flags.into(), memory, info })
}

/// Creates a buffer with an address; returns its id and that.
fn create<B: Body>(context: &Context, body: impl FnOnce(Create, Span) -> B) -> ClResult<(u32, usize)> {
    let connection = context.connection();
    let info = connection.staging(size_of::<SharedInfo>())?;
    let slot = connection.slot()?;
    let id = connection.new_id();
    let create = Create { reply: slot.to_ref(), ..context::create(id, context.id()) };
    connection.send(&body(create, info.span()), &[], &[])?;
    if let Err(error) = connection.wait(&slot).ok() {
        connection.release(id);
        return Err(error);
    }
    let mut answer = [0; size_of::<SharedInfo>()];
    info.read(0, &mut answer);
    let answer = SharedInfo::read_from_bytes(&answer).or(Err(ClError::OUT_OF_RESOURCES))?;
    Ok((id, answer.address.get() as usize))
}
