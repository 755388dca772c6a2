//! One virtqueue: requests out of descriptor chains, responses into them.

use std::collections::VecDeque;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::{FdFlags, fcntl_setfd};
use virtio_queue::{DescriptorChain, Error as VirtqueueError, Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap, GuestRegionMmap};

use super::inflight::Tracker;

/// Most entries of a queue.
pub(super) const MAX_QUEUE_SIZE: u16 = 1024;

/// Most writable descriptors of one request that are used: responses are about a kilobyte at most, in one piece
/// or two.
const MAX_WRITABLE: usize = 16;

/// Why a queue stopped working. The guest must reset it.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The guest's indices or addresses make no sense.
    #[error("virtqueue: {0}")]
    Virtqueue(#[from] VirtqueueError),
    /// The guest gives descriptors again that it has not got back.
    #[error("more requests are out than there are descriptors")]
    TooManyOut,
    /// What an earlier back end left over cannot be taken.
    #[error("a request that was in flight cannot be taken again")]
    TakeAgain,
    /// The interrupt cannot be sent.
    #[error("interrupt eventfd: {0}")]
    Call(#[source] rustix::io::Errno),
}

/// A request as it was taken from a queue.
#[derive(Debug, Default)]
pub struct Chain {
    /// What to give back.
    head: u16,
    /// Where the response goes.
    writable: Vec<(GuestAddress, u32)>,
}

/// Guest-physical addresses of a queue's three parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueAddresses {
    /// Descriptor table.
    pub descriptors: u64,
    /// Available ring.
    pub available: u64,
    /// Used ring.
    pub used: u64,
}

/// A queue with its eventfds.
#[derive(Debug)]
pub struct Vring {
    queue: Queue,
    addresses: QueueAddresses,
    kick: Option<File>,
    call: Option<File>,
    enabled: bool,
    /// Completions since the guest was last told.
    unannounced: bool,
    /// Where requests in flight are written down, if the front end keeps them.
    tracker: Option<Tracker>,
    /// Heads that an earlier back end took and never gave back.
    left_over: VecDeque<u16>,
}

impl Vring {
    /// A stopped queue.
    pub fn new() -> Result<Vring, VirtqueueError> {
        Ok(Vring {
            queue: Queue::new(MAX_QUEUE_SIZE)?,
            addresses: QueueAddresses::default(),
            kick: None,
            call: None,
            enabled: false,
            unannounced: false,
            tracker: None,
            left_over: VecDeque::new(),
        })
    }

    /// Sets the number of entries.
    pub fn set_size(&mut self, size: u16) -> Result<(), VirtqueueError> {
        self.queue.try_set_size(size)
    }

    /// Number of entries.
    pub fn size(&self) -> u16 {
        self.queue.size()
    }

    /// Sets the addresses of its parts.
    pub fn set_addresses(&mut self, addresses: QueueAddresses) -> Result<(), VirtqueueError> {
        self.queue.try_set_desc_table_address(GuestAddress(addresses.descriptors))?;
        self.queue.try_set_avail_ring_address(GuestAddress(addresses.available))?;
        self.queue.try_set_used_ring_address(GuestAddress(addresses.used))?;
        self.addresses = addresses;
        Ok(())
    }

    /// Where its parts are.
    pub fn addresses(&self) -> QueueAddresses {
        self.addresses
    }

    /// Index of the next request to take.
    pub fn base(&self) -> u16 {
        self.queue.next_avail()
    }

    /// Sets that index.
    pub fn set_base(&mut self, base: u16) {
        self.queue.set_next_avail(base);
    }

    /// Lets the front end enable or disable it.
    pub fn set_enabled(&mut self, enabled: bool) {
        self.enabled = enabled;
    }

    /// Sets or clears the eventfd that announces requests.
    pub fn set_kick(&mut self, kick: Option<File>) {
        self.kick = kick.inspect(close_on_exec);
    }

    /// The eventfd that announces requests.
    pub fn kick(&self) -> Option<&File> {
        self.kick.as_ref()
    }

