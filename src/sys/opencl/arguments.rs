//! Which arguments of a kernel a guest may set, and to what.
//!
//! What counts is what the driver will do with them: bytes of a guest's must never reach a driver that takes them for a
//! handle or a pointer. So what the compiler says (or what was read from a SPIR-V module) is held against what the driver
//! does with harmless values; whatever does not agree cannot be set.

use std::ffi::c_void;
use std::ptr;

use paragpu_protocol::kernel::ArgKind;

use super::cl;
use super::handle::RawKernel;
use super::query::{kernel_arg, kernel_arg_count};
use crate::sys::compute::{Arg, ClError};

/// The arguments of a kernel. `declared` is what is known of them from elsewhere; without it, the driver must say, or the
/// error is [`ClError::ARG_INFO_NOT_AVAILABLE`].
pub(super) fn kernel_args(kernel: &RawKernel, declared: Option<&[Arg]>) -> Result<Vec<Arg>, ClError> {
    let count = kernel_arg_count(kernel)?;
    if declared.is_some_and(|declared| declared.len() != count as usize) {
        log::warn!("a kernel has {count} arguments, and not as many as it was declared to have");
        return Err(ClError::OUT_OF_RESOURCES);
    }
    let args = (0..count).map(|index| {
        let said = kernel_arg(kernel, index);
        let declared = declared.and_then(|declared| declared.get(index as usize));
        let arg = match (said, declared) {
            (Ok(said), None) => said,
            (Ok(said), Some(declared)) => agreed(said, *declared),
            (Err(ClError::ARG_INFO_NOT_AVAILABLE), Some(declared)) => *declared,
            (Err(error @ ClError::ARG_INFO_NOT_AVAILABLE), None) => return Err(error),
            (Err(error), _) => {
                log::warn!("a kernel's argument is not known: {error}");
                return Err(ClError::OUT_OF_RESOURCES);
            }
        };
        let is_plain = arg.kind != ArgKind::Value || takes_plain_bytes(kernel, index);
        Ok(if is_plain { arg } else { OTHER })
    });
    args.collect()
}

const OTHER: Arg = Arg { kind: ArgKind::Other, size: 0, access: 0 };

fn agreed(said: Arg, declared: Arg) -> Arg {
    match (said.kind == declared.kind, said.size, declared.size) {
        (false, ..) => OTHER,
        // A structure may be called like a number.
        (true, a, b) if a != b => Arg { size: 0, ..declared },
        _ => declared,
    }
}

/// True unless the driver takes the argument for a handle: a sampler under another name, for example, is a value of
/// unknown type to whoever asks for its type.
///
/// No probe has bytes in it that mean anything. They leave the argument set; a launch is refused all the same until the
/// guest has set it.
fn takes_plain_bytes(kernel: &RawKernel, index: u32) -> bool {
    let null = 0_u64;
    let set = |len: usize, value: *const c_void| {
        // SAFETY: a live kernel that nobody else has seen yet; `value` is null or has `len` bytes, of which a null handle
        // can be read.
        unsafe { cl!(clSetKernelArg(kernel.raw(), index, len, value)) }
    };
    let handle = ptr::from_ref(&null).cast();
    // Half of what a handle is: good for no handle. Drivers that do not know the size of a value take any.
    if set(size_of::<u32>(), handle) == Ok(0) {
        return true;
    }
    match set(size_of::<u64>(), handle) {
        // A value of this size, or a memory object, which alone may also be no value at all. Asked last: Intel's driver
        // for processors ends the process when a queue is set to that.
        Ok(0) => set(size_of::<u64>(), ptr::null()) != Ok(0),
        // A value of another size is no handle. Other errors: there is no such sampler, pipe or queue.
        answer => answer == Ok(ClError::INVALID_ARG_SIZE.code()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_say_of_an_argument_must_agree() {
        let arg = |kind, size| Arg { kind, size, access: 0 };
        let value = |size| arg(ArgKind::Value, size);
        assert_eq!(agreed(value(4), value(4)), value(4));
        assert_eq!(agreed(value(4), value(0)), value(0));
        assert_eq!(agreed(value(8), arg(ArgKind::Sampler, 0)), OTHER);
        assert_eq!(agreed(arg(ArgKind::Sampler, 0), value(8)), OTHER);
        assert_eq!(agreed(arg(ArgKind::Buffer, 0), arg(ArgKind::Image, 0)), OTHER);
        assert_eq!(agreed(arg(ArgKind::Local, 0), arg(ArgKind::Local, 0)), arg(ArgKind::Local, 0));
    }
}
