//! The direct transport against a small daemon.

mod fake;

use std::os::unix::net::UnixListener;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use paragpu_protocol::control::Doorbell;
use paragpu_protocol::virtio_gpu::Request;
use zerocopy::IntoBytes;

use self::fake::{Daemon, Fake, socket_path};
use super::{Direct, Options};
use crate::sys::mapping::bytes_of;
use crate::transport::{Region, Transport};

const LONG: Duration = Duration::from_secs(60);

fn options() -> Options {
    Options { memory_bytes: 1 << 30, patience: Duration::from_secs(5) }
}

fn open(daemon: &Daemon) -> Direct {
    Direct::open(&daemon.socket, &options()).unwrap()
}

fn fill(region: &Region, byte: u8) {
    bytes_of(region).iter().for_each(|to| to.store(byte, Relaxed));
}

fn is_all(region: &Region, byte: u8) -> bool {
    bytes_of(region).iter().all(|other| other.load(Relaxed) == byte)
}

/// Waits until something that another thread does has happened.
fn until(mut happened: impl FnMut() -> bool) {
    let start = Instant::now();
    while !happened() {
        assert!(start.elapsed() < LONG, "it never happened");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_connection_asks_for_the_capset_and_makes_a_context() {
    for event_idx in [false, true] {
        let daemon = Daemon::start(Fake { event_idx, ..Fake::new() });
        let direct = open(&daemon);
        assert_eq!(direct.capset(), &paragpu_protocol::capset::Capset::current());
        drop(direct);
        let fake = daemon.fake.lock().unwrap();
        let expected = [Request::GetCapsetInfo, Request::GetCapset, Request::CtxCreate, Request::CtxDestroy];
        assert_eq!(fake.seen, expected);
        assert!(!fake.name.is_empty());
    }
}

#[test]
fn regions_are_zeroed_distinct_and_returned() {
    let daemon = Daemon::start(Fake::new());
    let direct = open(&daemon);
    for _ in 0..3 {
        let small = direct.create_region(100).unwrap();
        let large = direct.create_region((1 << 20) + 1).unwrap();
        assert_eq!((small.len, large.len), (4096, (1 << 20) + 4096));
        assert!(is_all(&small, 0) && is_all(&large, 0));
        fill(&small, 1);
        fill(&large, 2);
        assert!(is_all(&small, 1));
        assert_ne!(small.id, large.id);
        assert_eq!(daemon.fake.lock().unwrap().regions.len(), 2);
        drop(small);
        assert!(is_all(&large, 2));
    }
    assert_eq!(daemon.fake.lock().unwrap().regions.len(), 0);
}

#[test]
fn a_region_may_outlive_its_connection() {
    let daemon = Daemon::start(Fake::new());
    let direct = open(&daemon);
    let region = direct.create_region(4096).unwrap();
    drop(direct);
    fill(&region, 7);
    assert!(is_all(&region, 7));
    drop(region);
    assert_eq!(daemon.fake.lock().unwrap().regions.len(), 0);
}

#[test]
fn memory_that_runs_out_is_an_error_and_comes_back() {
    let daemon = Daemon::start(Fake::new());
    let direct = open(&daemon);
    let most = direct.create_region((1 << 30) - (1 << 20)).unwrap();
    let error = direct.create_region(1 << 20).unwrap_err().to_string();
    assert!(error.contains("PARAGPU_MEMORY_MIB"), "{error}");
    drop(most);
    drop(direct.create_region((1 << 30) - (1 << 20)).unwrap());
    assert!(direct.create_region(1 << 32).is_err());
}

#[test]
fn a_refused_region_leaves_nothing_behind() {
    for refuse in [Request::ResourceCreate3d, Request::ResourceAttachBacking, Request::CtxAttachResource] {
        let daemon = Daemon::start(Fake { refuse: Some(refuse), ..Fake::new() });
        let direct = open(&daemon);
        for _ in 0..3 {
            let error = direct.create_region(900 << 20).unwrap_err().to_string();
            assert!(error.contains("ErrOutOfMemory"), "{error}");
        }
        assert_eq!(daemon.fake.lock().unwrap().regions.len(), 0);
    }
}

#[test]
fn many_submissions_need_no_waiting() {
    for event_idx in [false, true] {
        let daemon = Daemon::start(Fake { event_idx, ..Fake::new() });
        let direct = open(&daemon);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..2000 {
                        direct.submit(Doorbell::new().as_bytes()).unwrap();
                    }
                });
            }
        });
        // The queue keeps its order, so an answered request means that all before it have come.
        direct.create_region(1).unwrap();
        let fake = daemon.fake.lock().unwrap();
        assert_eq!(fake.seen.iter().filter(|&&kind| kind == Request::Submit3d).count(), 8000);
    }
}

#[test]
fn waits_of_many_threads_end_with_the_answer_and_share_requests() {
    for event_idx in [false, true] {
        let daemon = Daemon::start(Fake { event_idx, hold_waits: true, ..Fake::new() });
        let direct = open(&daemon);
        std::thread::scope(|scope| {
            let waiters: Vec<_> = (0..12)
                .map(|thread| {
                    scope.spawn({
                        let direct = &direct;
                        move || direct.wait(thread % 3, LONG)
                    })
                })
                .collect();
            until(|| daemon.held() == 3);
            // Other requests go on meanwhile.
            direct.create_region(1).unwrap();
            assert_eq!(daemon.held(), 3, "threads that wait for the same share a request");
            // A thread that comes late waits anew, so release until all are through.
            while !waiters.iter().all(|waiter| waiter.is_finished()) {
                daemon.release();
                std::thread::sleep(Duration::from_millis(1));
            }
            for waiter in waiters {
                waiter.join().unwrap().unwrap();
            }
        });
    }
}

