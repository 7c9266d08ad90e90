//! Files for a confined QEMU, which may open none by itself: the guest's memory, and drives handed to it while it runs.
use super::sockets::{send_with_fd, Rendezvous};
use crate::sys::{check, Socket};
use serde_json::{json, Value};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

/// An anonymous file of `bytes`, which both QEMU and the devices map.
pub fn anonymous(name: &str, bytes: u64) -> io::Result<File> {
    create(name, bytes, 0)
}

/// The same, in pages of 2 MiB.
pub fn anonymous_huge(name: &str, bytes: u64) -> io::Result<File> {
    create(name, bytes, libc::MFD_HUGETLB | libc::MFD_HUGE_2MB)
}

fn create(name: &str, bytes: u64, flags: libc::c_uint) -> io::Result<File> {
    let name = crate::sys::c_string(name)?;
    let fd = check(unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | flags) })?;
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(bytes)?;
    Ok(file)
}

/// Copies what is not a hole from `source` to `target`, whose size becomes the same.
pub fn copy_sparse(source: &File, target: &File) -> io::Result<()> {
    let size = source.metadata()?.len();
    target.set_len(size)?;
    let mut at = 0;
    while at < size {
        let start = unsafe { libc::lseek(source.as_raw_fd(), at as i64, libc::SEEK_DATA) };
        if start < 0 {
            let error = io::Error::last_os_error();
            // Only a hole is left.
            return if error.raw_os_error() == Some(libc::ENXIO) { Ok(()) } else { Err(error) };
        }
        let end = check_offset(unsafe { libc::lseek(source.as_raw_fd(), start, libc::SEEK_HOLE) })?;
        copy_range(source, target, start, end)?;
        at = end as u64;
    }
    Ok(())
}

fn check_offset(offset: i64) -> io::Result<i64> {
    if offset < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(offset)
    }
}

fn copy_range(source: &File, target: &File, start: i64, end: i64) -> io::Result<()> {
    check_offset(unsafe { libc::lseek(target.as_raw_fd(), start, libc::SEEK_SET) })?;
    let mut at = start;
    while at < end {
        let count = (end - at).min(1 << 30) as usize;
        let sent = unsafe { libc::sendfile(target.as_raw_fd(), source.as_raw_fd(), &mut at, count) };
        if sent == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        check_offset(sent as i64)?;
    }
    Ok(())
}

/// Opens a drive's file without waiting, should it be a pipe.
pub fn open(path: &str, is_writable: bool) -> io::Result<File> {
    OpenOptions::new().read(true).write(is_writable).custom_flags(libc::O_NONBLOCK).open(path)
}

/// QEMU's second monitor, which descriptors are handed over by.
pub struct Monitor {
    socket: Socket,
    pending: Vec<u8>,
}

impl Monitor {
    pub fn open(door: &Rendezvous, uid: u32) -> io::Result<Monitor> {
        let mut monitor = Monitor { socket: door.accept(uid)?, pending: Vec::new() };
        monitor.read_line()?;
        monitor.execute(&json!({"execute": "qmp_capabilities"}), None)?;
        Ok(monitor)
    }

    fn read_line(&mut self) -> io::Result<Value> {
        loop {
            if let Some(end) = self.pending.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                return Ok(serde_json::from_slice(&line)?);
            }
            let mut buffer = [0u8; 4096];
            let count = crate::sys::read_fd(self.socket.raw(), &mut buffer)?;
            if count == 0 || self.pending.len() > 1 << 20 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.pending.extend_from_slice(&buffer[..count]);
        }
    }

    fn execute(&mut self, command: &Value, file: Option<&File>) -> io::Result<Value> {
        let line = format!("{command}\n");
        match file {
            Some(file) => send_with_fd(self.socket.raw(), line.as_bytes(), file.as_raw_fd())?,
            None => self.socket.write_all(line.as_bytes())?,
        }
        loop {
            let answer = self.read_line()?;
            if let Some(error) = answer.get("error") {
                return Err(io::Error::other(error["desc"].as_str().unwrap_or("QEMU refused").to_owned()));
            }
            if let Some(value) = answer.get("return") {
                return Ok(value.clone());
            }
        }
    }

    /// Puts `file` into QEMU's descriptor set `set`.
    pub fn hand_over(&mut self, file: &File, set: u64) -> io::Result<()> {
        self.execute(&json!({"execute": "add-fd", "arguments": {"fdset-id": set}}), Some(file)).map(|_| ())
    }

    /// Writes the state of the stopped machine's devices to `file`.
    pub fn save_state(&mut self, file: &File) -> io::Result<()> {
        self.execute(&json!({"execute": "getfd", "arguments": {"fdname": "state"}}), Some(file))?;
        self.execute(&json!({"execute": "migrate", "arguments": {"uri": "fd:state"}}), None)?;
        loop {
            let progress = self.execute(&json!({"execute": "query-migrate"}), None)?;
            match progress["status"].as_str() {
                Some("completed") => return Ok(()),
                Some("failed" | "cancelled") => {
                    let why = progress["error-desc"].as_str().unwrap_or("QEMU does not say why");
                    return Err(io::Error::other(why.to_owned()));
                }
                // Devices alone are a matter of milliseconds.
                _ => std::thread::sleep(std::time::Duration::from_millis(2)),
            }
        }
    }
}

/// Takes a descriptor that was inherited.
pub fn inherited(fd: i32) -> io::Result<OwnedFd> {
    check(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
