//! Events, markers and barriers.

use std::ffi::c_void;
use std::sync::Arc;

use opencl_sys::{CL_COMMAND_BARRIER, CL_COMMAND_MARKER, CL_COMPLETE, CL_RUNNING, CL_SUBMITTED};

use crate::boundary::arguments::{self, EventArgs};
use crate::boundary::callback::{Callback, EventFn, UserData};
use crate::boundary::object::{Handle, Object, RawHandle};
use crate::boundary::pointer::{In, Out};
use crate::core::context::Context;
use crate::core::error::{ClError, ClResult, refuse_if};
use crate::core::event::Event;
use crate::core::info::Info;
use crate::core::queue::{Queue, Reach, Request};

/// `clCreateUserEvent`.
pub(super) fn create_user(context: Handle<Context>) -> ClResult<RawHandle> {
    Ok(Event::user(context.get()?)?.hand_out())
}

/// `clSetUserEventStatus`.
pub(super) fn set_user_status(event: Handle<Event>, execution_status: i32) -> ClResult<()> {
    // CL_INVALID_EVENT if event is not a valid user event object.
    let event = event.get()?;
    refuse_if(!event.is_user(), ClError::INVALID_EVENT)?;
    // CL_INVALID_VALUE if the execution_status is not CL_COMPLETE or a negative integer value.
    refuse_if(execution_status > CL_COMPLETE, ClError::INVALID_VALUE)?;
    event.set_user_status(execution_status)
}

/// `clRetainEvent`.
pub(super) fn retain(event: Handle<Event>) -> ClResult<()> {
    event.get().map(Object::retain)
}

/// `clReleaseEvent`.
pub(super) fn release(event: Handle<Event>) -> ClResult<()> {
    event.get()?.release()
}

/// `clGetEventInfo`.
pub(super) fn info(event: Handle<Event>, param_name: u32) -> ClResult<Info> {
    event.get()?.info(param_name)
}

/// `clGetEventProfilingInfo`.
pub(super) fn profiling_info(event: Handle<Event>, param_name: u32) -> ClResult<Info> {
    event.get()?.profiling_info(param_name)
}

/// `clSetEventCallback`.
pub(super) fn set_callback(
    event: Handle<Event>,
    command_exec_callback_type: i32,
    pfn_notify: Option<EventFn>,
    user_data: UserData,
) -> ClResult<()> {
    let event = event.get()?;
    // CL_INVALID_VALUE if pfn_event_notify is NULL or if command_exec_callback_type is not CL_SUBMITTED, CL_RUNNING, or
    // CL_COMPLETE.
    let callback = Callback::new(pfn_notify, user_data).ok_or(ClError::INVALID_VALUE)?;
    let is_known = matches!(command_exec_callback_type, CL_SUBMITTED | CL_RUNNING | CL_COMPLETE);
    refuse_if(!is_known, ClError::INVALID_VALUE)?;
    // The application may release the event from its callback.
    event.arc().on_status(command_exec_callback_type, callback);
    Ok(())
}

/// `clWaitForEvents`.
pub(super) fn wait(num_events: u32, event_list: In<*mut c_void>) -> ClResult<()> {
    // CL_INVALID_VALUE if num_events is zero or event_list is NULL.
    // CL_INVALID_EVENT if event objects specified in event_list are not valid event objects.
    let events: Vec<Arc<Object<Event>>> = arguments::non_empty(num_events, event_list)?;
    // CL_INVALID_CONTEXT if events specified in event_list do not belong to the same context.
    let context = events[0].context().handle();
    refuse_if(events.iter().any(|event| event.context().handle() != context), ClError::INVALID_CONTEXT)?;
    let failed = events.iter().filter(|event| event.wait() < CL_COMPLETE).count();
    events[0].context().tell_if_lost();
    // CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST if the execution status of any of the events in event_list is a
    // negative integer value.
    refuse_if(failed > 0, ClError::EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST)
}

fn enqueue(queue: &Handle<Queue>, command: u32, reach: Reach, events: &EventArgs) -> ClResult<()> {
    let queue = queue.get()?;
    let wait = events.wait_list(queue.context())?;
    let request = Request { reach, ..Request::new(command, &wait, events.wants_event()) };
    events.give(queue.enqueue_nothing(&request)?.event);
    Ok(())
}

/// `clEnqueueMarkerWithWaitList`.
pub(super) fn enqueue_marker_with_wait_list(queue: Handle<Queue>, events: EventArgs) -> ClResult<()> {
    enqueue(&queue, CL_COMMAND_MARKER, Reach::Marker, &events)
}

/// `clEnqueueBarrierWithWaitList`.
pub(super) fn enqueue_barrier_with_wait_list(queue: Handle<Queue>, events: EventArgs) -> ClResult<()> {
    enqueue(&queue, CL_COMMAND_BARRIER, Reach::Barrier, &events)
}

/// `clEnqueueMarker`.
pub(super) fn enqueue_marker(queue: Handle<Queue>, event: Out<*mut c_void>) -> ClResult<()> {
    // CL_INVALID_VALUE if event is a NULL value.
    refuse_if(event.is_null(), ClError::INVALID_VALUE)?;
    enqueue(&queue, CL_COMMAND_MARKER, Reach::Marker, &EventArgs::event_only(event))
}

/// `clEnqueueBarrier`.
pub(super) fn enqueue_barrier(queue: Handle<Queue>) -> ClResult<()> {
    enqueue(&queue, CL_COMMAND_BARRIER, Reach::Barrier, &EventArgs::none())
}

/// `clEnqueueWaitForEvents`.
pub(super) fn enqueue_wait(
    queue: Handle<Queue>,
    num_events: u32,
    event_list: In<*mut c_void>,
) -> ClResult<()> {
    queue.get()?;
    // CL_INVALID_VALUE if num_events is zero or event_list is NULL.
    refuse_if(num_events == 0 || event_list.is_null(), ClError::INVALID_VALUE)?;
    // CL_INVALID_EVENT if event objects specified in event_list are not valid events.
    let events = EventArgs::wait_only(num_events, event_list);
    enqueue(&queue, CL_COMMAND_BARRIER, Reach::Barrier, &events).map_err(|error| match error {
        ClError::INVALID_EVENT_WAIT_LIST => ClError::INVALID_EVENT,
        other => other,
    })
}
