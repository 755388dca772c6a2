//! Pointers of the application, wrapped by what the specification says is done with them.

use std::ffi::{CStr, c_char, c_void};
use std::sync::Arc;

use opencl_sys::{cl_buffer_region, cl_image_desc};

use crate::boundary::callback::{EventFn, HandleFn, NativeFn, NotifyFn, SvmFreeFn, UserData};
use crate::boundary::object::{self, Handle, Kind, Object, RawHandle};
use crate::core::error::ClResult;
use crate::core::memory::MemoryObject;

/// What an entry point's argument becomes.
pub(crate) trait Argument<C> {
    /// Wraps the raw argument.
    ///
    /// # Safety
    /// The argument keeps what the OpenCL specification demands of it: a pointer is NULL, or valid during the call
    /// (for non-blocking transfers: until the command is complete) for the elements that the specification says
    /// are read or written through it; a handle is NULL or a live object.
    unsafe fn from_c(raw: C) -> Self;
}

macro_rules! plain_arguments {
    ($($type:ty),*) => {
        $(impl Argument<$type> for $type {
            unsafe fn from_c(raw: $type) -> $type {
                raw
            }
        })*
    };
}

plain_arguments!(
    i32,
    u32,
    u64,
    usize,
    Option<NotifyFn>,
    Option<HandleFn>,
    Option<EventFn>,
    Option<NativeFn>,
    Option<SvmFreeFn>
);

impl Argument<*mut c_void> for UserData {
    unsafe fn from_c(raw: *mut c_void) -> UserData {
        UserData(raw)
    }
}

/// Elements that are read during the call.
#[derive(Clone, Copy)]
pub(crate) struct In<T>(*const T);

impl<T> Argument<*const T> for In<T> {
    unsafe fn from_c(raw: *const T) -> In<T> {
        In(raw)
    }
}

impl<T> Argument<*mut T> for In<T> {
    unsafe fn from_c(raw: *mut T) -> In<T> {
        In(raw)
    }
}

impl Argument<*const c_void> for In<cl_buffer_region> {
    unsafe fn from_c(raw: *const c_void) -> In<cl_buffer_region> {
        In(raw.cast())
    }
}

impl<T: Copy> In<T> {
    /// No elements, for an argument that an entry point does not have.
    pub(crate) fn none() -> In<T> {
        In(std::ptr::null())
    }

    /// True if the pointer is NULL.
    pub(crate) fn is_null(&self) -> bool {
        self.0.is_null()
    }

    /// The first element; nothing for NULL.
    pub(crate) fn value(&self) -> Option<T> {
        // SAFETY: `from_c` was promised that what is not NULL points to what is read through it. The application's
        // idea of alignment may be C's cast of a byte pointer, hence unaligned.
        (!self.is_null()).then(|| unsafe { self.0.read_unaligned() })
    }

    /// The first `count` elements; nothing for NULL.
    pub(crate) fn values(&self, count: usize) -> Option<Vec<T>> {
        // SAFETY: as for `value`; `count` is the length that the application passed for this array.
        (!self.is_null())
            .then(|| (0..count).map(|index| unsafe { self.0.add(index).read_unaligned() }).collect())
    }

    /// The first `count` elements, at most N, and `rest` in place of the others; nothing for NULL.
    pub(crate) fn array<const N: usize>(&self, count: usize, rest: T) -> Option<[T; N]> {
        // SAFETY: as for `values`.
        let at = |index| if index < count { unsafe { self.0.add(index).read_unaligned() } } else { rest };
        (!self.is_null()).then(|| std::array::from_fn(at))
    }
}

impl<T: Copy + PartialEq + Default> In<T> {
    /// The elements before the first 0; nothing for NULL.
    pub(crate) fn terminated(&self) -> Option<Vec<T>> {
        if self.is_null() {
            return None;
        }
        let mut list = Vec::new();
        loop {
            // SAFETY: as for `value`; the list ends with 0, and all before it belongs to it.
            let value = unsafe { self.0.add(list.len()).read_unaligned() };
            if value == T::default() {
                return Some(list);
            }
            list.push(value);
        }
    }

