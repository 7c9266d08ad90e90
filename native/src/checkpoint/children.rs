//! Child processes, and being asked to end: a signal is looked for while a child is waited for, never in the middle of a step.
use crate::sys;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

pub enum End {
    /// 128 + n for a signal
    Exit(i32),
    /// Somebody asked this process to end, and the child runs still.
    Asked,
}

/// The children of this process, those that its children leave behind among them.
pub struct Children {
    signals: libc::sigset_t,
}

impl Children {
    /// Becomes the parent of orphans, and asks to be told when its own parent ends.
    pub fn adopt() -> io::Result<Children> {
        let parent = unsafe { libc::getppid() };
        sys::check(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) })?;
        let mut signals: libc::sigset_t = unsafe { std::mem::zeroed() };
        unsafe {
            libc::sigemptyset(&mut signals);
            libc::sigaddset(&mut signals, libc::SIGTERM);
            libc::sigaddset(&mut signals, libc::SIGCHLD);
        }
        sys::check(unsafe { libc::sigprocmask(libc::SIG_BLOCK, &signals, std::ptr::null_mut()) })?;
        sys::check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM, 0, 0, 0) })?;
        if unsafe { libc::getppid() } != parent {
            return Err(io::Error::other("the daemon has ended"));
        }
        Ok(Children { signals })
    }

    /// Starts a child, which does not inherit what is held back here.
    pub fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        let signals = self.signals;
        let unblock =
            move || sys::check(unsafe { libc::sigprocmask(libc::SIG_UNBLOCK, &signals, std::ptr::null_mut()) });
        unsafe { command.pre_exec(move || unblock().map(drop)) };
        command.spawn()
    }

    /// Waits for a signal; whether it was the one to end.
    fn is_asked_within(&self, time: Duration) -> bool {
        let timeout = libc::timespec { tv_sec: time.as_secs() as _, tv_nsec: time.subsec_nanos() as _ };
        unsafe { libc::sigtimedwait(&self.signals, std::ptr::null_mut(), &timeout) == libc::SIGTERM }
    }

    /// Waits for the end of one child.
    pub fn wait(&self, pid: i32) -> End {
        loop {
            if let Some(code) = reap(Some(pid)) {
                return End::Exit(code);
            }
            if self.is_asked_within(Duration::from_secs(60)) {
                return End::Asked;
            }
        }
    }

    /// Waits for the end of every child; kills those that are left when the time is over.
    pub fn wait_all(&self, time: Duration) {
        let deadline = Instant::now() + time;
        while has_children() {
            while reap(None).is_some() {}
            if Instant::now() >= deadline {
                for pid in pids() {
                    let _ = sys::kill(pid, libc::SIGKILL);
                }
            }
            if has_children() {
                self.is_asked_within(Duration::from_millis(100));
            }
        }
    }
}

fn has_children() -> bool {
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    unsafe { libc::waitid(libc::P_ALL, 0, &mut info, options) == 0 }
}

/// The exit code of one child, or of any, that has ended.
fn reap(pid: Option<i32>) -> Option<i32> {
    let mut status = 0;
    if unsafe { libc::waitpid(pid.unwrap_or(-1), &mut status, libc::WNOHANG) } <= 0 {
        return None;
    }
    Some(if libc::WIFSIGNALED(status) { 128 + libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) })
}

fn pids() -> Vec<i32> {
    let text = fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
    text.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}
