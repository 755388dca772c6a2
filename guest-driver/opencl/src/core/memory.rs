//! Memory objects: what a `cl_mem` may be, and what all kinds of it have in common.

use std::sync::{Arc, Mutex, OnceLock};

use opencl_sys::{
    CL_MEM_CONTEXT, CL_MEM_FLAGS, CL_MEM_HOST_NO_ACCESS, CL_MEM_HOST_PTR, CL_MEM_HOST_READ_ONLY,
    CL_MEM_HOST_WRITE_ONLY, CL_MEM_MAP_COUNT, CL_MEM_PROPERTIES, CL_MEM_READ_ONLY, CL_MEM_READ_WRITE,
    CL_MEM_REFERENCE_COUNT, CL_MEM_USES_SVM_POINTER, CL_MEM_WRITE_ONLY,
};

use paragpu_protocol::command::{CreateBuffer, CreatePlacedBuffer};
use paragpu_protocol::types::Span;

use crate::boundary::callback::{Callback, HandleFn};
use crate::boundary::object::{Handle, Object, RawHandle};
use crate::boundary::pointer::AppMemory;
use crate::core::buffer::Buffer;
use crate::core::context::{self, Context};
use crate::core::error::ClResult;
use crate::core::image::Image;
use crate::core::info::Info;
use crate::core::lock;
use crate::core::mapping::Mapping;
use crate::core::pipe::Pipe;
use crate::core::placed::PlacedBytes;
use crate::core::shared::{CoarseBytes, SharedBytes};

/// Kernel access flags: at most one of them.
pub(crate) const KERNEL_ACCESS: u64 = CL_MEM_READ_WRITE | CL_MEM_WRITE_ONLY | CL_MEM_READ_ONLY;
/// Host access flags: at most one of them.
pub(crate) const HOST_ACCESS: u64 = CL_MEM_HOST_WRITE_ONLY | CL_MEM_HOST_READ_ONLY | CL_MEM_HOST_NO_ACCESS;

/// From this size on, creating a memory object waits for the host: an application that asks for much memory wants to
/// know whether it got it, and a round trip is nothing next to filling it.
pub(crate) const WAIT_FROM_BYTES: usize = 16 << 20;

/// What the host is told of the flags. Host pointers are this side's affair, and so is what the application may do: a map
/// that only writes shows the contents nevertheless, for which the host must let this side read.
pub(crate) fn host_flags(flags: u64) -> u64 {
    flags & KERNEL_ACCESS
}

/// How kernels may use an object with these flags; where they do not say, in every way.
pub(crate) fn kernel_access(flags: u64) -> u64 {
    if flags & KERNEL_ACCESS == 0 { CL_MEM_READ_WRITE } else { flags & KERNEL_ACCESS }
}

/// What every memory object has. Dropping it releases the object on the host. Kept small: applications make thousands.
#[derive(Debug)]
pub(crate) struct Memory {
    context: Arc<Object<Context>>,
    /// What the host calls it; nothing for a buffer that the host need not know of yet.
    id: OnceLock<u32>,
    flags: u64,
    host_memory: Option<AppMemory>,
    bytes: Bytes,
    extras: OnceLock<Box<Extras>>,
}

/// Where an object's bytes are, as far as this side has to do with it.
#[derive(Debug)]
enum Bytes {
    /// On the host.
    Host,
    /// Kernels and the application see the same. `is_whole` if they are no part of another object's.
    Shared { bytes: SharedBytes, is_whole: bool },
    /// A device has them at the same address as the memory here.
    Coarse(CoarseBytes),
    /// In shared memory, where kernels use them, and the application is not told.
    Placed { bytes: PlacedBytes, is_whole: bool },
    /// Of a buffer of `size` bytes that is made on the host, in shared memory if there is room, when somebody first wants to
    /// know its id or its bytes.
    Deferred { size: usize, placed: OnceLock<PlacedBytes> },
}

/// What few objects have.
#[derive(Debug, Default)]
struct Extras {
    properties: Vec<u64>,
    mappings: Mutex<Vec<Mapping>>,
    destructors: Mutex<Vec<Callback<HandleFn>>>,
}

impl Memory {
    fn with(
        context: &Object<Context>,
        id: OnceLock<u32>,
        flags: u64,
        host_memory: Option<AppMemory>,
        bytes: Bytes,
    ) -> Memory {
        Memory { context: context.arc(), id, flags, host_memory, bytes, extras: OnceLock::new() }
    }

