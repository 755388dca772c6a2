//! Groups of arguments that many entry points end with.

use std::ffi::c_void;
use std::sync::Arc;

use crate::boundary::object::{Handle, Kind, Object, RawHandle};
use crate::boundary::pointer::{Argument, In, Out};
use crate::core::command_buffer::{CommandBuffer, Post};
use crate::core::context::Context;
use crate::core::error::{ClError, ClResult, refuse_if};
use crate::core::event::Event;
use crate::core::info::Info;
use crate::core::mutable_command::MutableCommand;
use crate::core::queue::Queue;

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

/// What every function that records a command into a command buffer has: `command_buffer`, `command_queue`, `properties`;
/// `num_sync_points_in_wait_list`, `sync_point_wait_list`, `sync_point`; `mutable_handle`.
pub(crate) struct RecordArgs {
    command_buffer: Handle<CommandBuffer>,
    queue: Handle<Queue>,
    properties: In<u64>,
    count: u32,
    list: In<u32>,
    point: Out<u32>,
    handle: Out<*mut c_void>,
}

impl RecordArgs {
    /// Wraps the seven arguments.
    ///
    /// # Safety
    /// As [`Argument::from_c`]: `list` is NULL or has `count` sync points, the others are NULL or valid.
    pub(crate) unsafe fn new(
        (command_buffer, queue, properties): (*mut c_void, *mut c_void, *const u64),
        (count, list, point): (u32, *const u32, *mut u32),
        handle: *mut *mut c_void,
    ) -> RecordArgs {
        // SAFETY: as demanded of the caller.
        unsafe {
            RecordArgs {
                command_buffer: Handle::from_c(command_buffer),
                queue: Handle::from_c(queue),
                properties: In::from_c(properties),
                count,
                list: In::from_c(list),
                point: Out::from_c(point),
                handle: Out::from_c(handle),
            }
        }
    }

    /// Checks what all these functions check. Only kernels have properties, and handles.
    pub(crate) fn begin(&self) -> ClResult<Recording<'_>> {
        let recording = self.begin_any()?;
        self.check_plain()?;
        Ok(recording)
    }

    /// The properties, without the 0 at their end; nothing for NULL.
    pub(crate) fn properties(&self) -> Option<Vec<u64>> {
        self.properties.properties()
    }

    /// Checks that neither properties nor a handle are asked for.
    pub(crate) fn check_plain(&self) -> ClResult<()> {
        // CL_INVALID_VALUE if values specified in properties are not valid: there are none.
        refuse_if(self.properties.value().is_some_and(|name| name != 0), ClError::INVALID_VALUE)?;
        // CL_INVALID_VALUE if mutable_handle is not NULL.
        refuse_if(!self.handle.is_null(), ClError::INVALID_VALUE)
    }

    /// Checks what all these functions check, whether they have properties and handles or not.
    pub(crate) fn begin_any(&self) -> ClResult<Recording<'_>> {
        let buffer = self.command_buffer.get()?;
        // CL_INVALID_COMMAND_QUEUE if command_queue is not NULL (without cl_khr_command_buffer_multi_device).
        refuse_if(!self.queue.is_null(), ClError::INVALID_COMMAND_QUEUE)?;
        // CL_INVALID_OPERATION if command_buffer has been finalized.
        refuse_if(buffer.is_final(), ClError::INVALID_OPERATION)?;
        // CL_INVALID_SYNC_POINT_WAIT_LIST_KHR if sync_point_wait_list is NULL and num_sync_points_in_wait_list is > 0, or
        // sync_point_wait_list is not NULL and num_sync_points_in_wait_list is 0, or if synchronization-point objects in
        // sync_point_wait_list are not valid synchronization-points.
        let invalid = ClError::INVALID_SYNC_POINT_WAIT_LIST;
        refuse_if(self.list.is_null() != (self.count == 0), invalid)?;
        let points = self.list.values(self.count as usize).unwrap_or_default();
        let known = 1..=buffer.sync_points();
        refuse_if(points.iter().any(|point| !known.contains(point)), invalid)?;
        Ok(Recording { buffer, points, point: self.point, handle: self.handle })
    }
}

/// A command that may be recorded.
pub(crate) struct Recording<'a> {
    buffer: &'a Object<CommandBuffer>,
    points: Vec<u32>,
    point: Out<u32>,
    handle: Out<*mut c_void>,
}

impl Recording<'_> {
    /// The command buffer.
    pub(crate) fn buffer(&self) -> &Object<CommandBuffer> {
        self.buffer
    }

    /// The queue that the command is for.
    pub(crate) fn queue(&self) -> &Object<Queue> {
        &self.buffer.queues()[0]
    }

    /// Records it.
    pub(crate) fn command(self, post: Post) -> ClResult<()> {
        self.record(false, post)
    }

    /// Records it as a barrier.
    pub(crate) fn barrier(self, post: Post) -> ClResult<()> {
        self.record(true, post)
    }

    /// Records a launch, which lives as long as the command buffer.
    pub(crate) fn launch(self, launch: Arc<Object<MutableCommand>>) -> ClResult<()> {
        let handle = launch.handle();
        self.point.set(self.buffer.record_launch(0, &self.points, launch)?);
        self.handle.fill_handles(&[handle]);
        Ok(())
    }

    fn record(self, is_barrier: bool, post: Post) -> ClResult<()> {
        self.point.set(self.buffer.record(0, &self.points, is_barrier, post)?);
        Ok(())
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
