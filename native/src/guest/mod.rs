//! The agent's home in a microVM: what only PID 1 of a guest does.
pub mod block_devices;
pub mod drives;
pub mod init;
pub mod modules;
pub mod netlink;
pub mod network;
pub mod pod;
pub mod uevents;
pub mod volumes;

use crate::agent::{Fault, Outcome};
use crate::{host, sys, wire};
use std::fs;
use std::os::fd::AsRawFd;
use std::path::Path;

pub struct Guest {
    pub drives: drives::Drives,
    pub volumes: volumes::Volumes,
}

/// Makes the guest what the daemon says that it is; may come again. `holder` is in the pod's namespaces; 0: they are ours.
pub fn configure(guest: &Guest, holder: i32, request: &wire::ConfigureGuest) -> Outcome<()> {
    if request.hostname.len() > 64 {
        return Err(Fault::invalid("hostname: at most 64 bytes"));
    }
    if request.entropy.len() > 512 {
        return Err(Fault::invalid("entropy: at most 512 bytes"));
    }
    if !request.entropy.is_empty() {
        add_entropy(&request.entropy).map_err(|e| Fault::io("entropy", e))?;
    }
    if request.unix_time_ns > 0 {
        set_clock(request.unix_time_ns).map_err(|e| Fault::io("unix_time_ns", e))?;
    }
    if holder > 0 {
        for interface in &request.interfaces {
            network::hand_over(interface, holder)?;
        }
    }
    pod::within(holder, || configure_pod(holder > 0, request)).map_err(|e| Fault::io("the pod's namespaces", e))??;
    fs::create_dir_all("/run/tinderbox").map_err(|e| Fault::io("/run/tinderbox", e))?;
    fs::write("/run/tinderbox/resolv.conf", &request.resolv_conf).map_err(|e| Fault::io("resolv_conf", e))?;
    guest.drives.set_scratch(request.scratch_drive)
}

/// What belongs to the pod's namespaces.
fn configure_pod(are_new: bool, request: &wire::ConfigureGuest) -> Outcome<()> {
    if !request.hostname.is_empty() {
        let name = &request.hostname;
        let set = unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) };
        sys::check(set).map_err(|e| Fault::io("hostname", e))?;
    }
    if are_new {
        network::loopback_up().map_err(|e| Fault::io("loopback", e))?;
    }
    for interface in &request.interfaces {
        network::configure(interface)?;
    }
    for sysctl in &request.sysctls {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/');
        if sysctl.name.is_empty() || sysctl.name.contains("..") || !sysctl.name.bytes().all(plain) {
            return Err(Fault::invalid(format!("sysctl name '{}' is not one", sysctl.name.escape_debug())));
        }
        host::write_sysctl(&sysctl.name, &sysctl.value)
            .map_err(|e| Fault::io(format!("sysctl {}={}", sysctl.name, sysctl.value), e))?;
    }
    Ok(())
}

fn set_clock(ns: i64) -> std::io::Result<()> {
    let time = libc::timespec { tv_sec: ns / 1_000_000_000, tv_nsec: ns % 1_000_000_000 };
    sys::check(unsafe { libc::clock_settime(libc::CLOCK_REALTIME, &time) }).map(|_| ())
}

/// Credits `bytes` to the kernel's pool (RNDADDENTROPY of linux/random.h).
fn add_entropy(bytes: &[u8]) -> std::io::Result<()> {
    const RNDADDENTROPY: u64 = 0x4008_5203;
    let file = fs::OpenOptions::new().write(true).open(Path::new("/dev/random"))?;
    let mut pool = Vec::with_capacity(8 + bytes.len());
    pool.extend_from_slice(&((bytes.len() * 8) as i32).to_ne_bytes());
    pool.extend_from_slice(&(bytes.len() as i32).to_ne_bytes());
    pool.extend_from_slice(bytes);
    sys::check(unsafe { libc::ioctl(file.as_raw_fd(), RNDADDENTROPY as _, pool.as_ptr()) }).map(|_| ())
}