    /// What the host knows as `id`. `host_memory` is the application's, of an object that is to lie in it.
    pub(crate) fn new(
        context: &Object<Context>,
        id: u32,
        flags: u64,
        host_memory: Option<AppMemory>,
    ) -> Memory {
        Memory::with(context, id.into(), flags, host_memory, Bytes::Host)
    }

    /// What the host knows as `id`, and made of these bytes. `is_whole` if it gives them up with itself.
    pub(crate) fn of_shared(
        context: &Object<Context>,
        id: u32,
        flags: u64,
        (bytes, is_whole): (SharedBytes, bool),
    ) -> Memory {
        let host_memory = Some(AppMemory::at_address(bytes.address()));
        Memory::with(context, id.into(), flags, host_memory, Bytes::Shared { bytes, is_whole })
    }

    /// What the host knows as `id`, and at the address of these bytes.
    pub(crate) fn of_coarse(context: &Object<Context>, id: u32, flags: u64, bytes: CoarseBytes) -> Memory {
        let host_memory = Some(AppMemory::at_address(bytes.address()));
        Memory::with(context, id.into(), flags, host_memory, Bytes::Coarse(bytes))
    }

    /// The same object, whose bytes are these. `is_whole` if it gives them up with itself.
    pub(crate) fn placed(mut self, bytes: PlacedBytes, is_whole: bool) -> Memory {
        self.bytes = Bytes::Placed { bytes, is_whole };
        self
    }

    /// A buffer of `size` bytes that the host does not know yet, in a context whose devices share memory with the host.
    pub(crate) fn deferred(context: &Object<Context>, flags: u64, size: usize) -> Memory {
        let bytes = Bytes::Deferred { size, placed: OnceLock::new() };
        Memory::with(context, OnceLock::new(), flags, None, bytes)
    }

    /// The same object, with these properties.
    pub(crate) fn with_properties(mut self, properties: Vec<u64>) -> Memory {
        if !properties.is_empty() {
            self.extras = Box::new(Extras { properties, ..Extras::default() }).into();
        }
        self
    }

    fn extras(&self) -> &Extras {
        self.extras.get_or_init(Box::default)
    }

    /// Makes a deferred buffer on the host, and returns its id.
    fn make(&self) -> u32 {
        let connection = self.context.connection();
        let id = connection.new_id();
        let Bytes::Deferred { size, placed } = &self.bytes else { return id };
        let create = context::create(id, self.context.id());
        let flags = host_flags(self.flags).into();
        // That fails only with the connection, and then everything else does, too.
        let _sent = match connection.place(*size) {
            Some(place) => {
                let body = CreatePlacedBuffer { create, flags, memory: place.span() };
                // Empty until now: nobody else makes the buffer.
                let _ = placed.set(PlacedBytes::new(place));
                connection.send(&body, &[], &[])
            }
            None => {
                let body = CreateBuffer { create, flags, size: (*size as u64).into(), init: Span::NONE };
                connection.send(&body, &[], &[])
            }
        };
        id
    }

    /// Its bytes, where kernels use them in shared memory and the application is not told.
    pub(crate) fn placed_bytes(&self) -> Option<&PlacedBytes> {
        match &self.bytes {
            Bytes::Placed { bytes, .. } => Some(bytes),
            Bytes::Deferred { placed, .. } => {
                self.id();
                placed.get()
            }
            Bytes::Host | Bytes::Shared { .. } | Bytes::Coarse(_) => None,
        }
    }

    /// Where this process sees the very bytes that kernels use, if it does.
    pub(crate) fn visible(&self) -> Option<AppMemory> {
        match &self.bytes {
            Bytes::Shared { bytes, .. } => Some(AppMemory::at_address(bytes.address())),
            _ => self.placed_bytes().map(PlacedBytes::memory),
        }
    }

    /// The memory here of an object whose bytes a device has at the same address.
    pub(crate) fn coarse_bytes(&self) -> Option<&CoarseBytes> {
        if let Bytes::Coarse(bytes) = &self.bytes { Some(bytes) } else { None }
    }

    /// Its bytes, where kernels and the application see the same.
    pub(crate) fn shared_bytes(&self) -> Option<&SharedBytes> {
        if let Bytes::Shared { bytes, .. } = &self.bytes { Some(bytes) } else { None }
    }

    /// Its context.
    pub(crate) fn context(&self) -> &Arc<Object<Context>> {
        &self.context
    }

    /// What the host calls it.
    pub(crate) fn id(&self) -> u32 {
        *self.id.get_or_init(|| self.make())
    }

    /// `CL_MEM_FLAGS`.
    pub(crate) fn flags(&self) -> u64 {
        self.flags
    }

