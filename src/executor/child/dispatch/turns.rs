//! Whether a context may send something to a device now.

use paragpu_protocol::command::{Opcode, queue_of};

use super::super::backend::Backend;
use super::super::context::Context;

impl<B: Backend> Context<B> {
    /// May the frame be executed now? `Err` with the device that it has to wait for. What is wrong with it otherwise is
    /// found when it is executed.
    pub(crate) fn admit(&mut self, frame: &[u8]) -> Result<(), usize> {
        let Some(pacer) = &mut self.pacer else { return Ok(()) };
        if let Some(queue) = queue_of(frame) {
            let Some(device) = self.objects.device_of(queue) else { return Ok(()) };
            return if pacer.admit(device) { Ok(()) } else { Err(device) };
        }
        // Ending a user event lets go what waits for it.
        if frame.first_chunk() == Some(&(Opcode::SetUserEvent as u16).to_le_bytes()) {
            return pacer
                .gated()
                .into_iter()
                .try_for_each(|device| if pacer.admit(device) { Ok(()) } else { Err(device) });
        }
        Ok(())
    }

    /// This context's thread sends nothing more for now; `waits_for` is the device that it waits for, if it does. True if it
    /// may sleep until it is woken for that; otherwise it must ask again.
    pub(crate) fn rest(&mut self, waits_for: Option<usize>) -> bool {
        if self.pacer.is_none() {
            return false;
        }
        self.mark_tails();
        self.flush();
        self.pacer.as_mut().is_some_and(|pacer| pacer.rest(waits_for))
    }

    /// True if this context's thread keeps somebody from a device.
    pub(crate) fn is_in_the_way(&self) -> bool {
        self.pacer.as_ref().is_some_and(super::super::pace::Pacer::is_in_the_way)
    }

    /// Lets others see what was used.
    pub(crate) fn publish_usage(&mut self) {
        if let Some(pacer) = &mut self.pacer {
            pacer.publish(&self.usage);
        }
    }
}
