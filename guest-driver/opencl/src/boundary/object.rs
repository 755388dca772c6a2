//! Handles: what an application holds is the address of an [`Object`].

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use opencl_sys::cl_icd::cl_icd_dispatch;
use std::ffi::c_void;

use crate::boundary::pointer::Argument;
use crate::core::error::{ClError, ClResult};

/// A kind of object that an application can hold.
pub(crate) trait Kind: Send + Sync + Sized + 'static {
    /// Marks a live object of this kind, so that a handle of another kind is told apart.
    const TAG: u32;
    /// What a handle that is none is answered with (`CL_INVALID_CONTEXT`, …).
    const INVALID: ClError;

    /// Called once, when nothing refers to the object any more, before its parts are dropped. `handle` is only
    /// good for telling the application which object it was.
    fn last_words(&mut self, handle: RawHandle) {
        let _ = handle;
    }
}

/// The value of a handle, of whatever kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct RawHandle(pub(super) *mut c_void);

impl RawHandle {
    /// The handle that means "none".
    pub(crate) const NULL: RawHandle = RawHandle(std::ptr::null_mut());

    /// The handle as a number, for query answers.
    pub(crate) fn bits(self) -> usize {
        self.0 as usize
    }
}

/// An object that applications and other objects refer to. Other objects hold an `Arc`; the application's own
/// references are counted apart (`CL_…_REFERENCE_COUNT`) and hold one `Arc` together.
#[repr(C)]
pub(crate) struct Object<T: Kind> {
    // The loader reads this word of every handle to find the driver's entry points.
    dispatch: &'static cl_icd_dispatch,
    tag: u32,
    references: AtomicU32,
    body: T,
}

impl<T: Kind> Object<T> {
    /// An object that no application has seen yet. All objects are made here, so each lives in an `Arc`.
    pub(crate) fn new(body: T) -> Arc<Object<T>> {
        let dispatch = &crate::api::dispatch::DISPATCH;
        Arc::new(Object { dispatch, tag: T::TAG, references: AtomicU32::new(0), body })
    }

    /// The object's handle. Does not count as a reference.
    pub(crate) fn handle(&self) -> RawHandle {
        RawHandle((&raw const *self).cast_mut().cast())
    }

    /// `CL_…_REFERENCE_COUNT`.
    pub(crate) fn reference_count(&self) -> u32 {
        self.references.load(Ordering::Relaxed)
    }

    /// Another owner of the object.
    pub(crate) fn arc(&self) -> Arc<Object<T>> {
        let this = &raw const *self;
        // SAFETY: `new` is the only constructor, so `self` lies in an `Arc`, which lives at least as long as the
        // borrow; the count is raised first, so the new `Arc` owns its share.
        unsafe {
            Arc::increment_strong_count(this);
            Arc::from_raw(this)
        }
    }

    /// Counts one reference of the application.
    pub(crate) fn retain(&self) {
        if self.references.fetch_add(1, Ordering::Relaxed) == 0 {
            std::mem::forget(self.arc());
        }
    }

    /// Gives the application its first reference.
    pub(crate) fn hand_out(self: Arc<Self>) -> RawHandle {
        self.retain();
        self.handle()
    }

    /// Gives up one reference of the application. An application that releases more often than it retained, while
    /// something else keeps the object alive, gets the error instead of a crash.
    pub(crate) fn release(&self) -> ClResult<()> {
        let count = self
            .references
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| count.checked_sub(1))
            .or(Err(T::INVALID))?;
        if count == 1 {
            // SAFETY: `retain` left one strong count to the application when its count went from 0 to 1, and this
            // is where it goes back to 0.
            drop(unsafe { Arc::from_raw(&raw const *self) });
        }
        Ok(())
    }
}

impl<T: Kind> Deref for Object<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.body
    }
}

impl<T: Kind> std::fmt::Debug for Object<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let _ = self.dispatch;
        write!(f, "{}({:p})", std::any::type_name::<T>(), self)
    }
}

impl<T: Kind> Drop for Object<T> {
    fn drop(&mut self) {
        let handle = self.handle();
        self.body.last_words(handle);
        // SAFETY: a plain field of `self`. Volatile, so that the store is made although the memory is freed next: a
        // stale handle is then likely to be noticed.
        unsafe { (&raw mut self.tag).write_volatile(0) };
    }
}

/// A handle as an argument: NULL, or the address of a live object, as the application promises.
#[derive(Clone, Copy)]
pub(crate) struct Handle<T>(RawHandle, std::marker::PhantomData<T>);

impl<T> Argument<*mut c_void> for Handle<T> {
    unsafe fn from_c(raw: *mut c_void) -> Handle<T> {
        Handle(RawHandle(raw), std::marker::PhantomData)
    }
}

impl<T> Handle<T> {
    /// True if the handle is NULL.
    pub(crate) fn is_null(&self) -> bool {
        self.0 == RawHandle::NULL
    }

    /// The handle, looked at as one of another kind: a `cl_mem` may be of several.
    pub(crate) fn as_kind<U: Kind>(&self) -> Handle<U> {
        Handle(self.0, std::marker::PhantomData)
    }
}

impl<T: Kind> Handle<T> {
    /// The object, which the application keeps alive during the call; [`Kind::INVALID`] if the handle is none.
    pub(crate) fn get(&self) -> ClResult<&Object<T>> {
        // SAFETY: `from_c` was promised a handle that is NULL or live.
        unsafe { object(self.0) }
    }
}

/// The object behind a handle.
///
/// # Safety
/// The handle is NULL or the address of an object of some kind that lives for `'a`.
pub(super) unsafe fn object<'a, T: Kind>(handle: RawHandle) -> ClResult<&'a Object<T>> {
    let address = handle.0.cast::<Object<T>>();
    if address.is_null() || !address.is_aligned() {
        return Err(T::INVALID);
    }
    // SAFETY: not NULL, so an object of some kind; dispatch and tag lie at the same place in all of them.
    let tag = unsafe { (&raw const (*address).tag).read() };
    if tag != T::TAG {
        return Err(T::INVALID);
    }
    // SAFETY: live, and of this kind as its tag says.
    Ok(unsafe { &*address })
}
