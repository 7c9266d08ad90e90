//! Kernel modules of the initramfs, in the order in which they are listed.
use crate::sys;
use std::fs::{self, File};
use std::os::fd::AsRawFd;

const LIST: &str = "/etc/tinderbox/modules";

/// Loads them all. One that does not fit the kernel is skipped: a kernel of the user's own has its drivers built in.
pub fn load(note: impl Fn(&str)) {
    let Ok(list) = fs::read_to_string(LIST) else { return };
    let mut skipped = 0;
    for path in list.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let loaded = File::open(path).and_then(|file| {
            let result = unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) };
            sys::check(result as i32)
        });
        match loaded {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOEXEC) => skipped += 1,
            Err(error) => note(&format!("module {path}: {error}")),
        }
    }
    if skipped > 0 {
        note(&format!("{skipped} modules are for another kernel and were skipped"));
    }
}
