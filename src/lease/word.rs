//! The word by which a device is lent: both sides' rules for it.
//!
//! A lease is NONE, WANTED, IDLE (lent, and nothing in flight) or BUSY (lent, and something in flight, or about to be).
//! Who wants it says so (NONE to WANTED) and rings the scheduler. The scheduler lends (WANTED to BUSY) and rings back.
//! From then on the holder moves between BUSY and IDLE by itself, which costs it one compare-and-swap, or one load while
//! it stays BUSY. The scheduler takes an IDLE lease away without asking. Of a BUSY one it asks (RECALLED), and the holder
//! gives it back when nothing is in flight any more. While CONTENDED is set, the holder gives it back without being asked
//! as soon as it has nothing to do.
//!
//! Both write the word, always by compare-and-swap, so neither misses what the other did. The scheduler keeps its own
//! account of whom it lent to: a holder that writes nonsense here confuses nobody but itself.

use std::sync::atomic::{AtomicU32, Ordering};

const NONE: u32 = 0;
const WANTED: u32 = 1;
const IDLE: u32 = 2;
const BUSY: u32 = 3;
const STATE: u32 = 3;
const RECALLED: u32 = 1 << 2;
const CONTENDED: u32 = 1 << 3;

/// Memory that both sides see as one word.
pub trait SharedWord {
    /// The word, and all that was written before it.
    fn load(&self) -> u32;
    /// Replaces `from`. `Err` with what is there instead.
    fn replace(&self, from: u32, to: u32) -> Result<(), u32>;
}

impl SharedWord for AtomicU32 {
    fn load(&self) -> u32 {
        AtomicU32::load(self, Ordering::Acquire)
    }

    fn replace(&self, from: u32, to: u32) -> Result<(), u32> {
        self.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).map(|_| ())
    }
}

/// May a command go to the device?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// Yes. If others wait for the device, not far ahead.
    Go {
        /// Others wait.
        contended: bool,
    },
    /// Not before the lease comes, which has been asked for; `ring` the scheduler, if this was the first time.
    Wait {
        /// The scheduler does not know yet.
        ring: bool,
    },
    /// Not before what is in flight has landed, and the lease has been given back.
    GiveBack,
}

/// The holder is about to send something to the device. What it sends must land, and [`settle`] be called then.
pub fn begin(word: &impl SharedWord) -> Begin {
    let mut seen = word.load();
    loop {
        let to = match seen & STATE {
            BUSY if seen & RECALLED != 0 => return Begin::GiveBack,
            BUSY => return Begin::Go { contended: seen & CONTENDED != 0 },
            IDLE => BUSY | (seen & !STATE),
            NONE => WANTED,
            _ => return Begin::Wait { ring: false },
        };
        match word.replace(seen, to) {
            Ok(()) if to == WANTED => return Begin::Wait { ring: true },
            Ok(()) => return Begin::Go { contended: to & CONTENDED != 0 },
            Err(now) => seen = now,
        }
    }
}

/// There is nothing in flight. `more` if there is something to send at once; without, a lease that is only wanted is not
/// wanted any more. True if the scheduler is to be rung.
pub fn settle(word: &impl SharedWord, more: bool) -> bool {
    let mut seen = word.load();
    loop {
        let recalled = seen & RECALLED != 0;
        let to = match seen & STATE {
            BUSY if recalled && more => WANTED,
            BUSY if recalled => NONE,
            BUSY if more => return false,
            BUSY if seen & CONTENDED != 0 => NONE,
            BUSY => IDLE,
            WANTED if !more => NONE,
            _ => return false,
        };
        match word.replace(seen, to) {
            Ok(()) => return to != IDLE,
            Err(now) => seen = now,
        }
    }
}

/// True if the holder is to give the lease back.
pub fn is_recalled(word: &impl SharedWord) -> bool {
    let seen = word.load();
    seen & STATE == BUSY && seen & RECALLED != 0
}

/// True if the holder has what others wait for.
pub fn is_contended(word: &impl SharedWord) -> bool {
    let seen = word.load();
    seen & STATE == BUSY && seen & (RECALLED | CONTENDED) != 0
}

