//! What the host tells of a kernel when it is created: enough for the guest to check arguments and to turn
//! object handles into ids without asking again.
//!
//! The answer to `CreateKernel` is a [`KernelInfo`], then `num_args` times [`ArgInfo`].

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Start of the answer.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct KernelInfo {
    /// `CL_KERNEL_NUM_ARGS`.
    pub num_args: U32,
    /// [`MAY_PRINT`], or 0.
    pub flags: U32,
}

/// [`KernelInfo::flags`]: the kernel may print, so what it printed is to be fetched (`ReadPrint`).
pub const MAY_PRINT: u32 = 1;

/// One argument.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct ArgInfo {
    /// Number of an [`ArgKind`].
    pub kind: u8,
    /// Of an image, what the kernel does with it: [`ACCESS_READ`], [`ACCESS_WRITE`] or both. Otherwise 0.
    pub access: u8,
    /// Reserved, zero.
    pub reserved: U16,
    /// Size in bytes of a [`ArgKind::Value`] whose type is one of OpenCL C's own; 0 where the host cannot know
    /// (a structure): then the guest asks for the outcome of setting it.
    pub size: U32,
}

/// The kernel reads from the image.
pub const ACCESS_READ: u8 = 1 << 0;
/// The kernel writes to the image.
pub const ACCESS_WRITE: u8 = 1 << 1;

/// What may be set as an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ArgKind {
    /// Bytes, by value.
    Value = 1,
    /// A memory object: `__global` or `__constant` pointer.
    Buffer = 2,
    /// A size of local memory: `__local` pointer.
    Local = 3,
    /// An image.
    Image = 4,
    /// A sampler.
    Sampler = 5,
    /// Something that cannot be passed.
    Other = 6,
    /// A pipe.
    Pipe = 7,
    /// A queue on the device.
    Queue = 8,
}

impl ArgKind {
    /// The kind with this number.
    pub fn from_wire(number: u8) -> Option<ArgKind> {
        [
            ArgKind::Value,
            ArgKind::Buffer,
            ArgKind::Local,
            ArgKind::Image,
            ArgKind::Sampler,
            ArgKind::Other,
            ArgKind::Pipe,
            ArgKind::Queue,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == number)
    }
}

/// Size in bytes of a value of one of OpenCL C's own types, by its name as `CL_KERNEL_ARG_TYPE_NAME` gives it
/// (OpenCL C 3.0, section 6.3). Three-component vectors take the room of four.
pub fn type_size(name: &str) -> Option<u32> {
    let digits = name.len() - name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    let (base, lanes) = name.split_at(name.len() - digits);
    let lanes = match lanes {
        "" => 1,
        "2" => 2,
        "3" | "4" => 4,
        "8" => 8,
        "16" => 16,
        _ => return None,
    };
    let size = match base {
        "char" | "uchar" | "unsigned char" | "signed char" => 1,
        "short" | "ushort" | "unsigned short" | "half" => 2,
        "int" | "uint" | "unsigned int" | "unsigned" | "float" => 4,
        "long" | "ulong" | "unsigned long" | "double" => 8,
        _ => return None,
    };
    Some(size * lanes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_builtin_types() {
        for (name, size) in [
            ("int", Some(4)),
            ("float3", Some(16)),
            ("uchar16", Some(16)),
            ("double8", Some(64)),
            ("unsigned int", Some(4)),
            ("half", Some(2)),
            ("struct s", None),
            ("float5", None),
            ("my_t", None),
            ("", None),
        ] {
            assert_eq!(type_size(name), size, "{name}");
        }
    }
}
