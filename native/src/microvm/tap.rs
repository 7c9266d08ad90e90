//! A tap interface that was attached to by another process.
use crate::sys::check;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

const OFFLOAD_CHECKSUM: libc::c_ulong = 1;
const OFFLOAD_TSO4: libc::c_ulong = 2;
const OFFLOAD_TSO6: libc::c_ulong = 4;

const GUEST_CHECKSUM: u64 = 1 << 1;
const GUEST_TSO4: u64 = 1 << 7;
const GUEST_TSO6: u64 = 1 << 8;

pub struct Tap(OwnedFd);

impl Tap {
    /// Takes an attached tap that was handed over.
    pub fn new(fd: OwnedFd) -> io::Result<Tap> {
        check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) })?;
        Ok(Tap(fd))
    }

    /// Says what the guest can take and how long its headers are.
    pub fn configure(&self, guest_features: u64, header_bytes: usize) -> io::Result<()> {
        let size = header_bytes as libc::c_int;
        check(unsafe { libc::ioctl(self.0.as_raw_fd(), libc::TUNSETVNETHDRSZ, &size) })?;
        let flag = |feature: u64, offload: libc::c_ulong| if guest_features & feature != 0 { offload } else { 0 };
        let mut offload = flag(GUEST_CHECKSUM, OFFLOAD_CHECKSUM);
        if offload != 0 {
            offload |= flag(GUEST_TSO4, OFFLOAD_TSO4) | flag(GUEST_TSO6, OFFLOAD_TSO6);
        }
        check(unsafe { libc::ioctl(self.0.as_raw_fd(), libc::TUNSETOFFLOAD, offload) }).map(|_| ())
    }

    pub fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
