//! What a compute device is asked to do, as plain values: the words that every backend understands.

use std::ffi::c_void;

use serde::{Deserialize, Serialize};

use paragpu_protocol::svm::MemoryModel;

use super::image::{ImageLimits, ImageWork};
use super::map::Window;

/// An OpenCL error code: negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[error("OpenCL error {0}")]
pub struct ClError(i32);

impl ClError {
    /// `CL_MEM_OBJECT_ALLOCATION_FAILURE`
    pub const ALLOCATION_FAILURE: ClError = ClError(-4);
    /// `CL_OUT_OF_RESOURCES`
    pub const OUT_OF_RESOURCES: ClError = ClError(-5);
    /// `CL_OUT_OF_HOST_MEMORY`
    pub const OUT_OF_HOST_MEMORY: ClError = ClError(-6);
    /// `CL_MEM_COPY_OVERLAP`
    pub const COPY_OVERLAP: ClError = ClError(-8);
    /// `CL_IMAGE_FORMAT_MISMATCH`
    pub const IMAGE_FORMAT_MISMATCH: ClError = ClError(-9);
    /// `CL_IMAGE_FORMAT_NOT_SUPPORTED`
    pub const IMAGE_FORMAT_NOT_SUPPORTED: ClError = ClError(-10);
    /// `CL_BUILD_PROGRAM_FAILURE`
    pub const BUILD_PROGRAM_FAILURE: ClError = ClError(-11);
    /// `CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST`
    pub const WAIT_LIST_FAILED: ClError = ClError(-14);
    /// `CL_COMPILE_PROGRAM_FAILURE`
    pub const COMPILE_PROGRAM_FAILURE: ClError = ClError(-15);
    /// `CL_LINK_PROGRAM_FAILURE`
    pub const LINK_PROGRAM_FAILURE: ClError = ClError(-17);
    /// `CL_KERNEL_ARG_INFO_NOT_AVAILABLE`
    pub const ARG_INFO_NOT_AVAILABLE: ClError = ClError(-19);
    /// `CL_INVALID_VALUE`
    pub const INVALID_VALUE: ClError = ClError(-30);
    /// `CL_INVALID_DEVICE`
    pub const INVALID_DEVICE: ClError = ClError(-33);
    /// `CL_INVALID_CONTEXT`
    pub const INVALID_CONTEXT: ClError = ClError(-34);
    /// `CL_INVALID_IMAGE_SIZE`
    pub const INVALID_IMAGE_SIZE: ClError = ClError(-40);
    /// `CL_INVALID_PROGRAM_EXECUTABLE`
    pub const INVALID_PROGRAM_EXECUTABLE: ClError = ClError(-45);
    /// `CL_INVALID_KERNEL_NAME`
    pub const INVALID_KERNEL_NAME: ClError = ClError(-46);
    /// `CL_INVALID_ARG_INDEX`
    pub const INVALID_ARG_INDEX: ClError = ClError(-49);
    /// `CL_INVALID_ARG_VALUE`
    pub const INVALID_ARG_VALUE: ClError = ClError(-50);
    /// `CL_INVALID_ARG_SIZE`
    pub const INVALID_ARG_SIZE: ClError = ClError(-51);
    /// `CL_INVALID_KERNEL_ARGS`
    pub const INVALID_KERNEL_ARGS: ClError = ClError(-52);
    /// `CL_INVALID_WORK_GROUP_SIZE`
    pub const INVALID_WORK_GROUP_SIZE: ClError = ClError(-54);
    /// `CL_INVALID_WORK_ITEM_SIZE`
    pub const INVALID_WORK_ITEM_SIZE: ClError = ClError(-55);
    /// `CL_INVALID_GLOBAL_OFFSET`
    pub const INVALID_GLOBAL_OFFSET: ClError = ClError(-56);
    /// `CL_INVALID_OPERATION`
    pub const INVALID_OPERATION: ClError = ClError(-59);
    /// `CL_INVALID_BUFFER_SIZE`
    pub const INVALID_BUFFER_SIZE: ClError = ClError(-61);
    /// `CL_INVALID_GLOBAL_WORK_SIZE`
    pub const INVALID_GLOBAL_WORK_SIZE: ClError = ClError(-63);
    /// `CL_INVALID_PIPE_SIZE`
    pub const INVALID_PIPE_SIZE: ClError = ClError(-69);
    /// `CL_INVALID_DEVICE_PARTITION_COUNT`
    pub const INVALID_PARTITION_COUNT: ClError = ClError(-68);

