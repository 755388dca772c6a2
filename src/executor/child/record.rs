//! Everything that a guest can observe of its objects, as plain values: from these, host handles can be made
//! again.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::backend::{ClError, Partition, QueueHints};

/// What an object is called for its whole life. Ids are the guest's and may be used again after a release;
/// serials are never used twice in a context.
pub type Serial = u64;

/// An object. `id` is none if the guest has released it, and other objects still need it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRecord {
    /// Its serial.
    pub serial: Serial,
    /// Its id.
    pub id: Option<u32>,
    /// The OpenCL error with which its creation failed.
    pub poisoned: Option<i32>,
    /// What it is.
    pub record: Record,
}

/// What an object is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// A sub-device.
    SubDevice(SubDeviceRecord),
    /// A context.
    Context(ContextRecord),
    /// A command queue.
    Queue(QueueRecord),
    /// A buffer or sub-buffer.
    Buffer(BufferRecord),
    /// An image.
    Image(ImageRecord),
    /// A sampler.
    Sampler(SamplerRecord),
    /// A pipe.
    Pipe(PipeRecord),
    /// A queue on a device.
    DeviceQueue(DeviceQueueRecord),
    /// A program.
    Program(ProgramRecord),
    /// A kernel.
    Kernel(KernelRecord),
    /// An event.
    Event(EventRecord),
}

/// Which device is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DeviceRecord {
    /// One of the host's, by its index.
    Root(usize),
    /// A sub-device.
    Sub(Serial),
}

/// A sub-device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubDeviceRecord {
    /// The device that it is a part of.
    pub parent: DeviceRecord,
    /// How that was divided.
    pub partition: Partition,
    /// Which of the parts it is.
    pub index: usize,
}

/// A context.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContextRecord {
    /// Its devices.
    pub devices: Vec<DeviceRecord>,
    /// The default queues on devices, of those that have one.
    pub default_queues: Vec<(DeviceRecord, Serial)>,
}

/// A command queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueRecord {
    /// Its context.
    pub context: Serial,
    /// Its device.
    pub device: DeviceRecord,
    /// `cl_command_queue_properties`.
    pub properties: u64,
    /// What it says of its urgency.
    pub hints: QueueHints,
    /// First error that no event or slot has reported, until the next Finish.
    pub deferred: Option<i32>,
}

/// A buffer or sub-buffer. Its contents are not part of its record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BufferRecord {
    /// Its context.
    pub context: Serial,
    /// `cl_mem_flags`.
    pub flags: u64,
    /// Size in bytes.
    pub size: u64,
    /// For a sub-buffer: its parent, and its first byte there.
    pub parent: Option<(Serial, u64)>,
    /// For a buffer with an address: that, and where its bytes are.
    pub shared: Option<SharedRecord>,
    /// For one without whose bytes are the guest's: the virtio-gpu resource id of their region, and the first byte there.
    pub place: Option<(u32, u64)>,
}

/// A buffer that kernels, and perhaps the guest, find at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedRecord {
    /// Address of the first byte.
    pub address: u64,
    /// virtio-gpu resource id of the region that its bytes are of, and the first byte there. None for memory that the
    /// device's driver has allocated.
    pub region: Option<(u32, u64)>,
}

/// An image. Its contents are not part of its record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// Its context.
    pub context: Serial,
    /// `cl_mem_flags`.
    pub flags: u64,
    /// `cl_channel_order` and `cl_channel_type`.
    pub format: (u32, u32),
    /// `cl_mem_object_type`.
    pub kind: u32,
    /// Width, height, depth and array size in elements.
    pub shape: [u64; 4],
    /// Bytes from row to row, if it was asked for one.
    pub row_pitch: u64,
    /// The buffer that it lies in, or the image that it shows.
    pub parent: Option<Serial>,
}

/// A sampler.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SamplerRecord {
    /// Its context.
    pub context: Serial,
    /// True for coordinates from 0 to 1.
    pub normalized: bool,
    /// `cl_addressing_mode`.
    pub addressing: u32,
    /// `cl_filter_mode`.
    pub filter: u32,
}

/// A pipe. The packets in it are not part of its record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PipeRecord {
    /// Its context.
    pub context: Serial,
    /// Bytes of a packet.
    pub packet_size: u32,
    /// Packets that it holds.
    pub max_packets: u32,
}

/// A queue on a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceQueueRecord {
    /// Its context.
    pub context: Serial,
    /// Its device.
    pub device: DeviceRecord,
    /// `cl_command_queue_properties`.
    pub properties: u64,
    /// `CL_QUEUE_SIZE` in bytes, if it was said.
    pub size: Option<u32>,
}

/// A program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramRecord {
    /// Its context.
    pub context: Serial,
    /// What it comes from.
    pub origin: OriginRecord,
    /// Specialization constants that are set for the next build, by their `SpecId`.
    pub constants: BTreeMap<u32, Vec<u8>>,
    /// The last build of each device, together where it was one.
    pub builds: Vec<BuildRecord>,
}

