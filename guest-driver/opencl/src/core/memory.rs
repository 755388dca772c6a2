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

/// What every memory object has. Dropping it releases the object on the host.
#[derive(Debug)]
pub(crate) struct Memory {
    context: Arc<Object<Context>>,
    /// What the host calls it; nothing for a buffer that the host need not know of yet.
    id: OnceLock<u32>,
    flags: u64,
    /// Length of a buffer that is made on the host, in shared memory if there is room, when somebody first wants to know
    /// its id or its bytes.
    deferred: Option<usize>,
    host_memory: Option<AppMemory>,
    /// Its bytes, where kernels and the application see the same.
    shared: Option<SharedBytes>,
    /// Those bytes are its own, not a part of another object's.
    has_pages: bool,
    /// The memory here of an object whose bytes a device has at the same address.
    coarse: Option<CoarseBytes>,
    /// Its bytes, where kernels use them in shared memory and the application is not told.
    placed: OnceLock<PlacedBytes>,
    properties: Vec<u64>,
    mappings: Mutex<Vec<Mapping>>,
    destructors: Mutex<Vec<Callback<HandleFn>>>,
}

impl Memory {
    /// What the host knows as `id`. `host_memory` is the application's, of an object that is to lie in it.
    pub(crate) fn new(
        context: &Object<Context>,
        id: u32,
        flags: u64,
        host_memory: Option<AppMemory>,
        properties: Vec<u64>,
    ) -> Memory {
        Memory {
            context: context.arc(),
            id: id.into(),
            flags,
            deferred: None,
            host_memory,
            shared: None,
            has_pages: false,
            coarse: None,
            placed: OnceLock::new(),
            properties,
            mappings: Mutex::default(),
            destructors: Mutex::default(),
        }
    }

    /// What the host knows as `id`, and made of these bytes.
    pub(crate) fn of_shared(
        context: &Object<Context>,
        id: u32,
        flags: u64,
        bytes: SharedBytes,
        properties: Vec<u64>,
    ) -> Memory {
        let host_memory = Some(AppMemory::at_address(bytes.address()));
        let mut memory = Memory::new(context, id, flags, host_memory, properties);
        (memory.shared, memory.has_pages) = (Some(bytes), true);
        memory
    }

    /// A part of such an object.
    pub(crate) fn part_of_shared(
        context: &Object<Context>,
        id: u32,
        flags: u64,
        bytes: SharedBytes,
    ) -> Memory {
        let mut memory = Memory::of_shared(context, id, flags, bytes, Vec::new());
        memory.has_pages = false;
        memory
    }

    /// What the host knows as `id`, and at the address of these bytes.
    pub(crate) fn of_coarse(
        context: &Object<Context>,
        id: u32,
        flags: u64,
        bytes: CoarseBytes,
        properties: Vec<u64>,
    ) -> Memory {
        let host_memory = Some(AppMemory::at_address(bytes.address()));
        let mut memory = Memory::new(context, id, flags, host_memory, properties);
        memory.coarse = Some(bytes);
        memory
    }

    /// The same object, whose bytes are these. One that `has_pages` gives them up with it.
    pub(crate) fn placed(mut self, bytes: PlacedBytes, has_pages: bool) -> Memory {
        (self.placed, self.has_pages) = (bytes.into(), has_pages);
        self
    }

    /// A buffer of `size` bytes that the host does not know yet, in a context whose devices share memory with the host.
    pub(crate) fn deferred(
        context: &Object<Context>,
        flags: u64,
        size: usize,
        properties: Vec<u64>,
    ) -> Memory {
        let mut memory = Memory::new(context, 0, flags, None, properties);
        (memory.id, memory.deferred, memory.has_pages) = (OnceLock::new(), Some(size), true);
        memory
    }

    /// Makes a deferred buffer on the host, and returns its id.
    fn make(&self) -> u32 {
        let connection = self.context.connection();
        let id = connection.new_id();
        let create = context::create(id, self.context.id());
        let (flags, size) = (host_flags(self.flags).into(), self.deferred.unwrap_or_default());
        // That fails only with the connection, and then everything else does, too.
        let _sent = match connection.place(size) {
            Some(place) => {
                let body = CreatePlacedBuffer { create, flags, memory: place.span() };
                // Empty until now: nobody else makes the buffer.
                let _ = self.placed.set(PlacedBytes::new(place));
                connection.send(&body, &[], &[])
            }
            None => {
                let body = CreateBuffer { create, flags, size: (size as u64).into(), init: Span::NONE };
                connection.send(&body, &[], &[])
            }
        };
        id
    }

    /// Its bytes, where kernels use them in shared memory and the application is not told.
    pub(crate) fn placed_bytes(&self) -> Option<&PlacedBytes> {
        self.id();
        self.placed.get()
    }

    /// Where this process sees the very bytes that kernels use, if it does.
    pub(crate) fn visible(&self) -> Option<AppMemory> {
        match (self.placed_bytes(), &self.shared) {
            (Some(bytes), _) => Some(bytes.memory()),
            (None, Some(bytes)) => Some(AppMemory::at_address(bytes.address())),
            (None, None) => None,
        }
    }

    /// The memory here of an object whose bytes a device has at the same address.
    pub(crate) fn coarse_bytes(&self) -> Option<&CoarseBytes> {
        self.coarse.as_ref()
    }

    /// Its bytes, where kernels and the application see the same.
    pub(crate) fn shared_bytes(&self) -> Option<&SharedBytes> {
        self.shared.as_ref()
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
        &self.mappings
    }

    /// `clSetMemObjectDestructorCallback`.
    pub(crate) fn on_destruction(&self, callback: Callback<HandleFn>) {
        lock(&self.destructors).push(callback);
    }

    /// Calls the destructor callbacks.
    pub(crate) fn last_words(&self, handle: RawHandle) {
        context::call_destructors(&self.destructors, handle);
    }

    /// `clGetMemObjectInfo`, as far as it does not depend on the kind.
    fn info(&self, param: u32) -> Option<Info> {
        Some(match param {
            CL_MEM_FLAGS => Info::value(self.flags),
            CL_MEM_HOST_PTR => Info::value(self.host_memory.map_or(0, |memory| memory.address())),
            CL_MEM_MAP_COUNT => Info::value(lock(&self.mappings).len() as u32),
            CL_MEM_CONTEXT => Info::handle(self.context.handle()),
            CL_MEM_USES_SVM_POINTER => Info::bool(self.shared.is_some() || self.coarse.is_some()),
            CL_MEM_PROPERTIES => Info::list(&self.properties),
            _ => return None,
        })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // A deferred buffer that nobody ever used is known to nobody.
        let Some(&id) = self.id.get() else { return };
        let connection = self.context.connection();
        match (&self.shared, self.placed.get()) {
            (Some(bytes), _) if self.has_pages => connection.release_shared(id, bytes.region()),
            (_, Some(bytes)) if self.has_pages => connection.release_placed(id, bytes.place()),
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
