//! Built programs that a context keeps for the next build of the same text with the same options.
//!
//! A host's program that is kept is never changed any more: every program of the guest's that was built so shares it, and
//! one that is built otherwise gets another. Nothing here is what a guest can observe, so nothing of it is recorded: a
//! context without it builds everything again.

use std::collections::VecDeque;

use super::backend::{Backend, Query};
use super::region::{Budget, Taken};

/// Most programs that are kept for the contexts of one guest process. They need memory of the driver's that no limit of the
/// guest's counts.
pub(crate) const MAX_KEPT: usize = 64;

/// Most bytes of their text and options.
pub(crate) const MAX_KEPT_BYTES: usize = 16 << 20;

/// `CL_DEVICE_MAX_GLOBAL_VARIABLE_SIZE`
const MAX_GLOBAL_VARIABLE_SIZE: u32 = 0x104d;
/// `CL_PROGRAM_BUILD_GLOBAL_VARIABLE_TOTAL_SIZE`
const GLOBAL_VARIABLE_TOTAL_SIZE: u32 = 0x1185;

/// What is built of a text that has one of these depends on more than the text: on files of the host's, or on the time.
const VARYING: [&[u8]; 3] = [b"include", b"__TIME", b"__DATE"];

/// What all contexts of a guest process may keep.
#[derive(Clone, Debug)]
pub(crate) struct KeptRoom {
    count: Budget,
    bytes: Budget,
}

impl Default for KeptRoom {
    fn default() -> KeptRoom {
        KeptRoom { count: Budget::new(MAX_KEPT), bytes: Budget::new(MAX_KEPT_BYTES) }
    }
}

impl KeptRoom {
    fn take(&self, bytes: usize) -> Option<[Taken; 2]> {
        Some([self.count.take(1)?, self.bytes.take(bytes)?])
    }
}

/// What a context keeps.
#[derive(Debug)]
pub(crate) struct Kept<P> {
    room: KeptRoom,
    /// The last one was used last.
    programs: VecDeque<KeptProgram<P>>,
}

#[derive(Debug)]
struct KeptProgram<P> {
    text: Vec<u8>,
    options: Vec<u8>,
    host: P,
    _room: [Taken; 2],
}

impl<P: Clone> Kept<P> {
    pub(crate) fn new(room: KeptRoom) -> Kept<P> {
        Kept { room, programs: VecDeque::new() }
    }

    fn position(&self, text: &[u8], options: &[u8]) -> Option<usize> {
        self.programs.iter().rposition(|kept| kept.options == options && kept.text == text)
    }

    /// What was built of this text, to the byte, with these options of the host's.
    pub(crate) fn find(&mut self, text: &[u8], options: &[u8]) -> Option<P> {
        let found = self.programs.remove(self.position(text, options)?)?;
        let host = found.host.clone();
        self.programs.push_back(found);
        Some(host)
    }

    /// Keeps what was built, in place of what was not used for the longest time. True if it is kept: then nothing may change
    /// it any more.
    pub(crate) fn keep(&mut self, text: &[u8], options: &[u8], host: &P) -> bool {
        let bytes = text.len() + options.len();
        // A few large texts would drive everything else out. Two builds of the same may have gone on at once.
        if bytes > MAX_KEPT_BYTES / 4 || self.position(text, options).is_some() {
            return false;
        }
        let room = loop {
            match self.room.take(bytes) {
                Some(room) => break room,
                // Other contexts of the process have it all.
                None if self.programs.pop_front().is_none() => return false,
                None => {}
            }
        };
        let (text, options, host) = (text.to_vec(), options.to_vec(), host.clone());
        self.programs.push_back(KeptProgram { text, options, host, _room: room });
        true
    }
}

/// True if the same text and options make the same program at any time.
pub(crate) fn is_steady(text: &[u8], options: &[u8]) -> bool {
    let has = |bytes: &[u8], word: &[u8]| bytes.windows(word.len()).any(|at| at == word);
    !VARYING.iter().any(|word| has(text, word) || has(options, word))
}

/// True if nothing of a program tells who else uses it: it has no variables that kernels leave their values in.
pub(crate) fn is_stateless<B: Backend>(backend: &B, program: &B::Program, devices: &[&B::Device]) -> bool {
    let is_zero = |answer: Vec<u8>| answer.iter().all(|byte| *byte == 0);
    devices.iter().all(|device| {
        // Drivers before OpenCL 2.0 do not know the question, and no such variables.
        let can_have = backend.query(Query::Device(device), MAX_GLOBAL_VARIABLE_SIZE);
        can_have.map_or(true, is_zero)
            || backend
                .query(Query::ProgramBuild(program, device), GLOBAL_VARIABLE_TOTAL_SIZE)
                .is_ok_and(is_zero)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_program_is_found_by_all_of_its_text_and_options() {
        let mut kept = Kept::new(KeptRoom::default());
        assert!(kept.keep(b"text", b"-DA", &1) && kept.keep(b"text", b"-DB", &2));
        assert!(!kept.keep(b"text", b"-DB", &3), "it is kept already");
        assert_eq!(kept.find(b"text", b"-DA"), Some(1));
        assert_eq!(kept.find(b"text", b"-DB"), Some(2));
        for (text, options) in [("text", ""), ("tex", "t-DA"), ("text2", "-DA"), ("", "-DA")] {
            assert_eq!(kept.find(text.as_bytes(), options.as_bytes()), None);
        }
    }

    #[test]
    fn a_flood_drives_out_what_was_not_used_for_the_longest_time() {
        let alive = Arc::new(());
        let mut kept = Kept::new(KeptRoom::default());
        assert!(kept.keep(b"used", b"", &alive));
        for number in 0..10 * MAX_KEPT {
            assert!(kept.keep(number.to_string().as_bytes(), b"", &alive));
            assert!(kept.find(b"used", b"").is_some());
            assert!(Arc::strong_count(&alive) <= 1 + MAX_KEPT);
        }
        assert!(kept.find(b"0", b"").is_none());
        drop(kept);
        assert_eq!(Arc::strong_count(&alive), 1);
    }

    #[test]
    fn their_text_has_a_limit_that_all_contexts_of_a_process_share() {
        let room = KeptRoom::default();
        let (mut one, mut other) = (Kept::new(room.clone()), Kept::new(room));
        let text = |first: u8| {
            let mut text = vec![b' '; MAX_KEPT_BYTES / 4];
            text[0] = first;
            text
        };
        assert!((0..4).all(|first| one.keep(&text(first), b"", &())));
        assert!(!other.keep(b"more", b"", &()), "it has nothing of its own to give up");
        assert!(one.keep(&text(4), b"", &()));
        assert!(one.find(&text(0), b"").is_none() && one.find(&text(1), b"").is_some());
        assert!(!one.keep(&text(5), b"-O", &()), "larger than any may be");
        drop(one);
        assert!(other.keep(b"more", b"", &()));
    }

    #[test]
    fn what_depends_on_files_or_the_time_is_not_kept() {
        assert!(is_steady(b"kernel void k() {}", b"-DA=1 -I."));
        for text in ["#include <x.h>", "int t = sizeof(__TIME__);", "__DATE__", "x\n# include MACRO"] {
            assert!(!is_steady(text.as_bytes(), b""));
        }
        assert!(!is_steady(b"", b"-include x.h"));
    }
}
