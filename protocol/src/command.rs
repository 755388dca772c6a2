//! Every command that goes through a ring: one table, from which the opcodes, the typed view, the encoding,
//! the names in logs and the fuzzer's generator all follow.
//!
//! The stages are kept apart: [`Frame::parse`](crate::frame::Frame::parse) checks the shape,
//! [`Command::parse`] gives the bytes a type, and the host's dispatch decides what the guest may do with it.

use zerocopy::little_endian::{I32, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::fault::Fault;
use crate::frame::{Frame, Tail, write_frame};
use crate::image::{ImageFormat, ImageShape, MAX_ELEMENT_BYTES};
use crate::limits::MAX_INLINE_BYTES;
use crate::types::{Create, Dim3, Enqueue, SlotRef, Span};

mod table;
mod work;

pub use work::queue_of;

use table::{commands, encode_parsed};

/// A command's fixed part, tied to its opcode.
pub trait Body: FromBytes + IntoBytes + Immutable + KnownLayout + Unaligned {
    /// The opcode that this is the body of.
    const OPCODE: Opcode;

    /// Writes a whole frame to the start of `out` and returns its length; `None` if it is too long for a frame
    /// or for `out`.
    fn encode(&self, out: &mut [u8], wait: &[u32], data: &[u8]) -> Option<usize> {
        debug_assert!(wait.is_empty() || Self::OPCODE.may_wait());
        debug_assert!(data.len() <= Self::OPCODE.max_data() as usize);
        write_frame(out, Self::OPCODE as u16, self.as_bytes(), wait, data)
    }
}

commands! {
    /// Padding up to the end of the ring; its length is the rest of the ring.
    Nop = 0x0000, wait: false, data: 0, {}

    /// Asks the host for a value: see [`info`](crate::info). `data` is the query's input where it has one
    /// (the local size of `CL_KERNEL_MAX_SUB_GROUP_SIZE_FOR_NDRANGE`).
    GetInfo = 0x0001, wait: false, data: 64, {
        /// Number of an [`InfoKind`](crate::info::InfoKind).
        kind: U32,
        /// Object that is asked about; 0 where the kind has none.
        object: U32,
        /// The OpenCL parameter name (`cl_..._info`).
        param: U32,
        /// [Reference](crate::device) to a device, or argument index for kernel arguments.
        index: U32,
        /// Where the answer goes. At most its `len` bytes are written; the slot's `len` is the full length.
        dst: Span,
        /// Completed when the answer is there.
        reply: SlotRef,
    }

    /// Takes what the context's kernels have printed so far (`printf`), in order. The slot's `len` is how much was
    /// written; where that is all that fits, there may be more. Of a launch that is complete, everything is there.
    ReadPrint = 0x0002, wait: false, data: 0, {
        /// Where the text goes.
        dst: Span,
        /// Completed when it is there.
        reply: SlotRef,
    }

    /// Creates a context on the devices whose [references](crate::device) (`u32` each) are the data.
    CreateContext = 0x0010, wait: false, data: 4 * crate::limits::MAX_CONTEXT_DEVICES as u32, {
        /// Id and reply; the parent is 0.
        create: Create,
    }

    /// Creates a command queue in context `create.parent`.
    CreateQueue = 0x0011, wait: false, data: 0, {
        /// Id, context and reply.
        create: Create,
        /// [Reference](crate::device) to the device.
        device: U32,
        /// `CL_QUEUE_PRIORITY_KHR` in bits 0 to 7 and `CL_QUEUE_THROTTLE_KHR` in bits 8 to 15, each 0 if it is not said,
        /// or 1 for high, 2 for medium, 4 for low.
        hints: U32,
        /// `cl_command_queue_properties`.
        properties: U64,
    }

    /// Creates a buffer in context `create.parent`; fresh memory is zero.
    CreateBuffer = 0x0012, wait: false, data: 0, {
        /// Id, context and reply.
        create: Create,
        /// `cl_mem_flags`: access by kernels and by the host only, no host pointer flags.
        flags: U64,
        /// Size in bytes.
        size: U64,
        /// First contents, as long as the buffer, or none. May be reused once the reply is there.
        init: Span,
    }

    /// Creates a sub-buffer of buffer `create.parent`.
    CreateSubBuffer = 0x0013, wait: false, data: 0, {
        /// Id, buffer and reply.
        create: Create,
        /// `cl_mem_flags`.
        flags: U64,
        /// First byte in the parent.
        origin: U64,
        /// Size in bytes.
        size: U64,
    }

    /// Creates a program from source in context `create.parent`. The source is inline data, or `source` if the
    /// data is empty; if that is none too, the source is empty.
    CreateProgram = 0x0014, wait: false, data: MAX_INLINE_BYTES, {
        /// Id, context and reply.
        create: Create,
        /// The source where it is not inline. May be reused once the reply is there.
        source: Span,
    }

    /// Creates the kernel whose name is the data, from program `create.parent`.
    CreateKernel = 0x0015, wait: false, data: 4096, {
        /// Id, program and reply.
        create: Create,
        /// Where [`kernel::KernelInfo`](crate::kernel::KernelInfo) goes; none if it is not wanted.
        info: Span,
    }

    /// Creates a user event in context `create.parent`.
    CreateUserEvent = 0x0016, wait: false, data: 0, {
        /// Id, context and reply.
        create: Create,
    }

    /// Ends a user event: 0 for complete, negative for an error.
    SetUserEvent = 0x0017, wait: false, data: 0, {
        /// Id of a user event.
        event: U32,
        /// 0 or negative.
        status: I32,
    }

    /// Gives up an object's id. What still uses the object keeps it alive.
    Release = 0x0018, wait: false, data: 0, {
        /// Id of the object.
        id: U32,
        /// Reserved, zero.
        reserved: U32,
    }

    /// Creates an image in context `create.parent`; fresh memory is zero.
    CreateImage = 0x0019, wait: false, data: 0, {
        /// Id, context and reply.
        create: Create,
        /// `cl_mem_flags`: access by kernels and by the host only, no host pointer flags.
        flags: U64,
        /// Format of an element.
        format: ImageFormat,
        /// `cl_mem_object_type`: number of an [`ImageType`](crate::image::ImageType).
        kind: U32,
        /// Id of the buffer that the image lies in, or of the image that it shows; 0 for memory of its own.
        memory: U32,
        /// Size in elements.
        shape: ImageShape,
        /// Bytes from row to row, for a 2D image that lies in a buffer; otherwise 0.
        row_pitch: U64,
        /// First contents without gaps, or none. May be reused once the reply is there.
        init: Span,
    }

    /// Creates a sampler in context `create.parent`.
    CreateSampler = 0x001a, wait: false, data: 0, {
        /// Id, context and reply.
        create: Create,
        /// 1 for coordinates from 0 to 1, otherwise 0.
        normalized: U32,
        /// `cl_addressing_mode`.
        addressing: U32,
        /// `cl_filter_mode`.
        filter: U32,
        /// Reserved, zero.
        reserved: U32,
    }

    /// Creates a program from intermediate language (SPIR-V) in context `create.parent`; it is busy until the reply. The
    /// module is inline data, or `il` if the data is empty.
    CreateProgramWithIl = 0x001b, wait: false, data: MAX_INLINE_BYTES, {
        /// Id, context and reply.
        create: Create,
        /// The module where it is not inline. May be reused once the reply is there.
        il: Span,
    }

    /// Creates a program of built-in kernels in context `create.parent`. The data are `device_count`
    /// [references](crate::device) to devices (`u32` each, at least one), then the names, separated by semicolons.
    CreateBuiltInProgram = 0x001c, wait: false, data: MAX_INLINE_BYTES, {
        /// Id, context and reply.
        create: Create,
        /// Devices at the start of the data.
        device_count: U32,
        /// Reserved, zero.
        reserved: U32,
    }

    /// Divides a device into sub-devices, or asks into how many: the slot's `len` is that number. The data are
    /// `count` object ids below 2^31 (`u32` each), then the partition's values (`u32` each): the compute units of each
    /// sub-device, their counts, or one affinity domain.
    CreateSubDevices = 0x001d, wait: false, data: 8 * crate::limits::MAX_SUB_DEVICES as u32, {
        /// [Reference](crate::device) to the device.
        parent: U32,
        /// `CL_DEVICE_PARTITION_EQUALLY`, `BY_COUNTS` or `BY_AFFINITY_DOMAIN`.
        partition: U32,
        /// Ids at the start of the data: as many as there will be sub-devices, or 0 to ask how many that is.
        count: U32,
        /// Reserved, zero.
        reserved: U32,
        /// Completed with the outcome.
        reply: SlotRef,
    }

    /// Completes the slot when the event's command has started to run, or is over. Not for user events.
    WatchEvent = 0x001e, wait: false, data: 0, {
        /// Id of the event.
        event: U32,
        /// Reserved, zero.
        reserved: U32,
        /// Completed with success, whatever becomes of the command.
        reply: SlotRef,
    }

    /// Builds a program. Other commands go on meanwhile; the program is busy until the reply.
    /// The data are `device_count` [device references](crate::device) (`u32` each; 0 of them for all devices of the
    /// context), then the build options.
    BuildProgram = 0x0020, wait: false, data: MAX_INLINE_BYTES, {
        /// Id of the program.
        program: U32,
        /// Device references at the start of the data.
        device_count: U32,
        /// Completed when the build has ended.
        reply: SlotRef,
    }

    /// Compiles a program from source or intermediate language for a linker. Other commands go on meanwhile; the
    /// program is busy until the reply.
    ///
    /// What comes with it is the data, or `list` if the data is empty: `device_count` [references](crate::device) to devices
    /// (`u32` each; 0 of them for all devices of the context), `header_count` headers (the `u32` id of a program, and the `u32` length
    /// of the name by which it is included), the names one after the other, and the options.
    CompileProgram = 0x0021, wait: false, data: MAX_INLINE_BYTES, {
        /// Id of the program.
        program: U32,
        /// Devices.
        device_count: U32,
        /// Headers: programs from source, which cannot be built or compiled themselves before or after.
        header_count: U32,
        /// Reserved, zero.
        reserved: U32,
        /// What is not inline. May be reused once the reply is there.
        list: Span,
        /// Completed when the compiler has ended.
        reply: SlotRef,
    }

    /// Links programs of context `create.parent` to a new one, which is busy until the reply. The programs cannot be
    /// built or compiled again.
    ///
    /// What comes with it is the data, or `list` if the data is empty: `device_count` [references](crate::device) to devices
    /// (`u32` each; 0 of them for all devices of the context), `input_count` ids of programs (`u32` each), and the options.
    LinkProgram = 0x0022, wait: false, data: MAX_INLINE_BYTES, {
        /// Id, context and reply. The reply has the linker's outcome.
        create: Create,
        /// Devices.
        device_count: U32,
        /// Programs that are linked; at least one.
        input_count: U32,
        /// What is not inline. May be reused once the reply is there.
        list: Span,
    }

    /// Sets a specialization constant of a program from intermediate language: the data, of the constant's size.
    SetSpecConstant = 0x0023, wait: false, data: 8, {
        /// Id of the program.
        program: U32,
        /// The constant's `SpecId`.
        spec_id: U32,
        /// Completed with the outcome; none if nobody wants it.
        reply: SlotRef,
    }

    /// Sets a kernel argument by value: the data.
    SetArgValue = 0x0030, wait: false, data: MAX_INLINE_BYTES, {
        /// Id of the kernel.
        kernel: U32,
        /// Argument index.
        index: U32,
        /// Completed with the outcome; none if nobody wants it.
        reply: SlotRef,
    }

    /// Sets a kernel argument to an object.
    SetArgObject = 0x0031, wait: false, data: 0, {
        /// Id of the kernel.
        kernel: U32,
        /// Argument index.
        index: U32,
        /// Id of a memory object or sampler; 0 for a null pointer.
        object: U32,
        /// Reserved, zero.
        reserved: U32,
    }

    /// Sets the size of a local memory argument.
    SetArgLocal = 0x0032, wait: false, data: 0, {
        /// Id of the kernel.
        kernel: U32,
        /// Argument index.
        index: U32,
        /// Size in bytes.
        size: U64,
    }

    /// Creates a kernel like kernel `create.parent`, with the arguments that are set now.
    CloneKernel = 0x0033, wait: false, data: 0, {
        /// Id, kernel and reply.
        create: Create,
    }

    /// Sets a kernel argument that is a pointer to an address in a [shared](CreateSharedBuffer) or [coarse-grain](CreateCoarseBuffer)
    /// buffer.
    SetArgSvm = 0x0034, wait: false, data: 0, {
        /// Id of the kernel.
        kernel: U32,
        /// Argument index.
        index: U32,
        /// Id of such a buffer; 0 for a null pointer.
        object: U32,
        /// Reserved, zero.
        reserved: U32,
        /// Byte in the buffer; at most its length.
        offset: U64,
    }

    /// Says which such buffers a kernel reaches through pointers in memory. The data are their ids (`u32` each);
    /// they replace what was said before.
    SetExecInfo = 0x0035, wait: false, data: 4 * crate::limits::MAX_EXEC_POINTERS, {
        /// Id of the kernel.
        kernel: U32,
        /// Reserved, zero.
        reserved: U32,
    }

    /// Runs a kernel with the arguments that are set now.
    EnqueueKernel = 0x0040, wait: true, data: 0, {
        /// Queue, event and slot.
        enqueue: Enqueue,
        /// Id of the kernel.
        kernel: U32,
        /// Dimensions: 1 to 3.
        dims: U32,
        /// Global offset; unused dimensions are 0.
        offset: Dim3,
        /// Global size; unused dimensions are 1.
        global: Dim3,
        /// Local size; all 0 if the host may choose, otherwise unused dimensions are 1.
        local: Dim3,
    }

    /// Reads from a buffer into shared memory.
    ReadBuffer = 0x0041, wait: true, data: 0, {
        /// Queue, event and slot.
        enqueue: Enqueue,
        /// Id of the buffer.
        buffer: U32,
        /// Reserved, zero.
        reserved: U32,
        /// First byte in the buffer.
        offset: U64,
        /// Where the bytes go; its length is the size.
        dst: Span,
    }

    /// Writes to a buffer from the data, or from shared memory if the data is empty.
    WriteBuffer = 0x0042, wait: true, data: MAX_INLINE_BYTES, {
        /// Queue, event and slot.
        enqueue: Enqueue,
        /// Id of the buffer.
        buffer: U32,
        /// Reserved, zero.
        reserved: U32,
        /// First byte in the buffer.
        offset: U64,
        /// Where the bytes are, if not inline; must not change until the command is complete.
        src: Span,
    }

    /// Copies between buffers.
    CopyBuffer = 0x0043, wait: true, data: 0, {
        /// Queue, event and slot.
        enqueue: Enqueue,
        /// Id of the source.
        src: U32,
        /// Id of the destination.
        dst: U32,
        /// First byte in the source.
        src_offset: U64,
        /// First byte in the destination.
        dst_offset: U64,
        /// Size in bytes.
        size: U64,
    }

    /// Fills a buffer with the data as pattern (1, 2, 4 … 128 bytes).
    FillBuffer = 0x0044, wait: true, data: 128, {
        /// Queue, event and slot.
        enqueue: Enqueue,
        /// Id of the buffer.
        buffer: U32,
        /// Reserved, zero.
        reserved: U32,
        /// First byte in the buffer.
        offset: U64,
        /// Size in bytes.
        size: U64,
    }

    /// Reads a rectangle of a buffer into shared memory, where it lies without gaps.
    ReadBufferRect = 0x0045, wait: true, data: 0, {
        /// Queue, event and slot.
        enqueue: Enqueue,
        /// Id of the buffer.
        buffer: U32,
        /// Reserved, zero.
        reserved: U32,
        /// Origin in the buffer.
        origin: Dim3,
        /// Extent.
        extent: Dim3,
        /// Bytes from row to row in the buffer.
        row_pitch: U64,
        /// Bytes from slice to slice in the buffer.
        slice_pitch: U64,
        /// Where the bytes go; its length is the product of the extent.
        dst: Span,
    }

    /// Writes a rectangle of a buffer from shared memory, where it lies without gaps.
    WriteBufferRect = 0x0046, wait: true, data: 0, {
        /// Queue, event and slot.
        enqueue: Enqueue,
        /// Id of the buffer.
        buffer: U32,
        /// Reserved, zero.
        reserved: U32,
        /// Origin in the buffer.
        origin: Dim3,
        /// Extent.
        extent: Dim3,
        /// Bytes from row to row in the buffer.
        row_pitch: U64,
        /// Bytes from slice to slice in the buffer.
        slice_pitch: U64,
        /// Where the bytes are; its length is the product of the extent.
        src: Span,
    }

    /// Copies a rectangle between buffers.
    CopyBufferRect = 0x0047, wait: true, data: 0, {
        /// Queue, event and slot.
        enqueue: Enqueue,
        /// Id of the source.
        src: U32,
        /// Id of the destination.
        dst: U32,
        /// Origin in the source.
        src_origin: Dim3,
        /// Origin in the destination.
        dst_origin: Dim3,
        /// Extent.
        extent: Dim3,
        /// Bytes from row to row in the source.
        src_row_pitch: U64,
        /// Bytes from slice to slice in the source.
        src_slice_pitch: U64,
        /// Bytes from row to row in the destination.
        dst_row_pitch: U64,
        /// Bytes from slice to slice in the destination.
        dst_slice_pitch: U64,
    }

    /// Completes after the events in the wait list, or after everything before it if there are none.
    Marker = 0x0048, wait: true, data: 0, {
        /// Queue, event and slot.
        enqueue: Enqueue,
    }

    /// Like [`Marker`], and everything after it in the queue waits for it.
    Barrier = 0x0049, wait: true, data: 0, {
        /// Queue, event and slot.
        enqueue: Enqueue,
    }

    /// Completes when everything that is in the queue now is complete. Its status is the first error of the
    /// queue's commands that had neither event nor slot to report it, since the last time.
    Finish = 0x004a, wait: false, data: 0, {
        /// Id of the queue.
        queue: U32,
        /// Reserved, zero.
        reserved: U32,
        /// Completed when the queue is drained.
        reply: SlotRef,
    }

    /// Asks for the image formats that a context supports: `clGetSupportedImageFormats`.
    GetImageFormats = 0x0050, wait: false, data: 0, {
        /// Id of the context.
        context: U32,
        /// `cl_mem_object_type`: number of an [`ImageType`](crate::image::ImageType).
        kind: U32,
        /// `cl_mem_flags`: one of those for access by kernels, or `CL_MEM_KERNEL_READ_AND_WRITE`.
        flags: U64,
        /// Where the formats go ([`ImageFormat`] each). At most its `len` bytes are written; the slot's `len` is the
        /// full length.
        dst: Span,
        /// Completed when the answer is there.
        reply: SlotRef,
    }

    /// Reads a box of an image into shared memory, where it lies without gaps.
    ReadImage = 0x0051, wait: true, data: 0, {
        /// Queue, event and slot.
        enqueue: Enqueue,
        /// Id of the image.
        image: U32,
        /// Reserved, zero.
        reserved: U32,
        /// Origin in elements.
        origin: Dim3,
        /// Extent in elements; 1 in dimensions that the image does not have.
        extent: Dim3,
        /// Where the elements go; its length is theirs.
        dst: Span,
    }

    /// Writes a box of an image from the data, or from shared memory if the data is empty; without gaps.
    WriteImage = 0x0052, wait: true, data: MAX_INLINE_BYTES, {
        /// Queue, event and slot.
        enqueue: Enqueue,
        /// Id of the image.
        image: U32,
        /// Reserved, zero.
        reserved: U32,
        /// Origin in elements.
        origin: Dim3,
        /// Extent in elements; 1 in dimensions that the image does not have.
        extent: Dim3,
        /// Where the elements are, if not inline; must not change until the command is complete.
        src: Span,
    }

    /// Copies a box between images of one format.
    CopyImage = 0x0053, wait: true, data: 0, {
        /// Queue, event and slot.
        enqueue: Enqueue,
        /// Id of the source.
        src: U32,
        /// Id of the destination.
        dst: U32,
        /// Origin in the source.
        src_origin: Dim3,
        /// Origin in the destination.
        dst_origin: Dim3,
        /// Extent.
        extent: Dim3,
    }

    /// Fills a box of an image with the colour that is the data: four floats or 32-bit integers.
    FillImage = 0x0054, wait: true, data: MAX_ELEMENT_BYTES, {
        /// Queue, event and slot.
        enqueue: Enqueue,
        /// Id of the image.
        image: U32,
        /// Reserved, zero.
        reserved: U32,
        /// Origin in elements.
        origin: Dim3,
        /// Extent in elements; 1 in dimensions that the image does not have.
        extent: Dim3,
    }

    /// Copies a box of an image into a buffer, where it lies without gaps.
    CopyImageToBuffer = 0x0055, wait: true, data: 0, {
        /// Queue, event and slot.
        enqueue: Enqueue,
        /// Id of the image.
        image: U32,
        /// Id of the buffer.
        buffer: U32,
        /// Origin in the image.
        origin: Dim3,
        /// Extent.
        extent: Dim3,
        /// First byte in the buffer.
        offset: U64,
    }

    /// Copies bytes of a buffer, which lie without gaps, into a box of an image.
    CopyBufferToImage = 0x0056, wait: true, data: 0, {
        /// Queue, event and slot.
        enqueue: Enqueue,
        /// Id of the image.
        image: U32,
        /// Id of the buffer.
        buffer: U32,
        /// Origin in the image.
        origin: Dim3,
        /// Extent.
        extent: Dim3,
        /// First byte in the buffer.
        offset: U64,
    }

    /// Creates a buffer in context `create.parent` whose bytes are those of a shared region: both sides see the same
    /// memory, and nothing is copied. Only where all devices of the context share memory with the host.
    CreateSharedBuffer = 0x0060, wait: false, data: 0, {
        /// Id, context and reply.
        create: Create,
        /// `cl_mem_flags`, as for [`CreateBuffer`].
        flags: U64,
        /// The bytes.
        memory: Span,
        /// Where [`svm::SharedInfo`](crate::svm::SharedInfo) goes; none if it is not wanted.
        info: Span,
    }

    /// Creates a buffer in context `create.parent` that kernels find at an address which the driver of a device with memory of
    /// its own has chosen: for coarse-grain shared virtual memory. Fresh memory is zero.
    CreateCoarseBuffer = 0x0062, wait: false, data: 0, {
        /// Id, context and reply.
        create: Create,
        /// `cl_mem_flags`, as for [`CreateBuffer`].
        flags: U64,
        /// Size in bytes.
        size: U64,
        /// Id of such a buffer that this one is to lie in; 0 for memory of its own.
        of: U32,
        /// Reserved, zero.
        reserved: U32,
        /// First byte in that buffer.
        offset: U64,
        /// Where [`svm::SharedInfo`](crate::svm::SharedInfo) goes; none if it is not wanted.
        info: Span,
    }

    /// Creates a buffer in context `create.parent` like [`CreateBuffer`], whose bytes are those of a shared region: the guest
    /// reads and writes them without asking. Kernels know it by its id alone. Only where all devices of the context share
    /// memory with the host.
    CreatePlacedBuffer = 0x0063, wait: false, data: 0, {
        /// Id, context and reply.
        create: Create,
        /// `cl_mem_flags`, as for [`CreateBuffer`].
        flags: U64,
        /// The bytes.
        memory: Span,
    }

    /// Gives up the id of a shared or placed buffer, like [`Release`], and tells when nothing uses its bytes any more.
    ReleaseShared = 0x0061, wait: false, data: 0, {
        /// Id of the buffer.
        id: U32,
        /// Reserved, zero.
        reserved: U32,
        /// Completed when kernels that have the buffer set, and commands that use it, are gone.
        reply: SlotRef,
    }

    /// Creates a pipe in context `create.parent`: only kernels read and write it.
    CreatePipe = 0x0070, wait: false, data: 0, {
        /// Id, context and reply.
        create: Create,
        /// Bytes of a packet.
        packet_size: U32,
        /// Packets that it holds.
        max_packets: U32,
    }

    /// Creates a queue on the device, for what kernels enqueue, in context `create.parent`.
    CreateDeviceQueue = 0x0071, wait: false, data: 0, {
        /// Id, context and reply.
        create: Create,
        /// [Reference](crate::device) to the device.
        device: U32,
        /// `CL_QUEUE_SIZE` in bytes; 0 for what the device prefers.
        size: U32,
        /// `cl_command_queue_properties`: those of a queue on the device, out of order, and perhaps profiling and the default.
        properties: U64,
    }

    /// Makes a queue on the device the one that kernels find as the default, in its context and on its device.
    SetDefaultQueue = 0x0072, wait: false, data: 0, {
        /// Id of a queue on the device.
        queue: U32,
        /// Reserved, zero.
        reserved: U32,
    }
}

#[cfg(test)]
mod tests;