    /// Names and values, up to the name 0; nothing for NULL. A value may be 0.
    pub(crate) fn properties(&self) -> Option<Vec<T>> {
        if self.is_null() {
            return None;
        }
        let mut list = Vec::new();
        loop {
            // SAFETY: as for `value`; the list ends with the name 0, and all before it belongs to it.
            let value = unsafe { self.0.add(list.len()).read_unaligned() };
            if list.len().is_multiple_of(2) && value == T::default() {
                return Some(list);
            }
            list.push(value);
        }
    }
}

/// An object, or nothing where NULL is allowed.
type MaybeObject<T> = Option<Arc<Object<T>>>;

impl In<*mut c_void> {
    /// `count` handles; `None` if the array is NULL.
    pub(crate) fn handles<T>(&self, count: usize) -> Option<Vec<Handle<T>>> {
        let handles = self.values(count)?;
        // SAFETY: `from_c` was promised an array of handles that are NULL or live.
        Some(handles.into_iter().map(|raw| unsafe { Handle::from_c(raw) }).collect())
    }

    /// The objects behind `count` handles. `None` if the array is NULL; the kind's error if a handle is none.
    pub(crate) fn objects<T: Kind>(&self, count: usize) -> Option<ClResult<Vec<Arc<Object<T>>>>> {
        Some(self.handles(count)?.iter().map(|handle| handle.get().map(Object::arc)).collect())
    }

    /// The same where NULL may stand among the handles.
    pub(crate) fn optional_objects<T: Kind>(&self, count: usize) -> Option<ClResult<Vec<MaybeObject<T>>>> {
        let optional = |handle: &Handle<T>| {
            if handle.is_null() { Ok(None) } else { handle.get().map(|object| Some(object.arc())) }
        };
        Some(self.handles(count)?.iter().map(optional).collect())
    }

    /// `count` pointers to memory; nothing for NULL.
    pub(crate) fn memories(&self, count: usize) -> Option<Vec<AppMemory>> {
        Some(self.values(count)?.into_iter().map(|pointer| AppMemory(pointer.cast())).collect())
    }
}

impl In<*const c_void> {
    /// `count` pointers to memory; nothing for NULL.
    pub(crate) fn memories(&self, count: usize) -> Option<Vec<AppMemory>> {
        Some(self.values(count)?.into_iter().map(|pointer| AppMemory(pointer.cast_mut().cast())).collect())
    }
}

/// `cl_image_desc`.
pub(crate) struct ImageDesc {
    pub(crate) kind: u32,
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) depth: usize,
    pub(crate) array_size: usize,
    pub(crate) row_pitch: usize,
    pub(crate) slice_pitch: usize,
    pub(crate) num_mip_levels: u32,
    pub(crate) num_samples: u32,
    /// `mem_object`.
    pub(crate) memory: Handle<MemoryObject>,
}

impl ImageDesc {
    /// An image of this type, without sizes.
    pub(crate) fn of_type(kind: u32) -> ImageDesc {
        // SAFETY: NULL is always allowed.
        let memory = unsafe { Handle::from_c(std::ptr::null_mut::<c_void>()) };
        ImageDesc {
            kind,
            width: 0,
            height: 0,
            depth: 0,
            array_size: 0,
            row_pitch: 0,
            slice_pitch: 0,
            num_mip_levels: 0,
            num_samples: 0,
            memory,
        }
    }
}

impl In<cl_image_desc> {
    /// The description; nothing for NULL.
    pub(crate) fn image_desc(&self) -> Option<ImageDesc> {
        let desc = self.value()?;
        Some(ImageDesc {
            kind: desc.image_type,
            width: desc.image_width,
            height: desc.image_height,
            depth: desc.image_depth,
            array_size: desc.image_array_size,
            row_pitch: desc.image_row_pitch,
            slice_pitch: desc.image_slice_pitch,
            num_mip_levels: desc.num_mip_levels,
            num_samples: desc.num_samples,
            // SAFETY: `from_c` was promised a description whose memory object is NULL or live.
            memory: unsafe { Handle::from_c(desc.buffer) },
        })
    }
}