    /// The error with this code. A driver that fails with a code that is no error has no excuse.
    pub fn from_code(code: i32) -> ClError {
        if code < 0 { ClError(code) } else { ClError::OUT_OF_HOST_MEMORY }
    }

    /// The code.
    pub fn code(self) -> i32 {
        self.0
    }
}

/// How a command ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// 0, or a negative OpenCL error.
    pub status: i32,
    /// `CL_PROFILING_COMMAND_QUEUED`, `SUBMIT`, `START`, `END`, if the queue profiles.
    pub profile: Option<[u64; 4]>,
}

impl Outcome {
    /// Success, without times.
    pub const SUCCESS: Outcome = Outcome { status: 0, profile: None };

    /// This error.
    pub fn failed(error: ClError) -> Outcome {
        Outcome { status: error.code(), profile: None }
    }
}

/// Called exactly once for a command that was given to a device: when it is complete, or could not be enqueued.
/// May be called on a driver's thread, so it must not call OpenCL nor wait.
pub type Done = Box<dyn FnOnce(Outcome) + Send>;

/// Called at most once, when a command has started to run. May be called on a driver's thread, so it must not call OpenCL
/// nor wait.
pub type Started = Box<dyn FnOnce() + Send>;

/// Waits for a command to start for as long as it lives.
pub struct StartWatch(pub Box<dyn Send + Sync>);

impl std::fmt::Debug for StartWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StartWatch")
    }
}

/// Host memory that a device reads from.
#[derive(Debug)]
pub enum HostBytes {
    /// Bytes of a shared region.
    Window(Window),
    /// Bytes on the heap.
    Heap(Box<[u8]>),
}

impl HostBytes {
    /// Length in bytes.
    pub fn len(&self) -> usize {
        match self {
            HostBytes::Window(window) => window.len(),
            HostBytes::Heap(bytes) => bytes.len(),
        }
    }

    /// True for no bytes at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies bytes out; false if they are not all there.
    #[must_use]
    pub fn read(&self, offset: usize, to: &mut [u8]) -> bool {
        match self {
            HostBytes::Window(window) => window.read(offset, to),
            HostBytes::Heap(bytes) => {
                let from = offset.checked_add(to.len()).and_then(|end| bytes.get(offset..end));
                from.inspect(|from| to.copy_from_slice(from)).is_some()
            }
        }
    }

    /// Where the bytes are, for a driver that reads them while this value is kept.
    pub fn as_ptr(&self) -> *const c_void {
        match self {
            HostBytes::Window(window) => window.as_ptr(),
            HostBytes::Heap(bytes) => bytes.as_ptr().cast(),
        }
    }
}

/// Where a rectangle lies in a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rect {
    /// First byte of a row, row, slice.
    pub origin: [usize; 3],
    /// Bytes from row to row.
    pub row_pitch: usize,
    /// Bytes from slice to slice.
    pub slice_pitch: usize,
}

impl Rect {
    /// A rectangle without gaps.
    pub fn packed(extent: [usize; 3]) -> Rect {
        Rect { origin: [0; 3], row_pitch: extent[0], slice_pitch: extent[0].saturating_mul(extent[1]) }
    }

    /// First byte, and the byte after the last, if the pitches are allowed (OpenCL 3.0, `clEnqueueReadBufferRect`)
    /// and nothing overflows.
    pub fn bounds(&self, extent: [usize; 3]) -> Option<(usize, usize)> {
        let [width, height, depth] = extent;
        if width == 0 || height == 0 || depth == 0 || self.row_pitch < width {
            return None;
        }
        let slice_min = height.checked_mul(self.row_pitch)?;
        if self.slice_pitch < slice_min || !self.slice_pitch.is_multiple_of(self.row_pitch) {
            return None;
        }
        let at = |x: usize, y: usize, z: usize| {
            let slices = z.checked_mul(self.slice_pitch)?;
            slices.checked_add(y.checked_mul(self.row_pitch)?)?.checked_add(x)
        };
        let [x, y, z] = self.origin;
        let last = at(x.checked_add(width - 1)?, y.checked_add(height - 1)?, z.checked_add(depth - 1)?)?;
        Some((at(x, y, z)?, last.checked_add(1)?))
    }

