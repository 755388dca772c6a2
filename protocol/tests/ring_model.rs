//! Every interleaving of the ring's two ends, by model checking: no frame is lost or torn, and nobody sleeps
//! through what they wait for.
//!
//! The code under test is the very code that runs on shared pages; only the memory is loom's. Sleeping is a
//! condition variable here; loom reports a thread that is never woken as a deadlock.

use loom::sync::atomic::{AtomicU32, Ordering, fence};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use paragpu_protocol::frame::write_frame;
use paragpu_protocol::limits::MAX_FRAME_BYTES;
use paragpu_protocol::ring::{
    Consumer, Producer, Pushed, RingMemory, Sleep, Word, about_to_sleep, published, woken,
};

/// Room for two of the smallest frames: the second lap starts at once.
const DATA_BYTES: u32 = 32;
/// Room for four.
const LONG_BYTES: u32 = 64;

struct Model {
    words: [AtomicU32; 8],
    // Relaxed on purpose: only the order of `tail` and `head` makes the data visible.
    data: [AtomicU32; LONG_BYTES as usize / 4],
}

impl Model {
    fn new() -> Model {
        Model {
            words: std::array::from_fn(|_| AtomicU32::new(0)),
            data: std::array::from_fn(|_| AtomicU32::new(0)),
        }
    }

    fn word(&self, word: Word) -> &AtomicU32 {
        &self.words[word as usize]
    }
}

impl RingMemory for Model {
    fn load(&self, word: Word) -> u32 {
        self.word(word).load(Ordering::Acquire)
    }
    fn store(&self, word: Word, value: u32) {
        self.word(word).store(value, Ordering::Release);
    }
    fn swap(&self, word: Word, value: u32) -> u32 {
        self.word(word).swap(value, Ordering::SeqCst)
    }
    fn add(&self, word: Word, value: u32) -> u32 {
        self.word(word).fetch_add(value, Ordering::SeqCst)
    }
    fn fence(&self) {
        fence(Ordering::SeqCst);
    }
    fn read_data(&self, offset: u32, to: &mut [u8]) {
        for (index, bytes) in to.chunks_exact_mut(4).enumerate() {
            let word = self.data[offset as usize / 4 + index].load(Ordering::Relaxed);
            bytes.copy_from_slice(&word.to_le_bytes());
        }
    }
    fn write_data(&self, offset: u32, from: &[u8]) {
        for (index, bytes) in from.chunks_exact(4).enumerate() {
            let word = u32::from_le_bytes(bytes.try_into().unwrap());
            self.data[offset as usize / 4 + index].store(word, Ordering::Relaxed);
        }
    }
}

/// An eventfd: once signalled it stays so until somebody has waited for it.
struct Event {
    signalled: Mutex<bool>,
    changed: Condvar,
}

impl Event {
    fn new() -> Event {
        Event { signalled: Mutex::new(false), changed: Condvar::new() }
    }

    fn signal(&self) {
        *self.signalled.lock().unwrap() = true;
        self.changed.notify_all();
    }

    fn wait(&self) {
        let mut signalled = self.signalled.lock().unwrap();
        while !*signalled {
            signalled = self.changed.wait(signalled).unwrap();
        }
        *signalled = false;
    }
}

/// The smallest frame: a header only, told apart by its opcode.
fn frame(opcode: u16) -> [u8; 16] {
    let mut out = [0; 16];
    assert_eq!(write_frame(&mut out, opcode, &[], &[], &[]), Some(16));
    out
}

/// Made on the heap: loom's threads have small stacks.
fn frame_buffer() -> Box<[u8; MAX_FRAME_BYTES as usize]> {
    vec![0; MAX_FRAME_BYTES as usize].into_boxed_slice().try_into().unwrap()
}

#[test]
fn a_sleeping_host_is_woken_for_every_frame_and_reads_it_whole() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let memory = Arc::new(Model::new());
        let doorbell = Arc::new(Event::new());
        let host = {
            let (memory, doorbell) = (memory.clone(), doorbell.clone());
            thread::spawn(move || {
                let mut consumer = Consumer::new(DATA_BYTES);
                let mut buffer = frame_buffer();
                for expected in 1..=2 {
                    loop {
                        match consumer.pop(&*memory, &mut buffer).unwrap() {
                            Some(len) => {
                                assert_eq!(buffer[..len], frame(expected));
                                break;
                            }
                            None if consumer.prepare_sleep(&*memory) => doorbell.wait(),
                            None => {}
                        }
                    }
                }
            })
        };
        let mut producer = Producer::new(DATA_BYTES);
        for opcode in 1..=2 {
            match producer.push(&*memory, &frame(opcode)) {
                Pushed::Sent => {}
                Pushed::SentKick => doorbell.signal(),
                Pushed::Full => unreachable!("there is room for two"),
            }
        }
        host.join().unwrap();
    });
}

