//! Everything that a guest can observe of its objects, as plain values: from these, host handles can be made
//! again.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

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
    /// A context.
    Context(ContextRecord),
    /// A command queue.
    Queue(QueueRecord),
    /// A buffer or sub-buffer.
    Buffer(BufferRecord),
    /// A program.
    Program(ProgramRecord),
    /// A kernel.
    Kernel(KernelRecord),
    /// An event.
    Event(EventRecord),
}

/// A context.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContextRecord {
    /// Device indices.
    pub devices: Vec<usize>,
}

/// A command queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueRecord {
    /// Its context.
    pub context: Serial,
    /// Device index.
    pub device: usize,
    /// `cl_command_queue_properties`.
    pub properties: u64,
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
        /// Device indices.
        devices: Vec<usize>,
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
    /// Device indices.
    pub devices: Vec<usize>,
    /// Options as the guest gave them.
    pub options: Vec<u8>,
    /// The names by which headers were included, and their serials.
    pub headers: Vec<(Vec<u8>, Serial)>,
    /// Specialization constants that were set.
    pub constants: BTreeMap<u32, Vec<u8>>,
    /// 0, or the OpenCL error of the build; none while it runs.
    pub status: Option<i32>,
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
