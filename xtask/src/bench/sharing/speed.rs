//! How fast the device is.

use super::load::{Load, Spec};
use crate::bench::place::Place;
use crate::say;
use anyhow::{Result, bail};

/// Measures it without a vGPU, and tells the place. What is slower than the fastest kernel was disturbed.
pub(super) fn calibrate(place: &mut Place) -> Result<()> {
    let mut iterations = 10_000_u32;
    loop {
        let shortest = fastest(place, iterations, 0.5)?;
        // Long enough that a launch does not count.
        if shortest >= 10.0 {
            let per_ms = f64::from(iterations) / fastest(place, iterations, 3.0)?.min(shortest);
            say::step("bench", format!("a millisecond is {per_ms:.0} iterations on {}", place.platform));
            place.set_speed(per_ms);
            return Ok(());
        }
        let wanted = f64::from(iterations) / shortest * 15.0;
        iterations = wanted.clamp(f64::from(iterations) * 2.0, 4e9) as u32;
    }
}

/// The fastest kernel of so many iterations, in milliseconds.
fn fastest(place: &Place, iterations: u32, seconds: f64) -> Result<f64> {
    let load = Load::start_native(place, &Spec::latency("native", iterations, seconds, 1.0))?;
    let fastest = load.alone()?.latencies.into_iter().fold(f64::INFINITY, f64::min);
    if !fastest.is_finite() || fastest <= 0.0 {
        bail!("no kernel ended in {seconds} s");
    }
    Ok(fastest)
}
