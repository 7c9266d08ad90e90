//! What a client sends to a process.
use super::{lock, runtime};
use crate::frame::{self, Kind};
use crate::{sys, wire};
use prost::Message;
use std::os::fd::AsRawFd;
use std::sync::Mutex;

/// Client to process: DATA to its stdin, EOF closes it, RESIZE to its terminal. Returns at the connection's end.
pub fn copy_input(
    mut source: sys::Socket,
    stdin: &Mutex<Option<std::os::fd::OwnedFd>>,
    terminal: Option<&std::os::fd::OwnedFd>,
    close_at_end: bool,
) {
    while let Ok(Some(received)) = frame::read(&mut source) {
        match received.kind {
            Kind::Data if received.channel == 0 => {
                // Written without the lock: a process that does not read must not block its own end.
                let copy = lock(stdin).as_ref().and_then(|fd| fd.try_clone().ok());
                if let Some(fd) = copy {
                    match sys::write_while(fd.as_raw_fd(), &received.payload, source.raw()) {
                        Ok(true) => {}
                        Ok(false) => break,
                        Err(_) => *lock(stdin) = None,
                    }
                }
            }
            Kind::Eof if close_at_end => {
                match terminal {
                    // A terminal has no end of input; the key for it is control-D.
                    Some(fd) => drop(sys::write_fd(fd.as_raw_fd(), &[4])),
                    None => *lock(stdin) = None,
                }
            }
            Kind::Resize => {
                if let (Some(fd), Ok(size)) = (terminal, wire::TerminalSize::decode(&received.payload[..])) {
                    runtime::resize(fd, &size);
                }
            }
            _ => {}
        }
    }
    if close_at_end && terminal.is_none() {
        *lock(stdin) = None;
    }
}
