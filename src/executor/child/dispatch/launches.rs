//! Kernel launches, and the commands that only keep order.

use std::sync::Arc;

use paragpu_protocol::command::{Barrier, EnqueueKernel, Finish, Marker, Opcode};
use paragpu_protocol::fault::Fault;
use paragpu_protocol::frame::Tail;
use paragpu_protocol::types::Enqueue;
use zerocopy::little_endian::U32;

use super::super::backend::{Backend, ClError, DeviceLimits, Done, NdRange, Order, Outcome, Work};
use super::super::completion::Reply;
use super::super::context::Context;
use super::super::objects::{KernelObject, KernelState, QueueObject, handle};
use super::super::pace::Estimate;
use super::super::record::ArgRecord;
use super::{require, reserved, sizes};

impl<B: Backend> Context<B> {
    pub(crate) fn enqueue_kernel(&mut self, body: &EnqueueKernel, tail: Tail<'_>) -> Result<(), Fault> {
        let kernel = self.objects.kernel(body.kernel.get())?;
        let range = nd_range(body)?;
        let mut plan = self.plan(&body.enqueue, tail.wait)?;
        let state = kernel.state();
        plan.keep = state.shared();
        // Pointers in memory lead anywhere.
        plan.may_reach = Arc::strong_count(&self.shared) > 1;
        let device = &plan.queue.device;
        let work = handle(&device.host).and_then(|device| ready(&kernel, &state, &range, &device.limits));
        let items = range.global.iter().fold(1_u64, |items, size| items.saturating_mul(*size as u64));
        plan.estimate = Some(Estimate::launch(&kernel.cost, items));
        let work = work.map(|kernel| Work::Launch { kernel, range });
        if kernel.may_print && work.is_ok() {
            plan.launch = Some(self.printing_launch(&plan.queue));
        }
        if self.submit(Opcode::EnqueueKernel, plan, &[&kernel.program.context], work) {
            self.usage.kernels += 1;
        }
        Ok(())
    }

    pub(crate) fn marker(&mut self, body: &Marker, tail: Tail<'_>) -> Result<(), Fault> {
        self.sync(Opcode::Marker, &body.enqueue, tail.wait)
    }

    pub(crate) fn barrier(&mut self, body: &Barrier, tail: Tail<'_>) -> Result<(), Fault> {
        self.sync(Opcode::Barrier, &body.enqueue, tail.wait)
    }

    fn sync(&mut self, opcode: Opcode, enqueue: &Enqueue, wait: &[U32]) -> Result<(), Fault> {
        let queue = self.objects.queue(enqueue.queue.get())?;
        if wait.is_empty() && enqueue.event.get() == 0 && !enqueue.slot.is_none() && queue.host.is_ok() {
            let reply = self.reply(&enqueue.slot)?;
            if self.after_newest(&queue, reply, None).is_none() {
                return Ok(());
            }
        }
        let plan = self.plan(enqueue, wait)?;
        let work = if opcode == Opcode::Barrier { Work::Barrier } else { Work::Marker };
        self.submit(opcode, plan, &[], Ok(work));
        Ok(())
    }

    /// Replies when all that is in the queue is over, if its newest command tells. Otherwise gives the reply back.
    fn after_newest(
        &mut self,
        queue: &QueueObject<B>,
        reply: Reply,
        error: Option<ClError>,
    ) -> Option<Reply> {
        let Some(newest) = queue.state().newest.clone() else { return Some(reply) };
        let gates = super::submit::gates(queue, Opcode::Finish, &[]);
        let completion = reply.later(None, gates, 0).in_turn(Some(queue.landing.join(true)));
        newest.join(completion, error);
        self.flush();
        None
    }