impl In<*const c_char> {
    /// `count` strings, each as long as `lengths` says, or up to its NUL if that is 0 or absent. `None` if the
    /// array or a string is NULL.
    pub(crate) fn strings(&self, count: usize, lengths: In<usize>) -> Option<Vec<Vec<u8>>> {
        let pointers = self.values(count)?;
        let lengths = lengths.values(count).unwrap_or_else(|| vec![0; count]);
        pointers.into_iter().zip(lengths).map(|(string, len)| Bytes(string.cast()).string(len)).collect()
    }
}

impl In<*const u8> {
    /// `count` arrays as long as `lengths` says; `None` for one that is NULL or empty.
    pub(crate) fn arrays(&self, count: usize, lengths: In<usize>) -> Option<Vec<Option<Vec<u8>>>> {
        let arrays = self.values(count)?.into_iter().zip(lengths.values(count)?);
        Some(arrays.map(|(array, len)| In(array).values(len).filter(|array| !array.is_empty())).collect())
    }
}

/// Bytes that are read during the call.
#[derive(Clone, Copy)]
pub(crate) struct Bytes(*const u8);

impl Argument<*const c_void> for Bytes {
    unsafe fn from_c(raw: *const c_void) -> Bytes {
        Bytes(raw.cast())
    }
}

impl Argument<*mut c_void> for Bytes {
    unsafe fn from_c(raw: *mut c_void) -> Bytes {
        Bytes(raw.cast_const().cast())
    }
}

impl Argument<*const c_char> for Bytes {
    unsafe fn from_c(raw: *const c_char) -> Bytes {
        Bytes(raw.cast())
    }
}

impl Bytes {
    /// True if the pointer is NULL.
    pub(crate) fn is_null(&self) -> bool {
        self.0.is_null()
    }

    /// The address as a number.
    pub(crate) fn address(&self) -> usize {
        self.0 as usize
    }

    /// The first `len` bytes; nothing for NULL.
    pub(crate) fn get(&self, len: usize) -> Option<&[u8]> {
        // SAFETY: `from_c` was promised that these bytes are readable during the call; `len` is the length that the
        // application passed along.
        (!self.is_null()).then(|| unsafe { std::slice::from_raw_parts(self.0, len) })
    }

    /// A string of `len` bytes, or up to its NUL if `len` is 0; nothing for NULL.
    pub(crate) fn string(&self, len: usize) -> Option<Vec<u8>> {
        if self.is_null() {
            return None;
        }
        if len > 0 {
            return self.get(len).map(<[u8]>::to_vec);
        }
        // SAFETY: without a length the string ends with a NUL, as `from_c` was promised.
        Some(unsafe { CStr::from_ptr(self.0.cast()) }.to_bytes().to_vec())
    }

    /// The value as a handle: a kernel argument that is an object. NULL, or a pointer to NULL, is no object.
    pub(crate) fn as_object<T: Kind>(&self) -> ClResult<Option<Arc<Object<T>>>> {
        let handle = In(self.0.cast::<*mut c_void>());
        match handle.value() {
            None => Ok(None),
            Some(raw) if raw.is_null() => Ok(None),
            // SAFETY: `from_c` was promised that an argument that is an object is given by a live handle.
            Some(raw) => unsafe { object::object::<T>(RawHandle(raw)) }.map(|object| Some(object.arc())),
        }
    }
}

/// Where one or more elements are written, unless NULL.
#[derive(Clone, Copy)]
pub(crate) struct Out<T>(*mut T);

impl<T> Argument<*mut T> for Out<T> {
    unsafe fn from_c(raw: *mut T) -> Out<T> {
        Out(raw)
    }
}

impl<T: Copy> Out<T> {
    /// True if the pointer is NULL.
    pub(crate) fn is_null(&self) -> bool {
        self.0.is_null()
    }

    /// Writes the value, if the application wants it.
    pub(crate) fn set(&self, value: T) {
        self.fill(&[value]);
    }

    /// Writes the values, of which there are not more than the application has room for.
    pub(crate) fn fill(&self, values: &[T]) {
        if !self.is_null() {
            for (index, value) in values.iter().enumerate() {
                // SAFETY: `from_c` was promised room for what the specification says is written.
                unsafe { self.0.add(index).write_unaligned(*value) }
            }
        }
    }
}

