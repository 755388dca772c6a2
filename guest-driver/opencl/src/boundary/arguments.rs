//! Groups of arguments that many entry points end with.

use std::ffi::c_void;
use std::sync::Arc;

use crate::boundary::object::{Handle, Kind, Object, RawHandle};
use crate::boundary::pointer::{Argument, In, Out};
use crate::core::context::Context;
use crate::core::error::{ClError, ClResult, refuse_if};
use crate::core::event::Event;
use crate::core::info::Info;

/// Where a query's answer goes: `param_value_size`, `param_value`, `param_value_size_ret`.
pub(crate) struct Answer {
    size: usize,
    value: Out<u8>,
    size_ret: Out<usize>,
}

impl Answer {
    /// Wraps the three arguments.
    ///
    /// # Safety
    /// As [`Argument::from_c`]: `value` is NULL or has room for `size` bytes, `size_ret` is NULL or valid.
    pub(crate) unsafe fn new(size: usize, value: *mut c_void, size_ret: *mut usize) -> Answer {
        // SAFETY: as demanded of the caller.
        unsafe { Answer { size, value: Out::from_c(value.cast()), size_ret: Out::from_c(size_ret) } }
    }

    /// Answers a query.
    pub(crate) fn give(self, info: &Info) -> ClResult<()> {
        if !self.value.is_null() {
            // CL_INVALID_VALUE if size in bytes specified by param_value_size is < size of return type and
            // param_value is not NULL.
            refuse_if(self.size < info.size(), ClError::INVALID_VALUE)?;
            self.value.fill(info.bytes());
            self.value.fill_pointed(info.behind_pointers());
        }
        self.size_ret.set(info.size());
        Ok(())
    }
}

/// The end of every enqueue function: `num_events_in_wait_list`, `event_wait_list`, `event`.
pub(crate) struct EventArgs {
    count: u32,
    list: In<*mut c_void>,
    event: Out<*mut c_void>,
}

impl EventArgs {
    /// Wraps the three arguments.
    ///
    /// # Safety
    /// As [`Argument::from_c`]: `list` is NULL or has `count` handles, `event` is NULL or valid.
    pub(crate) unsafe fn new(count: u32, list: *const *mut c_void, event: *mut *mut c_void) -> EventArgs {
        // SAFETY: as demanded of the caller.
        unsafe { EventArgs { count, list: In::from_c(list), event: Out::from_c(event) } }
    }

    /// For the entry points that have none of the three.
    pub(crate) fn none() -> EventArgs {
        let (list, event) = (std::ptr::null::<*mut c_void>(), std::ptr::null_mut::<*mut c_void>());
        // SAFETY: NULL is always allowed.
        unsafe { EventArgs::new(0, list, event) }
    }

    /// For the entry points that have an event only.
    pub(crate) fn event_only(event: Out<*mut c_void>) -> EventArgs {
        EventArgs { event, ..EventArgs::none() }
    }

    /// For the entry points that have a wait list only.
    pub(crate) fn wait_only(count: u32, list: In<*mut c_void>) -> EventArgs {
        EventArgs { count, list, ..EventArgs::none() }
    }

    /// The wait list.
    pub(crate) fn wait_list(&self, context: &Object<Context>) -> ClResult<Vec<Arc<Object<Event>>>> {
        // CL_INVALID_EVENT_WAIT_LIST if event_wait_list is NULL and num_events_in_wait_list > 0, or event_wait_list
        // is not NULL and num_events_in_wait_list is 0, or if event objects in event_wait_list are not valid events.
        refuse_if(self.list.is_null() != (self.count == 0), ClError::INVALID_EVENT_WAIT_LIST)?;
        let Some(events) = self.list.objects::<Event>(self.count as usize) else {
            return Ok(Vec::new());
        };
        let events = events.or(Err(ClError::INVALID_EVENT_WAIT_LIST))?;
        // CL_INVALID_CONTEXT if the context associated with command_queue and events in event_wait_list are not the
        // same.
        let stranger = events.iter().any(|event| event.context().handle() != context.handle());
        refuse_if(stranger, ClError::INVALID_CONTEXT)?;
        Ok(events)
    }

    /// True if the application wants an event.
    pub(crate) fn wants_event(&self) -> bool {
        !self.event.is_null()
    }

    /// Gives the application its event.
    pub(crate) fn give(&self, event: Option<Arc<Object<Event>>>) {
        if let Some(event) = event {
            self.event.fill_handles(&[event.hand_out()]);
        }
    }
}

/// A list of handles with its length, where the specification demands that it is not empty.
pub(crate) fn non_empty<T: Kind>(count: u32, list: In<*mut c_void>) -> ClResult<Vec<Arc<Object<T>>>> {
    refuse_if(count == 0, ClError::INVALID_VALUE)?;
    list.objects(count as usize).ok_or(ClError::INVALID_VALUE)?
}

/// Writes up to `capacity` handles and how many there are: `num_entries`, an array, and a count.
pub(crate) fn give_list(
    handles: &[RawHandle],
    capacity: u32,
    list: Out<*mut c_void>,
    count: Out<u32>,
) -> ClResult<()> {
    // CL_INVALID_VALUE if num_entries is equal to zero and the array is not NULL, or if both the count and the array
    // are NULL.
    refuse_if(capacity == 0 && !list.is_null(), ClError::INVALID_VALUE)?;
    refuse_if(list.is_null() && count.is_null(), ClError::INVALID_VALUE)?;
    list.fill_handles(&handles[..handles.len().min(capacity as usize)]);
    count.set(handles.len() as u32);
    Ok(())
}

/// The optional handle of an argument that may be NULL.
pub(crate) fn optional<T: Kind>(handle: &Handle<T>) -> ClResult<Option<&Object<T>>> {
    if handle.is_null() { Ok(None) } else { handle.get().map(Some) }
}