    /// Sets or clears the eventfd that interrupts the guest.
    pub fn set_call(&mut self, call: Option<File>) {
        self.call = call.inspect(|call| {
            close_on_exec(call);
            // A counter that is full must not hold this thread up. Who reads it polls it, or it is KVM.
            let flags = fcntl_getfl(call).unwrap_or(OFlags::empty());
            let _ = fcntl_setfl(call, flags | OFlags::NONBLOCK);
        });
    }

    /// True if requests may be taken from it.
    pub fn is_running(&self) -> bool {
        self.queue.ready() && self.enabled
    }

    /// Writes requests in flight down from the next start on.
    pub fn track(&mut self, tracker: Option<Tracker>) {
        self.tracker = tracker;
    }

    /// Starts taking requests. The used index is in guest memory, and is right there even if this process is new. Where
    /// requests in flight are written down, so is what an earlier back end left over, and the base follows: front ends
    /// have no better guess after a back end's end.
    pub fn start(&mut self, memory: &GuestMemoryMmap, event_idx: bool) -> Result<(), QueueError> {
        let used = self.queue.used_idx(memory, Ordering::Acquire)?;
        self.queue.set_next_used(used.0);
        self.tracker.take_if(|tracker| !tracker.is_for(self.queue.size()));
        if let Some(tracker) = self.tracker.as_mut().filter(|_| !self.queue.ready()) {
            let available = self.queue.avail_idx(memory, Ordering::Acquire)?;
            self.left_over = tracker.left_over(used.0, available.0).into();
            self.queue.set_next_avail(used.0.wrapping_add(self.left_over.len() as u16));
        }
        self.queue.set_event_idx(event_idx);
        self.queue.set_ready(true);
        if !self.queue.is_valid(memory) {
            self.queue.set_ready(false);
            return Err(VirtqueueError::QueueNotReady.into());
        }
        Ok(())
    }

    /// Whether nobody seems to have written to it, ever.
    pub fn is_untouched(&self, memory: &GuestMemoryMmap) -> bool {
        let mut first = [0xff; 16];
        let available = self.queue.avail_idx(memory, Ordering::Acquire);
        self.queue.next_avail() == 0
            && available.is_ok_and(|index| index.0 == 0)
            && memory.read_slice(&mut first, GuestAddress(self.addresses.descriptors)).is_ok()
            && first == [0; 16]
    }

    /// Stops taking requests, until it is started again.
    pub fn stop(&mut self) {
        self.queue.set_ready(false);
        self.kick = None;
        // What is not answered by now never will be.
        self.left_over.clear();
        if let Some(tracker) = &mut self.tracker {
            tracker.forget();
        }
    }

    /// How many requests of an earlier back end are still to be taken.
    pub fn left_over(&self) -> usize {
        self.left_over.len()
    }

    /// Takes the next request, with its bytes in `request`: each is read from guest memory once. Bytes beyond
    /// `cap` are not read.
    pub fn pop(
        &mut self,
        memory: &GuestMemoryMmap,
        request: &mut Vec<u8>,
        cap: usize,
    ) -> Result<Option<Chain>, QueueError> {
        request.clear();
        if let Some(head) = self.left_over.pop_front() {
            return self.take_again(memory, head, request, cap).map(Some);
        }
        let Some(descriptors) = self.queue.iter(memory)?.next() else { return Ok(None) };
        if let Some(tracker) = &mut self.tracker {
            tracker.take(descriptors.head_index());
        }
        Ok(Some(read_chain(descriptors, memory, request, cap)))
    }

