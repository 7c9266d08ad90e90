//! Every child's exit status, once: the agent is the parent, or the subreaper, of all it starts.
use super::lock;
use std::collections::HashMap;
use std::io;
use std::process::{Child, Command};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

/// Statuses of processes that nobody asked about yet; the oldest go first.
const KEPT: usize = 8192;

struct Record {
    code: i32,
    at: Instant,
}

pub struct Reaper {
    records: Mutex<HashMap<i32, Record>>,
    changed: Condvar,
}

/// Blocks SIGCHLD for this thread and those it starts; call before any thread is started.
pub fn block_sigchld() {
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGCHLD);
        libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
    }
}

fn exit_code(status: i32) -> i32 {
    if libc::WIFSIGNALED(status) {
        128 + libc::WTERMSIG(status)
    } else {
        libc::WEXITSTATUS(status)
    }
}

impl Reaper {
    pub fn new() -> Reaper {
        Reaper { records: Mutex::new(HashMap::new()), changed: Condvar::new() }
    }

    /// The reaping loop; never returns. SIGCHLD must be blocked.
    pub fn run(&self) -> ! {
        let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
        unsafe {
            libc::sigemptyset(&mut set);
            libc::sigaddset(&mut set, libc::SIGCHLD);
        }
        loop {
            loop {
                let mut status = 0;
                // Under the lock, so that `spawn` has cleared an older record of a reused pid before this one comes.
                let mut records = lock(&self.records);
                let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
                if pid <= 0 {
                    break;
                }
                if records.len() >= KEPT {
                    if let Some(oldest) = records.iter().min_by_key(|(_, r)| r.at).map(|(pid, _)| *pid) {
                        records.remove(&oldest);
                    }
                }
                records.insert(pid, Record { code: exit_code(status), at: Instant::now() });
                self.changed.notify_all();
            }
            unsafe { libc::sigwaitinfo(&set, std::ptr::null_mut()) };
        }
    }

    /// Starts a child whose status `wait` will give. Do not call the Child's own wait.
    pub fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        let mut records = lock(&self.records);
        let child = command.spawn()?;
        records.remove(&(child.id() as i32));
        Ok(child)
    }

    /// The exit code of `pid` (128+n for a signal) once it has ended after `since`; None when `timeout` is over.
    pub fn wait(&self, pid: i32, since: Instant, timeout: Option<Duration>) -> Option<i32> {
        let deadline = timeout.map(|t| Instant::now() + t);
        let mut records = lock(&self.records);
        loop {
            if records.get(&pid).is_some_and(|r| r.at >= since) {
                return records.remove(&pid).map(|r| r.code);
            }
            records = match deadline {
                None => self.changed.wait(records).unwrap_or_else(std::sync::PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.checked_duration_since(Instant::now())?;
                    let waited = self.changed.wait_timeout(records, left);
                    waited.unwrap_or_else(std::sync::PoisonError::into_inner).0
                }
            };
        }
    }
}
