//! What a guest sends to the server of its volumes: FUSE messages, one after the other. `make fuzz` runs it.
#![no_main]
#![allow(dead_code)]
#[path = "../../src/fs/mod.rs"]
mod fs;
#[path = "../../src/sys.rs"]
mod sys;
#[path = "../../src/threads.rs"]
mod threads;
#[path = "../../src/userns.rs"]
mod userns;

/// A file that is made as long as it says would fill the disk.
fn limit_files() {
    let limit = libc::rlimit { rlim_cur: 16 << 20, rlim_max: 16 << 20 };
    unsafe {
        libc::setrlimit(libc::RLIMIT_FSIZE, &limit);
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}

libfuzzer_sys::fuzz_target!(init: limit_files(), |bytes: &[u8]| {
    let place = fs::exercise::Place::new("fuzz");
    fs::exercise::send(&place, fs::exercise::serve(&place), bytes);
});