    /// First byte of a row of the rectangle; [`bounds`](Rect::bounds) has been asked before.
    pub fn row(&self, y: usize, z: usize) -> usize {
        (self.origin[2] + z) * self.slice_pitch + (self.origin[1] + y) * self.row_pitch + self.origin[0]
    }
}

/// The work-items of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NdRange {
    /// Dimensions: 1 to 3.
    pub dims: u32,
    /// Global offset.
    pub offset: [usize; 3],
    /// Global size.
    pub global: [usize; 3],
    /// Local size, or none if the device may choose.
    pub local: Option<[usize; 3]>,
}

/// A command for a queue, over a backend's handles for buffers, images and kernels.
#[derive(Debug)]
pub enum Work<'a, B, I, K> {
    /// Runs a kernel.
    Launch {
        /// The kernel with its arguments.
        kernel: &'a K,
        /// Its work-items.
        range: NdRange,
    },
    /// Reads from a buffer.
    Read {
        /// The buffer.
        buffer: &'a B,
        /// First byte.
        offset: usize,
        /// Where to; its length is the size.
        to: Window,
    },
    /// Writes to a buffer.
    Write {
        /// The buffer.
        buffer: &'a B,
        /// First byte.
        offset: usize,
        /// Where from; its length is the size.
        from: HostBytes,
    },
    /// Copies between buffers.
    Copy {
        /// The source.
        from: &'a B,
        /// The destination.
        to: &'a B,
        /// First byte in each.
        offsets: (usize, usize),
        /// Length in bytes.
        size: usize,
    },
    /// Repeats a pattern over a buffer.
    Fill {
        /// The buffer.
        buffer: &'a B,
        /// The pattern.
        pattern: &'a [u8],
        /// First byte.
        offset: usize,
        /// Length in bytes.
        size: usize,
    },
    /// Reads a rectangle into memory without gaps.
    ReadRect {
        /// The buffer.
        buffer: &'a B,
        /// Where in the buffer.
        rect: Rect,
        /// Size.
        extent: [usize; 3],
        /// Where to.
        to: Window,
    },
    /// Writes a rectangle from memory without gaps.
    WriteRect {
        /// The buffer.
        buffer: &'a B,
        /// Where in the buffer.
        rect: Rect,
        /// Size.
        extent: [usize; 3],
        /// Where from.
        from: HostBytes,
    },
    /// Copies a rectangle between buffers.
    CopyRect {
        /// The source.
        from: &'a B,
        /// The destination.
        to: &'a B,
        /// Where in each.
        rects: (Rect, Rect),
        /// Size.
        extent: [usize; 3],
    },
    /// Does something with images.
    Image(ImageWork<'a, B, I>),
    /// Completes after its wait list, or after everything before it.
    Marker,
    /// A marker that holds back what comes after it.
    Barrier,
}

/// What to wait for, and what to make of a command's end.
pub struct Order<'a, E> {
    /// Events that must be complete first.
    pub wait: &'a [&'a E],
    /// True if an event is wanted.
    pub event: bool,
    /// True if the times are wanted.
    pub profile: bool,
    /// Called when the command has ended.
    pub done: Option<Done>,
}

