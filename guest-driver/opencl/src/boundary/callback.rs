//! Functions of the application that this driver calls.

use std::ffi::{c_char, c_void};

use zerocopy::IntoBytes;

use crate::boundary::object::RawHandle;
use crate::boundary::pointer::AppMemory;

/// A context's error callback.
pub(crate) type NotifyFn = unsafe extern "C" fn(*const c_char, *const c_void, usize, *mut c_void);
/// A callback with an object: builds, destructors.
pub(crate) type HandleFn = unsafe extern "C" fn(*mut c_void, *mut c_void);
/// An event callback.
pub(crate) type EventFn = unsafe extern "C" fn(*mut c_void, i32, *mut c_void);

/// A native kernel.
pub(crate) type NativeFn = unsafe extern "C" fn(*mut c_void);
/// What frees shared virtual memory.
pub(crate) type SvmFreeFn = unsafe extern "C" fn(*mut c_void, u32, *mut *mut c_void, *mut c_void);

/// A native kernel with its arguments: the application's bytes, in which addresses take the place of handles.
#[derive(Debug)]
pub(crate) struct NativeCall {
    function: NativeFn,
    /// 16 bytes each, as C aligns what holds anything.
    block: Vec<u128>,
    len: usize,
}

impl NativeCall {
    /// A call of the function with a copy of `args`.
    pub(crate) fn new(function: NativeFn, args: &[u8]) -> NativeCall {
        let mut block = vec![0; args.len().div_ceil(size_of::<u128>())];
        block.as_mut_bytes()[..args.len()].copy_from_slice(args);
        NativeCall { function, block, len: args.len() }
    }

    /// Puts an address where a handle was; false if that is not in the arguments.
    #[must_use]
    pub(crate) fn put(&mut self, offset: usize, memory: AppMemory) -> bool {
        let end = offset.checked_add(size_of::<usize>()).filter(|end| *end <= self.len);
        let place = end.and_then(|end| self.block.as_mut_bytes().get_mut(offset..end));
        place.map(|place| place.copy_from_slice(&memory.address().to_ne_bytes())).is_some()
    }

    /// Calls it. No lock may be held: it may call OpenCL. The memory that was put in must still be there.
    pub(crate) fn call(mut self) {
        let args = if self.len == 0 { std::ptr::null_mut() } else { self.block.as_mut_ptr().cast() };
        // SAFETY: the application passed this function for this purpose, with arguments of this size.
        unsafe { (self.function)(args) }
    }
}

/// The application's own argument of a callback: passed on, never looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UserData(pub(super) *mut c_void);

impl UserData {
    /// True if it is NULL.
    pub(crate) fn is_null(&self) -> bool {
        self.0.is_null()
    }
}

/// A function and its argument.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Callback<F> {
    function: F,
    user_data: UserData,
}

// SAFETY: OpenCL callbacks are called asynchronously, from whatever thread: "it is the application's responsibility to
// ensure that the callback function is thread-safe".
unsafe impl<F> Send for Callback<F> {}
// SAFETY: as above.
unsafe impl<F> Sync for Callback<F> {}

impl<F> Callback<F> {
    /// A callback, unless there is no function.
    pub(crate) fn new(function: Option<F>, user_data: UserData) -> Option<Callback<F>> {
        function.map(|function| Callback { function, user_data })
    }
}

impl Callback<HandleFn> {
    /// Calls it. No lock may be held: it may call OpenCL.
    pub(crate) fn call(&self, object: RawHandle) {
        // SAFETY: the application passed this function for this purpose, with this argument.
        unsafe { (self.function)(object.0, self.user_data.0) }
    }
}

impl Callback<EventFn> {
    /// Calls it. No lock may be held: it may call OpenCL.
    pub(crate) fn call(&self, event: RawHandle, status: i32) {
        // SAFETY: the application passed this function for this purpose, with this argument.
        unsafe { (self.function)(event.0, status, self.user_data.0) }
    }
}

impl Callback<SvmFreeFn> {
    /// Lets the application free shared memory. No lock may be held: it calls OpenCL.
    pub(crate) fn call(&self, queue: RawHandle, pointers: &[AppMemory]) {
        let mut raw: Vec<*mut c_void> = pointers.iter().map(AppMemory::as_pointer).collect();
        // SAFETY: the application passed this function for this purpose, with this argument; the array has as many
        // pointers as it is told, and lives during the call.
        unsafe { (self.function)(queue.0, raw.len() as u32, raw.as_mut_ptr(), self.user_data.0) }
    }
}

impl Callback<NotifyFn> {
    /// Tells the application of an error in a context.
    pub(crate) fn call(&self, message: &std::ffi::CStr) {
        // SAFETY: the application passed this function for this purpose, with this argument; private_info may be
        // NULL with a size of 0.
        unsafe { (self.function)(message.as_ptr(), std::ptr::null(), 0, self.user_data.0) }
    }
}