/// What a program comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OriginRecord {
    /// Source.
    Source(Vec<u8>),
    /// A SPIR-V module.
    Il(Vec<u8>),
    /// Built-in kernels.
    BuiltIn {
        /// Its devices.
        devices: Vec<DeviceRecord>,
        /// The kernels' names, separated by semicolons.
        names: Vec<u8>,
    },
    /// Other programs, which have not changed since.
    Linked {
        /// Their serials, in the order in which they were linked.
        inputs: Vec<Serial>,
    },
}

/// What is made of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BuildKind {
    /// An executable, by `clBuildProgram`.
    Build,
    /// A compiled object, by `clCompileProgram`.
    Compile,
    /// A library or an executable, by `clLinkProgram`: the options say which.
    Link,
}

/// A build of a program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildRecord {
    /// What was made.
    pub kind: BuildKind,
    /// The devices.
    pub devices: Vec<DeviceRecord>,
    /// Options as the guest gave them.
    pub options: Vec<u8>,
    /// The names by which headers were included, and their serials.
    pub headers: Vec<(Vec<u8>, Serial)>,
    /// Specialization constants that were set.
    pub constants: BTreeMap<u32, Vec<u8>>,
    /// 0, or the OpenCL error of the build; none while it runs.
    pub status: Option<i32>,
    /// Why the host's driver was not given it, if so: the guest finds that in its log.
    pub ended: Option<String>,
}

impl BuildKind {
    /// The OpenCL error of one that is not successful.
    pub(crate) fn failure(self) -> ClError {
        match self {
            BuildKind::Build => ClError::BUILD_PROGRAM_FAILURE,
            BuildKind::Compile => ClError::COMPILE_PROGRAM_FAILURE,
            BuildKind::Link => ClError::LINK_PROGRAM_FAILURE,
        }
    }
}

/// Without it the host would not know which arguments are pointers, and could not keep a guest from forging one.
const ARG_INFO_OPTION: &str = "-cl-kernel-arg-info";

impl BuildRecord {
    /// The options for the host. The guest sees its own.
    pub(crate) fn host_options(&self) -> Vec<u8> {
        match self.kind {
            BuildKind::Build | BuildKind::Compile => with_arg_info(&self.options),
            BuildKind::Link => self.options.clone(),
        }
    }
}

/// Options for a compiler that make it keep what is known of kernels' arguments.
pub(crate) fn with_arg_info(options: &[u8]) -> Vec<u8> {
    let mut all = options.to_vec();
    let there =
        options.split(|byte| byte.is_ascii_whitespace()).any(|word| word == ARG_INFO_OPTION.as_bytes());
    if !there {
        if !all.is_empty() {
            all.push(b' ');
        }
        all.extend_from_slice(ARG_INFO_OPTION.as_bytes());
    }
    all
}

/// A kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelRecord {
    /// Its program.
    pub program: Serial,
    /// Its name.
    pub name: Vec<u8>,
    /// What its arguments are set to.
    pub args: Vec<ArgRecord>,
    /// Shared buffers that it reaches through pointers in memory.
    pub reaches: Vec<Serial>,
}

/// What a kernel's argument is set to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ArgRecord {
    /// Nothing yet.
    #[default]
    Unset,
    /// Bytes.
    Value(Vec<u8>),
    /// A buffer, or a null pointer.
    Buffer(Option<Serial>),
    /// An image.
    Image(Serial),
    /// A sampler.
    Sampler(Serial),
    /// A pipe.
    Pipe(Serial),
    /// A queue on the device.
    Queue(Serial),
    /// A pointer to a byte of a shared buffer.
    Pointer(Serial, u64),
    /// That many bytes of local memory.
    Local(u64),
}

/// An event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRecord {
    /// Its context.
    pub context: Serial,
    /// Its command's queue and opcode; none for a user event.
    pub command: Option<(Serial, u16)>,
    /// 0 when complete, negative when failed, positive before.
    pub status: i32,
    /// Times of the command, if its queue profiles and it is complete.
    pub profile: Option<[u64; 4]>,
}

#[cfg(test)]
mod tests {
    use super::with_arg_info;

    #[test]
    fn argument_information_is_asked_for_once() {
        assert_eq!(with_arg_info(b""), b"-cl-kernel-arg-info");
        assert_eq!(with_arg_info(b"-DA=1"), b"-DA=1 -cl-kernel-arg-info");
        assert_eq!(with_arg_info(b"-cl-kernel-arg-info -DA"), b"-cl-kernel-arg-info -DA");
        assert_eq!(with_arg_info(b"-DX-cl-kernel-arg-info"), b"-DX-cl-kernel-arg-info -cl-kernel-arg-info");
    }
}