    /// The application's memory of a `CL_MEM_USE_HOST_PTR` object.
    pub(crate) fn host_memory(&self) -> Option<AppMemory> {
        self.host_memory
    }

    /// The regions that are mapped now.
    pub(crate) fn mappings(&self) -> &Mutex<Vec<Mapping>> {
        &self.extras().mappings
    }

    /// `clSetMemObjectDestructorCallback`.
    pub(crate) fn on_destruction(&self, callback: Callback<HandleFn>) {
        lock(&self.extras().destructors).push(callback);
    }

    /// Calls the destructor callbacks.
    pub(crate) fn last_words(&self, handle: RawHandle) {
        if let Some(extras) = self.extras.get() {
            context::call_destructors(&extras.destructors, handle);
        }
    }

    /// `clGetMemObjectInfo`, as far as it does not depend on the kind.
    fn info(&self, param: u32) -> Option<Info> {
        Some(match param {
            CL_MEM_FLAGS => Info::value(self.flags),
            CL_MEM_HOST_PTR => Info::value(self.host_memory.map_or(0, |memory| memory.address())),
            CL_MEM_MAP_COUNT => {
                Info::value(self.extras.get().map_or(0, |extras| lock(&extras.mappings).len() as u32))
            }
            CL_MEM_CONTEXT => Info::handle(self.context.handle()),
            CL_MEM_USES_SVM_POINTER => {
                Info::bool(matches!(self.bytes, Bytes::Shared { .. } | Bytes::Coarse(_)))
            }
            CL_MEM_PROPERTIES => {
                Info::list(self.extras.get().map_or(&[], |extras| extras.properties.as_slice()))
            }
            _ => return None,
        })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // A deferred buffer that nobody ever used is known to nobody.
        let Some(&id) = self.id.get() else { return };
        let connection = self.context.connection();
        match &self.bytes {
            Bytes::Shared { bytes, is_whole: true } => connection.release_shared(id, bytes.region()),
            Bytes::Placed { bytes, is_whole: true } => connection.release_placed(id, bytes.place()),
            Bytes::Deferred { placed, .. } => match placed.get() {
                Some(bytes) => connection.release_placed(id, bytes.place()),
                None => connection.release(id),
            },
            // The host knows a part of a shared object as any part of an object.
            _ => connection.release(id),
        }
    }
}

/// What a `cl_mem` is.
#[derive(Clone, Debug)]
pub(crate) enum MemoryObject {
    /// A buffer or sub-buffer.
    Buffer(Arc<Object<Buffer>>),
    /// An image.
    Image(Arc<Object<Image>>),
    /// A pipe.
    Pipe(Arc<Object<Pipe>>),
}

/// Does the same for an object of any kind.
macro_rules! for_any {
    ($object:expr, $it:ident => $does:expr) => {
        match $object {
            MemoryObject::Buffer($it) => $does,
            MemoryObject::Image($it) => $does,
            MemoryObject::Pipe($it) => $does,
        }
    };
}

impl Handle<MemoryObject> {
    /// The object, of whatever kind; `CL_INVALID_MEM_OBJECT` if the handle is none.
    pub(crate) fn get_any(&self) -> ClResult<MemoryObject> {
        if let Ok(buffer) = self.as_kind::<Buffer>().get() {
            return Ok(MemoryObject::Buffer(buffer.arc()));
        }
        if let Ok(image) = self.as_kind::<Image>().get() {
            return Ok(MemoryObject::Image(image.arc()));
        }
        self.as_kind::<Pipe>().get().map(|pipe| MemoryObject::Pipe(pipe.arc()))
    }
}

impl MemoryObject {
    /// What it has in common with others.
    pub(crate) fn memory(&self) -> &Memory {
        for_any!(self, it => it)
    }

    /// Its handle.
    pub(crate) fn handle(&self) -> RawHandle {
        for_any!(self, it => it.handle())
    }

    /// `clRetainMemObject`.
    pub(crate) fn retain(&self) {
        for_any!(self, it => it.retain());
    }

    /// `clReleaseMemObject`.
    pub(crate) fn release(&self) -> ClResult<()> {
        for_any!(self, it => it.release())
    }

    /// `clGetMemObjectInfo`.
    pub(crate) fn info(&self, param: u32) -> ClResult<Info> {
        if param == CL_MEM_REFERENCE_COUNT {
            return Ok(Info::value(for_any!(self, it => it.reference_count())));
        }
        match self.memory().info(param) {
            Some(info) => Ok(info),
            None => for_any!(self, it => it.info(param)),
        }
    }
}
