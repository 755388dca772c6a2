//! The device's timer and the host's. To an application in the guest, the host is the guest.

use std::sync::OnceLock;

use opencl_sys::CL_PLATFORM_HOST_TIMER_RESOLUTION;
use paragpu_protocol::info::InfoKind;
use rustix::time::{ClockId, Timespec, clock_getres, clock_gettime};

use crate::core::device::Device;
use crate::core::error::{ClError, ClResult};
use crate::core::info;
use crate::core::platform;

/// How often both timers are read for one answer: the quickest round trip tells best what belongs together.
const TRIES: usize = 4;

fn nanoseconds(time: Timespec) -> u64 {
    (time.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(time.tv_nsec as u64)
}

/// This machine's time, by the clock that never jumps.
pub(crate) fn now() -> u64 {
    nanoseconds(clock_gettime(ClockId::Monotonic))
}

/// `CL_PLATFORM_HOST_TIMER_RESOLUTION`: that of the guest's clock, or 0 where the host cannot read the device's timer.
pub(crate) fn resolution() -> u64 {
    static OF_HOST: OnceLock<u64> = OnceLock::new();
    let of_host = match OF_HOST.get() {
        Some(of_host) => *of_host,
        None => match platform::ask(CL_PLATFORM_HOST_TIMER_RESOLUTION) {
            Ok(answer) => *OF_HOST.get_or_init(|| info::number(&answer).unwrap_or(0)),
            Err(_) => 0,
        },
    };
    if of_host == 0 { 0 } else { nanoseconds(clock_getres(ClockId::Monotonic)).max(1) }
}

/// The device's time, and this machine's at about the same moment.
pub(crate) fn read_both(device: &Device) -> ClResult<(u64, u64)> {
    let mut best: Option<(u64, u64, u64)> = None;
    for _ in 0..TRIES {
        let before = now();
        let answer = device.ask_again(InfoKind::DeviceTimers, 0)?;
        let round_trip = now() - before;
        let of_device: u64 = info::number(&answer).ok_or(ClError::OUT_OF_RESOURCES)?;
        if best.is_none_or(|(shortest, ..)| round_trip < shortest) {
            best = Some((round_trip, of_device, before + round_trip / 2));
        }
    }
    best.map(|(_, of_device, of_host)| (of_device, of_host)).ok_or(ClError::OUT_OF_RESOURCES)
}
