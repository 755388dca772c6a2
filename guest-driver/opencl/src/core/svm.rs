//! Shared virtual memory: allocations of a context that kernels and the application reach by the same pointers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use crate::boundary::object::Object;
use crate::boundary::pointer::AppMemory;
use crate::core::buffer::Buffer;
use crate::core::context::Context;
use crate::core::device::Device;
use crate::core::error::ClResult;
use crate::core::lock;

/// What an allocation is called, for those who ask.
#[derive(Debug)]
pub(crate) enum Kind {
    /// `clSVMAlloc`.
    Svm,
    /// `clHostMemAllocINTEL`.
    Host,
    /// `clDeviceMemAllocINTEL`.
    Device(Arc<Object<Device>>),
    /// `clSharedMemAllocINTEL`, with the device that it is meant for, if any.
    Shared(Option<Arc<Object<Device>>>),
}

/// An allocation.
#[derive(Debug)]
pub(crate) struct Allocation {
    pub(crate) kind: Kind,
    /// `CL_MEM_ALLOC_FLAGS_INTEL`.
    pub(crate) flags: u64,
    pub(crate) address: usize,
    /// Its bytes, for commands.
    pub(crate) buffer: Arc<Object<Buffer>>,
}

/// A byte of an allocation.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) allocation: Arc<Allocation>,
    pub(crate) offset: usize,
}

impl Place {
    /// Bytes from here to the end of the allocation.
    pub(crate) fn room(&self) -> usize {
        self.allocation.buffer.size() - self.offset
    }
}

/// The live allocations of a context, by address.
#[derive(Debug, Default)]
pub(crate) struct Allocations(Mutex<BTreeMap<usize, Arc<Allocation>>>);

impl Allocations {
    /// The allocation that this address is in, or just behind of: "one past the end" is a pointer too.
    pub(crate) fn find(&self, memory: AppMemory) -> Option<Place> {
        let address = memory.address();
        let all = lock(&self.0);
        let (start, allocation) = all.range(..=address).next_back()?;
        let offset = address - start;
        (offset <= allocation.buffer.size()).then(|| Place { allocation: allocation.clone(), offset })
    }

    /// The allocation that starts at this address, which is forgotten. Its memory goes with the last command that uses it.
    pub(crate) fn remove(&self, memory: AppMemory) -> Option<Arc<Allocation>> {
        lock(&self.0).remove(&memory.address())
    }
}

/// Allocates zeroed memory. `buffer_flags` are `cl_mem_flags` for kernels' access.
pub(crate) fn allocate(
    context: &Object<Context>,
    kind: Kind,
    (buffer_flags, flags): (u64, u64),
    size: usize,
) -> ClResult<AppMemory> {
    let buffer = Buffer::with_address(context, buffer_flags, size)?;
    let memory = buffer.host_memory().unwrap_or(AppMemory::at_address(0));
    let allocation = Arc::new(Allocation { kind, flags, address: memory.address(), buffer });
    lock(&context.allocations().0).insert(memory.address(), allocation);
    Ok(memory)
}
