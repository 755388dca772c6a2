//! Every interleaving of executors and the scheduler over their lease words, by model checking: a device is never lent
//! twice, and nobody waits for ever.
//!
//! The rules under test are the very code that runs on shared pages. Ringing is a flag and a condition variable here, as an
//! eventfd is a counter and a wait queue; loom reports a thread that is never woken as a deadlock.

use loom::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use paragpu::lease::word::{self, Begin, Look, SharedWord, Taken};

struct Word(AtomicU32);

impl SharedWord for Word {
    fn load(&self) -> u32 {
        self.0.load(Ordering::Acquire)
    }

    fn replace(&self, from: u32, to: u32) -> Result<(), u32> {
        self.0.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).map(|_| ())
    }
}

/// An eventfd that one thread waits for.
struct Bell {
    rung: Mutex<bool>,
    wake: Condvar,
}

impl Bell {
    fn new() -> Bell {
        Bell { rung: Mutex::new(false), wake: Condvar::new() }
    }

    fn ring(&self) {
        *self.rung.lock().unwrap() = true;
        self.wake.notify_one();
    }

    fn wait(&self) {
        let mut rung = self.rung.lock().unwrap();
        while !*rung {
            rung = self.wake.wait(rung).unwrap();
        }
        *rung = false;
    }
}

struct Model {
    words: Vec<Word>,
    grants: Vec<Bell>,
    scheduler: Bell,
    /// Executors that are at work.
    at_work: AtomicUsize,
    /// Executors that have ended.
    ended: AtomicUsize,
}

impl Model {
    fn new(executors: usize) -> Arc<Model> {
        Arc::new(Model {
            words: (0..executors).map(|_| Word(AtomicU32::new(0))).collect(),
            grants: (0..executors).map(|_| Bell::new()).collect(),
            scheduler: Bell::new(),
            at_work: AtomicUsize::new(0),
            ended: AtomicUsize::new(0),
        })
    }

    /// An executor with so many commands, each of which it waits for.
    fn execute(&self, index: usize, commands: usize) {
        let word = &self.words[index];
        for left in (0..commands).rev() {
            loop {
                match word::begin(word) {
                    Begin::Go { .. } => break,
                    Begin::Wait { ring } => {
                        if ring {
                            self.scheduler.ring();
                        }
                        self.grants[index].wait();
                    }
                    // Nothing is in flight.
                    Begin::GiveBack => {
                        if word::settle(word, true) {
                            self.scheduler.ring();
                        }
                    }
                }
            }
            assert_eq!(self.at_work.fetch_add(1, Ordering::SeqCst), 0, "lent twice");
            self.at_work.fetch_sub(1, Ordering::SeqCst);
            if word::settle(word, left != 0) {
                self.scheduler.ring();
            }
        }
        // Only the last one's end is told: what the others leave behind must have been told by then.
        if self.ended.fetch_add(1, Ordering::SeqCst) + 1 == self.words.len() {
            self.scheduler.ring();
        }
    }

    /// The scheduler, which asks whoever has the device for it when somebody else wants it.
    fn schedule(&self) {
        let mut holder: Option<usize> = None;
        while self.ended.load(Ordering::SeqCst) < self.words.len() {
            self.scheduler.wait();
            let look = |index: usize| word::look(&self.words[index]);
            if let Some(index) = holder
                && matches!(look(index), Look::None | Look::Wanted)
            {
                holder = None;
            }
            let wants = |index: &usize| Some(*index) != holder && look(*index) == Look::Wanted;
            let waiting: Vec<usize> = (0..self.words.len()).filter(wants).collect();
            if let (Some(index), false) = (holder, waiting.is_empty()) {
                let told = word::contend(&self.words[index], true);
                if told == Taken::Back || word::take(&self.words[index]) == Taken::Back {
                    holder = None;
                } else {
                    // It perhaps sleeps.
                    self.grants[index].ring();
                }
            }
            if let (None, Some(next)) = (holder, waiting.first())
                && word::lend(&self.words[*next], waiting.len() > 1)
            {
                holder = Some(*next);
                self.grants[*next].ring();
            }
        }
    }
}

fn check(commands: &'static [usize], preemptions: usize) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(move || {
        let model = Model::new(commands.len());
        let threads: Vec<_> = commands
            .iter()
            .enumerate()
            .map(|(index, commands)| {
                let model = Arc::clone(&model);
                thread::spawn(move || model.execute(index, *commands))
            })
            .collect();
        model.schedule();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn one_executor_is_never_left_waiting() {
    check(&[2], 4);
}

#[test]
fn two_executors_never_have_the_device_at_once_and_both_get_it() {
    check(&[1, 1], 2);
}

#[test]
fn one_that_has_more_to_do_gives_way_and_gets_it_again() {
    check(&[2, 1], 2);
}
