//! Threads that are not in a hurry, beside those that are.

use std::io;

/// Least time that Linux lets a thread run before it looks who else is there.
const SLICE_NANOS: u64 = 100_000;

/// Lets the caller's thread, and what it starts, go last: others of the processor's time go before it by `niceness` (0 to 19),
/// and do not wait until it has run for a while, if the kernel can tell them apart (Linux 6.12). A kernel that
/// runs on all processors is as slow as its slowest thread.
pub fn go_last(niceness: i32) -> io::Result<()> {
    let attributes = libc::sched_attr {
        size: size_of::<libc::sched_attr>() as u32,
        sched_policy: libc::SCHED_OTHER as u32,
        sched_flags: 0,
        sched_nice: niceness,
        sched_priority: 0,
        sched_runtime: SLICE_NANOS,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: sched_setattr only reads as many bytes as the structure's size says, which lives until it returns; 0 is the
    // caller's thread.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_goes_last_is_nicer_than_the_others() {
        let niceness = std::thread::spawn(|| {
            go_last(7).unwrap();
            let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
            let fields = stat.rsplit_once(')').unwrap().1;
            fields.split_whitespace().nth(16).unwrap().parse::<i32>().unwrap()
        });
        assert_eq!(niceness.join().unwrap(), 7);
    }
}