    /// Takes a request that is no longer in the available ring. The queue's code takes requests from there only, so it gets
    /// a ring with just this one, in memory that is not the guest's.
    fn take_again(
        &self,
        memory: &GuestMemoryMmap,
        head: u16,
        request: &mut Vec<u8>,
        cap: usize,
    ) -> Result<Chain, QueueError> {
        // Beyond what processors can address.
        const RING: GuestAddress = GuestAddress(1 << 62);
        let ring = GuestRegionMmap::from_range(RING, 4096, None).map_err(|_error| QueueError::TakeAgain)?;
        let memory = memory.insert_region(Arc::new(ring)).map_err(|_error| QueueError::TakeAgain)?;
        // An available ring: flags, index, heads.
        let [index, head] = [1_u16, head].map(u16::to_le_bytes);
        memory
            .write_slice(&[0, 0, index[0], index[1], head[0], head[1]], RING)
            .map_err(|_error| QueueError::TakeAgain)?;
        let mut queue = Queue::new(MAX_QUEUE_SIZE)?;
        queue.try_set_size(self.queue.size())?;
        queue.try_set_desc_table_address(GuestAddress(self.addresses.descriptors))?;
        queue.try_set_avail_ring_address(RING)?;
        queue.try_set_used_ring_address(GuestAddress(self.addresses.used))?;
        queue.set_ready(true);
        let descriptors = queue.iter(&memory)?.next().ok_or(QueueError::TakeAgain)?;
        Ok(read_chain(descriptors, &memory, request, cap))
    }

    /// Asks to be told of new requests. True if some came meanwhile.
    pub fn enable_notification(&mut self, memory: &GuestMemoryMmap) -> Result<bool, QueueError> {
        Ok(self.queue.enable_notification(memory)?)
    }

    /// Asks not to be told while requests are being taken anyway.
    pub fn disable_notification(&mut self, memory: &GuestMemoryMmap) -> Result<(), QueueError> {
        Ok(self.queue.disable_notification(memory)?)
    }

    /// Writes as much of a response as the guest left room for, and gives the chain back.
    pub fn complete(
        &mut self,
        memory: &GuestMemoryMmap,
        chain: &Chain,
        response: &[u8],
    ) -> Result<(), QueueError> {
        if !self.queue.ready() || chain.head >= self.queue.size() {
            return Ok(());
        }
        let mut written = 0;
        for (addr, len) in &chain.writable {
            let piece = &response[written..response.len().min(written + *len as usize)];
            if memory.write_slice(piece, *addr).is_err() {
                break;
            }
            written += piece.len();
        }
        if let Some(tracker) = &mut self.tracker {
            tracker.giving_back(chain.head);
        }
        self.queue.add_used(memory, chain.head, written as u32)?;
        if let Some(tracker) = &mut self.tracker {
            tracker.gave_back(chain.head, self.queue.next_used());
        }
        self.unannounced = true;
        Ok(())
    }

    /// Interrupts the guest if something was completed and it wants to know. True if an interrupt went out.
    pub fn announce(&mut self, memory: &GuestMemoryMmap) -> Result<bool, QueueError> {
        if !std::mem::take(&mut self.unannounced) || !self.queue.needs_notification(memory)? {
            return Ok(false);
        }
        let Some(call) = &self.call else { return Ok(false) };
        match rustix::io::write(call, &1_u64.to_ne_bytes()) {
            // A full counter is a pending interrupt.
            Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(true),
            Err(error) => Err(QueueError::Call(error)),
        }
    }
}

/// The bytes of a request, each read once, and where its response goes.
fn read_chain(
    descriptors: DescriptorChain<&GuestMemoryMmap>,
    memory: &GuestMemoryMmap,
    request: &mut Vec<u8>,
    mut cap: usize,
) -> Chain {
    let mut chain = Chain { head: descriptors.head_index(), writable: Vec::new() };
    // The iterator ends by itself at loops, and at descriptors that are not in guest memory.
    for descriptor in descriptors {
        let (addr, len) = (descriptor.addr(), descriptor.len());
        if descriptor.is_write_only() {
            if chain.writable.len() < MAX_WRITABLE {
                chain.writable.push((addr, len));
            }
            continue;
        }
        let have = request.len();
        let take = (len as usize).min(cap - have);
        request.resize(have + take, 0);
        if memory.read_slice(&mut request[have..], addr).is_err() {
            // What cannot be read is not there, nor is what follows: the request is truncated.
            request.truncate(have);
            cap = have;
        }
    }
    chain
}

fn close_on_exec(file: &File) {
    // Cannot fail on an open descriptor.
    let _ = fcntl_setfd(file, FdFlags::CLOEXEC);
}
