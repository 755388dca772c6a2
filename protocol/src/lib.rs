//! What a paragpu guest and its host say to each other, defined once for both sides.
//!
//! Three layers, from the outside in:
//!
//! 1. [`virtio_gpu`]: the control queue speaks virtio-gpu's own commands (virtio 1.2, section 5.7), so that
//!    a mainline guest kernel drives the device as it is. [`capset`] is how a guest learns that the device
//!    behind it is a paragpu, and which version.
//! 2. [`control`]: the few things that go through `VIRTIO_GPU_CMD_SUBMIT_3D`: start a ring, ring the
//!    doorbell, sleep until something happened.
//! 3. [`ring`] and [`command`]: everything else. OpenCL commands travel as [frames](frame) through a ring in
//!    guest pages that both sides map; what a command carries or returns lies in shared pages too, named by a
//!    [`Span`](types::Span); its completion is a [slot](slot) that the guest can poll.
//!
//! The crate allocates nothing, needs no operating system and has no `unsafe`: bytes become structs through
//! the checked casts of `zerocopy`. `docs/protocol.md` states the same in prose.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod capset;
pub mod command;
pub mod control;
pub mod device;
pub mod fault;
pub mod frame;
pub mod image;
pub mod info;
pub mod kernel;
pub mod limits;
pub mod ring;
pub mod slot;
pub mod spirv;
pub mod svm;
pub mod types;
pub mod virtio_gpu;

/// Protocol version, major part: a guest and a host with different ones do not talk.
pub const VERSION_MAJOR: u16 = 1;
/// Protocol version, minor part: a host understands every guest of its own or a lower one.
pub const VERSION_MINOR: u16 = 0;
