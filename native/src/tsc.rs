//! How fast this processor's time stamp counter runs: an emulated machine's counter is the host's, and its kernel cannot
//! measure it well on a busy host.
use std::time::Duration;

/// Long enough for an error below one part in ten thousand.
const INTERVAL: Duration = Duration::from_millis(20);

#[cfg(target_arch = "x86_64")]
fn counter() -> (u64, u64) {
    // The clock is read between two readings of the counter; the closest of a few tries is not disturbed by a switch.
    let mut best = (u64::MAX, (0, 0));
    for _ in 0..16 {
        let before = unsafe { std::arch::x86_64::_rdtsc() };
        let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_RAW, &mut now) };
        let after = unsafe { std::arch::x86_64::_rdtsc() };
        let nanoseconds = now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64;
        if after.wrapping_sub(before) < best.0 {
            best = (after.wrapping_sub(before), (before / 2 + after / 2, nanoseconds));
        }
    }
    best.1
}

#[cfg(target_arch = "x86_64")]
pub fn khz() -> Result<u64, String> {
    let (ticks, since) = counter();
    std::thread::sleep(INTERVAL);
    let (later_ticks, later) = counter();
    let elapsed = later.saturating_sub(since).max(1);
    Ok((u128::from(later_ticks.saturating_sub(ticks)) * 1_000_000 / u128::from(elapsed)) as u64)
}

#[cfg(not(target_arch = "x86_64"))]
pub fn khz() -> Result<u64, String> {
    Err("this processor has no time stamp counter".into())
}