/// What is asked about, over a backend's handles for devices, programs and kernels.
#[derive(Debug)]
pub enum Query<'a, D, P, K> {
    /// The platform.
    Platform,
    /// A device.
    Device(&'a D),
    /// A device's time and the host's, a `u64` each.
    DeviceTimers(&'a D),
    /// A program.
    Program(&'a P),
    /// A program's build for a device.
    ProgramBuild(&'a P, &'a D),
    /// A kernel.
    Kernel(&'a K),
    /// A kernel on a device.
    KernelWorkGroup(&'a K, &'a D),
    /// A kernel's argument.
    KernelArg(&'a K, u32),
    /// A kernel on a device, with an input value.
    KernelSubGroup(&'a K, &'a D, SubGroupInput<'a>),
}

/// What a question about sub-groups comes with.
#[derive(Clone, Copy, Debug)]
pub struct SubGroupInput<'a> {
    /// The input value.
    pub value: &'a [u8],
    /// Room for the answer in bytes, where that is part of the question: it asks for as many dimensions.
    pub room: usize,
}

/// What came of a link: a failure may come with a program, which has the linker's log.
#[derive(Debug)]
pub struct Linked<P> {
    /// The program; there is one if the outcome is a success.
    pub program: Option<P>,
    /// How the link went.
    pub outcome: Result<(), ClError>,
}

/// A kernel argument as the compiler describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arg {
    /// What may be set.
    pub kind: paragpu_protocol::kernel::ArgKind,
    /// Size in bytes of a value of one of OpenCL C's own types, otherwise 0.
    pub size: u32,
    /// Of an image, what the kernel does with it (`ACCESS_READ`, `ACCESS_WRITE` of the protocol), otherwise 0.
    pub access: u8,
}

/// What an argument is set to.
#[derive(Debug)]
pub enum ArgValue<'a, B, I, S, P, Q> {
    /// Bytes.
    Value(&'a [u8]),
    /// A buffer, or a null pointer.
    Buffer(Option<&'a B>),
    /// An image.
    Image(&'a I),
    /// A sampler.
    Sampler(&'a S),
    /// A pipe.
    Pipe(&'a P),
    /// A queue on the device.
    Queue(&'a Q),
    /// A pointer to this address. What a kernel does with it is as much its own affair as any pointer that it computes.
    Pointer(usize),
    /// Local memory of that many bytes.
    Local(usize),
}

// Derived, these would ask the same of the handle.
impl<B, I, S, P, Q> Clone for ArgValue<'_, B, I, S, P, Q> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B, I, S, P, Q> Copy for ArgValue<'_, B, I, S, P, Q> {}

/// A device, as far as the host decides by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceLimits {
    /// Its name, for logs.
    pub name: String,
    /// `CL_DEVICE_MAX_MEM_ALLOC_SIZE`
    pub max_alloc: u64,
    /// `CL_DEVICE_LOCAL_MEM_SIZE`
    pub local_memory: u64,
    /// `CL_DEVICE_MAX_WORK_GROUP_SIZE`
    pub max_work_group: usize,
    /// `CL_DEVICE_MAX_WORK_ITEM_SIZES`
    pub max_work_items: [usize; 3],
    /// How large its images may be; none if it has no images.
    pub images: Option<ImageLimits>,
    /// How its memory relates to the host's.
    pub memory: MemoryModel,
}

/// A backend's handle for a device, and what it can do.
#[derive(Clone, Debug)]
pub struct HostDevice<D> {
    /// The handle.
    pub handle: D,
    /// What it can do.
    pub limits: DeviceLimits,
}

/// How a device is divided into sub-devices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Partition {
    /// Each with that many compute units, as many as there are.
    Equally(u32),
    /// One for each count, with that many compute units.
    ByCounts(Vec<u32>),
    /// By what they share: one of `CL_DEVICE_AFFINITY_DOMAIN_…`.
    ByAffinityDomain(u32),
}

/// How urgent a queue's commands are, each 0 if it is not said, or 1 for high, 2 for medium, 4 for low.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueHints {
    /// `CL_QUEUE_PRIORITY_KHR`
    pub priority: u8,
    /// `CL_QUEUE_THROTTLE_KHR`
    pub throttle: u8,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_of_rectangles() {
        let rect = Rect { origin: [2, 1, 1], row_pitch: 8, slice_pitch: 32 };
        assert_eq!(rect.bounds([4, 2, 2]), Some((42, 2 * 32 + 2 * 8 + 6)));
        assert_eq!(rect.row(1, 1), 2 * 32 + 2 * 8 + 2);
        assert_eq!(rect.bounds([0, 1, 1]), None);
        assert_eq!(rect.bounds([9, 1, 1]), None, "wider than the pitch");
        assert_eq!(rect.bounds([1, 5, 1]), None, "higher than the slice");
        assert_eq!(Rect { slice_pitch: 33, ..rect }.bounds([1, 1, 1]), None);
        assert_eq!(Rect { origin: [usize::MAX, 0, 0], ..rect }.bounds([1, 1, 1]), None);
        assert_eq!(Rect { origin: [0, 0, usize::MAX], ..rect }.bounds([1, 1, 1]), None);
        assert_eq!(Rect::packed([4, 2, 2]).bounds([4, 2, 2]), Some((0, 16)));
    }

    #[test]
    fn a_code_that_is_no_error_is_not_taken_for_success() {
        assert!(ClError::from_code(0).code() < 0);
        assert_eq!(ClError::from_code(-54), ClError::INVALID_WORK_GROUP_SIZE);
    }
}
