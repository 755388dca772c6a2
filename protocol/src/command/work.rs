//! Which commands a device works on.

use super::Opcode;
use crate::frame::HEADER_BYTES;

/// The queue of a command that gives a device something to do, without a look at the rest of the frame. `None` for other
/// commands, and for those that only keep order.
pub fn queue_of(frame: &[u8]) -> Option<u32> {
    let opcode = Opcode::from_wire(u16::from_le_bytes(*frame.first_chunk()?))?;
    if !opcode.occupies_device() {
        return None;
    }
    // Their bodies begin with `Enqueue`, which begins with the queue.
    frame.get(HEADER_BYTES as usize..)?.first_chunk().map(|queue| u32::from_le_bytes(*queue))
}

impl Opcode {
    /// True for what a device works on for a while.
    pub fn occupies_device(self) -> bool {
        use Opcode::{
            CopyBuffer, CopyBufferRect, CopyBufferToImage, CopyImage, CopyImageToBuffer, EnqueueKernel,
            FillBuffer, FillImage, ReadBuffer, ReadBufferRect, ReadImage, WriteBuffer, WriteBufferRect,
            WriteImage,
        };
        matches!(
            self,
            CopyBuffer
                | CopyBufferRect
                | CopyBufferToImage
                | CopyImage
                | CopyImageToBuffer
                | EnqueueKernel
                | FillBuffer
                | FillImage
                | ReadBuffer
                | ReadBufferRect
                | ReadImage
                | WriteBuffer
                | WriteBufferRect
                | WriteImage
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::write_frame;
    use std::vec;

    #[test]
    fn the_queue_lies_where_it_is_looked_for() {
        let mut working = 0;
        for &opcode in Opcode::ALL {
            let mut body = vec![0; opcode.body_len()];
            body.iter_mut().zip(7_u32.to_le_bytes()).for_each(|(to, from)| *to = from);
            let mut frame = vec![0; 1024];
            let len = write_frame(&mut frame, opcode as u16, &body, &[], &[]).unwrap();
            assert_eq!(queue_of(&frame[..len]), opcode.occupies_device().then_some(7), "{opcode:?}");
            working += usize::from(opcode.occupies_device());
            for short in [0, 1, 2, 16, 19] {
                assert_eq!(queue_of(&frame[..short]), None);
            }
        }
        assert_eq!(working, 14);
    }

    #[test]
    fn each_of_them_names_its_queue_first() {
        use crate::command::{
            Body, CopyBuffer, CopyBufferRect, CopyBufferToImage, CopyImage, CopyImageToBuffer, EnqueueKernel,
            FillBuffer, FillImage, ReadBuffer, ReadBufferRect, ReadImage, WriteBuffer, WriteBufferRect,
            WriteImage,
        };
        use crate::types::Enqueue;
        fn check<C: Body>(body: &C) {
            let mut frame = vec![0; 1024];
            let len = body.encode(&mut frame, &[], &[]).unwrap();
            assert_eq!(queue_of(&frame[..len]), Some(9));
        }
        let enqueue = Enqueue { queue: 9.into(), ..Enqueue::default() };
        check(&CopyBuffer { enqueue, ..CopyBuffer::default() });
        check(&CopyBufferRect { enqueue, ..CopyBufferRect::default() });
        check(&CopyBufferToImage { enqueue, ..CopyBufferToImage::default() });
        check(&CopyImage { enqueue, ..CopyImage::default() });
        check(&CopyImageToBuffer { enqueue, ..CopyImageToBuffer::default() });
        check(&EnqueueKernel { enqueue, ..EnqueueKernel::default() });
        check(&FillBuffer { enqueue, ..FillBuffer::default() });
        check(&FillImage { enqueue, ..FillImage::default() });
        check(&ReadBuffer { enqueue, ..ReadBuffer::default() });
        check(&ReadBufferRect { enqueue, ..ReadBufferRect::default() });
        check(&ReadImage { enqueue, ..ReadImage::default() });
        check(&WriteBuffer { enqueue, ..WriteBuffer::default() });
        check(&WriteBufferRect { enqueue, ..WriteBufferRect::default() });
        check(&WriteImage { enqueue, ..WriteImage::default() });
    }
}
