//! Calls of the OCI runtime (crun, runc): arguments, pid files, console sockets, the reason of a failure.
use super::reaper::Reaper;
use super::{Fault, Outcome};
use crate::{sys, wire};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long one call of the runtime may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(120);

#[derive(Clone)]
pub struct Runtime {
    pub program: String,
    pub root: String,
}

/// The container's ends of its standard streams.
pub struct Stdio3 {
    pub stdin: Stdio,
    pub stdout: Stdio,
    pub stderr: Stdio,
}

impl Stdio3 {
    pub fn null() -> Stdio3 {
        Stdio3 { stdin: Stdio::null(), stdout: Stdio::null(), stderr: Stdio::null() }
    }
}

/// The last message of a runtime's JSON log.
pub fn last_log_message(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().rev().find(|line| !line.trim().is_empty())?;
    let message =
        serde_json::from_str::<serde_json::Value>(line).ok().and_then(|v| v["msg"].as_str().map(str::to_owned));
    Some(message.unwrap_or_else(|| line.to_owned()).chars().take(2000).collect())
}

impl Runtime {
    /// Runs the runtime to its end; a failure carries what its log said last.
    pub fn call(&self, reaper: &Reaper, log: &Path, args: &[&str], stdio: Stdio3) -> Outcome<()> {
        let _ = fs::remove_file(log);
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(&self.root).arg("--log").arg(log).args(["--log-format", "json"]).args(args);
        command.stdin(stdio.stdin).stdout(stdio.stdout).stderr(stdio.stderr).current_dir("/");
        let since = Instant::now();
        let child = reaper.spawn(&mut command).map_err(|e| Fault::io(format!("runtime {}", self.program), e))?;
        drop(command); // our copies of the container's ends
        let pid = child.id() as i32;
        match reaper.wait(pid, since, Some(CALL_TIMEOUT)) {
            Some(0) => Ok(()),
            Some(code) => {
                let said = last_log_message(log).unwrap_or_else(|| format!("exit status {code}, no message"));
                let verb = args.first().unwrap_or(&"");
                Err(Fault::new(wire::error::Code::Runtime, format!("{} {verb}: {said}", self.program)))
            }
            None => {
                let _ = sys::kill(pid, libc::SIGKILL);
                let message =
                    format!("{} {}: no end after {CALL_TIMEOUT:?}", self.program, args.first().unwrap_or(&""));
                Err(Fault::new(wire::error::Code::Runtime, message))
            }
        }
    }
}

pub fn read_pid(path: &Path) -> Outcome<i32> {
    let text = fs::read_to_string(path).map_err(|e| Fault::io(path.display(), e))?;
    let pid = text.trim().parse::<i32>().ok().filter(|pid| *pid > 1);
    pid.ok_or_else(|| Fault::io(path.display(), format!("not a pid: '{}'", text.trim())))
}

/// The socket over which the runtime hands out a terminal's master (runc's console-socket protocol).
pub struct Console {
    listener: UnixListener,
    /// Short, by way of our own descriptor of the directory: socket paths end at 108 bytes.
    pub path: String,
    _directory: File,
}

impl Console {
    pub fn listen(directory: &Path, name: &str) -> io::Result<Console> {
        let _ = fs::remove_file(directory.join(name));
        let handle = File::open(directory)?;
        let path = format!("/proc/{}/fd/{}/{name}", std::process::id(), handle.as_raw_fd());
        let listener = UnixListener::bind(&path)?;
        listener.set_nonblocking(true)?;
        Ok(Console { listener, path, _directory: handle })
    }

    /// The master that the runtime sent; it has ended by now, so it is there or never comes.
    pub fn receive(self) -> io::Result<OwnedFd> {
        let (stream, _) = self.listener.accept()?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut byte = [0u8; 4096];
        let mut part = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: byte.len() };
        let mut control = [0u64; 8];
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = &mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = std::mem::size_of_val(&control) as _;
        let count = unsafe { libc::recvmsg(stream.as_raw_fd(), &mut message, libc::MSG_CMSG_CLOEXEC) };
        if count < 0 {
            return Err(io::Error::last_os_error());
        }
        let header = unsafe { libc::CMSG_FIRSTHDR(&message) };
        let none = || io::Error::new(io::ErrorKind::InvalidData, "console socket: no terminal came");
        if header.is_null() {
            return Err(none());
        }
        let (level, kind) = unsafe { ((*header).cmsg_level, (*header).cmsg_type) };
        if level != libc::SOL_SOCKET || kind != libc::SCM_RIGHTS {
            return Err(none());
        }
        let fd: i32 = unsafe { std::ptr::read_unaligned(libc::CMSG_DATA(header).cast()) };
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

pub fn resize(terminal: &OwnedFd, size: &wire::TerminalSize) {
    let clamp = |value: u32| value.min(u16::MAX as u32) as u16;
    let window = libc::winsize { ws_row: clamp(size.height), ws_col: clamp(size.width), ws_xpixel: 0, ws_ypixel: 0 };
    unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &window) };
}
