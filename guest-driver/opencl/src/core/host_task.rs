//! Work of this process that takes its place among the commands of a queue.

use std::sync::Arc;

use opencl_sys::{CL_COMMAND_MARKER, CL_COMPLETE};

use crate::boundary::object::Object;
use crate::core::error::ClResult;
use crate::core::event::Event;
use crate::core::queue::{Queue, Request};

/// Enqueues `work`, which returns 0 or the error that its command ends with. It runs on the thread that calls event
/// callbacks, when everything that the command waits for is complete; what comes after the command waits for it.
///
/// Two markers stand in the queue: one that tells when it is time, and one that an event of ours holds back until the work
/// is done.
pub(crate) fn enqueue(
    queue: &Object<Queue>,
    request: &Request<'_>,
    work: impl FnOnce() -> i32 + Send + 'static,
) -> ClResult<Option<Arc<Object<Event>>>> {
    let context = queue.context();
    let begin = Request { is_part: request.is_part, ..Request::new(CL_COMMAND_MARKER, request.wait, true) };
    let begin = queue.enqueue_nothing(&begin)?.event.into_iter().next();
    let done = Event::user(context)?;
    if let Some(begin) = begin {
        let done = done.clone();
        begin.when_complete(Box::new(move |status| {
            let status = if status < CL_COMPLETE { status } else { work().min(CL_COMPLETE) };
            // It has not been ended before. On a lost connection nobody waits for it on the host.
            let _ = done.set_user_status(status);
        }));
    }
    let end = Request { wait: std::slice::from_ref(&done), ..*request };
    Ok(queue.enqueue_nothing(&end)?.event)
}
