//! System calls with Rust's types and errors; no policy.
use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

pub fn c_string(text: impl AsRef<[u8]>) -> io::Result<CString> {
    CString::new(text.as_ref()).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "text holds a NUL byte"))
}

pub fn mount(source: &str, target: &Path, fs_type: &str, flags: libc::c_ulong, data: &str) -> io::Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let (source, target) = (c_string(source)?, c_string(target.as_os_str().as_bytes())?);
    let (fs_type, data) = (c_string(fs_type)?, c_string(data)?);
    let result =
        unsafe { libc::mount(source.as_ptr(), target.as_ptr(), fs_type.as_ptr(), flags, data.as_ptr().cast()) };
    check(result).map(|_| ())
}

/// Detaches a mount; what is not mounted, or not there, is fine.
pub fn unmount(target: &Path) -> io::Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let target = c_string(target.as_os_str().as_bytes())?;
    match check(unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH | libc::UMOUNT_NOFOLLOW) }) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOENT)) => Ok(()),
        other => other.map(|_| ()),
    }
}

pub fn join_namespace(path: &str, kind: libc::c_int) -> io::Result<()> {
    let file = File::open(path)?;
    check(unsafe { libc::setns(file.as_raw_fd(), kind) }).map(|_| ())
}

pub fn join_cgroup(directory: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(Path::new(directory).join("cgroup.procs"))?.write_all(b"0")
}

/// A pipe whose ends are not inherited: (read, write).
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    check(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) })?;
    Ok(unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) })
}

/// Field 22 of /proc/PID/stat: with the pid it names a process for good.
pub fn start_time(pid: i32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.get(stat.rfind(')')? + 2..)?.split(' ').nth(19).map(str::to_owned)
}

/// Writes a file so that a crash leaves the old content or all of the new.
pub fn write_durably(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}

pub fn now_ns() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map(|d| d.as_nanos() as i64).unwrap_or(0)
}

pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    check(unsafe { libc::kill(pid, signal) }).map(|_| ())
}

/// A connected stream socket of any family; clones share it.
#[derive(Clone)]
pub struct Socket(Arc<OwnedFd>);

impl Socket {
    pub fn new(fd: OwnedFd) -> Socket {
        Socket(Arc::new(fd))
    }

    pub fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// A write that makes no progress for this long fails; zero: it waits.
    pub fn set_write_timeout(&self, timeout: Duration) -> io::Result<()> {
        let value = libc::timeval { tv_sec: timeout.as_secs() as libc::time_t, tv_usec: 0 };
        let size = std::mem::size_of_val(&value) as libc::socklen_t;
        let pointer = std::ptr::from_ref(&value).cast();
        check(unsafe { libc::setsockopt(self.raw(), libc::SOL_SOCKET, libc::SO_SNDTIMEO, pointer, size) }).map(|_| ())
    }

    /// Ends both directions; readers and writers in other threads return.
    pub fn shutdown(&self) {
        unsafe { libc::shutdown(self.raw(), libc::SHUT_RDWR) };
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        read_fd(self.raw(), buffer)
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = unsafe { libc::send(self.raw(), bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL) };
        if sent < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(sent as usize)
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub fn read_fd(fd: RawFd, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        let count = unsafe { libc::read(fd, buffer.as_mut_ptr().cast(), buffer.len()) };
        if count >= 0 {
            return Ok(count as usize);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Writes all of `bytes` to a pipe, a terminal or a socket that may take none for long; false when `peer` hung up meanwhile.
pub fn write_while(fd: RawFd, bytes: &[u8], peer: RawFd) -> io::Result<bool> {
    // What a pipe takes without waiting once it says that it has room.
    for part in bytes.chunks(4096) {
        let mut watched = [
            libc::pollfd { fd, events: libc::POLLOUT, revents: 0 },
            libc::pollfd { fd: peer, events: libc::POLLRDHUP, revents: 0 },
        ];
        while watched[0].revents == 0 {
            if watched[1].revents != 0 {
                return Ok(false);
            }
            let found = unsafe { libc::poll(watched.as_mut_ptr(), 2, -1) };
            if found < 0 && io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
                return Err(io::Error::last_os_error());
            }
        }
        write_fd(fd, part)?;
    }
    Ok(true)
}

pub fn write_fd(fd: RawFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let count = unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
        if count >= 0 {
            bytes = &bytes[count as usize..];
            continue;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    Ok(())
}
