//! What kernels print, and whose turn it is.

use std::sync::Arc;

use paragpu_protocol::command::{Command, Opcode, ReadPrint};
use paragpu_protocol::fault::Fault;
use paragpu_protocol::frame::Frame;

use super::super::backend::{Backend, Outcome};
use super::super::context::{Context, TEND_INTERVAL};
use super::super::objects::QueueObject;
use super::super::print::{Launch, Settle};

impl<B: Backend> Context<B> {
    pub(crate) fn read_print(&mut self, body: &ReadPrint) -> Result<(), Fault> {
        let dst = self.regions.window(&body.dst)?;
        let reply = self.reply(&body.reply)?;
        let len = self.print.read(&dst);
        reply.complete(Outcome::SUCCESS, len as u32);
        Ok(())
    }

    /// True if the frame may be executed now: it launches no kernel that prints, or it is this context's turn. Waits a
    /// little for that.
    pub(crate) fn has_turn(&mut self, frame: &[u8]) -> bool {
        if !self.may_print || !self.launches_printing(frame) {
            return true;
        }
        // What is enqueued may be what others wait for.
        self.flush();
        self.turn = self.print.turn(TEND_INTERVAL);
        self.turn.is_some()
    }

    fn launches_printing(&self, frame: &[u8]) -> bool {
        if frame.first_chunk() != Some(&(Opcode::EnqueueKernel as u16).to_le_bytes()) {
            return false;
        }
        match Frame::parse(frame).and_then(|frame| Command::parse(&frame)) {
            Ok(Command::EnqueueKernel(body, _)) => {
                self.objects.kernel(body.kernel.get()).is_ok_and(|kernel| kernel.may_print)
            }
            // What is wrong with it is found when it is executed.
            _ => false,
        }
    }

    /// A launch that may print, with or without a turn.
    pub(super) fn printing_launch(&mut self, queue: &Arc<QueueObject<B>>) -> Launch {
        let launch = self.turn.take().unwrap_or_else(|| self.print.launch());
        self.print.at(queue.common.serial, || self.settling(queue));
        launch
    }

    fn settling(&self, queue: &Arc<QueueObject<B>>) -> Settle {
        let (backend, queue) = (self.backend.clone(), Arc::downgrade(queue));
        Arc::new(move || {
            if let Some(queue) = queue.upgrade()
                && let (Ok(context), Ok(device)) = (&queue.context.host, &queue.device.host)
            {
                backend.settle_print(context, &device.handle);
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use paragpu_protocol::command::{
        Body, BuildProgram, CreateContext, CreateKernel, CreateProgram, CreateQueue, EnqueueKernel, Marker,
    };
    use paragpu_protocol::limits::MAX_FRAME_BYTES;
    use paragpu_protocol::types::{Create, Enqueue, SlotRef, Span};

    use super::super::super::backend::null::Null;
    use super::super::super::builds::Builds;
    use super::super::super::completion::Notifier;
    use super::super::super::print::Printer;
    use super::super::super::region::Regions;
    use super::*;
    use crate::sys::map::Mapping;

    const KERNEL: u32 = 4;

    fn frame<C: Body>(body: &C, data: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; MAX_FRAME_BYTES as usize];
        let len = body.encode(&mut frame, &[], data).unwrap();
        frame.truncate(len);
        frame
    }

    fn create(id: u32, parent: u32) -> Create {
        Create { id: id.into(), parent: parent.into(), reply: SlotRef::NONE }
    }

    fn launch() -> Vec<u8> {
        let enqueue = Enqueue { queue: 2.into(), ..Enqueue::default() };
        let one = [1.into(); 3];
        let (kernel, dims) = (KERNEL.into(), 1.into());
        frame(&EnqueueKernel { enqueue, kernel, dims, global: one, ..EnqueueKernel::default() }, &[])
    }

    /// A context with a kernel of a program with this text.
    fn context(printer: &Printer, source: &str) -> Context<Null> {
        let (backend, regions) = (Arc::new(Null::new(1)), Arc::new(Regions::default()));
        regions.add(1, Arc::new(Mapping::anonymous(4096).unwrap()));
        let notifier = Arc::new(Notifier::default());
        let mut context =
            Context::with_notifier(backend, regions, Builds::inline(), notifier, printer.client(), None);
        let mut run = |frame: Vec<u8>| context.execute(&frame).unwrap();
        run(frame(&CreateContext { create: create(1, 0) }, &[0; 4]));
        run(frame(&CreateQueue { create: create(2, 1), ..CreateQueue::default() }, &[]));
        let program = CreateProgram { create: create(3, 1), source: Span::NONE };
        run(frame(&program, source.as_bytes()));
        run(frame(&BuildProgram { program: 3.into(), ..BuildProgram::default() }, &[]));
        run(frame(&CreateKernel { create: create(KERNEL, 3), info: Span::NONE }, b"f"));
        context
    }

    #[test]
    fn only_launches_that_may_print_wait_for_their_turn() {
        let printer = Printer::default();
        let mut printing = context(&printer, "kernel void f() { printf(\"\"); }");
        let mut silent = context(&printer, "kernel void f() {}");
        let marker = Marker { enqueue: Enqueue { queue: 2.into(), ..Enqueue::default() } };
        let other = printer.client();
        let held = other.turn(Duration::ZERO).unwrap();
        assert!(silent.has_turn(&launch()));
        assert!(printing.has_turn(&frame(&marker, &[])));
        assert!(!printing.has_turn(&launch()));
        drop(held);
        assert!(printing.has_turn(&launch()));
        assert!(other.turn(Duration::ZERO).is_none(), "the launch is about to be executed");
        printing.execute(&launch()).unwrap();
        assert!(other.turn(Duration::ZERO).is_some(), "it has run");
    }

    #[test]
    fn a_launch_that_fails_gives_its_turn_back() {
        let printer = Printer::default();
        let mut context = context(&printer, "kernel void f(int unset) { printf(\"\"); }");
        let other = printer.client();
        assert!(context.has_turn(&launch()));
        context.execute(&launch()).unwrap();
        assert!(other.turn(Duration::ZERO).is_some());
    }

    #[test]
    fn reading_answers_with_a_length_and_needs_a_place() {
        let printer = Printer::default();
        let mut context = context(&printer, "kernel void f() {}");
        let reply = SlotRef::new(1, 0);
        context.execute(&frame(&ReadPrint { dst: Span::new(1, 64, 64), reply }, &[])).unwrap();
        let mut slot = [0xff; 12];
        assert!(context.regions.get(1).unwrap().read(0, &mut slot));
        assert_eq!(slot, [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], "done, well, and nothing");
        let nowhere = frame(&ReadPrint { dst: Span::new(1, 4090, 64), reply }, &[]);
        assert_eq!(context.execute(&nowhere), Err(Fault::OutOfRegion));
    }
}