impl Out<u8> {
    /// Writes to where the pointers at this place point, unless they are NULL: one for each of `contents`.
    pub(crate) fn fill_pointed(&self, contents: &[Vec<u8>]) {
        for (index, content) in contents.iter().enumerate() {
            // SAFETY: `from_c` was promised as many pointers as the specification says are read.
            let pointer = unsafe { self.0.cast::<*mut u8>().add(index).read_unaligned() };
            // Each of which is NULL, or has room for what the application was told.
            Out(pointer).fill(content);
        }
    }
}

impl Out<*mut c_void> {
    /// Writes handles, of which there are not more than the application has room for.
    pub(crate) fn fill_handles(&self, handles: &[RawHandle]) {
        let raw: Vec<_> = handles.iter().map(|handle| handle.0).collect();
        self.fill(&raw);
    }
}

/// Memory of the application that commands read or write: until they are complete, not only during the call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AppMemory(*mut u8);

// SAFETY: an address. That its bytes may be accessed from whatever thread completes the command is what an
// application agrees to when it enqueues a non-blocking command.
unsafe impl Send for AppMemory {}
// SAFETY: as above.
unsafe impl Sync for AppMemory {}

impl Argument<*mut c_void> for AppMemory {
    unsafe fn from_c(raw: *mut c_void) -> AppMemory {
        AppMemory(raw.cast())
    }
}

impl Argument<*const c_void> for AppMemory {
    unsafe fn from_c(raw: *const c_void) -> AppMemory {
        AppMemory(raw.cast_mut().cast())
    }
}

impl AppMemory {
    /// The memory at this address of staging memory, which stays mapped while the mapping that it is for exists.
    pub(crate) fn at(address: *mut u8) -> AppMemory {
        AppMemory(address)
    }

    /// The memory at this address of shared memory, which stays mapped while the buffer or allocation that it is for exists.
    pub(crate) fn at_address(address: usize) -> AppMemory {
        AppMemory(std::ptr::with_exposed_provenance_mut(address))
    }

    /// True if the pointer is NULL.
    pub(crate) fn is_null(&self) -> bool {
        self.0.is_null()
    }

    /// The address as a number.
    pub(crate) fn address(&self) -> usize {
        self.0 as usize
    }

    /// The memory that starts `bytes` further on.
    pub(crate) fn offset(&self, bytes: usize) -> AppMemory {
        AppMemory(self.0.wrapping_add(bytes))
    }

    /// The pointer for the application.
    pub(crate) fn as_pointer(&self) -> *mut c_void {
        self.0.cast()
    }

    /// Copies `len` bytes to another place, which may overlap this one.
    pub(crate) fn copy_to(&self, to: AppMemory, len: usize) {
        // SAFETY: both are valid for `len` bytes: as for `bytes` and `bytes_mut`, or as parts of shared memory that is mapped.
        unsafe { std::ptr::copy(self.0, to.0, len) }
    }

    /// Fills `len` bytes, a multiple of the pattern's length, with the pattern.
    pub(crate) fn fill(&self, len: usize, pattern: &[u8]) {
        for at in (0..len).step_by(pattern.len().max(1)) {
            // SAFETY: valid for `len` bytes as for `copy_to`, of which `at` leaves a pattern's length; the pattern is ours.
            unsafe {
                std::ptr::copy_nonoverlapping(pattern.as_ptr(), self.0.add(at), pattern.len().min(len - at))
            }
        }
    }

    /// `len` bytes to be read from.
    pub(crate) fn bytes(&self, len: usize) -> &[u8] {
        // SAFETY: `from_c` was promised memory that is valid for the bytes that the command reads, until it is
        // complete; what is read is within what the application named, and not NULL (checked by the entry points).
        unsafe { std::slice::from_raw_parts(self.0, len) }
    }

    /// `len` bytes to be written to.
    #[expect(clippy::mut_from_ref, reason = "the memory is the application's, not ours")]
    pub(crate) fn bytes_mut(&self, len: usize) -> &mut [u8] {
        // SAFETY: as for `bytes`, for writing; an application that lets two commands write to the same bytes at once
        // breaks its own promise.
        unsafe { std::slice::from_raw_parts_mut(self.0, len) }
    }
}
