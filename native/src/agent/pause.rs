//! The process that holds a PID namespace for a pod: its PID 1. Reaps, and does nothing else.
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

pub fn run() -> Result<(), String> {
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGCHLD);
        libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
        loop {
            while libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) > 0 {}
            libc::sigwaitinfo(&set, std::ptr::null_mut());
        }
    }
}

/// Starts the process in a new PID namespace; gives its pid in ours.
pub fn start() -> std::io::Result<i32> {
    // unshare changes where this thread's children go, so it is done by a thread that ends.
    let thread = std::thread::spawn(|| -> std::io::Result<i32> {
        crate::sys::check(unsafe { libc::unshare(libc::CLONE_NEWPID) })?;
        let child = Command::new("/proc/self/exe")
            .arg0("tinderbox-pause")
            .arg("pause")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .env_clear()
            .spawn()?;
        Ok(child.id() as i32)
    });
    thread.join().unwrap_or_else(|_| Err(std::io::Error::other("pause thread failed")))
}