/// What the broker does with a `Wait`: it answers at once if `wake_seq` moved on, otherwise at the next event.
fn broker_wait(memory: &Model, wake: &Event, seen: u32) {
    let mut signalled = wake.signalled.lock().unwrap();
    while !*signalled && memory.load(Word::WakeSeq) == seen {
        signalled = wake.changed.wait(signalled).unwrap();
    }
    *signalled = false;
}

#[test]
fn a_sleeping_guest_thread_is_woken_when_its_slot_is_done() {
    loom::model(|| {
        let memory = Arc::new(Model::new());
        let wake = Arc::new(Event::new());
        let slot = Arc::new(AtomicU32::new(0));
        let host = {
            let (memory, wake, slot) = (memory.clone(), wake.clone(), slot.clone());
            thread::spawn(move || {
                slot.store(1, Ordering::Release);
                if published(&*memory).waiters {
                    wake.signal();
                }
            })
        };
        loop {
            let seen = about_to_sleep(&*memory, Sleep::Wait);
            let done = slot.load(Ordering::Acquire) == 1;
            if !done {
                broker_wait(&memory, &wake, seen);
            }
            woken(&*memory, Sleep::Wait);
            if done {
                break;
            }
        }
        host.join().unwrap();
        assert_eq!(memory.load(Word::Waiters), 0);
    });
}

/// A futex on `wake_seq`: the look at the word and going to sleep are one step.
struct Futex {
    queue: Mutex<()>,
    woken: Condvar,
}

impl Futex {
    fn wait(&self, memory: &Model, seen: u32) {
        let queue = self.queue.lock().unwrap();
        if memory.load(Word::WakeSeq) == seen {
            drop(self.woken.wait(queue).unwrap());
        }
    }

    fn wake(&self) {
        let _queue = self.queue.lock().unwrap();
        self.woken.notify_all();
    }
}

#[test]
fn a_thread_that_sleeps_on_the_word_is_woken_when_its_slot_is_done() {
    loom::model(|| {
        let memory = Arc::new(Model::new());
        let futex = Arc::new(Futex { queue: Mutex::new(()), woken: Condvar::new() });
        let slot = Arc::new(AtomicU32::new(0));
        let host = {
            let (memory, futex, slot) = (memory.clone(), futex.clone(), slot.clone());
            thread::spawn(move || {
                slot.store(1, Ordering::Release);
                let asleep = published(&*memory);
                assert!(!asleep.waiters);
                if asleep.sleepers {
                    futex.wake();
                }
            })
        };
        loop {
            let seen = about_to_sleep(&*memory, Sleep::Futex);
            let done = slot.load(Ordering::Acquire) == 1;
            if !done {
                futex.wait(&memory, seen);
            }
            woken(&*memory, Sleep::Futex);
            if done {
                break;
            }
        }
        host.join().unwrap();
        assert_eq!(memory.load(Word::Sleepers), 0);
    });
}

#[test]
fn a_guest_thread_that_waits_for_room_is_woken_by_the_consumer() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let memory = Arc::new(Model::new());
        let wake = Arc::new(Event::new());
        let mut producer = Producer::new(DATA_BYTES);
        for opcode in 1..=2 {
            assert_ne!(producer.push(&*memory, &frame(opcode)), Pushed::Full);
        }
        let host = {
            let (memory, wake) = (memory.clone(), wake.clone());
            thread::spawn(move || {
                let mut buffer = frame_buffer();
                assert_eq!(Consumer::new(DATA_BYTES).pop(&*memory, &mut buffer), Ok(Some(16)));
                if published(&*memory).waiters {
                    wake.signal();
                }
            })
        };
        loop {
            let seen = about_to_sleep(&*memory, Sleep::Wait);
            let full = producer.push(&*memory, &frame(3)) == Pushed::Full;
            if full {
                broker_wait(&memory, &wake, seen);
            }
            woken(&*memory, Sleep::Wait);
            if !full {
                break;
            }
        }
        host.join().unwrap();
    });
}

#[test]
fn a_guest_thread_that_waits_for_room_is_woken_though_the_host_does_not_tell_of_every_frame() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let memory = Arc::new(Model::new());
        let wake = Arc::new(Event::new());
        let mut producer = Producer::new(LONG_BYTES);
        for opcode in 1..=4 {
            assert_ne!(producer.push(&*memory, &frame(opcode)), Pushed::Full);
        }
        let host = {
            let (memory, wake) = (memory.clone(), wake.clone());
            thread::spawn(move || {
                let mut buffer = frame_buffer();
                let mut consumer = Consumer::of_frames(LONG_BYTES, 16);
                for _ in 1..=4 {
                    assert_eq!(consumer.pop(&*memory, &mut buffer), Ok(Some(16)));
                    if consumer.made_room(&*memory).waiters {
                        wake.signal();
                    }
                }
            })
        };
        loop {
            let seen = about_to_sleep(&*memory, Sleep::Wait);
            let full = producer.push(&*memory, &frame(5)) == Pushed::Full;
            if full {
                broker_wait(&memory, &wake, seen);
            }
            woken(&*memory, Sleep::Wait);
            if !full {
                break;
            }
        }
        host.join().unwrap();
    });
}
