//! What each command does, once the guest is allowed to do it.
//!
//! Two kinds of wrong are kept apart. What a conforming guest driver never sends is a
//! [`Fault`](paragpu_protocol::fault::Fault), and fails the context. What an application may get wrong in ways
//! that only the host can tell is an OpenCL error, and goes where the command reports its outcome.

mod compile;
mod device_side;
mod devices;
mod image_transfers;
mod images;
mod info;
mod kernels;
mod launches;
mod objects;
mod placed;
mod print;
mod programs;
mod shared;
mod submit;
mod transfers;
mod turns;

use paragpu_protocol::fault::Fault;
use zerocopy::little_endian::{U32, U64};

use super::backend::Backend;
use super::objects::ContextObject;

fn reserved(field: U32) -> Result<(), Fault> {
    if field.get() == 0 { Ok(()) } else { Err(Fault::Reserved) }
}

/// The host computes with `usize`; what does not fit cannot be in any buffer.
fn size(number: U64) -> Result<usize, Fault> {
    usize::try_from(number.get()).map_err(|_wide| Fault::BadValue)
}

fn sizes(numbers: &[U64; 3]) -> Result<[usize; 3], Fault> {
    Ok([size(numbers[0])?, size(numbers[1])?, size(numbers[2])?])
}

fn require(fine: bool, otherwise: Fault) -> Result<(), Fault> {
    if fine { Ok(()) } else { Err(otherwise) }
}

/// Numbers (`u32` each) that are the data.
fn numbers(data: &[u8]) -> Result<Vec<u32>, Fault> {
    let (numbers, rest) = data.as_chunks();
    require(rest.is_empty(), Fault::BadValue)?;
    Ok(numbers.iter().map(|number| u32::from_le_bytes(*number)).collect())
}

fn same_context<B: Backend>(a: &ContextObject<B>, b: &ContextObject<B>) -> bool {
    a.common.serial == b.common.serial
}
