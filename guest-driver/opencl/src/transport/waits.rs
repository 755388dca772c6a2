//! Sleeping until the host did something, by a command that the host answers then.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::TransportError;

/// After this time without an answer nobody is there any more: the host holds a wait for a second, and for half a
/// minute what it answers in order after the end of another context.
const MAX_SILENCE: Duration = Duration::from_secs(120);

/// The last wait that was submitted, for others that wait for the same. Its answer is for all of them, and the kernel
/// has room for few outstanding commands.
#[derive(Debug)]
pub(super) struct Waits<F>(Mutex<Option<Waiting<F>>>);

/// A submitted wait.
#[derive(Debug)]
pub(super) struct Waiting<F> {
    seen: u32,
    /// What tells of the host's answer.
    pub(super) fence: Arc<F>,
    since: Instant,
}

impl<F> Clone for Waiting<F> {
    fn clone(&self) -> Waiting<F> {
        Waiting { seen: self.seen, fence: Arc::clone(&self.fence), since: self.since }
    }
}

impl<F> Waits<F> {
    /// Nobody waits.
    pub(super) fn new() -> Waits<F> {
        Waits(Mutex::new(None))
    }

    /// The wait with this `seen`: one that somebody has submitted already, or a new one by `submit`.
    pub(super) fn join(&self, seen: u32, submit: impl FnOnce() -> io::Result<F>) -> io::Result<Waiting<F>> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waiting) = waiting.as_ref().filter(|waiting| waiting.seen == seen) {
            return Ok(waiting.clone());
        }
        let fence = Arc::new(submit()?);
        Ok(waiting.insert(Waiting { seen, fence, since: Instant::now() }).clone())
    }

    /// What one look at the wait's fence showed. Once its answer is there, nobody may wait with it any more; without
    /// one for long, the host is given up.
    pub(super) fn looked(&self, at: &Waiting<F>, is_answered: bool) -> Result<(), TransportError> {
        if is_answered {
            let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if waiting.as_ref().is_some_and(|waiting| Arc::ptr_eq(&waiting.fence, &at.fence)) {
                *waiting = None;
            }
        } else if at.since.elapsed() > MAX_SILENCE {
            let seconds = MAX_SILENCE.as_secs();
            return Err(TransportError::Unusable(format!("the host has not answered for {seconds} s")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_wait_for_the_same_share_a_wait_until_it_is_answered() {
        let waits = Waits::new();
        let first = waits.join(7, || Ok("first")).unwrap();
        let second = waits.join(7, || panic!("there is one already")).unwrap();
        assert!(Arc::ptr_eq(&first.fence, &second.fence));
        waits.looked(&first, false).unwrap();
        waits.looked(&first, true).unwrap();
        let third = waits.join(7, || Ok("third")).unwrap();
        // Late news of the first does not end the third.
        waits.looked(&second, true).unwrap();
        assert!(Arc::ptr_eq(&third.fence, &waits.join(7, || Ok("fourth")).unwrap().fence));
        assert_eq!(*waits.join(8, || Ok("another")).unwrap().fence, "another");
    }
}