#[test]
fn a_wait_ends_with_its_time_and_can_be_joined_later() {
    let daemon = Daemon::start(Fake { hold_waits: true, ..Fake::new() });
    let direct = open(&daemon);
    let start = Instant::now();
    for _ in 0..5 {
        direct.wait(1, Duration::from_millis(10)).unwrap();
    }
    assert!(start.elapsed() >= Duration::from_millis(50) && start.elapsed() < Duration::from_secs(4));
    direct.wait(1, Duration::ZERO).unwrap();
    // What comes later has been answered, so all that came before has been seen, however slow the machine is.
    direct.create_region(1).unwrap();
    assert_eq!(daemon.held(), 1);
    assert_eq!(daemon.release(), 1);
    direct.wait(2, Duration::from_millis(1)).unwrap();
    until(|| daemon.held() == 1);
}

#[test]
fn a_hang_up_ends_all_waits_with_an_error() {
    let daemon = Daemon::start(Fake { hold_waits: true, ..Fake::new() });
    let direct = open(&daemon);
    let region = direct.create_region(1).unwrap();
    std::thread::scope(|scope| {
        let waiters: Vec<_> = (0..4)
            .map(|thread| {
                scope.spawn({
                    let direct = &direct;
                    move || direct.wait(thread, Duration::MAX)
                })
            })
            .collect();
        until(|| daemon.held() == 4);
        daemon.hang_up();
        for waiter in waiters {
            let error = waiter.join().unwrap().unwrap_err().to_string();
            assert!(error.contains("hung up"), "{error}");
        }
    });
    assert!(direct.submit(Doorbell::new().as_bytes()).is_err());
    assert!(direct.create_region(1).is_err());
    let start = Instant::now();
    fill(&region, 1);
    drop(region);
    drop(direct);
    assert!(start.elapsed() < Duration::from_secs(1), "a dead connection is not waited for");
}

#[test]
fn a_daemon_that_stops_answering_is_given_up_once() {
    let daemon = Daemon::start(Fake::new());
    let options = Options { patience: Duration::from_millis(200), ..options() };
    let direct = Direct::open(&daemon.socket, &options).unwrap();
    let region = direct.create_region(1).unwrap();
    daemon.fake.lock().unwrap().mute = true;
    let start = Instant::now();
    let error = direct.create_region(1).unwrap_err().to_string();
    assert!(error.contains("did not answer within 0.2 s"), "{error}");
    assert!(direct.create_region(1).is_err());
    drop(region);
    drop(direct);
    assert!(start.elapsed() < Duration::from_secs(2));
}

#[test]
fn a_queue_that_stays_full_is_given_up() {
    let daemon = Daemon::start(Fake::new());
    let options = Options { patience: Duration::from_millis(100), ..options() };
    let direct = Direct::open(&daemon.socket, &options).unwrap();
    daemon.fake.lock().unwrap().mute = true;
    let sent = (0..1000).take_while(|_| direct.submit(Doorbell::new().as_bytes()).is_ok()).count();
    assert_eq!(sent, 128);
}

#[test]
fn threads_may_do_everything_at_once() {
    for event_idx in [false, true] {
        let daemon = Daemon::start(Fake { event_idx, ..Fake::new() });
        let direct = open(&daemon);
        std::thread::scope(|scope| {
            for thread in 0..6 {
                let direct = &direct;
                scope.spawn(move || {
                    for round in 0..300 {
                        match (thread + round) % 3 {
                            0 => direct.wait(round, LONG).unwrap(),
                            1 => direct.submit(Doorbell::new().as_bytes()).unwrap(),
                            _ => {
                                let region = direct.create_region(8192).unwrap();
                                assert!(is_all(&region, 0));
                                fill(&region, 1 + thread as u8);
                                assert!(is_all(&region, 1 + thread as u8));
                            }
                        }
                    }
                });
            }
        });
        assert_eq!(daemon.fake.lock().unwrap().regions.len(), 0);
    }
}

#[test]
fn a_refused_submission_is_reported_by_the_next_call() {
    let daemon = Daemon::start(Fake { refuse: Some(Request::Submit3d), ..Fake::new() });
    let direct = open(&daemon);
    direct.submit(Doorbell::new().as_bytes()).unwrap();
    // An answered request means that the earlier one was answered, too.
    let region = direct.create_region(1).unwrap();
    let error = direct.submit(Doorbell::new().as_bytes()).unwrap_err().to_string();
    assert!(error.contains("refused") && error.contains("ErrOutOfMemory"), "{error}");
    assert!(direct.wait(0, LONG).is_err());
    drop(region);
    assert_eq!(daemon.fake.lock().unwrap().regions.len(), 0, "regions can still be given up");
}

#[test]
fn a_socket_without_a_daemon_says_what_to_do() {
    let path = socket_path();
    let error = Direct::open(&path, &options()).unwrap_err().to_string();
    assert!(error.contains("is paragpud running?"), "{error}");
    drop(UnixListener::bind(&path).unwrap());
    let error = Direct::open(&path, &options()).unwrap_err().to_string();
    assert!(error.contains("is paragpud running?"), "{error}");
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn a_listener_that_says_nothing_is_given_up() {
    let path = socket_path();
    let listener = UnixListener::bind(&path).unwrap();
    let options = Options { patience: Duration::from_millis(200), ..options() };
    let error = Direct::open(&path, &options).unwrap_err().to_string();
    assert!(error.contains("within 0.2 s"), "{error}");
    drop(listener);
    std::fs::remove_file(&path).unwrap();
}