    /// A marker whose slot is the reply: waiting here would keep the ring from the very command that ends a
    /// user event.
    pub(crate) fn finish(&mut self, body: &Finish) -> Result<(), Fault> {
        reserved(body.reserved)?;
        let queue = self.objects.queue(body.queue.get())?;
        let reply = self.reply(&body.reply)?;
        let host = match &queue.host {
            Ok(host) => host,
            Err(error) => {
                reply.status(Err(*error));
                return Ok(());
            }
        };
        if !reply.is_wanted() {
            self.flush();
            return Ok(());
        }
        let deferred = queue.state().deferred.take();
        let Some(reply) = self.after_newest(&queue, reply, deferred) else { return Ok(()) };
        let gates = super::submit::gates(&queue, Opcode::Finish, &[]);
        let flight = self.take_off(&queue, None, &gates);
        let completion = reply.later(None, gates, 0).paced(flight).in_turn(Some(queue.landing.join(true)));
        let done: Done = Box::new(move |outcome| {
            // The error that nothing else has reported comes before that of waiting.
            completion.complete(deferred.map_or(Outcome { profile: None, ..outcome }, Outcome::failed));
        });
        let order = Order { wait: &[], event: false, profile: false, done: Some(done) };
        // An error is in the reply already.
        let _ = self.backend.enqueue(host, Work::Marker, order);
        if let Err(error) = self.backend.flush(host) {
            log::debug!("flush: {error}");
        }
        self.flush();
        Ok(())
    }
}

fn nd_range(body: &EnqueueKernel) -> Result<NdRange, Fault> {
    checked_range(body.dims.get(), sizes(&body.offset)?, sizes(&body.global)?, sizes(&body.local)?)
}

/// A range whose unused dimensions are as they must be; without a local size if that is all 0.
pub(super) fn checked_range(
    dims: u32,
    offset: [usize; 3],
    global: [usize; 3],
    local: [usize; 3],
) -> Result<NdRange, Fault> {
    require((1..=3).contains(&dims), Fault::BadValue)?;
    let unused = dims as usize..3;
    let chosen = local != [0; 3];
    let tidy = unused.clone().all(|dim| offset[dim] == 0 && global[dim] == 1 && (!chosen || local[dim] == 1));
    require(tidy && (!chosen || !local.contains(&0)), Fault::BadValue)?;
    Ok(NdRange { dims, offset, global, local: chosen.then_some(local) })
}

/// The kernel's handle if it can be launched. Drivers check these things too, but not all of them all.
pub(super) fn ready<'k, B: Backend>(
    kernel: &KernelObject<B>,
    state: &'k KernelState<B>,
    range: &NdRange,
    limits: &DeviceLimits,
) -> Result<&'k B::Kernel, ClError> {
    let host = handle(&state.host)?;
    debug_assert_eq!(kernel.args.len(), state.record.args.len());
    let mut local_memory = 0_u64;
    for arg in &state.record.args {
        match arg {
            ArgRecord::Unset => return Err(ClError::INVALID_KERNEL_ARGS),
            ArgRecord::Local(bytes) => local_memory = local_memory.saturating_add(*bytes),
            ArgRecord::Value(_)
            | ArgRecord::Buffer(_)
            | ArgRecord::Pointer(..)
            | ArgRecord::Image(_)
            | ArgRecord::Sampler(_)
            | ArgRecord::Pipe(_)
            | ArgRecord::Queue(_) => {}
        }
    }
    if local_memory > limits.local_memory {
        return Err(ClError::OUT_OF_RESOURCES);
    }
    product(range.global).ok_or(ClError::INVALID_GLOBAL_WORK_SIZE)?;
    for (offset, global) in range.offset.iter().zip(range.global) {
        offset.checked_add(global).ok_or(ClError::INVALID_GLOBAL_OFFSET)?;
    }
    if let Some(local) = range.local {
        if local.iter().zip(limits.max_work_items).any(|(size, most)| *size > most) {
            return Err(ClError::INVALID_WORK_ITEM_SIZE);
        }
        product(local)
            .filter(|size| *size <= limits.max_work_group)
            .ok_or(ClError::INVALID_WORK_GROUP_SIZE)?;
    }
    Ok(host)
}

fn product(sizes: [usize; 3]) -> Option<usize> {
    sizes[0].checked_mul(sizes[1])?.checked_mul(sizes[2])
}