/// What the scheduler reads in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Not lent, not wanted; or given back.
    None,
    /// Wanted; perhaps given back just now.
    Wanted,
    /// Lent, and nothing in flight.
    Idle,
    /// Lent, and at work.
    Busy,
}

/// Reads a word.
pub fn look(word: &impl SharedWord) -> Look {
    match word.load() & STATE {
        NONE => Look::None,
        WANTED => Look::Wanted,
        IDLE => Look::Idle,
        _ => Look::Busy,
    }
}

/// Lends. False if the lease is not wanted.
pub fn lend(word: &impl SharedWord, contended: bool) -> bool {
    word.replace(WANTED, BUSY | if contended { CONTENDED } else { 0 }).is_ok()
}

/// What came of taking a lease away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is the scheduler's again.
    Back,
    /// The holder will give it back, and ring.
    Asked,
}

/// Takes a lease back, or asks for it.
pub fn take(word: &impl SharedWord) -> Taken {
    let mut seen = word.load();
    loop {
        let (to, taken) = match seen & STATE {
            IDLE => (NONE, Taken::Back),
            BUSY => (seen | RECALLED, Taken::Asked),
            // Given back already.
            _ => return Taken::Back,
        };
        match word.replace(seen, to) {
            Ok(()) => return taken,
            Err(now) => seen = now,
        }
    }
}

/// Tells a holder whether others wait. An idle one loses the lease if they do.
pub fn contend(word: &impl SharedWord, contended: bool) -> Taken {
    let mut seen = word.load();
    loop {
        let flagged = if contended { seen | CONTENDED } else { seen & !CONTENDED };
        let (to, taken) = match seen & STATE {
            IDLE if contended => (NONE, Taken::Back),
            IDLE | BUSY => (flagged, Taken::Asked),
            _ => return Taken::Back,
        };
        match word.replace(seen, to) {
            Ok(()) => return taken,
            Err(now) => seen = now,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_nobody_else_wants_is_kept_and_costs_no_ring() {
        let word = AtomicU32::new(0);
        assert_eq!(begin(&word), Begin::Wait { ring: true });
        assert_eq!(begin(&word), Begin::Wait { ring: false });
        assert!(lend(&word, false));
        for _ in 0..3 {
            assert_eq!(begin(&word), Begin::Go { contended: false });
            assert_eq!(begin(&word), Begin::Go { contended: false });
            assert!(!settle(&word, false));
            assert_eq!(look(&word), Look::Idle);
        }
        assert_eq!(take(&word), Taken::Back);
        assert_eq!(begin(&word), Begin::Wait { ring: true });
    }

    #[test]
    fn a_busy_holder_gives_back_when_it_has_landed_and_asks_again_if_it_has_more() {
        for more in [false, true] {
            let word = AtomicU32::new(0);
            begin(&word);
            assert!(lend(&word, false));
            begin(&word);
            assert_eq!(take(&word), Taken::Asked);
            assert!(is_recalled(&word));
            assert_eq!(begin(&word), Begin::GiveBack);
            assert!(settle(&word, more), "the scheduler is rung");
            assert_eq!(look(&word), if more { Look::Wanted } else { Look::None });
            assert!(!settle(&word, more), "once");
            assert_eq!(settle(&word, false), more, "what is wanted no more is withdrawn");
            assert_eq!(look(&word), Look::None);
        }
    }

    #[test]
    fn while_others_wait_nobody_sits_on_a_lease() {
        let word = AtomicU32::new(0);
        begin(&word);
        assert!(lend(&word, true));
        assert_eq!(begin(&word), Begin::Go { contended: true });
        assert!(!settle(&word, true), "there is more to do");
        assert!(settle(&word, false));
        assert_eq!(look(&word), Look::None);
        begin(&word);
        assert!(lend(&word, false));
        begin(&word);
        settle(&word, false);
        assert_eq!(contend(&word, true), Taken::Back, "idle as it was");
    }

    #[test]
    fn nonsense_is_lent_to_nobody_and_ends_no_loop() {
        for nonsense in [0xffff_ffff, 7, 0x1000_0002, WANTED | CONTENDED] {
            let word = AtomicU32::new(nonsense);
            assert!(!lend(&word, false));
            look(&word);
            take(&word);
            contend(&word, true);
            begin(&word);
            settle(&word, false);
        }
    }
}
