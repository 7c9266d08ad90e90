//! The kernel's device events, so that nobody polls for a device or its size.
use crate::sys;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

pub struct Uevents(OwnedFd);

impl Uevents {
    /// Events from now on: open before looking at the state that is waited for.
    pub fn open() -> io::Result<Uevents> {
        let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
        let fd = sys::check(unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_KOBJECT_UEVENT) })?;
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
        address.nl_family = libc::AF_NETLINK as u16;
        address.nl_groups = 1;
        let size = std::mem::size_of_val(&address) as libc::socklen_t;
        sys::check(unsafe { libc::bind(fd, std::ptr::from_ref(&address).cast(), size) })?;
        Ok(Uevents(socket))
    }

    /// Waits until `done` holds, looking again after each event; false when the deadline comes first.
    pub fn wait_until(&self, deadline: Instant, mut done: impl FnMut() -> bool) -> io::Result<bool> {
        let mut buffer = [0u8; 8192];
        loop {
            if done() {
                return Ok(true);
            }
            let left = deadline.checked_duration_since(Instant::now()).unwrap_or(Duration::ZERO);
            if left.is_zero() {
                return Ok(false);
            }
            let mut poll = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            let ready = unsafe { libc::poll(&mut poll, 1, left.as_millis().min(60_000) as i32 + 1) };
            if ready > 0 {
                let flags = libc::MSG_DONTWAIT;
                unsafe { libc::recv(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), flags) };
            }
        }
    }
}
