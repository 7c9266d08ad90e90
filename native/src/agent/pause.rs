//! The process that holds a PID namespace for a pod: its PID 1. Reaps, and does nothing else. The pod's containers see it, and
//! one with CAP_SYS_PTRACE gets at all it has: so it has no file and no capability.
use crate::{sys, userns};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// A root of its own with nothing in it.
fn empty_root() -> io::Result<()> {
    sys::check(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
    sys::mount("", Path::new("/"), "", libc::MS_REC | libc::MS_PRIVATE, "")?;
    // Any directory will do.
    let flags = libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    sys::mount("tmpfs", Path::new("/proc"), "tmpfs", flags, "size=4k,nr_inodes=2")?;
    std::env::set_current_dir("/proc")?;
    let here = c".".as_ptr();
    sys::check(unsafe { libc::syscall(libc::SYS_pivot_root, here, here) } as i32)?;
    sys::check(unsafe { libc::umount2(here, libc::MNT_DETACH) })?;
    std::env::set_current_dir("/")
}

fn drop_capabilities() -> io::Result<()> {
    sys::check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    // linux/capability.h, version 3: {version, pid}, then {effective, permitted, inheritable} for the low and high words.
    let header: [u32; 2] = [0x2008_0522, 0];
    let none = [0u32; 6];
    sys::check(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) } as i32).map(|_| ())
}

pub fn run() -> Result<(), String> {
    empty_root().map_err(|e| format!("an empty root: {e}"))?;
    drop_capabilities().map_err(|e| format!("capabilities: {e}"))?;
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

/// The processes that hold namespaces for a pod; 0 for one that there is none of.
#[derive(Clone, Copy, Default)]
pub struct Pod {
    /// PID 1 of the namespace that the containers share
    pub pid: i32,
    /// In the pod's user namespace, with the others that belong to it
    pub holder: i32,
}

/// Starts the process in `owner`, a user namespace, with new namespaces of `flags`, after `prepare` has been called in
/// them; gives its pid in ours. Forks: the caller has one thread.
pub fn start_in(owner: &OwnedFd, flags: i32, prepare: impl Fn() -> Result<(), String>) -> io::Result<i32> {
    let (read, write) = sys::pipe()?;
    let first = sys::check(unsafe { libc::fork() })?;
    if first == 0 {
        let entered = userns::enter(owner)
            .and_then(|()| sys::check(unsafe { libc::unshare(flags) }))
            .map_err(|e| e.to_string())
            .and_then(|_| prepare());
        let said = match entered {
            Err(failure) => format!("!{failure}"),
            // A new PID namespace is for children.
            Ok(()) => match unsafe { libc::fork() } {
                0 => {
                    let null = Stdio::null;
                    let mut program = Command::new("/proc/self/exe");
                    program.arg0("tinderbox-pause").arg("pause").env_clear();
                    let failure = program.stdin(null()).stdout(null()).stderr(null()).exec();
                    eprintln!("pause: {failure}");
                    unsafe { libc::_exit(127) }
                }
                pid => pid.to_string(),
            },
        };
        let _ = sys::write_fd(write.as_raw_fd(), said.as_bytes());
        unsafe { libc::_exit(0) };
    }
    drop(write);
    unsafe { libc::waitpid(first, std::ptr::null_mut(), 0) };
    let mut said = [0u8; 512];
    let count = sys::read_fd(read.as_raw_fd(), &mut said)?;
    let said = String::from_utf8_lossy(&said[..count]).into_owned();
    match said.strip_prefix('!') {
        Some(failure) => Err(io::Error::other(failure.to_owned())),
        None => said.parse().ok().filter(|pid| *pid > 0).ok_or_else(|| io::Error::other("no process was started")),
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
