//! A serial port's output, thinned out: bytes over the rate are dropped and counted, as Firecracker does.
use super::counters::Counters;
use super::sockets::Rendezvous;
use super::token_bucket::{admit_part, TokenBucket};
use crate::sys::{read_fd, write_fd, Socket};
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::sync::Arc;

/// Copies what QEMU writes to `output` (standard output if None), and standard input to QEMU in that case.
pub fn serve(door: &Rendezvous, uid: u32, output: Option<File>, mut bucket: TokenBucket, counters: &Arc<Counters>) {
    let Ok(socket) = door.accept(uid) else { return };
    if output.is_none() {
        let to_guest = socket.clone();
        std::thread::spawn(move || copy_input(to_guest));
    }
    let target = output.as_ref().map_or(libc::STDOUT_FILENO, |file| file.as_raw_fd());
    let mut buffer = [0u8; 4096];
    while let Ok(count) = read_fd(socket.raw(), &mut buffer) {
        if count == 0 {
            return;
        }
        let allowed = admit_part(&mut bucket, count as u64) as usize;
        if allowed < count {
            counters.add("rate_limiter_dropped_bytes", (count - allowed) as u64);
        }
        if allowed > 0 {
            match write_fd(target, &buffer[..allowed]) {
                Ok(()) => counters.add("write_count", allowed as u64),
                // A full pipe or disk costs the output, never the machine.
                Err(_) => counters.add("missed_write_count", 1),
            }
        }
    }
}

fn copy_input(mut to_guest: Socket) {
    let mut buffer = [0u8; 256];
    while let Ok(count) = read_fd(libc::STDIN_FILENO, &mut buffer) {
        if count == 0 || to_guest.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
}
