//! Unix sockets by path and by abstract name, and waking a thread.
use crate::sys::{check, Socket};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// The address of `path`; one that begins with `@` is an abstract name, which has no file.
pub fn unix_address(path: &str) -> io::Result<(libc::sockaddr_un, libc::socklen_t)> {
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let bytes = path.as_bytes();
    if bytes.len() >= address.sun_path.len() || bytes.contains(&0) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a socket's path has at most 107 bytes"));
    }
    for (at, byte) in bytes.iter().enumerate() {
        address.sun_path[at] = *byte as libc::c_char;
    }
    let is_abstract = bytes.first() == Some(&b'@');
    if is_abstract {
        address.sun_path[0] = 0;
    }
    let tail = if is_abstract { 0 } else { 1 };
    Ok((address, (std::mem::size_of::<libc::sa_family_t>() + bytes.len() + tail) as libc::socklen_t))
}

/// An abstract listening socket that nobody can guess, for one connection of QEMU's.
pub struct Rendezvous {
    listener: OwnedFd,
    pub name: String,
}

impl Rendezvous {
    pub fn new() -> io::Result<Rendezvous> {
        let mut random = [0u8; 16];
        check(unsafe { libc::getrandom(random.as_mut_ptr().cast(), random.len(), 0) } as libc::c_int)?;
        let name = random.iter().fold(String::from("tinderbox-"), |name, byte| name + &format!("{byte:02x}"));
        let (address, length) = unix_address(&format!("@{name}"))?;
        let fd = check(unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) })?;
        let listener = unsafe { OwnedFd::from_raw_fd(fd) };
        check(unsafe { libc::bind(fd, std::ptr::from_ref(&address).cast(), length) })?;
        check(unsafe { libc::listen(fd, 1) })?;
        Ok(Rendezvous { listener, name })
    }

    /// Waits for QEMU. Only a process of `uid` is let in.
    pub fn accept(&self, uid: u32) -> io::Result<Socket> {
        loop {
            let flags = libc::SOCK_CLOEXEC;
            let fd = match check(unsafe {
                libc::accept4(self.listener.as_raw_fd(), std::ptr::null_mut(), std::ptr::null_mut(), flags)
            }) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            let socket = unsafe { OwnedFd::from_raw_fd(fd) };
            if peer_uid(fd)? == uid {
                return Ok(Socket::new(socket));
            }
        }
    }
}

fn peer_uid(socket: RawFd) -> io::Result<u32> {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = std::mem::size_of_val(&peer) as libc::socklen_t;
    let pointer = std::ptr::from_mut(&mut peer).cast();
    check(unsafe { libc::getsockopt(socket, libc::SOL_SOCKET, libc::SO_PEERCRED, pointer, &mut length) })?;
    Ok(peer.uid)
}

/// Wakes a thread that polls it.
pub fn event_fd() -> io::Result<OwnedFd> {
    let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub fn drain_event(fd: &OwnedFd) {
    let mut count = 0u64;
    unsafe { libc::read(fd.as_raw_fd(), std::ptr::from_mut(&mut count).cast(), 8) };
}

/// Sends `bytes` with one descriptor.
pub fn send_with_fd(socket: RawFd, bytes: &[u8], fd: RawFd) -> io::Result<()> {
    let mut vector = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut control = [0u64; 4];
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    (header.msg_iov, header.msg_iovlen) = (&mut vector, 1);
    header.msg_control = control.as_mut_ptr().cast();
    unsafe {
        header.msg_controllen = libc::CMSG_SPACE(4) as usize;
        let item = libc::CMSG_FIRSTHDR(&header);
        (*item).cmsg_level = libc::SOL_SOCKET;
        (*item).cmsg_type = libc::SCM_RIGHTS;
        (*item).cmsg_len = libc::CMSG_LEN(4) as usize;
        libc::CMSG_DATA(item).cast::<RawFd>().write_unaligned(fd);
    }
    let sent = unsafe { libc::sendmsg(socket, &header, libc::MSG_NOSIGNAL) };
    if sent as usize == bytes.len() {
        Ok(())
    } else if sent < 0 {
        Err(io::Error::last_os_error())
    } else {
        Err(io::ErrorKind::WriteZero.into())
    }
}
