//! Where a container's output goes: to the log (a file on the host, a spool in a guest) and to whoever is attached.
use super::log::Splitter;
use super::spool::Spool;
use super::stream::FrameWriter;
use super::{lock, Fault, Outcome};
use crate::{frame, sys};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

pub enum Sink {
    None,
    /// None inside: the file was lost; output goes on without a log.
    File(Mutex<Option<File>>),
    Spool(Arc<Spool>),
}

pub fn open_log(path: &str) -> Outcome<File> {
    if !path.starts_with('/') || path.contains('\0') {
        return Err(Fault::invalid(format!("log_path '{path}' must be absolute")));
    }
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(path)
        .map_err(|e| Fault::io(format!("log_path {path}"), e))
}

struct Attacher {
    writer: FrameWriter,
    stdout: bool,
    stderr: bool,
}

pub struct Output {
    pub sink: Sink,
    attachers: Mutex<Vec<Arc<Attacher>>>,
    /// Streams that have not ended yet.
    open: Mutex<usize>,
    ended: Condvar,
}

/// Log channel numbers of the protocol.
pub const STDOUT: u8 = 1;
pub const STDERR: u8 = 2;

impl Output {
    pub fn new(sink: Sink) -> Output {
        Output { sink, attachers: Mutex::new(Vec::new()), open: Mutex::new(0), ended: Condvar::new() }
    }

    /// Copies one stream of the container until its end, in a thread of its own.
    pub fn pump(self: &Arc<Self>, fd: OwnedFd, channel: u8) -> Outcome<()> {
        *lock(&self.open) += 1;
        let output = self.clone();
        let started = super::spawn("output", move || {
            output.copy(&fd, channel);
            output.one_ended();
        });
        if let Err(fault) = started {
            self.one_ended();
            return Err(fault);
        }
        Ok(())
    }

    fn one_ended(&self) {
        let mut open = lock(&self.open);
        *open -= 1;
        if *open == 0 {
            if let Sink::Spool(spool) = &self.sink {
                spool.finish();
            }
            self.ended.notify_all();
        }
    }

    fn copy(&self, fd: &OwnedFd, channel: u8) {
        let mut splitter = Splitter::new(if channel == STDERR { "stderr" } else { "stdout" });
        let mut buffer = vec![0u8; 32 * 1024];
        let mut lines = Vec::new();
        loop {
            // A pty's master answers EIO when its last slave is closed.
            let count = sys::read_fd(fd.as_raw_fd(), &mut buffer).unwrap_or(0);
            let now = sys::now_ns();
            lines.clear();
            match count {
                0 => splitter.finish(now, &mut lines),
                _ => splitter.feed(&buffer[..count], now, &mut lines),
            }
            self.log(&lines);
            if count == 0 {
                return;
            }
            self.broadcast(channel, &buffer[..count]);
        }
    }

    fn log(&self, lines: &[u8]) {
        if lines.is_empty() {
            return;
        }
        match &self.sink {
            Sink::None => {}
            Sink::Spool(spool) => spool.append(lines),
            Sink::File(file) => {
                let mut file = lock(file);
                if let Some(open) = file.as_mut() {
                    if let Err(error) = open.write_all(lines) {
                        eprintln!("log file: {error}; output goes on without it");
                        *file = None;
                    }
                }
            }
        }
    }

    fn broadcast(&self, channel: u8, bytes: &[u8]) {
        let attachers: Vec<Arc<Attacher>> = lock(&self.attachers).clone();
        for attacher in attachers {
            let wanted = if channel == STDERR { attacher.stderr } else { attacher.stdout };
            // A write waits for a slow reader, and with it the container, until the socket's write timeout.
            if wanted && attacher.writer.send(frame::Kind::Data, channel, bytes).is_err() {
                lock(&self.attachers).retain(|other| !Arc::ptr_eq(other, &attacher));
            }
        }
    }

    pub fn attach(&self, writer: FrameWriter, stdout: bool, stderr: bool) {
        lock(&self.attachers).push(Arc::new(Attacher { writer, stdout, stderr }));
    }

    pub fn detach(&self, writer: &FrameWriter) {
        lock(&self.attachers).retain(|other| !other.writer.same(writer));
    }

    /// Waits until every stream has ended; false when `timeout` is over first.
    pub fn wait_end(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let mut open = lock(&self.open);
        while *open > 0 {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return false };
            open = self.ended.wait_timeout(open, left).unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
        true
    }
}
