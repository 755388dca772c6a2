//! The C boundary: what an application passes in becomes typed Rust here, and nowhere else.
//!
//! OpenCL's contract is that the application passes pointers that are NULL or valid for what the entry point's
//! specification says is read or written, and handles that are NULL or live objects. The generated entry points
//! (`api::entries`) accept that contract once, when they wrap each raw argument; the wrappers turn it into checked
//! slices and references, so that `api` and `core` need no `unsafe`.

pub(crate) mod arguments;
pub(crate) mod callback;
pub(crate) mod dispatch_config;
pub(crate) mod entry;
pub(crate) mod object;
pub(crate) mod pointer;
